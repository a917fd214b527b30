//! An uplink over which connections are made, and that carries nothing else: a middlebox, a stalled line, a path with a smaller MTU than it
//! reports.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use super::curl::{DIALECTS, HTTP, TUNNEL};
use super::failover::Gate;
use super::way_out::Open;
use crate::lab::group::{START, laneway};
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
];

const URL: &str = "http://10.88.0.100/";
/// How long a node may take to notice something and to say so.
const NOTICED: Duration = Duration::from_secs(40);
/// What a gateway logs when it withdraws.
const MUTE: &str = "the way out is lost: these accept connections, and then nothing comes back";
const LOST: &str = "the way out is lost";

/// What carries data, in contrast to handshakes and acknowledgements.
const TO_SERVERS: &str = "oif out tcp flags & psh == psh drop";
const LARGE: &str = "oif out meta l4proto tcp meta length > 100 drop";
const AFTER_THE_HANDSHAKE: &str = "iif out tcp flags & syn == 0 drop";
const FROM_SERVERS: &str = "iif out tcp flags & psh == psh drop";

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

/// A gateway for any destination withdraws, requests go over the other one, and what cannot be repeated is told honestly.
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
    // It carries data again.
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

/// Servers acknowledge everything, as slow ones do: each request tells, and one server alone proves nothing about the gateway.
fn without_data_from_servers(lab: &Lab) {
    let _web = lab.web(who);
    let second = Ipv4Addr::new(10, 88, 0, 101);
    let _second = lab.second(second, 80, |_, mut stream| {
        let _ = stream.read(&mut [0; 512])?;
        write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: 6\r\nConnection: close\r\n\r\nsecond")?;
        // Closed with a body that is not read, it would reset the connection, which tells that it is there.
        while stream.read(&mut [0; 512])? > 0 {}
        Ok(())
    });
    let mut open = Open::start_with(lab, &[], &[]);
    let serving = open.serving();
    open.gateways[serving].filter(FROM_SERVERS);
    let by = open.gateways[1 - serving].addresses()[1];
    // They wait for two servers, and nobody may repeat them.
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
    let mut app = open.client.connect(crate::lab::dialect::PROXY).unwrap();
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

/// It takes longer than everything that could be taken for a dead uplink.
fn a_slow_server_costs_no_gateway(lab: &Lab) {
    let gate = Arc::new(Gate::default());
    let web = {
        let gate = gate.clone();
        lab.web(move |asked, stream| {
            if asked.path != "/" {
                gate.wait();
            }
            who(asked, stream)
        })
    };
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
    let mut control = open.client.connect(crate::lab::dialect::PROXY).unwrap();
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
