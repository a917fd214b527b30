//! One plain request and its response, over an upstream. The body goes up while the response comes down.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::{Done, READ, plain};
use crate::failure::{Failure, Kind, Side};
use crate::link::alive::Pulse;
use crate::link::relay::Progress;
use crate::local::listener::{Local, quiet};
use crate::local::upstream::{In, Out, Upstream, UpstreamError};
use crate::net;
use crate::telemetry::record::Record;
use crate::wire::http::{
    BodyLength, ChunkedDecoder, ChunkedEncoder, MAX_HEAD, Malformed, RequestHead, ResponseHead, Step,
    head_end,
};
use crate::wire::replay;
use crate::wire::resume::Point;
use crate::wire::target::Target;

/// How long an app that has ended its own direction waits for an answer to begin.
const HALF_CLOSED: Duration = Duration::from_secs(30);
/// How often one request is repeated, or one download resumed without getting on.
const MOST_REPEATS: u32 = 8;

/// An upstream that is open after a response, for the next request of the same connection to the same server.
pub(super) struct Reusable {
    target: Target,
    upstream: Upstream,
}

/// Waits until the server hangs up, or speaks without being asked.
pub(super) async fn until_stale(reusable: &mut Option<Reusable>) {
    match reusable {
        Some(reusable) => reusable.upstream.until_stale().await,
        None => std::future::pending().await,
    }
}

/// Ends what is not needed any more, orderly.
pub(super) fn end(reusable: Option<Reusable>) {
    if let Some(reusable) = reusable {
        reusable.upstream.end();
    }
}

/// Serves one request. The connection of the last one is used again when it leads to the same server. A request that
/// changes nothing is sent again when there was no answer because that connection had died (RFC 9112 §9.3.1) or the
/// gateway was lost; a download whose gateway is lost goes on over the next one where that is safe.
///
/// # Errors
/// When there is no response to give, and nothing has been sent to the app.
#[allow(clippy::too_many_arguments, reason = "the state of one connection, borrowed for one request")]
pub(super) async fn run(
    local: &Local,
    socket: &TcpStream,
    buffer: &mut BytesMut,
    request: &RequestHead,
    target: &Target,
    id: u64,
    reusable: &mut Option<Reusable>,
    record: &mut Record,
) -> Result<Done, Failure> {
    let mut head = BytesMut::new();
    request.write_forward(&local.name, &mut head);
    let head = head.freeze();
    let repeatable = replay::is_safe_method(&request.method) && request.body == BodyLength::None;
    let exchange =
        Exchange { local, socket, request, started: AtomicBool::new(false), point: Mutex::default() };
    // Any other request goes over a connection of its own: whether it was served when an old one dies under it,
    // nobody could say.
    let mut upstream =
        reusable.take().filter(|old| old.target == *target && repeatable).map(|old| old.upstream);
    if let Some(old) = &mut upstream
        && (old.is_stale() || old.halves().0.send(head.clone()).await.is_err())
    {
        upstream = None;
    }
    let mut reused = upstream.is_some();
    let mut attempts = 0;
    // From a gateway that is but suspect a request moves once.
    let mut moved = false;
    loop {
        let mut used = match upstream.take() {
            Some(upstream) => upstream,
            None => local.routes.open(target, id, head.clone(), repeatable).await?,
        };
        record.gateway = used.gateway().to_owned();
        let link = used.link().filter(|_| repeatable && !moved);
        let ended = tokio::select! {
            biased;
            ended = exchange.run(buffer, &mut used, head.len(), record) => ended,
            () = exchange.moves_from(link) => {
                moved = true;
                Err(Trouble::Silent { lost: true, why: "the gateway fell silent".into() })
            }
        };
        let used = Reusable { target: target.clone(), upstream: used };
        match ended {
            Err(Trouble::Silent { lost, .. })
                if repeatable && (lost || reused) && attempts < MOST_REPEATS =>
            {
                (reused, attempts) = (false, attempts + 1);
                tracing::info!(conn = format!("{id:016x}"), "request repeated: no answer came");
                record.rescued("repeated");
            }
            Err(Trouble::Lost(why)) => {
                let ended = exchange.resume(target, id, why, record).await;
                return conclude(ended, used, reusable, record);
            }
            ended => return conclude(ended, used, reusable, record),
        }
    }
}

