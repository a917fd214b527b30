//! One tunnel: a CONNECT stream of a link. Windows and memory accounts keep one tunnel from slowing down the others.

use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;

use super::alive::{LinkState, OpenTunnel};
use super::queue;
use laneway_h2::{Error, PieceQueue, Reason, RecvStream, SendStream};
use laneway_limits::memory::{Account, Tally};

/// How many pieces one write to a socket gathers at most.
const GATHER: usize = 16;

/// Both directions of one tunnel. If it is dropped before both have ended, the stream is reset once what was queued on it is
/// sent.
#[derive(Debug)]
pub struct Tunnel {
    /// Towards the peer of the link.
    pub outbox: Outbox,
    /// From the peer of the link.
    pub inbox: Inbox,
}

impl Tunnel {
    /// The tunnel of an open stream.
    pub(crate) fn new(outbox: Outbox, inbox: Inbox) -> Self {
        Self { outbox, inbox }
    }

    /// The state of its link.
    pub fn link_state(&self) -> &Arc<LinkState> {
        self.inbox.counted.link_state()
    }

    /// Resets the stream for this reason. What is queued on it is dropped.
    pub fn reset(&mut self, reason: Reason) {
        self.outbox.send.reset(reason);
    }

    /// Counts the bytes that both directions hold in `account` from now on.
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
    link_state: Arc<LinkState>,
}

impl Outbox {
    /// The sending direction on the link with this state.
    pub(super) fn new(send: SendStream, link_state: Arc<LinkState>) -> Self {
        Self { send, account: None, link_state }
    }

    /// Counts the bytes that are queued on the stream in `account` from now on.
    pub(crate) fn charge_to(&mut self, account: &Arc<Account>) {
        self.send.charge_to(account);
        self.account = Some(account.clone());
    }

    /// Waits until at least one byte may be queued for sending; returns how many may, at most `wanted`.
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub fn poll_capacity(&mut self, wanted: usize, cx: &mut Context<'_>) -> Poll<Result<usize, Error>> {
        self.send.poll_capacity(wanted, cx)
    }

    /// Is ready when the peer resets the stream or the link ends.
    pub fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<Error> {
        self.send.poll_reset(cx)
    }

    /// Queues bytes for which [`Outbox::poll_capacity`] gave capacity. Empty ones are not sent: the peer may take empty DATA
    /// frames for an attack (RFC 9113 §10.5).
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub fn send_reserved(&mut self, data: Bytes) -> Result<(), Error> {
        self.link_state.flow().queued(data.len());
        if data.is_empty() { Ok(()) } else { self.send.send_data(data, false) }
    }

    /// Queues all of `data`, waiting for capacity.
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub async fn send(&mut self, mut data: Bytes) -> Result<(), Error> {
        while !data.is_empty() {
            let capacity = poll_fn(|cx| self.poll_capacity(data.len(), cx)).await?;
            self.send_reserved(data.split_to(capacity))?;
        }
        Ok(())
    }

    /// As [`Outbox::send`], for a body: takes turns with the other tunnels of the link.
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub async fn send_in_turn(&mut self, mut data: Bytes) -> Result<(), Error> {
        let link_state = self.link_state.clone();
        let queue = link_state.queue();
        while !data.is_empty() {
            let size = data.len().min(queue.steps().one() as usize);
            let mut count = poll_fn(|cx| self.poll_capacity(size, cx)).await?;
            if count > queue::SMALL {
                // After the capacity, because a tunnel whose reader stalls must not hold a turn. Without one the link has
                // ended, and so has the stream.
                if let Some(turn) = queue.turn(count).await {
                    turn.use_for(count);
                }
                count = count.min(data.len());
            }
            self.send_reserved(data.split_to(count))?;
        }
        Ok(())
    }

    /// Ends this direction in good order (END_STREAM).
    ///
    /// # Errors
    /// When the stream or the link has ended.
    pub fn finish(&mut self) -> Result<(), Error> {
        self.send.send_data(Bytes::new(), true)
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        if self.account.as_ref().is_some_and(|account| account.is_evicted()) {
            // What is queued is dropped, too.
            self.send.reset(Reason::ENHANCE_YOUR_CALM);
        }
    }
}

