//! A response whose body comes in pieces: from what this node keeps, from other members, and the rest from the gateway. A piece
//! from a member is verified before the app gets a byte of it.

use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, SocketAddrV6};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep_until;
use tokio_util::sync::CancellationToken;

use super::assembly::{Action, Assembly};
use super::exchange::{Exchange, Trouble};
use super::response::cut_off;
use super::several::Prospect;
use crate::cache::policy::{self, Origin};
use crate::cache::stored::Stored;
use crate::link::relay::Progress;
use crate::link::request::Transport;
use crate::local::members::{Failed, Members};
use crate::local::server_connection::{FromServer, ToServer};
use crate::memory::Tally;
use crate::net;
use crate::sharing::Keeping;
use crate::wire::http::ResponseHead;
use crate::wire::id::NodeId;
use crate::wire::sharing::{self, FromClient, FromGateway};

/// After this time the gateway is asked again for the rest of a body without messages, if others got the body before.
const ASKED_AGAIN: Duration = Duration::from_secs(2);

/// The result of asking for a piece.
struct Came {
    index: u32,
    /// Which member was asked; `None` for this node itself.
    member: Option<NodeId>,
    piece: Result<Bytes, Failed>,
    at: Instant,
}

/// A member that was asked for a piece, and when something of it came last.
struct Heard {
    member: NodeId,
    begun: Instant,
    /// In milliseconds since `begun`; 0 if nothing has come.
    after: AtomicU64,
    /// Nobody waits for it any more.
    is_over: CancellationToken,
}

// fields: where pieces come from and go, and what is to become of the rest
/// One body on its way.
struct Coming<'a> {
    members: &'a Members,
    assembly: Assembly,
    keeping: Keeping,
    fetches: FuturesUnordered<BoxFuture<'a, Option<Came>>>,
    /// The members that were asked last, by the number of the piece.
    heard: HashMap<u32, Arc<Heard>>,
    /// What has come while the app was being written to.
    arrived: Vec<Came>,
    /// The gateway knows that this node does not keep the body.
    is_silent: bool,
    held: Tally,
    /// The address of the gateway that sends the body.
    gateway: Option<SocketAddr>,
    /// How many bytes the app lacks.
    left: u64,
    /// Kept while the rest may come over several gateways.
    prospect: Option<Prospect>,
    /// The offset from which the gateway was asked for the rest without messages; and when to ask again, as others got the body.
    plain_from: Option<u64>,
    asks: Option<Instant>,
}

/// The address of a member that the gateway has named; a link-local one is reached by the interface that leads to the gateway.
fn beside(gateway: Option<SocketAddr>, ip: IpAddr, port: u16) -> SocketAddr {
    match (ip, gateway) {
        (IpAddr::V6(ip), Some(gateway)) if ip.is_unicast_link_local() => {
            SocketAddrV6::new(ip, port, 0, net::interface_beside(gateway).unwrap_or(0)).into()
        }
        _ => SocketAddr::new(ip, port),
    }
}

