//! Asks one gateway after another until one of them does what is asked.
//!
//! A gateway whose uplink drops packets answers pings and reaches nothing, so silence is not a reason to wait. When a gateway has
//! not answered for a while, another one is asked beside it, as RFC 8305 does with the addresses of one host: the first one
//! that succeeds wins, and the others are given up. While gateways answer in time, each request is one of the first gateway
//! alone. What is asked must be safe to ask twice.

use std::pin::{Pin, pin};
use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::time::{Instant, sleep, sleep_until};

use super::outcomes::Outcomes;
use super::routes::{Route, Routes, Search, failing};
use crate::failure::{Failure, Kind, Side};
use crate::limited;
use crate::link::client::{Link, LinkTunnel};
use crate::link::request::Transport;
use crate::peers::selection::Failing;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// How long a gateway may leave a request unanswered before another one is asked beside it. A lost SYN is sent again after a
/// second (RFC 6298 §2.1), which must not be taken for a gateway that reaches nothing.
pub(super) const NEXT_AFTER: Duration = Duration::from_millis(1500);
/// That time for a gateway over which connections have failed several times in a row.
const NEXT_AFTER_DOUBT: Duration = Duration::from_millis(250);
/// How long gateways have at least to answer once one of them has failed.
pub(super) const PATIENCE: Duration = Duration::from_secs(3);
/// That time for questions once one says that a name does not exist: mostly it is right, and software asks for many such names.
const NAME_PATIENCE: Duration = Duration::from_millis(500);
/// A failure within this time is answered by asking another gateway at once. A slower one has cost an app enough time: the next
/// connection to that destination asks another gateway.
const QUICK: Duration = Duration::from_secs(1);

/// How asking one gateway ended.
pub(super) enum Ended<T> {
    /// It has done what was asked.
    Done(T),
    /// Another gateway is better.
    Moved,
    /// It has failed, after this time.
    Failed(Failure, Duration),
}

/// What has been asked of one gateway, with its link.
type Asking<'a, T> = Pin<Box<dyn Future<Output = (Link, Ended<T>)> + Send + 'a>>;

/// The result of asking some gateways.
enum Verdict<T> {
    Done(Link, T),
    Failed(Failure),
    /// None of them could do it, but others may, or the same ones later; with what one without a way out said.
    Nobody(Option<String>),
}

/// Which gateways may be asked next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Any,
    /// Those that have not failed the destination lately.
    Untried,
    None,
}

/// The gateways that are being asked.
struct Race<'a, T> {
    running: FuturesUnordered<Asking<'a, T>>,
    /// Which ones they are, and since when.
    since: Vec<(NodeId, Instant)>,
    /// All that were asked.
    asked: Vec<NodeId>,
    /// When the next one may be asked.
    due: Instant,
    next: Next,
    /// Why the destination was not reached, and since when that is known.
    failure: Option<(Failure, Instant)>,
    /// The failures to resolve its name.
    unresolved: Vec<Failure>,
    /// The destination itself has refused, while others had no answer yet.
    is_refused: bool,
    /// What a gateway without a way out said.
    lost: Option<String>,
    /// The request is a question about a name, not a connection.
    is_question: bool,
}

impl Routes {
    /// Opens a tunnel on one gateway after another until one of them succeeds, and sends `first` with the request.
    /// `None` when this node connects from this machine.
    ///
    /// # Errors
    /// Why there is no tunnel, or no gateway within the hold time.
    pub(super) async fn open_tunnel(
        &self,
        transport: Transport,
        target: &Target,
        id: u64,
        first: &Bytes,
    ) -> Result<Option<(LinkTunnel, Link)>, Failure> {
        let search = Search::begin(self.hold());
        let ask = |link, may_move| self.ask_to_open(link, may_move, transport, target, id, first.clone());
        let Some((link, tunnel)) = self.ask(Some(target), search, ask).await? else { return Ok(None) };
        self.links.has_way_out(&link.gateway);
        Ok(Some((tunnel, link)))
    }

