//! The rules of transparent mode: what they leave alone, how long they last, and what is left of them.

use super::transparent::{BOTH, LED, nft, state, stop};
use crate::lab::group::{START, forget_gateways, init, join, laneway, up};
use crate::lab::process::{Output, Process};
use crate::lab::web::{PORT, who};
use crate::lab::{Case, Host, Lab, wait_until};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{IpAddr, TcpListener};
use std::os::unix::fs::PermissionsExt;
use std::thread;

pub(super) const CASES: &[Case] = &[
    (
        "rules::software_connects_as_without_laneway_after_a_node_was_killed",
        software_connects_as_without_laneway_after_a_node_was_killed,
    ),
    (
        "rules::connected_networks_are_reached_directly_also_those_that_come_later",
        connected_networks_are_reached_directly_also_those_that_come_later,
    ),
    (
        "rules::tools_without_any_privilege_are_not_redirected_to_the_node",
        tools_without_any_privilege_are_not_redirected_to_the_node,
    ),
    (
        "rules::a_firewall_that_is_loaded_again_leaves_the_redirection_in_place",
        a_firewall_that_is_loaded_again_leaves_the_redirection_in_place,
    ),
    ("rules::nobody_else_takes_the_rules_of_a_running_node", nobody_else_takes_the_rules_of_a_running_node),
    ("rules::a_reload_changes_what_is_redirected", a_reload_changes_what_is_redirected),
    (
        "rules::without_tables_that_have_owners_the_rules_expire_after_a_killed_node",
        without_tables_that_have_owners_the_rules_expire_after_a_killed_node,
    ),
    (
        "rules::rules_without_a_node_are_named_by_the_doctor_and_the_next_command",
        rules_without_a_node_are_named_by_the_doctor_and_the_next_command,
    ),
    (
        "rules::software_without_an_ipv4_address_reaches_the_server_too",
        software_without_an_ipv4_address_reaches_the_server_too,
    ),
    (
        "rules::the_doctor_takes_the_interfaces_of_the_rules_for_no_lan",
        the_doctor_takes_the_interfaces_of_the_rules_for_no_lan,
    ),
];

const SERVER: &str = "http://10.88.0.100/";

fn has_table(host: &Host) -> bool {
    nft(host, "list tables").success().text().contains("inet laneway")
}

fn kill_node(mut node: Process) {
    node.signal(Signal::SIGKILL);
    node.wait(START);
}

/// Answers each connection to this address with the client's address.
fn neighbour(host: &Host, address: impl Into<IpAddr>) {
    let address = address.into();
    let listener = host.inside(|| TcpListener::bind((address, PORT))).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, from)) = listener.accept() {
            // Data that nobody has read when the connection ends would reset it.
            let lines = BufReader::new(&stream).lines().map_while(Result::ok);
            lines.take_while(|line| !line.is_empty()).for_each(drop);
            let from = from.ip().to_string();
            let length = from.len();
            let _ = write!(
                stream,
                "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{from}"
            );
        }
    });
}

/// Runs `laneway` as a process that may change neither rules nor routes nor marks.
fn unprivileged(host: &Host, arguments: &[&str]) -> Output {
    let mut command = host.command("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"]);
    command.arg(env!("CARGO_BIN_EXE_laneway")).args(arguments);
    command.arg("--state").arg(crate::lab::group::state(host));
    host.output(command)
}

fn software_connects_as_without_laneway_after_a_node_was_killed(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let web = lab.web(who);
    let redirected = [&LED[..], &["--transparent-connected"]].concat();
    let group = lab.group(&[&g1, &c1], &redirected);
    let before = state(&c1);
    // One machine that reaches the server itself, and one that has no route to it.
    g1.curl(&[SERVER]).success();
    let node = group.client(&c1, &LED);
    c1.curl(&[SERVER]).success();
    kill_node(node);
    kill_node(group.gateway);
    wait_until("the rules to go", || !has_table(&g1) && !has_table(&c1));
    g1.curl(&[SERVER]).success();
    assert_eq!(web.asked("/").len(), 3);
    let refused = c1.curl(&["--max-time", "5", SERVER]);
    assert!(refused.code() == super::curl::CANNOT_CONNECT, "at once, like without a route: {refused}");

    // The interface that is left does no harm. The next node removes it, whether it redirects or not.
    let doctor = laneway(&c1, &["doctor", "--json"]);
    assert!(doctor.text().contains("laneway0 is left of a node that was killed"), "{doctor}");
    let node = up(&c1, &[]);
    assert_eq!(state(&c1), before);
    stop(node);
    kill_node(up(&c1, &LED));
    let node = up(&c1, &LED);
    stop(node);
    assert_eq!(state(&c1), before);
}

