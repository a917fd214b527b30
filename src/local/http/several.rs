//! A large download over several gateways at the same time. Each of them is asked for pieces by Range and If-Range, the app gets
//! the bytes in order. [`crate::local::pieces`] decides who is asked for what.
//!
//! The response that the app asked for is one of the sources: it goes on until it comes to a piece that another gateway has
//! fetched. Nothing here is a task of its own: when the app leaves, all requests end at once.

mod ahead;
mod lane;
mod prospect;

pub(super) use prospect::Prospect;

use std::future::{pending, poll_fn};
use std::io;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::{Buf, Bytes, BytesMut};
use futures_util::future::BoxFuture;
use tokio::time::sleep_until;

use self::ahead::Ahead;
use self::lane::{Lane, RangeRequest, Why};
use super::exchange::{Exchange, Share, Trouble};
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::client::Link;
use crate::link::relay::Progress;
use crate::local::pieces::{Job, JobId, Plan, SourceId};
use crate::local::server_connection::FromServer;
use crate::wire::http::PART;
use crate::wire::resume::Point;

/// How far beyond what the app has taken is fetched, in bytes: what all sources together deliver while the slowest one fetches a
/// piece, if it delivers a tenth of the sum.
const WINDOW: u64 = 24 << 20;
/// That distance while memory is tight.
const TIGHT: u64 = 4 << 20;
/// A gateway is given up after this many requests in a row that broke.
const MOST_BROKEN: u32 = 3;
/// How long a gateway that fetches the file for others is left alone: at first, and at most. It doubles each time.
const REST: Duration = Duration::from_secs(1);
const LONGEST_REST: Duration = Duration::from_secs(8);
/// How often the wish for more links is renewed.
const RENEWAL: Duration = Duration::from_secs(20);

/// One gateway.
struct Over {
    source: SourceId,
    link: Link,
    /// The requests in a row that broke.
    broken: u32,
    /// It is not asked again over another link either.
    is_excluded: bool,
    /// Until when it is left alone, and how long.
    rests: Option<Instant>,
    rest: Duration,
    /// What came from it before it was left alone last.
    before: u64,
}

impl Over {
    fn new(source: SourceId, link: Link) -> Self {
        Self { source, link, broken: 0, is_excluded: false, rests: None, rest: REST, before: 0 }
    }
}

/// A request for a range that is under way.
struct Running<'a> {
    job: Job,
    /// How many bytes of the response are still to come.
    left: u64,
    step: BoxFuture<'a, (Lane, Result<Bytes, Why>)>,
}

/// One download over several gateways.
struct Several<'a> {
    point: Point,
    plan: Plan,
    over: Vec<Over>,
    running: Vec<Running<'a>>,
    /// The connections that have no request to answer.
    idle: Vec<Lane>,
    ahead: Ahead,
    /// The response that the app asked for, while it goes on.
    whole: Option<JobId>,
    /// Why a gateway was given up last.
    why: String,
    renewed: Instant,
}

impl<'a> Exchange<'a> {
    /// Fetches the rest of a body over all gateways that reach the server, and passes it on. Its first bytes, `data`, came from
    /// `server`, which goes on as one of the sources.
    ///
    /// # Errors
    /// [`Trouble::Lost`] when no gateway is left: the download may be resumed.
    pub(super) async fn over_several(
        &self,
        prospect: Prospect,
        server: &mut FromServer<'_>,
        data: Bytes,
        left: u64,
        progress: &Progress<'_>,
    ) -> Result<(), Trouble> {
        let mut several = Several::new(self, prospect, left);
        let result = self.run_several(&mut several, server, data, progress).await;
        server.cancel();
        *self.shares() = several.shares();
        result
    }

