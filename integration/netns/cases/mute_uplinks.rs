//! An uplink over which connections are made but that carries nothing else: a middlebox, a stalled line, a path with a smaller
//! MTU than it reports.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::curl::{DIALECTS, HTTP, TUNNEL};
use super::failover::Gate;
use super::way_out::Open;
use crate::lab::dialect::PROXY;
use crate::lab::group::{START, enrol, laneway, up};
use crate::lab::process::Process;
use crate::lab::web::{wait_for_the_end, who};
use crate::lab::{Case, Host, Lab, wait_until};

pub(super) const CASES: &[Case] = &[
    ("mute_uplinks::without_data_towards_servers", without_data_towards_servers),
    ("mute_uplinks::without_large_packets", without_large_packets),
    ("mute_uplinks::without_anything_from_servers_after_the_handshake", without_anything_after_the_handshake),
    ("mute_uplinks::without_data_from_servers", without_data_from_servers),
    ("mute_uplinks::of_a_gateway_for_one_server", of_a_gateway_for_one_server),
    (
        "mute_uplinks::a_gateways_own_software_goes_over_the_other_one",
        a_gateways_own_software_goes_over_the_other_one,
    ),
    (
        "mute_uplinks::connections_that_were_in_use_end_and_tell_the_gateway",
        connections_in_use_tell_the_gateway,
    ),
    ("mute_uplinks::a_probe_is_made_at_once", a_probe_is_made_at_once),
    ("mute_uplinks::a_slow_server_costs_no_gateway_and_one_more_request", a_slow_server_costs_no_gateway),
    ("mute_uplinks::without_another_gateway_it_is_told_as_such", without_another_gateway_it_is_told_as_such),
    (
        "mute_uplinks::a_question_by_udp_goes_over_the_other_gateway",
        a_question_by_udp_goes_over_the_other_one,
    ),
    ("mute_uplinks::while_both_are_dead_requests_are_told_so_after_the_hold_time", while_both_are_dead),
    (
        "mute_uplinks::while_both_carry_nothing_requests_are_told_so_after_the_hold_time",
        while_both_carry_nothing,
    ),
    ("mute_uplinks::with_a_probe_too_while_both_carry_nothing", with_a_probe_too),
    ("mute_uplinks::with_an_address_as_probe_too_while_both_carry_nothing", with_an_address_as_probe_too),
    ("mute_uplinks::a_server_of_another_protocol_brings_it_back_too", a_server_of_another_protocol),
    (
        "mute_uplinks::what_is_asked_for_proves_it_where_all_that_answered_before_has_gone",
        what_is_asked_for_proves_it_where_all_that_answered_before_has_gone,
    ),
    ("mute_uplinks::a_standby_says_what_it_knows_of_its_uplink", a_standby_says_what_it_knows),
    (
        "mute_uplinks::of_which_nothing_answers_is_not_said_to_accept",
        of_which_nothing_answers_is_not_said_to_accept,
    ),
    (
        "mute_uplinks::silent_servers_of_a_member_cost_no_gateway_and_no_slow_upload_of_another",
        silent_servers_of_a_member_cost_no_gateway_and_no_slow_upload_of_another,
    ),
    ("mute_uplinks::what_waits_for_an_event_is_neither_cut_nor_sent_again", what_waits_for_an_event),
];

const URL: &str = "http://10.88.0.100/";
/// How long a node may take to notice something and to say so.
const NOTICED: Duration = Duration::from_secs(40);
/// What a gateway logs when it withdraws.
const MUTE: &str = "the way out is lost: these accept connections, and then nothing comes back";
const LOST: &str = "the way out is lost";

/// Packets that carry data, unlike handshakes and acknowledgements.
const TO_SERVERS: &str = "oif out tcp flags & psh == psh drop";
const LARGE: &str = "oif out meta l4proto tcp meta length > 100 drop";
const AFTER_THE_HANDSHAKE: &str = "iif out tcp flags & syn == 0 drop";
const FROM_SERVERS: &str = "iif out tcp flags & psh == psh drop";
const EVERYTHING: &str = "oif out drop";

