//! Wrong bytes from everywhere that they may come from: servers, disks, and members. None may reach an app as a whole file.

use super::report::Report;
use crate::lab::fleet::QUIET;
use crate::lab::group::{START, join, state, up};
use crate::lab::lying_member::{self, Manner, asked};
use crate::lab::origin::{choices, noise, sha256};
use crate::lab::process::Process;
use crate::lab::wait::PATIENCE;
use crate::lab::web::{Web, who};
use crate::lab::{Host, Lab};
use nix::sys::signal::Signal;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

const MIB: usize = 1 << 20;
/// The files whose digests the index names.
const NAMED: usize = 100_000;
/// The files that the members have, of several pieces. The last piece is shorter.
const SHARED: usize = 4 * MIB + 300_000;
/// How many stored files are flipped in turn.
const STORED: usize = 32;
/// The manners that do not take a client's time.
const QUICK: [Manner; 10] = [
    Manner::Flips,
    Manner::Swaps,
    Manner::Garbles,
    Manner::Empties,
    Manner::Shortens,
    Manner::Lengthens,
    Manner::Floods,
    Manner::Resets,
    Manner::Closes,
    Manner::Breaks,
];

/// The content of the named file of this number, which is never what the server sends for `/wrong/`.
fn named(number: usize) -> Vec<u8> {
    noise(number as u64 + 1, NAMED)
}

fn shared(number: usize) -> &'static [u8] {
    static SHARED_FILES: LazyLock<Vec<Vec<u8>>> =
        LazyLock::new(|| (0..QUICK.len()).map(|number| noise(7000 + number as u64, SHARED)).collect());
    &SHARED_FILES[number % QUICK.len()]
}

/// A registry of Python packages over plain HTTP whose files are right below `/right/` and wrong below `/wrong/`, and files that
/// members share below `/shared/`.
fn serve(lab: &Lab, count: usize) -> Web {
    let index: Arc<String> = Arc::new(
        (0..count)
            .map(|number| {
                let digest = sha256(&named(number));
                format!(
                    "<a href=\"/wrong/{number}#sha256={digest}\">w</a><a href=\"/right/{number}#sha256={digest}\">r</a>\n"
                )
            })
            .collect(),
    );
    lab.web(move |asked, stream| {
        let number = || asked.path.rsplit('/').next().and_then(|number| number.parse().ok()).unwrap_or(0);
        let ok = |kind: &str, body: &[u8]| {
            [format!("HTTP/1.1 200 OK\r\n{kind}Content-Length: {}\r\n\r\n", body.len()).as_bytes(), body]
                .concat()
        };
        let answer = match asked.path.split('/').nth(1) {
            Some("simple") => {
                ok("Content-Type: text/html\r\nCache-Control: max-age=60\r\n", index.as_bytes())
            }
            Some("wrong") => wrong(number()),
            Some("right") => ok("", &named(number())),
            Some("stored") => ok("Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", &named(number())),
            Some("shared") => ok("Cache-Control: max-age=3600\r\nETag: \"a\"\r\n", shared(number())),
            _ => return who(asked, stream),
        };
        stream.write_all(&answer)
    })
}

