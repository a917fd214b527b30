//! Faults of which a running node gives no sign at first: the doctor finds them while everything still seems to work.

use super::ailments::{follow, once_well, status, stop};
use super::doctor::{Diagnosis, diagnose, healthy};
use crate::lab::group::{START, enrol, init, join, laneway, state, up};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};
use nix::mount::{MsFlags, mount, umount};
use nix::sys::signal::Signal;
use std::fs;

pub(super) const CASES: &[Case] = &[
    ("unseen::name_servers_of_a_gateway_that_do_not_answer", name_servers_of_a_gateway_that_do_not_answer),
    (
        "unseen::a_gateway_whose_servers_need_no_name_server_may_have_none",
        a_gateway_whose_servers_need_no_name_server,
    ),
    ("unseen::a_server_that_is_off_is_told_from_an_uplink_that_is_down", a_server_that_is_off),
    ("unseen::a_name_that_is_tried_from_a_gateway", a_name_that_is_tried_from_a_gateway),
    ("unseen::one_of_two_servers_that_is_down", one_of_two_servers_that_is_down),
    ("unseen::a_firewall_that_was_started_a_moment_ago", a_firewall_that_was_started_a_moment_ago),
    ("unseen::a_standby_whose_uplink_died_a_moment_ago", a_standby_whose_uplink_died_a_moment_ago),
    (
        "unseen::a_machine_of_another_group_where_a_gateway_was",
        a_machine_of_another_group_where_a_gateway_was,
    ),
    (
        "unseen::an_address_that_is_gone_and_a_standby_that_hangs",
        an_address_that_is_gone_and_a_standby_that_hangs,
    ),
    ("unseen::a_gateway_whose_cable_is_out", a_gateway_whose_cable_is_out),
    (
        "unseen::a_way_out_that_is_dead_is_blamed_before_the_name_servers_behind_it",
        a_way_out_that_is_dead_is_blamed_before_the_name_servers_behind_it,
    ),
    ("unseen::a_gateway_that_was_started_in_maintenance", a_gateway_that_was_started_in_maintenance),
    ("unseen::a_disk_that_takes_nothing_more", a_disk_that_takes_nothing_more),
    (
        "unseen::a_gateway_with_an_address_that_accepts_no_links",
        a_gateway_with_an_address_that_accepts_no_links,
    ),
];