/// GETs in every dialect at the same moment: each is served over `by`.
fn all_are_served(client: &Host, by: Ipv4Addr) {
    let begun: Vec<_> = DIALECTS.iter().map(|dialect| (dialect, begin(client, dialect, &[URL]))).collect();
    for (dialect, request) in begun {
        let text = request.finish(START * 6).success().text();
        assert!(text.starts_with(&by.to_string()), "{dialect:?}: {text}");
    }
}

fn begin(client: &Host, dialect: &[&str], arguments: &[&str]) -> Process {
    let mut curl = client.command("curl");
    curl.args(["--silent", "--show-error", "--max-time", "50"]).args(dialect).args(arguments);
    client.spawn(curl)
}

/// Status and body of a response.
fn status(request: Process) -> (String, String) {
    let text = request.finish(START * 6).success().text();
    let (body, status) = text.trim_end().rsplit_once('\n').unwrap();
    (status.to_owned(), body.to_owned())
}

const WITH_STATUS: [&str; 2] = ["-w", "\n%{http_code}"];

/// A gateway for any destination withdraws, requests go over the other one, and requests that cannot be repeated fail
/// honestly.
fn is_left(lab: &Lab, mute: fn(&Host)) {
    let _web = lab.web(who);
    let mut open = Open::start_with(lab, &[], &[]);
    let serving = open.serving();
    let (gateway, by) = (&open.gateways[serving], open.gateways[1 - serving].addresses()[1]);
    mute(gateway);
    let post = begin(&open.client, &HTTP, &[&WITH_STATUS[..], &["--data", "x", URL]].concat());
    all_are_served(&open.client, by);
    open.nodes[serving].wait_for_line(MUTE, NOTICED);
    let said = laneway(gateway, &["status"]).success().text();
    assert!(said.contains("it accepts connections, and then nothing comes back"), "{said}");
    let (status, body) = status(post);
    assert_eq!(status, "504", "{body}");
    let name = ["g1", "g2"][serving];
    assert!(body.contains(&format!("over the gateway {name}, and then nothing came back")), "{body}");
    let said = laneway(&open.client, &["discover"]).success().text();
    assert!(said.contains("withdrawn"), "{said}");
    all_are_served(&open.client, by);
    assert!(!open.nodes[1 - serving].log().contains(LOST));
    // The uplink carries data again.
    gateway.swallow("");
    gateway.filter("");
    open.nodes[serving].wait_for_line("a way out is there again", NOTICED);
}

fn without_data_towards_servers(lab: &Lab) {
    is_left(lab, |gateway| gateway.swallow(TO_SERVERS));
}

fn without_large_packets(lab: &Lab) {
    is_left(lab, |gateway| gateway.swallow(LARGE));
}

fn without_anything_after_the_handshake(lab: &Lab) {
    is_left(lab, |gateway| gateway.filter(AFTER_THE_HANDSHAKE));
}

/// Servers acknowledge everything, as slow ones do: each unanswered request counts, and one server alone proves nothing
/// about the gateway.
fn without_data_from_servers(lab: &Lab) {
    let _web = lab.web(who);
    let second = Ipv4Addr::new(10, 88, 0, 101);
    let _second = lab.second(second, 80, |_, mut stream| {
        let _ = stream.read(&mut [0; 512])?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")?;
        // If it closed with an unread body, the server would reset the connection, which shows that it is there.
        while stream.read(&mut [0; 512])? > 0 {}
        Ok(())
    });
    let mut open = Open::start_with(lab, &[], &[]);
    let serving = open.serving();
    open.gateways[serving].filter(FROM_SERVERS);
    let by = open.gateways[1 - serving].addresses()[1];
    // The POSTs wait for two servers, and nobody may repeat them.
    let posts = [URL, "http://10.88.0.101/"].map(|url| begin(&open.client, &HTTP, &["--data", "x", url]));
    all_are_served(&open.client, by);
    open.nodes[serving].wait_for_line(MUTE, NOTICED);
    assert!(!open.nodes[1 - serving].log().contains(LOST));
    posts.into_iter().for_each(|post| drop(post.finish(START * 6)));
    all_are_served(&open.client, by);
}

