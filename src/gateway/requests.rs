//! A stream of plain requests from one client, which the gateway's cache may answer.
//!
//! What does not concern the cache passes unchanged, byte by byte, so that the client's node reads what the server sent.

mod alternative;
mod asker;
mod fetch;
mod growing;
mod lookup;
mod named;
mod pass;
mod pieces;
mod ranges;
mod reading;
mod server;
mod shared;
mod socket;
mod stored;

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::sync::oneshot;

use super::cache::Cache;
use super::clients::Client;
use super::state::Gateway;
use crate::cache::digest::Digest;
use crate::cache::policy::{self, Origin, Uris};
use crate::failure::{self, Failure};
use crate::link::incoming::Incoming;
use crate::link::pipe::Pipe;
use crate::link::relay::Progress;
use crate::memory::{Account, Kind, Tally};
use crate::telemetry::record::Record;
use crate::telemetry::traffic::Moved;
use crate::wire::http::{ANONYMOUS, DIGEST, DISCARD, PART, RequestHead};
use crate::wire::sharing::Offer;
use crate::wire::target::Target;
use asker::{Asker, Gone, LocalStream, beyond};
use server::Server;

// fields: the server, what the request that is being served asks for, and the connection
/// One stream of requests to one server.
struct Stream<'a> {
    gateway: Arc<Gateway>,
    cache: Arc<Cache>,
    target: Target,
    /// The server is spoken to over TLS.
    is_secure: bool,
    uris: Uris,
    /// The anonymous token of the request that is being served, as the value of an Authorization field.
    credential: Option<Vec<u8>>,
    /// The digest that the file of that request must have, if an index names one.
    digest: Option<Digest>,
    /// The client fetches parts of the file over other gateways, too.
    is_part: bool,
    asker: Asker<'a>,
    /// What the client offers, such as to take bodies in pieces, also from other members; and where its link comes from.
    offer: Option<(Offer, Option<SocketAddr>)>,
    /// The idle connection to the server that this stream has used before. No other stream ever gets it.
    server: Option<Server>,
    /// That connection, while it is lent to a fetch.
    lent: Option<oneshot::Receiver<Server>>,
    /// The app has logged in on that connection, or has been asked to: every request is for it, and none is for the cache.
    is_pinned: bool,
}

/// What a client's node asks of this gateway in the fields of a request, which the server does not get.
struct OwnFields {
    /// A token that anybody gets. The response may be stored, as for a request without a login.
    credential: Option<Vec<u8>>,
    /// The digest that the file must have.
    digest: Option<Digest>,
    /// What is stored of this URI was wrong.
    discards: bool,
    /// The client fetches parts of the file over other gateways, too.
    is_part: bool,
    /// There were such fields.
    has_any: bool,
}

impl OwnFields {
    /// Takes these fields out of a request, which goes over TLS if it `is_secure`: only then can there be a token.
    fn take(request: &mut RequestHead, is_secure: bool) -> Self {
        let credential = request.fields.get(ANONYMOUS).map(<[u8]>::to_vec);
        let discards = request.fields.get(DISCARD).is_some();
        let digest = request.fields.get(DIGEST);
        let is_part = request.fields.get(PART).is_some();
        let has_any = credential.is_some() || discards || is_part || digest.is_some();
        let credential = credential.filter(|_| is_secure);
        let digest = digest.and_then(|digest| Digest::parse(str::from_utf8(digest).ok()?));
        let digest = digest.filter(|digest| digest.is_strong() && request.method == Method::GET);
        if has_any {
            [ANONYMOUS, DISCARD, DIGEST, PART].into_iter().for_each(|name| request.fields.remove(name));
        }
        Self { credential, digest, discards, is_part, has_any }
    }

    /// The head as the server gets it: `raw` if nothing was taken out.
    fn head(&self, raw: Bytes, request: &RequestHead) -> Bytes {
        if !self.has_any {
            return raw;
        }
        as_sent(request, self.credential.as_deref()).freeze()
    }
}

/// The head of a request as the server gets it, with the anonymous token if there is one.
fn as_sent(request: &RequestHead, credential: Option<&[u8]>) -> BytesMut {
    let (mut request, mut head) = (request.clone(), BytesMut::new());
    if let Some(credential) = credential {
        // Fits, since it was received as a field's value.
        let _ = request.fields.push("Authorization", credential);
    }
    request.write_as_is(&mut head);
    head
}

