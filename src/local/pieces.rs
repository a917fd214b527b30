//! Which source fetches which piece of a file next. Pure: no I/O and no clock; what has come and the time go in, requests for
//! ranges come out.
//!
//! The file is cut on a fixed grid of [`PIECE`] bytes, the same for every client, so that requests of several clients for the
//! same piece share one fetch. A source takes the first piece that nobody else would have earlier. So a slow source fetches what
//! is needed late, and at the end of the file nothing at all. The piece that the app waits for is fetched a second time when its
//! source falls silent or is much slower than another one; so is what is missing of it when the source that has sent the most of
//! it is lost while another one is still far behind.

mod meter;
mod trial;

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use self::meter::Meter;
use self::trial::Trial;

/// The size of a piece in bytes. A tenth of a second at 100 Mbit/s: longer than the round trip to most servers, of which each
/// piece costs a part, and short enough that the last pieces of a file end at about the same time.
pub const PIECE: u64 = 1 << 20;

/// After this time without bytes a request counts as stalled, and the piece that the app waits for is asked of another source.
const STALL: Duration = Duration::from_millis(400);
/// That time is at least this multiple of the source's latency.
const STALL_LATENCIES: u32 = 3;
/// A request that would only repeat what another source has sent for longer than this, in seconds, is overtaken: what is missing
/// of the piece that the app waits for is then asked for as if nobody fetched it.
const OVERTAKEN: f64 = 0.25;
/// A source that delivers nothing for this long while another one does is given up.
const GIVE_UP: Duration = Duration::from_secs(5);
/// Maximum number of requests to one source in flight.
const LANES: usize = 6;
/// A source gets its next request once it has no more to send than this multiple of what fills its line, and this part of a
/// piece: the latency varies, and new connections are slow at first.
const IN_FLIGHT: f64 = 2.0;
const AHEAD: f64 = 0.5;
/// A piece is fetched a second time only if that takes less than this part of the time that the first one still needs.
const MUCH_EARLIER: f64 = 0.6;
/// A piece is late if it takes longer than this multiple of the time after which the app needs it, plus these seconds.
const LATE: f64 = 1.25;
const LATE_FROM: f64 = 0.5;
/// The assumed rate of a source that is not yet measured, as a part of the slowest other one's.
const UNKNOWN: f64 = 0.5;
/// The assumed rate while nothing is measured, in bytes per second.
const FIRST_GUESS: f64 = 1_000_000.0;
/// The latency of a source before it is measured.
const FIRST_LATENCY: Duration = Duration::from_millis(50);

/// One source of the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceId(usize);

/// One request for a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct JobId(u64);

/// A request to make.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Job {
    /// Its number.
    pub id: JobId,
    /// The source that is asked.
    pub source: SourceId,
    /// The offset of the first byte.
    pub from: u64,
    /// The offset after the last byte.
    pub end: u64,
}

/// What follows from bytes that have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Received {
    /// The number of the piece that they belong to.
    pub piece: u64,
    /// How many of the first bytes have come from another source before.
    pub skip: u64,
    /// Nothing more of this request is wanted.
    pub is_over: bool,
}

/// The plan of one download.
#[derive(Debug)]
pub struct Plan {
    total: u64,
    /// How far beyond what the app has taken pieces are fetched, in bytes.
    window: u64,
    /// The offset of the first byte that the app has not taken.
    taken: u64,
    /// How many bytes of each piece from `first` on have come.
    pieces: VecDeque<u64>,
    /// The number of the first of these pieces: the one that the app takes bytes of.
    first: u64,
    sources: Vec<Source>,
    jobs: Vec<Running>,
    cancelled: Vec<JobId>,
    next_job: u64,
    trial: Trial,
}

#[derive(Debug)]
struct Source {
    is_used: bool,
    /// It gets nothing new while a trial shows whether it adds anything.
    is_paused: bool,
    meter: Meter,
    /// When bytes came last, or it was asked while it had nothing to do.
    heard: Instant,
    received: u64,
}