fn of_a_gateway_for_one_server(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let host = &fleet.gateways[serving].host;
    host.swallow(TO_SERVERS);
    all_are_served(&fleet.client, fleet.gateways[1 - serving].outside());
    wait_until("the gateway to withdraw", || {
        fleet.gateways[serving].log().contains("servers reach=\"unreachable\"")
    });
    let said = laneway(host, &["status"]).success().text();
    assert!(said.contains("does not reach 10.88.0.100:80: it accepts connections, and then"), "{said}");
    let said = laneway(host, &["doctor"]).text();
    assert!(said.contains("it accepts connections, and then nothing comes back"), "{said}");
    host.swallow("");
    wait_until("the gateway to return", || {
        fleet.gateways[serving].log().matches("servers reach=\"reachable\"").count() > 1
    });
}

fn a_gateways_own_software_goes_over_the_other_one(lab: &Lab) {
    let _web = lab.web(who);
    let open = Open::start_with(lab, &[], &[]);
    let serving = open.serving();
    let (own, other) = (&open.gateways[serving], &open.gateways[1 - serving]);
    own.swallow(TO_SERVERS);
    let text = begin(own, &HTTP, &[URL]).finish(START * 6).success().text();
    assert!(text.starts_with(&other.addresses()[1].to_string()), "{text}");
}

/// Each connection has answered before, and waits for the next answer.
fn connections_in_use_tell_the_gateway(lab: &Lab) {
    let _web = lab.web(who);
    let echo = lab.serve(81, |_, mut stream| {
        let mut buffer = [0; 64];
        loop {
            match stream.read(&mut buffer)? {
                0 => return Ok(()),
                count => stream.write_all(&buffer[..count])?,
            }
        }
    });
    let mut open = Open::start_with(lab, &[], &[]);
    open.serving();
    let mut app = open.client.connect(PROXY).unwrap();
    app.write_all(b"CONNECT 10.88.0.100:81 HTTP/1.1\r\nHost: 10.88.0.100:81\r\n\r\n").unwrap();
    let mut head = [0; 64];
    let count = app.read(&mut head).unwrap();
    assert!(head[..count].starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&head[..count]));
    app.write_all(b"one").unwrap();
    app.read_exact(&mut [0; 3]).unwrap();
    let serving = usize::from(echo.from()[0] == open.gateways[1].addresses()[1]);
    open.gateways[serving].swallow(TO_SERVERS);
    app.write_all(b"two").unwrap();
    open.nodes[serving].wait_for_line(MUTE, NOTICED);
    // The app is told, and can begin anew over the other gateway.
    let ended = wait_for_the_end(&mut app).unwrap_err();
    assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    all_are_served(&open.client, open.gateways[1 - serving].addresses()[1]);
}

fn a_probe_is_made_at_once(lab: &Lab) {
    let _web = lab.web(who);
    let probe = ["--probe", "http://10.88.0.100/probe", "--probe-interval", "3600"];
    let mut open = Open::start_with(lab, &probe, &[]);
    let serving = open.serving();
    open.gateways[serving].swallow(TO_SERVERS);
    all_are_served(&open.client, open.gateways[1 - serving].addresses()[1]);
    open.nodes[serving].wait_for_line("server not reached", NOTICED);
}

