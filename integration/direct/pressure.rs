//! Members, strangers and apps that have the real binary hold as much as they can. Its resident memory is read from outside,
//! so that nothing counts as bounded only because the node says so.

mod apps;
mod indexes;
mod log;
mod parts;
mod pieces;
mod requests;
mod strangers;

use std::collections::HashSet;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, UdpSocket};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use bytes::Bytes;
use laneway::link::client::Link;
use laneway::link::tls;
use laneway::sys::state::StateDir;
use laneway::trust::authority::Authority;
use laneway::trust::certificate::Role;
use laneway::trust::group::Group;
use laneway::trust::membership::Membership;
use laneway::wire::sharing::FromClient;
use laneway::wire::target::Target;
use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use crate::lab::join;
use crate::peer::{Origin, within};
use crate::raw::{
    CONTINUATION, DATA, END_STREAM, HEADERS, PING, RST_STREAM, Raw, SETTINGS, WINDOW_UPDATE, connect,
    connect_http, connect_http_in_pieces, connect_udp, frame, request,
};

const MIB: u64 = 1 << 20;
/// What a node is told that its connections may hold if the test says nothing else, in MiB.
const LIMIT: u64 = 16;
/// How much may come on top of that: the allocator's spare memory, pooled buffers, what arrives before a cut takes effect.
const SLACK: u64 = 32 * MIB;
/// The links that one member may have.
const MAX_LINKS: usize = 8;
/// POST and GET of the static table (RFC 7541, appendix A), as indexed fields.
const POST: u8 = 0x83;
const GET: u8 = 0x82;

/// A node of its own process.
struct Victim {
    process: Child,
    link: SocketAddr,
    proxy: SocketAddr,
    dns: SocketAddr,
    /// What it was told that its connections may hold, in MiB.
    limit: u64,
    hostile: Group,
    other: Group,
    /// Its resident memory before anything happened, in bytes.
    idle: u64,
    directory: tempfile::TempDir,
    lines: Receiver<String>,
}

impl Victim {
    /// A gateway on an address of its own, because discovery is heard by every node of an address.
    async fn start(address: &str, options: &[String]) -> Self {
        Self::start_with(address, options, |_| {}).await
    }

    /// As `start`, with a state directory that is prepared first.
    async fn start_with(address: &str, options: &[String], prepare: fn(&Path)) -> Self {
        Self::start_within(LIMIT, address, options, prepare).await
    }

    /// As `start_with`, with connections that may hold `limit` MiB.
    async fn start_within(limit: u64, address: &str, options: &[String], prepare: fn(&Path)) -> Self {
        let link = format!("{address}:0");
        let role = ["--role", "gateway", "--link", &link, "--allow", "127.0.0.0/8"].map(str::to_owned);
        let options = [&role, options].concat();
        let mut victim = Self::node_within(limit, address, &options, prepare).await;
        // One link and one tunnel, so that what every node needs is there.
        victim.serves_others().await;
        victim.idle = victim.memory("VmRSS:");
        victim
    }

    /// A node that has no gateway, with a local name server.
    async fn alone(address: &str) -> Self {
        // The node has the group's key, so it accepts links to admit machines.
        let any = format!("{address}:0");
        let options = ["--role", "client", "--link", &any, "--dns", &any, "--hold", "60"].map(str::to_owned);
        let mut victim = Self::node(address, &options, |_| {}).await;
        victim.serves_its_page().await;
        victim.idle = victim.memory("VmRSS:");
        victim
    }

    async fn node(address: &str, options: &[String], prepare: fn(&Path)) -> Self {
        Self::node_within(LIMIT, address, options, prepare).await
    }

