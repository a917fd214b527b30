//! The local name server: which questions share an answer, its limits, and what is counted.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::FutureExt;
use hickory_proto::op::{Message, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use laneway::local::dns::{Listener, NameServer, Zones, zones};
use tokio::io::AsyncReadExt;
use tokio::net::UdpSocket;
use tokio::sync::{Semaphore, watch};
use tokio::task::{JoinHandle, yield_now};

use crate::clock::{Clock, delivered, settle};
use crate::lab::Proxy;
use crate::peer::{Peer, within};
use crate::refusals::metric;

/// Maximum number of datagrams answered at a time.
const MOST_QUERIES: usize = 1024;
/// Maximum number of questions of one connection answered at a time, and of connections.
const MOST_AT_A_TIME: usize = 32;
const MOST_CONNECTIONS: usize = 256;

/// A local name server on a gateway, whose system resolver answers when the test allows it.
struct Server {
    proxy: Proxy,
    address: SocketAddr,
    /// Number of questions that the resolver was asked.
    asked: Arc<AtomicUsize>,
    /// One permit for each answer of the resolver.
    answers: Arc<Semaphore>,
    /// The zones that other name servers answer for.
    zones: watch::Sender<Arc<Zones>>,
    running: JoinHandle<()>,
}

impl Server {
    async fn new() -> Self {
        let proxy = Proxy::direct().await;
        let (asked, answers) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
        let (counted, gate) = (asked.clone(), answers.clone());
        let own = move |query: laneway::wire::dns::Query| {
            counted.fetch_add(1, Ordering::Relaxed);
            let gate = gate.clone();
            async move {
                gate.acquire().await.unwrap().forget();
                // Of the kind that is not cached.
                let mut message = Message::response(0, hickory_proto::op::OpCode::Query);
                message.metadata.response_code = ResponseCode::Refused;
                message.queries = vec![query.question().clone()];
                message
            }
            .boxed()
        };
        let zones = watch::Sender::new(Arc::default());
        let names = NameServer::new(proxy.local.clone(), Box::new(own), zones.subscribe());
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).await.unwrap();
        let address = listener.streams.local_addr().unwrap();
        let running = tokio::spawn(names.run(vec![listener]));
        Self { proxy, address, asked, answers, zones, running }
    }

    fn asked(&self) -> usize {
        self.asked.load(Ordering::Relaxed)
    }

    /// Waits until the server has counted this number of questions.
    async fn met(&self, count: u64) {
        let met = || self.proxy.telemetry.questions.values().iter().map(|(_, count)| count).sum::<u64>();
        while met() < count {
            yield_now().await;
        }
        settle().await;
    }

    async fn socket(&self) -> UdpSocket {
        let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        socket.connect(self.address).await.unwrap();
        socket
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// A name server that answers every question with this address, and how many it has been asked.
async fn zone_server(address: Ipv4Addr) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let (own, asked) = (socket.local_addr().unwrap(), Arc::new(AtomicUsize::new(0)));
    let counted = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            counted.fetch_add(1, Ordering::Relaxed);
            let query = Message::from_vec(&buffer[..length]).unwrap();
            let mut answer = Message::response(query.metadata.id, hickory_proto::op::OpCode::Query);
            let name = query.queries[0].name().clone();
            answer.queries = query.queries;
            answer.answers = vec![Record::from_rdata(name, 3600, RData::A(address.into()))];
            socket.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
        }
    });
    (own, asked)
}

fn question(id: u16, name: &str) -> Vec<u8> {
    let mut message = Message::query();
    message.metadata.id = id;
    message.add_query(Query::query(Name::from_ascii(name).unwrap(), RecordType::A));
    message.to_vec().unwrap()
}

fn framed(message: &[u8]) -> Vec<u8> {
    [&u16::try_from(message.len()).unwrap().to_be_bytes()[..], message].concat()
}

async fn by_udp(socket: &UdpSocket) -> Message {
    let mut buffer = [0; 4096];
    let length = within(socket.recv(&mut buffer)).await.unwrap();
    Message::from_vec(&buffer[..length]).unwrap()
}

async fn by_tcp(app: &mut Peer) -> Message {
    let length = within(app.stream.read_u16()).await.unwrap();
    let mut message = vec![0; length.into()];
    within(app.stream.read_exact(&mut message)).await.unwrap();
    Message::from_vec(&message).unwrap()
}