/// The server takes longer than anything that could be taken for a dead uplink.
fn a_slow_server_costs_no_gateway(lab: &Lab) {
    let gate = Arc::new(Gate::default());
    let web = gate.web(lab);
    let open = Open::start_with(lab, &[], &[]);
    open.serving();
    let paths = ["/plain", "/tunnel", "/post"];
    let url = |path: &str| format!("http://10.88.0.100{path}");
    let waiting = [
        begin(&open.client, &HTTP, &[&url(paths[0])]),
        begin(&open.client, &TUNNEL, &[&url(paths[1])]),
        begin(&open.client, &HTTP, &["--data", "x", &url(paths[2])]),
    ];
    wait_until("both gateways to have asked", || {
        web.asked(paths[0]).len() == 2 && web.asked(paths[1]).len() == 2
    });
    thread::sleep(Duration::from_secs(20));
    assert_eq!(paths.map(|path| web.asked(path).len()), [2, 2, 1]);
    gate.open();
    for (request, path) in waiting.into_iter().zip(paths) {
        let text = request.finish(START * 3).success().text();
        assert!(text.ends_with(path), "{text}");
    }
    assert!(open.nodes.iter().all(|node| !node.log().contains(LOST)));
}

fn without_another_gateway_it_is_told_as_such(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &[]);
    fleet.serving();
    fleet.gateways[0].host.swallow(TO_SERVERS);
    for arguments in [&[URL][..], &["--data", "x", URL]] {
        let (status, body) = status(begin(&fleet.client, &HTTP, &[&WITH_STATUS[..], arguments].concat()));
        assert!(["503", "504"].contains(&&*status), "{status}: {body}");
        assert!(body.contains("g1") && body.contains("then nothing c"), "{body}");
    }
}

/// The first answer is lost for ever, and the app asks again.
fn a_question_by_udp_goes_over_the_other_one(lab: &Lab) {
    let _web = lab.web(who);
    let address = SocketAddr::from((lab.server.address(), 7777));
    let server = lab.server.inside(|| UdpSocket::bind(address)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((count, from)) = server.recv_from(&mut buffer) {
            let _ = server.send_to(&buffer[..count], from);
        }
    });
    let open = Open::start_with(lab, &["--probe", "none"], &[]);
    let serving = open.serving();
    open.gateways[serving].filter("iif out udp sport 7777 drop");
    let mut control = open.client.connect(PROXY).unwrap();
    control.write_all(b"\x05\x01\0\x05\x03\0\x01\0\0\0\0\0\0").unwrap();
    let mut reply = [0; 12];
    control.read_exact(&mut reply).unwrap();
    let port = u16::from_be_bytes([reply[10], reply[11]]);
    let app = open.client.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    app.connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    app.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let question =
        [&[0, 0, 0, 1][..], &lab.server.address().octets(), &7777_u16.to_be_bytes(), b"?"].concat();
    wait_until("an answer", || {
        app.send(&question).unwrap();
        app.recv(&mut [0; 64]).is_ok()
    });
    assert!(open.node.log().contains("no answer: UDP tries another gateway"), "{}", open.node.log());
}

/// The end of a GET, with the status.
fn ends(client: &Host, url: &str) -> (String, String) {
    status(begin(client, &HTTP, &[&WITH_STATUS[..], &[url]].concat()))
}

/// Requests `urls` until both gateways have withdrawn. The requests that find that out may get other errors.
fn until_both_have_lost_it(open: &Open, urls: &[&str], lost: &str) {
    for _ in 0..8 {
        let begun: Vec<_> = urls.iter().map(|url| begin(&open.client, &HTTP, &[url])).collect();
        begun.into_iter().for_each(|request| drop(request.finish(START * 6)));
        if open.nodes.iter().all(|node| node.log().contains(lost)) {
            return;
        }
    }
    panic!("{}\n{}", open.nodes[0].log(), open.nodes[1].log());
}

