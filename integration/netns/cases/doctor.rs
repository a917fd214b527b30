//! Each trial breaks one layer; the doctor names that layer and the command that fixes it.

use crate::lab::group::{Group, init, laneway};
use crate::lab::process::Process;
use crate::lab::{Case, Host, Lab, wait_until};
use serde_json::Value;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

pub(super) const CASES: &[Case] = &[
    ("doctor::finds_nothing_wrong_on_a_healthy_network", finds_nothing_wrong_on_a_healthy_network),
    ("doctor::names_a_configuration_that_is_not_valid", names_a_configuration_that_is_not_valid),
    ("doctor::names_a_machine_without_a_group", names_a_machine_without_a_group),
    ("doctor::names_an_interface_without_broadcast", names_an_interface_without_broadcast),
    ("doctor::names_the_program_that_holds_a_port", names_the_program_that_holds_a_port),
    ("doctor::names_a_local_firewall_and_a_hint_that_works", names_a_local_firewall_and_a_hint_that_works),
    ("doctor::distinguishes_broadcast_from_unicast", distinguishes_broadcast_from_unicast),
    ("doctor::names_a_link_port_that_is_dropped", names_a_link_port_that_is_dropped),
    ("doctor::names_its_own_firewall_that_lets_nothing_out", names_its_own_firewall_that_lets_nothing_out),
    ("doctor::names_a_gateway_without_its_uplink", names_a_gateway_without_its_uplink),
    ("doctor::names_a_server_that_is_down", names_a_server_that_is_down),
    ("doctor::names_proxy_variables_that_point_elsewhere", names_proxy_variables_that_point_elsewhere),
    ("doctor::names_a_wrong_clock", names_a_wrong_clock),
];

/// The doctor's report, as JSON.
pub(super) struct Diagnosis {
    pub(super) code: i32,
    pub(super) text: String,
    findings: Vec<Value>,
}

/// Runs the doctor on `host`.
pub(super) fn diagnose(host: &Host, options: &[&str]) -> Diagnosis {
    let output = laneway(host, &[&["doctor", "--json"], options].concat());
    let report: Value =
        serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("no report: {output}"));
    let findings = report["findings"].as_array().unwrap().clone();
    assert_eq!(report["ok"] == Value::Bool(true), output.code() == 0, "{output}");
    Diagnosis { code: output.code(), text: format!("{findings:#?}"), findings }
}

impl Diagnosis {
    /// The layers with at least one check of this verdict, without repetition.
    pub(super) fn layers(&self, verdict: &str) -> Vec<&str> {
        let found = self.findings.iter().filter(|finding| finding["verdict"] == verdict);
        let mut layers: Vec<_> = found.map(|finding| finding["layer"].as_str().unwrap()).collect();
        layers.dedup();
        layers
    }

    /// The layers in which something is wrong, besides that no node runs where the trial has not started one.
    pub(super) fn faults(&self) -> Vec<&str> {
        self.layers("wrong").into_iter().filter(|layer| *layer != "node").collect()
    }

    /// Fails unless only this layer is wrong, those layers are skipped because of it, and each of these words is in the
    /// message about it.
    #[track_caller]
    pub(super) fn blames(&self, layer: &str, skipped: &[&str], words: &[&str]) {
        assert_eq!((self.code, self.faults()), (1, vec![layer]), "{}", self.text);
        assert_eq!(self.layers("skipped"), skipped, "{}", self.text);
        let said = self.said(layer);
        for word in words {
            assert!(said.contains(word), "no {word:?} in {said}");
        }
    }

    /// All problems of a layer.
    pub(super) fn said(&self, layer: &str) -> String {
        let wrong =
            self.findings.iter().filter(|finding| finding["verdict"] == "wrong" && finding["layer"] == layer);
        wrong.map(ToString::to_string).collect()
    }

    /// The command that fixes the problem of a layer.
    pub(super) fn hint(&self, layer: &str) -> &str {
        let wrong =
            self.findings.iter().find(|finding| finding["verdict"] == "wrong" && finding["layer"] == layer);
        wrong.unwrap_or_else(|| panic!("{layer} is not wrong: {}", self.text))["hint"].as_str().unwrap()
    }
}

/// The layers that need a group.
const BEYOND: [&str; 5] = ["discovery", "link", "clock", "gateway", "request"];

/// A server, a gateway to it, and a client without a running node. Its apt has no proxy settings of the test machine.
pub(super) fn healthy(lab: &Lab) -> (Process, Host, Host, Group) {
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    for host in [&g1, &c1] {
        shield(lab, host);
    }
    (origin, g1, c1, group)
}

fn shield(lab: &Lab, host: &Host) {
    let nothing = "Dir::Etc::main \"/nonexistent\";\nDir::Etc::parts \"/nonexistent\";\n";
    host.set("APT_CONFIG", lab.write(&format!("{}.apt", host.name), nothing).to_str().unwrap());
}