/// The receiving direction. It moves what has arrived into its own queue at once, and gives window back only for what was
/// consumed, so a reader that stalls holds at most one stream window.
#[derive(Debug)]
pub struct Inbox {
    receive: RecvStream,
    queue: PieceQueue,
    /// The memory of `queue`.
    memory: Tally,
    ended: bool,
    failed: Option<Error>,
    counted: OpenTunnel,
    /// Bytes that were consumed and not given back to the peer's window.
    withheld: usize,
}

impl Inbox {
    /// The receiving direction of an open stream, which counts as open until this is dropped.
    pub(super) fn new(receive: RecvStream, counted: OpenTunnel) -> Self {
        let (queue, memory) = (PieceQueue::default(), Tally::default());
        Self { receive, queue, memory, ended: false, failed: None, counted, withheld: 0 }
    }

    /// Counts the bytes that are queued in `account` from now on.
    pub(crate) fn charge_to(&mut self, account: &Arc<Account>) {
        self.memory.charge_to(account);
    }

    /// A tally of the same account, for what is made of the bytes that were received.
    pub fn tally(&self) -> Tally {
        self.memory.account().map(Tally::of).unwrap_or_default()
    }

    /// The state of its link.
    pub fn link_state(&self) -> &Arc<LinkState> {
        self.counted.link_state()
    }

    /// Resets the stream, because nothing more of it is wanted.
    pub fn cancel(&mut self) {
        self.discard();
        self.receive.reset(Reason::CANCEL);
        self.failed = Some(Reason::CANCEL.into());
    }

    /// Queues what has arrived. Is ready when something did, or when the stream has ended.
    ///
    /// # Errors
    /// When the stream was reset or the link has ended, so that what arrived before is not the whole.
    pub fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        if self.poll_evicted(cx) && self.failed.is_none() {
            self.discard();
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
        let link_state = self.counted.link_state();
        if link_state.flow().arrived(data.len()) {
            link_state.want_proof();
        }
        self.queue.push(data);
        self.memory.set(self.queue.memory());
    }

    /// Keeps an error of [`Inbox::poll_fill`] for [`Inbox::next`] to return.
    pub fn fail_later(&mut self, error: Error) {
        self.failed = Some(error);
    }

    /// The error that was kept.
    pub fn take_failure(&mut self) -> Option<Error> {
        self.failed.take()
    }

    /// Whether the node is out of memory and this tunnel has to end. Otherwise the task is woken once it has to.
    pub fn poll_evicted(&self, cx: &Context<'_>) -> bool {
        self.memory.account().is_some_and(|account| account.poll_evicted(cx))
    }

    /// Nothing is queued; more may arrive.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Nothing more arrives: the peer has ended its direction, or an error was kept.
    pub fn has_ended(&self) -> bool {
        self.ended || self.failed.is_some()
    }

    /// The peer has ended its direction in good order; something may still be queued.
    pub(crate) fn is_complete(&self) -> bool {
        self.ended
    }

    /// The peer has ended its direction in good order, and everything was consumed.
    pub fn is_finished(&self) -> bool {
        self.ended && self.is_empty()
    }

    /// The first pieces of the queue, and how many they are, for a gathered write.
    pub(crate) fn slices(&self) -> ([IoSlice<'_>; GATHER], usize) {
        self.queue.slices()
    }

    /// Drops `count` bytes from the front of the queue, and gives the peer as much window back.
    pub(crate) fn consume(&mut self, count: usize) {
        self.queue.consume(count);
        self.release(count);
    }

    /// The next bytes; `None` at the end in good order.
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

    /// Gives window back, except for what the tunnel does not need beside others, or may not have while memory is tight.
    fn release(&mut self, count: usize) {
        self.memory.set(self.queue.memory());
        let tight = self.memory.account().is_some_and(|account| account.is_tight());
        let (owed, link_state) = (self.withheld + count, self.counted.link_state());
        let step = link_state.queue().steps().one();
        self.withheld = link_state.flow().to_withhold(link_state.tunnels(), tight, step, owed, self.withheld);
        self.receive.release_capacity(owed - self.withheld);
    }

    /// Drops what is queued. The peer gets no window back.
    fn discard(&mut self) {
        self.queue.clear();
        self.memory.set(0);
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.discard();
        self.counted.link_state().flow().withhold(self.withheld, 0);
    }
}
