//! Whether a gateway for any destination has a way out, judged by what the connections of its clients meet. Pure: results
//! and the time go in, a verdict comes out.
//!
//! No configured server tells it, so destinations that answered before are its witnesses. A failed destination alone proves
//! nothing: it may be down, or its owner wants it to look so. So each member's destinations are kept apart, and those of one
//! member alone never decide while others use this gateway.
//!
//! An uplink may let connections be made and carry nothing else. Destinations that accept connections and then answer nothing put
//! the way out in doubt as well, and then only a real exchange of data with a witness removes it. A server whose machine
//! acknowledges what it is sent may just be slow, so its silence counts only if others that nobody waits for fall silent, too.
//!
//! A way out that was lost stays lost until the opposite of what was seen is proved: what failed, what answered before and what
//! is asked for meanwhile is tried in the background.

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use super::probe::exchange::Ask;
use super::silence::Speech;
use crate::wire::datagram::Reach;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// Maximum number of destinations of one kind that are kept, and of one member's among them: the latest. So nobody can displace
/// what others have used.
const MAX_KEPT: usize = 8;
const MAX_OF_A_MEMBER: usize = 2;
/// Maximum number of destinations that are asked at a time.
const MAX_ASKED: usize = 8;
/// Failures to connect within this time count as one: a hundred at once are one event.
const FAILURE_WINDOW: Duration = Duration::from_millis(300);
/// Number of failures in a row, without any success, that make the way out doubtful.
const FAILURES_TO_DOUBT: u32 = 2;
/// Minimum time between two questions to the witnesses because a destination is slow: some always are, and each question costs
/// bytes on the uplink.
const SLOW_INTERVAL: Duration = Duration::from_secs(5);
/// How long the failure or the silence of a destination counts.
const WINDOW: Duration = Duration::from_secs(20);
/// Minimum time between two exchanges of data because a destination is silent. Where all acknowledge what they are sent, it
/// doubles with each exchange that succeeds: some servers are slow on purpose, and wait for an event.
const SILENT_INTERVAL: Duration = Duration::from_secs(3);
/// How often it doubles: to 13 minutes.
const MAX_SLOW_DOUBLINGS: u32 = 8;

/// How one connection of a client ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Seen {
    /// The destination accepted the connection. A box in between may accept any.
    Connected(Target),
    /// A host beyond the networks of this machine sent something to a client, which speaks this with it.
    Answered(Target, Speech),
    /// A host on the clients' own network sent something, which proves nothing about what is beyond.
    AnsweredInside(Target),
    /// A name server beyond them has answered. That says nothing about TCP.
    Named,
    /// The destination has accepted a connection, and has answered nothing since.
    Silent {
        /// Which one.
        target: Target,
        /// The protocol in which it is spoken to.
        speech: Speech,
        /// Its machine acknowledges what it is sent.
        is_acknowledged: bool,
    },
    /// Something that proves nothing.
    Nothing,
    /// The destination has had time to answer, and has not answered yet.
    Slow(Target),
    /// The destination was not reached.
    Failed {
        /// Which one.
        target: Target,
        /// This machine has no route, which is certain at once.
        no_route: bool,
    },
    /// The destination was asked for while the way out is lost.
    Wanted(Target),
}

/// What is known of the other gateways.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Others {
    /// None is heard.
    None,
    /// One could serve instead of this one.
    CouldServe,
    /// None could, and one says that it has lost its way out.
    HaveLost,
}

/// What counts beside the answers when the witnesses were asked.
#[derive(Clone, Debug)]
pub(super) struct Around {
    pub(super) others: Others,
    /// The members that have a request open here.
    pub(super) busy: BTreeSet<NodeId>,
    /// A name server beyond this machine's networks answers.
    pub(super) is_named: bool,
}

/// Who answered when the witnesses were asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answer {
    NameServer,
    /// It accepted a connection, or refused it.
    Connection(Target),
    Data(Target),
}

