//! Gateways that are linked and not heard, as behind a router: whether they have a way out they are asked on their links.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::Links;
use crate::link::client::Link;
use crate::link::gateway_info::{self, GatewayInfo};
use crate::wire::datagram::Reach;

/// Interval between two questions.
const INTERVAL: Duration = Duration::from_secs(5);

impl Links {
    /// Asks the gateways that announce nothing here, when a link comes up and then again and again. Runs forever.
    pub(super) async fn ask_unheard(&self) {
        let mut up = self.up.subscribe();
        loop {
            let links = up.borrow_and_update().clone();
            join_all(links.iter().filter(|link| self.is_unheard(link)).map(|link| self.ask(link))).await;
            tokio::select! {
                () = sleep(INTERVAL) => {}
                changed = up.changed() => if changed.is_err() { return std::future::pending().await },
            }
        }
    }

    fn is_unheard(&self, link: &Link) -> bool {
        let (id, now) = (link.gateway.id, Instant::now());
        let known = self.directory.ranked(now);
        !known.iter().any(|gateway| gateway.id == Some(id) && gateway.state(now).is_some())
    }

    async fn ask(&self, link: &Link) {
        let Ok(about) = gateway_info::fetch(link).await else { return };
        match without_way_out(&link.gateway.name, &about) {
            Some(why) => self.note_said(link, &why),
            None => self.has_way_out(&link.gateway),
        }
    }
}

/// Why the gateway `name` serves nobody, by its own word; `None` while it serves.
fn without_way_out(name: &str, about: &GatewayInfo) -> Option<String> {
    if about.in_maintenance {
        return Some(format!("gateway {name} is in maintenance ('laneway drain --undo' there ends it)"));
    }
    if about.reach.as_deref() != Some(Reach::Unreachable.word()) {
        return None;
    }
    Some(match about.unreached.first() {
        Some(fault) => format!("gateway {name} does not reach {}: {}", fault.server, fault.reason),
        None => format!("gateway {name} has no way out ('laneway doctor' there says why)"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::snapshot::Unreached;

    #[test]
    fn a_gateway_that_says_that_it_serves_nobody_says_why() {
        let mut about: GatewayInfo =
            serde_json::from_str(r#"{"clock": 1, "servers": [], "state": null, "reach": "unproved"}"#)
                .unwrap();
        assert_eq!(without_way_out("g1", &about), None);
        about.reach = Some("unreachable".into());
        assert!(without_way_out("g1", &about).unwrap().starts_with("gateway g1 has no way out"));
        about.unreached = vec![Unreached { server: "h:80".into(), reason: "no route".into() }];
        assert_eq!(without_way_out("g1", &about).unwrap(), "gateway g1 does not reach h:80: no route");
        about.in_maintenance = true;
        assert!(without_way_out("g1", &about).unwrap().contains("is in maintenance"));
    }
}