    /// Asks one gateway to open a tunnel, and notes the outcome. If it `may_move`, a suspect gateway is left for a better one.
    async fn ask_to_open(
        &self,
        link: Link,
        may_move: bool,
        transport: Transport,
        target: &Target,
        id: u64,
        first: Bytes,
    ) -> (Link, Ended<LinkTunnel>) {
        let mut asked = self.links.outcomes.ask(link.gateway.id, target);
        let opened = tokio::select! {
            biased;
            opened = link.open_by(transport, target, id, first) => opened,
            () = self.until_better(&link.state, link.address), if may_move => {
                let (id, gateway) = (link.gateway.id, &*link.gateway.name);
                limited!(info, id, gateway, "no answer: the connection moves on");
                asked.end(None);
                return (link, Ended::Moved);
            }
            never = asked.note_silence() => match never {},
        };
        let took = asked.end(opened.as_ref().err().and_then(failing));
        let ended = match opened {
            Ok(tunnel) => Ended::Done(tunnel),
            Err(failure) => Ended::Failed(failure, took),
        };
        (link, ended)
    }

    /// Asks one gateway after another until one does it, first those that have not failed `target` lately. `None` when this node
    /// connects from this machine. `ask` gets a link, and whether another gateway may be asked instead.
    ///
    /// # Errors
    /// Why no gateway does it; [`Kind::NoGateway`] if none is found in the time of `search`.
    pub(super) async fn ask<T: Send, F>(
        &self,
        target: Option<&Target>,
        mut search: Search,
        ask: impl Fn(Link, bool) -> F,
    ) -> Result<Option<(Link, T)>, Failure>
    where
        F: Future<Output = (Link, Ended<T>)> + Send,
    {
        let mut lost = None;
        loop {
            let before = search;
            let link = match search.next(self.route_to(target)).await {
                Some(Route::Direct) => return Ok(None),
                Some(Route::Link(link)) => link,
                None => return Err(self.no_gateway(lost)),
            };
            let id = link.gateway.id;
            let mut asking = pin!(ask(link, search.may_move_on()));
            let ended = tokio::select! {
                biased;
                ended = &mut asking => Some(ended),
                () = out_of_patience(&self.links.outcomes, id), if search.may_move_on() => None,
            };
            let mut race = match ended {
                Some((link, Ended::Done(done))) => return Ok(Some((link, done))),
                _ => Race { is_question: target.is_none(), ..Race::new(id) },
            };
            match ended {
                Some(ended) => race.end(self, ended, &search),
                None => race.running.push(Box::pin(asking)),
            }
            match Box::pin(self.race(race, target, &ask, &mut search)).await {
                Verdict::Done(link, done) => return Ok(Some((link, done))),
                Verdict::Failed(failure) => return Err(failure),
                Verdict::Nobody(None) => {}
                Verdict::Nobody(why) => {
                    lost = why;
                    // These attempts do not count: a way out may return until the hold time is over.
                    search = before;
                    if !search.rest().await {
                        return Err(self.no_gateway(lost));
                    }
                }
            }
        }
    }

    async fn race<'a, T: Send, F>(
        &self,
        mut race: Race<'a, T>,
        target: Option<&Target>,
        ask: &'a impl Fn(Link, bool) -> F,
        search: &mut Search,
    ) -> Verdict<T>
    where
        F: Future<Output = (Link, Ended<T>)> + Send + 'a,
    {
        let mut up = self.links.up();
        loop {
            let now = Instant::now();
            up.borrow_and_update();
            if now >= race.due
                && search.may_move_on()
                && let Some(other) = self.other(target, &race)
            {
                search.count();
                let (id, gateway) = (other.gateway.id, &*other.gateway.name);
                limited!(info, id, gateway, reason = race.reason(), "another gateway is asked, too");
                race.begin(id, Box::pin(ask(other, search.may_move_on())));
                continue;
            }
            if race.running.is_empty() || race.is_over(now) {
                return race.verdict();
            }
            let (due, until) = (race.due, race.until());
            tokio::select! {
                biased;
                Some((link, ended)) = race.running.next() => match ended {
                    Ended::Done(done) => {
                        self.overtook(race.slower_than(link.gateway.id), target);
                        return Verdict::Done(link, done);
                    }
                    ended => race.end(self, (link, ended), search),
                },
                () = sleep_until(due), if now < due => {}
                () = sleep_until(until.unwrap_or(now)), if until.is_some() => {}
                Ok(()) = up.changed(), if now >= due => {}
            }
        }
    }

    /// The next gateway to ask.
    fn other<T>(&self, target: Option<&Target>, race: &Race<'_, T>) -> Option<Link> {
        let up = self.links.up();
        let links = up.borrow();
        let is_new = |link: &&Link| link.is_usable() && !race.asked.contains(&link.gateway.id);
        let untried = target.and_then(|target| self.links.outcomes.untried(&links, target).find(is_new));
        let any = || links.iter().filter(|link| !link.is_suspect()).find(is_new);
        match race.next {
            Next::Any => untried.or_else(any).cloned(),
            Next::Untried => untried.cloned(),
            Next::None => None,
        }
    }

    /// Notes that a gateway that was asked later connected to `target` before these had answered.
    fn overtook(&self, slower: impl Iterator<Item = NodeId>, target: Option<&Target>) {
        let Some(target) = target else { return };
        slower.for_each(|gateway| self.links.outcomes.failed(gateway, target, Failing::Overtaken));
    }
}

