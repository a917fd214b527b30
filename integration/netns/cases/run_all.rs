//! `laneway run --all`: a command of an ordinary user on a network of its own, which only the node leads out of.

use super::curl::BIG;
use crate::lab::group::START;
use crate::lab::origin::{big, sha256};
use crate::lab::process::{Output, Process};
use crate::lab::programs;
use crate::lab::receiver::REFUSED;
use crate::lab::wait::PATIENCE;
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::unix::process::ExitStatusExt as _;
use std::process::Command;

pub(super) const CASES: &[Case] = &[
    (
        "run_all::connections_datagrams_and_names_leave_by_the_node",
        connections_datagrams_and_names_leave_by_the_node,
    ),
    ("run_all::datagrams_of_both_families_come_back", datagrams_of_both_families_come_back),
    (
        "run_all::it_needs_no_directory_of_system_programs_in_path",
        it_needs_no_directory_of_system_programs_in_path,
    ),
    ("run_all::a_static_program_leaves_by_the_node", a_static_program_leaves_by_the_node),
    (
        "run_all::what_a_command_sends_just_before_its_end_arrives",
        what_a_command_sends_just_before_its_end_arrives,
    ),
    ("run_all::nothing_leaves_by_another_way", nothing_leaves_by_another_way),
    (
        "run_all::the_command_is_the_same_user_with_the_same_exit_code_signals_and_terminal",
        the_command_is_the_same_user_with_the_same_exit_code_signals_and_terminal,
    ),
    (
        "run_all::what_the_command_leaves_running_keeps_its_way_out",
        what_the_command_leaves_running_keeps_its_way_out,
    ),
    ("run_all::connections_fail_while_the_node_is_stopped", connections_fail_while_the_node_is_stopped),
    (
        "run_all::what_makes_it_impossible_is_said_with_a_remedy",
        what_makes_it_impossible_is_said_with_a_remedy,
    ),
];

/// An ordinary user.
const USER: &str = "1000";
const SERVER: &str = "http://10.88.0.100/";
const SERVER_V6: &str = "fd88::100";
/// What gateways may reach.
const OPEN: [&str; 4] = ["--allow", "10.88.0.0/24", "--allow", "fd88::/64"];

/// The words that make a command one of an ordinary user; where the lab itself has no other, one without permissions.
fn as_user() -> Vec<&'static str> {
    let is_root = fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| map.contains("4294967295"));
    match is_root {
        true => vec!["setpriv", "--reuid", USER, "--regid", USER, "--clear-groups", "--inh-caps=-all", "--"],
        false => vec!["setpriv", "--inh-caps=-all", "--bounding-set=-all", "--"],
    }
}

fn command(host: &Host, words: &[&str]) -> Command {
    let prefix = as_user();
    let mut command = host.command(prefix[0]);
    command.args(&prefix[1..]).arg(env!("CARGO_BIN_EXE_laneway")).args(["run", "--all", "--"]).args(words);
    command
}

fn run(host: &Host, words: &[&str]) -> Output {
    host.output(command(host, words))
}

/// A shell with this code.
fn shell(host: &Host, code: &str) -> Output {
    run(host, &["sh", "-c", code])
}

fn connections_datagrams_and_names_leave_by_the_node(lab: &Lab) {
    let _names = lab.name_server();
    let _origin = lab.origin();
    let fleet = lab.fleet(1, &OPEN);
    let c1 = &fleet.client;
    let download = run(c1, &["curl", "--silent", "--show-error", BIG]).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    // By name, which only the gateway's name server knows.
    run(c1, &["curl", "--silent", "--show-error", "--head", "http://web.lab/big"]).success();
    let found = run(c1, &["getent", "ahostsv4", "web.lab"]).success().text();
    assert!(found.starts_with("10.88.0.100"), "{found}");
    for transport in ["+notcp", "+tcp"] {
        let mail = run(c1, &["dig", "+short", transport, "lab", "MX"]).success().text();
        assert_eq!(mail, "10 mail.lab.\n", "{transport}");
        // The server itself, by UDP and by TCP.
        let address = run(c1, &["dig", "@10.88.0.100", "+short", transport, "web.lab"]).success().text();
        assert_eq!(address, "10.88.0.100\n", "{transport}");
    }
    let unknown = run(c1, &["dig", "none.lab"]).success().text();
    assert!(unknown.contains("NXDOMAIN"), "{unknown}");
    // Software that is set to use the proxy finds it where it is outside.
    run(c1, &["curl", "--silent", "--head", "--proxy", "http://127.0.0.1:1080", BIG]).success();
    let refused = run(c1, &["curl", "--silent", &format!("http://{REFUSED}/")]);
    assert!(matches!(refused.code(), 7 | 52 | 56), "a refused connection is reset: {refused}");
}