/// The only fault is of this layer, and is said with these words.
#[track_caller]
fn blames(diagnosis: &Diagnosis, layer: &str, words: &[&str]) {
    assert_eq!((diagnosis.code, diagnosis.layers("wrong")), (1, vec![layer]), "{}", diagnosis.text);
    let said = diagnosis.said(layer);
    for word in words {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
}

fn name_servers(host: &Host, lines: &str) {
    fs::write(host.directory().join("resolv.conf"), lines).unwrap();
}

/// What the doctor says once the system has told it which ports are closed. How often it tells that is limited, for all
/// namespaces together (`icmp_msgs_per_sec`), so a port may seem to be silent beside other trials.
fn refused(host: &Host) -> Diagnosis {
    let mut attempts = 5;
    loop {
        let diagnosis = diagnose(host, &[]);
        attempts -= 1;
        if attempts == 0 || !diagnosis.text.contains("has not answered") {
            return diagnosis;
        }
    }
}

fn name_servers_of_a_gateway_that_do_not_answer(lab: &Lab) {
    let g1 = lab.gateway("g1");
    g1.set("LANEWAY_PROBE", "none");
    g1.set(
        "APT_CONFIG",
        lab.write("g1.apt", "Dir::Etc::main \"/-\";\nDir::Etc::parts \"/-\";\n").to_str().unwrap(),
    );
    init(&g1);
    let _node = up(&g1, &["--role", "gateway"]);
    wait_until("it to be a gateway", || status(&g1).node.state.is_some());
    let nobody = "this gateway cannot resolve names for its clients";
    for (lines, words) in [
        ("# nothing\n", &[nobody, "no name server is configured", "127.0.0.1 refuses"][..]),
        ("nameserver 10.88.0.100\n", &[nobody, "10.88.0.100 refuses: no name server runs there"]),
        ("nameserver fe80::99\n", &[nobody, "fe80::99 is a link-local address", "fe80::99%eth0"]),
        ("nameserver fe80::99%out\n", &[nobody, "fe80::99%out "]),
    ] {
        name_servers(&g1, lines);
        blames(&refused(&g1), "name servers", words);
    }
    lab.server.filter("udp dport 53 drop");
    name_servers(&g1, "nameserver 10.88.0.100\n");
    let diagnosis = diagnose(&g1, &[]);
    blames(&diagnosis, "name servers", &["10.88.0.100 has not answered within 4 s", "/etc/resolv.conf"]);
    lab.server.filter("");
    let _server = lab.name_server();
    // As the hint says.
    let test = diagnosis.hint("name servers").split('\'').find(|words| words.starts_with("dig ")).unwrap();
    follow(&g1, &format!("{test} | grep -q NOERROR"));
    once_well(&g1);
    // A dead one before it costs time.
    name_servers(&g1, "nameserver 127.0.0.1\nnameserver 10.88.0.100\n");
    blames(&refused(&g1), "name servers", &["names take longer", "127.0.0.1 refuses"]);
    name_servers(&g1, "nameserver 10.88.0.100\nnameserver 127.0.0.1\n");
    let diagnosis = refused(&g1);
    assert!(diagnosis.code == 0 && diagnosis.text.contains("127.0.0.1 refuses"), "{}", diagnosis.text);
}

fn a_gateway_whose_servers_need_no_name_server(lab: &Lab) {
    let _web = lab.web(who);
    let g1 = lab.gateway("g1");
    name_servers(&g1, "# nothing\n");
    g1.knows("web.lab", lab.server.address());
    init(&g1);
    let node = up(&g1, &["--server", "10.88.0.100:80,web.lab:80", "--allow", "*"]);
    once_well(&g1);
    let diagnosis = refused(&g1);
    assert!(diagnosis.text.contains("no name server is configured: that does no harm"), "{}", diagnosis.text);
    stop(node);
    let _node = up(&g1, &["--server", "10.88.0.100:80", "--allow", "pypi.lab:443"]);
    wait_until("it to be a gateway", || status(&g1).node.state.is_some());
    blames(&refused(&g1), "name servers", &["this gateway cannot resolve names for its clients"]);
}

fn a_server_that_is_off(lab: &Lab) {
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    g1.ip("route add 10.99.0.0/24 via 10.88.0.100");
    let code = init(&g1);
    let serve = |server: &str| up(&g1, &["--role", "gateway", "--server", server]);
    // Nobody has it behind a router that is there.
    let node = serve("10.99.0.5:80");
    join(&c1, &code);
    let mut client = up(&c1, &[]);
    client.wait_for_line("link up", START);
    let router = "10.88.0.100, the router on the way, has answered lately";
    wait_until("the gateway to know", || laneway(&g1, &["status"]).text().contains(router));
    let here = diagnose(&g1, &[]);
    blames(&here, "gateway", &[router, "works as far as there", "the server is off"]);
    let hint = here.hint("gateway");
    assert!(
        hint.contains("otherwise switch 10.99.0.5 on") && !hint.contains("bring the uplink up"),
        "{hint}"
    );
    let there = diagnose(&c1, &[]);
    blames(&there, "gateway", &[router, "otherwise switch 10.99.0.5 on"]);
    stop(node);
    // Nobody has it on the network of the gateway.
    let _node = serve("10.88.0.77:80");
    let absent = "nobody answers at this address";
    wait_until("the gateway to know", || laneway(&g1, &["status"]).text().contains(absent));
    wait_until("the client to be linked again", || !status(&c1).links.is_empty());
    let there = diagnose(&c1, &[]);
    blames(&there, "gateway", &[absent, "otherwise switch 10.88.0.77 on or connect it"]);
}

fn a_gateway_whose_cable_is_out(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let _client = group.client(&c1, &[]);
    wait_until("it to have a client", || status(&g1).clients_in_all == 1);
    let served = |text: &str| laneway(&g1, &["status"]).text().contains(text);
    assert!(served(", serves 1 client\n"));
    lab.plug("g1", false);
    // Before its link is given up.
    wait_until("the client not to count as served", || served(", serves 0 clients; 1 more does not answer"));
    let diagnosis = diagnose(&g1, &[]);
    let words = ["lan has 10.77.0.21/24, and no carrier", "connect its cable"];
    blames(&diagnosis, "interfaces", &words);
    lab.plug("g1", true);
    once_well(&g1);
}

fn a_gateway_that_was_started_in_maintenance(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let g2 = lab.gateway("g2");
    enrol(&g2, &g1, &[]);
    // By its automatic role it is a gateway once it has reached a server, in maintenance as well.
    let second = up(&g2, &["--server", "10.88.0.100:80"]);
    let _node = group.client(&c1, &[]);
    let hears_both =
        || status(&c1).gateways.iter().filter(|gateway| gateway.heard_ago.is_some()).count() == 2;
    wait_until("both gateways to be heard", hears_both);
    laneway(&g2, &["drain"]).success();
    stop(second);
    let _again = up(&g2, &["--server", "10.88.0.100:80"]);
    wait_until("it to reach the server", || status(&g2).node.goes_direct);
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
    assert!(diagnosis.text.contains("is in maintenance: it serves no clients"), "{}", diagnosis.text);
}

fn a_name_that_is_tried_from_a_gateway(lab: &Lab) {
    let g1 = lab.gateway("g1");
    g1.set("LANEWAY_PROBE", "none");
    init(&g1);
    g1.knows("web.lab", [10, 99, 0, 1]);
    let _node = up(&g1, &["--role", "gateway"]);
    wait_until("it to be a gateway", || status(&g1).node.state.is_some());
    g1.ip("route add unreachable 10.99.0.0/24");
    let diagnosis = diagnose(&g1, &["--server", "web.lab:80"]);
    assert!(diagnosis.said("request").contains("web.lab:80"), "{}", diagnosis.text);
    let hint = diagnosis.hint("request");
    assert!(hint.contains("'ip route'") && !hint.contains("ip route get web.lab"), "{hint}");
    // This node has no `--server`.
    assert!(!diagnosis.text.contains("correct this machine's --server"), "{}", diagnosis.text);
    assert!(diagnosis.text.contains("servers none"), "{}", diagnosis.text);
}

fn one_of_two_servers_that_is_down(lab: &Lab) {
    let _origin = lab.origin();
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1], &["--server", "10.88.0.100:81"]);
    let _node = group.client(&c1, &[]);
    for options in [&[][..], &["--server", "10.88.0.100:80"]] {
        let diagnosis = diagnose(&c1, options);
        // By IPv4 or IPv6.
        let words = ["g1 at ", ":7420 does not reach 10.88.0.100:81", "refused", "correct g1's --server"];
        blames(&diagnosis, "gateway", &words);
        assert!(diagnosis.text.contains(":7420 reaches 10.88.0.100:80"), "{}", diagnosis.text);
    }
    let diagnosis = diagnose(&g1, &[]);
    blames(&diagnosis, "gateway", &["10.88.0.100:81 is not reached", "correct this machine's --server"]);
    assert!(diagnosis.text.contains("10.88.0.100:80 through the node"), "{}", diagnosis.text);
}