/// Both stay withdrawn for longer than any timer that would offer them again, and requests wait for `--hold` and no longer.
fn stay_withdrawn(open: &Open, url: &str, seen: &str) {
    for _ in 0..8 {
        let (status, body) = ends(&open.client, url);
        assert_eq!(status, "503", "{body}");
        assert!(body.contains("has no way out") && body.contains(seen), "{body}");
    }
    for (node, gateway) in open.nodes.iter().zip(&open.gateways) {
        assert!(!node.log().contains("a way out is there again"), "{}", node.log());
        let said = laneway(gateway, &["status"]).success().text();
        assert!(said.contains("withdrawn gateway, ") && said.contains("this node does not reach "), "{said}");
    }
}

fn are_back(open: &Open, url: &str) {
    open.gateways.iter().for_each(|gateway| {
        gateway.swallow("");
        gateway.filter("");
    });
    wait_until("requests to succeed again", || ends(&open.client, url).0 == "200");
}

const HOLD: [&str; 2] = ["--hold", "3"];

fn while_both_are_dead(lab: &Lab) {
    let _web = lab.web(who);
    let open = Open::start_with(lab, &[], &HOLD);
    open.serving();
    open.gateways.iter().for_each(|gateway| gateway.swallow(EVERYTHING));
    until_both_have_lost_it(&open, &[URL], LOST);
    stay_withdrawn(&open, URL, "10.88.0.100:80");
    are_back(&open, URL);
    let proved = "a way out is there again by=\"10.88.0.100:80\"";
    wait_until("the proof to be named", || open.nodes.iter().any(|node| node.log().contains(proved)));
}

fn while_both_carry_nothing(lab: &Lab) {
    let _web = lab.web(who);
    let open = Open::start_with(lab, &[], &HOLD);
    open.serving();
    open.gateways.iter().for_each(|gateway| gateway.filter(AFTER_THE_HANDSHAKE));
    until_both_have_lost_it(&open, &[URL], MUTE);
    stay_withdrawn(&open, URL, "10.88.0.100:80 accepts connections, and then nothing comes back");
    are_back(&open, URL);
}

fn with_a_probe_too(lab: &Lab) {
    by_a_probe(lab, "http://10.88.0.100/probe", |gateway| gateway.filter(AFTER_THE_HANDSHAKE));
}

fn with_an_address_as_probe_too(lab: &Lab) {
    by_a_probe(lab, "10.88.0.100:80", |gateway| gateway.swallow(TO_SERVERS));
}

fn by_a_probe(lab: &Lab, probe: &str, mute: fn(&Host)) {
    let _web = lab.web(who);
    let open = Open::start_with(lab, &["--probe", probe, "--probe-interval", "1"], &HOLD);
    open.serving();
    open.gateways.iter().for_each(mute);
    until_both_have_lost_it(&open, &[URL], "server not reached");
    stay_withdrawn(&open, URL, "10.88.0.100");
    are_back(&open, URL);
}

/// The server does not speak first, and answers no empty line; but its machine acknowledges one.
fn a_server_of_another_protocol(lab: &Lab) {
    let _web = lab.web(who);
    let _echo = lab.serve(81, |_, mut stream| {
        let mut line = [0; 64];
        let count = stream.read(&mut line)?;
        if line[..count].starts_with(b"hello") {
            stream.write_all(b"hello")?;
        }
        wait_for_the_end(&mut stream)
    });
    let mut fleet = lab.fleet(1, &["--server", "10.88.0.100:81"]);
    let gateway = &fleet.gateways[0].host;
    gateway.swallow(TO_SERVERS);
    let says_hello = |client: &Host| {
        let mut app = client.connect(PROXY).unwrap();
        app.write_all(b"CONNECT 10.88.0.100:81 HTTP/1.1\r\nHost: 10.88.0.100:81\r\n\r\n").unwrap();
        let (mut head, mut answer) = ([0; 64], [0; 5]);
        let count = app.read(&mut head).unwrap();
        app.write_all(b"hello").unwrap();
        head[..count].starts_with(b"HTTP/1.1 200") && app.read_exact(&mut answer).is_ok()
    };
    assert!(!says_hello(&fleet.client) && !says_hello(&fleet.client));
    gateway.swallow("");
    wait_until("the server to be reached again", || says_hello(&fleet.client));
    assert!(fleet.gateways[0].is_running());
}