/// The state of the way out.
// fields: two kinds of loss, each with what it is judged by
#[derive(Debug)]
pub(super) struct WayOut {
    reach: Reach,
    /// Destinations that accepted a connection; with the protocol once they have answered.
    witnesses: Recent,
    /// Whether any destination has accepted a connection.
    has_worked: bool,
    /// Whether one beyond this machine's networks has sent something.
    has_answered: bool,
    /// Destinations on the clients' own network, which are no witnesses.
    inside: VecDeque<Target>,
    /// Destinations that were not reached, or are slow, since one was reached.
    failed: Recent,
    /// Destinations that have been silent since the last answer of anybody.
    silent: Recent,
    /// Destinations that were asked for since the way out was lost.
    wanted: Recent,
    /// When the witnesses were last to be asked for data because of silence.
    silent_at: Option<Instant>,
    /// How often in a row they gave data, so that servers were just slow.
    times_slow: u32,
    /// The way out was lost because nothing comes back on connections that are made.
    is_mute: bool,
    failures: u32,
    last_failure: Option<Instant>,
    /// When the witnesses were last to be asked because a destination was slow.
    slow_at: Option<Instant>,
    /// The last failure was for lack of a route.
    no_route: bool,
    lost_at: Option<Instant>,
}

/// A destination, and the member that used it.
#[derive(Clone, Debug)]
struct Destination {
    target: Target,
    by: NodeId,
    /// The protocol in which it has answered, or is spoken to.
    speech: Option<Speech>,
    /// Its machine acknowledges what it is sent.
    is_acknowledged: bool,
    at: Instant,
}

/// The latest destinations of some members, the very latest first.
#[derive(Debug, Default)]
struct Recent(VecDeque<Destination>);

impl Recent {
    fn add(&mut self, new: Destination) {
        self.0.retain(|old| (&old.target, old.by) != (&new.target, new.by));
        let by = new.by;
        self.0.push_front(new);
        let mut left = MAX_OF_A_MEMBER;
        self.0.retain(|one| {
            let is_kept = one.by != by || left > 0;
            left = left.saturating_sub(usize::from(one.by == by));
            is_kept
        });
        self.0.truncate(MAX_KEPT);
    }

    fn remove(&mut self, target: &Target) {
        self.0.retain(|one| one.target != *target);
    }

    fn forget(&mut self, now: Instant) {
        self.0.retain(|one| now < one.at + WINDOW);
    }

    fn has(&self, target: &Target) -> bool {
        self.0.iter().any(|one| one.target == *target)
    }

    fn iter(&self) -> impl Iterator<Item = &Destination> + Clone {
        self.0.iter()
    }
}

impl WayOut {
    pub(super) fn new() -> Self {
        Self {
            reach: Reach::Unknown,
            witnesses: Recent::default(),
            has_worked: false,
            has_answered: false,
            inside: VecDeque::new(),
            failed: Recent::default(),
            silent: Recent::default(),
            wanted: Recent::default(),
            silent_at: None,
            times_slow: 0,
            is_mute: false,
            failures: 0,
            last_failure: None,
            slow_at: None,
            no_route: false,
            lost_at: None,
        }
    }

    /// The verdict: unknown until a host beyond this machine's networks has answered.
    pub(super) fn reach(&self) -> Reach {
        self.reach
    }

    fn is_lost(&self) -> bool {
        self.reach == Reach::Unreachable
    }

    /// Whether no destination beyond this machine's networks has ever answered.
    pub(super) fn is_untold(&self) -> bool {
        !self.has_answered
    }

    /// Forgets what a name server has proved: this machine has no route beyond its network any more.
    pub(super) fn forget_proof(&mut self) {
        if !self.is_lost() {
            self.reach = Reach::Unknown;
        }
    }

    /// Whether the way out is lost because nothing comes back on connections that are made, so that one that is made proves
    /// nothing.
    pub(super) fn is_mute(&self) -> bool {
        self.is_mute
    }

    /// Whether a destination was not reached lately, and nothing followed from it yet.
    pub(super) fn is_suspicious(&self, now: Instant) -> bool {
        !self.is_lost() && self.failed.iter().any(|one| now < one.at + WINDOW)
    }

