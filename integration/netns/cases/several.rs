//! A large download comes over several gateways at the same time, and is right or ends with an error whatever they do.

use super::curl::HTTP;
use crate::lab::fleet::Fleet;
use crate::lab::group::laneway;
use crate::lab::origin::{noise, sha256};
use crate::lab::process::Process;
use crate::lab::wait::PATIENCE;
use crate::lab::web::{Request, Web, wait_for_the_end, who};
use crate::lab::{Case, Host, Lab, wait_until};
use laneway::telemetry::journal::Happening;
use laneway::telemetry::snapshot::Snapshot;
use std::collections::HashMap;
use std::io::{self, Write};
use std::net::{Ipv4Addr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, OnceLock};

pub(super) const CASES: &[Case] = &[
    (
        "several::a_large_file_comes_over_three_gateways_at_once",
        a_large_file_comes_over_three_gateways_at_once,
    ),
    (
        "several::a_gateway_that_is_killed_costs_a_download_over_several_nothing",
        a_gateway_that_is_killed_costs_a_download_over_several_nothing,
    ),
    (
        "several::a_gateway_that_answers_anything_else_than_what_it_was_asked_for_spoils_nothing",
        a_gateway_that_answers_anything_else_than_what_it_was_asked_for_spoils_nothing,
    ),
    (
        "several::the_rest_of_a_file_comes_over_several_gateways_too",
        the_rest_of_a_file_comes_over_several_gateways_too,
    ),
    (
        "several::machines_that_ask_at_the_same_time_get_a_file_that_crosses_the_line_once",
        machines_that_ask_at_the_same_time_get_a_file_that_crosses_the_line_once,
    ),
    (
        "several::machines_that_ask_later_have_the_line_of_their_gateway_for_themselves",
        machines_that_ask_later_have_the_line_of_their_gateway_for_themselves,
    ),
    (
        "several::content_that_changes_meanwhile_is_never_spliced_in",
        content_that_changes_meanwhile_is_never_spliced_in,
    ),
    (
        "several::a_file_of_a_server_that_does_not_say_that_it_has_ranges_crosses_one_line",
        a_file_of_a_server_that_does_not_say_that_it_has_ranges_crosses_one_line,
    ),
    (
        "several::a_file_of_a_server_that_claims_to_have_ranges_arrives_complete",
        a_file_of_a_server_that_claims_to_have_ranges_arrives_complete,
    ),
    (
        "several::nothing_is_fetched_far_ahead_of_a_slow_app_nor_after_it_has_left",
        nothing_is_fetched_far_ahead_of_a_slow_app_nor_after_it_has_left,
    ),
];

const MIB: usize = 1 << 20;
const LENGTH: usize = 32 * MIB;
/// How much is written at a time, in bytes.
const STEP: usize = 64 * 1024;

/// The content of the file, by version.
fn version(number: u64) -> &'static [u8] {
    static VERSIONS: [OnceLock<Vec<u8>>; 2] = [const { OnceLock::new() }; 2];
    VERSIONS[usize::from(number == 2)].get_or_init(|| noise(70 + number, LENGTH))
}

/// A server of one file.
#[derive(Clone, Default)]
struct Served {
    /// The file has another version now.
    has_changed: Arc<AtomicBool>,
    /// The server sends the whole file whatever it is asked for.
    ignores_ranges: bool,
    /// The server does not say that it supports ranges.
    is_silent: bool,
    /// The server sends no more than the beginning yet.
    waits: Arc<AtomicBool>,
    /// The bytes of bodies that were sent, in all and to each gateway.
    sent: Arc<AtomicU64>,
    sent_to: Arc<Mutex<HashMap<Ipv4Addr, usize>>>,
}

impl Served {
    fn web(&self, lab: &Lab) -> Web {
        let served = self.clone();
        lab.web(move |asked, stream| served.answer(asked, stream))
    }

    fn answer(&self, asked: &Request, stream: &mut TcpStream) -> io::Result<()> {
        if asked.path.starts_with("/who/") {
            return who(asked, stream);
        }
        let number = if self.has_changed.load(Relaxed) { 2 } else { 1 };
        let tag = format!("\"v{number}\"");
        let is_same = asked.field("if-range").is_none_or(|condition| condition == tag);
        let range = range(asked).filter(|_| is_same && !self.ignores_ranges);
        let (start, end) = range.unwrap_or((0, LENGTH));
        let status = match range {
            Some(_) => format!("206 Partial Content\r\nContent-Range: bytes {start}-{}/{LENGTH}", end - 1),
            None => "200 OK".into(),
        };
        let count = end - start;
        let ranges = if self.is_silent { "" } else { "Accept-Ranges: bytes\r\n" };
        write!(
            stream,
            "HTTP/1.1 {status}\r\nETag: {tag}\r\nCache-Control: max-age=3600\r\nContent-Length: {count}\r\n\
             {ranges}Connection: close\r\n\r\n"
        )?;
        for piece in version(number)[start..end].chunks(STEP) {
            stream.write_all(piece)?;
            self.sent.fetch_add(piece.len() as u64, Relaxed);
            *self.sent_to.lock().unwrap().entry(asked.from).or_default() += piece.len();
            if self.waits.load(Relaxed) {
                wait_until("the server to be let go", || !self.waits.load(Relaxed));
            }
        }
        Ok(())
    }
}