/// What the server sends for a file, in turn: everything but the file.
fn wrong(number: usize) -> Vec<u8> {
    let right = named(number);
    let answer = |status: &str, fields: &str, length: usize, body: &[u8]| {
        let head =
            format!("HTTP/1.1 {status}\r\n{fields}Content-Length: {length}\r\nConnection: close\r\n\r\n");
        [head.as_bytes(), body].concat()
    };
    let all = right.len();
    let ok = |body: &[u8]| answer("200 OK", "ETag: \"a\"\r\nCache-Control: max-age=60\r\n", body.len(), body);
    let mut flipped = right.clone();
    flipped[number * 7919 % all] ^= 1 << (number % 8);
    match number % 12 {
        0 | 1 => ok(&flipped),
        2 => ok(&right[..all - 1]),
        3 => ok(&[&right[..], b"x"].concat()),
        4 => ok(b""),
        5 => ok(&named(number + 1)),
        // The response breaks off.
        6 => answer("200 OK", "", all, &right[..all - 1]),
        // The status says that it is a part, or something else that tools take for a success.
        7 => answer(
            "206 Partial Content",
            &format!("Content-Range: bytes 0-{}/{all}\r\n", all - 1),
            all,
            &flipped,
        ),
        8 => answer("203 Non-Authoritative Information", "", all, &flipped),
        // In chunks, of which the last one is missing.
        9 => {
            let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
            [head.as_bytes(), format!("{:x}\r\n", all - 5).as_bytes(), &right[..all - 5], b"\r\n"].concat()
        }
        10 => answer("200 OK", "Content-Encoding: gzip\r\n", flipped.len(), &flipped),
        // Until the connection ends.
        _ => [&b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n"[..], &right[..all / 2]].concat(),
    }
}

/// The outcome of a request.
#[derive(Debug, PartialEq, Eq)]
enum Got {
    /// A whole response with status 200.
    Whole(Vec<u8>),
    /// An error, or a response that was cut off.
    Nothing,
}

/// Asks the node of this host, as an app does that can tell a whole response from one that was cut off.
fn get(host: &Host, target: &str) -> Got {
    let mut stream = host.inside(|| TcpStream::connect(("127.0.0.1", 1080))).unwrap();
    stream.set_read_timeout(Some(PATIENCE * 2)).unwrap();
    let authority = target.strip_prefix("http://").and_then(|rest| rest.split('/').next());
    let authority = authority.unwrap_or("127.0.0.1:1080");
    write!(stream, "GET {target} HTTP/1.1\r\nHost: {authority}\r\nConnection: close\r\n\r\n").unwrap();
    let mut all = Vec::new();
    if stream.read_to_end(&mut all).is_err() {
        return Got::Nothing;
    }
    let Some(end) = all.windows(4).position(|four| four == b"\r\n\r\n") else { return Got::Nothing };
    let head = String::from_utf8_lossy(&all[..end]).to_ascii_lowercase();
    let mut body = all.split_off(end + 4);
    if !head.starts_with("http/1.1 200 ") {
        return Got::Nothing;
    }
    let field = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)).map(str::trim);
    if field("transfer-encoding:") == Some("chunked") {
        match unchunked(&body) {
            Some(whole) => body = whole,
            None => return Got::Nothing,
        }
    }
    match field("content-length:").map(str::parse) {
        Some(Ok(length)) if body.len() < length => Got::Nothing,
        _ => Got::Whole(body),
    }
}

/// The body that is sent in these chunks; `None` when the last one is missing.
fn unchunked(mut chunks: &[u8]) -> Option<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let end = chunks.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&chunks[..end]).ok()?.split(';').next()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        let chunk = chunks.get(end + 2..end + 2 + size)?;
        if size == 0 {
            return Some(body);
        }
        body.extend_from_slice(chunk);
        chunks = chunks.get(end + 4 + size..)?;
    }
}

/// How often wrong bytes were offered, and how often they came out as a whole file.
#[derive(Default)]
struct Count {
    offered: usize,
    complete: usize,
    /// How often the right file did not come afterwards, although the server had it.
    missing: usize,
}

impl Count {
    fn report(&self, what: &str, report: &mut Report) {
        report.figure(what, self.offered);
        report.none(&format!("{what}: complete and wrong"), self.complete);
        report.none(&format!("{what}: right files that did not come"), self.missing);
    }
}

/// 10,000 wrong answers, flipped bits and lies of members, and no wrong file that looks complete.
pub(super) fn nothing_wrong_is_complete(lab: &Lab, report: &mut Report) {
    let each = report.count(3_334);
    let _web = serve(lab, each);
    let gateway = lab.gateway("g1");
    gateway.widen();
    let hosts = lab.crowd(1 + QUICK.len());
    let group = lab.group(&[&gateway], &[&["--cache-size", "256M"], &QUIET[..]].concat());
    hosts.iter().for_each(|host| join(host, &group.code));
    let mut nodes: Vec<_> = hosts.iter().map(start).collect();
    nodes.iter_mut().for_each(|node| drop(node.wait_for_line("link up", START * 3)));
    servers(&hosts[0], each).report("wrong answers of servers", report);
    disks(&gateway, &hosts[0], each).report("bits that were flipped in stored files", report);
    members(&hosts, &mut nodes, each).report("lies of members", report);
}

fn start(host: &Host) -> Process {
    let front = ["--front", "pypi=http://10.88.0.100/simple/", "--peer-cache", "128M"];
    up(host, &[&["--role", "client", "--threads", "1"], &front[..], &QUIET[..]].concat())
}