/// A request that is under way.
#[derive(Debug)]
struct Running {
    id: JobId,
    source: SourceId,
    /// The number of the piece.
    piece: u64,
    /// The offset of the next byte.
    at: u64,
    asked: Instant,
    last: Instant,
    has_begun: bool,
    /// What it delivers by itself: connections over one line get unequal parts of it.
    meter: Meter,
    /// It goes on with the next piece if that is free: the response has the whole file.
    is_open: bool,
}

impl Plan {
    /// The plan for a file of `total` bytes, of which the app has taken the first `taken`.
    pub fn new(total: u64, taken: u64, window: u64) -> Self {
        Self {
            total,
            window,
            taken,
            pieces: VecDeque::from([taken % PIECE]),
            first: taken / PIECE,
            sources: Vec::new(),
            jobs: Vec::new(),
            cancelled: Vec::new(),
            next_job: 0,
            trial: Trial::default(),
        }
    }

    /// Notes how many bytes per second one source delivered before there were others. Only if all together deliver hardly more is
    /// it worth a trial whether each of them adds something.
    pub fn alone(&mut self, rate: f64) {
        self.trial.alone(rate);
    }

    /// Adds a source that has all of the file.
    pub fn add(&mut self, now: Instant) -> SourceId {
        let id = SourceId(self.sources.len());
        let meter = Meter::default();
        self.sources.push(Source { is_used: true, is_paused: false, meter, heard: now, received: 0 });
        self.trial.put_off(now);
        id
    }

    /// Notes that `source` sends everything that the app has not taken.
    pub fn sends_all(&mut self, source: SourceId, now: Instant) -> JobId {
        self.run(source, self.first, true, now).id
    }

    /// Sets how far beyond what the app has taken pieces are fetched, in bytes.
    pub fn set_window(&mut self, window: u64) {
        self.window = window;
    }

    /// Gives up a source. Its pieces are free for others.
    pub fn remove(&mut self, source: SourceId, now: Instant) {
        self.sources[source.0].is_used = false;
        self.cancel(now, |job| job.source == source);
        self.trial.put_off(now);
    }

    /// Notes that a request has ended early. Its piece is free for others, and for the same source.
    pub fn ended(&mut self, job: JobId, now: Instant) {
        if let Some(at) = self.jobs.iter().position(|running| running.id == job) {
            let source = self.jobs.swap_remove(at).source;
            self.rest(source, now);
        }
    }

    /// Throws away what has come of a piece that turned out to be wrong, and cancels what is still asked of it.
    pub fn discard(&mut self, piece: u64, now: Instant) {
        if let Some(have) = self.index(piece).and_then(|index| self.pieces.get_mut(index)) {
            *have = 0;
        }
        self.cancel(now, |job| job.piece == piece);
    }

    /// Whether a source is in use.
    pub fn uses(&self, source: SourceId) -> bool {
        self.sources[source.0].is_used
    }

    /// How many sources are in use.
    pub fn sources(&self) -> usize {
        self.sources.iter().filter(|source| source.is_used).count()
    }

    /// How many bytes have come from a source, including those that another one had sent before.
    pub fn received_of(&self, source: SourceId) -> u64 {
        self.sources[source.0].received
    }

    /// The bytes per second that a source delivers, as far as that is known.
    pub fn rate(&self, source: SourceId, now: Instant) -> Option<f64> {
        self.sources[source.0].meter.rate(now)
    }

    /// How many bytes of what comes for a request may be given to [`Plan::received`] at once: up to the end of the piece.
    pub fn room(&self, job: JobId) -> u64 {
        self.running(job).map_or(0, |running| self.end_of(running.piece) - running.at)
    }

    /// Whether the app is near enough to what a request brings next.
    pub fn may_read(&self, job: JobId) -> bool {
        self.running(job).is_none_or(|running| running.at < self.taken.saturating_add(self.window))
    }

