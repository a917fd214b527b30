//! Transparent mode: software without proxy settings reaches the server, redirected to the node by the system's rules.

use super::curl::{BIG, CANNOT_CONNECT};
use crate::lab::group::{START, init, laneway};
use crate::lab::origin::{big, sha256};
use crate::lab::process::{Output, Process};
use crate::lab::wait::PATIENCE;
use crate::lab::web::{PORT, wait_for_the_end, who};
use crate::lab::{Case, Host, Lab, wait_until};
use nix::sys::signal::Signal;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, TcpListener, TcpStream};
use std::thread;

pub(super) const CASES: &[Case] = &[
    (
        "transparent::curl_without_any_proxy_reaches_the_server_and_nothing_else_is_touched",
        curl_without_any_proxy_reaches_the_server_and_nothing_else_is_touched,
    ),
    (
        "transparent::a_name_is_used_when_the_address_is_unreachable",
        a_name_is_used_when_the_address_is_unreachable,
    ),
    (
        "transparent::rules_made_by_hand_are_shown_replaced_and_removed",
        rules_made_by_hand_are_shown_replaced_and_removed,
    ),
    (
        "transparent::a_gateway_redirects_its_own_software_but_not_itself",
        a_gateway_redirects_its_own_software_but_not_itself,
    ),
    ("transparent::a_missing_nft_is_named_and_changes_nothing", a_missing_nft_is_named_and_changes_nothing),
    ("transparent::connections_are_held_replayed_and_reset", connections_are_held_replayed_and_reset),
];

pub(super) const BOTH: &str = "127.0.0.1:1081,[::1]:1081";
/// Options of a node that redirects its machine's connections to itself.
pub(super) const LED: [&str; 3] = ["--transparent", BOTH, "--transparent-rules"];
/// An address that no gateway of the lab has a route to.
const NOWHERE: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 9);
const SERVER_V6: &str = "fd88::100";

pub(super) fn nft(host: &Host, words: &str) -> Output {
    let mut nft = host.command("nft");
    nft.args(words.split(' '));
    host.output(nft)
}

/// Everything that the rules could change: tables, interfaces, routes.
pub(super) fn state(host: &Host) -> String {
    let ip = |words: &str| {
        let mut ip = host.command("ip");
        ip.args(words.split(' '));
        host.output(ip).success().text()
    };
    [
        nft(host, "list ruleset").success().text(),
        ip("-o link show"),
        ip("route show table all"),
        ip("-6 route"),
    ]
    .concat()
}

pub(super) fn stop(mut node: Process) {
    node.signal(Signal::SIGTERM);
    node.wait(START);
}

fn curl_without_any_proxy_reaches_the_server_and_nothing_else_is_touched(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    lab.server.ip(&format!("address add {SERVER_V6}/64 dev out nodad"));
    g1.ip("address add fd88::21/64 dev out nodad");
    let v6 = lab.server.inside(|| TcpListener::bind((SERVER_V6.parse::<Ipv6Addr>().unwrap(), 80))).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = v6.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nv6");
        }
    });
    let group = lab.group(&[&g1, &c1], &["--allow", "10.88.0.0/24", "--allow", "fd88::/64"]);
    c1.filter("tcp dport 9 drop");
    let before = state(&c1);
    let direct = c1.curl(&[BIG]);
    assert_eq!(direct.code(), CANNOT_CONNECT, "{direct}");

    let node = group.client(&c1, &LED);
    let download = c1.curl(&[BIG]).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    assert_eq!(c1.curl(&["--ipv6", &format!("http://[{SERVER_V6}]/")]).success().text(), "v6");
    // A refused connection is refused to the app too, and anything but TCP fails at once.
    assert!(!c1.curl(&["http://10.88.0.100:8089/"]).status.success());
    let udp = c1.inside(|| {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"x", "10.88.0.100:9")
    });
    assert!(udp.is_err(), "sent to nobody");
    // A connection to the port itself is a loop, and reset.
    for port in ["127.0.0.1:1081", "[::1]:1081"] {
        // The reset may arrive before connect() returns.
        let own = c1.connect(port.parse::<std::net::SocketAddr>().unwrap());
        let ended = own.and_then(|mut own| own.read(&mut [0]));
        assert_eq!(ended.unwrap_err().kind(), ErrorKind::ConnectionReset, "{port}");
    }
    let metrics = c1.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
    assert!(
        metrics.contains("laneway_refused_total{reason=\"loop\",dialect=\"transparent\"} 2\n"),
        "{metrics}"
    );
    assert!(nft(&c1, "list table inet trial").success().text().contains("dport 9"));
    assert_ne!(state(&c1), before);

    stop(node);
    assert_eq!(state(&c1), before);
    assert_eq!(c1.curl(&[BIG]).code(), CANNOT_CONNECT);
}

