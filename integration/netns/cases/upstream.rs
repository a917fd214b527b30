//! A gateway that reaches servers through an upstream proxy.

use super::curl::{DIALECTS, HTTP};
use crate::lab::group::{START, init, join, laneway, up};
use crate::lab::origin::{big, sha256};
use crate::lab::upstream::{DANTE, NAME, PASSWORD, SQUID, WRITTEN};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, dialect, receiver, wait_until};
use std::io::{self, Read, Write};
use std::net::TcpStream;

pub(super) const CASES: &[Case] = &[
    ("upstream::a_gateway_behind_squid_serves", a_gateway_behind_squid_serves),
    ("upstream::a_gateway_behind_dante_serves", a_gateway_behind_dante_serves),
    (
        "upstream::the_next_proxy_is_used_when_one_is_down_and_none_for_exceptions",
        the_next_proxy_is_used_when_one_is_down_and_none_for_exceptions,
    ),
    ("upstream::a_proxy_that_rejects_the_login_is_not_used", a_proxy_that_rejects_the_login_is_not_used),
    (
        "upstream::a_gateway_for_any_destination_withdraws_while_its_proxy_rejects_the_login",
        a_gateway_for_any_destination_withdraws_while_its_proxy_rejects_the_login,
    ),
    ("upstream::a_gateway_without_its_proxy_withdraws", a_gateway_without_its_proxy_withdraws),
    (
        "upstream::a_gateway_for_any_destination_withdraws_while_its_proxy_is_dead_and_says_so_once",
        a_gateway_for_any_destination_withdraws_while_its_proxy_is_dead_and_says_so_once,
    ),
];

fn a_gateway_behind_squid_serves(lab: &Lab) {
    let _squid = lab.squid();
    serves(lab, "http", SQUID);
}

fn a_gateway_behind_dante_serves(lab: &Lab) {
    let _dante = lab.dante();
    serves(lab, "socks5", DANTE);
}

/// Blocks everything on s1 except the proxy for this gateway.
fn only_by(gateway: &Host, lab: &Lab, proxy: &str) {
    let port = proxy.rsplit_once(':').unwrap().1;
    lab.server.filter(&format!("ip saddr {} tcp dport != {port} drop", gateway.addresses()[1]));
}

fn serves(lab: &Lab, scheme: &str, at: &str) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let _receiver = lab.receiver();
    only_by(&g1, lab, at);
    let rules = format!("10.88.0.0/24,{NAME},none.lab");
    let proxy = format!("{scheme}://{WRITTEN}@{at}");
    let group = lab.group(&[&g1, &c1], &["--upstream", &proxy, "--allow", &rules]);
    let _node = group.client(&c1, &[]);
    let mut gateway = group.gateway;
    gateway.wait_for_line("reach=\"reachable\"", START);
    for dialect in DIALECTS {
        for host in ["10.88.0.100", NAME] {
            let download = c1.curl(&[dialect, &[&format!("http://{host}/big")]].concat()).success();
            assert_eq!(sha256(&download.stdout), big().sha256, "{dialect:?} {host}");
        }
    }
    let forbidden = receiver::REFUSED.port();
    assert_eq!(dialect::socks5(&c1, "10.88.0.100", forbidden).1, 2, "its proxy refuses it");
    assert_eq!(dialect::socks5(&c1, "10.88.0.100", 8090).1, 5, "nothing listens there");
    assert_eq!(dialect::socks5(&c1, "none.lab", 80).1, 4, "its proxy does not find it");
    assert_eq!(dialect::socks5(&c1, "localhost", 80).1, 2, "what means the proxy itself");
    assert_eq!(dialect::socks5(&c1, "other.lab", 80).1, 2, "its address cannot be judged");
    let log = gateway.log();
    assert!(!log.contains(PASSWORD) && !log.contains(WRITTEN), "{log}");
}