fn connected_networks_are_reached_directly_also_those_that_come_later(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    neighbour(&c2, c2.address());
    let node = group.client(&c1, &LED);
    let next_door = format!("http://{}/", c2.address());
    assert_eq!(c1.curl(&[&next_door]).success().text(), c1.address().to_string());

    for (family, own, other) in [("", "10.99.0.1/24", "10.99.0.2/24"), ("-6 ", "fd99::1/64", "fd99::2/64")] {
        let ip = other.split('/').next().unwrap().parse::<IpAddr>().unwrap();
        let nodad = if family.is_empty() { "" } else { " nodad" };
        c2.ip(&format!("{family}address add {other} dev lan{nodad}"));
        neighbour(&c2, ip);
        let url = format!("http://{}/", std::net::SocketAddr::new(ip, PORT));
        assert!(!c1.curl(&["--max-time", "5", &url]).status.success());
        c1.ip(&format!("{family}address add {own} dev lan{nodad}"));
        let own = own.split('/').next().unwrap();
        wait_until("the new network to be reached", || c1.curl(&["--max-time", "5", &url]).text() == own);
    }
    // A route of a device without an address of that network, as VPNs have them.
    c2.ip("address add 10.98.0.2/24 dev lan");
    neighbour(&c2, [10, 98, 0, 2]);
    c1.ip("route add 10.98.0.0/24 dev lan");
    let beyond = "http://10.98.0.2/";
    c2.ip(&format!("route add {}/32 dev lan", c1.address()));
    wait_until("the new route to be used", || c1.curl(&["--max-time", "5", beyond]).status.success());
    c1.curl(&[SERVER]).success();
    stop(node);

    let _node = group.client(&c1, &[&LED[..], &["--transparent-connected"]].concat());
    assert!(!c1.curl(&[&next_door]).status.success(), "the gateway does not allow it");
}

fn tools_without_any_privilege_are_not_redirected_to_the_node(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    let options = [&LED[..], &["--transparent-connected"]].concat();
    let mut node = group.client(&c1, &options);
    unprivileged(&c1, &["speedtest", "--seconds", "1"]).success();
    let gateway = format!("{}:7420", g1.address());
    unprivileged(&c1, &["speedtest", "--seconds", "1", "--gateway", &gateway]).success();
    unprivileged(&c1, &["discover"]).success();
    unprivileged(&c1, &["doctor", "--server", "10.88.0.100:80"]).success();
    laneway(&c1, &["doctor", "--server", "10.88.0.100:80"]).success();
    assert!(!node.log().contains(&format!("target=\"{gateway}\"")), "{}", node.log());

    // Nor is a node without privileges redirected, or a machine that joins.
    laneway(&c2, &["transparent", "up", "--connected", "--no-check"]).success();
    unprivileged(&c2, &["join", &group.code, "--name", "c2"]).success();
    let mut command = c2.command("setpriv");
    command.args(["--bounding-set", "-all", "--inh-caps", "-all", "--no-new-privs"]);
    command.arg(env!("CARGO_BIN_EXE_laneway")).args(["up", "--transparent", BOTH]);
    command.arg("--state").arg(crate::lab::group::state(&c2));
    let mut other = c2.spawn(command);
    other.wait_for_line("link up", START);
    c2.curl(&[SERVER]).success();
    assert!(node.is_running());
}

fn a_firewall_that_is_loaded_again_leaves_the_redirection_in_place(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    let before = state(&c1);
    let mut node = group.client(&c1, &LED);
    nft(&c1, "flush ruleset").success();
    c1.curl(&[SERVER]).success();
    // Whatever ends the rules or the route, they come back.
    let of_node = |id: u32| fs::read_to_string(format!("/proc/{id}/task/{id}/children")).unwrap();
    let nft_of_node = of_node(node.id()).split_whitespace().next().unwrap().parse().unwrap();
    kill(Pid::from_raw(nft_of_node), Signal::SIGKILL).unwrap();
    node.wait_for_line("installing them again", START);
    wait_until("the rules", || has_table(&c1));
    c1.ip("link delete laneway0");
    wait_until("the route", || c1.curl(&["--max-time", "5", SERVER]).status.success());
    stop(node);
    assert_eq!(state(&c1), before);
}