#[tokio::test]
async fn the_same_question_is_asked_once_and_all_who_asked_it_are_answered() {
    let server = Server::new().await;
    let (one, two, mut three) =
        (server.socket().await, server.socket().await, Peer::connect(server.address).await);
    one.send(&question(1, "same.lab.")).await.unwrap();
    two.send(&question(2, "SAME.lab.")).await.unwrap();
    three.say(framed(&question(3, "same.LAB."))).await;
    two.send(&question(4, "other.lab.")).await.unwrap();
    server.met(4).await;
    assert_eq!(server.asked(), 2);
    server.answers.add_permits(2);
    let first = by_udp(&one).await;
    assert_eq!((first.metadata.id, first.metadata.response_code), (1, ResponseCode::Refused));
    let mut ids = [by_udp(&two).await, by_udp(&two).await].map(|answer| answer.metadata.id);
    ids.sort_unstable();
    assert_eq!(ids, [2, 4]);
    let third = by_tcp(&mut three).await;
    assert_eq!((third.metadata.id, third.queries[0].name().to_ascii().as_str()), (3, "same.LAB."));
    // The earlier question is no longer pending.
    server.answers.add_permits(1);
    one.send(&question(5, "same.lab.")).await.unwrap();
    assert_eq!((by_udp(&one).await.metadata.id, server.asked()), (5, 3));
}

#[tokio::test]
async fn a_question_by_http_is_answered_to_users_of_this_machine_only() {
    const KIND: &str = "application/dns-message";
    let proxy = Proxy::direct().await;
    let ask = async |host: &str, kind: &str, question: &[u8]| {
        let mut app = Peer::connect(proxy.address).await;
        let head = format!(
            "POST /dns-query HTTP/1.1\r\nHost: {host}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
            question.len()
        );
        app.say([head.as_bytes(), question].concat()).await;
        let head = app.head().await;
        let mut body = Vec::new();
        within(app.stream.read_to_end(&mut body)).await.unwrap();
        (head, body)
    };
    let (own, here) = (proxy.address.to_string(), question(7, "localhost."));
    let (head, answer) = ask(&own, KIND, &here).await;
    assert!(
        head.starts_with("HTTP/1.1 200 ") && head.contains(&format!("Content-Type: {KIND}\r\n")),
        "{head}"
    );
    let answer = Message::from_vec(&answer).unwrap();
    assert_eq!(answer.metadata.id, 7);
    assert_eq!(answer.answers[0].data.ip_addr(), Some(Ipv4Addr::LOCALHOST.into()));
    assert_eq!(metric(&proxy, "dns_questions_total{transport=\"http\"} ").await, ["1"]);

    for (status, host, kind, question) in [
        ("421", "other.example", KIND, &here[..]),
        ("400", &own, "text/plain", &here),
        ("400", &own, KIND, b"short"),
        ("400", &own, KIND, &[0; 4097]),
    ] {
        let (head, _) = ask(host, kind, question).await;
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{host} {kind}: {head}");
    }
    proxy.asks_for("u:p");
    assert!(ask(&own, KIND, &here).await.0.starts_with("HTTP/1.1 400 "), "without a login");
}

#[tokio::test]
async fn a_question_above_the_limit_is_refused_at_once() {
    let server = Server::new().await;
    let socket = server.socket().await;
    for number in 0..MOST_QUERIES {
        socket.send(&question(1, &format!("q{number}.lab."))).await.unwrap();
        // At most what a socket buffer holds.
        if number % 64 == 63 {
            server.met(number as u64 + 1).await;
        }
    }
    assert_eq!(server.asked(), MOST_QUERIES);
    socket.send(&question(2, "more.lab.")).await.unwrap();
    let refused = by_udp(&socket).await;
    assert_eq!((refused.metadata.id, refused.metadata.response_code), (2, ResponseCode::ServFail));
    assert_eq!(server.asked(), MOST_QUERIES);
    assert_eq!(metric(&server.proxy, "refused_total{reason=\"too-many\",dialect=\"dns\"} ").await, ["1"]);
    // After one answer there is room again.
    server.answers.add_permits(1);
    assert_eq!(by_udp(&socket).await.metadata.id, 1);
    settle().await;
    socket.send(&question(3, "more.lab.")).await.unwrap();
    server.met(MOST_QUERIES as u64 + 2).await;
    assert_eq!(server.asked(), MOST_QUERIES + 1);
}