fn the_next_proxy_is_used_when_one_is_down_and_none_for_exceptions(lab: &Lab) {
    let (squid, dante) = (lab.squid(), lab.dante());
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let excepted = lab.serve(81, |_, stream| who_connects(stream));
    let proxies = format!("http://{WRITTEN}@{SQUID},socks5://{WRITTEN}@{DANTE}");
    let options = ["--upstream", &proxies, "--upstream-except", "10.88.0.100:81", "--allow", "10.88.0.0/24"];
    let group = lab.group(&[&g1, &c1], &options);
    let _node = group.client(&c1, &[]);
    let from = |path: &str| {
        let answer = c1.curl(&[DIALECTS[2], &[&format!("http://10.88.0.100{path}")]].concat());
        answer.text().split(' ').next().unwrap_or_default().to_owned()
    };
    // Squid adds a Via field, but not to a CONNECT, so the source of the connection tells which proxy was used.
    wait_until("the first proxy to be used", || from("/first") == "10.88.0.100");
    assert_eq!(from(":81/"), g1.addresses()[1].to_string(), "not by a proxy");
    assert_eq!(excepted.from(), [g1.addresses()[1]]);
    drop(squid);
    assert_eq!(from("/second"), "10.88.0.100", "by the second proxy");
    let _squid = lab.squid();
    drop(dante);
    assert_eq!(from("/first-again"), "10.88.0.100", "by the first one, which is back");
}

fn a_proxy_that_rejects_the_login_is_not_used(lab: &Lab) {
    let (_squid, _dante) = (lab.squid(), lab.dante());
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let proxies = format!("http://gate:wrong@{SQUID},socks5://{WRITTEN}@{DANTE}");
    let filter = format!("ip saddr {} tcp dport != {{ 1080, 3128 }} drop", g1.addresses()[1]);
    lab.server.filter(&filter);
    let mut group = lab.group(&[&g1, &c1], &["--upstream", &proxies]);
    group.gateway.wait_for_line("does not take this gateway's login", START);
    let _node = group.client(&c1, &[]);
    let answer = c1.curl(&[DIALECTS[1], &["http://10.88.0.100/x"]].concat()).success();
    assert_eq!(answer.text(), "10.88.0.100 /x");
}

/// The gateway probes no destination, so its clients' connections reveal the fault. Each app gets the reason.
fn a_gateway_for_any_destination_withdraws_while_its_proxy_rejects_the_login(lab: &Lab) {
    let (_squid, _dante, _origin) = (lab.squid(), lab.dante(), lab.origin());
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let code = init(&g1);
    // One gateway has a wrong login, the other has none.
    for (at, reason) in [
        (format!("http://gate:wrong@{SQUID}"), ["it does not accept the login", "does not take its login"]),
        (format!("socks5://{DANTE}"), ["it requires a login", "requires a login: on the gateway, give it"]),
    ] {
        let mut gateway = up(&g1, &["--role", "gateway", "--upstream", &at]);
        if at.starts_with("http") {
            join(&c1, &code);
            join(&g2, &code);
        }
        let mut node = up(&c1, &["--hold", "2"]);
        node.wait_for_line("link up", START);
        for _attempt in 0..2 {
            let told = c1.curl(&[&HTTP[..], &["--include", "http://10.88.0.100/"]].concat()).text();
            assert!(told.starts_with("HTTP/1.1 503 "), "{told}");
            assert!(reason.iter().any(|reason| told.contains(reason)), "{told}");
            assert!(!told.contains("wrong"), "{told}");
        }
        gateway.wait_for_line("the way out is lost: no proxy of --upstream can be used", START);
        let status = laneway(&g1, &["status"]).success().text();
        assert!(status.contains("withdrawn gateway") && status.contains(reason[0]), "{status}");
        let log = gateway.log();
        assert_eq!(log.matches("does not take this gateway's login").count(), 1, "{log}");

        // Another gateway takes over.
        let right = format!("http://{WRITTEN}@{SQUID}");
        let mut other = up(&g2, &["--role", "gateway", "--upstream", &right]);
        wait_until("the client to be served", || {
            c1.curl(&[&HTTP[..], &["--fail", "--output", "/dev/null", "http://10.88.0.100/big"]].concat())
                .code()
                == 0
        });
        for process in [&mut node, &mut gateway, &mut other] {
            process.signal(nix::sys::signal::Signal::SIGKILL);
            process.wait(START);
        }
    }
}

