//! A request that the cache has no part in: it and its response pass as they are. The gateway only follows where they end, and
//! what they change.

use std::convert::Infallible as Never;
use std::pin::pin;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::time::Instant;

use super::asker::{FromClient, Gone, ToClient, beyond};
use super::server::{Head, Server};
use super::socket::{SMALL_READ, Socket};
use super::{End, Next, Stream};
use crate::cache::policy::{self, Origin};
use crate::gateway::silence::GIVE_UP;
use crate::limits::buffer_pool::detached;
use crate::memory::Tally;
use crate::wire::http::{BodyLength, ChunkedDecoder, ChunkedEncoder, RequestHead, ResponseHead, Step};
use crate::wire::replay;

/// How one exchange ended.
enum Exchanged {
    /// The server ended the connection without an answer; with an error or in good order.
    Nothing(NoAnswer),
    /// The response is complete; the server takes another request.
    Complete { reusable: bool },
    /// Only the end of the connection ends the response, and it has come.
    ToTheEnd,
}

/// How a connection ended without an answer.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NoAnswer {
    InOrder,
    Reset,
    /// The server's machine has not even acknowledged the request.
    Unacknowledged,
}

/// A response that was begun elsewhere: what was received of it, and the connection.
pub(super) struct Begun {
    pub(super) head: Head,
    pub(super) server: Server,
}

impl Stream<'_> {
    /// Passes on a request and its response.
    pub(super) async fn pass(&mut self, head: Bytes, request: &RequestHead) -> Result<Next, End> {
        let is_safe = replay::is_safe_method(&request.method) && request.body == BodyLength::None;
        let mut server = match self.idle() {
            Some(server) if !server.is_stale() => server,
            _ if self.is_pinned => {
                return Err(End::Broken("the server has closed the connection with the login"));
            }
            _ => self.connect().await?,
        };
        let begun = Instant::now();
        loop {
            self.asker.grant()?;
            if server.send(&head).await.is_err() && !server.is_used {
                return Err(End::Broken("the server does not take the request"));
            }
            let exchanged = self.exchange(&mut server, request, None).await?;
            let goes_on = match exchanged {
                // On a used connection the request is repeated by the client, over another gateway if there is one.
                Exchanged::Nothing(NoAnswer::Unacknowledged) => {
                    server.note_silence();
                    !server.is_used && begun.elapsed() < GIVE_UP && !self.gateway.egress.is_lost()
                }
                Exchanged::Nothing(_) => server.is_used,
                Exchanged::Complete { .. } | Exchanged::ToTheEnd => {
                    server.note_answer();
                    false
                }
            };
            if !goes_on || !is_safe || self.is_pinned {
                return self.conclude(exchanged, server);
            }
            server = self.connect().await?;
        }
    }

    /// Passes on a response whose head was read already.
    pub(super) async fn pass_response(&mut self, request: &RequestHead, begun: Begun) -> Result<Next, End> {
        let Begun { head, mut server } = begun;
        server.charge_to(&self.asker.account);
        self.asker.grant()?;
        let exchanged = self.exchange(&mut server, request, Some(head)).await?;
        self.conclude(exchanged, server)
    }

    fn conclude(&mut self, exchanged: Exchanged, server: Server) -> Result<Next, End> {
        match exchanged {
            Exchanged::Complete { reusable: true } => {
                self.server = Some(server.used());
                Ok(Next::Request)
            }
            Exchanged::Complete { reusable: false } | Exchanged::ToTheEnd => Ok(Next::End),
            Exchanged::Nothing(NoAnswer::InOrder) => Ok(Next::End),
            Exchanged::Nothing(NoAnswer::Reset) => Err(End::Broken("the server has reset the connection")),
            Exchanged::Nothing(NoAnswer::Unacknowledged) => Err(End::Cut),
        }
    }

    async fn exchange(
        &mut self,
        server: &mut Server,
        request: &RequestHead,
        head: Option<Head>,
    ) -> Result<Exchanged, End> {
        let has_body = !matches!(request.body, BodyLength::None | BodyLength::Exact(0));
        server.is_private |= has_body || request.method != Method::GET;
        let socket = server.socket();
        let response = match head {
            Some(head) => Response { server, head: Some(head) },
            None => Response { server, head: None },
        };
        let origin = Origin { target: &self.target, is_secure: self.is_secure };
        let mut seen = Seen { origin, request, pinned: false, changed: Vec::new() };
        let (cache, account) = (self.cache.clone(), self.asker.account.clone());
        let (mut from, to) = self.asker.halves()?;
        let (uploaded, ended) = (AtomicBool::new(!has_body), AtomicBool::new(false));
        if has_body {
            // Until all of it was sent: the server must not take a part for the whole.
            socket.reset_on_drop();
            // A server may take its time to read.
            socket.limit_unacknowledged(None);
        }
        let result = {
            let upload = async {
                if has_body {
                    upload(request.body, &mut from, &socket).await?;
                    socket.end_orderly();
                    uploaded.store(true, Relaxed);
                }
                from.end().await?;
                ended.store(true, Relaxed);
                std::future::pending::<Result<Never, Gone>>().await
            };
            let (upload, download) = (pin!(upload), pin!(response.download(to, &mut seen, &cache)));
            tokio::select! {
                biased;
                result = download => result,
                // Neither direction has to move for an eviction.
                () = account.evicted() => Err(Gone),
                gone = upload => match gone {
                    Ok(never) => match never {},
                    Err(Gone) => Err(Gone),
                },
            }
        };
        self.is_pinned |= seen.pinned;
        let result = match result {
            Err(Gone) if uploaded.load(Relaxed) && !ended.load(Relaxed) => {
                // The app was cut off, and did not only leave: the server sees that, too.
                socket.reset_on_drop();
                Err(Gone)
            }
            result => result,
        };
        match result? {
            Passed::Complete { reusable } => {
                Ok(Exchanged::Complete { reusable: reusable && uploaded.load(Relaxed) })
            }
            Passed::Nothing(why) => Ok(Exchanged::Nothing(why)),
            Passed::Unclear(first) => {
                socket.limit_unacknowledged(None);
                let (from, mut to) = self.asker.halves()?;
                let relayed = async {
                    to.send(detached(first, SMALL_READ)).await?;
                    relay(server, &socket, from, to).await
                };
                tokio::select! {
                    relayed = relayed => relayed?,
                    () = account.evicted() => return Err(End::Gone),
                }
                Ok(Exchanged::ToTheEnd)
            }
        }
    }
}