fn a_name_is_used_when_the_address_is_unreachable(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    c1.knows("files.lab", NOWHERE);
    g1.knows("files.lab", lab.server.address());
    let group = lab.group(&[&g1, &c1], &["--allow", "files.lab", "--allow", "192.0.2.0/24"]);
    for names in [&[][..], &["--transparent-names"]] {
        let node = group.client(&c1, &[&LED, names].concat());
        assert!(c1.curl(&["http://files.lab/x"]).success().text().ends_with(" /x"), "{names:?}");
        // Without a name, only the address is left.
        let nameless = c1.curl(&["--header", "Host:", "--http1.0", &format!("http://{NOWHERE}/")]);
        assert!(!nameless.status.success(), "{names:?}: {nameless}");
        stop(node);
    }
}

fn rules_made_by_hand_are_shown_replaced_and_removed(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    let before = state(&c1);
    let node = group.client(&c1, &["--transparent", BOTH]);
    let transparent =
        |words: &str| laneway(&c1, &["transparent"].into_iter().chain(words.split(' ')).collect::<Vec<_>>());

    transparent("down").success();
    assert_eq!(transparent("show").success().text(), "no connections are redirected to laneway\n");
    transparent("up").success();
    assert!(transparent("show").success().text().contains("redirect to :1081"));
    c1.curl(&["http://10.88.0.100/"]).success();

    // Connections to the LAN are redirected too if that is asked for, unless they are excluded.
    let neighbour = c2.inside(|| TcpListener::bind((c2.address(), 80))).unwrap();
    thread::spawn(move || {
        while let Ok((mut stream, _)) = neighbour.accept() {
            let _ = stream.write_all(b"HTTP/1.0 200 OK\r\n\r\nnext door");
        }
    });
    let next_door = format!("http://{}/", c2.address());
    transparent("up --connected").success();
    assert!(!c1.curl(&[&next_door]).status.success());
    for words in [
        "up",
        "up --connected --except 10.77.0.0/16",
        "up --connected --only 10.88.0.0/24",
        "up --connected --except 10.77.0.0/24,10.77.0.0/16",
    ] {
        transparent(words).success();
        let answer = c1.curl(&["--http0.9", &next_door]);
        assert!(answer.text().contains("next door"), "{words}: {answer}");
        c1.curl(&["http://10.88.0.100/"]).success();
    }
    transparent("up --except-private").success();
    assert_eq!(c1.curl(&["http://10.88.0.100/"]).code(), CANNOT_CONNECT);
    // A user whose connections are not redirected.
    transparent("up --user root").success();
    assert_eq!(c1.curl(&["http://10.88.0.100/"]).code(), CANNOT_CONNECT);

    // A node without --transparent-rules does not touch rules that were made by hand.
    transparent("up").success();
    stop(node);
    let _node = group.client(&c1, &["--transparent", BOTH]);
    assert!(transparent("show").success().text().contains("redirect to :1081"));
    c1.curl(&["http://10.88.0.100/"]).success();

    transparent("down").success();
    transparent("down").success();
    assert_eq!(state(&c1), before);

    let program = env!("CARGO_BIN_EXE_laneway");
    let mut command = c1.command("setpriv");
    command.args([
        "--bounding-set",
        "-all",
        "--inh-caps",
        "-all",
        "--no-new-privs",
        program,
        "transparent",
        "up",
    ]);
    let refused = c1.output(command);
    assert_eq!(refused.code(), 1, "{refused}");
    for line in ["error: the rules cannot be installed", "caused by: nft: ", "hint: run this as root"] {
        assert!(refused.stderr.lines().any(|printed| printed.starts_with(line)), "{line}: {refused}");
    }
}