fn a_firewall_that_was_started_a_moment_ago(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let _node = group.client(&c1, &[]);
    for (rules, words) in [
        ("udp dport 7420 drop", "hears nothing from it"),
        // Answers to this machine's own queries pass.
        ("ct state established,related accept\nmeta l4proto udp drop", "7420"),
        ("meta l4proto udp drop", "the node that runs here still has its link to g1"),
    ] {
        wait_until("the gateway to be heard", || {
            status(&c1).gateways.iter().any(|gateway| gateway.heard_ago.is_some_and(|ago| ago < 1.0))
        });
        once_well(&c1);
        c1.filter(rules);
        let diagnosis = diagnose(&c1, &[]);
        blames(&diagnosis, "discovery", &[words, "inet trial input", "UDP port 7420"]);
        assert_eq!(status(&c1).links.len(), 1, "the link still stands");
        follow(&c1, diagnosis.hint("discovery"));
        once_well(&c1);
        c1.filter("");
    }
}

/// Nobody uses the standby, so it learns nothing.
fn a_standby_whose_uplink_died_a_moment_ago(lab: &Lab) {
    let _web = lab.web(who);
    let g1 = lab.gateway("g1");
    init(&g1);
    let _node = up(&g1, &["--role", "gateway"]);
    wait_until("it to be a gateway", || status(&g1).node.state.is_some());
    // The doctor knows no server to send a request to, which need not be said each time.
    let diagnosis = diagnose(&g1, &[]);
    assert!(!diagnosis.layers("skipped").contains(&"request"), "{}", diagnosis.text);
    g1.curl(&["--proxy", "http://127.0.0.1:1080", "http://10.88.0.100/"]).success();
    let proved = || status(&g1).node.proof.map(|proof| proof.ago);
    wait_until("the answer to count", || proved().is_some());
    wait_until("it to be some seconds old", || proved().is_some_and(|ago| ago > 6.0));
    let diagnosis = diagnose(&g1, &[]);
    assert!(diagnosis.text.contains("ago, and accepts a connection now"), "{}", diagnosis.text);
    g1.filter("iif out drop");
    let diagnosis = diagnose(&g1, &[]);
    let said = diagnosis.said("way out");
    assert!(
        said.contains("does not answer now") && said.contains("ip route get 10.88.0.100"),
        "{}",
        diagnosis.text
    );
}