/// What follows a request.
enum Next {
    /// Another one may come.
    Request,
    /// The stream ends in good order.
    End,
}

/// Why a stream ends early.
enum End {
    /// It is refused: there is no connection to the server.
    Refused(Failure),
    /// The client has given up.
    Gone,
    /// It is reset: a response is incomplete, or there is none.
    Broken(&'static str),
    /// It is reset because nothing comes from the server: another gateway may reach it.
    Cut,
}

/// Why a stream ends when the server may not have got its request.
const UNREACHED: &str =
    "the way to the server is cut: nothing comes from it, and its machine may not even get the request";

impl From<Gone> for End {
    fn from(_gone: Gone) -> Self {
        Self::Gone
    }
}

impl Gateway {
    /// Serves a stream of requests to `target`. A client that `waits` sends nothing before it hears that there is a
    /// connection.
    pub(super) async fn requests(
        self: Arc<Self>,
        cache: Arc<Cache>,
        incoming: Box<Incoming>,
        (target, waits, is_secure): (Target, bool, bool),
        client: &Client,
        record: &mut Record,
    ) {
        let traffic = record.traffic();
        let progress = Progress::of_server(&traffic).paced_by(&client.pace);
        let account = incoming.account().cloned().unwrap_or_else(|| client.memory.account(Kind::Tunnel));
        let offer = incoming.offer.map(|offer| (offer, incoming.from));
        let asker = Asker::client(incoming, client.id, account.clone(), &progress);
        let mut stream = Stream::new(self.clone(), cache, (target, is_secure), asker);
        stream.offer = offer;
        let ended = stream.run_within(waits, &account).await;
        let Stream { asker, .. } = stream;
        let ended = match ended {
            Err(End::Refused(failure))
                if failure.kind == failure::Kind::ConnectTimeout && asker.is_granted() =>
            {
                Err(End::Cut)
            }
            ended => ended,
        };
        match ended {
            Ok(()) => {
                asker.finish().await;
                record.ended("closed");
            }
            Err(End::Refused(failure)) => match asker.into_incoming() {
                Some(incoming) => self.refuse(*incoming, &failure, record),
                // The client repeats its request on a stream of its own, where it is refused.
                None => record.failed(&failure),
            },
            Err(End::Cut) => {
                asker.cut();
                record.ended(UNREACHED);
            }
            Err(End::Gone) => match asker.into_incoming() {
                Some(incoming) => self.abandon(*incoming, record),
                None => record.ended("reset at the other end"),
            },
            Err(End::Broken(why)) => record.ended(why),
        }
        // Records count from the app's side: bytes received from the link were sent to the server.
        let moved = progress.moved();
        record.moved(Moved { sent: moved.received, received: moved.sent });
    }
}

impl Gateway {
    /// Opens a stream of requests to `target`, over TLS if it `is_secure`, for an app of this node. A task of the node serves it;
    /// `first` is what the app has sent already. `None` without a cache.
    ///
    /// # Errors
    /// Why there is no connection to the server, if one was needed.
    pub async fn own_requests(
        self: Arc<Self>,
        (target, is_secure): (Target, bool),
        first: Bytes,
        account: Arc<Account>,
    ) -> Option<Result<Pipe, Failure>> {
        let cache = self.cache.clone()?;
        let (mut near, far) = Pipe::pair(&account);
        let waits = first.is_empty();
        // The new pipe has room for it.
        near.sender.send(first).await.ok()?;
        let (answer, granted) = oneshot::channel();
        let gateway = self.clone();
        self.tasks.spawn(async move {
            let progress = Progress::default();
            let own = LocalStream { pipe: far, answer: Some(answer) };
            let asker = Asker::own(own, gateway.id, &progress);
            let mut stream = Stream::new(gateway.clone(), cache, (target, is_secure), asker);
            let ended = Box::pin(stream.run_within(waits, &account)).await;
            let mut asker = stream.asker;
            match ended {
                Ok(()) => asker.finish().await,
                Err(End::Refused(failure)) => asker.refuse(&failure),
                Err(End::Gone | End::Broken(_) | End::Cut) => {}
            }
        });
        match granted.await {
            Ok(Ok(())) => Some(Ok(near)),
            Ok(Err(failure)) => Some(Err(failure)),
            // The stream has ended without an answer, as the server's has.
            Err(_ended) => Some(Ok(near)),
        }
    }
}

impl<'a> Stream<'a> {
    fn new(
        gateway: Arc<Gateway>,
        cache: Arc<Cache>,
        (target, is_secure): (Target, bool),
        asker: Asker<'a>,
    ) -> Self {
        let uris = Uris::new(Origin { target: &target, is_secure });
        Self {
            gateway,
            cache,
            target,
            is_secure,
            uris,
            credential: None,
            digest: None,
            is_part: false,
            asker,
            offer: None,
            server: None,
            lent: None,
            is_pinned: false,
        }
    }
}

impl Stream<'_> {
    /// Serves requests until the stream ends, or has to because memory is short, whatever it waits for.
    async fn run_within(&mut self, waits: bool, account: &Account) -> Result<(), End> {
        tokio::select! {
            biased;
            ended = self.run(waits) => ended,
            () = account.evicted() => Err(End::Gone),
        }
    }

