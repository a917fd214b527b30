//! A node that runs but does not do its work: the doctor says so, and its hint, followed literally, mends it.

use super::doctor::{Diagnosis, diagnose, healthy};
use crate::lab::group::{START, init, join, laneway, state, up};
use crate::lab::process::Process;
use crate::lab::{Case, Host, Lab, wait_until};
use laneway::telemetry::snapshot::Snapshot;
use nix::sys::signal::Signal;
use std::fs;
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    ("ailments::a_client_that_hears_no_gateway", a_client_that_hears_no_gateway),
    ("ailments::a_gateway_behind_its_own_firewall", a_gateway_behind_its_own_firewall),
    ("ailments::a_firewall_that_drops_what_leaves", a_firewall_that_drops_what_leaves),
    (
        "ailments::a_machine_that_was_removed_while_its_node_runs",
        a_machine_that_was_removed_while_its_node_runs,
    ),
    (
        "ailments::a_firewall_that_lets_discovery_in_is_not_blamed_for_missing_gateways",
        a_firewall_that_lets_discovery_in_is_not_blamed_for_missing_gateways,
    ),
    (
        "ailments::two_active_gateways_that_do_not_hear_each_other",
        two_active_gateways_that_do_not_hear_each_other,
    ),
    ("ailments::a_gateway_in_maintenance", a_gateway_in_maintenance),
    ("ailments::a_front_whose_registry_nobody_trusts", a_front_whose_registry_nobody_trusts),
    ("ailments::a_state_directory_that_is_gone", a_state_directory_that_is_gone),
    ("ailments::a_client_on_two_machines", a_client_on_two_machines),
    ("ailments::a_gateway_on_two_machines", a_gateway_on_two_machines),
    ("ailments::a_node_of_another_group_has_the_port", a_node_of_another_group_has_the_port),
    ("ailments::a_node_that_looks_elsewhere", a_node_that_looks_elsewhere),
    ("ailments::a_machine_where_no_node_runs", a_machine_where_no_node_runs),
    ("ailments::a_node_that_hangs", a_node_that_hangs),
    ("ailments::another_group_on_the_lan", another_group_on_the_lan),
    ("ailments::another_group_on_a_lan_that_was_left", another_group_on_a_lan_that_was_left),
    ("ailments::a_server_that_is_mistyped_on_all_gateways", a_server_that_is_mistyped_on_all_gateways),
    ("ailments::a_gateway_that_listens_where_nobody_is", a_gateway_that_listens_where_nobody_is),
];

pub(super) fn status(host: &Host) -> Snapshot {
    serde_json::from_str(&laneway(host, &["status", "--json"]).success().text()).unwrap()
}

/// Runs a hint in a shell of this host.
pub(super) fn follow(host: &Host, hint: &str) {
    let mut shell = host.command("sh");
    shell.args(["-c", hint]);
    host.output(shell).success();
}

/// The diagnosis once something is wrong: a node has to run for some seconds before it counts that it hears nothing.
fn once_wrong(host: &Host) -> Diagnosis {
    let mut last = None;
    wait_until("the doctor to find something", || {
        let diagnosis = diagnose(host, &[]);
        let is_wrong = diagnosis.code == 1;
        last = Some(diagnosis);
        is_wrong
    });
    last.unwrap()
}

pub(super) fn once_well(host: &Host) {
    let mut last = String::new();
    wait_until(&format!("the doctor to find nothing on {}", host.name), || {
        let diagnosis = diagnose(host, &[]);
        last = diagnosis.text;
        diagnosis.code == 0
    });
}

/// Stops a node in good order.
pub(super) fn stop(mut node: Process) {
    node.signal(Signal::SIGTERM);
    node.wait(START);
}

fn copy(from: &Host, to: &Host) {
    let copied = Command::new("cp").arg("-a").arg(state(from)).arg(state(to)).status().unwrap();
    assert!(copied.success());
}

fn a_client_that_hears_no_gateway(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    c1.filter("udp dport 7420 drop");
    // The client remembers the gateway that it joined by.
    let _node = group.client(&c1, &[]);
    let diagnosis = once_wrong(&c1);
    diagnosis.blames(
        "discovery",
        &[],
        &["the node that runs here hears nothing from it", "inet trial input"],
    );
    follow(&c1, diagnosis.hint("discovery"));
    once_well(&c1);
}