/// First the link, then the route, then the way out, then names: what follows from an earlier fault says so, and its hint is not
/// the first.
fn a_way_out_that_is_dead_is_blamed_before_the_name_servers_behind_it(lab: &Lab) {
    let _web = lab.web(who);
    let g1 = lab.gateway("g1");
    init(&g1);
    g1.set(
        "APT_CONFIG",
        lab.write("g1.apt", "Dir::Etc::main \"/-\";\nDir::Etc::parts \"/-\";\n").to_str().unwrap(),
    );
    // Behind the router 10.88.0.100, which passes nothing on.
    let route = "route add 10.99.0.0/24 via 10.88.0.100";
    g1.ip(route);
    name_servers(&g1, "nameserver 10.99.0.53\n");
    let _node = up(&g1, &["--role", "gateway"]);
    wait_until("it to be a gateway", || status(&g1).node.state.is_some());
    let up_first =
        "bring the uplink up: 'ip -brief address' shows the interfaces, 'ip route get 10.99.0.53' the route";
    // Nothing else is known of the uplink, so either may be at fault.
    let unknown = diagnose(&g1, &[]);
    let hint = unknown.hint("name servers");
    assert!(hint.starts_with(up_first) && hint.contains("/etc/resolv.conf"), "{}", unknown.text);
    // With an answer from beyond the uplink, the name server is.
    g1.curl(&["--proxy", "http://127.0.0.1:1080", "http://10.88.0.100/"]).success();
    wait_until("the answer to count", || status(&g1).node.proof.is_some());
    let proved = diagnose(&g1, &[]);
    assert!(proved.hint("name servers").starts_with("a line 'nameserver"), "{}", proved.text);
    let follows = |diagnosis: &Diagnosis, words: &[&str]| {
        assert!(!diagnosis.layers("wrong").contains(&"name servers"), "{}", diagnosis.text);
        assert!(diagnosis.text.contains("that follows from the way out"), "{}", diagnosis.text);
        let said = diagnosis.said("way out");
        words.iter().for_each(|word| assert!(said.contains(word), "no {word:?} in {}", diagnosis.text));
        assert!(!said.contains("resolv.conf"), "{said}");
    };
    let age = || status(&g1).node.proof.map_or(0.0, |proof| proof.ago);
    wait_until("the answer to be some seconds old", || age() > 6.0);
    g1.filter("iif out drop");
    follows(&diagnose(&g1, &[]), &["ip route get 10.88.0.100"]);
    g1.filter("");
    g1.ip("route del 10.99.0.0/24");
    g1.ip("address del 10.88.0.21/24 dev out");
    follows(&diagnose(&g1, &[]), &["bring the uplink up"]);
}

