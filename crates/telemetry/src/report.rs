//! A snapshot as text for a terminal: `laneway status` prints it, and curl gets it from the local port.

use std::fmt::Write;

use super::snapshot::{
    FailedSeen, FileSeen, GatewaySeen, LinkSeen, Proof, RulesSeen, Snapshot, UnusedDirectory, Usage,
};

/// A page of text.
pub fn text(snapshot: &Snapshot) -> String {
    let mut page = String::new();
    let node = &snapshot.node;
    let _ = writeln!(page, "{} ({}) in group {}, laneway {}", node.name, node.id, node.group, node.version);
    let _ = writeln!(page, "{}", situation(snapshot));
    for fault in &snapshot.unreached {
        let _ = writeln!(page, "this node does not reach {}: {}", fault.server, fault.reason);
    }
    for directory in &snapshot.unused {
        let _ = writeln!(page, "{}", unused(directory));
    }
    if let Some(why) = &snapshot.refused_configuration {
        let _ =
            writeln!(page, "the last reload was refused, the configuration from before is in force: {why}");
    }
    if let Some(sentence) = snapshot.rules.as_ref().and_then(rules) {
        let _ = writeln!(page, "{sentence}");
    }
    if let Some(sentence) = other_groups(&snapshot.other_groups) {
        let _ = writeln!(page, "{sentence}");
    }
    let _ = writeln!(
        page,
        "proxy {} (SOCKS5 and HTTP), up {}, memory {} of {}",
        node.proxy.join(", "),
        age(node.uptime),
        bytes(snapshot.memory.used),
        bytes(snapshot.memory.limit)
    );
    if let Some(sentence) = spread(snapshot) {
        let _ = writeln!(page, "{sentence}");
    }
    for front in &snapshot.fronts {
        let _ = writeln!(page, "front /{}/ for {}", front.name, front.url);
    }
    if !snapshot.gateways.is_empty() {
        let head = [
            "",
            "GATEWAY",
            "ADDRESS",
            "STATE",
            "SERVER",
            "CAPACITY",
            "MACHINE LOAD",
            "TUNNELS",
            "RTT",
            "HEARD",
        ];
        let rows = snapshot.gateways.iter().map(gateway_row);
        table(&mut page, head, rows.collect());
    }
    if !snapshot.clients.is_empty() {
        let head = ["", "CLIENT", "ADDRESS", "LINKED", "TUNNELS", "SENT", "RECEIVED", "RTT"];
        table(&mut page, head, snapshot.clients.iter().map(client_row).collect());
    }
    if let Some(sentence) = cache(snapshot) {
        let _ = writeln!(page, "\n{sentence}");
    }
    if let Some(sentence) = peers(snapshot) {
        let _ = writeln!(page, "\n{sentence}");
    }
    if !snapshot.cache_top.is_empty() {
        let rows = snapshot.cache_top.iter().map(file_row);
        table(&mut page, ["", "FROM THE CACHE", "MACHINES", "HITS", "SAVED"], rows.collect());
    }
    if !snapshot.failed.is_empty() {
        let rows = snapshot.failed.iter().map(|seen| failed_row(seen, snapshot.at));
        table(&mut page, ["", "FAILED LAST", "AGO", "TIMES", "WHY"], rows.collect());
    }
    for (title, usage) in [("DESTINATION", &snapshot.apps), ("FOR CLIENTS", &snapshot.served)] {
        if !usage.destinations.is_empty() {
            table(&mut page, ["", title, "OPEN", "SO FAR", "FAILED", "SENT", "RECEIVED"], usage_rows(usage));
        }
    }
    page
}

/// One sentence on the machines of other groups at these addresses, if there are any. A machine has addresses of both versions
/// of IP: those of IPv6 are named only where there are no others.
pub fn other_groups(addresses: &[String]) -> Option<String> {
    let is_v6 = |address: &&String| address.contains(':');
    let v4: Vec<_> = addresses.iter().filter(|address| !is_v6(address)).cloned().collect();
    match if v4.is_empty() { addresses } else { &v4 } {
        [] => None,
        [one] => Some(format!("a machine of another group is on this LAN, and is ignored: {one}")),
        some => Some(format!("machines of another group are on this LAN, and are ignored: {}", few(some))),
    }
}