/// Neither the server that showed the loss nor any timer is needed.
fn what_is_asked_for_proves_it_where_all_that_answered_before_has_gone(lab: &Lab) {
    let web = lab.web(who);
    let _second = lab.second(Ipv4Addr::new(10, 88, 0, 101), 80, |_, mut stream| {
        let _ = stream.read(&mut [0; 512])?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")
    });
    let open = Open::start_with(lab, &[], &[]);
    open.serving();
    open.gateways.iter().for_each(|gateway| gateway.filter(AFTER_THE_HANDSHAKE));
    until_both_have_lost_it(&open, &[URL], MUTE);
    drop(web);
    open.gateways.iter().for_each(|gateway| gateway.filter(""));
    let (status, body) = ends(&open.client, "http://10.88.0.101/");
    assert_eq!((status.as_str(), body.as_str()), ("200", "second"));
}

fn a_standby_says_what_it_knows(lab: &Lab) {
    let _web = lab.web(who);
    let open = Open::start_with(lab, &[], &[]);
    let serving = open.serving();
    let said = |gateway: &Host| laneway(gateway, &["status"]).success().text();
    wait_until("the gateway to know of the answer", || {
        said(&open.gateways[serving])
            .contains("active gateway, reaches servers directly: 10.88.0.100:80 answered last, ")
    });
    let idle = said(&open.gateways[1 - serving]);
    assert!(
        idle.contains("standby gateway, unproved: nothing beyond its networks has answered yet"),
        "{idle}"
    );
}

/// From one moment on nothing comes in, neither from servers nor from name servers: no connection can be made.
fn of_which_nothing_answers_is_not_said_to_accept(lab: &Lab) {
    let _web = lab.web(who);
    let _names = lab.name_server();
    let mut fleet = Open::start_with(lab, &[], &[]);
    fleet.used();
    // Its name has to be asked for again after 5 s.
    let url = "http://brief.lab/";
    assert_eq!(fleet.get(url).0, 200);
    let (_, from) = fleet.get(url);
    let serving = usize::from(from.contains(&fleet.gateways[1].addresses()[1].to_string()));
    fleet.gateways[serving].filter("iif out drop");
    // On a connection without answers, the gateway finds out.
    drop(begin(&fleet.client, &HTTP, &["--data", "x", url]).finish(START * 6));
    fleet.nodes[serving].wait_for_line(LOST, NOTICED);
    fleet.nodes[serving].wait_for_line("the way out stays lost", NOTICED);
    let gateway = &fleet.gateways[serving];
    let said = laneway(gateway, &["status"]).success().text();
    assert!(
        said.contains("does not reach brief.lab:80: this machine's name servers did not answer"),
        "{said}"
    );
    assert!(!said.contains("accepts connections"), "{said}");
    let said = laneway(gateway, &["doctor"]).text();
    assert!(!said.contains("accepts connections") && !said.contains("mtu"), "{said}");
    assert!(
        !fleet.nodes[serving].log().contains("these accept connections"),
        "{}",
        fleet.nodes[serving].log()
    );
}