impl Exchange<'_> {
    /// Whether the body of this response comes in pieces: the gateway has accepted what this node has offered. The field that
    /// says so is removed, whoever sent it.
    pub(super) fn comes_in_pieces(&self, response: &mut ResponseHead) -> bool {
        let Some(value) = response.fields.get(sharing::FIELD).map(<[u8]>::to_vec) else { return false };
        response.fields.remove(sharing::FIELD);
        let members = self.local.members.as_ref();
        members.is_some_and(|members| {
            let offer = sharing::Offer { secret: members.secret, port: None };
            offer.answer().as_bytes() == value
        })
    }

    /// What is kept of this response for other members.
    pub(super) fn stored(&self, response: &ResponseHead) -> Stored {
        let origin = Origin { target: self.target, is_secure: self.transport() == Transport::Https };
        let uri = policy::uri(origin, self.request).unwrap_or_default();
        let total = response.content_length.unwrap_or(0);
        Stored {
            status: response.status,
            reason: response.reason.to_vec(),
            ..Stored::of_body(uri, total, SystemTime::now())
        }
    }

    /// Passes on a body that comes in pieces. If there is a prospect that several gateways do more than this one alone, and
    /// nobody else gets the body, its rest comes over all of them.
    ///
    /// # Errors
    /// [`Trouble`].
    pub(super) async fn shared(
        &self,
        (to, from): (&mut ToServer<'_>, &mut FromServer<'_>),
        head: &mut BytesMut,
        buffer: &mut BytesMut,
        stored: Stored,
        (progress, as_chunks, prospect): (&Progress<'_>, bool, Option<Prospect>),
    ) -> Result<(), Trouble> {
        let total = stored.total;
        let (Some(members), Some(assembly)) = (self.local.members.as_ref(), Assembly::new(total)) else {
            return Err(Trouble::Truncated("a body of this length does not come in pieces".into()));
        };
        let mut coming = Coming {
            members,
            assembly,
            keeping: Keeping::new(&members.holdings, stored),
            fetches: FuturesUnordered::new(),
            heard: HashMap::new(),
            arrived: Vec::new(),
            is_silent: false,
            held: Tally::of(self.account),
            gateway: self.gateway(),
            left: total,
            prospect,
            plain_from: None,
            asks: None,
        };
        self.assemble(&mut coming, (to, from), head, buffer, (progress, as_chunks)).await?;
        let Coming { left, prospect, plain_from, .. } = coming;
        let (Some(prospect), Some(plain_from)) = (prospect.filter(|_| left > 0), plain_from) else {
            return Ok(());
        };
        // What has come in pieces since the rest was asked for comes once more.
        let mut again = total - left - plain_from;
        while again > 0 || buffer.is_empty() {
            if buffer.is_empty() {
                buffer.extend_from_slice(&self.next_of_body(from, head).await?);
            }
            let count = usize::try_from(again).map_or(buffer.len(), |again| again.min(buffer.len()));
            buffer.advance(count);
            again -= count as u64;
        }
        let data = buffer.split().freeze();
        Box::pin(self.over_several(prospect, from, data, left, progress)).await
    }

    /// Passes on a body in pieces until the app has all of it, or the rest comes without messages.
    ///
    /// # Errors
    /// [`Trouble`].
    async fn assemble(
        &self,
        coming: &mut Coming<'_>,
        (to, from): (&mut ToServer<'_>, &mut FromServer<'_>),
        head: &mut BytesMut,
        buffer: &mut BytesMut,
        (progress, as_chunks): (&Progress<'_>, bool),
    ) -> Result<(), Trouble> {
        if !coming.keeping.is_on()
            && let Some(news) = coming.news(false)
        {
            to.send(news).await.map_err(|error| cut_off(&error))?;
        }
        loop {
            if coming.read(buffer)? {
                return Ok(());
            }
            // The memory also counts while the app takes it.
            coming.held.set(coming.assembly.held() + buffer.capacity());
            for came in std::mem::take(&mut coming.arrived) {
                self.came(coming, came, to).await?;
            }
            while let Some(bytes) = coming.assembly.take() {
                // Before the app has all of it, because the app may leave then.
                if let Some(whole) = coming.assembly.finished() {
                    let is_kept = coming.keeping.keep(whole.start, whole.bytes).await;
                    if let Some(news) = coming.news(is_kept) {
                        // What the gateway knows of this node matters only to others.
                        let _ = to.send(news).await;
                    }
                }
                let count = bytes.len();
                coming.while_putting(self.put_body(from, head, bytes, as_chunks)).await?;
                self.guard();
                progress.add_received(count);
                coming.left -= count as u64;
                if let Some((_, still)) = self.point().as_mut() {
                    *still = coming.left;
                }
            }
            if coming.assembly.is_done() {
                return Ok(());
            }
            if !coming.arrived.is_empty() {
                continue;
            }
            let mut say = BytesMut::new();
            coming.act(&mut say, self.account.is_tight());
            coming.ask_for_rest(&mut say);
            coming.held.set(coming.assembly.held() + buffer.capacity());
            if !say.is_empty() {
                to.send(say.freeze()).await.map_err(|error| cut_off(&error))?;
            }
            let (wakes, since) = (coming.assembly.wakes(), Instant::now());
            tokio::select! {
                biased;
                Some(came) = coming.fetches.next(), if !coming.fetches.is_empty() => coming.arrived.extend(came),
                // The rest may be had by Range, as when the link is lost.
                data = self.next_of_body(from, head) => buffer.extend_from_slice(&data.map_err(resumable)?),
                () = sleep_until(wakes.unwrap_or_else(Instant::now).into()), if wakes.is_some() => {}
            }
            coming.prospect.iter_mut().for_each(|prospect| prospect.waited(since.elapsed()));
        }
    }

    /// Takes the result of asking for a piece.
    async fn came(&self, coming: &mut Coming<'_>, came: Came, to: &mut ToServer<'_>) -> Result<(), Trouble> {
        let Came { index, member, piece, at } = came;
        if coming.heard.get(&index).is_some_and(|heard| Some(heard.member) == member) {
            coming.heard.remove(&index);
        }
        let telemetry = &self.local.telemetry;
        let (length, failed) = (piece.as_ref().map_or(0, Bytes::len), piece.as_ref().err().copied());
        let is_new = coming.assembly.came(index, member, piece.ok(), at);
        match (member, failed) {
            (Some(_), None) if is_new => {
                telemetry.pieces.one("received");
                telemetry.peer_received.many(length as u64);
            }
            (Some(_), None) => telemetry.pieces.one("late"),
            (Some(member), Some(failed)) => {
                telemetry.pieces.one(failed.word());
                if let Some(Action::Ask(instead)) = coming.assembly.failed(member) {
                    let mut say = BytesMut::new();
                    FromClient::Ask { instead }.write(&mut say);
                    to.send(say.freeze()).await.map_err(|error| cut_off(&error))?;
                }
            }
            (None, None) => telemetry.pieces.one("own"),
            (None, Some(_)) => coming.assembly.unlisted(index),
        }
        Ok(())
    }
}

/// A body in pieces that was cut off is resumed without pieces: the gateway may have become unable to give them.
fn resumable(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Truncated(why) | Trouble::CutOff(why) => Trouble::Lost(why),
        trouble => trouble,
    }
}

