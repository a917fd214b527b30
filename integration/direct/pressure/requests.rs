//! Members that have the real binary hold parts of plain requests, of responses, and of handshakes with servers.

use laneway::wire::target::Target;
use tokio::task::JoinSet;

use super::{Victim, streams, until_taken};
use crate::peer::Origin;
use crate::raw::{DATA, connect_http, connect_https, frame};

/// How many streams there are on each of [`LINKS`] links.
const EACH: u32 = 400;
const LINKS: usize = 4;
/// Almost as much as a head may have, in bytes.
const LONG: usize = 60_000;

/// A head that lacks its end.
fn unfinished(start: &str) -> Vec<u8> {
    [start.as_bytes(), b"\r\nX: ", &vec![b'a'; LONG][..]].concat()
}

/// A server that says the same to everybody that says something, and keeps the connections open.
pub(super) async fn say_to_all(origin: Origin, answer: Vec<u8>) {
    let mut servers = JoinSet::new();
    loop {
        let (mut server, answer) = (origin.accept().await, answer.clone());
        servers.spawn(async move {
            let _ = server.stream.readable().await;
            server.try_say(answer).await;
            std::future::pending::<()>().await;
        });
    }
}

/// Streams of requests, each of which begins with `early`.
async fn begin(victim: &Victim, target: &Target, open: fn(u32, &Target) -> Vec<u8>, early: &[u8]) {
    let mut links = Vec::new();
    for _ in 0..LINKS {
        let mut raw = victim.raw(1 << 20).await;
        for stream in streams(EACH) {
            let data: Vec<_> = early.chunks(16_000).flat_map(|part| frame(DATA, 0, stream, part)).collect();
            raw.output.try_say([open(stream, target), data].concat()).await;
        }
        links.push(until_taken(raw).await);
    }
    victim.has_kept_its_limit().await;
}

/// A request, and bytes behind it.
fn get(target: &Target) -> Vec<u8> {
    [format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes(), &vec![b'a'; LONG][..]].concat()
}

#[tokio::test]
async fn heads_of_requests_that_are_never_finished_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.96", &[]).await;
    let target = Target::from(Origin::new().address);
    begin(&victim, &target, connect_http, &unfinished("GET / HTTP/1.1")).await;
}

#[tokio::test]
async fn long_requests_that_servers_do_not_answer_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.97", &[]).await;
    let origin = Origin::new();
    let target = Target::from(origin.address);
    let long = [unfinished(&format!("GET / HTTP/1.1\r\nHost: {target}")), b"\r\n\r\n".to_vec()].concat();
    let server = tokio::spawn(say_to_all(origin, Vec::new()));
    begin(&victim, &target, connect_http, &long).await;
    server.abort();
}

#[tokio::test]
async fn heads_of_responses_that_are_never_finished_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.99", &[]).await;
    let origin = Origin::new();
    let target = Target::from(origin.address);
    let server = tokio::spawn(say_to_all(origin, unfinished("HTTP/1.1 200 OK")));
    begin(&victim, &target, connect_http, &get(&target)).await;
    server.abort();
}

#[tokio::test]
async fn handshakes_that_servers_never_finish_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.100", &[]).await;
    let origin = Origin::new();
    let target = Target::from(origin.address);
    // Most of a ServerHello of 65,000 bytes, in records of 16,000.
    let hello = [b"\x02\x00\xfd\xe8".as_slice(), &[0; 64_000]].concat();
    let records = hello.chunks(16_000).flat_map(|part| {
        let length = u16::try_from(part.len()).unwrap().to_be_bytes();
        [b"\x16\x03\x03".as_slice(), &length, part].concat()
    });
    let server = tokio::spawn(say_to_all(origin, records.collect()));
    begin(&victim, &target, connect_https, &get(&target)).await;
    server.abort();
}