/// One sentence on downloads that came over several gateways, if there were any.
pub fn spread(snapshot: &Snapshot) -> Option<String> {
    let size = bytes(snapshot.spread.bytes);
    match snapshot.spread.downloads {
        0 => None,
        1 => Some(format!("1 large download came over several gateways at the same time, {size}")),
        count => Some(format!(
            "{count} large downloads came over several gateways at the same time, {size} in all"
        )),
    }
}

/// One sentence on what the cache stores and has saved, if there is one.
pub fn cache(snapshot: &Snapshot) -> Option<String> {
    let store = snapshot.cache_store?;
    let file = snapshot.cache_top.iter().max_by_key(|file| file.machines).filter(|file| file.machines > 1);
    let most = file.map(|file| format!("; one file was downloaded once for {} machines", file.machines));
    Some(format!(
        "cache: {}, {} of {}, {} saved{}{}",
        counted(store.entries, "response"),
        bytes(store.bytes),
        bytes(store.limit),
        bytes(snapshot.cache_saved),
        most.unwrap_or_default(),
        if store.is_hung { "; its disk does not answer, so nothing is stored" } else { "" }
    ))
}

/// One sentence on a directory in which nothing can be stored.
pub fn unused(seen: &UnusedDirectory) -> String {
    let UnusedDirectory { what, directory, reason, until_restart } = seen;
    let until =
        if *until_restart { "it is not tried again before a restart" } else { "each new file tries again" };
    format!("nothing is stored in {directory} ({what}): {reason}; {until}")
}

/// One sentence on what members of the LAN have given each other, if they have.
pub fn peers(snapshot: &Snapshot) -> Option<String> {
    let (received, served) = (snapshot.peers.received, snapshot.peers.served);
    let is_hung = snapshot.peers.store.is_some_and(|store| store.is_hung);
    if received == 0 && served == 0 && !is_hung {
        return None;
    }
    let hung = if is_hung { "; the disk of what is kept for them does not answer" } else { "" };
    Some(format!("{} came from members of the LAN, {} went to them{hung}", bytes(received), bytes(served)))
}

fn file_row(file: &FileSeen) -> [String; 5] {
    let (machines, hits) = (file.machines.to_string(), file.hits.to_string());
    [String::new(), file.url.clone(), machines, hits, bytes(file.saved)]
}

/// One sentence on how this node reaches servers.
pub fn situation(snapshot: &Snapshot) -> String {
    let node = &snapshot.node;
    let state = match node.state.as_deref() {
        _ if node.is_removed => "removed from the group ('laneway doctor' says what to do), ".to_owned(),
        _ if node.in_maintenance => "in maintenance ('laneway drain --undo' ends it), ".to_owned(),
        Some(state) => format!("{state} gateway, "),
        None => String::new(),
    };
    let no = if node.state.is_some() { "no other gateway" } else { "no gateway" };
    let answers = |link: &&LinkSeen| link.state != "suspect";
    let link = snapshot.links.iter().find(answers).or(snapshot.links.first());
    match (node.goes_direct, &snapshot.trouble, link) {
        (true, ..) => format!("{state}{}, {}", way_out(snapshot), clients(snapshot)),
        (_, Some(trouble), _) => format!("{state}{no}: {trouble}"),
        (_, None, Some(link)) if !answers(&link) => {
            format!("{state}gateway {} at {} does not answer", link.name, link.address)
        }
        (_, None, Some(link)) => format!("{state}linked to gateway {} at {}", link.name, link.address),
        (_, None, None) => match unreached(snapshot) {
            Some(servers) => {
                let them = if snapshot.servers.len() == 1 { "it" } else { "them" };
                format!("{state}{no} to {servers} has answered yet, and this node cannot reach {them} either")
            }
            None => format!("{state}{no} has answered yet"),
        },
    }
}