/// The silent servers accept connections, acknowledge everything and answer nothing, while another member waits for a
/// slow server.
fn silent_servers_of_a_member_cost_no_gateway_and_no_slow_upload_of_another(lab: &Lab) {
    let gate = Arc::new(Gate::default());
    let web = gate.web(lab);
    let asked = Arc::new(AtomicUsize::new(0));
    let silent: Vec<_> = (101..105)
        .map(|host| {
            let asked = asked.clone();
            lab.second(Ipv4Addr::new(10, 88, 0, host), 80, move |_, mut stream| {
                let count = stream.read(&mut [0; 512])?;
                asked.fetch_add(usize::from(count > 0), Relaxed);
                wait_for_the_end(&mut stream)
            })
        })
        .collect();
    let open = Open::start_with(lab, &[], &[]);
    let attacker = lab.client("c2");
    enrol(&attacker, &open.gateways[0], &["--client-only"]);
    let _node = up(&attacker, &[]);
    open.serving();
    let upload = begin(&open.client, &HTTP, &["--data", "x", "http://10.88.0.100/slow"]);
    wait_until("the upload to be there", || !web.asked("/slow").is_empty());
    let url = |host: usize| format!("http://10.88.0.{}/", 101 + host);
    let attack: Vec<_> =
        (0..silent.len()).map(|host| begin(&attacker, &HTTP, &["--data", "x", &url(host)])).collect();
    // Waits until a gateway itself has asked the silent servers, and for longer than anything took to be given up.
    wait_until("a gateway to have checked", || asked.load(Relaxed) > attack.len());
    thread::sleep(Duration::from_secs(20));
    assert!(open.nodes.iter().all(|node| !node.log().contains(LOST)), "{}", open.nodes[0].log());
    assert_eq!(web.asked("/slow").len(), 1);
    gate.open();
    let text = upload.finish(START * 3).success().text();
    assert!(text.ends_with("/slow"), "{text}");
    drop(silent);
    attack.into_iter().for_each(|request| drop(request.finish(START * 6)));
}

/// An event stream, an app that has ended its direction, and a tunnel that is idle and then used.
fn what_waits_for_an_event(lab: &Lab) {
    let gate = Arc::new(Gate::default());
    let opened = gate.clone();
    let events = lab.serve(80, move |_, mut stream| {
        let _ = stream.read(&mut [0; 512])?;
        write!(
            stream,
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\ndata: 1\n\n"
        )?;
        opened.wait();
        write!(stream, "data: 2\n\n")
    });
    let opened = gate.clone();
    let tunnels = lab.serve(81, move |_, mut stream| {
        let mut first = [0; 1];
        stream.read_exact(&mut first)?;
        if first == *b"h" {
            wait_for_the_end(&mut stream)?;
            opened.wait();
        }
        stream.write_all(&first)?;
        std::io::copy(&mut stream.try_clone()?, &mut stream).map(drop)
    });
    let open = Open::start_with(lab, &[], &[]);
    open.used();
    let connect = || {
        let mut app = open.client.connect(PROXY).unwrap();
        app.write_all(b"CONNECT 10.88.0.100:81 HTTP/1.1\r\nHost: 10.88.0.100:81\r\n\r\n").unwrap();
        let count = app.read(&mut [0; 256]).unwrap();
        assert!(count > 0);
        app
    };
    let (mut half, mut idle) = (connect(), connect());
    half.write_all(b"h").unwrap();
    half.shutdown(Shutdown::Write).unwrap();
    idle.write_all(b"i").unwrap();
    idle.read_exact(&mut [0; 1]).unwrap();
    let stream = begin(&open.client, &HTTP, &["--no-buffer", "http://10.88.0.100/events"]);
    wait_until("all to be there", || !events.from().is_empty() && tunnels.from().len() == 2);
    thread::sleep(Duration::from_secs(25));
    gate.open();
    assert_eq!(stream.finish(START).success().text(), "data: 1\n\ndata: 2\n\n");
    let mut answer = Vec::new();
    half.read_to_end(&mut answer).unwrap();
    assert_eq!(answer, b"h");
    idle.write_all(b"again").unwrap();
    idle.read_exact(&mut [0; 5]).unwrap();
    assert_eq!((events.from().len(), tunnels.from().len()), (1, 2));
    assert!(open.nodes.iter().all(|node| !node.log().contains(LOST)));
}