fn a_gateway_behind_its_own_firewall(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let _node = group.client(&c1, &[]);
    for (rules, words) in [
        ("tcp dport 7420 drop", "no client can make a link"),
        (
            "iif lo accept\nct state established,related accept\nudp dport 7420 accept\nmeta l4proto tcp drop",
            "TCP port 7420",
        ),
        ("udp dport 7420 drop", "do not find this gateway"),
        ("meta pkttype broadcast drop", "UDP port 7420"),
    ] {
        g1.filter(rules);
        let diagnosis = diagnose(&g1, &[]);
        diagnosis.blames(
            "firewall",
            &["link", "clock"],
            &["the firewall of this machine drops", "inet trial input", words],
        );
        follow(&g1, diagnosis.hint("firewall"));
        let diagnosis = diagnose(&g1, &[]);
        assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
    }
    // A rule that lets other machines in is no fault.
    g1.filter(
        "ip saddr 10.77.0.0/24 tcp dport { 22, 7000-8000 } accept\nudp dport 7420 accept\niif lan drop",
    );
    assert_eq!(diagnose(&g1, &[]).code, 0);
}

fn a_firewall_that_drops_what_leaves(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let mut node = group.client(&c1, &[]);
    for (rules, words) in [
        ("tcp sport 7420 drop", ["outgoing packets from TCP port 7420 on lan", "no client can make a link"]),
        ("udp sport 7420 drop", ["outgoing packets from UDP port 7420 on lan", "do not find this gateway"]),
        (
            "ip daddr { 10.77.0.255, 10.88.0.255 } udp sport 7420 counter drop",
            ["outgoing packets from UDP port 7420 on lan", "do not hear this gateway"],
        ),
    ] {
        g1.swallow(rules);
        let diagnosis = diagnose(&g1, &[]);
        diagnosis.blames(
            "firewall",
            &["link", "clock"],
            &[&["the firewall of this machine drops", "inet lost output"], &words[..]].concat(),
        );
        follow(&g1, diagnosis.hint("firewall"));
        let diagnosis = diagnose(&g1, &[]);
        assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
    }
    // Rules about other packets, or about the uplink alone, are no fault.
    g1.swallow("tcp dport 7421 drop\nudp sport 53 drop\noif out udp dport 7420 drop");
    g1.filter("iif out tcp dport 7420 drop");
    let diagnosis = diagnose(&g1, &[]);
    assert!(diagnosis.said("firewall").is_empty(), "{}", diagnosis.text);
    assert!(diagnosis.text.contains("TCP port 7420 on out, and not on lan"), "{}", diagnosis.text);
    g1.swallow("");
    g1.filter("");
    // On a client: rules against its node's queries, but not against this command's; and against a link's packets.
    c1.swallow("udp sport 7420 drop");
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("firewall");
    assert!(said.contains("the node that runs here cannot ask for gateways"), "{}", diagnosis.text);
    follow(&c1, diagnosis.hint("firewall"));
    once_well(&c1);
    node.signal(Signal::SIGTERM);
    node.wait(START);
    c1.swallow("tcp dport 7420 drop");
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("link");
    assert!(said.contains("the firewall of this machine drops outgoing packets to TCP port 7420"), "{said}");
    follow(&c1, diagnosis.hint("link"));
    c1.filter("tcp sport 7420 drop");
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("link");
    assert!(
        said.contains("the firewall of this machine drops incoming packets from TCP port 7420"),
        "{said}"
    );
    follow(&c1, diagnosis.hint("link"));
    assert!(diagnose(&c1, &[]).faults().is_empty());
}

fn a_machine_that_was_removed_while_its_node_runs(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let mut node = group.client(&c1, &[]);
    laneway(&g1, &["revoke", "c1"]).success();
    node.wait_for_line("this machine was removed from the group", START);
    // What a removed machine can no longer hear is no further fault.
    c1.filter("udp dport 7420 accept\nudp dport 9 drop");
    let diagnosis = diagnose(&c1, &[]);
    let beyond = ["discovery", "link", "clock", "gateway", "request"];
    diagnosis.blames(
        "group",
        &beyond,
        &["this machine was removed from the group lan", "'laneway leave --yes'"],
    );
    let invited = laneway(&g1, &["invite"]).success().text();
    let code = invited.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap();
    let refused = laneway(&c1, &["join", code, "--name", "c1"]);
    for words in ["error: this machine was removed from the group 'lan'", "hint: run 'laneway leave --yes'"] {
        assert!(refused.code() == 2 && refused.stderr.contains(words), "{words}: {refused}");
    }
    // As the hint says.
    laneway(&c1, &["leave", "--yes"]).success();
    node.wait(START);
    join(&c1, code);
    let _node = up(&c1, &[]);
    once_well(&c1);
}