fn servers(client: &Host, count: usize) -> Count {
    let mut counted = Count::default();
    assert!(matches!(get(client, "/pypi/all/"), Got::Whole(_)));
    for number in 0..count {
        let right = Got::Whole(named(number));
        let file = |kind: &str| get(client, &format!("/pypi/~/http/10.88.0.100/{kind}/{number}"));
        counted.offered += 1;
        match file("wrong") {
            Got::Nothing => {}
            got => counted.complete += usize::from(got != right),
        }
        // Only now and then, because this costs more than everything else.
        if number % 8 == 0 {
            counted.missing += usize::from(file("right") != right);
        }
    }
    counted
}

fn disks(gateway: &Host, client: &Host, count: usize) -> Count {
    let mut counted = Count::default();
    let url = |number: usize| format!("http://10.88.0.100/stored/{}", number % STORED);
    for number in 0..STORED {
        assert_eq!(get(client, &url(number)), Got::Whole(named(number)));
    }
    let mut next = choices();
    let cache = state(gateway).join("cache");
    while counted.offered < count {
        let files = files(&cache);
        // Several at a time, since finding them takes longer than a request.
        for _ in 0..STORED.min(count - counted.offered) {
            let file = &files[next(files.len())];
            let Ok(mut bytes) = fs::read(file) else { continue };
            let at = next(bytes.len());
            bytes[at] ^= 1 << next(8);
            fs::write(file, bytes).unwrap();
            counted.offered += 1;
        }
        for number in 0..STORED {
            match get(client, &url(number)) {
                // A file whose fault is noticed in the middle is cut off, and right when it is asked for again.
                Got::Nothing => {
                    counted.missing += usize::from(get(client, &url(number)) != Got::Whole(named(number)));
                }
                got => counted.complete += usize::from(got != Got::Whole(named(number))),
            }
        }
    }
    counted
}

/// The metadata and the bodies in a store.
fn files(cache: &PathBuf) -> Vec<PathBuf> {
    let folders =
        fs::read_dir(cache).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
    let kinds = ["head", "body", "small"];
    let is_stored =
        |path: &PathBuf| path.extension().is_some_and(|kind| kinds.iter().any(|known| kind == *known));
    let mut all: Vec<_> =
        files.filter(is_stored).filter(|path| fs::metadata(path).is_ok_and(|file| file.len() > 0)).collect();
    all.sort();
    all
}

/// Each client has a liar of its own kind. All liars are on one host, whose node gets the files first.
fn members(hosts: &[Host], nodes: &mut [Process], count: usize) -> Count {
    let (liar, clients) = hosts.split_first().unwrap();
    let mut counted = Count::default();
    let manners: Vec<_> = clients.iter().zip(QUICK).collect();
    let url = |round: usize, number: usize| format!("http://10.88.0.100/shared/{round}/{number}");
    let mut process = None;
    let mut before = 0;
    for round in 0.. {
        for number in 0..clients.len() {
            assert!(get(liar, &url(round, number)) == Got::Whole(shared(number).to_vec()));
        }
        let process = process.get_or_insert_with(|| lying_member::start(liar, &manners));
        let wrong: usize = std::thread::scope(|scope| {
            let getting: Vec<_> = clients
                .iter()
                .enumerate()
                .map(|(number, client)| scope.spawn(move || get(client, &url(round, number))))
                .collect();
            let got = getting.into_iter().map(|got| got.join().unwrap());
            let wrong = got.enumerate().map(|(number, got)| match got {
                Got::Whole(bytes) => (usize::from(bytes != shared(number)), 0),
                Got::Nothing => (0, 1),
            });
            let (wrong, missing) = wrong.fold((0, 0), |(a, b), (c, d)| (a + c, b + d));
            counted.missing += missing;
            wrong
        });
        counted.complete += wrong;
        counted.offered = clients.iter().map(|client| asked(process, client)).sum();
        assert!(counted.offered > before, "nobody asks the liar in round {round}");
        before = counted.offered;
        if counted.offered >= count {
            break;
        }
        // The clients forget what they have and whom they leave alone.
        for (client, node) in clients.iter().zip(&mut nodes[1..]) {
            node.signal(Signal::SIGKILL);
            node.wait(PATIENCE);
            fs::remove_dir_all(state(client).join("peer-cache")).unwrap();
            *node = start(client);
        }
        for node in &mut nodes[1..] {
            node.wait_for_line("link up", START * 3);
        }
    }
    counted
}