/// How many clients a gateway serves. Clients that leave a ping unanswered, as while their cable is out, are not served; those
/// of a gateway in maintenance are served only in what they have open.
fn clients(snapshot: &Snapshot) -> String {
    let (all, silent) = (snapshot.clients_in_all, snapshot.clients_silent);
    let count = |clients: usize| counted(clients as u64, "client");
    match (snapshot.node.in_maintenance, silent) {
        (true, _) => format!("has links of {} and takes no new connections of theirs", count(all)),
        (false, 0) => format!("serves {}", count(all)),
        (false, 1) => format!("serves {}; 1 more does not answer", count(all.saturating_sub(1))),
        (false, _) => {
            format!("serves {}; {silent} more do not answer", count(all.saturating_sub(silent)))
        }
    }
}

/// How long an answer proves that servers are reached.
const PROOF_HOLDS: f64 = 60.0;

/// What has last proved a way out, and how long ago.
pub fn answered_last(proof: &Proof) -> String {
    format!("{} answered last, {} ago", proof.by, age(proof.ago))
}

/// What is known of the way from this node to servers, and since when.
fn way_out(snapshot: &Snapshot) -> String {
    let proof = snapshot.node.proof.as_ref();
    let last = || {
        proof
            .map_or_else(String::new, |proof| format!(": {} answered last, {} ago", proof.by, age(proof.ago)))
    };
    match (snapshot.node.reach.as_deref(), proof) {
        (Some("unreachable"), _) => format!("does not reach its servers{}", last()),
        (Some("reachable"), Some(proof)) if proof.ago >= PROOF_HOLDS => {
            format!("nothing has lately proved that it reaches servers{}", last())
        }
        (Some("reachable"), _) => format!("reaches servers directly{}", last()),
        (Some(_), None) if snapshot.servers.is_empty() => {
            "unproved: nothing beyond its networks has answered yet".into()
        }
        (Some(_), None) => "unproved: no server has answered yet".into(),
        (Some(_), Some(_)) => format!("unproved{}", last()),
        (None, _) => "connects to servers itself".into(),
    }
}

/// One sentence on the destinations that a gateway refuses; none if it refuses no kind of them.
pub fn rules(rules: &RulesSeen) -> Option<String> {
    let RulesSeen { allows_any, denied: all_denied, .. } = rules;
    let (allowed, denied) = left(rules);
    let but = if denied.is_empty() { String::new() } else { format!(" and not {}", few(&denied)) };
    match (allows_any, all_denied.is_empty()) {
        (false, _) if allowed.is_empty() && !rules.allowed.is_empty() => Some(format!(
            "as a gateway this node serves nothing: --deny names all that it allows, {}",
            few(all_denied)
        )),
        (false, _) => Some(format!(
            "as a gateway this node serves only {}{but}: --allow RULE adds destinations, --allow '*' all",
            few(&allowed)
        )),
        (true, false) => {
            Some(format!("as a gateway this node serves every destination but {}", few(all_denied)))
        }
        (true, true) => None,
    }
}

/// The rules that allow and those that deny, without the rules in both: what those name is denied.
pub fn left(rules: &RulesSeen) -> (Vec<String>, Vec<String>) {
    let without = |these: &[String], those: &[String]| {
        these.iter().filter(|rule| !those.contains(rule)).cloned().collect()
    };
    (without(&rules.allowed, &rules.denied), without(&rules.denied, &rules.allowed))
}