    /// How long the way out has been lost; `None` while it is not.
    pub(super) fn lost_for(&self, now: Instant) -> Option<Duration> {
        let lost_at = self.lost_at.filter(|_| self.is_lost());
        lost_at.map(|lost_at| now.saturating_duration_since(lost_at))
    }

    /// What to ask when the way out is in doubt or lost: for data, if destinations are silent, else for a connection. A lost way
    /// out has to be proved by the opposite of what was seen, or by more where it is known how.
    pub(super) fn questions(&self, for_data: bool) -> Vec<(Target, Ask)> {
        let to = |one: &Destination, ask| (one.target.clone(), ask);
        let mut questions: Vec<(Target, Ask)> = Vec::new();
        match (self.is_lost(), for_data) {
            (false, false) => questions.extend(self.doubted().iter().map(|one| to(one, Ask::Connection))),
            (false, true) => {
                let doubting: BTreeSet<NodeId> = self.silent.iter().map(|one| one.by).collect();
                let (others, own): (Vec<_>, Vec<_>) =
                    self.witnesses.iter().partition(|one| !doubting.contains(&one.by));
                let is_certain = !self.unacknowledging().is_empty();
                let ask = |one: &Destination| match one.speech? {
                    Speech::Other => is_certain.then_some(Ask::Acknowledgement),
                    speech => Some(Ask::Data(speech)),
                };
                let witnesses = others.into_iter().chain(own);
                questions.extend(witnesses.filter_map(|one| Some(to(one, ask(one)?))));
                let spoken_to = |one: &Destination| one.known_speech().map(Ask::Data);
                questions.extend(self.silent.iter().filter_map(|one| Some(to(one, spoken_to(one)?))));
            }
            (true, _) => {
                let lists = [&self.wanted, &self.silent, &self.witnesses, &self.failed];
                questions
                    .extend(lists.iter().flat_map(|list| list.iter()).map(|one| to(one, self.proof_by(one))));
            }
        }
        let mut seen = Vec::new();
        questions.retain(|(target, _)| {
            let is_new = !seen.contains(target);
            seen.extend(is_new.then(|| target.clone()));
            is_new
        });
        questions.truncate(MAX_ASKED);
        questions
    }

    /// The witnesses; before any destination was reached, those that were not.
    fn doubted(&self) -> &Recent {
        if self.has_worked { &self.witnesses } else { &self.failed }
    }

    /// What a destination has to answer to prove that a lost way out is there again.
    fn proof_by(&self, one: &Destination) -> Ask {
        match (one.known_speech(), self.is_mute) {
            (Some(speech), _) => Ask::Data(speech),
            (None, false) => Ask::Connection,
            // All that was seen of it is that it acknowledged nothing.
            (None, true) if !one.is_acknowledged => Ask::Acknowledgement,
            (None, true) => Ask::Data(Speech::at(one.target.port)),
        }
    }

    /// What status shows of a lost way out: destinations that carry nothing, or are not reached.
    pub(super) fn lost_to(&self) -> Vec<Target> {
        let all = match self.is_mute {
            true => self.silent.iter().chain(self.witnesses.iter()),
            false => self.failed.iter().chain(self.witnesses.iter()),
        };
        let mut targets: Vec<Target> = Vec::new();
        for one in all {
            if !targets.contains(&one.target) {
                targets.push(one.target.clone());
            }
        }
        targets
    }

    /// The destinations whose machines acknowledge nothing of what they are sent.
    pub(super) fn unacknowledging(&self) -> Vec<Target> {
        let silent = self.silent.iter().filter(|silent| !silent.is_acknowledged);
        silent.map(|silent| silent.target.clone()).collect()
    }

