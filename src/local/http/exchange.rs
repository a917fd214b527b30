//! One plain request and its response, over an upstream. The body goes up while the response comes down.

use std::io::{self, IoSlice};
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::net::TcpStream;

use super::{Next, READ, plain};
use crate::failure::{Failure, Kind, Side};
use crate::local::listener::{Local, quiet};
use crate::local::upstream::{In, Out, Upstream, UpstreamError};
use crate::net;
use crate::telemetry::record::Record;
use crate::wire::http::{
    BodyLength, ChunkedDecoder, ChunkedEncoder, MAX_HEAD, Malformed, RequestHead, ResponseHead, Step,
    head_end,
};
use crate::wire::target::Target;

/// An upstream that is open after a response, for the next request of the same connection to the same server.
pub(super) struct Kept {
    target: Target,
    upstream: Upstream,
}

/// Serves one request. The connection of the last one is used again when it leads to the same server; when it
/// turns out to be dead, a request that changes nothing is sent once more on a new one (RFC 9112 §9.3.1).
///
/// # Errors
/// When there is no response to give, and nothing has been sent to the app.
#[allow(clippy::too_many_arguments, reason = "the state of one connection, borrowed for one request")]
pub(super) async fn run(
    local: &Local,
    socket: &TcpStream,
    buffer: &mut BytesMut,
    request: &RequestHead,
    target: Target,
    id: u64,
    kept: &mut Option<Kept>,
    record: &mut Record,
) -> Result<Next, Failure> {
    let mut head = BytesMut::new();
    request.write_forward(&local.name, &mut head);
    let head = head.freeze();
    let safe = matches!(request.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let repeatable = safe && request.body == BodyLength::None;
    if let Some(mut reused) = kept.take().filter(|kept| kept.target == target)
        && !reused.upstream.is_stale()
    {
        let sent = reused.upstream.halves().0.send(head.clone()).await;
        let exchange = Exchange { local, socket, request, started: AtomicBool::new(false) };
        let ended = match sent {
            Ok(()) => exchange.run(buffer, &mut reused.upstream, head.len(), record).await,
            Err(error) => Err(Trouble::Silent(error.to_string())),
        };
        match ended {
            Err(Trouble::Silent(_)) if repeatable => {}
            ended => return conclude(ended, reused, kept, record),
        }
    }
    let upstream = local.routes.open(&target, id, head.clone(), repeatable).await?;
    let mut fresh = Kept { target, upstream };
    let exchange = Exchange { local, socket, request, started: AtomicBool::new(false) };
    let ended = exchange.run(buffer, &mut fresh.upstream, head.len(), record).await;
    conclude(ended, fresh, kept, record)
}

fn conclude(
    ended: Result<Ended, Trouble>,
    used: Kept,
    kept: &mut Option<Kept>,
    record: &mut Record,
) -> Result<Next, Failure> {
    record.gateway = used.upstream.gateway().to_owned();
    record.ended("closed");
    match ended {
        Ok(Ended::Complete { again, reusable }) => {
            *kept = reusable.then_some(used);
            Ok(if again { Next::Request } else { Next::Close(Bytes::new()) })
        }
        Ok(Ended::Upgraded { early }) => Ok(Next::Tunnel(Box::new(used.upstream), early)),
        Err(Trouble::Silent(why)) => {
            let sentence = format!("{} ended the connection without an answer: {why}", used.target);
            Err(Failure::new(Kind::Terminated, Side::Server, sentence))
        }
        Err(Trouble::Bad(malformed)) => {
            let sentence = format!("the answer of {} cannot be passed on: {malformed}", used.target);
            Err(Failure::new(Kind::BadResponse, Side::Server, sentence))
        }
        Err(Trouble::BadBody(malformed)) => {
            record.ended(malformed.to_string());
            Ok(Next::Close(plain(malformed.status(), &malformed.to_string())))
        }
        Err(Trouble::Truncated(why)) => {
            record.ended(why);
            Ok(Next::Reset)
        }
        Err(Trouble::App(error)) => {
            record.ended("the app hung up");
            quiet(&error);
            Ok(Next::Reset)
        }
    }
}

enum Ended {
    /// The response was passed on, whole.
    Complete {
        /// The app may send another request.
        again: bool,
        /// The server takes another one.
        reusable: bool,
    },
    /// The server has changed protocols; the app had sent `early` already.
    Upgraded { early: Bytes },
}

enum Trouble {
    /// Not one byte of a response.
    Silent(String),
    /// A response that is none, before anything of it was passed on.
    Bad(Malformed),
    /// The app's request body is malformed, before anything was answered.
    BadBody(Malformed),
    /// The response ended too early, after some of it was passed on.
    Truncated(String),
    /// The app is gone.
    App(io::Error),
}

/// How the download went.
struct Delivered {
    upgraded: bool,
    framed: bool,
    reusable: bool,
}

struct Exchange<'a> {
    local: &'a Local,
    socket: &'a TcpStream,
    request: &'a RequestHead,
    /// Something of a response was passed on.
    started: AtomicBool,
}