    async fn run_several(
        &self,
        several: &mut Several<'a>,
        server: &mut FromServer<'_>,
        data: Bytes,
        progress: &Progress<'_>,
    ) -> Result<(), Trouble> {
        let mut links = self.local.routes.links.up();
        several.add_links(self, &links.borrow_and_update());
        several.of_whole(data);
        // What is being written to the app, and how many bytes of the body that is.
        let (mut out, mut counted) = (Bytes::new(), 0);
        let mut is_open = true;
        loop {
            several.arrange(self);
            if several.whole.is_none() && std::mem::take(&mut is_open) {
                server.cancel();
            }
            while out.is_empty() {
                if counted > 0 && self.passed(several, std::mem::take(&mut counted), progress) {
                    return Ok(());
                }
                let Some(bytes) = several.ahead.next() else { break };
                counted = bytes.len();
                out = self.checked(bytes).await?;
            }
            if several.plan.sources() == 0 && out.is_empty() {
                return Err(Trouble::Lost(std::mem::take(&mut several.why)));
            }
            let wake = several.plan.wake(Instant::now());
            let reads = several.whole.map(|job| several.plan.may_read(job));
            tokio::select! {
                written = write(self.app, &mut out), if !out.is_empty() => written.map_err(Trouble::App)?,
                (running, lane, result) = next_of(&mut several.running) => {
                    several.on_step(self, running, lane, result);
                }
                next = next_of_whole(server, reads) => match next {
                    Ok(Some(bytes)) => several.of_whole(bytes),
                    Ok(None) => several.whole_ended(false, "the server ended the response too early".into()),
                    Err(error) => several.whole_ended(error.is_link_lost(), error.to_string()),
                },
                changed = links.changed() => match changed {
                    Ok(()) => several.add_links(self, &links.borrow_and_update()),
                    Err(_) => return Err(Trouble::Truncated("this node stops".into())),
                },
                () = self.account.evicted() => {
                    return Err(Trouble::Truncated("this node is out of memory".into()));
                }
                () = sleep_until(wake.into()) => {}
            }
        }
    }

    /// Counts bytes that the app has taken. Returns whether it has all of them.
    fn passed(&self, several: &mut Several<'_>, count: usize, progress: &Progress<'_>) -> bool {
        progress.add_received(count);
        several.plan.took(count as u64);
        several.ahead.passed(several.plan.first());
        let left = several.point.total() - several.plan.taken();
        if let Some((_, still)) = self.point().as_mut() {
            *still = left;
        }
        left == 0
    }
}

impl<'a> Several<'a> {
    fn new(exchange: &Exchange<'a>, prospect: Prospect, left: u64) -> Self {
        let now = Instant::now();
        let Prospect { point, link, .. } = &prospect;
        let taken = point.total() - left;
        let mut plan = Plan::new(point.total(), taken, WINDOW);
        plan.alone(prospect.rate(left));
        let source = plan.add(now);
        let whole = Some(plan.sends_all(source, now));
        let first = Over::new(source, link.clone());
        limited!(
            info,
            NOBODY,
            conn = format!("{:016x}", exchange.id),
            left,
            "the rest of a download is fetched over all gateways"
        );
        exchange.local.routes.links.want_more();
        Self {
            point: point.clone(),
            ahead: Ahead::new(plan.first(), exchange.account),
            plan,
            over: vec![first],
            running: Vec::new(),
            idle: Vec::new(),
            whole,
            why: String::new(),
            renewed: now,
        }
    }

    /// Adds the gateways of these links that are not known yet.
    fn add_links(&mut self, exchange: &Exchange<'a>, links: &[Link]) {
        let now = Instant::now();
        for link in exchange.local.routes.links.outcomes.untried(links, exchange.target) {
            let is_known = |over: &Over| {
                let is_same = over.link.gateway.id == link.gateway.id;
                is_same
                    && (over.is_excluded
                        || self.plan.uses(over.source)
                        || Arc::ptr_eq(&over.link.state, &link.state))
            };
            if !self.over.iter().any(is_known) {
                let source = self.plan.add(now);
                self.over.push(Over::new(source, link.clone()));
            }
        }
    }