fn conclude(
    ended: Result<Ended, Trouble>,
    used: Reusable,
    kept: &mut Option<Reusable>,
    record: &mut Record,
) -> Result<Done, Failure> {
    record.ended("closed");
    match ended {
        Ok(Ended::Complete { again, reusable }) => {
            match reusable {
                true => *kept = Some(used),
                false => used.upstream.end(),
            }
            Ok(if again { Done::Request } else { Done::Close(Bytes::new()) })
        }
        Ok(Ended::Upgraded) => Ok(Done::Tunnel(Box::new(used.upstream), None)),
        Err(Trouble::Silent { why, .. }) => {
            let sentence = format!("{} ended the connection without an answer: {why}", used.target);
            Err(Failure::new(Kind::Terminated, Side::Server, sentence))
        }
        Err(Trouble::Bad(malformed)) => {
            let sentence = format!("the answer of {} cannot be passed on: {malformed}", used.target);
            Err(Failure::new(Kind::BadResponse, Side::Server, sentence))
        }
        Err(Trouble::BadBody(malformed)) => {
            record.refused(super::refusal(malformed), malformed.to_string());
            Ok(Done::Close(plain(malformed.status(), &malformed.to_string())))
        }
        Err(Trouble::Truncated(why) | Trouble::Lost(why)) => {
            record.ended(why);
            Ok(Done::Reset)
        }
        Err(Trouble::App(error)) => {
            record.ended("the app hung up");
            quiet(&error);
            Ok(Done::Reset)
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
    /// The server has changed protocols.
    Upgraded,
}

enum Trouble {
    /// Not one byte of a response.
    Silent {
        /// The link was lost, which is not the server's doing.
        lost: bool,
        why: String,
    },
    /// A response that is none, before anything of it was passed on.
    Bad(Malformed),
    /// The app's request body is malformed, before anything was answered.
    BadBody(Malformed),
    /// The response ended too early, after some of it was passed on.
    Truncated(String),
    /// The same, because the link was lost.
    Lost(String),
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
    /// Where a download that can be resumed stands, and how many bytes of it are still to come.
    point: Mutex<Option<(Point, u64)>>,
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
        let traffic = record.traffic();
        let progress = Progress::of_app(&traffic);
        progress.add_sent(head);
        let mut uploaded = self.request.body == BodyLength::None;
        let delivered = {
            let mut upload = std::pin::pin!(self.upload(buffer, &mut out, &progress));
            let mut download = std::pin::pin!(self.download(&mut input, &progress));
            let mut uploading = !uploaded;
            loop {
                tokio::select! {
                    biased;
                    delivered = &mut download => break delivered,
                    () = self.app_gone(), if uploaded => {
                        break Err(Trouble::App(io::ErrorKind::ConnectionAborted.into()));
                    }
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
        record.moved(progress.moved());
        let delivered = delivered?;
        if delivered.upgraded {
            let early = buffer.split().freeze();
            return match out.send(early).await {
                Ok(()) => Ok(Ended::Upgraded),
                Err(error) => Err(Trouble::Truncated(error.to_string())),
            };
        }
        Ok(Ended::Complete {
            again: uploaded && delivered.framed && self.request.keep_alive,
            reusable: uploaded && delivered.reusable,
        })
    }

    /// Waits until there is nobody any more whom the answer could reach. An app that has only ended its own direction
    /// is given some time: it may still read.
    async fn app_gone(&self) {
        match self.socket.peek(&mut [0]).await {
            Ok(0) => {
                tokio::time::sleep(HALF_CLOSED).await;
                if self.started.load(Relaxed) {
                    // Who reads or does not is told by the writes from now on.
                    std::future::pending().await
                }
            }
            Ok(_) => drop(self.socket.ready(Interest::ERROR).await),
            Err(_) => {}
        }
    }

    async fn upload(
        &self,
        buffer: &mut BytesMut,
        out: &mut Out<'_>,
        progress: &Progress<'_>,
    ) -> Result<(), UploadError> {
        match self.request.body {
            BodyLength::None | BodyLength::UntilClose => Ok(()),
            BodyLength::Exact(mut left) => {
                while left > 0 {
                    if buffer.is_empty() {
                        self.more(buffer).await?;
                    }
                    let count = usize::try_from(left).map_or(buffer.len(), |left| left.min(buffer.len()));
                    progress.add_sent(count);
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
                            progress.add_sent(data.len());
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

    async fn download(&self, input: &mut In<'_>, progress: &Progress<'_>) -> Result<Delivered, Trouble> {
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
                *self.point() = Point::of(self.request, &response).map(|point| (point, length));
                self.exact(input, &mut head, &mut buffer, length, progress).await?;
                !buffer.is_empty()
            }
            BodyLength::Chunked => {
                self.chunked(input, &mut head, &mut buffer, chunked, progress).await?;
                !buffer.is_empty()
            }
            BodyLength::UntilClose => {
                net::reset_on_drop(self.socket);
                let mut data = buffer.freeze();
                loop {
                    if !data.is_empty() {
                        progress.add_received(data.len());
                        self.put(input, &mut head, &data, chunked).await?;
                    }
                    match input.next().await.map_err(|error| cut_off(&error))? {
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
        net::end_orderly(self.socket);
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
                    return Err(Trouble::Silent { lost: false, why: "it closed".into() });
                }
                Ok(None) => return Err(self.bad(Malformed::Unfinished)),
                // Of a head that has not ended nothing was passed on.
                Err(error) if !self.started.load(Relaxed) => {
                    return Err(Trouble::Silent { lost: error.is_link_lost(), why: error.to_string() });
                }
                Err(error) => return Err(Trouble::Truncated(error.to_string())),
            }
        }
    }

    /// Waits until there is a better gateway than that of `link`, and nothing of an answer.
    async fn moves_from(&self, link: Option<(Arc<Pulse>, SocketAddr)>) {
        let Some((pulse, gateway)) = link else { return std::future::pending().await };
        self.local.routes.better_than(&pulse, gateway).await;
        if self.started.load(Relaxed) {
            std::future::pending().await
        }
    }

    fn bad(&self, malformed: Malformed) -> Trouble {
        if self.started.load(Relaxed) {
            Trouble::Truncated(malformed.to_string())
        } else {
            Trouble::Bad(malformed)
        }
    }

    fn point(&self) -> MutexGuard<'_, Option<(Point, u64)>> {
        self.point.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Goes on with a download whose link was lost, over the next gateway, as often as it takes. Only the very same
    /// bytes are ever appended to what the app has got; where that is not certain, the app sees the truncation.
    async fn resume(
        &self,
        target: &Target,
        id: u64,
        mut why: String,
        record: &mut Record,
    ) -> Result<Ended, Trouble> {
        let mut in_vain = 0;
        while in_vain < MOST_REPEATS {
            let Some((point, left)) = self.point().clone() else { return Err(Trouble::Truncated(why)) };
            let offset = point.total() - left;
            tracing::info!(conn = format!("{id:016x}"), offset, left, "download resumed on the next gateway");
            record.rescued("resumed");
            let mut head = BytesMut::new();
            point.request(self.request, offset).write_forward(&self.local.name, &mut head);
            let opened = self.local.routes.open(target, id, head.freeze(), true).await;
            let mut upstream = opened.map_err(|failure| Trouble::Truncated(failure.to_string()))?;
            record.gateway = upstream.gateway().to_owned();
            let traffic = record.traffic();
            let progress = Progress::of_app(&traffic);
            let result = self.rest(&mut upstream.halves().1, &point, offset, left, &progress).await;
            let moved = progress.moved();
            record.moved(moved);
            in_vain = if moved.received > 0 { 0 } else { in_vain + 1 };
            match result {
                Err(Trouble::Lost(again)) => why = again,
                Err(trouble) => return Err(trouble),
                Ok(()) => return Ok(Ended::Complete { again: self.request.keep_alive, reusable: false }),
            }
        }
        Err(Trouble::Truncated(why))
    }

    async fn rest(
        &self,
        input: &mut In<'_>,
        point: &Point,
        offset: u64,
        left: u64,
        progress: &Progress<'_>,
    ) -> Result<(), Trouble> {
        let mut buffer = BytesMut::new();
        let mut searched = 0;
        let response = loop {
            if let Some(end) = head_end(&buffer, searched) {
                let head = buffer.split_to(end);
                let response = ResponseHead::parse(&head, &self.request.method);
                let response = response.map_err(|malformed| Trouble::Truncated(malformed.to_string()))?;
                if !response.is_interim() {
                    break response;
                }
                searched = 0;
                continue;
            }
            searched = buffer.len();
            if searched >= MAX_HEAD {
                return Err(Trouble::Truncated(Malformed::HeadTooLarge.to_string()));
            }
            buffer.extend_from_slice(&self.body(input).await?);
        };
        point.check(&response, offset).map_err(|mismatch| Trouble::Truncated(mismatch.to_string()))?;
        self.exact(input, &mut BytesMut::new(), &mut buffer, left, progress).await
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
        progress: &Progress<'_>,
    ) -> Result<(), Trouble> {
        let mut left = length;
        let mut data = buffer.split().freeze();
        loop {
            let count = usize::try_from(left).map_or(data.len(), |left| left.min(data.len()));
            let rest = data.split_off(count);
            if count > 0 {
                self.put(input, head, &data, false).await?;
                left -= count as u64;
                progress.add_received(count);
                if let Some((_, still)) = self.point().as_mut() {
                    *still = left;
                }
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
        progress: &Progress<'_>,
    ) -> Result<(), Trouble> {
        let mut decoder = ChunkedDecoder::new();
        loop {
            match decoder.decode(buffer) {
                Ok(Step::Data(data)) => {
                    progress.add_received(data.len());
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
            Err(error) => Err(cut_off(&error)),
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
        // Of a download that may be resumed it must be known what the app has got.
        let patient = self.point().is_some();
        let written = input.while_filling(net::write_all_vectored(self.socket, &mut pieces), patient).await;
        head.clear();
        written.map_err(|error| cut_off(&error))?.map_err(Trouble::App)
    }
}

fn cut_off(error: &UpstreamError) -> Trouble {
    if error.is_link_lost() {
        Trouble::Lost(error.to_string())
    } else {
        Trouble::Truncated(error.to_string())
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
