//! One tunnel: a CONNECT stream of a link, with the discipline that keeps one tunnel from hurting the others.

use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::alive::{OpenTunnel, Pulse};
use super::http2::{Error, PieceQueue, Reason, RecvStream, SendStream};
use crate::memory::Account;

/// The most that one write to a socket gathers, in pieces.
const GATHER: usize = 16;

/// Both directions of one tunnel. Dropping it before both have ended resets the stream, after what was sent on it.
#[derive(Debug)]
pub struct Tunnel {
    /// Towards the peer of the link.
    pub outbox: Outbox,
    /// From the peer of the link.
    pub inbox: Inbox,
}

impl Tunnel {
    /// A tunnel of an established stream.
    pub(crate) fn new(outbox: Outbox, inbox: Inbox) -> Self {
        Self { outbox, inbox }
    }

    /// The pulse of its link.
    pub fn pulse(&self) -> &Arc<Pulse> {
        self.inbox.counted.pulse()
    }

    /// Counts what both directions hold from now on.
    pub fn charge_to(&mut self, account: &Arc<Account>) {
        self.outbox.charge_to(account);
        self.inbox.charge_to(account);
    }
}

/// The sending direction.
#[derive(Debug)]
pub struct Outbox {
    send: SendStream,
    account: Option<Arc<Account>>,
    pulse: Arc<Pulse>,
}

impl Outbox {
    /// On the link with this `pulse`.
    pub(super) fn new(send: SendStream, pulse: Arc<Pulse>) -> Self {
        Self { send, account: None, pulse }
    }

    /// Counts what is queued for sending from now on.
    pub(crate) fn charge_to(&mut self, account: &Arc<Account>) {
        self.account = Some(account.clone());
    }

    /// Waits until at least one byte may be sent; gives how many may, at most `wanted`.
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub fn poll_room(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.send.poll_capacity(wanted, cx)
    }

    /// Is ready when the peer resets the stream or the link ends.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.send.poll_reset(cx)
    }

    /// Sends bytes for which [`Outbox::poll_room`] gave room. Never empty: an empty DATA frame that ends
    /// nothing may be taken for an attack (RFC 9113 §10.5).
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub fn send_reserved(&mut self, data: Bytes) -> Result<(), Error> {
        self.pulse.flow().left(data.len());
        let data = match &self.account {
            _ if data.is_empty() => return Ok(()),
            Some(account) => account.lend(data),
            None => data,
        };
        self.send.send_data(data, false)
    }

    /// Sends all of `data`, waiting for room.
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let room = poll_fn(|cx| self.poll_room(data.len(), cx)).await?;
            self.send_reserved(data.split_to(room))?;
        }
        Ok(())
    }

    /// Ends this direction orderly: END_STREAM.
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.send.send_data(Bytes::new(), true)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.account.as_ref().is_some_and(|account| account.is_condemned()) {
            // What is queued goes too.
            self.send.reset(Reason::ENHANCE_YOUR_CALM);
        }
    }
}

/// The receiving direction: takes what has come at once into its own queue, and gives window back only
/// for what was consumed. So a reader that stalls holds at most one stream window.
#[derive(Debug)]
pub struct Inbox {
    receive: RecvStream,
    queue: PieceQueue,
    ended: bool,
    failed: Option<Error>,
    counted: OpenTunnel,
    account: Option<Arc<Account>>,
    /// Consumed, and not given back to the peer's window.
    withheld: usize,
}

impl Inbox {
    /// Of an established stream; `counted` as open as long as it exists.
    pub(super) fn new(receive: RecvStream, counted: OpenTunnel) -> Self {
        let queue = PieceQueue::default();
        Self { receive, queue, ended: false, failed: None, counted, account: None, withheld: 0 }
    }

    /// Counts what is queued from now on.
    pub(crate) fn charge_to(&mut self, account: &Arc<Account>) {
        account.hold(self.queue.len());
        self.account = Some(account.clone());
    }