    /// Notes `count` bytes of a request; no more than [`Plan::room`]. `None` for a request that was cancelled.
    pub fn received(&mut self, job: JobId, count: u64, now: Instant) -> Option<Received> {
        let place = self.jobs.iter().position(|running| running.id == job)?;
        let running = &mut self.jobs[place];
        let source = &mut self.sources[running.source.0];
        if !std::mem::replace(&mut running.has_begun, true) && !running.is_open {
            source.meter.began(now.saturating_duration_since(running.asked), now);
        }
        source.meter.add(count, now);
        running.meter.add(count, now);
        source.received += count;
        (running.last, source.heard) = (now, now);
        running.at += count;
        let (piece, at, source) = (running.piece, running.at, running.source);
        self.trial.add(count);
        let within = at - piece * PIECE;
        let have = self.have(piece);
        if let Some(index) = self.index(piece) {
            self.know(index);
            self.pieces[index] = have.max(within);
        }
        let skip = count - within.saturating_sub(have).min(count);
        if at < self.end_of(piece) {
            return Some(Received { piece, skip, is_over: false });
        }
        self.cancel(now, |other| other.piece == piece && other.id != job);
        let goes_on = self.running(job).is_some_and(|running| running.is_open)
            && !self.sources[source.0].is_paused
            && self.goes_on(source, piece + 1, now);
        if let Some(running) = self.jobs.iter_mut().find(|running| running.id == job).filter(|_| goes_on) {
            running.piece += 1;
        } else {
            self.ended(job, now);
        }
        Some(Received { piece, skip, is_over: !goes_on })
    }

    /// Notes that the app has taken `count` bytes.
    pub fn took(&mut self, count: u64) {
        self.taken += count;
        while self.first * PIECE < self.total && self.taken >= self.end_of(self.first) {
            self.pieces.pop_front();
            self.first += 1;
        }
    }

    /// The number of the piece that the app takes bytes of.
    pub fn first(&self) -> u64 {
        self.first
    }

    /// The offset of the first byte that the app has not taken.
    pub fn taken(&self) -> u64 {
        self.taken
    }

    /// How many of the bytes that the app takes next are there, up to the end of a piece.
    pub fn ready(&self) -> u64 {
        (self.first * PIECE + self.have(self.first)).saturating_sub(self.taken)
    }

    /// The requests that are not wanted any more: another source was faster, or theirs was given up.
    pub fn cancelled(&mut self) -> Vec<JobId> {
        std::mem::take(&mut self.cancelled)
    }

    /// The next request to make, if there is one to make now.
    pub fn next(&mut self, now: Instant) -> Option<Job> {
        if let Some((source, piece)) = self.urgent(now) {
            // Its own request for this piece may have been overtaken.
            self.cancel(now, |job| job.piece == piece && job.source == source);
            return Some(self.run(source, piece, false, now));
        }
        let may_go_on = |id: &SourceId| !self.sources[id.0].is_paused && self.has_lane(*id, now);
        let mut usable: Vec<_> = self.usable().filter(may_go_on).collect();
        usable.sort_by(|one, other| self.rate_of(*other, now).total_cmp(&self.rate_of(*one, now)));
        for source in usable {
            if let Some(piece) = self.piece_for(source, now) {
                return Some(self.run(source, piece, false, now));
            }
        }
        if self.is_held_up() {
            self.trial.spoil();
        }
        None
    }

    /// Gives up sources that have fallen silent, or add nothing. To be called at [`Plan::wake`].
    pub fn tick(&mut self, now: Instant) {
        let is_silent = |plan: &Self, id: SourceId| {
            let source = &plan.sources[id.0];
            plan.lanes_of(id) > 0 && now.saturating_duration_since(source.heard) >= GIVE_UP
        };
        let used: Vec<_> = self.ids().filter(|id| self.uses(*id)).collect();
        let (silent, others): (Vec<SourceId>, Vec<SourceId>) =
            used.iter().partition(|id| is_silent(self, **id));
        let anybody =
            others.iter().any(|id| self.sources[id.0].heard + GIVE_UP > now && self.lanes_of(*id) > 0);
        silent.into_iter().filter(|_| anybody).for_each(|id| self.remove(id, now));
        self.try_without(now);
    }

    /// When [`Plan::tick`] and [`Plan::next`] are to be called even if nothing comes.
    pub fn wake(&self, now: Instant) -> Instant {
        let stalls = self.jobs.iter().filter(|job| job.piece == self.waited_for());
        let stalls = stalls.map(|job| job.last + self.patience(job.source)).filter(|at| *at > now);
        stalls.min().unwrap_or(now + GIVE_UP).min(now + trial::CHECK)
    }
}

