//! The options of the sockets that a client and a gateway hold, as `ss` and the wire show them.

use std::io::{Read, Write};
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::thread;
use std::time::Duration;

use super::curl::DIALECTS;
use crate::lab::group::START;
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};

pub(super) const CASES: &[Case] = &[
    ("sockets::every_tcp_connection_is_kept_alive", every_tcp_connection_is_kept_alive),
    ("sockets::a_gateway_sends_datagrams_whole_or_not_at_all", a_gateway_sends_datagrams_whole_or_not_at_all),
    ("sockets::an_upload_outlives_an_outage", an_upload_outlives_an_outage),
    (
        "sockets::a_name_with_many_dead_addresses_is_reached_by_the_good_one",
        a_name_with_many_dead_addresses_is_reached_by_the_good_one,
    ),
];

const PORT: u16 = 7777;
const OPEN: [&str; 2] = ["--allow", "10.88.0.0/24"];

/// The established TCP connections of this host in which `filter` holds, with their timers.
fn connections(host: &Host, filter: &str) -> Vec<String> {
    let mut ss = host.command("ss");
    ss.args(["-H", "-t", "-n", "-o", "state", "established"]).args(filter.split(' '));
    host.output(ss).success().text().lines().map(str::to_owned).collect()
}

fn every_tcp_connection_is_kept_alive(lab: &Lab) {
    let _web = lab.web(who);
    let _held = lab.serve(81, |_, mut stream| stream.read(&mut [0]).map(drop));
    let fleet = lab.fleet(1, &OPEN);
    let mut open = fleet.client.connect(([127, 0, 0, 1], 1080)).unwrap();
    open.write_all(b"CONNECT 10.88.0.100:81 HTTP/1.1\r\nHost: 10.88.0.100:81\r\n\r\n").unwrap();
    let mut head = [0; 12];
    open.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    let gateway = &fleet.gateways[0].host;
    for (host, end, filter) in [
        (&fleet.client, "local port", "sport = :1080"),
        (&fleet.client, "link", "dport = :7420"),
        (gateway, "link", "sport = :7420"),
        (gateway, "server", "dport = :81"),
    ] {
        // While data is unacknowledged another timer runs.
        wait_until(end, || {
            let found = connections(host, filter);
            !found.is_empty() && found.iter().all(|line| line.contains("timer:(keepalive,"))
        });
    }
}

fn a_gateway_sends_datagrams_whole_or_not_at_all(lab: &Lab) {
    let _web = lab.web(who);
    let address = SocketAddr::from((lab.server.address(), PORT));
    let server = lab.server.inside(|| UdpSocket::bind(address)).unwrap();
    let fleet = lab.fleet(1, &OPEN);
    // "Don't fragment" is the second of the three flags (RFC 791 §3.1). A fragment has an offset, or more to come.
    let count = |rule: &str| format!("ip saddr {} {rule} counter", fleet.gateways[0].outside());
    lab.server.filter(
        &[count("udp dport 7777 ip frag-off & 0x4000 != 0"), count("ip frag-off & 0x3fff != 0")].join("\n"),
    );
    let mut control = fleet.client.connect(([127, 0, 0, 1], 1080)).unwrap();
    control.write_all(b"\x05\x01\0\x05\x03\0\x01\0\0\0\0\0\0").unwrap();
    let mut reply = [0; 12];
    control.read_exact(&mut reply).unwrap();
    let relay = SocketAddr::from(([127, 0, 0, 1], u16::from_be_bytes([reply[10], reply[11]])));
    let app = fleet.client.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
    app.connect(relay).unwrap();
    let header = [&[0, 0, 0, 1][..], &lab.server.address().octets(), &PORT.to_be_bytes()].concat();
    // The MTU is 1,500, of which the headers take 28.
    for length in [1473, 1472, 9000, 1] {
        app.send(&[&header[..], &vec![7; length]].concat()).unwrap();
    }
    let mut heard = Vec::new();
    server.set_read_timeout(Some(std::time::Duration::from_secs(20))).unwrap();
    while heard.len() < 2 {
        heard.push(server.recv(&mut [0; 10_000]).unwrap());
    }
    assert_eq!(heard, [1472, 1]);
    let mut nft = lab.server.command("nft");
    nft.args(["list", "ruleset"]);
    let counted = lab.server.output(nft).success().text();
    let packets: Vec<_> =
        counted.lines().filter_map(|line| line.split_once("counter packets ")?.1.split(' ').next()).collect();
    assert_eq!(packets, ["2", "0"], "{counted}");
    let metrics = fleet.gateways[0].host.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
    assert!(metrics.contains("udp_dropped_total{reason=\"too-long\"} 2"), "{metrics}");
}

/// The server answers only once it has everything. For longer than anything took to be given up, nothing reaches it.
fn an_upload_outlives_an_outage(lab: &Lab) {
    const LENGTH: usize = 16 << 20;
    let _web = lab.web(who);
    let body = lab.write("body", vec![b'#'; LENGTH]);
    let begun = Arc::new(AtomicUsize::new(0));
    let count = begun.clone();
    let _server = lab.serve(81, move |_, mut stream| {
        let (mut buffer, mut left) = (vec![0; 64 << 10], LENGTH);
        while left > 0 {
            let length = stream.read(&mut buffer)?;
            assert!(length > 0, "{left} bytes are missing");
            let of_body = buffer[..length].iter().filter(|byte| **byte == b'#').count();
            if left == LENGTH && of_body > 0 {
                count.fetch_add(1, Relaxed);
            }
            left -= of_body.min(left);
        }
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwhole")
    });
    let fleet = lab.fleet(1, &OPEN);
    let uploads = DIALECTS.map(|dialect| {
        let mut curl = fleet.client.command("curl");
        curl.args(["--silent", "--show-error", "--limit-rate", "2M", "--header", "Expect:", "--upload-file"]);
        curl.arg(&body).args(dialect).arg("http://10.88.0.100:81/");
        fleet.client.spawn(curl)
    });
    wait_until("all uploads to have begun", || begun.load(Relaxed) == DIALECTS.len());
    lab.server.filter("tcp dport 81 drop");
    thread::sleep(Duration::from_secs(20));
    lab.server.filter("");
    for (upload, dialect) in uploads.into_iter().zip(DIALECTS) {
        assert_eq!(upload.finish(START * 6).success().text(), "whole", "{dialect:?}");
    }
}

fn a_name_with_many_dead_addresses_is_reached_by_the_good_one(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &[&OPEN[..], &["--connect-timeout", "4"]].concat(), &[]);
    let gateway = &fleet.gateways[0].host;
    // Nobody answers for these addresses, and none is reported as unreachable.
    lab.server.filter("ip daddr 10.88.0.128/25 drop");
    for number in 128..188_u8 {
        lab.server.ip(&format!("address add 10.88.0.{number}/24 dev out"));
        gateway.knows("many.lab", [10, 88, 0, number]);
    }
    gateway.knows("many.lab", lab.server.address());
    // The gateway looks every two seconds whether its hosts file has changed.
    wait_until("the name to be reached", || {
        let answer = fleet.client.curl(&["--proxy", "http://127.0.0.1:1080", "http://many.lab/who"]);
        answer.text().starts_with(&fleet.gateways[0].outside().to_string())
    });
}
