//! How this client's connections have fared over each gateway, so that it leaves a gateway that answers pings and carries
//! nothing. Pure: results and the time go in, preferences come out.
//!
//! A failure alone says nothing about a gateway, whatever the gateway says about the failure: the destination may be down.
//! So the gateway only comes last for that destination. Failures count against it for all destinations once other gateways
//! have carried answers of several hosts that failed over it, and it has carried none since.

use std::collections::HashMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use laneway_wire::id::NodeId;
use laneway_wire::target::{Host, Target};

/// How long a gateway comes last for a destination that failed over it. This doubles each time.
const PAUSE: Duration = Duration::from_secs(10);
/// The maximum of that.
const MAX_PAUSE: Duration = Duration::from_secs(300);
/// After this time without another failure of a destination, all of its failures are forgotten.
const MEMORY: Duration = Duration::from_secs(600);
/// An answer over another gateway contradicts a failure that is no older than this: a destination that was down then may be
/// up again.
const COMPARABLE: Duration = Duration::from_secs(30);
/// How many hosts in different networks must have answered over other gateways before a gateway is to blame. One server, or one
/// that answers some gateways and not others, is not enough.
const CONTRADICTIONS: usize = 3;
/// How many failures in a row, without an answer of any destination, make a gateway doubtful.
const FAILURES_TO_DOUBT: u32 = 2;
/// How long after an answer silence says nothing about the gateway: some servers take long.
const TRUST: Duration = Duration::from_secs(120);
/// Maximum number of failed destinations that are remembered, of all gateways together.
const MAX_FAILED: usize = 512;
/// Maximum number of gateways that are remembered.
const MAX_GATEWAYS: usize = 64;

/// How a connection failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failing {
    /// The gateway refused it by its own rules and limits, which may differ from those of others.
    ByRule,
    /// The gateway says that the destination failed, or the connection ended without an answer.
    Ended,
    /// Nothing came for some seconds.
    Silent,
    /// Nothing had come when another gateway, which was asked later, had connected.
    Overtaken,
    /// What came is not the file that an index names.
    Wrong,
}

/// How this client's connections have fared.
#[derive(Debug, Default)]
pub struct Results {
    failed: HashMap<(NodeId, Target), Failed>,
    gateways: HashMap<NodeId, Record>,
}

/// The failures of one destination over one gateway.
#[derive(Clone, Copy, Debug)]
struct Failed {
    times: u32,
    last: Instant,
    counts: bool,
}

/// What one gateway has done.
#[derive(Debug, Default)]
struct Record {
    /// Failures since its last answer.
    failures: u32,
    last_failure: Option<Instant>,
    answered: Option<Instant>,
    /// The networks of the hosts that answered over other gateways and failed over this one, since its last answer.
    contradicted: Vec<Network>,
}

/// Where a host is: whoever owns one host of a network may own all of it.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Network {
    /// The first three bytes of an IPv4 address, or six of an IPv6 one.
    Prefix(Vec<u8>),
    /// The last two labels of a name.
    Domain(String),
}

impl Results {
    /// Notes that a connection to `target` failed over `gateway`.
    pub fn failed(&mut self, gateway: NodeId, target: &Target, how: Failing, now: Instant) {
        let record = self.record(gateway);
        let has_answered_lately = record.answered.is_some_and(|answered| now < answered + TRUST);
        if how == Failing::Silent && has_answered_lately {
            return;
        }
        if record.last_failure.is_some_and(|last| now >= last + MAX_PAUSE) {
            (record.failures, record.contradicted) = (0, Vec::new());
        }
        (record.failures, record.last_failure) = (record.failures.saturating_add(1), Some(now));
        self.failed.retain(|_, failed| now < failed.last + MEMORY);
        if self.failed.len() >= MAX_FAILED
            && let Some(oldest) = self.failed.iter().min_by_key(|(_, failed)| failed.last)
        {
            let oldest = oldest.0.clone();
            self.failed.remove(&oldest);
        }
        let first = Failed { times: 0, last: now, counts: false };
        let failed = self.failed.entry((gateway, target.clone())).or_insert(first);
        *failed = Failed { times: failed.times.saturating_add(1), last: now, counts: how != Failing::ByRule };
    }