impl Plan {
    fn ids(&self) -> impl Iterator<Item = SourceId> + use<> {
        (0..self.sources.len()).map(SourceId)
    }

    /// The sources that may be asked for pieces.
    fn usable(&self) -> impl Iterator<Item = SourceId> {
        let sends_all = |id: SourceId| self.jobs.iter().any(|job| job.source == id && job.is_open);
        self.ids().filter(move |id| self.uses(*id) && !sends_all(*id))
    }

    fn running(&self, job: JobId) -> Option<&Running> {
        self.jobs.iter().find(|running| running.id == job)
    }

    fn run(&mut self, source: SourceId, piece: u64, is_open: bool, now: Instant) -> Job {
        let id = JobId(self.next_job);
        self.next_job += 1;
        if self.lanes_of(source) == 0 {
            self.sources[source.0].meter.busy(now);
            self.sources[source.0].heard = now;
        }
        let from = piece * PIECE + self.have(piece);
        let (asked, last, has_begun, meter) = (now, now, false, Meter::default());
        self.jobs.push(Running { id, source, piece, at: from, asked, last, has_begun, meter, is_open });
        let end = if is_open { self.total } else { self.end_of(piece) };
        Job { id, source, from, end }
    }

    fn cancel(&mut self, now: Instant, which: impl Fn(&Running) -> bool) {
        let jobs: Vec<_> = self.jobs.extract_if(.., |job| which(job)).collect();
        for job in jobs {
            let waited = now.saturating_duration_since(job.asked);
            if !job.has_begun && waited > FIRST_LATENCY {
                // So its next request is for something that is needed later.
                self.sources[job.source.0].meter.waited(waited);
            }
            self.cancelled.push(job.id);
            self.rest(job.source, now);
        }
    }

    /// Notes that a request of a source has ended, perhaps its last one.
    fn rest(&mut self, source: SourceId, now: Instant) {
        if self.lanes_of(source) == 0 {
            self.sources[source.0].meter.idle(now);
        }
    }

    fn end_of(&self, piece: u64) -> u64 {
        ((piece + 1) * PIECE).min(self.total)
    }

    /// The place of a piece in `pieces`; `None` once the app has taken it.
    fn index(&self, piece: u64) -> Option<usize> {
        piece.checked_sub(self.first).and_then(|index| usize::try_from(index).ok())
    }

    fn know(&mut self, index: usize) {
        if self.pieces.len() <= index {
            self.pieces.resize(index + 1, 0);
        }
    }

    /// How many bytes of a piece have come, from its beginning.
    fn have(&self, piece: u64) -> u64 {
        match self.index(piece) {
            Some(index) => self.pieces.get(index).copied().unwrap_or(0),
            None => self.end_of(piece) - piece * PIECE,
        }
    }

    fn missing(&self, piece: u64) -> u64 {
        self.end_of(piece) - piece * PIECE - self.have(piece)
    }

    /// The first piece that has not come completely.
    fn waited_for(&self) -> u64 {
        let mut piece = self.first;
        while piece * PIECE < self.total && self.missing(piece) == 0 {
            piece += 1;
        }
        piece
    }

    /// The pieces that may be fetched now, and that have not come completely.
    fn in_window(&self) -> impl Iterator<Item = u64> {
        let end = self.taken.saturating_add(self.window).min(self.total);
        let is_near = move |piece: &u64| piece * PIECE < end;
        let pieces = (self.waited_for()..).take_while(is_near);
        // The last piece may end beyond the window, so there always is one.
        pieces.filter(|piece| self.missing(*piece) > 0)
    }

    fn lanes_of(&self, source: SourceId) -> usize {
        self.jobs.iter().filter(|job| job.source == source).count()
    }

    /// Whether a source may have one more request: if what it still has to send would not fill its line until an answer to that
    /// begins. So its requests do not end at the same time, either.
    fn has_lane(&self, source: SourceId, now: Instant) -> bool {
        let (meter, lanes) = (&self.sources[source.0].meter, self.lanes_of(source));
        // A source that is not measured yet gets one piece.
        let Some(rate) = meter.rate(now) else { return lanes == 0 };
        let on_the_way = rate * self.latency(source) * IN_FLIGHT;
        lanes < LANES && self.outstanding(source) as f64 <= on_the_way + PIECE as f64 * AHEAD
    }