impl Exchange<'_> {
    async fn run(
        &self,
        buffer: &mut BytesMut,
        upstream: &mut Upstream,
        head: usize,
        record: &mut Record,
    ) -> Result<Ended, Trouble> {
        let (mut out, mut input) = upstream.halves();
        let (sent, received) = (AtomicU64::new(head as u64), AtomicU64::new(0));
        let mut uploaded = self.request.body == BodyLength::None;
        let delivered = {
            let mut upload = std::pin::pin!(self.upload(buffer, &mut out, &sent));
            let mut download = std::pin::pin!(self.download(&mut input, &received));
            let mut uploading = !uploaded;
            loop {
                tokio::select! {
                    biased;
                    delivered = &mut download => break delivered,
                    result = &mut upload, if uploading => {
                        uploading = false;
                        match result {
                            Ok(()) => uploaded = true,
                            // The server may have answered before it stopped reading.
                            Err(UploadError::Upstream(error)) => {
                                tracing::debug!(%error, "the server stopped reading the request");
                            }
                            Err(UploadError::App(error)) => break Err(Trouble::App(error)),
                            Err(UploadError::Malformed(malformed)) if self.started.load(Relaxed) => {
                                break Err(Trouble::Truncated(malformed.to_string()));
                            }
                            Err(UploadError::Malformed(malformed)) => break Err(Trouble::BadBody(malformed)),
                        }
                    }
                }
            }
        };
        record.moved(sent.into_inner(), received.into_inner());
        let delivered = delivered?;
        if delivered.upgraded {
            return Ok(Ended::Upgraded { early: buffer.split().freeze() });
        }
        Ok(Ended::Complete {
            again: uploaded && delivered.framed && self.request.keep_alive,
            reusable: uploaded && delivered.reusable,
        })
    }

    async fn upload(
        &self,
        buffer: &mut BytesMut,
        out: &mut Out<'_>,
        sent: &AtomicU64,
    ) -> Result<(), UploadError> {
        match self.request.body {
            BodyLength::None | BodyLength::UntilClose => Ok(()),
            BodyLength::Exact(mut left) => {
                while left > 0 {
                    if buffer.is_empty() {
                        self.more(buffer).await?;
                    }
                    let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    sent.fetch_add(count as u64, Relaxed);
                    left -= count as u64;
                    out.send(buffer.split_to(count).freeze()).await?;
                }
                Ok(())
            }
            BodyLength::Chunked => {
                let mut decoder = ChunkedDecoder::new();
                loop {
                    match decoder.decode(buffer).map_err(UploadError::Malformed)? {
                        Step::Data(data) => {
                            sent.fetch_add(data.len() as u64, Relaxed);
                            let mut chunk = BytesMut::with_capacity(data.len() + 24);
                            ChunkedEncoder::encode(&data, &mut chunk);
                            out.send(chunk.freeze()).await?;
                        }
                        Step::NeedMore => self.more(buffer).await?,
                        Step::Done => return Ok(out.send(Bytes::from_static(ChunkedEncoder::END)).await?),
                    }
                }
            }
        }
    }

    /// Reads more of the request body, which must come.
    async fn more(&self, buffer: &mut BytesMut) -> Result<(), UploadError> {
        match net::read_some(self.socket, buffer, 4 * READ).await {
            Ok(0) => Err(UploadError::App(io::ErrorKind::UnexpectedEof.into())),
            Ok(_) => Ok(()),
            Err(error) => Err(UploadError::App(error)),
        }
    }

    async fn download(&self, input: &mut In<'_>, received: &AtomicU64) -> Result<Delivered, Trouble> {
        let mut buffer = BytesMut::new();
        let response = loop {
            let response = self.read_head(input, &mut buffer).await?;
            if !response.is_interim() {
                break response;
            }
            if response.reaches(self.request.version) {
                let mut head = BytesMut::new();
                self.write_head(&response, BodyLength::None, &mut head);
                self.put(input, &mut head, &[], false).await?;
            }
        };
        let mut head = BytesMut::new();
        if response.status == 101 {
            if !self.request.upgrade.is_some_and(|upgrade| response.switches_to(upgrade)) {
                return Err(Trouble::Bad(Malformed::StatusLine));
            }
            self.write_head(&response, BodyLength::None, &mut head);
            head.extend_from_slice(&buffer);
            self.put(input, &mut head, &[], false).await?;
            return Ok(Delivered { upgraded: true, framed: false, reusable: false });
        }
        let body_as = response.client_body(self.request.version);
        self.write_head(&response, body_as, &mut head);
        let chunked = body_as == BodyLength::Chunked;
        let stray = match response.body {
            BodyLength::None => !buffer.is_empty(),
            BodyLength::Exact(length) => {
                self.exact(input, &mut head, &mut buffer, length, received).await?;
                !buffer.is_empty()
            }
            BodyLength::Chunked => {
                self.chunked(input, &mut head, &mut buffer, chunked, received).await?;
                !buffer.is_empty()
            }
            BodyLength::UntilClose => {
                let mut data = buffer.freeze();
                loop {
                    if !data.is_empty() {
                        received.fetch_add(data.len() as u64, Relaxed);
                        self.put(input, &mut head, &data, chunked).await?;
                    }
                    match input.next().await.map_err(|error| self.cut_off(&error))? {
                        Some(next) => data = next,
                        None => break true,
                    }
                }
            }
        };
        if chunked {
            head.extend_from_slice(ChunkedEncoder::END);
        }
        self.put(input, &mut head, &[], false).await?;
        let framed = body_as != BodyLength::UntilClose;
        Ok(Delivered { upgraded: false, framed, reusable: response.keep_alive && !stray })
    }

    async fn read_head(&self, input: &mut In<'_>, buffer: &mut BytesMut) -> Result<ResponseHead, Trouble> {
        let mut searched = 0;
        loop {
            if let Some(end) = head_end(buffer, searched) {
                let head = buffer.split_to(end);
                return ResponseHead::parse(&head, &self.request.method).map_err(|error| self.bad(error));
            }
            searched = buffer.len();
            if searched >= MAX_HEAD {
                return Err(self.bad(Malformed::HeadTooLarge));
            }
            match input.next().await {
                Ok(Some(data)) => buffer.extend_from_slice(&data),
                Ok(None) if buffer.is_empty() && !self.started.load(Relaxed) => {
                    return Err(Trouble::Silent("it closed".into()));
                }
                Ok(None) => return Err(self.bad(Malformed::Unfinished)),
                Err(error) if buffer.is_empty() && !self.started.load(Relaxed) => {
                    return Err(Trouble::Silent(error.to_string()));
                }
                Err(error) => return Err(Trouble::Truncated(error.to_string())),
            }
        }
    }

    fn bad(&self, malformed: Malformed) -> Trouble {
        if self.started.load(Relaxed) {
            Trouble::Truncated(malformed.to_string())
        } else {
            Trouble::Bad(malformed)
        }
    }

    fn cut_off(&self, error: &UpstreamError) -> Trouble {
        Trouble::Truncated(error.to_string())
    }

    fn write_head(&self, response: &ResponseHead, body_as: BodyLength, out: &mut BytesMut) {
        let request = self.request;
        response.write_forward(&self.local.name, request.version, request.keep_alive, body_as, out);
    }

    async fn exact(
        &self,
        input: &mut In<'_>,
        head: &mut BytesMut,
        buffer: &mut BytesMut,
        length: u64,
        received: &AtomicU64,
    ) -> Result<(), Trouble> {
        let mut left = length;
        let mut data = buffer.split().freeze();
        loop {
            let count = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
            let rest = data.split_off(count);
            if count > 0 {
                left -= count as u64;
                received.fetch_add(count as u64, Relaxed);
                self.put(input, head, &data, false).await?;
            }
            if left == 0 {
                buffer.extend_from_slice(&rest);
                return Ok(());
            }
            data = self.body(input).await?;
        }
    }

    async fn chunked(
        &self,
        input: &mut In<'_>,
        head: &mut BytesMut,
        buffer: &mut BytesMut,
        as_chunks: bool,
        received: &AtomicU64,
    ) -> Result<(), Trouble> {
        let mut decoder = ChunkedDecoder::new();
        loop {
            match decoder.decode(buffer) {
                Ok(Step::Data(data)) => {
                    received.fetch_add(data.len() as u64, Relaxed);
                    self.put(input, head, &data, as_chunks).await?;
                }
                Ok(Step::Done) => return Ok(()),
                Ok(Step::NeedMore) => {
                    let data = self.body(input).await?;
                    if buffer.is_empty() {
                        *buffer = BytesMut::from(data);
                    } else {
                        buffer.extend_from_slice(&data);
                    }
                }
                Err(malformed) => return Err(self.bad(malformed)),
            }
        }
    }

    /// The next bytes of a body that has not ended.
    async fn body(&self, input: &mut In<'_>) -> Result<Bytes, Trouble> {
        match input.next().await {
            Ok(Some(data)) => Ok(data),
            Ok(None) => Err(Trouble::Truncated("the server ended the response too early".into())),
            Err(error) => Err(self.cut_off(&error)),
        }
    }

    /// Writes what is left of the head, and then `data`, as a chunk if asked to, in one go.
    async fn put(
        &self,
        input: &mut In<'_>,
        head: &mut BytesMut,
        data: &[u8],
        as_chunk: bool,
    ) -> Result<(), Trouble> {
        if head.is_empty() && data.is_empty() {
            return Ok(());
        }
        self.started.store(true, Relaxed);
        let frame = NonZeroUsize::new(data.len()).filter(|_| as_chunk).map(ChunkedEncoder::frame);
        let (before, after) = match &frame {
            Some(frame) => (frame.as_ref(), ChunkedEncoder::CHUNK_END),
            None => (&[][..], &[][..]),
        };
        let mut pieces = [head, before, data, after].map(IoSlice::new);
        let written = input.while_filling(net::write_all_vectored(self.socket, &mut pieces)).await;
        head.clear();
        written.map_err(|error| self.cut_off(&error))?.map_err(Trouble::App)
    }
}

enum UploadError {
    App(io::Error),
    Malformed(Malformed),
    Upstream(UpstreamError),
}

impl From<UpstreamError> for UploadError {
    fn from(error: UpstreamError) -> Self {
        Self::Upstream(error)
    }
}