    /// Updates the sources, ends the requests that are not wanted any more, and makes new ones.
    fn arrange(&mut self, exchange: &Exchange<'a>) {
        let now = Instant::now();
        if now.saturating_duration_since(self.renewed) >= RENEWAL {
            self.renewed = now;
            exchange.local.routes.links.want_more();
        }
        for over in self.over.iter_mut().filter(|over| over.rests.is_some_and(|until| now >= until)) {
            // As a new source: what it did before says nothing of what it does now.
            (over.rests, over.source) = (None, self.plan.add(now));
        }
        self.plan.set_window(if exchange.account.is_tight() { TIGHT } else { WINDOW });
        let before = self.plan.sources();
        self.plan.tick(now);
        if self.plan.sources() < before {
            let gateways = self.over.iter().filter(|over| self.plan.uses(over.source));
            let left = gateways.map(|over| &*over.link.gateway.name).collect::<Vec<_>>().join(", ");
            limited!(info, NOBODY, left, "a gateway that adds nothing to a download is left out");
        }
        self.drop_cancelled();
        while let Some(job) = self.plan.next(now) {
            self.start(exchange, job);
        }
    }

    fn drop_cancelled(&mut self) {
        for job in self.plan.cancelled() {
            self.running.retain(|running| running.job.id != job);
            self.whole = self.whole.filter(|whole| *whole != job);
        }
        self.idle.retain(|lane| self.plan.uses(lane.source));
    }

    fn start(&mut self, exchange: &Exchange<'a>, job: Job) {
        let Some(over) = self.over.iter().find(|over| over.source == job.source) else { return };
        let idle = self.idle.iter().position(|lane| lane.source == job.source);
        let lane = idle.map(|place| self.idle.swap_remove(place));
        let lane = lane.unwrap_or_else(|| Lane::new(job.source, over.link.clone()));
        let gateway = &*over.link.gateway.name;
        tracing::debug!(
            gateway,
            from = job.from,
            end = job.end,
            taken = self.plan.taken(),
            "a piece is asked for"
        );
        let mut head = BytesMut::new();
        let mut request = self.point.request_part(exchange.request, job.from, job.end);
        let _ = request.fields.push(PART, b"?1");
        request.write_forward(&exchange.local.name, &mut head);
        let asked = RangeRequest {
            routes: &exchange.local.routes,
            target: exchange.target,
            transport: exchange.transport(),
            id: exchange.id,
            account: exchange.account.clone(),
            head: head.freeze(),
            point: self.point.clone(),
            range: (job.from, job.end),
        };
        self.running.push(Running { job, left: job.end - job.from, step: Box::pin(lane.begin(asked)) });
    }

    /// Takes what one request has brought.
    fn on_step(&mut self, exchange: &Exchange<'_>, place: usize, lane: Lane, result: Result<Bytes, Why>) {
        let Running { job, left, .. } = self.running.swap_remove(place);
        let bytes = match result {
            Ok(bytes) => bytes,
            Err(why) => return self.failed(job, &why),
        };
        if let Some(over) = self.over.iter_mut().find(|over| over.source == job.source) {
            if over.broken > 0 || self.plan.received_of(job.source) == 0 {
                exchange.local.routes.links.outcomes.answered(over.link.gateway.id, exchange.target);
            }
            over.broken = 0;
        }
        let count = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        let is_stray = bytes.len() > count;
        let left = left - count as u64;
        if count > 0 && self.feed(job.id, bytes.slice(..count)) {
            if left == 0 && !is_stray && lane.keeps() {
                self.idle.push(lane);
            }
            return;
        }
        self.running.push(Running { job, left, step: Box::pin(lane.next()) });
    }

    /// Notes bytes of a request, no more than one piece lacks. Returns whether the request is over.
    fn feed(&mut self, job: JobId, bytes: Bytes) -> bool {
        let Some(received) = self.plan.received(job, bytes.len() as u64, Instant::now()) else { return true };
        let skip = usize::try_from(received.skip).unwrap_or(bytes.len());
        self.ahead.push(received.piece, &bytes[skip..]);
        received.is_over
    }