fn malformed() -> Trouble {
    Trouble::Truncated("the gateway sent something that is no piece".into())
}

impl Heard {
    fn of(member: NodeId) -> Self {
        Self { member, begun: Instant::now(), after: AtomicU64::new(0), is_over: CancellationToken::new() }
    }

    /// Notes that something has come.
    fn note(&self) {
        let after = u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.after.store(after.max(1), Ordering::Relaxed);
    }

    fn last(&self) -> Option<Instant> {
        let after = self.after.load(Ordering::Relaxed);
        (after > 0).then(|| self.begun + Duration::from_millis(after))
    }
}

impl Coming<'_> {
    /// What to tell the gateway about the pieces that the app has: their number; or, once, that this node keeps none or no more.
    fn news(&mut self, is_kept: bool) -> Option<Bytes> {
        let news = match is_kept {
            true => FromClient::Have { count: self.assembly.finished_count() },
            false if std::mem::replace(&mut self.is_silent, true) => return None,
            false => FromClient::Mute,
        };
        let mut say = BytesMut::new();
        news.write(&mut say);
        Some(say.freeze())
    }

    /// Takes what the gateway has said. Returns whether the rest of the body follows without messages.
    fn read(&mut self, buffer: &mut BytesMut) -> Result<bool, Trouble> {
        while let Some(message) = FromGateway::read(buffer).map_err(|_malformed| malformed())? {
            match message {
                FromGateway::Listed { index, hash } => self.assembly.listed(index, hash),
                FromGateway::ListEnds => self.assembly.list_ended(),
                FromGateway::Alone => self.assembly.named(None),
                FromGateway::Plain if self.plain_from.is_some() => return Ok(true),
                FromGateway::Pieces if self.plain_from.is_some() => {
                    (self.plain_from, self.asks) = (None, Some(Instant::now() + ASKED_AGAIN));
                }
                FromGateway::Plain | FromGateway::Pieces => return Err(malformed()),
                FromGateway::Fails { id } => self.members.leave(id),
                FromGateway::Member { id, ip, port } => {
                    self.prospect = self.prospect.take().filter(|_| self.plain_from.is_some());
                    self.assembly.named(Some((id, beside(self.gateway, ip, port))));
                }
                FromGateway::Data { index, bytes } => {
                    if !self.assembly.data(index, bytes) {
                        return Err(malformed());
                    }
                }
                FromGateway::Cancelled { index } => {
                    if !self.assembly.cancelled(index) {
                        return Err(malformed());
                    }
                }
            }
        }
        Ok(false)
    }

    /// Asks the gateway for the rest without messages once it is worth asking other gateways, too.
    fn ask_for_rest(&mut self, say: &mut BytesMut) {
        let left = self.left;
        let may_ask = self.plain_from.is_none() && self.asks.is_none_or(|at| Instant::now() >= at);
        if may_ask && self.prospect.as_ref().is_some_and(|prospect| prospect.is_due(left)) {
            let from = self.assembly.total() - left;
            self.plain_from = Some(from);
            FromClient::Plain { from }.write(say);
        }
    }
}