fn it_needs_no_directory_of_system_programs_in_path(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &OPEN);
    let path: Vec<_> =
        programs::path().split(':').filter(|part| !part.ends_with("sbin")).map(str::to_owned).collect();
    let mut curl = command(&fleet.client, &["/usr/bin/curl", "--silent", SERVER]);
    curl.env("PATH", path.join(":"));
    let said = fleet.client.output(curl).success().text();
    assert!(said.contains("10.88.0.21"), "{said}");
}

/// Sends datagrams to port 9 of an address, each from a socket of its own and from one that has sent before, and prints the
/// lengths of those that come back.
const SEND: &str = r"
import socket, sys
family = socket.AF_INET6 if ':' in sys.argv[1] else socket.AF_INET
for connected in False, True:
    with socket.socket(family, socket.SOCK_DGRAM) as s:
        s.settimeout(10)
        if connected:
            s.connect((sys.argv[1], 9))
        for length in 0, 1, 1200:
            s.send(b'x' * length) if connected else s.sendto(b'x' * length, (sys.argv[1], 9))
            data, source = s.recvfrom(9000)
            assert source[:2] == (sys.argv[1], 9), source
            print(len(data), end=' ')
";

fn datagrams_of_both_families_come_back(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &OPEN);
    fleet.gateways[0].host.ip("-6 address add fd88::21/64 dev out nodad");
    lab.server.ip(&format!("-6 address add {SERVER_V6}/64 dev out nodad"));
    for address in ["10.88.0.100", SERVER_V6] {
        let echo = lab.server.inside(|| UdpSocket::bind((address, 9))).unwrap();
        std::thread::spawn(move || {
            let mut buffer = [0; 9000];
            while let Ok((length, from)) = echo.recv_from(&mut buffer) {
                let _ = echo.send_to(&buffer[..length], from);
            }
        });
        let lengths = run(&fleet.client, &["python3", "-c", SEND, address]).success().text();
        assert_eq!(lengths, "0 1 1200 0 1 1200 ", "{address}");
    }
}

/// A program without any library, as those of Go are.
const STATIC: &str = r#"
#include <arpa/inet.h>
#include <stdio.h>
#include <unistd.h>
int main(void) {
    int s = socket(AF_INET, SOCK_STREAM, 0);
    struct sockaddr_in to = {.sin_family = AF_INET, .sin_port = htons(80)};
    inet_pton(AF_INET, "10.88.0.100", &to.sin_addr);
    if (connect(s, (struct sockaddr *)&to, sizeof to)) return 1;
    dprintf(s, "GET / HTTP/1.0\r\n\r\n");
    char buffer[4096];
    ssize_t count;
    while ((count = read(s, buffer, sizeof buffer)) > 0) write(1, buffer, count);
    return count < 0;
}
"#;

fn a_static_program_leaves_by_the_node(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &OPEN);
    let source = lab.write("static.c", STATIC);
    let program = source.with_extension("");
    let compiler = Command::new("gcc").args(["-static", "-o"]).arg(&program).arg(&source).output().unwrap();
    assert!(compiler.status.success(), "{}", String::from_utf8_lossy(&compiler.stderr));
    let answer = run(&fleet.client, &[program.to_str().unwrap()]).success().text();
    assert!(answer.contains("10.88.0.21"), "{answer}");
}

fn what_a_command_sends_just_before_its_end_arrives(lab: &Lab) {
    let web = lab.web(who);
    let fleet = lab.fleet(1, &OPEN);
    let log = lab.server.inside(|| UdpSocket::bind(("10.88.0.100", 514))).unwrap();
    log.set_read_timeout(Some(PATIENCE)).unwrap();
    // Each command ends before its outlet has seen what it sent, or not, as the system's scheduler decides.
    for turn in 1..=10 {
        let request = r"printf 'GET /last HTTP/1.0\r\n\r\n' >/dev/tcp/10.88.0.100/80";
        run(&fleet.client, &["bash", "-c", request]).success();
        wait_until("the last request of the command", || web.asked("/last").len() == turn);
        run(&fleet.client, &["bash", "-c", "printf last >/dev/udp/10.88.0.100/514"]).success();
        let mut datagram = [0; 16];
        let length = log.recv(&mut datagram).unwrap();
        assert_eq!(&datagram[..length], b"last", "turn {turn}");
    }
}

