//! All streams of one connection, and everything that changes more than one part of their state.
//!
//! The parts keep their own invariants: [`Store`] which streams there are, [`Counts`] how many are open, [`SendFlow`] and
//! [`RecvFlow`] the windows, [`SettingsExchange`], [`Ping`] and [`Shutdown`] what concerns the whole connection. What the
//! handles ask for is in `requests`, what the peer sends in `peer`, and what is to be written in `output`.

mod output;
mod peer;
mod requests;
mod unowned;

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::{Context, Waker};

use http::Request;
use laneway_limits::memory::Account;

use super::closed::{Closed, ClosedBy};
use super::control::ControlQueue;
use super::counts::Counts;
use super::frame::{FIRST_WINDOW, Kind, MAX_STREAM_ID, Settings};
use super::ownerless::Ownerless;
use super::ping::{self, Ping};
use super::recv::RecvFlow;
use super::send::SendFlow;
use super::settings::SettingsExchange;
use super::shutdown::Shutdown;
use super::store::Store;
use super::stream::Stream;
use super::waker::register;
use super::{Config, Error, Reason, Side};

pub(super) use output::Outgoing;

/// How many requests may wait to be accepted before no more frames are read: a header block of some bytes can stand for the
/// longest list of fields (RFC 7541 §7.3).
const MAX_UNACCEPTED: usize = 64;
/// What one stream costs besides what is queued on it, in bytes.
const STREAM: usize = size_of::<Stream>() + 64;

/// The state of one connection.
// fields: each is one part of the state with invariants of its own
pub(super) struct Streams {
    config: Config,
    control: ControlQueue,
    settings: SettingsExchange,
    store: Store,
    counts: Counts,
    closed: Closed,
    send: SendFlow,
    recv: RecvFlow,
    accept: AcceptQueue,
    ownerless: Ownerless,
    /// The account to which streams without one of their own are charged.
    account: Option<Arc<Account>>,
    ping: Ping,
    shutdown: Shutdown,
    /// The task that writes.
    driver: Option<Waker>,
}

/// Requests that were received, and not accepted yet.
#[derive(Debug, Default)]
struct AcceptQueue {
    requests: VecDeque<Unaccepted>,
    /// How many of these requests the peer has reset.
    resets: usize,
}

/// A request that was received, and not accepted yet.
#[derive(Debug)]
struct Unaccepted {
    id: u32,
    request: Request<()>,
    is_reset_by_peer: bool,
}

impl Streams {
    /// The state before anything was sent or received. The preface and the first SETTINGS wait to be sent.
    pub(super) fn new(side: Side, config: Config) -> Self {
        let is_client = side == Side::Client;
        let mut control = ControlQueue::default();
        if is_client {
            control.preface();
        }
        control.settings(&Settings {
            table: None,
            push: is_client.then_some(false),
            streams: (!is_client).then_some(config.max_concurrent_streams),
            window: Some(config.stream_window),
            frame: Some(config.max_frame_size),
            fields: Some(config.max_header_list_size),
            extended_connect: (!is_client).then_some(true),
        });
        let increment = config.connection_window.saturating_sub(FIRST_WINDOW);
        if increment > 0 {
            control.window_update(0, increment);
        }
        Self {
            config,
            control,
            settings: SettingsExchange::new(&config),
            store: Store::default(),
            counts: Counts::new(side),
            closed: Closed::new(),
            send: SendFlow::new(FIRST_WINDOW),
            recv: RecvFlow::new(FIRST_WINDOW + increment),
            accept: AcceptQueue::default(),
            ownerless: Ownerless::default(),
            account: None,
            ping: Ping::default(),
            shutdown: Shutdown::default(),
            driver: None,
        }
    }

    /// Wakes the current task when there is something to write.
    pub(super) fn drive(&mut self, cx: &Context<'_>) {
        register(&mut self.driver, cx);
        self.end_evicted();
    }

    /// Charges what is queued on streams without an account of their own to `account`.
    pub(super) fn charge_to(&mut self, account: &Arc<Account>) {
        self.account = Some(account.clone());
        self.store.iter_mut().for_each(|stream| stream.charge_to(account));
    }

    /// Stores a stream.
    fn insert(&mut self, id: u32, mut stream: Stream) {
        if let Some(account) = &self.account {
            stream.charge_to(account);
        }
        self.store.insert(id, stream);
    }

    /// The memory of everything but what is queued on streams, in bytes.
    pub(super) fn fixed_memory(&self) -> usize {
        self.control.memory() + self.send.memory() + self.store.len() * STREAM
    }

    /// The memory of what is queued on all streams, in bytes: as accounted, and as found by walking the queues.
    pub(super) fn queued_memory(&self) -> (usize, usize) {
        let streams = self.store.iter().map(Stream::memory);
        streams.fold((0, 0), |sum, stream| (sum.0 + stream.0, sum.1 + stream.1))
    }

    fn wake_driver(&self) {
        if let Some(driver) = &self.driver {
            driver.wake_by_ref();
        }
    }