impl<'a> Coming<'a> {
    /// Waits until the app has taken bytes. Pieces from members are received meanwhile: a slow app must not make them late.
    async fn while_putting(&mut self, put: impl Future<Output = Result<(), Trouble>>) -> Result<(), Trouble> {
        let mut put = std::pin::pin!(put);
        loop {
            tokio::select! {
                biased;
                done = &mut put => return done,
                Some(came) = self.fetches.next(), if !self.fetches.is_empty() => self.arrived.extend(came),
            }
        }
    }

    /// Asks for what is to come next.
    fn act(&mut self, say: &mut BytesMut, is_tight: bool) {
        let members = self.members;
        let passed = self.assembly.finished_count();
        for (_, heard) in self.heard.extract_if(|index, _| *index < passed) {
            heard.is_over.cancel();
        }
        for (index, heard) in &self.heard {
            heard.last().into_iter().for_each(|at| self.assembly.heard(*index, heard.member, at));
        }
        let actions = self.assembly.actions(Instant::now(), is_tight, |hash| members.holdings.has(hash));
        for action in actions {
            match action {
                Action::Own(index, hash) => self.fetches.push(Box::pin(async move {
                    let piece = members.holdings.get(hash).await.ok_or(Failed::Missing);
                    Some(Came { index, member: None, piece, at: Instant::now() })
                })),
                Action::Member(index, hash, id, at) => {
                    let length = self.assembly.length(index);
                    let heard = Arc::new(Heard::of(id));
                    if let Some(former) = self.heard.insert(index, heard.clone()) {
                        former.is_over.cancel();
                    }
                    self.fetches.push(Box::pin(async move {
                        let got = members.piece((id, at), hash, length, || heard.note());
                        let piece = heard.is_over.run_until_cancelled(got).await?;
                        Some(Came { index, member: Some(id), piece, at: Instant::now() })
                    }));
                }
                Action::Gateway(index) => FromClient::Want { index }.write(say),
                Action::Late(index) => FromClient::Late { index }.write(say),
                Action::Cancel(index) => FromClient::Cancel { index }.write(say),
                Action::Ask(instead) => {
                    // The member was too slow.
                    members.leave(instead);
                    FromClient::Ask { instead }.write(say);
                }
            }
        }
    }
}
