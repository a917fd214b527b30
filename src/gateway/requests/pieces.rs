//! A large body for a client that takes it in pieces: the client gets the hashes of the pieces, the names of members that have
//! them, and from this gateway only the pieces that it asks for.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use http::Method;

use super::reading::read_stored;
use super::{End, Stream};
use crate::cache::answer::Answer;
use crate::cache::growing::{Broken, Growing, Reader};
use crate::cache::pieces::Listed;
use crate::cache::store::{self, Body, Store};
use crate::cache::stored::Stored;
use crate::gateway::cache::Cache;
use crate::gateway::swarms::{Named, Place, Turn};
use crate::limits::buffer_pool::memory_of;
use crate::memory::{Account, Tally};
use crate::net;
use crate::wire::http::RequestHead;
use crate::wire::id::NodeId;
use crate::wire::sharing::{self, FromClient, FromGateway, MOST_DATA, MOST_WANTED, Offer};

/// Maximum bytes of messages that are written before they are sent, and maximum hashes among them: no account counts them.
const MOST_SAID: usize = 16 * 1024;
const MOST_LISTED: usize = 256;

/// Where a body comes from.
pub(super) enum Source {
    /// It is being fetched. The reader keeps the fetch going.
    Growing { body: Arc<Growing>, _kept: Reader },
    /// It is stored, and these are the hashes of its pieces.
    Stored(Arc<Body>, Vec<Listed>),
}

/// A response that a client takes in pieces.
pub(super) struct Shared {
    head: Bytes,
    offer: Offer,
    total: u64,
    /// The number of pieces.
    count: u32,
}

/// The piece that is being sent.
struct Sending {
    index: u32,
    at: u64,
    end: u64,
    reader: Option<Reader>,
    /// None while others come first.
    turn: Option<Turn>,
}

/// The state of one stream of pieces.
struct Session {
    source: Source,
    place: Place,
    /// What the client wants next, in order.
    wanted: VecDeque<u32>,
    sending: Option<Sending>,
    /// The pieces that were sent last.
    given: VecDeque<u32>,
    /// How many hashes the client has got; `None` once it has all.
    listed: Option<usize>,
    /// What is about to be said.
    out: BytesMut,
    /// The bytes of pieces that were sent.
    sent: u64,
    is_complete: bool,
    /// The client takes the rest of the body without messages; and from where, until the rest is being sent.
    is_plain: bool,
    plain_from: Option<u64>,
}

impl Stream<'_> {
    /// The response with this head in pieces, if it can be sent so and the client takes them.
    pub(super) fn shared(
        &self,
        request: &RequestHead,
        answer: Answer,
        stored: &Stored,
        head: Bytes,
    ) -> Option<Shared> {
        let (offer, _) = self.offer?;
        let count = sharing::pieces(stored.total)?;
        let is_whole = answer == Answer::Whole && stored.status == 200 && request.method == Method::GET;
        let without_end = head.strip_suffix(b"\r\n")?;
        let field = format!("{}: {}\r\n\r\n", sharing::FIELD, offer.answer());
        let head = [without_end, field.as_bytes()].concat().into();
        is_whole.then_some(Shared { head, offer, total: stored.total, count })
    }

    /// Sends a response in pieces until the client has enough. Returns how many bytes the client need not be sent any more.
    pub(super) async fn send_pieces(&mut self, shared: Shared, source: Source, id: u64) -> Result<u64, End> {
        let Shared { head, offer, total, count } = shared;
        let (from, member) = (self.offer.and_then(|(_, from)| from), self.asker.member);
        let interface = from.and_then(net::interface_beside);
        let place = self.gateway.swarms.enter(id, member, (from, interface), offer.port);
        let mut session = Session {
            source,
            place,
            wanted: VecDeque::new(),
            sending: None,
            given: VecDeque::new(),
            listed: Some(0),
            out: BytesMut::from(head),
            sent: 0,
            is_complete: false,
            is_plain: false,
            plain_from: None,
        };
        let membership = self.gateway.membership.clone();
        let is_allowed = move |id| !membership.revokes(id);
        session.name(&is_allowed);
        let (cache, account) = (self.cache.clone(), self.asker.account.clone());
        let store = cache.store.clone();
        let (mut from, mut to) = self.asker.halves()?;
        loop {
            while session.out.len() < MOST_SAID
                && let Some(message) =
                    FromClient::read(from.buffer).map_err(|_malformed| End::Broken("a malformed message"))?
            {
                session.take(&message, (count, total), (&cache, &account), &is_allowed)?;
            }
            let has_more = session.out.len() >= MOST_SAID;
            if !session.out.is_empty() {
                to.send(session.out.split().freeze()).await?;
            }
            if has_more {
                continue;
            }
            session.begin(total, &account)?;
            if session.is_plain && session.sending.is_none() {
                break;
            }
            tokio::select! {
                biased;
                more = from.more() => if !more? { break },
                listed = session.source.listed(session.listed), if session.listed.is_some() => session.list(&listed),
                () = account.evicted() => return Err(End::Gone),
                read = read(&session.source, &session.place, &mut session.sending, (&store, &account)), if session.sending.is_some() => {
                    let (bytes, _held) = read.map_err(|_broken| End::Broken("the response was cut off"))?;
                    let is_plain = session.is_plain;
                    for (head, bytes) in session.data(bytes) {
                        if !is_plain {
                            to.send(head).await?;
                        }
                        to.send(bytes).await?;
                    }
                }
            }
        }
        if session.is_plain {
            return Ok(session.sent);
        }
        let telemetry = &self.gateway.telemetry;
        if session.is_complete && session.sent < total / 2 {
            telemetry.cache.one("peer");
        }
        Ok(if session.is_complete { total } else { session.sent })
    }
}