fn a_firewall_that_lets_discovery_in_is_not_blamed_for_missing_gateways(lab: &Lab) {
    let c1 = lab.client("c1");
    init(&c1);
    for (rules, is_blamed) in [
        ("udp dport 7420 drop", true),
        ("ct state invalid drop\nudp dport 7420 accept\nudp dport != 53 drop", false),
    ] {
        c1.filter(rules);
        let said = diagnose(&c1, &[]).said("discovery");
        assert_eq!(said.contains("the firewall of this machine"), is_blamed, "{said}");
    }
}

fn two_active_gateways_that_do_not_hear_each_other(lab: &Lab) {
    let _origin = lab.origin();
    let (g1, g2) = (lab.gateway("g1"), lab.gateway("g2"));
    let group = lab.group(&[&g1, &g2], &[]);
    g1.filter("udp dport 7420 drop");
    let _second = group.gateway(&g2, &[]);
    let is_active = |host: &Host| status(host).node.state.as_deref() == Some("active");
    wait_until("both to be active", || is_active(&g1) && is_active(&g2));
    let diagnosis = diagnose(&g2, &[]);
    assert!(
        diagnosis.said("discovery").contains("are active gateways at the same time"),
        "{}",
        diagnosis.text
    );
    let diagnosis = once_wrong(&g1);
    assert!(
        diagnosis.said("discovery").contains("are active gateways at the same time"),
        "{}",
        diagnosis.text
    );
    follow(&g1, diagnosis.hint("firewall"));
    wait_until("one to stand by", || is_active(&g1) != is_active(&g2));
    once_well(&g1);
    once_well(&g2);
}

fn a_gateway_in_maintenance(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let _node = group.client(&c1, &[]);
    laneway(&g1, &["drain"]).success();
    let here = diagnose(&g1, &[]);
    here.blames("gateway", &["link", "clock"], &["this machine is in maintenance"]);
    let there = diagnose(&c1, &[]);
    let said = there.said("gateway");
    assert!(said.contains("g1 at ") && said.contains(":7420 is in maintenance"), "{}", there.text);
    assert_eq!(there.hint("gateway"), "on g1: laneway drain --undo");
    assert_eq!(here.hint("gateway"), "laneway drain --undo");
    laneway(&g1, &["drain", "--undo"]).success();
    once_well(&g1);
    once_well(&c1);
}

