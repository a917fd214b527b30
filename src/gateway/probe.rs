//! Does this machine reach the servers? A TCP connection to each, again and again.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use super::egress::Egress;
use crate::wire::datagram::Reach;
use crate::wire::target::Target;

/// Between two probes.
const INTERVAL: Duration = Duration::from_secs(5);
/// Between two probes while the servers are not reached: the way back should not wait.
const RETRY: Duration = Duration::from_secs(1);
/// So many probes in a row must fail before a server counts as lost.
const FAILURES: u32 = 2;

/// Probes until `reach` has no receiver. One server that answers is enough.
pub async fn run(egress: Arc<Egress>, servers: Vec<Target>, reach: watch::Sender<Reach>) {
    if servers.is_empty() {
        return;
    }
    let mut failures = 0;
    while !reach.is_closed() {
        let mut reached = false;
        for server in &servers {
            match egress.connect(server).await {
                Ok(_) => reached = true,
                Err(failure) => tracing::debug!(%server, reason = %failure, "server probe failed"),
            }
        }
        failures = if reached { 0 } else { failures + 1 };
        let verdict = match (reached, failures) {
            (true, _) => Reach::Reachable,
            (false, FAILURES..) => Reach::Unreachable,
            (false, _) => *reach.borrow(),
        };
        reach.send_if_modified(|now| {
            let changed = *now != verdict;
            if changed {
                tracing::info!(reach = verdict.word(), "servers");
            }
            *now = verdict;
            changed
        });
        tokio::time::sleep(if reached { INTERVAL } else { RETRY }).await;
    }
}