impl<'a, T> Race<'a, T> {
    /// A race with one gateway, which has been asked already.
    fn new(first: NodeId) -> Self {
        let now = Instant::now();
        Self {
            running: FuturesUnordered::new(),
            since: vec![(first, now)],
            asked: vec![first],
            due: now,
            next: Next::Any,
            failure: None,
            unresolved: Vec::new(),
            is_refused: false,
            lost: None,
            is_question: false,
        }
    }

    fn begin(&mut self, gateway: NodeId, asking: Asking<'a, T>) {
        let now = Instant::now();
        self.running.push(asking);
        self.since.push((gateway, now));
        self.asked.push(gateway);
        (self.due, self.next) = (now + NEXT_AFTER, Next::Any);
    }

    /// Notes that a gateway has not done it, and why.
    fn end(&mut self, routes: &Routes, (link, ended): (Link, Ended<T>), search: &Search) {
        self.since.retain(|(id, _)| *id != link.gateway.id);
        self.due = Instant::now();
        let Ended::Failed(failure, took) = ended else { return };
        if failure.kind == Kind::NoWayOut {
            routes.links.leave_alone(&link, &failure.sentence);
            self.lost = Some(failure.sentence);
            return;
        }
        if failure.blames_gateway() && search.may_move_on() {
            link.retire();
            limited!(info, link.gateway.id, reason = %failure, "the gateway failed a request");
            return;
        }
        if failure.kind == Kind::ConnectTimeout && failure.side == Side::Gateway {
            routes.links.left_unanswered(link.address);
        }
        self.is_refused |= failure.kind == Kind::Refused && !self.since.is_empty();
        self.next = match took < QUICK {
            // Each gateway has name servers of its own, and one that did not know a name a while ago may know it now.
            _ if is_unanswered(&failure) || is_of_name(&failure) => Next::Any,
            true => Next::Untried,
            false => Next::None,
        };
        self.unresolved.extend(is_of_name(&failure).then(|| failure.clone()));
        self.failure = Some(match self.failure.take() {
            // What a gateway says by its own rules explains less than what the destination said.
            Some(first) if failure.side == Side::Gateway => first,
            // A name that does not exist says more than one that nobody could resolve.
            Some(first) if first.0.kind == Kind::NameNotFound && is_of_name(&failure) => first,
            Some((_, since)) => (failure, since),
            None => (failure, self.due),
        });
    }

    /// Why another gateway is asked.
    fn reason(&self) -> &str {
        let failure = self.failure.as_ref().map(|(failure, _)| &*failure.sentence);
        failure.or(self.lost.as_deref()).unwrap_or("no answer yet")
    }

    /// The gateways asked before `winner` that have not answered.
    fn slower_than(&self, winner: NodeId) -> impl Iterator<Item = NodeId> {
        let begun = self.since.iter().find(|(id, _)| *id == winner).map(|(_, at)| *at);
        let slower = self.since.iter().filter(move |(_, at)| begun.is_some_and(|begun| *at < begun));
        slower.map(|(id, _)| *id)
    }