/// Answers with the source address of the connection, as an HTTP response.
fn who_connects(mut stream: TcpStream) -> io::Result<()> {
    let from = stream.peer_addr()?.ip();
    let _ = stream.read(&mut [0; 1024])?;
    write!(stream, "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{from} ")
}

/// One gateway's proxy rejects its login, the other's accepts it.
fn a_gateway_without_its_proxy_withdraws(lab: &Lab) {
    let squid = lab.squid();
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let wrong = format!("http://gate:wrong@{SQUID}");
    let right = format!("http://{WRITTEN}@{SQUID}");
    let group = lab.group(&[&g1, &c1, &g2], &["--upstream", &wrong]);
    let mut second = group.gateway(&g2, &["--upstream", &right]);
    let _node = group.client(&c1, &[]);
    let mut first = group.gateway;
    let line = first.wait_for_line("does not take this gateway's login", START);
    assert!(line.contains("USER:PASSWORD@") && !line.contains("wrong"), "{line}");
    wait_until("it to be known", || first.log().contains("reach=\"unreachable\""));
    assert_eq!(first.log().matches("does not take this gateway's login").count(), 1, "once is enough");
    second.wait_for_line("reach=\"reachable\"", START);
    let download = c1.curl(&[DIALECTS[1], &["http://10.88.0.100/big"]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    // Without a proxy no gateway reaches the server, and the app gets that reason.
    drop(squid);
    wait_until("the second gateway to notice", || second.log().contains("reach=\"unreachable\""));
    assert_ne!(c1.curl(&[DIALECTS[2], &["http://10.88.0.100/big"]].concat()).code(), 0);
}

/// Its way out is the proxy. What cannot change is not logged again with each attempt.
fn a_gateway_for_any_destination_withdraws_while_its_proxy_is_dead_and_says_so_once(lab: &Lab) {
    let _origin = lab.origin();
    let squid = lab.squid();
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let code = init(&g1);
    let proxy = format!("http://{WRITTEN}@{SQUID}");
    let mut gateway = up(&g1, &["--role", "gateway", "--upstream", &proxy, "--hold", "2"]);
    join(&c1, &code);
    let mut node = up(&c1, &["--hold", "2"]);
    node.wait_for_line("link up", START);
    let ask = |host: &Host| host.curl(&[&HTTP[..], &["http://10.88.0.100/"]].concat()).text();
    c1.curl(&[&HTTP[..], &["--output", "/dev/null", "http://10.88.0.100/"]].concat()).success();
    drop(squid);
    gateway.wait_for_line("the way out is lost: no proxy of --upstream can be used", START);

    let (first, second) = (ask(&c1), ask(&c1));
    assert!(
        first.contains("no gateway could be used within 2 s: ") && first.contains("upstream proxy"),
        "{first}"
    );
    assert_eq!(first, second, "the same situation has the same text");
    let log = node.log();
    assert_eq!(log.matches("the gateway takes no connections").count(), 1, "{log}");
    assert_eq!(log.matches("link up").count(), 1, "{log}");
    assert!(log.matches("query sent").count() <= 2, "{log}");
    assert_eq!(log.matches("link down").count(), 0, "{log}");

    let own = ask(&g1);
    assert!(
        own.contains("this machine has no way out itself: it does not reach --upstream http://"),
        "{own}"
    );
    let status = laneway(&g1, &["status"]).success().text();
    assert!(status.contains("withdrawn gateway") && status.contains("does not reach --upstream"), "{status}");
    let doctor = laneway(&g1, &["doctor"]).text();
    assert!(
        doctor.contains("lost its way out") && doctor.contains("start that proxy, or correct --upstream"),
        "{doctor}"
    );

    let _squid = lab.squid();
    gateway.wait_for_line("the proxy of --upstream is reached again", START);
    wait_until("the client to be served again", || {
        c1.curl(&[&HTTP[..], &["--fail", "--output", "/dev/null", "http://10.88.0.100/big"]].concat()).code()
            == 0
    });
    node.wait_for_line("the gateway has a way out again", START);
}