    /// Whether no more frames may be read until the peer reads the answers to earlier ones.
    pub(super) fn is_backlogged(&self) -> bool {
        self.control.is_full(self.counts.side())
    }

    /// Whether no more frames may be read until the requests received so far are accepted.
    pub(super) fn has_to_accept(&self) -> bool {
        self.accept.requests.len() >= MAX_UNACCEPTED
    }

    /// Whether the peer has begun to speak HTTP/2.
    pub(super) fn is_greeted(&self) -> bool {
        self.settings.is_greeted()
    }

    /// Announces another receive window for every stream; false while the last one is not acknowledged.
    pub(super) fn announce_window(&mut self, window: u32) -> bool {
        let Some(settings) = self.settings.announce(window) else { return false };
        self.control.settings(&settings);
        self.wake_driver();
        true
    }

    /// Accepts no more streams, except those that the peer opens before it learns of that.
    pub(super) fn drain(&mut self) {
        if self.shutdown.begin_drain() {
            self.go_away(MAX_STREAM_ID, Reason::NO_ERROR);
            self.control.push(Kind::Ping, 0, 0, &ping::DRAINED);
        }
    }

    /// Ends the connection once no stream is open.
    pub(super) fn retire(&mut self) {
        self.shutdown.retire();
        self.wake_driver();
    }

    /// Whether no new stream can be opened.
    pub(super) fn is_closing(&self) -> bool {
        self.shutdown.is_closing()
    }

    /// Whether no stream is open, and none will be.
    pub(super) fn is_done(&self) -> bool {
        self.shutdown.ends_with_last_stream() && self.counts.open() == 0
    }

    /// Queues the last GOAWAY of a connection that is done. False when it was queued before.
    pub(super) fn say_farewell(&mut self) -> bool {
        let is_first = self.shutdown.say_farewell();
        if is_first {
            self.go_away(self.counts.last(), Reason::NO_ERROR);
        }
        is_first
    }

    /// How the connection has ended, once it is done.
    pub(super) fn outcome(&self) -> Result<(), Error> {
        self.shutdown.outcome()
    }

    /// How many streams are open.
    pub(super) fn open(&self) -> u32 {
        self.counts.open()
    }

    /// Ends the connection and all streams, because the peer broke the protocol.
    pub(super) fn fail(&mut self, reason: Reason) {
        self.go_away(self.counts.last(), reason);
        self.end(&Error::GoAway(reason));
    }

    /// Ends all streams: the connection has ended.
    pub(super) fn end(&mut self, error: &Error) {
        if self.shutdown.end(error) {
            self.send.clear();
            for id in self.store.ids() {
                self.abort(id, error.clone(), ClosedBy::Us);
            }
            self.ping.wake();
            self.counts.wake_waiting();
        }
    }

    fn go_away(&mut self, last: u32, reason: Reason) {
        self.control.go_away(last, reason);
        self.wake_driver();
    }

    /// Resets a stream, and drops what is queued on it.
    pub(super) fn reset(&mut self, id: u32, reason: Reason) {
        if self.store.get(id).is_none_or(|stream| stream.is_closed()) {
            return;
        }
        self.control.reset(id, reason);
        self.wake_driver();
        self.abort(id, Error::Reset(reason), ClosedBy::Us);
    }

    /// Ends both directions of a stream.
    fn abort(&mut self, id: u32, error: Error, by: ClosedBy) {
        let Some(stream) = self.store.get_mut(id) else { return };
        let dropped = stream.abort(error, by);
        if dropped > 0 {
            self.send.dropped(dropped);
            self.feed_starved();
        }
        self.settle(id);
    }

    /// Wakes the streams that wait for the connection's window.
    fn feed_starved(&mut self) {
        for id in self.send.starved() {
            if let Some(stream) = self.store.get_mut(id) {
                stream.send.feed();
            }
        }
    }

    /// Puts a stream in line to send.
    fn schedule(&mut self, id: u32) {
        let Some(stream) = self.store.get_mut(id) else { return };
        if self.send.schedule(id, &mut stream.send) {
            self.wake_driver();
        }
    }

    /// Counts bytes of any stream as read.
    fn release_connection(&mut self, count: u32) {
        if let Some(increment) = self.recv.release(count) {
            self.control.window_update(0, increment);
            self.wake_driver();
        }
    }

    /// Notes whether a stream has closed, and forgets it when no handle of it is left.
    fn settle(&mut self, id: u32) {
        let Some(stream) = self.store.get_mut(id) else { return };
        if !stream.is_closed() {
            return;
        }
        let was_open = std::mem::replace(&mut stream.is_counted, false);
        let is_held = stream.handles > 0;
        if was_open {
            self.closed.add(id, stream.closed_by);
            self.counts.close();
            if self.is_done() {
                self.wake_driver();
            }
        }
        if !is_held {
            let held = self.store.remove(id).map_or(0, |mut stream| stream.recv.forget_held());
            self.release_connection(held);
        }
    }
}