/// What passing on a response has shown.
struct Seen<'a> {
    origin: Origin<'a>,
    request: &'a RequestHead,
    /// The connection has or gets a login.
    pinned: bool,
    /// The URIs whose content the exchange has changed.
    changed: Vec<String>,
}

impl Seen<'_> {
    fn note(&mut self, response: &ResponseHead) {
        self.pinned |= response.asks_for_connection_login() || self.request.logs_in_connection();
        self.changed = policy::invalidated(self.origin, self.request, response);
    }
}

impl Seen<'_> {
    /// The URI whose current state the response to a HEAD tells.
    fn asked_about(&self, response: &ResponseHead) -> Option<String> {
        let tells = self.request.method == Method::HEAD
            && response.status == 200
            && policy::concerns_cache(self.request);
        if tells { policy::uri(self.origin, self.request) } else { None }
    }
}

enum Passed {
    Complete {
        reusable: bool,
    },
    Nothing(NoAnswer),
    /// From these bytes on only the end of the connection tells the end.
    Unclear(Bytes),
}

struct Response<'a> {
    server: &'a mut Server,
    head: Option<Head>,
}

impl Response<'_> {
    async fn download(
        self,
        mut to: ToClient<'_>,
        seen: &mut Seen<'_>,
        cache: &std::sync::Arc<crate::gateway::cache::Cache>,
    ) -> Result<Passed, Gone> {
        let Self { server, mut head } = self;
        let (mut raw, response) = loop {
            let next = match head.take() {
                Some(head) => head,
                None => tokio::select! {
                    head = server.head(&seen.request.method) => head,
                    () = to.reset() => return Err(Gone),
                },
            };
            match next {
                Head::Read(raw, response) if response.is_interim() => {
                    to.send(detached(raw.freeze(), SMALL_READ)).await?
                }
                Head::Read(raw, response) => break (raw, response),
                Head::Unclear(raw) => return Ok(Passed::Unclear(raw)),
                head if head.is_unacknowledged() => return Ok(Passed::Nothing(NoAnswer::Unacknowledged)),
                Head::Nothing(None) => return Ok(Passed::Nothing(NoAnswer::InOrder)),
                Head::Nothing(Some(_)) => return Ok(Passed::Nothing(NoAnswer::Reset)),
            }
        };
        seen.note(&response);
        if !seen.changed.is_empty() {
            // Before the app hears of the change, so that it does not get the old content.
            cache.invalidate(std::mem::take(&mut seen.changed)).await;
        }
        if let Some(uri) = seen.asked_about(&response) {
            cache.compare(uri, seen.request, &response, to.account()).await;
        }
        let (keep_alive, status, body) = (response.keep_alive, response.status, response.body);
        // Its fields may take much more memory than the head itself.
        drop(response);
        let mut left = match body {
            BodyLength::Exact(length) => length,
            BodyLength::None => 0,
            BodyLength::Chunked => {
                let pending = to.tally();
                to.send(detached(raw.freeze(), SMALL_READ)).await?;
                return chunks(server, to, (keep_alive, pending)).await;
            }
            BodyLength::UntilClose => return Ok(Passed::Unclear(raw.freeze())),
        };
        if status == 101 {
            return Ok(Passed::Unclear(raw.freeze()));
        }
        // What has come of the body lies behind the head, so that both are sent together without a copy.
        let along = usize::try_from(left).map_or(server.buffer.len(), |left| left.min(server.buffer.len()));
        raw.unsplit(server.buffer.split_to(along));
        left -= along as u64;
        to.send(detached(raw.freeze(), SMALL_READ)).await?;
        while left > 0 {
            let mut bytes = tokio::select! {
                next = server.next() => next.map_err(|_error| Gone)?,
                () = to.reset() => return Err(Gone),
            };
            if bytes.is_empty() {
                return Err(Gone);
            }
            left -= server.cut(&mut bytes, left);
            to.send(bytes).await?;
        }
        Ok(Passed::Complete { reusable: keep_alive && server.buffer.is_empty() })
    }
}

