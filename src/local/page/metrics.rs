//! The metrics for Prometheus in its text exposition format, version 0.0.4. Names contain their units, counters end in
//! `_total`. Destinations are not labels, because their number is not bounded.

use std::fmt::Write;

use crate::telemetry::snapshot::{Counted, LinkSeen, Snapshot, Usage};

/// The media type.
pub(super) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The states of a gateway.
const STATES: [&str; 6] = ["active", "standby", "draining", "withdrawn", "linked", "silent"];

/// All metrics of a snapshot.
pub fn text(snapshot: &Snapshot) -> String {
    let mut page = Exposition::default();
    let node = &snapshot.node;
    page.gauge("build_info", "Version of the program; always 1.");
    page.sample(&[("version", &node.version)], 1);
    page.gauge("node_info", "Identity of this node; always 1.");
    let names =
        [("node", node.name.as_str()), ("id", &node.id), ("group", &node.group), ("role", &node.role)];
    page.sample(&names, 1);
    page.gauge("start_time_seconds", "Start time of the node, in seconds since 1970.");
    page.sample(&[], node.started);
    page.gauge(
        "goes_direct",
        "1 while connections of local apps go to servers directly and not over a link.",
    );
    page.sample(&[], u8::from(node.goes_direct));
    page.gauge("draining", "1 while the node is about to stop.");
    page.sample(&[], u8::from(node.is_draining));
    page.gauge("maintenance", "1 while the node serves no clients because of 'laneway drain'.");
    page.sample(&[], u8::from(node.in_maintenance));
    page.gauge("removed", "1 once the node knows that the group has removed it.");
    page.sample(&[], u8::from(node.is_removed));
    page.gauge("node_state", "1 for the state of this node as a gateway.");
    for state in &STATES[..4] {
        // Nobody uses a removed node as a gateway.
        let is_it = !node.is_removed && node.state.as_deref() == Some(state);
        page.sample(&[("state", state)], u8::from(is_it));
    }
    if let Some(reach @ ("reachable" | "unreachable")) = node.reach.as_deref() {
        page.gauge("server_reachable", "1 while this node can reach a server itself.");
        page.sample(&[], u8::from(reach == "reachable"));
    }
    connections(&mut page, snapshot);
    gateways(&mut page, snapshot);
    page.gauge("memory_used_bytes", "Memory in use by connections.");
    page.sample(&[], snapshot.memory.used);
    page.gauge("memory_limit_bytes", "Limit of the memory of connections.");
    page.sample(&[], snapshot.memory.limit);
    page.gauge(
        "memory_largest_holder_bytes",
        "Memory in use by whoever holds most: one client, or the apps of this node.",
    );
    page.sample(&[], snapshot.memory.largest);
    page.counter("discovery_datagrams_total", "Datagrams of discovery, by type and direction.");
    page.counts(&snapshot.datagrams, &["type", "direction"]);
    page.counter("discovery_dropped_total", "Datagrams of discovery that were dropped, by reason.");
    page.counts(&snapshot.discovery_dropped, &["reason"]);
    page.counter("discovery_signatures_total", "Signatures of discovery datagrams that were verified.");
    page.sample(&[], snapshot.discovery_signatures);
    page.counter("events_total", "Events, by kind.");
    page.counts(&snapshot.happened, &["event"]);
    page.text
}