/// The first of these texts, and how many more there are.
pub fn few(texts: &[String]) -> String {
    const MOST: usize = 6;
    let shown = texts.iter().take(MOST).map(String::as_str).collect::<Vec<_>>().join(", ");
    match texts.len().saturating_sub(MOST) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

/// The configured servers, while this node cannot reach them directly.
pub fn unreached(snapshot: &Snapshot) -> Option<String> {
    let waits = !snapshot.node.goes_direct && !snapshot.servers.is_empty();
    waits.then(|| snapshot.servers.join(", "))
}

/// What a gateway is called: its name, or else its id.
pub fn called(gateway: &GatewaySeen) -> String {
    gateway.name.as_ref().or(gateway.id.as_ref()).cloned().unwrap_or_else(|| "?".into())
}

/// The state of a gateway, in a few words.
pub fn condition(gateway: &GatewaySeen) -> String {
    match (gateway.is_suspect, gateway.paused_for) {
        (_, Some(left)) => format!("{}, paused {}", gateway.state, age(left)),
        (true, _) => format!("{}, suspect", gateway.state),
        _ => gateway.state.clone(),
    }
}

fn gateway_row(gateway: &GatewaySeen) -> [String; 10] {
    [
        if gateway.is_used { ">" } else { "" }.into(),
        called(gateway),
        gateway.address.clone(),
        condition(gateway),
        or_dash(gateway.reach.clone()),
        or_dash(gateway.capacity.map(megabits)),
        or_dash(gateway.load.map(|load| format!("{:.1}%", load * 100.0))),
        or_dash(gateway.tunnels),
        or_dash(gateway.round_trip.map(millis)),
        gateway.heard_ago.map_or_else(|| unheard(gateway).into(), |ago| format!("{} ago", age(ago))),
    ]
}

/// How this node knows of a gateway that it has not heard itself.
fn unheard(gateway: &GatewaySeen) -> &'static str {
    match gateway.source.as_str() {
        "named" => "no: another gateway tells of it",
        "static" => "no: --gateway names it",
        "remembered" => "no: used before",
        _ => "no",
    }
}

fn client_row(link: &LinkSeen) -> [String; 8] {
    [
        String::new(),
        link.name.clone(),
        link.address.clone(),
        match link.state.as_str() {
            "suspect" => format!("{}, suspect", age(link.age)),
            _ => age(link.age),
        },
        link.tunnels.to_string(),
        bytes(link.sent),
        bytes(link.received),
        or_dash(link.round_trip.map(millis)),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "two units are shown")]
fn failed_row(seen: &FailedSeen, now: u64) -> [String; 5] {
    let ago = age(now.saturating_sub(seen.at) as f64 / 1000.0);
    [String::new(), seen.target.clone(), ago, seen.count.to_string(), seen.reason.clone()]
}

fn usage_rows(usage: &Usage) -> Vec<[String; 7]> {
    let row = |seen: &super::snapshot::DestinationSeen| {
        [
            String::new(),
            seen.target.clone(),
            seen.open.to_string(),
            seen.opened.to_string(),
            seen.failed.to_string(),
            bytes(seen.sent),
            bytes(seen.received),
        ]
    };
    usage.destinations.iter().map(row).collect()
}

/// Writes a table; each column is as wide as its widest cell.
pub fn table<const COLUMNS: usize>(page: &mut String, head: [&str; COLUMNS], rows: Vec<[String; COLUMNS]>) {
    let width = |column: usize| {
        rows.iter()
            .map(|row| row[column].chars().count())
            .chain([head[column].len()])
            .max()
            .unwrap_or_default()
    };
    let widths: [usize; COLUMNS] = std::array::from_fn(width);
    page.push('\n');
    for row in std::iter::once(head.map(str::to_owned)).chain(rows) {
        let cells: Vec<_> = row.iter().zip(widths).map(|(cell, width)| format!("{cell:<width$}")).collect();
        page.push_str(cells.join("  ").trim_end());
        page.push('\n');
    }
}

fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".into(), |value| value.to_string())
}

/// A count with its noun, in the plural unless there is one: `1 response`, `2 responses`.
pub fn counted(count: u64, noun: &str) -> String {
    format!("{count} {noun}{}", if count == 1 { "" } else { "s" })
}

/// Bytes for people: three digits and a decimal unit, like `1.23 GB`.
pub fn bytes(count: u64) -> String {
    scaled(count, "B")
}

/// Bits per second, always in Mbit/s: values that are compared have one unit.
pub fn megabits(count: u64) -> String {
    format!("{} Mbit/s", count.div_ceil(1_000_000))
}

