//! Little is sent of much, and nobody takes it: it must not keep the rest of its buffer, uncounted.

use laneway::wire::target::Target;

use super::requests::say_to_all;
use super::{FILES, MAX_LINKS, Victim, streams, until_taken, with_stored_files_within};
use crate::peer::Origin;
use crate::raw::{DATA, Raw, connect_http, frame};

/// What the connections of these nodes may hold, in MiB: enough for so many streams that the uncounted memory exceeds the rest.
const ROOM: u64 = 32;
/// How many streams there are on each link, of as many links as there may be.
const EACH: u32 = 100;

/// A plain request.
fn get(target: &Target, path: impl std::fmt::Display, fields: &str) -> Vec<u8> {
    format!("GET /{path} HTTP/1.1\r\nHost: {target}\r\n{fields}\r\n").into_bytes()
}

/// Streams of plain requests that have no window; each begins with what `early` gives for its number.
async fn ask(victim: &Victim, target: &Target, each: u32, early: impl Fn(usize) -> Vec<u8>) -> Vec<Raw> {
    let (mut links, mut number) = (Vec::new(), 0);
    for _ in 0..MAX_LINKS {
        let mut raw = victim.raw(0).await;
        for stream in streams(each) {
            let early = early(number);
            let data = early.chunks(16_000).flat_map(|part| frame(DATA, 0, stream, part));
            let opened = [connect_http(stream, target), data.collect()].concat();
            raw.output.try_say(opened).await;
            number += 1;
        }
        links.push(until_taken(raw).await);
    }
    victim.has_kept_its_limit_while_alone().await;
    links
}

/// Each queued byte kept its block of 64 KiB.
#[tokio::test]
async fn bytes_of_stored_files_that_nobody_takes_do_not_keep_the_blocks_that_they_are_in() {
    let (victim, target) = with_stored_files_within(2 * ROOM, "127.0.0.101").await;
    let last = "Range: bytes=65535-65535\r\n";
    let links = ask(&victim, &target, 400, |number| get(&target, number % FILES, last)).await;
    victim.serves_others().await;
    drop(links);
}

/// Each stream asks a gateway with a cache for a file of its own, and gets this from the server.
async fn gets(address: &str, answer: String) {
    let options = ["--cache-size".to_owned(), "1G".to_owned()];
    let victim = Victim::start_within(ROOM, address, &options, |_| {}).await;
    let origin = Origin::new();
    let target = Target::from(origin.address);
    let server = tokio::spawn(say_to_all(origin, answer.into_bytes()));
    let links = ask(&victim, &target, EACH, |number| get(&target, number, "")).await;
    victim.serves_others().await;
    drop(links);
    server.abort();
}

fn head(length: &str, fields: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\n{length}\r\n{fields}\r\n")
}

/// Fields take many times their length.
#[tokio::test]
async fn fields_of_responses_do_not_fill_the_gateways_memory() {
    gets("127.0.0.102", head("Content-Length: 2", &"a:b\r\n".repeat(900)) + "x").await;
}

/// One byte of the body kept the head that it came with.
#[tokio::test]
async fn bodies_that_begin_behind_long_heads_do_not_keep_them() {
    gets("127.0.0.103", head("Content-Length: 2", &format!("X: {}\r\n", "y".repeat(55_000))) + "x").await;
}

/// Little data kept much that was read with it.
#[tokio::test]
async fn chunks_do_not_keep_the_extensions_between_them() {
    let chunk = format!("1000;{}\r\n{}\r\n", "e".repeat(60_000), "d".repeat(0x1000));
    gets("127.0.0.104", head("Transfer-Encoding: chunked", "") + &chunk.repeat(20)).await;
}