impl Source {
    /// The next hashes after the first `known`; none when there will be no more.
    async fn listed(&self, known: Option<usize>) -> Vec<Listed> {
        let known = known.unwrap_or(0);
        match self {
            Self::Growing { body, .. } => {
                let mut listed = body.listed(known).await;
                listed.truncate(MOST_LISTED);
                listed
            }
            Self::Stored(_, pieces) => pieces.iter().skip(known).take(MOST_LISTED).copied().collect(),
        }
    }
}

/// The next bytes of what is being sent, and what counts their memory.
async fn read(
    source: &Source,
    place: &Place,
    sending: &mut Option<Sending>,
    (store, account): (&Arc<Store>, &Arc<Account>),
) -> Result<(Bytes, Tally), Broken> {
    let Some(Sending { at, end, reader, turn, .. }) = sending else { return Err(Broken) };
    if turn.is_none() {
        *turn = Some(place.turn().await);
    }
    match (source, reader) {
        (_, Some(reader)) => {
            let bytes = reader.next().await?.ok_or(Broken)?;
            let mut held = Tally::of(account);
            held.set(memory_of(bytes.len()));
            Ok((bytes, held))
        }
        (Source::Stored(body, _), None) => {
            read_stored((store, account), body, (*at, *end), store::calls::patience(true))
                .await
                .map_err(|_error| Broken)
        }
        (Source::Growing { .. }, None) => Err(Broken),
    }
}

impl Session {
    /// Does what the client asks for.
    fn take(
        &mut self,
        message: &FromClient,
        (count, total): (u32, u64),
        (cache, account): (&Cache, &Account),
        is_allowed: &impl Fn(NodeId) -> bool,
    ) -> Result<(), End> {
        match *message {
            // Sent before the client knew.
            _ if self.is_plain => {}
            FromClient::Plain { from } if from > total => {
                return Err(End::Broken("the rest from beyond the end of the body"));
            }
            FromClient::Plain { .. } if self.is_for_others(cache, account) => {
                FromGateway::Pieces.write(&mut self.out)
            }
            FromClient::Plain { from } => {
                (self.is_plain, self.listed) = (true, None);
                self.plain_from = Some(from).filter(|from| *from < total);
                self.wanted.clear();
                self.sending = None;
                self.place.is_mute();
                FromGateway::Plain.write(&mut self.out);
            }
            FromClient::Want { index } => {
                if index >= count || self.wanted.len() >= MOST_WANTED {
                    return Err(End::Broken("more pieces wanted than there may be"));
                }
                self.wanted.push_back(index);
            }
            FromClient::Ask { instead } => {
                self.place.failed(instead, Instant::now());
                self.name(is_allowed);
            }
            FromClient::Have { count: have } if have >= count && !self.is_complete => {
                self.is_complete = true;
                self.place.complete();
            }
            FromClient::Have { count } => {
                let is_from_here = self.given.iter().any(|index| index + 1 == count);
                self.place.has(count, is_from_here, Instant::now());
            }
            FromClient::Late { index } if index >= count => {
                return Err(End::Broken("a piece that the body does not have is late"));
            }
            FromClient::Late { index } => {
                if let Some(instead) = self.place.late(index, Instant::now(), is_allowed) {
                    instead.fails.into_iter().for_each(|id| FromGateway::Fails { id }.write(&mut self.out));
                    self.say(instead.named);
                }
            }
            FromClient::Cancel { index } => self.cancel(index),
            FromClient::Mute => self.place.is_mute(),
        }
        Ok(())
    }