    /// Until when to wait for other gateways once one has failed: waiting longer would only tell an app later that the
    /// destination is down.
    fn until(&self) -> Option<Instant> {
        let (failure, failed) = self.failure.as_ref()?;
        let last = self.since.iter().map(|(_, at)| *at).max()?;
        let is_unknown = self.is_question && failure.kind == Kind::NameNotFound;
        let patience = if is_unknown { NAME_PATIENCE } else { PATIENCE };
        Some(last.min(*failed) + patience)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.is_refused || self.until().is_some_and(|until| now >= until)
    }

    fn verdict(self) -> Verdict<T> {
        match self.failure {
            Some((failure, _)) if is_of_name(&failure) => {
                let said = Failure::said_by_all(&self.unresolved).unwrap_or(failure.sentence);
                Verdict::Failed(Failure::new(failure.kind, failure.side, said))
            }
            Some((failure, _)) => Verdict::Failed(failure),
            None => Verdict::Nobody(self.lost),
        }
    }
}

/// Waits until another gateway is to be asked beside this one, which has just been asked.
async fn out_of_patience(outcomes: &Outcomes, gateway: NodeId) {
    sleep(NEXT_AFTER_DOUBT).await;
    if !outcomes.doubts(gateway) {
        sleep(NEXT_AFTER - NEXT_AFTER_DOUBT).await;
    }
}

/// Whether the destination, or a name server, gave no answer of use: it may be down, or the gateway's uplink.
pub(super) fn is_unanswered(failure: &Failure) -> bool {
    matches!(
        failure.kind,
        Kind::ConnectTimeout
            | Kind::HostUnreachable
            | Kind::NetworkUnreachable
            | Kind::DnsTimeout
            | Kind::DnsFailed
    )
}

/// Whether the gateway has no address for the name of the destination.
fn is_of_name(failure: &Failure) -> bool {
    matches!(failure.kind, Kind::NameNotFound | Kind::DnsFailed | Kind::DnsTimeout)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn race(began: &[(u8, u64)]) -> Race<'static, ()> {
        let start = Instant::now();
        let since =
            began.iter().map(|(id, after)| (NodeId([*id; 16]), start + Duration::from_millis(*after)));
        Race { since: since.collect(), ..Race::new(NodeId([1; 16])) }
    }

    fn failure(kind: Kind) -> Failure {
        Failure::new(kind, Side::Server, "x")
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_is_down_is_told_as_such_once_each_gateway_had_some_seconds() {
        let start = Instant::now();
        for (began, failed, until) in [
            (&[][..], 10_000, None),
            // The second gateway has had its time when the first one gives up.
            (&[(2, 1500)][..], 10_000, Some(4500)),
            (&[(2, 1500)][..], 2000, Some(4500)),
            // Others that are asked later do not prolong it.
            (&[(2, 1000), (3, 2500), (4, 4000)][..], 1000, Some(4000)),
        ] {
            let mut race = race(began);
            assert_eq!(race.until(), None, "nothing has failed yet");
            race.failure = Some((failure(Kind::ConnectTimeout), start + Duration::from_millis(failed)));
            assert_eq!(
                race.until(),
                until.map(|until| start + Duration::from_millis(until)),
                "{began:?} {failed}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn only_gateways_that_were_asked_before_the_winner_were_slower() {
        let race = race(&[(1, 0), (2, 1500), (3, 3000)]);
        let slower =
            |winner: u8| race.slower_than(NodeId([winner; 16])).map(|id| id.0[0]).collect::<Vec<_>>();
        assert_eq!((slower(1), slower(2), slower(3)), (vec![], vec![1], vec![1, 2]));
    }

    #[test]
    fn what_may_be_the_uplinks_fault_is_asked_of_any_other_gateway() {
        for (kind, is) in [
            (Kind::ConnectTimeout, true),
            (Kind::HostUnreachable, true),
            (Kind::NetworkUnreachable, true),
            (Kind::DnsTimeout, true),
            (Kind::DnsFailed, true),
            (Kind::Refused, false),
            (Kind::NameNotFound, false),
            (Kind::NameForbidden, false),
            (Kind::LimitReached, false),
        ] {
            assert_eq!(is_unanswered(&failure(kind)), is, "{kind:?}");
        }
    }
}