#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn scaled(count: u64, unit: &str) -> String {
    const PREFIXES: [&str; 6] = ["k", "M", "G", "T", "P", "E"];
    if count < 1000 {
        return format!("{count} {unit}");
    }
    let mut value = count as f64;
    let mut prefix = "";
    for next in PREFIXES {
        // A value that would be shown as 1000 gets the next prefix.
        if value < 999.5 {
            break;
        }
        (value, prefix) = (value / 1000.0, next);
    }
    let digits = if value < 9.995 { 2 } else { usize::from(value < 99.95) };
    format!("{value:.digits$} {prefix}{unit}")
}

/// A number of seconds for people, in its two largest units.
pub fn age(seconds: f64) -> String {
    let whole = std::time::Duration::from_secs_f64(seconds.clamp(0.0, 1e12)).as_secs();
    match whole {
        0..10 => format!("{seconds:.1} s"),
        10..60 => format!("{whole} s"),
        60..3600 => format!("{} min {} s", whole / 60, whole % 60),
        3600..86_400 => format!("{} h {} min", whole / 3600, whole % 3600 / 60),
        _ => format!("{} d {} h", whole / 86_400, whole % 86_400 / 3600),
    }
}

/// A number of seconds, in milliseconds.
pub fn millis(seconds: f64) -> String {
    let millis = seconds * 1000.0;
    if millis < 10.0 { format!("{millis:.2} ms") } else { format!("{millis:.0} ms") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_have_three_digits_and_a_unit() {
        for (count, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_949, "1.00 MB"),
            (123_456_789, "123 MB"),
            (u64::MAX, "18.4 EB"),
        ] {
            assert_eq!(bytes(count), text);
        }
        assert_eq!(megabits(2_500_000_000), "2500 Mbit/s");
        assert_eq!(megabits(100_000_000), "100 Mbit/s");
    }

    #[test]
    fn a_directory_that_cannot_be_used_is_named_with_the_reason() {
        let seen = UnusedDirectory {
            what: "cache".into(),
            directory: "/x/cache".into(),
            reason: "Not a directory".into(),
            until_restart: true,
        };
        let mut snapshot = crate::snapshot::example();
        snapshot.unused = vec![seen.clone(), UnusedDirectory { until_restart: false, ..seen }];
        let said = "nothing is stored in /x/cache (cache): Not a directory; ";
        let page = text(&snapshot);
        assert!(page.contains(&format!("{said}it is not tried again before a restart\n")), "{page}");
        assert!(page.contains(&format!("{said}each new file tries again\n")), "{page}");
    }

    #[test]
    fn a_destination_that_is_denied_is_not_said_to_be_served() {
        let said = |allowed: &[&str], denied: &[&str]| {
            let owned = |rules: &[&str]| rules.iter().map(|rule| (*rule).to_owned()).collect();
            rules(&RulesSeen { allows_any: false, allowed: owned(allowed), denied: owned(denied) }).unwrap()
        };
        let sentence = said(&["10.0.0.5:80", "10.0.0.5:8000"], &["10.0.0.5:8000", "*:25"]);
        assert!(sentence.contains("serves only 10.0.0.5:80 and not *:25:"), "{sentence}");
        assert!(said(&["10.0.0.5:80"], &["10.0.0.5:80"]).contains("serves nothing"));
    }

    #[test]
    fn one_has_no_plural() {
        assert_eq!([0, 1, 2].map(|count| counted(count, "file")), ["0 files", "1 file", "2 files"]);
    }

    #[test]
    fn times_are_short() {
        for (seconds, text) in [(0.25, "0.2 s"), (59.9, "59 s"), (61.0, "1 min 1 s"), (90_000.0, "1 d 1 h")] {
            assert_eq!(age(seconds), text);
        }
        assert_eq!(millis(0.000_42), "0.42 ms");
    }

    #[test]
    fn a_node_without_a_gateway_names_the_servers_that_it_cannot_reach() {
        let mut snapshot = super::super::snapshot::example();
        snapshot.links.clear();
        snapshot.trouble = None;
        snapshot.servers.clear();
        assert!(situation(&snapshot).ends_with("no gateway has answered yet"));
        snapshot.servers = vec!["10.0.0.5:80".into()];
        assert!(
            situation(&snapshot).ends_with(
                "no gateway to 10.0.0.5:80 has answered yet, and this node cannot reach it either"
            )
        );
        snapshot.node.goes_direct = true;
        snapshot.clients_in_all = 1;
        snapshot.node.reach = None;
        assert!(situation(&snapshot).ends_with("connects to servers itself, serves 1 client"));
        snapshot.node.reach = Some("reachable".into());
        assert!(situation(&snapshot).ends_with("reaches servers directly, serves 1 client"));
        snapshot.clients_silent = 1;
        assert!(situation(&snapshot).ends_with(", serves 0 clients; 1 more does not answer"));
        (snapshot.clients_in_all, snapshot.clients_silent) = (3, 2);
        assert!(situation(&snapshot).ends_with(", serves 1 client; 2 more do not answer"));
        snapshot.node.in_maintenance = true;
        assert!(
            situation(&snapshot).ends_with("has links of 3 clients and takes no new connections of theirs")
        );
        snapshot.node.in_maintenance = false;
        (snapshot.clients_in_all, snapshot.clients_silent) = (1, 0);
        snapshot.node.reach = Some("unproved".into());
        assert!(situation(&snapshot).contains("unproved: no server has answered yet, serves"));
        snapshot.servers.clear();
        let unproved = "unproved: nothing beyond its networks has answered yet, serves 1 client";
        assert!(situation(&snapshot).ends_with(unproved));
    }

    #[test]
    fn a_link_to_a_gateway_that_serves_nobody_is_no_way_out() {
        let mut snapshot = super::super::snapshot::example();
        assert!(situation(&snapshot).contains("linked to gateway"));
        snapshot.links[0].state = "suspect".into();
        assert!(situation(&snapshot).ends_with("linked to gateway mill-8 at 10.77.0.21:7420"));
        snapshot.links.truncate(1);
        assert!(situation(&snapshot).ends_with("gateway mill-7 at 10.77.0.21:7420 does not answer"));
        snapshot.trouble = Some("gateway mill-7 is in maintenance".into());
        assert!(situation(&snapshot).ends_with("no gateway: gateway mill-7 is in maintenance"));
        (snapshot.trouble, snapshot.node.state) = (None, Some("withdrawn".into()));
        snapshot.links.clear();
        assert_eq!(situation(&snapshot), "withdrawn gateway, no other gateway has answered yet");
    }

    #[test]
    fn what_is_known_of_the_way_out_is_said_with_its_age() {
        let mut snapshot = super::super::snapshot::example();
        snapshot.node.goes_direct = true;
        for (reach, ago, said) in [
            ("reachable", 3.0, "reaches servers directly: h:80 answered last, 3.0 s ago, serves "),
            (
                "reachable",
                732.0,
                "nothing has lately proved that it reaches servers: h:80 answered last, 12 min 12 s ago, serves ",
            ),
            ("unproved", 732.0, "unproved: h:80 answered last, 12 min 12 s ago, serves "),
            ("unreachable", 20.0, "does not reach its servers: h:80 answered last, 20 s ago, serves "),
        ] {
            snapshot.node.reach = Some(reach.into());
            snapshot.node.proof = Some(Proof { by: "h:80".into(), ago });
            assert!(situation(&snapshot).contains(said), "{}", situation(&snapshot));
        }
    }

    #[test]
    fn the_text_says_how_this_node_gets_out_and_marks_the_gateway_in_use() {
        let text = text(&super::super::snapshot::example());
        for part in [
            "workshop (41d0c77e) in group office",
            "linked to gateway mill-7 at 10.77.0.21:7420",
            ">  mill-7    10.77.0.21:7420  active",
            "releases.corp.example:80  1     3       1       1.00 kB  12.3 MB",
            "h.example:443  1.0 s  2      refused",
        ] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
    }
}