    /// The bytes that a source has still to send of what it was asked for.
    fn outstanding(&self, source: SourceId) -> u64 {
        let of_job = |job: &Running| self.end_of(job.piece) - job.at;
        self.jobs.iter().filter(|job| job.source == source).map(of_job).sum()
    }

    /// The bytes per second that a source delivers, or is taken to deliver.
    fn rate_of(&self, source: SourceId, now: Instant) -> f64 {
        let measured = |id: SourceId| self.sources[id.0].meter.rate(now);
        measured(source).map_or_else(
            || {
                let others = self.ids().filter(|id| self.uses(*id)).filter_map(measured);
                others.min_by(f64::total_cmp).map_or(FIRST_GUESS, |slowest| slowest * UNKNOWN)
            },
            |rate| rate.max(1.0),
        )
    }

    fn latency(&self, source: SourceId) -> f64 {
        self.sources[source.0].meter.latency().unwrap_or(FIRST_LATENCY).as_secs_f64()
    }

    /// How many seconds a source takes to send `bytes` more than what it was asked for.
    fn time_for(&self, source: SourceId, bytes: u64, now: Instant) -> f64 {
        self.latency(source) + (self.outstanding(source) + bytes) as f64 / self.rate_of(source, now)
    }

    /// How long a request may bring nothing before it counts as stalled.
    fn patience(&self, source: SourceId) -> Duration {
        let latency = self.sources[source.0].meter.latency().unwrap_or(FIRST_LATENCY);
        STALL.max(latency.min(GIVE_UP) * STALL_LATENCIES)
    }

    fn is_stalled(&self, job: &Running, now: Instant) -> bool {
        now.saturating_duration_since(job.last) >= self.patience(job.source)
    }

    /// How many seconds the requests for a piece still take; `None` if there are none, or all have stalled.
    fn left_for(&self, piece: u64, now: Instant) -> Option<f64> {
        let jobs = self.jobs.iter().filter(|job| job.piece == piece && !self.is_stalled(job, now));
        let left = jobs.map(|job| {
            let waited = now.saturating_duration_since(job.asked).as_secs_f64();
            let latency = if job.has_begun { 0.0 } else { (self.latency(job.source) - waited).max(0.0) };
            latency + (self.end_of(piece) - job.at) as f64 / self.rate_of_job(job, now)
        });
        left.min_by(f64::total_cmp)
    }

    /// The bytes per second of one request.
    fn rate_of_job(&self, job: &Running, now: Instant) -> f64 {
        let share = || self.rate_of(job.source, now) / self.lanes_of(job.source) as f64;
        job.meter.rate(now).map_or_else(share, |rate| rate.max(1.0))
    }

    /// Whether a request has so much to repeat of what has come already that it brings nothing new for a while.
    fn is_overtaken(&self, job: &Running, now: Instant) -> bool {
        let behind = (job.piece * PIECE + self.have(job.piece)).saturating_sub(job.at);
        behind as f64 > self.rate_of_job(job, now) * OVERTAKEN
    }

    /// The source that must fetch the piece that the app waits for at once, if no request brings it. It may have one request more
    /// than otherwise.
    fn urgent(&self, now: Instant) -> Option<(SourceId, u64)> {
        let piece = self.waited_for();
        if piece * PIECE >= self.total || piece * PIECE >= self.taken.saturating_add(self.window) {
            return None;
        }
        let mut jobs = self.jobs.iter().filter(|job| job.piece == piece);
        if jobs.any(|job| !self.is_stalled(job, now) && !self.is_overtaken(job, now)) {
            return None;
        }
        let is_asked = |job: &Running| job.piece == piece && self.is_stalled(job, now);
        let asked = |id: &SourceId| self.jobs.iter().any(|job| job.source == *id && is_asked(job));
        let has_place = |id: &SourceId| self.lanes_of(*id) <= LANES;
        let free = self.usable().filter(|id| !asked(id) && has_place(id));
        let time = |id: &SourceId| self.latency(*id) + self.missing(piece) as f64 / self.rate_of(*id, now);
        let best = free.min_by(|one, other| time(one).total_cmp(&time(other)))?;
        Some((best, piece))
    }