/// Passes on a chunked body as it is. What follows it stays in the server's buffer.
async fn chunks(
    server: &mut Server,
    mut to: ToClient<'_>,
    (keep_alive, mut held): (bool, Tally),
) -> Result<Passed, Gone> {
    let (mut decoder, mut pending) = (ChunkedDecoder::of_response(), BytesMut::new());
    loop {
        let bytes = tokio::select! {
            next = server.next() => next.map_err(|_error| Gone)?,
            () = to.reset() => return Err(Gone),
        };
        if bytes.is_empty() {
            return Ok(Passed::Unclear(Bytes::new()));
        }
        pending.extend_from_slice(&bytes);
        held.set(beyond(pending.capacity()));
        loop {
            match decoder.decode(&mut pending) {
                Ok(Step::Data(_)) => {}
                Ok(Step::NeedMore) => break,
                Ok(Step::Done) => {
                    // What follows the body is not part of the response.
                    let stray = !pending.is_empty();
                    to.send(bytes).await?;
                    return Ok(Passed::Complete { reusable: keep_alive && !stray });
                }
                // The client's node sees what is wrong with it.
                Err(_) => return Ok(Passed::Unclear(bytes)),
            }
        }
        to.send(bytes).await?;
    }
}

/// Sends the body of a request to the server. A server that does not take it may still answer.
async fn upload(body: BodyLength, from: &mut FromClient<'_>, socket: &Socket) -> Result<(), Gone> {
    match body {
        BodyLength::None | BodyLength::UntilClose => {}
        BodyLength::Exact(mut left) => {
            while left > 0 {
                if from.buffer.is_empty() && !from.more().await? {
                    return Err(Gone);
                }
                let count =
                    usize::try_from(left).map_or(from.buffer.len(), |left| left.min(from.buffer.len()));
                left -= count as u64;
                let bytes = from.buffer.split_to(count);
                if socket.write_all(&bytes).await.is_err() {
                    return std::future::pending().await;
                }
            }
        }
        BodyLength::Chunked => {
            let mut decoder = ChunkedDecoder::of_request();
            loop {
                let mut chunk = BytesMut::new();
                let is_last = match decoder.decode(from.buffer).map_err(|_malformed| Gone)? {
                    Step::Data(data) => {
                        let data = decoder.gather(data, from.buffer);
                        ChunkedEncoder::encode(&data, &mut chunk);
                        false
                    }
                    Step::Done => {
                        chunk.extend_from_slice(ChunkedEncoder::END);
                        true
                    }
                    Step::NeedMore if from.more().await? => continue,
                    Step::NeedMore => return Err(Gone),
                };
                if socket.write_all(&chunk).await.is_err() {
                    return std::future::pending().await;
                }
                if is_last {
                    break;
                }
            }
        }
    }
    Ok(())
}

/// Relays until the server ends the connection.
async fn relay(
    server: &mut Server,
    socket: &Socket,
    mut from: FromClient<'_>,
    mut to: ToClient<'_>,
) -> Result<(), Gone> {
    let up = async {
        loop {
            if !from.buffer.is_empty() && socket.write_all(&from.buffer.split()).await.is_err() {
                return std::future::pending().await;
            }
            if !from.more().await? {
                socket.shutdown_write();
                return std::future::pending().await;
            }
        }
    };
    let down = async {
        loop {
            let bytes = server.next().await.map_err(|_error| Gone)?;
            if bytes.is_empty() {
                return Ok(());
            }
            to.send(bytes).await?;
        }
    };
    tokio::select! {
        ended = down => ended,
        gone = up => gone,
    }
}