    /// Notes that `target` has answered over `gateway`. Returns the gateways that this proves to blame for their failures.
    pub fn answered(&mut self, gateway: NodeId, target: &Target, now: Instant) -> Vec<NodeId> {
        *self.record(gateway) = Record { answered: Some(now), ..Record::default() };
        self.failed.remove(&(gateway, target.clone()));
        let network = Network::of(&target.host);
        let mut blamed = Vec::new();
        for ((other, _), failed) in self.failed.iter().filter(|((_, failed), _)| failed == target) {
            let Some(record) = self.gateways.get_mut(other) else { continue };
            if !failed.counts || now >= failed.last + COMPARABLE || record.contradicted.contains(&network) {
                continue;
            }
            record.contradicted.push(network.clone());
            if record.contradicted.len() >= CONTRADICTIONS {
                record.contradicted.clear();
                blamed.push(*other);
            }
        }
        blamed
    }

    /// Whether `gateway` comes last for `target`, because `target` failed over it lately.
    pub fn is_last_for(&self, gateway: NodeId, target: &Target, now: Instant) -> bool {
        let failed = self.failed.get(&(gateway, target.clone()));
        failed.is_some_and(|failed| now < failed.last + pause(failed.times))
    }

    /// Whether connections have failed over `gateway` several times in a row, and nothing has answered since.
    pub fn doubts(&self, gateway: NodeId, now: Instant) -> bool {
        self.gateways.get(&gateway).is_some_and(|record| {
            let is_recent = record.last_failure.is_some_and(|last| now < last + MAX_PAUSE);
            is_recent && record.failures >= FAILURES_TO_DOUBT
        })
    }

    fn record(&mut self, gateway: NodeId) -> &mut Record {
        if self.gateways.len() >= MAX_GATEWAYS && !self.gateways.contains_key(&gateway) {
            self.gateways.clear();
            self.failed.clear();
        }
        self.gateways.entry(gateway).or_default()
    }
}

impl Network {
    fn of(host: &Host) -> Self {
        match host {
            Host::Address(IpAddr::V4(ip)) => Self::Prefix(ip.octets()[..3].to_vec()),
            Host::Address(IpAddr::V6(ip)) => Self::Prefix(ip.octets()[..6].to_vec()),
            Host::Name(name) => {
                let labels: Vec<_> = name.trim_end_matches('.').rsplitn(3, '.').take(2).collect();
                Self::Domain(labels.join("."))
            }
        }
    }
}