    /// Notes a result of a connection for a member. `true` when the way out is in doubt now, and its witnesses are to be asked.
    pub(super) fn note(&mut self, seen: Seen, by: NodeId, now: Instant) -> bool {
        let destination = |target, speech| Destination { target, by, speech, is_acknowledged: true, at: now };
        match seen {
            Seen::Connected(target) | Seen::Wanted(target) if self.is_lost() => {
                let is_new = !self.wanted.has(&target);
                self.wanted.add(destination(target, None));
                return is_new;
            }
            Seen::Connected(target) => {
                self.failures = 0;
                self.failed.0.clear();
                self.has_worked = true;
                if !self.inside.contains(&target) {
                    let speech = self.witnesses.iter().find(|one| one.target == target && one.by == by);
                    let speech = speech.and_then(|one| one.speech);
                    self.witnesses.add(destination(target, speech));
                }
            }
            // A late report may be older than the loss, so the target is asked once more.
            Seen::Answered(target, speech) if self.is_lost() => {
                let is_new = !self.wanted.has(&target);
                let is_acknowledged = self.unacknowledging().is_empty();
                self.wanted.add(Destination { is_acknowledged, ..destination(target, Some(speech)) });
                return is_new;
            }
            Seen::Answered(target, speech) => {
                self.has_answered = true;
                self.is_proved();
                self.witnesses.add(destination(target, Some(speech)));
            }
            Seen::AnsweredInside(target) => {
                self.witnesses.remove(&target);
                if !self.inside.contains(&target) {
                    self.inside.push_front(target);
                    self.inside.truncate(MAX_KEPT);
                }
            }
            Seen::Named if !self.is_mute => self.is_proved(),
            Seen::Named | Seen::Nothing | Seen::Wanted(_) => {}
            Seen::Silent { target, speech, is_acknowledged } => {
                return self
                    .note_silence(Destination { is_acknowledged, ..destination(target, Some(speech)) });
            }
            // Destinations that have answered before can tell at once.
            Seen::Slow(target) if self.has_worked => {
                if !self.is_lost() {
                    self.failed.forget(now);
                }
                self.failed.add(destination(target, None));
                let is_due = self.slow_at.is_none_or(|last| now >= last + SLOW_INTERVAL);
                let asks = is_due && !self.is_lost();
                self.slow_at = if asks { Some(now) } else { self.slow_at };
                return asks;
            }
            Seen::Slow(target) => return self.note_failure(destination(target, None), false),
            Seen::Failed { target, no_route } => {
                return self.note_failure(destination(target, None), no_route);
            }
        }
        false
    }

    /// Notes a silent destination. One that acknowledges what it is sent may just take its time: only several of those are a
    /// reason to doubt.
    fn note_silence(&mut self, silent: Destination) -> bool {
        let now = silent.at;
        if !self.is_lost() {
            self.silent.forget(now);
        }
        self.silent.add(silent);
        let is_certain = self.silent.iter().any(|silent| !silent.is_acknowledged);
        let is_telling = is_certain || is_of_several(self.silent.iter().map(|silent| &silent.target));
        let doublings = if is_certain { 0 } else { self.times_slow.min(MAX_SLOW_DOUBLINGS) };
        let is_due = self.silent_at.is_none_or(|last| now >= last + SILENT_INTERVAL * (1 << doublings));
        let asks = is_telling && is_due && !self.is_lost();
        self.silent_at = if asks { Some(now) } else { self.silent_at };
        asks
    }

    fn note_failure(&mut self, failed: Destination, no_route: bool) -> bool {
        let now = failed.at;
        if !self.is_lost() {
            self.failed.forget(now);
        }
        self.failed.add(failed);
        if self.last_failure.is_none_or(|last| now >= last + FAILURE_WINDOW) {
            (self.failures, self.last_failure) = (self.failures + 1, Some(now));
        }
        self.no_route = no_route;
        no_route || self.failures >= FAILURES_TO_DOUBT
    }

    /// A host beyond this machine's networks has answered.
    fn is_proved(&mut self) {
        self.is_there_again();
        self.reach = Reach::Reachable;
    }

    fn is_there_again(&mut self) {
        (self.failures, self.is_mute) = (0, false);
        for list in [&mut self.failed, &mut self.silent, &mut self.wanted] {
            list.0.clear();
        }
    }

