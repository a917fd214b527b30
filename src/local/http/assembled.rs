//! A response whose body comes in pieces: from what this node keeps, from other members, and what they do not give from the
//! gateway. A piece from a member is verified before the app gets a byte of it.

use std::net::SocketAddr;
use std::time::{Instant, SystemTime};

use bytes::{Bytes, BytesMut};
use futures_util::future::BoxFuture;
use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::time::sleep_until;

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
use crate::sharing::Keeping;
use crate::wire::http::ResponseHead;
use crate::wire::id::NodeId;
use crate::wire::sharing::{self, FromClient, FromGateway};

/// What came of asking for a piece.
struct Came {
    index: u32,
    /// Which member was asked; `None` for this node itself.
    member: Option<NodeId>,
    piece: Result<Bytes, Failed>,
    at: Instant,
}

/// One body on its way.
struct Coming<'a> {
    members: &'a Members,
    assembly: Assembly,
    keeping: Keeping,
    fetches: FuturesUnordered<BoxFuture<'a, Came>>,
    /// What has come while the app was being written to.
    arrived: Vec<Came>,
    held: Tally,
}

impl Exchange<'_> {
    /// Whether the body of this response comes in pieces: the gateway has accepted what this node has offered. The field that says
    /// so is removed, whoever sent it.
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

    /// Passes on a body that may come in pieces. It comes plainly if nobody else has it or gets it, and there is a prospect of other
    /// gateways that may do more than this one alone.
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
        if prospect.is_some() && self.goes_on_plainly(to, from, buffer).await? {
            let how = (progress, as_chunks, prospect);
            return self.exact_as(from, head, buffer, stored.total, how).await.map(drop);
        }
        self.assemble((to, from), head, buffer, stored, (progress, as_chunks)).await
    }

    /// Asks the gateway for the plain body in place of pieces, if no other member has it or gets it. What `buffer` has afterwards
    /// belongs to the body.
    ///
    /// # Errors
    /// [`Trouble`].
    async fn goes_on_plainly(
        &self,
        to: &mut ToServer<'_>,
        from: &mut FromServer<'_>,
        buffer: &mut BytesMut,
    ) -> Result<bool, Trouble> {
        // The first message says whether there is a member.
        let mut first = BytesMut::new();
        FromGateway::Alone.write(&mut first);
        while buffer.is_empty() {
            buffer.extend_from_slice(&self.next_of_body(from, &mut BytesMut::new()).await?);
        }
        if !buffer.starts_with(&first) {
            return Ok(false);
        }
        let mut say = BytesMut::new();
        FromClient::Plain.write(&mut say);
        to.send(say.freeze()).await.map_err(|error| cut_off(&error))?;
        loop {
            match FromGateway::read(buffer).map_err(|_malformed| malformed())? {
                Some(FromGateway::Plain) => return Ok(true),
                Some(_) => {}
                None => buffer.extend_from_slice(&self.next_of_body(from, &mut BytesMut::new()).await?),
            }
        }
    }

    /// Passes on a body of `length` bytes that comes in pieces.
    ///
    /// # Errors
    /// [`Trouble`].
    async fn assemble(
        &self,
        (to, from): (&mut ToServer<'_>, &mut FromServer<'_>),
        head: &mut BytesMut,
        buffer: &mut BytesMut,
        stored: Stored,
        (progress, as_chunks): (&Progress<'_>, bool),
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
            arrived: Vec::new(),
            held: Tally::of(self.account),
        };
        let mut left = total;
        loop {
            coming.read(buffer)?;
            // While the app takes it, too.
            coming.held.set(coming.assembly.held() + buffer.capacity());
            for came in std::mem::take(&mut coming.arrived) {
                self.came(&mut coming, came, to).await?;
            }
            while let Some(bytes) = coming.assembly.take() {
                // Before the app has all of it, because the app may leave then.
                if let Some(whole) = coming.assembly.finished() {
                    let is_kept = coming.keeping.keep(whole.start, whole.bytes).await;
                    if coming.assembly.is_done() && is_kept {
                        let mut say = BytesMut::new();
                        FromClient::Have { count: coming.assembly.count() }.write(&mut say);
                        // What the gateway knows of this node matters only to others.
                        let _ = to.send(say.freeze()).await;
                    }
                }
                let count = bytes.len();
                coming.while_putting(self.put_body(from, head, bytes, as_chunks)).await?;
                self.guard();
                progress.add_received(count);
                left -= count as u64;
                if let Some((_, still)) = self.point().as_mut() {
                    *still = left;
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
            coming.held.set(coming.assembly.held() + buffer.capacity());
            if !say.is_empty() {
                to.send(say.freeze()).await.map_err(|error| cut_off(&error))?;
            }
            let wakes = coming.assembly.wakes();
            tokio::select! {
                biased;
                Some(came) = coming.fetches.next(), if !coming.fetches.is_empty() => self.came(&mut coming, came, to).await?,
                // The rest may be had by Range, as when the link is lost.
                data = self.next_of_body(from, head) => buffer.extend_from_slice(&data.map_err(resumable)?),
                () = sleep_until(wakes.unwrap_or_else(Instant::now).into()), if wakes.is_some() => {}
            }
        }
    }

    /// Takes what came of asking for a piece.
    async fn came(&self, coming: &mut Coming<'_>, came: Came, to: &mut ToServer<'_>) -> Result<(), Trouble> {
        let Came { index, member, piece, at } = came;
        let telemetry = &self.local.telemetry;
        let (length, failed) = (piece.as_ref().map_or(0, Bytes::len), piece.as_ref().err().copied());
        let is_new = coming.assembly.came(index, piece.ok(), at);
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

/// A body in pieces that was cut off is resumed plainly: the gateway may have become unable to give its pieces.
fn resumable(trouble: Trouble) -> Trouble {
    match trouble {
        Trouble::Truncated(why) | Trouble::CutOff(why) => Trouble::Lost(why),
        trouble => trouble,
    }
}

fn malformed() -> Trouble {
    Trouble::Truncated("the gateway sent something that is no piece".into())
}

impl Coming<'_> {
    /// Takes what the gateway has said.
    fn read(&mut self, buffer: &mut BytesMut) -> Result<(), Trouble> {
        while let Some(message) = FromGateway::read(buffer).map_err(|_malformed| malformed())? {
            match message {
                FromGateway::Listed { index, hash } => self.assembly.listed(index, hash),
                FromGateway::ListEnds => self.assembly.list_ended(),
                FromGateway::Alone => self.assembly.named(None),
                FromGateway::Plain => return Err(malformed()),
                FromGateway::Member { id, ip, port } => {
                    self.assembly.named(Some((id, SocketAddr::new(ip, port))));
                }
                FromGateway::Data { index, bytes } => {
                    if !self.assembly.data(index, bytes) {
                        return Err(malformed());
                    }
                }
            }
        }
        Ok(())
    }
}

impl<'a> Coming<'a> {
    /// Waits until the app has taken bytes. What comes from members meanwhile is not late because the app is slow.
    async fn while_putting(&mut self, put: impl Future<Output = Result<(), Trouble>>) -> Result<(), Trouble> {
        let mut put = std::pin::pin!(put);
        loop {
            tokio::select! {
                biased;
                done = &mut put => return done,
                Some(came) = self.fetches.next(), if !self.fetches.is_empty() => self.arrived.push(came),
            }
        }
    }

    /// Asks for what is to come next.
    fn act(&mut self, say: &mut BytesMut, is_tight: bool) {
        let members = self.members;
        let actions = self.assembly.actions(Instant::now(), is_tight, |hash| members.holdings.has(hash));
        for action in actions {
            match action {
                Action::Own(index, hash) => self.fetches.push(Box::pin(async move {
                    let piece = members.holdings.get(hash).await.ok_or(Failed::Missing);
                    Came { index, member: None, piece, at: Instant::now() }
                })),
                Action::Member(index, hash, id, at) => {
                    let length = self.assembly.length(index);
                    self.fetches.push(Box::pin(async move {
                        let piece = members.piece((id, at), hash, length).await;
                        Came { index, member: Some(id), piece, at: Instant::now() }
                    }));
                }
                Action::Gateway(index) => FromClient::Want { index }.write(say),
                Action::Ask(instead) => {
                    // It was too slow.
                    members.leave(instead);
                    FromClient::Ask { instead }.write(say);
                }
            }
        }
    }
}