/// A server of HTTPS on s1 with a certificate that no authority has issued, which it writes to this file.
fn registry(lab: &Lab, certificate: &str) -> Process {
    let code = format!(
        "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout {certificate}.key -out {certificate} \
         -days 9 -subj /CN=registry -addext basicConstraints=critical,CA:FALSE -addext subjectAltName=IP:10.88.0.100 2>&1 && exec python3 -uc '
import http.server, ssl
server = http.server.ThreadingHTTPServer((\"10.88.0.100\", 443), http.server.SimpleHTTPRequestHandler)
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(\"{certificate}\", \"{certificate}.key\")
server.socket = context.wrap_socket(server.socket, server_side=True)
print(\"ready\")
server.serve_forever()'"
    );
    let mut shell = lab.server.command("sh");
    shell.args(["-c", &code]).current_dir(lab.server.directory());
    let mut server = lab.server.spawn(shell);
    server.wait_for_line("ready", START);
    server
}

fn a_front_whose_registry_nobody_trusts(lab: &Lab) {
    let (_origin, g1, c1, mut group) = healthy(lab);
    let file = lab.write("registry.pem", "");
    let certificate = file.to_str().unwrap();
    let _registry = registry(lab, certificate);
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    let rules = ["--role", "gateway", "--server", "10.88.0.100:80", "--allow", "10.88.0.100:443"];
    let gateway = up(&g1, &rules);
    let _node = group.client(&c1, &["--front", "pypi=https://10.88.0.100/simple/"]);
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames("request", &[], &["the front /pypi/", "certificate", "on g1", "--front-ca"]);
    stop(gateway);
    let _gateway = up(&g1, &[&rules[..], &["--front-ca", certificate]].concat());
    once_well(&c1);
}

fn a_state_directory_that_is_gone(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let node = group.client(&c1, &[]);
    fs::remove_dir_all(state(&c1)).unwrap();
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames(
        "group",
        &["discovery", "link", "clock", "gateway", "request"],
        &["the keys of 'c1', the node that runs here, are gone", "'laneway invite'", "stop the node"],
    );
    // Each command that needs the keys says the same.
    let refused = laneway(&c1, &["discover"]);
    assert!(
        refused.stderr.contains("the keys of 'c1'") && !refused.stderr.contains("laneway init"),
        "{refused}"
    );
    let said = laneway(&g1, &["invite"]).success().text();
    let code = said.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap();
    // The machine that would join is not the node that runs.
    let refused = laneway(&c1, &["join", code]);
    for words in ["the keys of 'c1', the node that runs here, are gone", "hint: stop the node"] {
        assert!(refused.code() == 1 && refused.stderr.contains(words), "{words}: {refused}");
    }
    assert!(!state(&c1).exists(), "none is made");
    stop(node);
    laneway(&c1, &["join", code]).success();
    let _node = up(&c1, &[]);
    once_well(&c1);
}

fn a_client_on_two_machines(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let c2 = lab.client("c2");
    copy(&c1, &c2);
    let _first = group.client(&c1, &[]);
    let mut second = up(&c2, &[]);
    second.wait_for_line("link up", START);
    for host in [&c1, &c2] {
        let diagnosis = diagnose(host, &[]);
        let said = diagnosis.said("link");
        assert!(said.contains("two machines are 'c1', with the same keys"), "{}", diagnosis.text);
        assert!(said.contains("this machine and the one at "), "{said}");
    }
    stop(second);
    fs::remove_dir_all(state(&c2)).unwrap();
    join(&c2, &group.code);
    let _second = up(&c2, &[]);
    once_well(&c1);
    once_well(&c2);
}

fn a_gateway_on_two_machines(lab: &Lab) {
    let _origin = lab.origin();
    let (g1, g2, c1) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1], &[]);
    copy(&g1, &g2);
    // Long enough that the counters of the two differ.
    wait_until("the first to be heard often", || {
        let heard = status(&g1).datagrams;
        heard.iter().any(|counted| counted.what == "beacon" && counted.side == "sent" && counted.count > 20)
    });
    let _second = up(&g2, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    for (host, places) in [
        (&c1, ["10.77.0.21", "10.77.0.22"]),
        (&g1, ["10.77.0.22", "this machine"]),
        (&g2, ["10.77.0.21", "this machine"]),
    ] {
        let diagnosis = once_wrong(host);
        let said = diagnosis.said("discovery");
        assert!(said.contains("two machines are 'g1', with the same keys"), "{}", diagnosis.text);
        assert!(places.iter().all(|place| said.contains(place)), "{said}");
    }
    drop(group);
}

fn a_node_of_another_group_has_the_port(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let _node = group.client(&c1, &[]);
    let other = c1.directory().join("other");
    let directory = other.to_str().unwrap();
    c1.output(c1.laneway(&["init", "--group", "mine", "--name", "own", "--state", directory])).success();
    let output = c1.output(c1.laneway(&["doctor", "--state", directory]));
    let said = output.text();
    assert!(!output.status.success(), "{output}");
    for words in [
        "wrong    ports",
        "is 'c1' of the group 'lan', and not 'own' of the group 'mine'",
        "laneway up --proxy 127.0.0.1:1081 ",
    ] {
        assert!(said.contains(words), "{words}: {said}");
    }
}

fn a_node_that_looks_elsewhere(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    fs::remove_file(state(&c1).join("gateways.json")).unwrap();
    let node = group.up(&c1, &["--lan", "127.0.0.1"]);
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("link");
    assert!(
        said.contains("this command can link to g1") && said.contains("the node that runs here has not"),
        "{}",
        diagnosis.text
    );
    stop(node);
    let _node = group.client(&c1, &[]);
    once_well(&c1);
}

fn a_machine_where_no_node_runs(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    for options in [&[][..], &["--server", "10.88.0.100:80"]] {
        let diagnosis = diagnose(&c1, options);
        assert_eq!((diagnosis.code, diagnosis.layers("wrong")), (1, vec!["node"]), "{}", diagnosis.text);
        let directory = state(&c1);
        let start = format!("'laneway up --state {}'", directory.display());
        assert!(diagnosis.hint("node").contains(&start), "{}", diagnosis.text);
        assert!(diagnosis.hint("node").contains("a gateway needs its --server"), "{}", diagnosis.text);
    }
    let _node = group.client(&c1, &[]);
    once_well(&c1);
}

fn a_node_that_hangs(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let node = group.client(&c1, &["--proxy", "127.0.0.1:1090"]);
    node.signal(Signal::SIGSTOP);
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("ports");
    assert!(!diagnosis.text.contains("not by this machine's laneway node"), "{}", diagnosis.text);
    let words =
        format!("the node on 127.0.0.1:1090 (process {}) accepts connections but does not", node.id());
    assert!(said.contains(&words), "{}", diagnosis.text);
    let hint = format!("kill -CONT {}", node.id());
    assert!(diagnosis.hint("ports").ends_with(&format!("or '{hint}'")), "{}", diagnosis.text);
    follow(&c1, &hint);
    once_well(&c1);
}

fn another_group_on_the_lan(lab: &Lab) {
    let (_origin, _g1, c1, mut group) = healthy(lab);
    let g2 = lab.gateway("g2");
    init(&g2);
    let other = up(&g2, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    let mut node = group.client(&c1, &[]);
    node.wait_for_line("another group is on this LAN", START);
    let said = "a machine of another group is on this LAN, and is ignored: 10.77.0.22";
    assert!(laneway(&c1, &["status"]).text().contains(said));
    assert!(laneway(&c1, &["discover"]).success().text().contains(said));
    let diagnosis = diagnose(&c1, &[]);
    assert!(diagnosis.code == 0 && diagnosis.text.contains(said), "{}", diagnosis.text);
    assert_eq!(node.log().matches("another group is on this LAN").count(), 1);

    // The other group explains why nobody answers.
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    let diagnosis = once_wrong(&c1);
    assert!(diagnosis.said("discovery").contains(said), "{}", diagnosis.text);
    let hint = diagnosis.hint("discovery");
    assert!(hint.contains("if this machine belongs to that group") && !hint.contains("ufw"), "{hint}");
    let refused = laneway(&c1, &["discover"]);
    assert!(refused.code() == 1 && refused.stderr.contains(said), "{refused}");
    // As the hint says.
    stop(node);
    laneway(&c1, &["leave", "--force", "--yes"]).success();
    let said = laneway(&g2, &["invite"]).success().text();
    join(&c1, said.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap());
    let _node = up(&c1, &[]);
    once_well(&c1);
    drop(other);
}

fn another_group_on_a_lan_that_was_left(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let g2 = lab.gateway("g2");
    init(&g2);
    let _other = up(&g2, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    let _node = group.client(&c1, &[]);
    let is_named = || laneway(&c1, &["status"]).success().text().contains("10.77.0.22");
    wait_until("the other group to be named", is_named);
    c1.ip("address flush dev lan");
    c1.ip("address add 10.78.0.11/24 broadcast + dev lan");
    wait_until("what is on another network to be left out", || !is_named());
}

fn a_server_that_is_mistyped_on_all_gateways(lab: &Lab) {
    let _origin = lab.origin();
    let (g1, g2, c1) = (lab.gateway("g1"), lab.gateway("g2"), lab.client("c1"));
    let code = init(&g1);
    let mistyped = ["--server", "10.88.0.100:81"];
    let first = up(&g1, &mistyped);
    join(&g2, &code);
    join(&c1, &code);
    let second = up(&g2, &mistyped);
    let mut node = up(&c1, &[]);
    node.wait_for_line("link up", START);
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("gateway");
    assert_eq!((diagnosis.code, diagnosis.layers("wrong")), (1, vec!["gateway"]), "{}", diagnosis.text);
    assert!(said.contains("10.88.0.100:81") && said.contains("correct g1's --server"), "{}", diagnosis.text);
    stop(first);
    stop(second);
    let _gateways = [&g1, &g2].map(|host| up(host, &["--server", "10.88.0.100:80"]));
    once_well(&c1);
    drop(node);
}

fn a_gateway_that_listens_where_nobody_is(lab: &Lab) {
    let _origin = lab.origin();
    let g1 = lab.gateway("g1");
    init(&g1);
    let options = ["--role", "gateway", "--server", "10.88.0.100:80"];
    for link in ["127.0.0.1:7420", "10.88.0.21:7420"] {
        let lan = ["--link", link, "--lan", "lan"];
        let gateway = up(&g1, &[&options[..], &lan].concat());
        wait_until("it to be a gateway", || status(&g1).node.state.as_deref() == Some("active"));
        let diagnosis = diagnose(&g1, &["--lan", "lan"]);
        diagnosis.blames("ports", &["link", "clock"], &[link, "'--link 10.77.0.21:7420'"]);
        stop(gateway);
    }
    let _gateway = up(&g1, &[&options[..], &["--link", "10.77.0.21:7420", "--lan", "lan"]].concat());
    wait_until("it to be a gateway", || status(&g1).node.state.as_deref() == Some("active"));
    assert_eq!(diagnose(&g1, &["--lan", "lan"]).code, 0);
}
