//! Transparent mode, beyond one curl: names where addresses lead nowhere, every family, and what the node does itself.

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
        "led::the_name_in_tls_leads_where_the_address_does_not",
        the_name_in_tls_leads_where_the_address_does_not,
    ),
    ("led::a_name_leads_over_ipv6_too", a_name_leads_over_ipv6_too),
    ("led::one_port_of_all_addresses_takes_both_families", one_port_of_all_addresses_takes_both_families),
    ("led::a_machine_that_is_led_away_already_can_join", a_machine_that_is_led_away_already_can_join),
    ("led::questions_by_tcp_of_the_node_itself_are_not_led", questions_by_tcp_of_the_node_itself_are_not_led),
];

const LED: [&str; 3] = ["--transparent", "127.0.0.1:1081,[::1]:1081", "--transparent-rules"];
/// Addresses that no gateway of the lab has a route to.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const NOWHERE_V6: Ipv6Addr = Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 9);
const NAME: &str = "files.lab";

/// What a gateway that resolves [`NAME`] differently than the client lets through.
const NAMED: [&str; 2] = ["--allow", "files.lab,192.0.2.0/24,2001:db8::/32"];

/// A server of TLS on s1, which answers with the name that it was asked for.
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

fn the_name_in_tls_leads_where_the_address_does_not(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let (_web, _tls) = (lab.web(who), tls(lab, 443));
    c1.knows(NAME, NOWHERE);
    g1.knows(NAME, lab.server.address());
    let group = lab.group(&[&g1, &c1], &NAMED);
    for names in [&[][..], &["--transparent-names"]] {
        let _node = group.client(&c1, &[&LED, names].concat());
        let answer = c1.curl(&["--insecure", "https://files.lab/"]).success();
        assert_eq!(answer.text(), NAME, "{names:?}");
        // Without a name in it there is but the address.
        let nameless = c1.curl(&["--insecure", &format!("https://{NOWHERE}/")]);
        assert!(!nameless.status.success(), "{names:?}: {nameless}");
    }
}

fn a_name_leads_over_ipv6_too(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let (_web, _tls) = (lab.web(who), tls(lab, 443));
    c1.knows(NAME, NOWHERE_V6);
    g1.knows(NAME, lab.server.address());
    let group = lab.group(&[&g1, &c1], &NAMED);
    let _node = group.client(&c1, &LED);
    assert!(c1.curl(&["--ipv6", "http://files.lab/x"]).success().text().ends_with(" /x"));
    assert_eq!(c1.curl(&["--ipv6", "--insecure", "https://files.lab/"]).success().text(), NAME);
}

fn one_port_of_all_addresses_takes_both_families(lab: &Lab) {
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

/// The rules are there, and nobody listens yet.
fn a_machine_that_is_led_away_already_can_join(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let code = init(&g1);
    let _gateway = crate::lab::group::up(&g1, &["--role", "gateway", "--allow", "10.88.0.0/24"]);
    laneway(&c1, &["transparent", "up"]).success();
    assert!(c1.connect((g1.address(), 7420)).is_err(), "others are led");
    join(&c1, &code);
}

/// An answer of the gateway's name server that does not fit into a datagram: asked for again by TCP, on a machine all of
/// whose connections are led to a node that would not let this one through.
fn questions_by_tcp_of_the_node_itself_are_not_led(lab: &Lab) {
    let _names = lab.name_server();
    let g1 = lab.gateway("g1");
    let _web = lab.web(who);
    let options = [&LED[..], &["--dns", "127.0.0.1:53", "--allow", "10.88.0.100:80"]].concat();
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