fn connections(page: &mut Exposition, snapshot: &Snapshot) {
    let sides = [("apps", &snapshot.apps), ("clients", &snapshot.served)];
    let mut each = |name: &str, is_counter: bool, help: &str, value: fn(&Usage) -> u64| {
        if is_counter {
            page.counter(name, help)
        } else {
            page.gauge(name, help)
        }
        for (side, usage) in sides {
            page.sample(&[("of", side)], value(usage));
        }
    };
    each("connections_open", false, "Open connections, of local apps and of clients.", |usage| {
        usage.open.into()
    });
    each("destinations_opened_total", true, "Connections with a destination.", |usage| usage.opened);
    each("sent_bytes_total", true, "Bytes sent to servers.", |usage| usage.sent);
    each("received_bytes_total", true, "Bytes received from servers.", |usage| usage.received);
    page.counter("connections_total", "Connections, by dialect of the app.");
    page.counts(&snapshot.connections, &["dialect"]);
    page.counter("connection_failures_total", "Connections that failed, by kind of failure and side.");
    page.counts(&snapshot.failures, &["kind", "side"]);
    page.counter("connections_rescued_total", "Connections that continued over another gateway, by how.");
    page.counts(&snapshot.rescued, &["how"]);
    page.counter(
        "connections_cut_total",
        "Connections of apps that were reset because of a gateway, by reason: its link was lost, or its way out.",
    );
    page.counts(&snapshot.cut, &["reason"]);
    page.counter("downloads_spread_total", "Downloads that came over several gateways at the same time.");
    page.sample(&[], snapshot.spread.downloads);
    page.counter("downloads_spread_bytes_total", "Their bytes, over all of these gateways.");
    page.sample(&[], snapshot.spread.bytes);
    page.counter(
        "refused_total",
        "Requests of apps that were refused whatever their destination, by reason and dialect.",
    );
    page.counts(&snapshot.refused, &["reason", "dialect"]);
    page.counter("udp_dropped_total", "UDP datagrams that were dropped, by reason.");
    page.counts(&snapshot.udp_dropped, &["reason"]);
    page.counter("dns_questions_total", "Queries to the local name server, by transport.");
    page.counts(&snapshot.questions, &["transport"]);
    page.counter("dns_answers_total", "Answers of the local name server, by response code and source.");
    page.counts(&snapshot.answers, &["code", "from"]);
    cache(page, snapshot);
}

fn cache(page: &mut Exposition, snapshot: &Snapshot) {
    page.counter(
        "cache_requests_total",
        "Plain requests of clients that the cache took part in, by what became of them.",
    );
    page.counts(&snapshot.cache, &["result"]);
    page.counter(
        "cache_saved_bytes_total",
        "Bytes of bodies that clients got without a transfer from the server.",
    );
    page.sample(&[], snapshot.cache_saved);
    page.counter(
        "front_files_total",
        "Files of registries that fronts have checked against the digest in an index, by result and registry.",
    );
    page.counts(&snapshot.fronts_checked, &["result", "registry"]);
    page.counter("peer_pieces_total", "Pieces of large downloads between members, by what became of them.");
    page.counts(&snapshot.peers.pieces, &["result"]);
    page.counter("peer_received_bytes_total", "Bytes of bodies that apps got from other members.");
    page.sample(&[], snapshot.peers.received);
    page.counter("peer_served_bytes_total", "Bytes of bodies that other members got from this node.");
    page.sample(&[], snapshot.peers.served);
    page.gauge("store_unusable", "1 while nothing can be stored in this directory of the state directory.");
    for what in ["cache", "peer-cache"] {
        let is_unused = snapshot.unused.iter().any(|unused| unused.what == what);
        page.sample(&[("directory", what)], u8::from(is_unused));
    }
    if let Some(store) = snapshot.peers.store {
        page.gauge("peer_used_bytes", "Bytes that downloads kept for other members take on the disk.");
        page.sample(&[], store.bytes);
        page.gauge("peer_limit_bytes", "Bytes that they may take on the disk.");
        page.sample(&[], store.limit);
        page.gauge("peer_disk_hung", "1 while that disk does not answer, so that nothing is kept or served.");
        page.sample(&[], u8::from(store.is_hung));
    }
    if let Some(store) = snapshot.cache_store {
        page.gauge("cache_entries", "Responses that the cache stores.");
        page.sample(&[], store.entries);
        page.gauge("cache_used_bytes", "Bytes that the cache takes on the disk.");
        page.sample(&[], store.bytes);
        page.gauge("cache_limit_bytes", "Bytes that the cache may take on the disk.");
        page.sample(&[], store.limit);
        page.gauge("cache_disk_hung", "1 while that disk does not answer, so that nothing is stored.");
        page.sample(&[], u8::from(store.is_hung));
    }
}