fn nothing_leaves_by_another_way(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &OPEN);
    let (c1, g1, c2) = (&fleet.client, &fleet.gateways[0].host, lab.client("c2"));
    g1.ip("-6 address add fd88::21/64 dev out nodad");
    lab.server.ip(&format!("-6 address add {SERVER_V6}/64 dev out nodad"));
    let v6 = lab.server.inside(|| TcpListener::bind((SERVER_V6, 80))).unwrap();
    std::thread::spawn(move || {
        while let Ok((mut stream, _)) = v6.accept() {
            let _ = stream.read(&mut [0; 1024]);
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nv6");
        }
    });
    // A neighbour that the machine reaches directly, and that the gateway must not reach.
    let neighbour = c2.inside(|| TcpListener::bind((c2.address(), 80))).unwrap();
    neighbour.set_nonblocking(true).unwrap();
    let direct = format!("http://{}/", c2.address());
    c1.connect((c2.address(), 80)).unwrap();
    neighbour.accept().unwrap();
    // Counts all packets of the machine except laneway's own.
    let counter = "table inet leak {\nchain output { type filter hook output priority 0;\n\
         oifname \"lo\" accept\ntcp dport 7420 accept\ntcp sport 7420 accept\nudp dport 7420 accept\nudp sport 7420 accept\n\
         meta l4proto { tcp, udp, icmp } counter name leaked\n}\ncounter leaked { }\n}\n";
    let mut nft = c1.command("nft");
    nft.arg("-f").arg(lab.write("leak.nft", counter));
    c1.output(nft).success();

    let v6 = run(c1, &["curl", "--silent", "--show-error", &format!("http://[{SERVER_V6}]/")]).success();
    assert_eq!(v6.text(), "v6");
    for leak in [
        format!("curl --silent --max-time 5 {direct}"),
        format!("curl --silent --max-time 5 --noproxy '*' --interface lan {direct}"),
        format!("ping -c 1 -W 2 {}", c2.address()),
        format!("echo x | timeout 5 bash -c 'cat >/dev/udp/{}/9 && sleep 0.5' && false", c2.address()),
        "timeout 5 dig +tries=1 +time=2 @10.77.0.12 web.lab".into(),
        "ip link set lo down || nft flush ruleset || ip route flush table all || mount -t tmpfs none /etc"
            .into(),
        "nsenter --net=/proc/1/ns/net curl --silent --max-time 5 http://10.77.0.12/".into(),
    ] {
        let refused = shell(c1, &leak);
        assert!(!refused.status.success(), "`{leak}` succeeded: {refused}");
    }
    assert!(neighbour.accept().is_err(), "the neighbour was reached");
    let links = run(c1, &["ip", "-o", "link"]).success().text();
    assert_eq!(links.lines().count(), 3, "the loopback interface and one that leads nowhere: {links}");
    let mut list = c1.command("nft");
    list.args(["list", "counter", "inet", "leak", "leaked"]);
    let leaked = c1.output(list).success().text();
    assert!(leaked.contains("packets 0"), "{leaked}");
}

fn the_command_is_the_same_user_with_the_same_exit_code_signals_and_terminal(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &OPEN);
    let c1 = &fleet.client;
    let same = "id -u; id -g; pwd; echo \"$MINE\"";
    let output = |mut command: Command| c1.output(command_in(&mut command)).success().text();
    let prefix = as_user();
    let mut outside = c1.command(prefix[0]);
    outside.args(&prefix[1..]).args(["sh", "-c", same]);
    assert_eq!(output(command(c1, &["sh", "-c", same])), output(outside));

    assert_eq!(shell(c1, "exit 7").code(), 7);
    assert_eq!(run(c1, &["/no/such/program"]).code(), 127);
    assert_eq!(run(c1, &["/etc"]).code(), 126);
    assert_eq!(shell(c1, "kill -TERM $$").status.signal(), Some(15));
    // Not SIGINT: where these trials run in the background of a shell it is ignored, and stays so in all that they start.
    let waits = "sleep 60 & trap 'kill $!; exit 3' TERM; echo ready; wait";
    let mut patient = c1.spawn(command(c1, &["sh", "-c", waits]));
    patient.wait_for_line("ready", START);
    patient.signal(Signal::SIGTERM);
    assert_eq!(patient.finish(START).code(), 3);
    let program = env!("CARGO_BIN_EXE_laneway");
    let mut terminal = c1.command(prefix[0]);
    terminal.args(&prefix[1..]).args(["script", "-qec"]);
    terminal
        .arg(format!("{program} run --all -- sh -c 'test -t 0 && test -t 1 && echo at $(tty)'"))
        .arg("/dev/null");
    let shown = c1.output(terminal).success().text();
    assert!(shown.contains("at /dev/pts/"), "{shown}");
}