    async fn node_within(limit: u64, address: &str, options: &[String], prepare: fn(&Path)) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("state");
        let state = StateDir::open(path.clone()).unwrap();
        Authority::create(&state, "office", "first").unwrap();
        let (hostile, other) = (join(&state, Role::Client).await, join(&state, Role::Client).await);
        prepare(&path);
        let discovery = UdpSocket::bind((address, 0)).unwrap().local_addr().unwrap().port().to_string();
        let (proxy, most) = (format!("{address}:0"), format!("{limit}M"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_laneway"));
        command.args(["up", "--lan", address, "--proxy", &proxy]);
        command.args(["--discovery-port", &discovery, "--memory-limit", &most]);
        command.arg("--state").arg(&path).args(options);
        command.env_clear().env("HOME", directory.path()).env("NO_COLOR", "1").stdin(Stdio::null());
        // A gateway for any destination would ask this machine's name servers.
        command.env("LANEWAY_PROBE", "none");
        let mut process = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let errors = BufReader::new(process.stderr.take().unwrap());
        let (send, lines) = channel();
        std::thread::spawn(move || {
            // The output is read to the end, so that the node never waits for this test.
            for line in errors.lines().map_while(Result::ok) {
                let _ = send.send(line);
            }
        });
        let none = SocketAddr::from(([127, 0, 0, 1], 0));
        let (link, proxy, dns) = (none, none, none);
        let mut victim = Self { process, link, proxy, dns, limit, hostile, other, idle: 0, directory, lines };
        let mut seen = Vec::new();
        loop {
            let line = victim.lines.recv_timeout(Duration::from_secs(60));
            let line = line.unwrap_or_else(|error| panic!("the node does not start: {error}: {seen:#?}"));
            seen.push(line.clone());
            if let Some((what, at)) = line.split_once(" address=") {
                let address = at.split_whitespace().next().unwrap().parse();
                match what.split_once("listening: ") {
                    Some((_, what)) if what.starts_with("links") => victim.link = address.unwrap(),
                    Some((_, what)) if what.starts_with("local proxy") => victim.proxy = address.unwrap(),
                    Some((_, what)) if what.starts_with("local name") => victim.dns = address.unwrap(),
                    _ => {}
                }
            }
            if line.contains(" ready node=") {
                return victim;
            }
        }
    }

    /// Ends it, and gives what it has written since it was ready.
    fn end(mut self) -> Vec<String> {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
        self.lines.iter().collect()
    }

    /// A size that the kernel reports of the process, in bytes.
    fn memory(&self, what: &str) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.process.id())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(what)).unwrap();
        line.trim().strip_suffix(" kB").unwrap().trim().parse::<u64>().unwrap() * 1024
    }

    /// A link of the hostile member.
    async fn raw(&self, window: u32) -> Raw {
        Raw::to(self.link, &self.hostile, window).await
    }

    /// Another member opens a tunnel, and it works.
    async fn serves_others(&self) {
        let (tasks, origin) = (TaskTracker::new(), Origin::new());
        let membership = Membership::new(self.other.clone());
        let config = tls::link_client(&self.other).unwrap();
        let link = within(Link::dial(self.link, None, config, membership, &tasks)).await.unwrap();
        let target = Target::from(origin.address);
        let (tunnel, server) = tokio::join!(within(link.open(&target, 1, Bytes::new())), origin.accept());
        let mut tunnel = tunnel.unwrap();
        tokio::spawn(server.echo());
        within(tunnel.stream.outbox.send(Bytes::from_static(b"undisturbed"))).await.unwrap();
        assert_eq!(&within(tunnel.stream.inbox.next()).await.unwrap().unwrap()[..], b"undisturbed");
        drop(tunnel);
        link.retire();
    }

    /// Four links of a member with 400 questions each that are never finished.
    async fn begin_questions(&self) -> Vec<Raw> {
        let mut links = Vec::new();
        for _ in 0..4 {
            let mut raw = self.raw(0).await;
            for stream in streams(400) {
                let body = frame(DATA, 0, stream, &[0; 15_000]).repeat(4);
                raw.output.try_say([request(stream, 0, POST, "/dns-query"), body].concat()).await;
            }
            links.push(until_taken(raw).await);
        }
        links
    }

    /// Checks that its memory never exceeded the limit, and that another member is served.
    async fn has_kept_its_limit(&self) {
        self.has_kept_memory();
        self.serves_others().await;
    }

    /// How many connections of clients it has open, as it says itself.
    async fn open_for_clients(&self) -> u64 {
        let text = self.page("/metrics").await;
        let line =
            text.lines().find_map(|line| line.strip_prefix("laneway_connections_open{of=\"clients\"} "));
        line.unwrap_or_else(|| panic!("no metric: {text}")).parse().unwrap()
    }

    fn has_kept_memory(&self) {
        let peak = self.memory("VmHWM:");
        let most = self.idle + self.limit * MIB + SLACK;
        assert!(peak <= most, "{} MiB, and no more than {} may be", peak / MIB, most / MIB);
    }
}

impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.directory.path();
    }
}

fn streams(count: u32) -> impl Iterator<Item = u32> + Clone {
    (0..count).map(|number| 2 * number + 1)
}

/// Waits until the gateway has taken in all that was said, or has ended the link.
async fn until_taken(mut raw: Raw) -> Raw {
    if raw.output.try_say(frame(PING, 0, 0, b"tell me!")).await {
        loop {
            match raw.input.frame().await {
                Some(answer) if (answer.kind, answer.flags) == (PING, 1) => break,
                Some(asked) if asked.kind == PING => {
                    raw.output.try_say(frame(PING, 1, 0, &asked.payload)).await;
                }
                Some(_) => {}
                None => break,
            }
        }
    }
    raw
}

#[tokio::test]
async fn answers_that_a_member_gives_no_window_for_do_not_fill_the_gateways_memory() {
    let servers = (1..65).flat_map(|host| ["--server".to_owned(), format!("127.0.1.{host}:9")]);
    let victim = Victim::start("127.0.0.71", &servers.collect::<Vec<_>>()).await;
    let mut links = Vec::new();
    for _ in 0..4 {
        let mut raw = victim.raw(0).await;
        let all = streams(16_000).map(|stream| request(stream, END_STREAM, GET, "/laneway/about"));
        for part in all.collect::<Vec<_>>().chunks(1000) {
            raw.output.try_say(part.concat()).await;
        }
        links.push(until_taken(raw).await);
    }
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn questions_that_trickle_in_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.72", &[]).await;
    let _links = victim.begin_questions().await;
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn a_member_has_eight_links_and_what_it_begins_on_more_of_them_is_dropped() {
    let victim = Victim::start("127.0.0.73", &[]).await;
    let mut ends = JoinSet::new();
    for _ in 0..250 {
        let Raw { input, mut output } = victim.raw(0).await;
        // A frame of 256 KiB of which the last byte never comes.
        let begun = frame(DATA, 0, 1, &vec![0; 256 * 1024]);
        output.try_say(request(1, 0, POST, "/dns-query")).await;
        output.try_say(&begun[..begun.len() - 1]).await;
        ends.spawn(async move {
            input.swallow().await;
            drop(output);
        });
    }
    within(async { while ends.len() > MAX_LINKS && ends.join_next().await.is_some() {} }).await;
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn heads_that_are_never_finished_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.74", &[]).await;
    let mut links = Vec::new();
    for _ in 0..100 {
        let mut raw = victim.raw(0).await;
        raw.output.try_say(frame(HEADERS, 0, 1, b"\x02\x07CONNECT")).await;
        raw.output.try_say(frame(CONTINUATION, 0, 1, &[0; 16_000])).await;
        links.push(raw);
    }
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn idle_datagram_streams_of_one_member_leave_another_its_share() {
    let victim = Victim::start("127.0.0.75", &[]).await;
    let mut raw = victim.raw(1 << 20).await;
    for stream in streams(1600) {
        raw.output.say(connect_udp(stream, 9)).await;
    }
    let mut answers = Vec::new();
    while answers.len() < 1600 {
        let frame = raw.input.frame().await.expect("the link stands");
        if frame.kind == HEADERS {
            answers.push(frame.payload[0]);
        } else if (frame.kind, frame.flags) == (PING, 0) {
            raw.output.say(self::frame(PING, 1, 0, &frame.payload)).await;
        }
    }
    // `:status: 200` is an indexed field; a refusal is not.
    let accepted = answers.iter().filter(|first| **first == 0x88).count();
    assert!((100..1600).contains(&accepted), "{accepted} are accepted");
    for _ in 0..3 {
        victim.serves_others().await;
    }
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn downloads_that_nobody_reads_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.76", &[]).await;
    let origin = Origin::new();
    let (mut links, mut servers, mut floods) = (Vec::new(), Vec::new(), JoinSet::new());
    for _ in 0..2 {
        let mut raw = victim.raw(1 << 30).await;
        for stream in streams(150) {
            raw.output.say(connect(stream, origin.address)).await;
            servers.push(origin.accept().await);
        }
        links.push(raw);
    }
    // All are open before the first one takes memory that others need to be opened.
    for server in servers {
        floods.spawn(server.flood());
    }
    within(floods.join_next()).await.unwrap().unwrap();
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn tunnels_to_servers_that_never_answer_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.77", &[]).await;
    // The server's queue of connections is full, so every further one waits.
    let silent = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    silent.bind(&SocketAddr::from(([127, 0, 0, 1], 0)).into()).unwrap();
    silent.listen(0).unwrap();
    let target = silent.local_addr().unwrap().as_socket().unwrap();
    let mut links = Vec::new();
    for _ in 0..4 {
        let mut raw = victim.raw(1 << 20).await;
        for stream in streams(400) {
            let early = frame(DATA, 0, stream, &[0; 16_000]).repeat(3);
            raw.output.try_say([connect(stream, target), early].concat()).await;
        }
        links.push(until_taken(raw).await);
    }
    victim.has_kept_its_limit().await;
}

#[tokio::test]
async fn settings_and_pings_whose_answers_nobody_reads_do_not_fill_the_gateways_memory() {
    let victim = Victim::start("127.0.0.78", &[]).await;
    let mut floods = JoinSet::new();
    for number in 0..8 {
        let Raw { input, mut output } = victim.raw(0).await;
        let once = match number % 2 {
            0 => frame(SETTINGS, 0, 0, &[0, 3, 0, 0, 0, 1]),
            _ => frame(PING, 0, 0, b"12345678"),
        };
        floods.spawn(async move {
            for _ in 0..300 {
                if !output.try_say(once.repeat(1000)).await {
                    break;
                }
            }
            drop(input);
        });
    }
    // Floods that are no longer read never end; the others are through, or cut.
    let _ = tokio::time::timeout(Duration::from_secs(3), floods.join_all()).await;
    victim.has_kept_its_limit().await;
}

/// The gateway's socket is full when the link ends, so a response waits for its turn to be sent.
#[tokio::test]
async fn responses_on_a_link_that_ends_are_given_up() {
    let victim = Victim::start("127.0.0.87", &[]).await;
    let origin = Origin::new();
    let target = Target::from(origin.address);
    let mut raw = victim.raw(1 << 30).await;
    let get = frame(DATA, 0, 1, format!("GET / HTTP/1.1\r\nHost: {target}\r\n\r\n").as_bytes());
    raw.output.say(frame(WINDOW_UPDATE, 0, 0, &(1_u32 << 30).to_be_bytes())).await;
    raw.output.say([connect_http(1, &target), get].concat()).await;
    let mut server = origin.accept().await;
    server.head().await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 1000000000\r\n\r\n").await;
    assert_eq!(victim.open_for_clients().await, 1);
    // Until nothing more is taken.
    let block = vec![b'x'; 64 * 1024];
    while tokio::time::timeout(Duration::from_secs(1), server.say(&block)).await.is_ok() {}
    drop(raw);
    within(async {
        while victim.open_for_clients().await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Each response is stored, and sent to a member that gives no window.
#[tokio::test]
async fn responses_from_the_cache_that_nobody_reads_do_not_fill_the_gateways_memory() {
    nobody_reads_what_is_stored("127.0.0.79", connect_http).await;
}

#[tokio::test]
async fn responses_from_the_cache_in_pieces_that_nobody_reads_do_not_fill_the_gateways_memory() {
    nobody_reads_what_is_stored("127.0.0.88", connect_http_in_pieces).await;
}

/// Files in the gateway's cache, each large enough to come in pieces.
const FILES: usize = 40;
/// The length of each, in bytes.
const LENGTH: usize = 4 << 20;

fn get(target: &Target, file: usize) -> String {
    format!("GET /{file} HTTP/1.1\r\nHost: {target}\r\n\r\n")
}

/// A gateway that has stored the files of this server.
async fn with_stored_files(address: &str) -> (Victim, Target) {
    with_stored_files_within(LIMIT, address).await
}

/// As `with_stored_files`, with connections that may hold `limit` MiB.
async fn with_stored_files_within(limit: u64, address: &str) -> (Victim, Target) {
    let options = ["--cache-size".to_owned(), "1G".to_owned()];
    let victim = Victim::start_within(limit, address, &options, |_| {}).await;
    let origin = Origin::new();
    let target = Target::from(origin.address);
    let body = Bytes::from(vec![7; LENGTH]);
    let server = tokio::spawn(async move {
        // A server that is asked again for what is stored fails.
        let mut servers = JoinSet::new();
        for _ in 0..FILES {
            let mut server = origin.accept().await;
            let body = body.clone();
            servers.spawn(async move {
                server.head().await;
                let head = format!(
                    "HTTP/1.1 200 OK\r\nCache-Control: max-age=600\r\nETag: \"a\"\r\nContent-Length: {LENGTH}\r\n\r\n"
                );
                server.say(head).await;
                server.say(body).await;
            });
        }
        servers.join_all().await;
    });
    let (tasks, membership) = (TaskTracker::new(), Membership::new(victim.other.clone()));
    let config = tls::link_client(&victim.other).unwrap();
    let link = within(Link::dial(victim.link, None, config, membership, &tasks)).await.unwrap();
    for file in 0..FILES {
        let http = laneway::link::request::Transport::Http;
        let mut tunnel = within(link.open_by(http, &target, 1, get(&target, file).into())).await.unwrap();
        let mut got = 0;
        while got < LENGTH {
            got += within(tunnel.stream.inbox.next()).await.unwrap().unwrap().len();
        }
    }
    server.await.unwrap();
    link.retire();
    victim.has_kept_memory();
    (victim, target)
}

async fn nobody_reads_what_is_stored(address: &str, open: fn(u32, &Target) -> Vec<u8>) {
    let (victim, target) = with_stored_files(address).await;
    let mut links = Vec::new();
    for _ in 0..2 {
        let mut raw = victim.raw(0).await;
        for (number, stream) in streams(250).enumerate() {
            let early = frame(DATA, 0, stream, get(&target, number % FILES).as_bytes());
            raw.output.try_say([open(stream, &target), early].concat()).await;
        }
        // Each request is granted once the beginning of the file was read, or refused or reset for want of memory.
        let mut unanswered: HashSet<u32> = streams(250).collect();
        while !unanswered.is_empty()
            && let Some(frame) = raw.input.frame().await
        {
            match frame.kind {
                HEADERS | RST_STREAM => _ = unanswered.remove(&frame.stream),
                PING if frame.flags == 0 => {
                    _ = raw.output.try_say(crate::raw::frame(PING, 1, 0, &frame.payload)).await
                }
                _ => {}
            }
        }
        links.push(raw);
    }
    victim.has_kept_its_limit().await;
}

/// Each stream has room for the head and the list of its pieces, and for nothing of the pieces that it asks for.
#[tokio::test]
async fn stored_pieces_that_a_member_asks_for_and_does_not_take_do_not_fill_the_gateways_memory() {
    let (victim, target) = with_stored_files("127.0.0.90").await;
    let mut links = Vec::new();
    for _ in 0..MAX_LINKS {
        let mut raw = victim.raw(2048).await;
        for (number, stream) in streams(250).enumerate() {
            let wanted = (0..4).flat_map(|index| {
                let mut message = bytes::BytesMut::new();
                FromClient::Want { index }.write(&mut message);
                message.to_vec()
            });
            let early = [get(&target, number % FILES).into_bytes(), wanted.collect()].concat();
            let opened = [connect_http_in_pieces(stream, &target), frame(DATA, 0, stream, &early)].concat();
            raw.output.try_say(opened).await;
        }
        links.push(until_taken(raw).await);
    }
    victim.has_kept_its_limit().await;
}
