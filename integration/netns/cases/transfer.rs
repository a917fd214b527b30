//! Data arrives complete in both directions, through every dialect, over one connection on the LAN.

use super::curl::{BIG, CANNOT_CONNECT, DIALECTS};
use crate::lab::origin::{big, noise, sha256};
use crate::lab::{Case, Host, Lab, dialect, receiver, wait_until};
use std::io::{Read, Write};
use std::net::Shutdown;
use std::thread;

pub(super) const CASES: &[Case] = &[
    (
        "transfer::a_download_arrives_complete_through_every_dialect",
        a_download_arrives_complete_through_every_dialect,
    ),
    (
        "transfer::an_upload_arrives_complete_through_every_dialect",
        an_upload_arrives_complete_through_every_dialect,
    ),
    ("transfer::a_name_is_resolved_at_the_gateway", a_name_is_resolved_at_the_gateway),
    (
        "transfer::a_new_name_at_the_gateway_resolves_without_a_restart",
        a_new_name_at_the_gateway_resolves_without_a_restart,
    ),
    (
        "transfer::an_answer_arrives_after_the_app_has_half_closed",
        an_answer_arrives_after_the_app_has_half_closed,
    ),
    ("transfer::eight_downloads_share_one_connection", eight_downloads_share_one_connection),
];

/// Lets the gateway dial ports of s1 other than the web server's.
const ALLOW_SERVER: [&str; 2] = ["--allow", "10.88.0.0/24"];

fn a_download_arrives_complete_through_every_dialect(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let _node = group.client(&c1, &[]);

    let direct = c1.curl(&[BIG]);
    assert_eq!(direct.code(), CANNOT_CONNECT, "{direct}");
    for dialect in DIALECTS {
        let download = c1.curl(&[dialect, &[BIG]].concat()).success();
        assert_eq!(sha256(&download.stdout), big().sha256, "{dialect:?}");
    }
}

fn an_upload_arrives_complete_through_every_dialect(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _receiver = lab.receiver();
    let group = lab.group(&[&g1, &c1], &ALLOW_SERVER);
    let _node = group.client(&c1, &[]);

    let content = noise(3, 16 << 20);
    let file = lab.write("upload", &content);
    let url = format!("http://{}/", receiver::UPLOAD);
    let upload = ["--upload-file", file.to_str().unwrap(), &url];
    let direct = c1.curl(&upload);
    assert_eq!(direct.code(), CANNOT_CONNECT, "{direct}");
    for dialect in DIALECTS {
        for framing in [&[] as &[&str], &["--header", "Transfer-Encoding: chunked"]] {
            let answer = c1.curl(&[dialect, framing, &upload].concat()).success();
            assert_eq!(answer.text(), sha256(&content), "{dialect:?} {framing:?}");
        }
    }
}

fn a_name_is_resolved_at_the_gateway(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    g1.knows("files.lab", lab.server.address());
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &["--allow", "files.lab"]);
    let _node = group.client(&c1, &[]);

    let mut lookup = c1.command("getent");
    lookup.args(["hosts", "files.lab"]);
    let unknown = c1.output(lookup);
    assert_eq!(unknown.code(), 2, "{unknown}");
    for dialect in DIALECTS {
        let download = c1.curl(&[dialect, &["http://files.lab/big"]].concat()).success();
        assert_eq!(sha256(&download.stdout), big().sha256, "{dialect:?}");
    }
}

fn a_new_name_at_the_gateway_resolves_without_a_restart(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _receiver = lab.receiver();
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &["--allow", "later.lab"]);
    let _node = group.client(&c1, &[]);

    assert_eq!(dialect::socks5(&c1, "later.lab", 80).1, 4, "not found");
    g1.knows("later.lab", lab.server.address());
    wait_until("the name to be found", || dialect::socks5(&c1, "later.lab", 80).1 == 0);
}

fn an_answer_arrives_after_the_app_has_half_closed(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _receiver = lab.receiver();
    let group = lab.group(&[&g1, &c1], &ALLOW_SERVER);
    let _node = group.client(&c1, &[]);

    let (socks, code) = dialect::socks5(&c1, "10.88.0.100", receiver::COUNT.port());
    assert_eq!(code, 0);
    let (http, head) = dialect::connect(&c1, &receiver::COUNT.to_string());
    assert_eq!(head.status, 200);
    for mut stream in [socks, http] {
        stream.write_all(&noise(4, 1 << 20)).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert_eq!(answer, (1 << 20).to_string());
    }
}

fn eight_downloads_share_one_connection(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let _node = group.client(&c1, &[]);

    // All eight have begun and none has been read to its end, so all exist while they are counted.
    let streams: Vec<_> = (0..8)
        .map(|number| {
            // Each of its own, so that the gateway does not fetch one for all.
            let (stream, head) = dialect::get(&c1, "10.88.0.100", &format!("/big?{number}"));
            assert_eq!(head.status, 200);
            stream
        })
        .collect();
    // There may be one more, a probe of the server.
    assert!(connections(&g1, "dport = :80") >= 8, "from the gateway to the server");
    assert_eq!(connections(&g1, "sport = :7420"), 1, "from the client to the gateway");

    let readers: Vec<_> = streams
        .into_iter()
        .map(|mut stream| {
            thread::spawn(move || {
                let mut body = Vec::new();
                stream.read_to_end(&mut body).unwrap();
                sha256(&body)
            })
        })
        .collect();
    // The same as seen from the client, while data flows.
    assert_eq!(connections(&c1, "dport = :7420"), 1);
    for reader in readers {
        assert_eq!(reader.join().unwrap(), big().sha256);
    }
    assert_eq!(connections(&g1, "sport = :7420"), 1, "after the downloads");
    for dialect in DIALECTS {
        c1.curl(&[dialect, &["--head", BIG]].concat()).success();
    }
    assert_eq!(connections(&g1, "sport = :7420"), 1, "after more requests");
}

/// The number of established TCP connections of this host that match the filter of `ss`.
fn connections(host: &Host, filter: &str) -> usize {
    let mut ss = host.command("ss");
    ss.args(["-H", "-t", "-n", "state", "established", filter]);
    host.output(ss).success().text().lines().count()
}