    /// Whether others get what this client gets: now, as parts over several gateways or in the same way, or later, because it is
    /// stored.
    fn is_for_others(&self, cache: &Cache, account: &Account) -> bool {
        match &self.source {
            Source::Growing { body, .. } => {
                !self.place.is_alone(Instant::now())
                    || cache.is_spread(&body.stored.uri)
                    || body.other_holder(account.holder()).is_some()
            }
            Source::Stored(..) => true,
        }
    }

    /// Sends nothing more of a piece, unless all of it was sent.
    fn cancel(&mut self, index: u32) {
        let before = self.wanted.len();
        self.wanted.retain(|wanted| *wanted != index);
        let sending = self.sending.take_if(|sending| sending.index == index);
        if sending.is_some() || self.wanted.len() < before {
            FromGateway::Cancelled { index }.write(&mut self.out);
        }
    }

    /// Names a member, if there is one.
    fn name(&mut self, is_allowed: &impl Fn(NodeId) -> bool) {
        let named = self.place.name(Instant::now(), is_allowed);
        self.say(named);
    }

    fn say(&mut self, named: Option<Named>) {
        match named {
            Some(Named { id, at }) => {
                FromGateway::Member { id, ip: at.ip(), port: at.port() }.write(&mut self.out);
            }
            None => FromGateway::Alone.write(&mut self.out),
        }
    }

    /// Begins to send the next piece that is wanted, if none is being sent.
    fn begin(&mut self, total: u64, account: &Arc<Account>) -> Result<(), End> {
        if self.sending.is_some() {
            return Ok(());
        }
        let (index, (at, end)) = match self.wanted.pop_front() {
            Some(index) => (index, sharing::range(index, total)),
            None => match self.plain_from.take() {
                Some(from) => (0, (from, total)),
                None => return Ok(()),
            },
        };
        let reader = match &self.source {
            Source::Growing { body, .. } => {
                let reader = body.reader(at, end, account);
                Some(reader.ok_or(End::Broken("what the response began with is gone"))?)
            }
            Source::Stored(..) => None,
        };
        self.sending = Some(Sending { index, at, end, reader, turn: None });
        Ok(())
    }

    /// Tells the client these hashes. An empty list ends them.
    fn list(&mut self, listed: &[Listed]) {
        for &Listed { index, hash } in listed {
            FromGateway::Listed { index, hash }.write(&mut self.out);
        }
        self.listed = self.listed.filter(|_| !listed.is_empty()).map(|known| known + listed.len());
        if self.listed.is_none() {
            FromGateway::ListEnds.write(&mut self.out);
        }
    }

    /// The messages that carry these bytes of the piece that is being sent.
    fn data(&mut self, mut bytes: Bytes) -> Vec<(Bytes, Bytes)> {
        let Some(sending) = &mut self.sending else { return Vec::new() };
        let mut messages = Vec::new();
        let now = Instant::now();
        self.place.takes(now);
        sending.turn.iter().for_each(|turn| turn.takes(bytes.len(), now));
        while !bytes.is_empty() {
            let data = bytes.split_to(MOST_DATA.min(bytes.len()));
            sending.at += data.len() as u64;
            self.sent += data.len() as u64;
            let head = FromGateway::data_head(sending.index, data.len());
            messages.push((Bytes::copy_from_slice(&head), data));
        }
        if sending.at >= sending.end {
            self.given.push_back(sending.index);
            if self.given.len() > MOST_WANTED {
                self.given.pop_front();
            }
            self.sending = None;
        }
        messages
    }
}