fn pause(times: u32) -> Duration {
    PAUSE.saturating_mul(1 << times.saturating_sub(1).min(8)).min(MAX_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: NodeId = NodeId([1; 16]);
    const B: NodeId = NodeId([2; 16]);

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    /// What the case is, the destinations that fail in turn, and whether A is to blame in the end.
    type Row<'a> = (&'a str, &'a [(&'a str, Failing)], bool);

    /// Fails over A and is answered over B a second later; whether A is to blame then.
    fn contradicts(results: &mut Results, text: &str, how: Failing, now: &mut Instant) -> bool {
        results.failed(A, &target(text), how, *now);
        *now += Duration::from_secs(1);
        results.answered(B, &target(text), *now) == [A]
    }

    #[test]
    fn who_is_to_blame() {
        use Failing::{ByRule, Ended, Silent};
        let spread = ["10.0.1.1:80", "10.0.2.1:80", "a.example.com:443"];
        let table: [Row<'_>; 7] = [
            ("three hosts", &spread.map(|host| (host, Ended)), true),
            ("three silent ones", &spread.map(|host| (host, Silent)), true),
            ("two hosts", &[(spread[0], Ended), (spread[1], Ended), (spread[0], Ended)], false),
            ("rules", &spread.map(|host| (host, ByRule)), false),
            (
                "ports of one server",
                &["1", "2", "3"].map(|port| (&*["10.0.1.1:", port].concat().leak(), Ended)),
                false,
            ),
            ("one network", &["10.0.1.1:1", "10.0.1.2:1", "10.0.1.3:1"].map(|host| (host, Ended)), false),
            ("one domain", &["a.x.org:1", "b.x.org:1", "c.d.x.org:1"].map(|host| (host, Ended)), false),
        ];
        for (what, failures, is_blamed) in table {
            let (mut results, mut now) = (Results::default(), Instant::now());
            let blamed: Vec<_> =
                failures.iter().map(|(host, how)| contradicts(&mut results, host, *how, &mut now)).collect();
            assert_eq!(blamed.last() == Some(&true), is_blamed, "{what}: {blamed:?}");
        }
    }

    #[test]
    fn a_destination_that_is_down_is_held_against_no_gateway() {
        let (mut results, mut now) = (Results::default(), Instant::now());
        for host in 0..200 {
            let down = target(&format!("10.0.{host}.1:80"));
            for gateway in [A, B] {
                results.failed(gateway, &down, Failing::Ended, now);
                assert!(results.is_last_for(gateway, &down, now));
            }
            now += Duration::from_secs(1);
        }
        // The servers are up again a minute later.
        now += Duration::from_secs(60);
        for host in 0..200 {
            assert!(results.answered(B, &target(&format!("10.0.{host}.1:80")), now).is_empty());
        }
    }

    #[test]
    fn an_answer_over_a_gateway_absolves_it() {
        let (mut results, mut now) = (Results::default(), Instant::now());
        for host in 0..20 {
            assert!(!contradicts(&mut results, &format!("10.0.{host}.1:80"), Failing::Ended, &mut now));
            if host % 2 == 1 {
                assert!(results.doubts(A, now));
                assert!(results.answered(A, &target("10.9.9.9:80"), now).is_empty());
                assert!(!results.doubts(A, now));
            }
        }
    }

    #[test]
    fn silence_says_nothing_about_a_gateway_that_has_answered_lately() {
        let (mut results, now, slow) = (Results::default(), Instant::now(), target("10.0.0.1:80"));
        results.answered(A, &target("10.0.0.2:80"), now);
        results.failed(A, &slow, Failing::Silent, now + Duration::from_secs(5));
        assert!(!results.is_last_for(A, &slow, now + Duration::from_secs(5)));
        results.failed(A, &slow, Failing::Silent, now + TRUST);
        assert!(results.is_last_for(A, &slow, now + TRUST));
    }

    #[test]
    fn a_gateway_comes_last_for_a_destination_longer_each_time_and_not_for_ever() {
        let (mut results, mut now, one) = (Results::default(), Instant::now(), target("10.0.0.1:80"));
        for seconds in [10, 20, 40, 80, 160, 300, 300] {
            results.failed(A, &one, Failing::Ended, now);
            now += Duration::from_secs(seconds) - Duration::from_millis(1);
            assert!(results.is_last_for(A, &one, now), "{seconds}");
            assert!(
                !results.is_last_for(B, &one, now) && !results.is_last_for(A, &target("10.0.0.1:81"), now)
            );
            now += Duration::from_millis(1);
            assert!(!results.is_last_for(A, &one, now), "{seconds}");
        }
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let (mut results, now) = (Results::default(), Instant::now());
        for number in 0..5000_u32 {
            let gateway = NodeId(u128::from(number / 50).to_be_bytes());
            results.failed(gateway, &target(&format!("10.0.0.1:{}", number + 1)), Failing::Ended, now);
            assert!(results.failed.len() <= MAX_FAILED && results.gateways.len() <= MAX_GATEWAYS);
        }
    }
}
