//! The kernel's table of connections (conntrack): while it is full, the packets of new connections are dropped.

use super::report::{Finding, Layer};

/// Where Linux says how many connections it tracks, and how many it may (nf_conntrack-sysctl). There is nothing where it tracks
/// none.
const COUNT: &str = "/proc/sys/net/netfilter/nf_conntrack_count";
const MAX: &str = "/proc/sys/net/netfilter/nf_conntrack_max";
/// The share of the table, in percent, from which it counts as full: while it is, entries come and go.
const FULL: u64 = 95;

/// The finding about a table that is full.
pub(super) fn check() -> Option<Finding> {
    let read = |path| std::fs::read_to_string(path).ok()?.trim().parse().ok();
    judge(read(COUNT)?, read(MAX)?)
}

/// The finding about a table with `count` entries of at most `max`, if it is full.
fn judge(count: u64, max: u64) -> Option<Finding> {
    // The kernel takes 0 for no limit.
    if max == 0 || count.saturating_mul(100) < max.saturating_mul(FULL) {
        return None;
    }
    let what = format!("the kernel's table of connections is full: {count} of at most {max} (nf_conntrack)");
    Some(
        Finding::wrong(Layer::Firewall, what)
            .because("packets of new connections are dropped, also those of the node; the kernel's log says 'table full, dropping packet'")
            .hint(format!(
                "sysctl -w net.netfilter.nf_conntrack_max={} makes room until the next start of the machine, the same line without \
                 'sysctl -w' in /etc/sysctl.d/ for good; 'conntrack -L' shows which connections these are",
                max.saturating_mul(4)
            )),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_table_that_is_full_is_a_fault() {
        for (count, max, is_full) in [
            (0, 65_536, false),
            (60_000, 65_536, false),
            (62_300, 65_536, true),
            (65_536, 65_536, true),
            (9, 0, false),
        ] {
            let finding = judge(count, max);
            assert_eq!(finding.is_some(), is_full, "{count} of {max}");
            if let Some(finding) = finding {
                assert!(finding.what.contains(&format!("{count} of at most 65536")), "{finding:?}");
                assert!(
                    finding.hint.unwrap().starts_with("sysctl -w net.netfilter.nf_conntrack_max=262144 ")
                );
            }
        }
    }
}