#[tokio::test]
async fn a_connection_has_a_limited_number_of_questions_at_a_time() {
    let server = Server::new().await;
    let mut app = Peer::connect(server.address).await;
    let questions = (0..40).map(|id| framed(&question(id, &format!("q{id}.lab."))));
    app.say(questions.collect::<Vec<_>>().concat()).await;
    server.met(MOST_AT_A_TIME as u64).await;
    assert_eq!(server.asked(), MOST_AT_A_TIME);
    server.answers.add_permits(40);
    let mut ids = Vec::new();
    for _ in 0..40 {
        ids.push(by_tcp(&mut app).await.metadata.id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (0..40).collect::<Vec<_>>());
    app.end();
    assert_eq!(app.rest().await, "");
}

#[tokio::test]
async fn a_connection_above_the_limit_waits_for_another_to_end() {
    let server = Server::new().await;
    // This name is answered without asking.
    let known = framed(&question(7, "localhost."));
    let mut apps = Vec::new();
    for _ in 0..MOST_CONNECTIONS {
        let mut app = Peer::connect(server.address).await;
        app.say(&known).await;
        by_tcp(&mut app).await;
        apps.push(app);
    }
    let mut late = Peer::connect(server.address).await;
    late.say(&known).await;
    for _ in 0..3 {
        apps[0].say(&known).await;
        by_tcp(&mut apps[0]).await;
    }
    assert_eq!(late.stream.try_read(&mut [0; 9]).unwrap_err().kind(), std::io::ErrorKind::WouldBlock);
    drop(apps.pop());
    assert_eq!(by_tcp(&mut late).await.metadata.id, 7);
}

#[tokio::test]
async fn a_connection_that_sends_nothing_or_too_slowly_is_closed() {
    let (server, clock, second) = (Server::new().await, Clock::stop(), Duration::from_secs(1));
    let mut silent = Peer::connect(server.address).await;
    let mut slow = Peer::connect(server.address).await;
    // This connection was accepted after them.
    let mut last = Peer::connect(server.address).await;
    last.say(framed(&question(7, "localhost."))).await;
    by_tcp(&mut last).await;
    for byte in framed(&question(1, "slow.lab.")).into_iter().take(9) {
        slow.say([byte]).await;
        delivered(&slow).await;
        clock.pass(second).await;
    }
    clock.pass_to_deadline(second, &silent).await;
    for app in [&mut silent, &mut slow] {
        assert_eq!(app.rest().await, "");
    }
}

#[tokio::test]
async fn questions_answers_and_refusals_are_counted() {
    let server = Server::new().await;
    let (socket, mut app) = (server.socket().await, Peer::connect(server.address).await);
    let mut response = question(1, "a.lab.");
    response[2] |= 0x80;
    for ignored in [&b"short"[..], &response] {
        socket.send(ignored).await.unwrap();
    }
    let (mut update, mut chaos) = (question(2, "a.lab."), question(3, "a.lab."));
    update[2] |= 5 << 3;
    *chaos.last_mut().unwrap() = 3;
    for (bytes, code) in [
        (update, ResponseCode::NotImp),
        (chaos, ResponseCode::Refused),
        (question(4, "a.lab.")[..14].to_vec(), ResponseCode::FormErr),
        (question(5, "localhost."), ResponseCode::NoError),
    ] {
        socket.send(&bytes).await.unwrap();
        assert_eq!(by_udp(&socket).await.metadata.response_code, code);
    }
    server.answers.add_permits(1);
    app.say(framed(&question(6, "b.lab."))).await;
    by_tcp(&mut app).await;
    app.say([0, 3, 1, 2, 3]).await;
    assert_eq!(app.rest().await, "", "what is no query ends the connection");
    for (name, samples) in [
        ("dns_questions_total{transport=", &["\"tcp\"} 2", "\"udp\"} 6"][..]),
        (
            "dns_answers_total{code=",
            &[
                "\"formerr\",from=\"here\"} 1",
                "\"noerror\",from=\"here\"} 1",
                "\"notimp\",from=\"here\"} 1",
                "\"refused\",from=\"asked\"} 1",
                "\"refused\",from=\"here\"} 1",
            ],
        ),
        (
            "refused_total{reason=",
            &["\"malformed\",dialect=\"dns\"} 4", "\"unsupported\",dialect=\"dns\"} 2"],
        ),
    ] {
        assert_eq!(metric(&server.proxy, name).await, samples, "{name}");
    }
}

#[tokio::test]
async fn a_reload_changes_who_answers_for_a_zone_and_no_answer_of_the_old_one_is_given_again() {
    let server = Server::new().await;
    let socket = server.socket().await;
    let answered = async |id: u16| {
        socket.send(&question(id, "host.corp.")).await.unwrap();
        let answer = by_udp(&socket).await;
        answer.answers.first().map(|record| record.data.to_string())
    };
    for (turn, address) in [(1, Ipv4Addr::new(192, 0, 2, 1)), (2, Ipv4Addr::new(192, 0, 2, 2))] {
        let (other, asked) = zone_server(address).await;
        server.zones.send_replace(zones(&[format!("corp={other}").parse().unwrap()]));
        // The cache is emptied by a task of the name server.
        while answered(turn).await != Some(address.to_string()) {}
        assert_eq!(answered(turn).await, Some(address.to_string()));
        assert_eq!(asked.load(Ordering::Relaxed), 1, "the second answer is from the cache");
    }
    assert_eq!(server.asked(), 0, "this machine's own name servers");
}