    async fn run(&mut self, waits: bool) -> Result<(), End> {
        let (mut held, mut has_answered) = (Tally::of(&self.asker.account), false);
        if waits {
            self.server = Some(self.connect().await?);
            self.asker.grant()?;
        }
        loop {
            let drain = self.gateway.drain.clone();
            let head = tokio::select! {
                head = self.asker.head() => match head {
                    // The client needs the stream no more, and everything on it is complete.
                    Err(Gone) if has_answered && self.asker.is_idle() => return Ok(()),
                    head => head?,
                },
                () = drain.cancelled(), if self.asker.is_granted() => return Ok(()),
            };
            let Some(head) = head else { return Ok(()) };
            if !self.asker.account.may_take().await {
                return Err(End::Gone);
            }
            let mut request =
                RequestHead::parse_of_node(&head).map_err(|_malformed| End::Broken("a malformed request"))?;
            let asked = OwnFields::take(&mut request, self.is_secure);
            let head = asked.head(head, &request);
            let origin = Origin { target: &self.target, is_secure: self.is_secure };
            let is_for_all =
                policy::concerns_cache(&request) && !(self.is_secure && policy::has_private_fields(&request));
            let uri = if is_for_all { self.uris.of(origin, &request) } else { None };
            // Besides the head, the URI is held in the request, by itself and in the key of a fetch.
            let addresses = uri.as_ref().map_or(0, |uri| 3 * uri.len());
            held.set(beyond(head.len() + request.fields.memory() + addresses));
            self.is_pinned |= request.logs_in_connection();
            let next = match uri.filter(|_| !self.is_pinned) {
                Some(uri) if asked.discards || asked.digest.is_some() || !self.goes_alone(&request, &uri) => {
                    if asked.discards {
                        self.cache.discard(&uri, asked.digest.clone()).await;
                    }
                    (self.credential, self.digest) = (asked.credential, asked.digest);
                    self.is_part = asked.is_part;
                    Box::pin(self.share(head, &request, uri)).await?
                }
                uri => match self.serve_ranges(&request).await? {
                    Some(next) => next,
                    None => {
                        if uri.is_some() {
                            self.gateway.telemetry.cache.one("passed");
                        }
                        Box::pin(self.pass(head, &request)).await?
                    }
                },
            };
            held.set(0);
            match next {
                Next::Request => has_answered = true,
                Next::End => return Ok(()),
            }
        }
    }

    /// Whether a request for `uri` goes past the cache: nothing is stored for it, and its response is known to be for nobody
    /// else.
    fn goes_alone(&self, request: &RequestHead, uri: &str) -> bool {
        self.cache.is_known_for_one(uri)
            && !self.cache.store.may_have(uri)
            && !policy::is_for_cache_alone(request)
    }

    /// The idle connection to the server.
    fn idle(&mut self) -> Option<Server> {
        let lent = self.lent.take();
        let mut server = self.server.take().or_else(|| lent.and_then(|mut lent| lent.try_recv().ok()))?;
        server.charge_to(&self.asker.account);
        Some(server)
    }

    /// Connects to the server, unless the client gives up meanwhile.
    async fn connect(&mut self) -> Result<Server, End> {
        let account = self.asker.account.clone();
        let connecting =
            Server::connect(&self.gateway, (&self.target, self.asker.member), self.is_secure, &account);
        let connecting = Box::pin(connecting);
        tokio::select! {
            connected = connecting => connected.map_err(End::Refused),
            () = self.asker.gone() => Err(End::Gone),
        }
    }
}