fn range(asked: &Request) -> Option<(usize, usize)> {
    let (start, last) = asked.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
    let end = last.parse().map_or(LENGTH, |last: usize| last + 1);
    Some((start.parse().ok()?, end.min(LENGTH)))
}

/// Three gateways with lines of their own to the server.
fn fleet(lab: &Lab) -> Fleet {
    fleet_of(lab, ["40mbit", "20mbit", "10mbit"])
}

fn fleet_of(lab: &Lab, rates: [&str; 3]) -> Fleet {
    let fleet = lab.fleet(3, &[]);
    ["g1", "g2", "g3"].into_iter().zip(rates).for_each(|(gateway, rate)| lab.narrow(gateway, rate));
    fleet
}

fn download(fleet: &Fleet, options: &[&str]) -> Process {
    download_at(&fleet.client, options)
}

fn download_at(client: &Host, options: &[&str]) -> Process {
    let mut curl = client.command("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", "--max-time", "100"]).args(HTTP).args(options);
    curl.arg("http://10.88.0.100/file");
    client.spawn(curl)
}

/// The gateways that the server has seen in requests for the file.
fn gateways(fleet: &Fleet, web: &Web) -> Vec<usize> {
    let mut seen: Vec<_> = web.asked("/file").iter().map(|asked| fleet.which(asked.from)).collect();
    seen.sort_unstable();
    seen.dedup();
    seen
}

fn a_large_file_comes_over_three_gateways_at_once(lab: &Lab) {
    let served = Served::default();
    let web = served.web(lab);
    // Slow enough that a gateway which is linked late, or answers late, on a busy machine still has something to fetch.
    let fleet = fleet_of(lab, ["16mbit", "8mbit", "4mbit"]);
    let output = download(&fleet, &[]).finish(PATIENCE * 3).success();
    assert_eq!(sha256(&output.stdout), sha256(version(1)));
    assert_eq!(gateways(&fleet, &web), [0, 1, 2], "{}", fleet.node.log());
    // A piece that comes late is asked of a second gateway.
    let asked = web.asked("/file");
    let pieces: usize = asked.iter().filter_map(range).map(|(start, end)| end - start).sum();
    assert!(pieces <= LENGTH + 8 * MIB, "{pieces} bytes were asked for in pieces");
    let status = laneway(&fleet.client, &["status"]).success().text();
    assert!(status.contains("1 large download came over several gateways"), "{status}");
    let json = laneway(&fleet.client, &["status", "--json"]).success().text();
    let seen: Snapshot = serde_json::from_str(&json).unwrap();
    let event = seen.events.iter().find(|event| event.what == Happening::Spread).unwrap();
    assert!(["g1 (", "g2 (", "g3 ("].iter().all(|gateway| event.text.contains(gateway)), "{}", event.text);
}

fn a_gateway_that_is_killed_costs_a_download_over_several_nothing(lab: &Lab) {
    let served = Served::default();
    let web = served.web(lab);
    let mut fleet = fleet(lab);
    let first = fleet.serving();
    let running = download(&fleet, &[]);
    wait_until("the download over several gateways", || {
        running.printed() > 6 * MIB as u64 && gateways(&fleet, &web).len() > 1
    });
    fleet.kill(first);
    let output = running.finish(PATIENCE * 3).success();
    assert_eq!(sha256(&output.stdout), sha256(version(1)));
}

/// As for a program that goes on with a file that it has begun.
fn the_rest_of_a_file_comes_over_several_gateways_too(lab: &Lab) {
    const FROM: usize = 3 * MIB + 5;
    let served = Served::default();
    let web = served.web(lab);
    let mut fleet = fleet(lab);
    let first = fleet.serving();
    let running = download(&fleet, &["--range", &format!("{FROM}-")]);
    wait_until("the rest over several gateways", || {
        running.printed() > 4 * MIB as u64 && gateways(&fleet, &web).len() > 1
    });
    fleet.kill(first);
    let output = running.finish(PATIENCE * 3).success();
    assert_eq!(sha256(&output.stdout), sha256(&version(1)[FROM..]));
}

/// How a part is answered over the gateway that is not to be trusted: what was asked for, and the connection.
type Answer = fn(usize, usize, &mut TcpStream) -> io::Result<()>;