fn a_gateway_redirects_its_own_software_but_not_itself(lab: &Lab) {
    let g1 = lab.gateway("g1");
    let web = lab.web(who);
    let mut group = lab.group(&[&g1], &[&LED[..], &["--transparent-connected"]].concat());
    group.gateway.wait_for_line("listening: transparent", START);
    assert!(g1.curl(&["http://10.88.0.100/once"]).success().text().ends_with(" /once"));
    assert_eq!(web.asked("/once").len(), 1);
    assert!(group.gateway.log().contains("dialect=\"transparent\""));
}

fn connections_are_held_replayed_and_reset(lab: &Lab) {
    let web = lab.web(|asked, stream| match asked.turn {
        1 if asked.path == "/silent" => wait_for_the_end(stream),
        _ => who(asked, stream),
    });
    let echo = lab.serve(PORT + 1, |_, mut stream| {
        let mut byte = [0];
        while stream.read(&mut byte)? > 0 {
            stream.write_all(&byte)?;
        }
        Ok(())
    });
    let mut fleet = lab.fleet_with(2, &["--allow", "10.88.0.0/24"], &[&LED[..], &["--hold", "25"]].concat());
    let request = |path: &str| {
        let mut curl = fleet.client.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "25", &format!("http://10.88.0.100{path}")]);
        fleet.client.spawn(curl)
    };

    // Replayed, because no byte of the answer had arrived.
    let silent = request("/silent");
    wait_until("the request", || web.asked("/silent").len() == 1);
    let first = fleet.which(web.asked("/silent")[0].from);
    // Reset, because part of the answer had arrived.
    let mut tunnel: TcpStream = fleet.client.connect((lab.server.address(), PORT + 1)).unwrap();
    tunnel.write_all(b"x").unwrap();
    tunnel.read_exact(&mut [0]).unwrap();
    let other = fleet.which(*echo.from().last().unwrap());
    fleet.kill(first);
    let answer = silent.finish(PATIENCE).success().text();
    assert_eq!(answer, format!("{} /silent", fleet.gateways[1 - first].outside()));
    if other != first {
        fleet.kill(other);
    }
    assert_eq!(tunnel.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);

    // Held while there is no gateway, and not sent once the app has given up.
    if other == first {
        fleet.kill(1 - first);
    }
    let held = |arguments: &[&str]| {
        let mut curl = fleet.client.command("curl");
        curl.args(["--silent", "--show-error"]).args(arguments);
        fleet.client.spawn(curl)
    };
    let left = held(&["--max-time", "3", "--data", "x", "http://10.88.0.100/left"]).finish(PATIENCE);
    assert_eq!(left.code(), 28, "{left}");
    let held = held(&["--max-time", "25", "http://10.88.0.100/held"]);
    fleet.start(first);
    assert!(held.finish(PATIENCE).success().text().ends_with(" /held"));
    assert!(web.asked("/left").is_empty());
}

fn a_missing_nft_is_named_and_changes_nothing(lab: &Lab) {
    let c1 = lab.client("c1");
    init(&c1);
    let before = state(&c1);
    let program = env!("CARGO_BIN_EXE_laneway");
    // Whether it is in PATH or in the directories of system programs.
    let without = |words: &str| {
        let script = format!(
            "for file in $(which -a nft) /usr/local/sbin/nft /usr/sbin/nft /sbin/nft; do \
             [ ! -f $file ] || mount --bind /dev/null $file; done; PATH=/nonexistent exec {program} {words}"
        );
        let mut shell = c1.command("sh");
        shell.args(["-c", &script]);
        c1.output(shell)
    };
    // Here runs no node, which 'up' says first.
    for words in ["up --no-check", "down", "show"] {
        let refused = without(&format!("transparent {words}"));
        let said = ["error: the rules ", "caused by: 'nft' is not installed", "hint: install nftables"];
        assert!(refused.code() == 1 && said.iter().all(|said| refused.stderr.contains(said)), "{refused}");
    }
    let directory = crate::lab::group::state(&c1);
    let refused = without(&format!(
        "up --state {} --transparent 127.0.0.1:1081 --transparent-rules",
        directory.display()
    ));
    let said = ["error: the rules of --transparent-rules are not installed", "hint: install nftables"];
    assert!(refused.code() == 1 && said.iter().all(|said| refused.stderr.contains(said)), "{refused}");
    assert_eq!(state(&c1), before);
}