fn nobody_else_takes_the_rules_of_a_running_node(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    // Rules that were made by hand are replaced.
    laneway(&c1, &["transparent", "up", "--to", "1099", "--no-check"]).success();
    let node = group.client(&c1, &LED);
    c1.curl(&[SERVER]).success();
    let keeper = format!("caused by: the node of process {} redirects this machine's connections", node.id());
    for words in ["up", "down"] {
        let refused = laneway(&c1, &["transparent", words]);
        assert!(refused.code() == 1 && refused.stderr.contains(&keeper), "{words}: {refused}");
    }
    let other = c1.directory().join("other");
    let other = other.to_str().unwrap();
    let gateway = format!("{}:7420", g1.address());
    let joined = ["join", &group.code, "--name", "other", "--gateway", &gateway, "--state", other];
    c1.output(c1.laneway(&joined)).success();
    let ports = ["--proxy", "127.0.0.1:1090", "--discovery-port", "7421", "--gateway", &gateway];
    let second = ["--transparent", "127.0.0.1:1091", "--transparent-rules", "--state", other];
    let refused = c1.output(c1.laneway(&[&["up"], &ports[..], &second].concat()));
    assert!(refused.code() == 1 && refused.stderr.contains(&keeper), "{refused}");
    c1.curl(&[SERVER]).success();
}

fn a_reload_changes_what_is_redirected(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    let file = c1.directory().join("laneway.toml");
    let with = |rules: &str| fs::write(&file, format!("transparent = '{BOTH}'\n{rules}")).unwrap();
    with("");
    let node = group.client(&c1, &["--config", file.to_str().unwrap()]);
    assert!(!c1.curl(&[SERVER]).status.success());
    let reload = |rules: &str, reaches: bool| {
        with(rules);
        node.signal(Signal::SIGHUP);
        let reached = || c1.curl(&["--max-time", "5", SERVER]).status.success();
        wait_until("the new rules", || reached() == reaches);
    };
    reload("transparent-rules = true\n", true);
    reload("transparent-rules = true\ntransparent-except = '10.88.0.0/16'\n", false);
    reload("transparent-rules = true\ntransparent-only = '10.88.0.0/16'\n", true);
    reload("", false);
    assert!(!has_table(&c1));
    assert!(!node.log().contains("take effect only after a restart"), "{}", node.log());
    assert!(web.asked("/").len() >= 2);
    // A refused reload is reported by the node: nobody else knows this file.
    let is_refused = || laneway(&c1, &["status"]).text().contains("the last reload was refused");
    fs::write(&file, "hodl = 4\n").unwrap();
    node.signal(Signal::SIGHUP);
    wait_until("the refusal", is_refused);
    let doctor = laneway(&c1, &["doctor"]);
    assert!(doctor.text().contains("refused its configuration at the last reload"), "{doctor}");
    with("");
    node.signal(Signal::SIGHUP);
    wait_until("the reload", || !is_refused());
}

