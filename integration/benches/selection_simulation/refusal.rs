//! Gateways that win the selection, answer pings and refuse every connection, and the clients that find this out by
//! their results.

use laneway::peers::selection::{Failing, Results};
use laneway::wire::target::Target;

use crate::group::{Group, Reachable};
use crate::schedule::Random;

/// In microseconds.
const SECOND: u64 = 1_000_000;
/// How many hosts the apps of clients connect to, each in a network of its own.
const HOSTS: u64 = 40;
/// How many gateways a client has links to, with one more for each that it doubts, up to the second number.
const LINKS: [usize; 2] = [2, 6];

/// One client's apps: a connection each second.
struct Apps {
    results: Results,
    /// Connections until the first one after which an honest gateway came first.
    until_left: Option<u64>,
    /// Connections that no gateway carried.
    failed: u64,
}

/// What happened to all clients.
pub(crate) struct Refused {
    /// Connections that a client made until an honest gateway came first; the worst client.
    pub(crate) until_left: u64,
    /// Connections that no gateway carried; the worst client.
    pub(crate) failed: u64,
    /// The share of connections after the first minute that were refused at first, of all clients, in permille.
    pub(crate) refused_later: u64,
}

/// Lets the clients of `group` connect for so many seconds, while the last third of the candidates refuses everything.
pub(crate) fn refused(group: &mut Group, seconds: u64) -> Refused {
    let mut random = Random::default();
    let mut apps: Vec<_> =
        group.observed().map(|_| Apps { results: Results::default(), until_left: None, failed: 0 }).collect();
    let (mut later, mut refused_later) = (0, 0);
    for second in 0..seconds {
        group.run(SECOND);
        for (n, apps) in group.observed().zip(&mut apps) {
            let host = random.next() % HOSTS;
            let tries = apps.connect(group, n, &format!("10.0.{host}.1:443").parse().unwrap());
            apps.failed += u64::from(tries.is_none());
            if apps.until_left.is_none() && apps.links(group, n).first().is_some_and(|first| !first.refuses) {
                apps.until_left = Some(second + 1);
            }
            if second >= 60 {
                later += 1;
                refused_later += u64::from(tries != Some(1));
            }
        }
    }
    Refused {
        until_left: apps.iter().map(|apps| apps.until_left.unwrap_or(u64::MAX)).max().unwrap(),
        failed: apps.iter().map(|apps| apps.failed).max().unwrap(),
        refused_later: refused_later * 1000 / later.max(1),
    }
}

impl Apps {
    /// The gateways to which the client has links, in the order in which it uses them.
    fn links(&self, group: &mut Group, n: usize) -> Vec<Reachable> {
        let now = group.local(n);
        let mut ranked = group.reachable(n);
        // As `doubted_last` of the client's dialling.
        let is_doubted = |gateway: &Reachable| self.results.doubts(gateway.id, now);
        if ranked.iter().filter(|gateway| is_doubted(gateway)).count() >= LINKS[1] {
            ranked.sort_by_key(is_doubted);
        }
        let doubted = ranked.iter().filter(|gateway| is_doubted(gateway)).count();
        ranked.truncate((LINKS[0] + doubted).min(LINKS[1]));
        ranked
    }

    /// Connects over the first of the client's links that has not failed this destination lately, and over the next ones
    /// while that is refused. Gives the number of attempts.
    fn connect(&mut self, group: &mut Group, n: usize, target: &Target) -> Option<u64> {
        let (now, links) = (group.local(n), self.links(group, n));
        let is_untried = |results: &Results, gateway: &Reachable| {
            !gateway.is_suspect && !results.is_last_for(gateway.id, target, now)
        };
        let mut next: Vec<_> = links.iter().filter(|gateway| is_untried(&self.results, gateway)).collect();
        if next.is_empty() {
            next.extend(links.first());
        }
        for (tries, gateway) in (1..).zip(next) {
            if gateway.refuses {
                self.results.failed(gateway.id, target, Failing::Ended, now);
                continue;
            }
            for blamed in self.results.answered(gateway.id, target, now) {
                group.blame(n, blamed);
            }
            return Some(tries);
        }
        None
    }
}