fn gateways(page: &mut Exposition, snapshot: &Snapshot) {
    page.gauge("gateways", "Known gateways, by state.");
    for state in STATES {
        let count = snapshot.gateways.iter().filter(|gateway| gateway.state == state).count();
        page.sample(&[("state", state)], count);
    }
    page.gauge("clients", "Links of clients to this node.");
    page.sample(&[], snapshot.clients_in_all);
    let links = &snapshot.links;
    let mut each = |name: &str, help: &str, value: fn(&LinkSeen) -> Option<f64>| {
        page.gauge(name, help);
        for link in links {
            if let Some(value) = value(link) {
                page.sample(&of_link(link), value);
            }
        }
    };
    each("link_up", "1 for each link to a gateway that is up.", |_| Some(1.0));
    each("link_in_use", "1 for the link that new connections use.", |link| {
        Some(f64::from(u8::from(link.state == "active")))
    });
    each("link_suspect", "1 while a ping is unanswered.", |link| {
        Some(f64::from(u8::from(link.state == "suspect")))
    });
    each("link_tunnels_open", "Open tunnels of the link.", |link| Some(link.tunnels.into()));
    each("link_round_trip_seconds", "Round trip time of the last ping.", |link| link.round_trip);
    page.counter("link_sent_bytes_total", "Bytes of tunnels sent on the link since it came up.");
    for link in links {
        page.sample(&of_link(link), link.sent);
    }
    page.counter("link_received_bytes_total", "Bytes of tunnels received on the link since it came up.");
    for link in links {
        page.sample(&of_link(link), link.received);
    }
}

/// The labels of a link. Names are for people; the id tells apart two gateways of one name.
fn of_link(link: &LinkSeen) -> [(&'static str, &str); 3] {
    [("gateway", &link.name), ("id", &link.id), ("address", &link.address)]
}

/// The text so far, and the name of the metric whose samples come next.
#[derive(Default)]
struct Exposition {
    text: String,
    name: String,
}

impl Exposition {
    fn counter(&mut self, name: &str, help: &str) {
        self.begin(name, "counter", help);
    }

    fn gauge(&mut self, name: &str, help: &str) {
        self.begin(name, "gauge", help);
    }

    fn begin(&mut self, name: &str, kind: &str, help: &str) {
        self.name = format!("laneway_{name}");
        let name = &self.name;
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// Writes one sample of the metric that was begun last.
    fn sample(&mut self, labels: &[(&str, &str)], value: impl std::fmt::Display) {
        let labels: Vec<_> =
            labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
        let labels = if labels.is_empty() { String::new() } else { format!("{{{}}}", labels.join(",")) };
        let _ = writeln!(self.text, "{}{labels} {value}", self.name);
    }

    fn counts(&mut self, counts: &[Counted], names: &[&str]) {
        for counted in counts {
            let values = [counted.what.as_str(), &counted.side];
            let labels: Vec<_> = names.iter().copied().zip(values).collect();
            self.sample(&labels, counted.count);
        }
    }
}

/// A label's value with the characters escaped that the format reserves.
fn escaped(value: &str) -> String {
    value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::snapshot::UnusedDirectory;

    #[test]
    fn a_disk_that_does_not_answer_is_told() {
        let mut snapshot = crate::telemetry::snapshot::example();
        let mut store = snapshot.cache_store.unwrap();
        for (is_hung, value) in [(false, 0), (true, 1)] {
            store.is_hung = is_hung;
            (snapshot.cache_store, snapshot.peers.store) = (Some(store), Some(store));
            let text = text(&snapshot);
            for name in ["cache", "peer"] {
                assert!(text.contains(&format!("\nlaneway_{name}_disk_hung {value}\n")), "{text}");
            }
        }
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_told() {
        let mut snapshot = crate::telemetry::snapshot::example();
        let line = |of: &str, value: u8| format!("\nlaneway_store_unusable{{directory=\"{of}\"}} {value}\n");
        assert!(text(&snapshot).contains(&line("cache", 0)));
        snapshot.unused = vec![UnusedDirectory {
            what: "cache".into(),
            directory: "/x/cache".into(),
            reason: "Not a directory".into(),
            until_restart: true,
        }];
        let text = text(&snapshot);
        assert!(text.contains(&line("cache", 1)) && text.contains(&line("peer-cache", 0)), "{text}");
    }

    #[test]
    fn a_label_cannot_end_its_line() {
        let mut page = Exposition::default();
        page.gauge("x", "Help.");
        page.sample(&[("name", "a\"} 1\nb\\")], 2);
        assert_eq!(page.text.lines().last(), Some(r#"laneway_x{name="a\"} 1\nb\\"} 2"#));
    }
}