    /// Takes bytes of the response that the app asked for.
    fn of_whole(&mut self, mut bytes: Bytes) {
        while let Some(job) = self.whole.filter(|_| !bytes.is_empty()) {
            let room = usize::try_from(self.plan.room(job)).unwrap_or(usize::MAX);
            let now = bytes.split_to(room.min(bytes.len()));
            if now.is_empty() || self.feed(job, now) {
                self.whole = None;
            }
        }
    }

    /// The response that the app asked for has ended too early.
    fn whole_ended(&mut self, is_lost: bool, why: String) {
        let Some(job) = self.whole.take() else { return };
        let source = self.over[0].source;
        self.plan.ended(job, Instant::now());
        if is_lost {
            self.give_up(source, why, false);
        } else {
            self.broke(source, why);
        }
    }

    fn failed(&mut self, job: Job, why: &Why) {
        self.plan.ended(job.id, Instant::now());
        match why {
            Why::Later => self.rest(job.source),
            Why::Lost(_) => self.give_up(job.source, why.to_string(), false),
            Why::Refused(_) | Why::Unfit(_) => self.give_up(job.source, why.to_string(), true),
            Why::Broken(_) => self.broke(job.source, why.to_string()),
        }
    }

    /// Leaves a gateway that fetches the file for others alone for a while.
    fn rest(&mut self, source: SourceId) {
        let now = Instant::now();
        let Some(over) = self.over.iter_mut().find(|over| over.source == source) else { return };
        over.before += self.plan.received_of(source);
        over.rests = Some(now + over.rest);
        over.rest = (over.rest * 2).min(LONGEST_REST);
        self.plan.remove(source, now);
        self.why = Why::Later.to_string();
    }

    fn broke(&mut self, source: SourceId, why: String) {
        let Some(over) = self.over.iter_mut().find(|over| over.source == source) else { return };
        over.broken += 1;
        if over.broken >= MOST_BROKEN {
            self.give_up(source, why, true);
        }
    }

    fn give_up(&mut self, source: SourceId, why: String, is_for_good: bool) {
        let Some(over) = self.over.iter_mut().find(|over| over.source == source) else { return };
        over.is_excluded |= is_for_good;
        let gateway = &*over.link.gateway.name;
        limited!(
            info,
            over.link.gateway.id,
            gateway,
            reason = why,
            "no more of a download is fetched over a gateway"
        );
        self.plan.remove(source, Instant::now());
        self.why = why;
    }

    fn shares(&self) -> Vec<Share> {
        let mut shares: Vec<Share> = Vec::new();
        for over in &self.over {
            let since = if over.rests.is_some() { 0 } else { self.plan.received_of(over.source) };
            let (gateway, bytes) = (over.link.gateway.id, over.before + since);
            match shares.iter_mut().find(|share| share.gateway == gateway) {
                Some(share) => share.bytes += bytes,
                None if bytes > 0 => {
                    shares.push(Share { gateway, name: over.link.gateway.name.to_string(), bytes });
                }
                None => {}
            }
        }
        shares
    }
}

/// Waits until one of the requests has brought something, or has failed.
async fn next_of(running: &mut [Running<'_>]) -> (usize, Lane, Result<Bytes, Why>) {
    poll_fn(|cx| {
        for (place, running) in running.iter_mut().enumerate() {
            if let Poll::Ready((lane, result)) = running.step.as_mut().poll(cx) {
                return Poll::Ready((place, lane, result));
            }
        }
        Poll::Pending
    })
    .await
}

/// The next bytes of the response that the app asked for, while it goes on. While they are not wanted yet, what arrives is only
/// taken out of the link.
async fn next_of_whole(
    server: &mut FromServer<'_>,
    reads: Option<bool>,
) -> Result<Option<Bytes>, crate::local::server_connection::ServerError> {
    match reads {
        Some(true) => server.next().await,
        Some(false) => server.while_filling(pending(), true).await,
        None => pending().await,
    }
}

/// Writes some of `out`.
async fn write(app: &tokio::net::TcpStream, out: &mut Bytes) -> io::Result<()> {
    app.writable().await?;
    match app.try_write(out) {
        Ok(count) => {
            out.advance(count);
            Ok(())
        }
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}