fn command_in(command: &mut Command) -> Command {
    command.env("MINE", "kept").current_dir("/usr");
    std::mem::replace(command, Command::new("true"))
}

/// The number of processes on the host's network that hold the sockets of commands.
fn outlets(host: &Host) -> usize {
    let code = r#"for process in /proc/[0-9]*; do
        [ "$(readlink $process/ns/net)" = "$(readlink /proc/self/ns/net)" ] || continue
        tr '\0' ' ' <$process/cmdline | grep -q ' outlet --stay[s] ' && echo one
    done; true"#;
    let mut shell = host.command("sh");
    shell.args(["-c", code]);
    host.output(shell).success().text().lines().count()
}

fn what_the_command_leaves_running_keeps_its_way_out(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &OPEN);
    let c1 = &fleet.client;
    let (go, got) = (c1.directory().join("go"), c1.directory().join("shared/got"));
    fs::create_dir(got.parent().unwrap()).unwrap();
    let mut chmod = c1.command("chmod");
    c1.output({
        chmod.arg("777").arg(got.parent().unwrap());
        chmod
    })
    .success();
    let later = format!(
        "(exec </dev/null >/dev/null 2>&1; for i in $(seq 300); do [ -e {go} ] && break; sleep 0.1; done; curl --silent -o {got} {SERVER}) &",
        go = go.display(),
        got = got.display()
    );
    shell(c1, &later).success();
    assert_eq!(outlets(c1), 1);
    fs::write(&go, "").unwrap();
    wait_until("the rest of the command to use its way out", || {
        fs::read_to_string(&got).is_ok_and(|text| text.contains("10.88.0.21"))
    });
    wait_until("the way out to end with the last process", || outlets(c1) == 0);
}

fn connections_fail_while_the_node_is_stopped(lab: &Lab) {
    let _web = lab.web(who);
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&g1, &c1], &OPEN);
    let node = group.client(&c1, &[]);
    let code = format!(
        "while read go; do curl --silent --max-time 10 {SERVER} >/dev/null; echo \"ended $?\"; done <{}",
        c1.directory().join("pipe").display()
    );
    let mut fifo = c1.command("mkfifo");
    fifo.args(["-m", "666"]).arg(c1.directory().join("pipe"));
    c1.output(fifo).success();
    let mut shell = c1.spawn(command(&c1, &["sh", "-c", &code]));
    let mut orders = fs::OpenOptions::new().read(true).write(true).open(c1.directory().join("pipe")).unwrap();
    let mut next = |shell: &mut Process, count: usize| {
        orders.write_all(b"go\n").unwrap();
        wait_until("the next request", || shell.log().lines().count() == count);
        shell.log().lines().last().unwrap().to_owned()
    };
    assert_eq!(next(&mut shell, 1), "ended 0");
    node.signal(Signal::SIGTERM);
    node.finish(START).success();
    let failed = next(&mut shell, 2);
    assert!(["ended 7", "ended 52", "ended 56"].contains(&failed.as_str()), "reset at once: {failed}");
    let _node = group.client(&c1, &[]);
    assert_eq!(next(&mut shell, 3), "ended 0");
}

fn what_makes_it_impossible_is_said_with_a_remedy(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let absent = run(&c1, &["true"]);
    assert_eq!(absent.code(), 125, "{absent}");
    assert!(absent.stderr.contains("no node answers") && absent.stderr.contains("laneway up'"), "{absent}");

    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &OPEN);
    let node = group.client(&c1, &[]);
    let program = env!("CARGO_BIN_EXE_laneway");
    let code = format!(
        "echo 0 >/proc/sys/user/max_user_namespaces && \
         exec setpriv --bounding-set=-all --inh-caps=-all {program} run --all -- true"
    );
    let mut none = c1.command("unshare");
    none.args(["--user", "--map-root-user", "sh", "-c", &code]);
    let refused = c1.output(none);
    assert!(refused.code() == 125 && refused.stderr.contains("user.max_user_namespaces"), "{refused}");
    assert!(refused.stderr.contains("'laneway run -- CMD'"), "{refused}");
    node.signal(Signal::SIGTERM);
    node.finish(START).success();

    let _node = group.client(&c1, &["--proxy-login", "u:p"]);
    let refused = run(&c1, &["true"]);
    assert!(refused.code() == 125 && refused.stderr.contains("--proxy-login"), "{refused}");
}