const ANSWERS: [(&str, Answer); 8] = [
    ("/another-part", |start, end, stream| {
        part(stream, start + 1, end + 1, end - start, "\"v1\"", end - start)
    }),
    ("/another-version", |start, end, stream| part(stream, start, end, end - start, "\"v2\"", end - start)),
    ("/too-long", |start, end, stream| part(stream, start, end, end - start + 5, "\"v1\"", end - start + 5)),
    ("/too-short", |start, end, stream| part(stream, start, end, end - start, "\"v1\"", (end - start) / 2)),
    ("/no-http", |_, _, stream| stream.write_all(&[7; 4096])),
    ("/unavailable", |_, _, stream| stream.write_all(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")),
    ("/silent", |_, _, stream| wait_for_the_end(stream)),
    ("/trickles", |start, end, stream| {
        part(stream, start, end, end - start, "\"v1\"", 0)?;
        for byte in &version(1)[start..end] {
            stream.write_all(&[*byte])?;
            std::thread::sleep(std::time::Duration::from_millis(50));
        }
        Ok(())
    }),
];

/// Writes the head of a 206, and `count` bytes of the file from `start` on.
fn part(
    stream: &mut TcpStream,
    start: usize,
    end: usize,
    length: usize,
    tag: &str,
    count: usize,
) -> io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 206 P\r\nETag: {tag}\r\nContent-Range: bytes {start}-{}/{LENGTH}\r\nContent-Length: {length}\r\n\r\n",
        end - 1
    )?;
    stream.write_all(&version(1)[start..(start + count).min(LENGTH)])
}

fn a_gateway_that_answers_anything_else_than_what_it_was_asked_for_spoils_nothing(lab: &Lab) {
    let (served, liar) = (Served::default(), Arc::new(OnceLock::<std::net::Ipv4Addr>::new()));
    let lies = liar.clone();
    let web = lab.web(move |asked, stream| {
        let answer = ANSWERS.iter().find(|(path, _)| asked.path == *path).map(|(_, answer)| answer);
        match (answer, range(asked)) {
            (Some(answer), Some((start, end))) if lies.get() == Some(&asked.from) => {
                answer(start, end, stream)
            }
            _ => served.answer(asked, stream),
        }
    });
    let fleet = lab.fleet(3, &[]);
    for (gateway, rate) in [("g1", "80mbit"), ("g2", "40mbit"), ("g3", "20mbit")] {
        lab.narrow(gateway, rate);
    }
    let which = (fleet.serving() + 1) % 3;
    liar.set(fleet.gateways[which].outside()).unwrap();
    for (path, _) in ANSWERS {
        let mut curl = fleet.client.command("curl");
        curl.args(["--silent", "--show-error", "--max-time", "60"]).args(HTTP);
        curl.arg(format!("http://10.88.0.100{path}"));
        let output = fleet.client.spawn(curl).finish(PATIENCE * 3).success();
        assert_eq!(sha256(&output.stdout), sha256(version(1)), "{path}");
        let was_asked = web.asked(path).iter().any(|asked| fleet.which(asked.from) == which);
        assert!(was_asked, "{path}: the gateway was not asked");
    }
}

fn content_that_changes_meanwhile_is_never_spliced_in(lab: &Lab) {
    let served = Served::default();
    let web = served.web(lab);
    let fleet = fleet(lab);
    let running = download(&fleet, &[]);
    wait_until("the download over several gateways", || {
        running.printed() > 4 * MIB as u64 && gateways(&fleet, &web).len() > 1
    });
    served.has_changed.store(true, Relaxed);
    let output = running.finish(PATIENCE * 3);
    // The file may be complete if the gateways that had begun before had all of it.
    let is_whole = output.stdout.len() == LENGTH;
    assert_eq!(output.status.success(), is_whole, "{output}");
    assert!(version(1).starts_with(&output.stdout), "other content was spliced in");
}

/// Two gateways with narrow lines, three clients with links to both, and what has to run for that.
fn two_gateways(lab: &Lab) -> ([Host; 2], [Host; 3], impl Sized + use<>) {
    let gateways = ["g1", "g2"].map(|name| lab.gateway(name));
    let clients = ["c1", "c2", "c3"].map(|name| lab.client(name));
    let [c1, c2, c3] = &clients;
    let group = lab.group(&[&gateways[0], &gateways[1], c1, c2, c3], &[]);
    let other = group.gateway(&gateways[1], &[]);
    let nodes = clients.each_ref().map(|client| group.client(client, &[]));
    for node in &nodes {
        wait_until("links to both gateways", || node.log().matches("link up gateway=").count() > 1);
    }
    ["g1", "g2"].into_iter().for_each(|gateway| lab.narrow(gateway, "16mbit"));
    (gateways, clients, (group, other, nodes))
}