/// Its address is remembered, and says nothing about this group.
fn a_machine_of_another_group_where_a_gateway_was(lab: &Lab) {
    let _origin = lab.origin();
    let (g1, g2, c1) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let second = group.gateway(&g2, &[]);
    let mut node = group.client(&c1, &["--lan", "10.77.0.11"]);
    node.wait_for_line("standby link up", START);
    stop(group.gateway);
    wait_until("the other one to be used", || status(&c1).links.iter().any(|link| link.name == "g2"));
    wait_until("it to be remembered", || {
        fs::read_to_string(state(&c1).join("gateways.json")).is_ok_and(|text| text.contains("10.77.0.22"))
    });
    stop(node);
    stop(second);
    fs::remove_dir_all(state(&g2)).unwrap();
    init(&g2);
    let _other = up(&g2, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    let mut node = up(&c1, &["--lan", "10.77.0.11"]);
    node.wait_for_line("10.77.0.22:7420", START);
    wait_until("the reason to be shown", || status(&c1).trouble.is_some());
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("link");
    assert!(!said.contains("10.77.0.22") && !said.contains("--gateway here"), "{said}");
    let other = "at 10.77.0.22:7420, where a gateway of this group was, is a machine of another group now";
    assert!(diagnosis.text.contains(other), "{}", diagnosis.text);
}

/// The node's link is still from the address that the machine had; that is not another machine with its keys.
fn an_address_that_is_gone_and_a_standby_that_hangs(lab: &Lab) {
    let _origin = lab.origin();
    let (g1, g2, c1) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let second = group.gateway(&g2, &[]);
    let _node = group.client(&c1, &[]);
    wait_until("both to be heard", || {
        status(&c1).gateways.iter().any(|seen| seen.name.as_deref() == Some("g2"))
    });
    c1.ip("address del 10.77.0.11/24 dev lan");
    let diagnosis = diagnose(&c1, &[]);
    assert!(!diagnosis.text.contains("with the same keys"), "{}", diagnosis.text);
    c1.ip("address add 10.77.0.11/24 broadcast + dev lan");
    second.signal(Signal::SIGSTOP);
    let diagnosis = diagnose(&c1, &[]);
    assert!(
        diagnosis.text.contains(" does not answer; the node that runs here heard it last "),
        "{}",
        diagnosis.text
    );
    second.signal(Signal::SIGCONT);
}

/// Fills a directory with files of this size until it takes no more.
fn fill(host: &Host, size: usize) {
    let directory = state(host).join("rest");
    fs::create_dir(&directory).unwrap();
    let full = (0..).find_map(|number| fs::write(directory.join(format!("{number}")), vec![0; size]).err());
    assert_eq!(full.unwrap().kind(), std::io::ErrorKind::StorageFull);
}

fn a_disk_that_takes_nothing_more(lab: &Lab) {
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let directory = state(&c1);
    fs::create_dir(&directory).unwrap();
    let (none, options) = (None::<&str>, Some("size=8m,nr_inodes=200,mode=700"));
    mount(none, &directory, Some("tmpfs"), MsFlags::empty(), options).unwrap();
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let node = group.client(&c1, &["--peer-cache", "off"]);
    once_well(&c1);
    let rest = directory.join("rest");

    fill(&c1, 1 << 20);
    let shown = directory.display().to_string();
    let diagnosis = diagnose(&c1, &[]);
    blames(&diagnosis, "storage", &["is full", &shown, "0 bytes free", "'df -h "]);
    stop(node);
    fs::remove_file(directory.join("gateways.json")).unwrap();
    let page = vec![0; 4096];
    let _ = fs::write(rest.join("last"), page);
    let mut node = group.client(&c1, &["--peer-cache", "off"]);
    let line = node.wait_for_line("the gateway is not remembered", START);
    assert!(line.contains("No space left on device"), "{line}");
    fs::remove_dir_all(&rest).unwrap();
    once_well(&c1);

    fill(&c1, 0);
    let diagnosis = diagnose(&c1, &[]);
    blames(&diagnosis, "storage", &["has no inodes left", &shown, "'df -i "]);
    fs::remove_dir_all(&rest).unwrap();
    once_well(&c1);

    let options = MsFlags::MS_REMOUNT | MsFlags::MS_RDONLY;
    // What a node keeps open for writing does not let a disk become read-only.
    stop(node);
    mount(none, &directory, none, options, none).unwrap();
    let diagnosis = diagnose(&c1, &[]);
    assert!(diagnosis.said("storage").contains("is on a disk that is read-only"), "{}", diagnosis.text);
    mount(none, &directory, none, MsFlags::MS_REMOUNT, none).unwrap();
    let node = group.client(&c1, &["--peer-cache", "off"]);
    once_well(&c1);
    stop(node);
    umount(&directory).unwrap();
}

fn a_gateway_with_an_address_that_accepts_no_links(lab: &Lab) {
    let _origin = lab.origin();
    let (g1, g2) = (lab.gateway("g1"), lab.gateway("g2"));
    // A network of the uplinks whose addresses come before those of the LAN.
    for (host, own) in [(&g1, 21), (&g2, 22)] {
        host.ip(&format!("address add 10.66.0.{own}/24 broadcast + dev out"));
    }
    let code = init(&g1);
    let options = ["--role", "gateway", "--server", "10.88.0.100:80"];
    let _first = up(&g1, &options);
    join(&g2, &code);
    let _second = up(&g2, &[&options[..], &["--link", "10.77.0.22:7420"]].concat());
    let is_heard = || {
        let mut all = status(&g1).gateways.into_iter();
        all.any(|gateway| gateway.name.as_deref() == Some("g2") && !gateway.other_addresses.is_empty())
    };
    wait_until("g2 to be heard on both networks", is_heard);
    let diagnosis = diagnose(&g1, &[]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
    for words in ["g2 at 10.77.0.22:7420: TLS 1.3", "cannot connect to 10.66.0.22:7420"] {
        assert!(diagnosis.text.contains(words), "{words}: {}", diagnosis.text);
    }
    // If none of its addresses does, that is one fault.
    g2.filter("tcp dport 7420 reject with tcp reset");
    let diagnosis = diagnose(&g1, &[]);
    blames(
        &diagnosis,
        "link",
        &["no link to g2 at 10.", "nor at another address of it: ", "10.77.0.22:7420"],
    );
    assert_eq!(diagnosis.said("link").matches("no link to").count(), 1, "{}", diagnosis.text);
}