/// An `nft` of before version 1.0, or one on a kernel before Linux 5.12.
fn without_tables_that_have_owners_the_rules_expire_after_a_killed_node(lab: &Lab) {
    let g1 = lab.gateway("g1");
    let web = lab.web(who);
    let programs = g1.directory().join("programs");
    fs::create_dir(&programs).unwrap();
    let script = "#!/bin/sh\n[ \"$1\" = -i ] && exit 1\nPATH=${PATH#*:} exec nft \"$@\"\n";
    fs::write(programs.join("nft"), script).unwrap();
    fs::set_permissions(programs.join("nft"), PermissionsExt::from_mode(0o755)).unwrap();
    g1.set("PATH", &format!("{}:{}", programs.display(), crate::lab::programs::path()));

    let before = state(&g1);
    let options = [&LED[..], &["--transparent-connected"]].concat();
    let mut group = lab.group(&[&g1], &options);
    g1.curl(&[SERVER]).success();
    assert!(group.gateway.log().contains("dialect=\"transparent\""));
    // A firewall that is loaded again removes the rules for some seconds.
    nft(&g1, "flush ruleset").success();
    wait_until("the rules", || has_table(&g1));
    let refused = laneway(&g1, &["transparent", "down"]);
    assert!(refused.stderr.contains("redirects this machine's connections"), "{refused}");

    group.gateway.signal(Signal::SIGKILL);
    group.gateway.wait(START);
    assert!(!g1.curl(&[SERVER]).status.success(), "redirected to nobody");
    let doctor = laneway(&g1, &["doctor"]);
    assert!(doctor.text().contains("where nothing listens"), "{doctor}");
    wait_until("the rules to expire", || g1.curl(&["--max-time", "5", SERVER]).status.success());
    assert!(web.asked("/").len() >= 2);
    laneway(&g1, &["transparent", "down"]).success();
    assert_eq!(state(&g1), before);
    // The next node removes the rules at once.
    let node = up(&g1, &["--role", "gateway", "--server", "10.88.0.100:80", LED[0], LED[1], LED[2]]);
    kill_node(node);
    let _node = up(&g1, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    assert_eq!(state(&g1), before);
}

fn rules_without_a_node_are_named_by_the_doctor_and_the_next_command(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&g1], &[]);
    join(&c1, &group.code);
    let before = state(&c1);
    let refused = laneway(&c1, &["transparent", "up"]);
    for words in [
        "nothing listens on port 1081",
        "would be refused",
        "hint: start the node first: 'laneway up --transparent",
    ] {
        assert!(refused.code() == 1 && refused.stderr.contains(words), "{words}: {refused}");
    }
    let other = c1.inside(|| TcpListener::bind("127.0.0.1:1081")).unwrap();
    let refused = laneway(&c1, &["transparent", "up"]);
    let own = format!("(process {})", std::process::id());
    assert!(refused.code() == 1 && refused.stderr.contains(&own), "{refused}");
    drop(other);
    assert_eq!(state(&c1), before);
    laneway(&c1, &["transparent", "up", "--no-check"]).success();
    let doctor = laneway(&c1, &["doctor"]);
    for output in [doctor.text(), laneway(&c1, &["discover"]).stderr, laneway(&c1, &["speedtest"]).stderr] {
        assert!(output.contains("redirected to port 1081, where nothing listens"), "{output}");
        assert!(output.contains("laneway transparent down"), "{output}");
    }
    laneway(&c1, &["transparent", "down"]).success();
    assert_eq!(state(&c1), before);
    let doctor = laneway(&c1, &["doctor"]);
    assert!(!doctor.text().contains("redirected"), "{doctor}");
}

fn software_without_an_ipv4_address_reaches_the_server_too(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    forget_gateways(&c1);
    c1.ip("-4 address flush dev lan");
    let before = state(&c1);
    let curl = |url: &str| c1.curl(&["--max-time", "10", url]);
    let node = group.client(&c1, &[&LED[..], &["--transparent-only", "10.88.0.0/24"]].concat());
    curl(SERVER).success();
    let refused = curl("http://10.89.0.1/");
    assert_eq!(refused.code(), super::curl::CANNOT_CONNECT, "at once, like without a route: {refused}");

    // Once there is an address, it is the source of new connections, and older ones go on.
    let connect = || c1.connect((lab.server.address(), PORT)).unwrap();
    let mut old = connect();
    c1.ip(&format!("address add {}/24 broadcast + dev lan", c1.address()));
    assert_eq!(connect().local_addr().unwrap().ip(), c1.address());
    old.write_all(b"GET /old HTTP/1.1\r\nHost: a\r\n\r\n").unwrap();
    let mut answer = String::new();
    old.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(" /old"), "{answer}");
    drop(old);
    c1.ip("-4 address flush dev lan");
    stop(node);
    assert_eq!(state(&c1), before);

    let _node = group.client(&c1, &LED[..2]);
    laneway(&c1, &["transparent", "up"]).success();
    curl(SERVER).success();
    laneway(&c1, &["transparent", "down"]).success();
    assert_eq!(state(&c1), before);
}

fn the_doctor_takes_the_interfaces_of_the_rules_for_no_lan(lab: &Lab) {
    let c1 = lab.client("c1");
    init(&c1);
    c1.ip("address flush dev lan");
    laneway(&c1, &["transparent", "up", "--no-check"]).success();
    let doctor = laneway(&c1, &["doctor"]);
    assert!(doctor.text().contains("there is no network to discover gateways on"), "{doctor}");
    assert!(!doctor.text().contains("laneway1"), "{doctor}");
}
