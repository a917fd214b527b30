//! The local proxy through each of its dialects and sockets, with curl.

use super::curl::BIG;
use crate::lab::dialect::PROXY;
use crate::lab::origin::{big, sha256};
use crate::lab::{Case, Host, Lab};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    (
        "proxy::a_download_arrives_complete_through_every_dialect_and_socket",
        a_download_arrives_complete_through_every_dialect_and_socket,
    ),
    (
        "proxy::a_proxy_open_to_the_lan_requires_a_login_and_hides_its_page",
        a_proxy_open_to_the_lan_requires_a_login_and_hides_its_page,
    ),
    (
        "proxy::an_urgent_byte_of_telnet_stays_in_its_place_and_holds_nothing_up",
        an_urgent_byte_of_telnet_stays_in_its_place_and_holds_nothing_up,
    ),
];

/// SOCKS4 with an address and with a name that only the gateway knows, IPv6, and a unix socket.
fn a_download_arrives_complete_through_every_dialect_and_socket(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    g1.knows("files.lab", lab.server.address());
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &["--allow", "files.lab"]);
    let socket = c1.directory().join("proxy.sock");
    let unix = format!("unix:{}", socket.display());
    let proxies = ["--proxy", "127.0.0.1:1080", "--proxy", "[::1]:1080", "--proxy", &unix];
    let _node = group.client(&c1, &proxies);

    let at_path = format!("socks5h://localhost{}", socket.display());
    let by_name = "http://files.lab/big";
    for (door, url) in [
        (["--socks4", "127.0.0.1:1080"], BIG),
        (["--socks4a", "127.0.0.1:1080"], by_name),
        (["--proxy", "http://[::1]:1080"], BIG),
        (["--socks5-hostname", "[::1]:1080"], by_name),
        (["--proxy", &at_path], by_name),
    ] {
        let download = c1.curl(&[&door[..], &[url]].concat()).success();
        assert_eq!(sha256(&download.stdout), big().sha256, "{door:?}");
    }
    // A refusal by the gateway's rules is reported in SOCKS4 too.
    let refused = c1.curl(&["--socks4", "127.0.0.1:1080", "http://10.88.0.100:8099/"]);
    assert_eq!(refused.code(), 97, "{refused}");
}

fn a_proxy_open_to_the_lan_requires_a_login_and_hides_its_page(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let logins = lab.write("logins", "ann:secret\n");
    fs::set_permissions(&logins, fs::Permissions::from_mode(0o600)).unwrap();
    let options = ["--proxy", "0.0.0.0:1080", "--proxy-logins", logins.to_str().unwrap()];
    let _node = group.client(&c1, &options);

    let door = format!("{}:{}", c1.address(), PROXY.port());
    let page = |host: &Host| {
        host.curl(&[
            "--output",
            "/dev/null",
            "--write-out",
            "%{http_code}",
            "--header",
            "Host: localhost",
            &format!("http://{door}/"),
        ])
    };
    // c2 is in no group and has only c1's proxy.
    let http = format!("http://{door}");
    for dialect in
        [&["--proxy", &http][..], &["--proxy", &http, "--proxytunnel"], &["--socks5-hostname", &door]]
    {
        let right = c2.curl(&[dialect, &["--proxy-user", "ann:secret", BIG]].concat()).success();
        assert_eq!(sha256(&right.stdout), big().sha256, "{dialect:?}");
        for login in [&["--proxy-user", "ann:guess"][..], &[]] {
            let wrong = c2.curl(&[dialect, login, &["--fail", BIG]].concat());
            assert!(!wrong.status.success() && wrong.stdout.is_empty(), "{dialect:?} {login:?}: {wrong}");
        }
    }
    let none = c2.curl(&["--socks4", &door, BIG]);
    assert!(!none.status.success(), "{none}");
    assert_eq!(page(&c2).text(), "403");
    let own = ["--output", "/dev/null", "--write-out", "%{http_code}", "http://127.0.0.1:1080/"];
    assert_eq!(c1.curl(&own).text(), "200");
}

/// Over a link, and directly by the gateway's own software.
fn an_urgent_byte_of_telnet_stays_in_its_place_and_holds_nothing_up(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&g1, &c1], &["--allow", "10.88.0.100:23"]);
    let _node = group.client(&c1, &[]);
    let _origin = lab.origin();
    let listener = lab.server.inside(|| TcpListener::bind("10.88.0.100:23")).unwrap();
    for host in [&c1, &g1] {
        let mut app = host.inside(|| TcpStream::connect(PROXY)).unwrap();
        app.write_all(b"\x05\x01\0\x05\x01\0\x01\x0a\x58\0\x64\0\x17").unwrap();
        app.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        app.read_exact(&mut [0; 12]).unwrap();
        let mut server = listener.accept().unwrap().0;
        server.set_read_timeout(Some(Duration::from_secs(60))).unwrap();
        for _ in 0..2 {
            app.write_all(b"before ").unwrap();
            socket2::SockRef::from(&app).send_out_of_band(b"U").unwrap();
            app.write_all(b" after").unwrap();
            let mut heard = [0; 14];
            server.read_exact(&mut heard).unwrap();
            assert_eq!(heard.escape_ascii().to_string(), "before U after");
            std::mem::swap(&mut app, &mut server);
        }
    }
}
