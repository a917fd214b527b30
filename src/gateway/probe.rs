//! Does this machine reach the servers? A TCP connection to each, again and again, and what became of the
//! connections that clients asked for.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};
use tokio::time::{sleep_until, timeout};

use super::egress::{Dial, Egress};
use crate::peers::discovery::jitter;
use crate::wire::datagram::Reach;
use crate::wire::target::Target;

/// Between two probes.
const INTERVAL: Duration = Duration::from_secs(5);
/// Between two probes while a result is in doubt or no server is reached: neither way should wait.
const RETRY: Duration = Duration::from_millis(500);
/// A server that does not take a connection in this time is not reached.
const DEADLINE: Duration = Duration::from_secs(2);
/// So many results in a row change what is believed of a server.
const RESULTS: u32 = 2;
/// Of the failed dials of clients one in this time counts: a hundred at once are one event.
const SAME_EVENT: Duration = Duration::from_millis(300);

/// Probes until `reach` has no receiver. One server that is reached is enough. `dials` has the results of what
/// clients asked for.
pub async fn run(
    egress: Arc<Egress>,
    mut servers: watch::Receiver<Vec<Target>>,
    mut dials: mpsc::Receiver<Dial>,
    reach: watch::Sender<Reach>,
) {
    let mut probed = servers.borrow_and_update().clone();
    let mut believed = vec![Belief::default(); probed.len()];
    while !reach.is_closed() {
        let probes = probed.iter().map(|server| probe(&egress, server));
        let results = futures_util::future::join_all(probes).await;
        for (belief, reached) in believed.iter_mut().zip(results) {
            belief.note(reached);
        }
        let mut again = Instant::now() + tell(&believed, &reach).mul_f64(jitter());
        loop {
            tokio::select! {
                () = sleep_until(again.into()) => break,
                Ok(()) = servers.changed() => {
                    probed = servers.borrow_and_update().clone();
                    believed = vec![Belief::default(); probed.len()];
                    break;
                }
                Some(dial) = dials.recv() => {
                    let Some(belief) = believed.get_mut(dial.server) else { continue };
                    belief.note_dial(dial.reached, Instant::now());
                    again = again.min(Instant::now() + tell(&believed, &reach));
                }
            }
        }
    }
}

async fn probe(egress: &Egress, server: &Target) -> bool {
    match timeout(DEADLINE, egress.dial(server)).await {
        Ok(Ok(_)) => true,
        Ok(Err(failure)) => {
            tracing::debug!(%server, reason = %failure, "server probe failed");
            false
        }
        Err(_) => {
            tracing::debug!(%server, "server probe unanswered");
            false
        }
    }
}

/// Tells what is believed, if it is news; gives the time until the next probe.
fn tell(believed: &[Belief], reach: &watch::Sender<Reach>) -> Duration {
    let verdict = verdict(believed);
    reach.send_if_modified(|now| {
        let changed = *now != verdict;
        if changed {
            tracing::info!(reach = verdict.word(), "servers");
        }
        *now = verdict;
        changed
    });
    let in_doubt = believed.iter().any(|belief| belief.against > 0);
    if in_doubt || verdict != Reach::Reachable { RETRY } else { INTERVAL }
}

fn verdict(believed: &[Belief]) -> Reach {
    let any = |reach| believed.iter().any(|belief| belief.reach == reach);
    match () {
        () if any(Reach::Reachable) => Reach::Reachable,
        () if any(Reach::Unknown) => Reach::Unknown,
        () => Reach::Unreachable,
    }
}

/// What is believed of one server.
#[derive(Clone, Copy, Debug)]
struct Belief {
    reach: Reach,
    /// Results in a row that say otherwise.
    against: u32,
    failed_dial: Option<Instant>,
}

impl Default for Belief {
    fn default() -> Self {
        Self { reach: Reach::Unknown, against: 0, failed_dial: None }
    }
}

impl Belief {
    fn note(&mut self, reached: bool) {
        let says = if reached { Reach::Reachable } else { Reach::Unreachable };
        self.against = if says == self.reach { 0 } else { self.against + 1 };
        // Nothing is lost by believing the first success.
        if self.against >= RESULTS || (reached && self.reach == Reach::Unknown) {
            (self.reach, self.against) = (says, 0);
        }
    }

    fn note_dial(&mut self, reached: bool, now: Instant) {
        if reached {
            return self.note(true);
        }
        if self.failed_dial.is_none_or(|last| now >= last + SAME_EVENT) {
            self.failed_dial = Some(now);
            self.note(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_result_changes_nothing_but_the_first_success() {
        let mut belief = Belief::default();
        belief.note(false);
        assert_eq!(belief.reach, Reach::Unknown);
        belief.note(true);
        assert_eq!(belief.reach, Reach::Reachable);
        for reached in [false, true, false, true, false] {
            belief.note(reached);
            assert_eq!(belief.reach, Reach::Reachable);
        }
        belief.note(false);
        assert_eq!(belief.reach, Reach::Unreachable);
        belief.note(true);
        assert_eq!(belief.reach, Reach::Unreachable);
        belief.note(true);
        assert_eq!(belief.reach, Reach::Reachable);
    }

    #[test]
    fn a_hundred_dials_that_fail_at_once_are_one_result() {
        let (mut belief, now) = (Belief::default(), Instant::now());
        belief.note(true);
        for _ in 0..100 {
            belief.note_dial(false, now);
        }
        assert_eq!(belief.reach, Reach::Reachable);
        belief.note_dial(false, now + SAME_EVENT);
        assert_eq!(belief.reach, Reach::Unreachable);
    }

    #[test]
    fn one_server_that_is_reached_is_enough() {
        let belief = |reach| Belief { reach, ..Belief::default() };
        let [up, down, unknown] = [Reach::Reachable, Reach::Unreachable, Reach::Unknown].map(belief);
        assert_eq!(verdict(&[down, up, unknown]), Reach::Reachable);
        assert_eq!(verdict(&[down, unknown]), Reach::Unknown);
        assert_eq!(verdict(&[down, down]), Reach::Unreachable);
    }
}