/// Although each of them alone would get it sooner over both gateways.
fn machines_that_ask_at_the_same_time_get_a_file_that_crosses_the_line_once(lab: &Lab) {
    let served = Served { waits: Arc::new(AtomicBool::new(true)), ..Served::default() };
    let _web = served.web(lab);
    let (gateways, [c1, c2, c3], _running) = two_gateways(lab);
    let first = download_at(&c1, &[]);
    wait_until("the first of them to get something", || first.printed() > 0);
    let downloads = [first, download_at(&c2, &[]), download_at(&c3, &[])];
    let open = |gateway: &Host| {
        let text = gateway.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
        let line =
            text.lines().find_map(|line| line.strip_prefix("laneway_connections_open{of=\"clients\"} "));
        line.unwrap_or_else(|| panic!("no metric: {text}")).parse::<usize>().unwrap()
    };
    wait_until("all of them to have asked", || gateways.iter().map(open).sum::<usize>() == downloads.len());
    served.waits.store(false, Relaxed);
    for download in downloads {
        assert_eq!(sha256(&download.finish(PATIENCE * 3).success().stdout), sha256(version(1)));
    }
    let sent = served.sent.load(Relaxed);
    assert!(sent < (LENGTH + 4 * MIB) as u64, "{sent} bytes were sent");
}

/// The earlier machine, whose download comes over both gateways by then, goes on over the other gateway.
fn machines_that_ask_later_have_the_line_of_their_gateway_for_themselves(lab: &Lab) {
    let served = Served::default();
    let web = served.web(lab);
    let (gateways, [c1, c2, c3], _running) = two_gateways(lab);
    let first = download_at(&c1, &[]);
    let of_both = || {
        gateways
            .iter()
            .all(|gateway| web.asked("/file").iter().any(|asked| asked.from == gateway.addresses()[1]))
    };
    wait_until("the download over both gateways", || first.printed() > 4 * MIB as u64 && of_both());
    let second = download_at(&c2, &[]);
    wait_until("the second to get something", || second.printed() > 0);
    let all = [first, second, download_at(&c3, &[])].map(|download| download.finish(PATIENCE * 3).success());
    all.iter().for_each(|got| assert_eq!(sha256(&got.stdout), sha256(version(1))));
    let sent_to = served.sent_to.lock().unwrap();
    let most = sent_to.values().max();
    // Some parts were on their way.
    assert!(most.is_some_and(|most| *most < LENGTH + 8 * MIB), "{sent_to:?}");
}

/// Another gateway would fetch the whole file to give parts of it.
fn a_file_of_a_server_that_does_not_say_that_it_has_ranges_crosses_one_line(lab: &Lab) {
    let served = Served { is_silent: true, ignores_ranges: true, ..Served::default() };
    let web = served.web(lab);
    let fleet = fleet(lab);
    let output = download(&fleet, &[]).finish(PATIENCE * 3).success();
    assert_eq!(sha256(&output.stdout), sha256(version(1)));
    assert_eq!(web.asked("/file").len(), 1);
}

fn a_file_of_a_server_that_claims_to_have_ranges_arrives_complete(lab: &Lab) {
    let served = Served { ignores_ranges: true, ..Served::default() };
    let web = served.web(lab);
    let fleet = fleet(lab);
    let output = download(&fleet, &[]).finish(PATIENCE * 3).success();
    assert_eq!(sha256(&output.stdout), sha256(version(1)));
    // Each of the others was asked once, and left alone.
    let (asked, sent) = (web.asked("/file").len(), served.sent.load(Relaxed));
    assert!(asked > 1 && asked < 8 && sent < (LENGTH + 12 * MIB) as u64, "{asked} requests, {sent} bytes");
}

fn nothing_is_fetched_far_ahead_of_a_slow_app_nor_after_it_has_left(lab: &Lab) {
    let served = Served::default();
    let web = served.web(lab);
    let fleet = fleet(lab);
    let mut running = download(&fleet, &[]);
    wait_until("the download over several gateways", || {
        running.printed() > 2 * MIB as u64 && gateways(&fleet, &web).len() > 1
    });
    running.signal(nix::sys::signal::Signal::SIGKILL);
    running.wait(PATIENCE);
    // What is on its way still comes, and each gateway finishes a piece of which hardly anything is missing.
    let mut before = u64::MAX;
    wait_until("the server to send no more", || {
        let sent = served.sent.load(Relaxed);
        let has_ended = before == sent;
        before = sent;
        std::thread::sleep(std::time::Duration::from_millis(300));
        has_ended
    });
    assert!(before < (LENGTH - 4 * MIB) as u64, "{before} bytes were sent");
}