    /// The pulse of its link.
    pub(crate) fn pulse(&self) -> &Arc<Pulse> {
        self.counted.pulse()
    }

    /// Takes over what has arrived. Ready when something did, or when the stream has ended.
    ///
    /// # Errors
    /// When the stream was reset or the link has ended: what came before is not the whole.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.poll_condemned(cx) && self.failed.is_none() {
            self.forget();
            return Poll::Ready(Err(Reason::ENHANCE_YOUR_CALM.into()));
        }
        let mut progress = self.has_ended();
        while !self.has_ended() {
            match self.receive.poll_data(cx) {
                Poll::Ready(Some(data)) => self.push(data?),
                Poll::Ready(None) => self.ended = true,
                Poll::Pending if progress => break,
                Poll::Pending => return Poll::Pending,
            }
            progress = true;
        }
        Poll::Ready(Ok(()))
    }

    fn push(&mut self, data: Bytes) {
        if data.is_empty() {
            return;
        }
        let pulse = self.counted.pulse();
        if pulse.flow().arrived(data.len()) {
            pulse.want_proof();
        }
        if let Some(account) = &self.account {
            account.hold(data.len());
        }
        self.queue.push(data);
    }

    /// Puts an error of [`Inbox::poll_fill`] by, for [`Inbox::next`] to give.
    pub fn fail_later(&mut self, error: Error) {
        self.failed = Some(error);
    }

    /// The error that was put by.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failed.take()
    }

    /// Whether the node has no memory left for this tunnel; if it has, the task is woken once it has not.
    pub fn poll_condemned(&self, cx: &Context<'_>) -> bool {
        self.account.as_ref().is_some_and(|account| account.poll_condemned(cx))
    }

    /// Nothing is queued; more may come.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Nothing more comes: the peer has ended its direction, or an error was put by.
    pub fn has_ended(&self) -> bool {
        self.ended || self.failed.is_some()
    }

    /// The peer has ended its direction orderly and everything was consumed.
    pub fn is_finished(&self) -> bool {
        self.ended && self.is_empty()
    }

    /// What is queued, as one gathered write takes it.
    pub(crate) fn slices(&self) -> ([IoSlice<'_>; GATHER], usize) {
        self.queue.slices()
    }

    /// Drops `count` queued bytes from the front and gives the peer as much window back.
    pub(crate) fn consume(&mut self, count: usize) {
        self.release(count);
        self.queue.consume(count);
    }

    /// The next bytes; `None` at the orderly end.
    ///
    /// # Errors
    /// When the stream was reset or the link has ended.
    pub async fn next(&mut self) -> Result<Option<Bytes>, Error> {
        if let Some(error) = self.take_failure() {
            return Err(error);
        }
        while self.is_empty() && !self.ended {
            poll_fn(|cx| self.poll_fill(cx)).await?;
        }
        let next = self.queue.pop();
        if let Some(bytes) = &next {
            self.release(bytes.len());
        }
        Ok(next)
    }

    /// Gives window back, but for what the tunnel does not need beside others, or may not have while memory is tight.
    fn release(&mut self, count: usize) {
        let mut tight = false;
        if let Some(account) = &self.account {
            account.let_go(count);
            tight = account.is_tight();
        }
        let (owed, pulse) = (self.withheld + count, self.counted.pulse());
        let step = pulse.queue().steps().one();
        self.withheld = pulse.flow().to_withhold(pulse.tunnels(), tight, step, owed, self.withheld);
        self.receive.release_capacity(owed - self.withheld);
    }

    /// Drops what is queued; the peer gets no window back.
    fn forget(&mut self) {
        if let Some(account) = &self.account {
            account.let_go(self.queue.len());
        }
        self.queue.clear();
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.forget();
        self.counted.pulse().flow().withhold(self.withheld, 0);
    }
}
