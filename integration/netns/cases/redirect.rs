//! Redirected connections: names when the address is unreachable, both address families, and the node's own connections.

use crate::lab::group::{START, init, join, laneway};
use crate::lab::web::{PORT, who};
use crate::lab::{Case, Host, Lab, wait_until};
use rustls::pki_types::PrivatePkcs8KeyDer;
use rustls::{ServerConfig, ServerConnection, Stream};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
use std::sync::Arc;

pub(super) const CASES: &[Case] = &[
    (
        "redirect::a_tls_server_name_is_used_when_the_address_is_unreachable",
        a_tls_server_name_is_used_when_the_address_is_unreachable,
    ),
    ("redirect::a_name_is_used_over_ipv6_too", a_name_is_used_over_ipv6_too),
    ("redirect::a_wildcard_port_accepts_both_families", a_wildcard_port_accepts_both_families),
    (
        "redirect::a_machine_with_redirect_rules_already_in_place_can_join",
        a_machine_with_redirect_rules_already_in_place_can_join,
    ),
    (
        "redirect::the_nodes_own_dns_queries_by_tcp_are_not_redirected",
        the_nodes_own_dns_queries_by_tcp_are_not_redirected,
    ),
];

const REDIRECT: [&str; 3] = ["--transparent", "127.0.0.1:1081,[::1]:1081", "--transparent-rules"];
/// Addresses that no gateway of the lab has a route to.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const NOWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const NAME: &str = "files.lab";

/// Access rules of a gateway that resolves [`NAME`] to another address than the client does.
const NAMED: [&str; 2] = ["--allow", "files.lab,192.0.2.0/24,2001:db8::/32"];

/// A TLS server on s1 that answers with the server name that the client sent.
fn tls(lab: &Lab, port: u16) -> crate::lab::web::Server {
    let made = rcgen::generate_simple_self_signed(vec![NAME.into()]).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()).into();
    let config = ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key)
        .unwrap();
    let config = Arc::new(config);
    lab.serve(port, move |_, mut socket| {
        let mut session = ServerConnection::new(config.clone()).map_err(std::io::Error::other)?;
        let mut stream = Stream::new(&mut session, &mut socket);
        let _ = stream.read(&mut [0; 4096])?;
        let name = stream.conn.server_name().unwrap_or("nobody").to_owned();
        let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{name}", name.len())?;
        stream.conn.send_close_notify();
        stream.flush()
    })
}

fn a_tls_server_name_is_used_when_the_address_is_unreachable(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let (_web, _tls) = (lab.web(who), tls(lab, 443));
    c1.knows(NAME, NOWHERE);
    g1.knows(NAME, lab.server.address());
    let group = lab.group(&[&g1, &c1], &NAMED);
    for names in [&[][..], &["--transparent-names"]] {
        let _node = group.client(&c1, &[&REDIRECT, names].concat());
        let answer = c1.curl(&["--insecure", "https://files.lab/"]).success();
        assert_eq!(answer.text(), NAME, "{names:?}");
        // Without a server name, only the address is left.
        let nameless = c1.curl(&["--insecure", &format!("https://{NOWHERE}/")]);
        assert!(!nameless.status.success(), "{names:?}: {nameless}");
    }
}

fn a_name_is_used_over_ipv6_too(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let (_web, _tls) = (lab.web(who), tls(lab, 443));
    c1.knows(NAME, NOWHERE_V6);
    g1.knows(NAME, lab.server.address());
    let group = lab.group(&[&g1, &c1], &NAMED);
    let _node = group.client(&c1, &REDIRECT);
    assert!(c1.curl(&["--ipv6", "http://files.lab/x"]).success().text().ends_with(" /x"));
    assert_eq!(c1.curl(&["--ipv6", "--insecure", "https://files.lab/"]).success().text(), NAME);
}

fn a_wildcard_port_accepts_both_families(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let v6 = "fd88::100".parse::<Ipv6Addr>().unwrap();
    lab.server.ip(&format!("address add {v6}/64 dev out nodad"));
    g1.ip("address add fd88::21/64 dev out nodad");
    let listener = lab.server.inside(|| TcpListener::bind((v6, PORT))).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = listener.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nv6");
        }
    });
    let group = lab.group(&[&g1, &c1], &["--allow", "10.88.0.0/24,fd88::/64"]);
    let options = ["--transparent", "[::]:1081", "--transparent-rules", "--proxy-open-to-lan"];
    let _node = group.client(&c1, &options);
    assert!(c1.curl(&["http://10.88.0.100/v4"]).success().text().ends_with(" /v4"));
    assert_eq!(c1.curl(&[&format!("http://[{v6}]/")]).success().text(), "v6");
}

/// The rules are in place before anything listens on the port.
fn a_machine_with_redirect_rules_already_in_place_can_join(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let code = init(&g1);
    let _gateway = crate::lab::group::up(&g1, &["--role", "gateway", "--allow", "10.88.0.0/24"]);
    laneway(&c1, &["transparent", "up", "--connected", "--no-check"]).success();
    assert!(c1.connect((g1.address(), 7420)).is_err(), "other connections are redirected");
    join(&c1, &code);
}

/// An answer that does not fit into a datagram makes the gateway query its name server again by TCP, on a machine whose
/// connections are redirected to a node that would refuse the query's.
fn the_nodes_own_dns_queries_by_tcp_are_not_redirected(lab: &Lab) {
    let _names = lab.name_server();
    let g1 = lab.gateway("g1");
    let _web = lab.web(who);
    let options =
        [&REDIRECT[..], &["--transparent-connected", "--dns", "127.0.0.1:53", "--allow", "10.88.0.100:80"]]
            .concat();
    let mut group = lab.group(&[&g1], &options);
    group.gateway.wait_for_line("listening: transparent", START);
    let lines = |host: &Host| {
        let mut dig = host.command("dig");
        dig.args(["@127.0.0.1", "+tcp", "+tries=1", "+timeout=8", "+short", "huge.lab", "A"]);
        host.output(dig).text().lines().count()
    };
    wait_until("the gateway to answer", || lines(&g1) == 600);
    let log = group.gateway.log();
    assert!(!log.contains("target=\"10.88.0.100:53\""), "it came to itself: {log}");
}