    /// Notes who answered when all [`WayOut::questions`] were asked, if anybody did, or which destinations `failed`. The first
    /// answer, and nothing else, ends the loss of the way out.
    pub(super) fn concluded(
        &mut self,
        answer: Option<&Answer>,
        failed: &[Target],
        for_data: bool,
        around: &Around,
        now: Instant,
    ) {
        match answer {
            Some(Answer::Data(_)) => {
                self.times_slow = self.times_slow.saturating_add(u32::from(for_data));
                self.has_answered = true;
                self.is_proved();
            }
            Some(Answer::NameServer) => self.is_proved(),
            Some(Answer::Connection(_)) if self.is_lost() => {
                self.is_there_again();
                self.reach = Reach::Unknown;
            }
            Some(Answer::Connection(_)) => {
                self.failures = 0;
                self.failed.0.clear();
            }
            None if self.is_lost() => {}
            None => {
                let is_convincing = match for_data {
                    true => self.is_convincingly_mute(failed, around),
                    false => self.is_convincingly_cut_off(failed, around),
                };
                if is_convincing {
                    (self.reach, self.lost_at, self.is_mute) = (Reach::Unreachable, Some(now), for_data);
                    self.times_slow = 0;
                }
            }
        }
    }

    /// Whether it proves a loss that no destination is reached. A single one may just be down: it proves a loss only if other
    /// gateways have lost their way out, or if this one has worked before and another one could serve instead.
    fn is_convincingly_cut_off(&self, failed: &[Target], around: &Around) -> bool {
        let asked = self.doubted().iter().filter(|one| failed.contains(&one.target));
        let is_enough = self.no_route
            || is_of_several(asked.clone().map(|one| &one.target))
            || self.is_one_enough(around) && asked.clone().next().is_some();
        is_enough && self.is_of_all(members(asked.chain(self.failed.iter())), around)
    }

    fn is_one_enough(&self, around: &Around) -> bool {
        match around.others {
            Others::CouldServe => self.has_worked,
            Others::HaveLost => true,
            Others::None => false,
        }
    }

    /// Whether it proves a loss that no destination exchanges data. What tells are machines that acknowledge nothing, and
    /// destinations that answered before, give nothing now, and for which nobody waits. They must be those of several members, or
    /// all those of the only member that uses this gateway while no name server answers.
    fn is_convincingly_mute(&self, failed: &[Target], around: &Around) -> bool {
        let unacknowledged = self.silent.iter().filter(|silent| !silent.is_acknowledged);
        let has_answered = |one: &&Destination| one.speech.is_some() && failed.contains(&one.target);
        let answered = self.witnesses.iter().filter(has_answered);
        let is_slow =
            |target: &Target| self.silent.iter().any(|one| one.is_acknowledged && one.target == *target);
        let telling = unacknowledged.clone().chain(answered.clone().filter(|one| !is_slow(&one.target)));
        let is_one_enough = unacknowledged.clone().next().is_some() && self.is_one_enough(around);
        if members(telling.clone()).len() > 1 {
            return is_one_enough || is_of_several(telling.map(|one| &one.target));
        }
        let silent = self.silent.iter().filter(|one| !one.is_acknowledged || failed.contains(&one.target));
        let all = silent.chain(answered.clone());
        let has_told = unacknowledged.chain(answered).next().is_some();
        let is_enough = is_one_enough || has_told && is_of_several(all.clone().map(|one| &one.target));
        let members = members(all);
        is_enough && !around.is_named && members.len() == 1 && self.is_of_all(members, around)
    }

    /// Whether these members are several, or the only ones that use this gateway.
    fn is_of_all(&self, members: BTreeSet<NodeId>, around: &Around) -> bool {
        let mut users = self.witnesses.iter().map(|one| &one.by).chain(&around.busy);
        members.len() > 1 || users.all(|user| members.contains(user))
    }
}

impl Destination {
    /// The protocol in which it can be asked for something.
    fn known_speech(&self) -> Option<Speech> {
        self.speech.filter(|speech| *speech != Speech::Other)
    }
}

fn members<'a>(destinations: impl Iterator<Item = &'a Destination>) -> BTreeSet<NodeId> {
    destinations.map(|one| one.by).collect()
}

/// Whether these are of more than one host.
fn is_of_several<'a>(mut targets: impl Iterator<Item = &'a Target>) -> bool {
    let Some(Target { host: first, .. }) = targets.next() else { return false };
    targets.any(|target| target.host != *first)
}

#[cfg(test)]
mod tests;