    /// The piece that a source fetches next: the one that the app waits for, if that is late; else the first one that it has
    /// earlier than all others together; else one that is late.
    fn piece_for(&self, source: SourceId, now: Instant) -> Option<u64> {
        let waited_for = self.waited_for();
        if self.is_late(waited_for, 0, source, now) {
            return Some(waited_for);
        }
        let others: Vec<_> = self.ids().filter(|id| self.uses(*id) && *id != source).collect();
        let rate: f64 = others.iter().map(|id| self.rate_of(*id, now)).sum();
        let outstanding: u64 = others.iter().map(|id| self.outstanding(*id)).sum();
        let latency = others.iter().map(|id| self.latency(*id)).fold(f64::INFINITY, f64::min);
        let mut free = 0;
        for piece in self.in_window() {
            if self.jobs.iter().any(|job| job.piece == piece) {
                continue;
            }
            let missing = self.missing(piece);
            free += missing;
            let theirs = latency + (outstanding + free) as f64 / rate.max(1.0);
            if others.is_empty() || self.time_for(source, missing, now) <= theirs {
                return Some(piece);
            }
        }
        let mut before = 0;
        self.in_window().find(|piece| {
            let is_late = self.is_late(*piece, before, source, now);
            before += self.missing(*piece);
            is_late
        })
    }

    /// Whether to ask this source, too, for a piece that one other source was asked for, and that the app needs after `before`
    /// missing bytes.
    fn is_late(&self, piece: u64, before: u64, source: SourceId, now: Instant) -> bool {
        let mut jobs = self.jobs.iter().filter(|job| job.piece == piece);
        let is_others = jobs.next().is_some_and(|job| job.source != source) && jobs.next().is_none();
        if !is_others {
            return false;
        }
        let rate: f64 = self.ids().filter(|id| self.uses(*id)).map(|id| self.rate_of(id, now)).sum();
        let needed = before as f64 / rate;
        let mine = self.time_for(source, self.missing(piece), now);
        self.left_for(piece, now)
            .is_none_or(|left| left > needed * LATE + LATE_FROM && mine < left * MUCH_EARLIER)
    }

    /// Whether sources have nothing to do because the app takes less than they deliver, or because all has been asked for.
    fn is_held_up(&self) -> bool {
        self.in_window().all(|piece| self.jobs.iter().any(|job| job.piece == piece))
    }

    /// Whether the source that sends the whole file goes on with this piece, and is not asked for other pieces instead.
    fn goes_on(&self, source: SourceId, piece: u64, now: Instant) -> bool {
        if piece * PIECE >= self.total || self.missing(piece) == 0 {
            return false;
        }
        let mine = self.end_of(piece) - piece * PIECE;
        let mine = mine as f64 / self.rate_of(source, now);
        let others = self.jobs.iter().filter(|job| job.piece == piece && job.source != source);
        others.count() == 0 || self.left_for(piece, now).is_none_or(|theirs| mine < theirs * MUCH_EARLIER)
    }

    /// Finds out whether the slowest source adds anything to what the others deliver. Where all of them share one line it does
    /// not, and it is given up.
    fn try_without(&mut self, now: Instant) {
        let mut used: Vec<_> = self.ids().filter(|id| self.uses(*id)).collect();
        used.sort_by(|one, other| self.rate_of(*one, now).total_cmp(&self.rate_of(*other, now)));
        let rates: Vec<_> = used.iter().map(|id| (id.0, self.rate_of(*id, now))).collect();
        let left = self.total - self.taken;
        let paused_lanes = self.trial.of().map_or(0, |source| self.lanes_of(SourceId(source)));
        match self.trial.step(&rates, left, paused_lanes, now) {
            trial::Step::Nothing => {}
            trial::Step::Pause(source) => self.sources[source].is_paused = true,
            trial::Step::GoOn(source) => self.sources[source].is_paused = false,
            trial::Step::GiveUp(source) => self.remove(SourceId(source), now),
        }
    }
}

#[cfg(test)]
mod tests;