fn finds_nothing_wrong_on_a_healthy_network(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    for with_node in [false, true] {
        let _node = with_node.then(|| group.client(&c1, &[]));
        let output = laneway(&c1, &["doctor"]);
        let said = output.text();
        assert_eq!(output.code(), i32::from(!with_node), "{output}");
        assert_eq!(said.contains("wrong    node           no node runs"), !with_node, "{said}");
        let wanted = [
            "configuration",
            "group",
            "interfaces",
            "ports",
            "discovery",
            "link",
            "clock",
            "gateway",
            "request",
        ];
        for layer in wanted {
            assert!(said.contains(&format!("ok       {layer} ")), "{layer} in {said}");
        }
        assert!(said.contains("10.88.0.100:80") && said.contains("it answers HTTP/1.1 "), "{said}");
        assert!(said.contains(if with_node { "through the node on" } else { "over a link to" }), "{said}");
        assert!(!said.contains('\x1b'), "colours into a pipe");
    }
    // A login in the configuration is used. Without one, what needs the login is skipped.
    let logins = c1.directory().join("logins");
    fs::write(&logins, "ann:secret\n").unwrap();
    fs::set_permissions(&logins, fs::Permissions::from_mode(0o600)).unwrap();
    let _node = group.client(&c1, &["--proxy-logins", logins.to_str().unwrap()]);
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!((diagnosis.code, diagnosis.layers("skipped")), (0, vec!["request"]), "{}", diagnosis.text);
    c1.set("LANEWAY_PROXY_LOGINS", logins.to_str().unwrap());
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!((diagnosis.code, diagnosis.layers("skipped").len()), (0, 0), "{}", diagnosis.text);
    // The only gateway has no other gateway, and needs none.
    let diagnosis = diagnose(&g1, &[]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
    assert!(diagnosis.layers("ok").contains(&"request"), "{}", diagnosis.text);
    // When the gateway cannot reach its server, it reports that itself.
    g1.ip("link set out down");
    wait_until("the gateway to withdraw", || {
        laneway(&g1, &["status", "--json"]).text().contains("\"reach\":\"unreachable\"")
    });
    diagnose(&g1, &[]).blames(
        "gateway",
        &["link", "clock", "request"],
        &["10.88.0.100:80", "bring the uplink up"],
    );
}

fn names_a_configuration_that_is_not_valid(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let file = lab.write("laneway.toml", "hold = 1\nrolle = 'client'\n");
    let diagnosis = diagnose(&c1, &["--config", file.to_str().unwrap()]);
    let skipped = [&["group", "interfaces", "ports"], &BEYOND[..]].concat();
    diagnosis.blames("configuration", &skipped, &["line 2", "rolle"]);
    // A running node has read another configuration, with which the other layers are checked.
    let node = group.client(&c1, &[]);
    let diagnosis = diagnose(&c1, &["--config", file.to_str().unwrap()]);
    diagnosis.blames("configuration", &[], &["line 2", "rolle"]);
    assert!(diagnosis.layers("ok").contains(&"link"), "{}", diagnosis.text);
    drop(node);
    c1.set("LANEWAY_HOLD", "soon");
    diagnose(&c1, &[]).blames("configuration", &skipped, &["LANEWAY_", "--hold", "soon"]);
}

fn names_a_machine_without_a_group(lab: &Lab) {
    let c1 = lab.client("c1");
    shield(lab, &c1);
    diagnose(&c1, &[]).blames("group", &BEYOND, &["in no group", "laneway init"]);
}

fn names_an_interface_without_broadcast(lab: &Lab) {
    let c1 = lab.client("c1");
    init(&c1);
    shield(lab, &c1);
    c1.ip("address flush dev lan");
    c1.ip("address add 10.77.0.11/32 dev lan");
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames("interfaces", &BEYOND, &["lan has 10.77.0.11/32", "broadcast + dev lan"]);
}

fn names_the_program_that_holds_a_port(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    let own = format!("(process {})", std::process::id());
    let tcp = c1.inside(|| TcpListener::bind("127.0.0.1:1080")).unwrap();
    diagnose(&c1, &[]).blames("ports", &[], &["TCP 127.0.0.1:1080", &own, "--proxy"]);
    drop(tcp);
    let _udp = c1.inside(|| UdpSocket::bind("10.77.0.11:7420")).unwrap();
    diagnose(&c1, &[]).blames("ports", &[], &["UDP 10.77.0.11:7420", &own, "--lan 127.0.0.1 --gateway"]);
}

fn names_a_local_firewall_and_a_hint_that_works(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    c1.filter("udp dport 7420 drop");
    let diagnosis = diagnose(&c1, &[]);
    let fix = "nft insert rule inet trial input udp dport 7420 accept";
    diagnosis.blames("discovery", &[], &["firewall of this machine", "nftables (inet trial input)", fix]);
    let mut shell = c1.command("sh");
    shell.args(["-c", diagnosis.hint("discovery")]);
    c1.output(shell).success();
    assert!(diagnose(&c1, &[]).faults().is_empty());
}

fn distinguishes_broadcast_from_unicast(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    g1.filter("ip daddr 10.77.0.255 udp dport 7420 drop");
    let fix = "on 10.77.0.21: 'ufw allow 7420/udp'";
    diagnose(&c1, &[]).blames("discovery", &[], &["answers unicast but not broadcast", fix]);
    g1.filter("ip daddr 10.77.0.21 udp dport 7420 drop");
    diagnose(&c1, &[]).blames("discovery", &[], &["answers broadcast but not unicast", fix]);
    g1.filter("");
    // A running node behind a firewall that opens its port receives answers, though the doctor itself does not.
    c1.filter("ct state established accept\nudp dport 7420 accept\nudp dport != 53 drop");
    let _node = group.client(&c1, &[]);
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
}

fn names_a_link_port_that_is_dropped(lab: &Lab) {
    let (_origin, g1, c1, _group) = healthy(lab);
    g1.filter("tcp dport 7420 drop");
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames(
        "link",
        &["clock", "gateway", "request"],
        &["10.77.0.21:7420", "on g1: 'ufw allow 7420/tcp'"],
    );
    g1.filter("tcp dport 7420 reject with tcp reset");
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames("link", &["clock", "gateway", "request"], &["refused", "on g1: 'ufw allow 7420/tcp'"]);
}

fn names_its_own_firewall_that_lets_nothing_out(lab: &Lab) {
    let (_origin, g1, c1, _group) = healthy(lab);
    // The answer of this machine's own rule looks like one of the gateway.
    for rule in ["tcp dport 7420 reject with tcp reset", "tcp dport 7420 reject", "tcp dport 7420 drop"] {
        c1.swallow(rule);
        let words = ["the firewall of this machine", "inet lost output", "tcp dport 7420 accept"];
        diagnose(&c1, &[]).blames("link", &["clock", "gateway", "request"], &words);
    }
    c1.swallow("");
    g1.swallow("tcp dport 80 drop");
    wait_until("the gateway to withdraw", || {
        laneway(&g1, &["status", "--json"]).text().contains("\"reach\":\"unreachable\"")
    });
    let diagnosis = diagnose(&g1, &[]);
    let said = diagnosis.said("gateway");
    assert!(said.contains("drops outgoing packets to TCP port 80"), "{}", diagnosis.text);
    assert!(said.contains("nft insert rule inet lost output tcp dport 80 accept"), "{}", diagnosis.text);
}

fn names_a_gateway_without_its_uplink(lab: &Lab) {
    let (_origin, g1, c1, _group) = healthy(lab);
    g1.ip("link set out down");
    let diagnosis = withdrawn(&c1);
    diagnosis.blames("gateway", &["request"], &["on g1: bring the uplink up", "ip route get 10.88.0.100"]);
}

fn names_a_server_that_is_down(lab: &Lab) {
    let (origin, _g1, c1, _group) = healthy(lab);
    drop(origin);
    withdrawn(&c1).blames(
        "gateway",
        &["request"],
        &["refused", "on 10.88.0.100: start what should listen on port 80"],
    );
}

/// The report once the gateway itself has noticed.
fn withdrawn(client: &Host) -> Diagnosis {
    wait_until("the gateway to withdraw", || laneway(client, &["discover"]).text().contains("withdrawn"));
    diagnose(client, &[])
}

fn names_proxy_variables_that_point_elsewhere(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    c1.set("http_proxy", "http://127.0.0.1:1080");
    assert!(diagnose(&c1, &[]).faults().is_empty());
    c1.set("HTTP_PROXY", "http://10.9.9.9:3128");
    diagnose(&c1, &[]).blames("environment", &[], &["HTTP_PROXY is http://10.9.9.9:3128", "laneway env"]);
    c1.set("HTTP_PROXY", "");
    c1.set("no_proxy", "localhost,10.88.0.0/16");
    diagnose(&c1, &[]).blames("environment", &[], &["no_proxy excludes 10.88.0.100:80", "export no_proxy="]);
    c1.set("no_proxy", "localhost");
    let elsewhere = "Dir::Etc::main \"/nonexistent\";\nDir::Etc::parts \"/nonexistent\";\nAcquire::http::Proxy \"http://10.9.9.9:3128\";\n";
    c1.set("APT_CONFIG", lab.write("elsewhere.apt", elsewhere).to_str().unwrap());
    if crate::lab::programs::find("apt-config").is_some() {
        diagnose(&c1, &[]).blames(
            "environment",
            &[],
            &["apt uses http://10.9.9.9:3128", "laneway apt-proxy"],
        );
    }
}

fn names_a_wrong_clock(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    let library = |directory: fs::DirEntry| directory.path().join("faketime/libfaketime.so.1");
    let libraries = fs::read_dir("/usr/lib").unwrap().flatten().map(library);
    let library: PathBuf =
        libraries.into_iter().find(|library| library.exists()).expect("faketime has its library");
    c1.set("LD_PRELOAD", library.to_str().unwrap());
    c1.set("FAKETIME_DONT_FAKE_MONOTONIC", "1");
    c1.set("FAKETIME", "-1h");
    diagnose(&c1, &[]).blames("clock", &[], &["1 h 0 min behind that of", "timedatectl set-ntp true"]);
}
