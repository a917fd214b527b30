//! Asks name servers: the next one where one is silent or unable, until one of them answers.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use hickory_proto::op::{Message, ResponseCode};
use tokio::time::{Instant, sleep_until, timeout};

use super::conf::{Conf, PORT};
use super::exchange::Server;
use crate::wire::dns::{Query, Reason, failure};

/// The deadline of one question to all servers together, below the time that apps wait: RFC 1035 §7.2 leaves it open; the
/// usual stub resolver asks again after 5 s.
const DEADLINE: Duration = Duration::from_secs(4);
/// The time after which the next server is asked, where the configuration states none. The C library's 5 s would let an
/// app wait long for one lost datagram.
const TIMEOUT: Duration = Duration::from_secs(2);
/// How long a server that answered in place of a silent one is asked first.
const PREFERRED: Duration = Duration::from_secs(30);

/// Name servers that are responsible for the same names.
#[derive(Clone, Debug)]
pub struct NameServers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    servers: Vec<Server>,
    timeout: Option<Duration>,
    attempts: u32,
    tcp: bool,
    rotate: bool,
    /// The number of questions so far.
    asked: AtomicUsize,
    /// The server that is asked first, and until when.
    preferred: Mutex<Option<(usize, Instant)>>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unanswered {
    /// There is no name server.
    #[error("there is no name server")]
    NoServer,
    /// None of them has answered in time.
    #[error("the name servers did not answer")]
    Silent,
    /// None of them can be asked: of this one, the operating system says this.
    #[error("the name server {} cannot be asked: {why}", shown(*server))]
    Unreachable {
        /// The server.
        server: SocketAddr,
        /// What the operating system says.
        why: io::ErrorKind,
    },
}

/// A name server, without the usual port.
fn shown(server: SocketAddr) -> String {
    if server.port() == PORT { server.ip().to_string() } else { server.to_string() }
}

/// The code of the answer of one name server. It is asked twice within `limit`, by TCP if `by_tcp`.
///
/// # Errors
/// [`io::ErrorKind::TimedOut`] when nothing comes of it, [`io::ErrorKind::InvalidData`] when what comes is not an answer,
/// otherwise the operating system's error.
pub async fn code_of(
    server: SocketAddr,
    query: &Query,
    by_tcp: bool,
    limit: Duration,
) -> io::Result<ResponseCode> {
    let server = Server::new(server);
    for again in [false, true] {
        if let Ok(answered) = timeout(limit / 2, server.ask(query, by_tcp, again)).await {
            return answered.map(|answer| answer.metadata.response_code);
        }
    }
    Err(if server.has_garbled() { io::ErrorKind::InvalidData } else { io::ErrorKind::TimedOut }.into())
}

impl NameServers {
    /// The name servers of this configuration.
    pub fn new(conf: &Conf) -> Self {
        Self(Arc::new(Inner {
            servers: conf.servers.iter().copied().map(Server::new).collect(),
            timeout: conf.timeout,
            attempts: conf.attempts,
            tcp: conf.tcp,
            rotate: conf.rotate,
            asked: AtomicUsize::new(0),
            preferred: Mutex::default(),
        }))
    }

    /// One name server.
    pub fn one(server: SocketAddr) -> Self {
        Self::new(&Conf { servers: vec![server], ..Conf::default() })
    }

    /// The answer of one of them. There is always one: SERVFAIL when none of them answered.
    pub async fn ask(&self, query: &Query) -> Message {
        self.ask_within(query, DEADLINE).await.unwrap_or_else(|why| {
            tracing::debug!(question = %query.question(), reason = %why, "no answer from the name servers");
            failure(ResponseCode::ServFail, Reason::NetworkError, &why.to_string())
        })
    }

    /// The answer of the first one that knows or denies the name. While one is silent the next one is asked, too, and after the
    /// last the first again. If all that answer are unable to, the first such answer.
    ///
    /// # Errors
    /// [`Unanswered`].
    pub async fn ask_within(&self, query: &Query, limit: Duration) -> Result<Message, Unanswered> {
        let Inner { servers, attempts, timeout, tcp, .. } = &*self.0;
        let count = u32::try_from(servers.len()).unwrap_or(u32::MAX).saturating_mul(*attempts);
        let step = limit.checked_div(count).ok_or(Unanswered::NoServer)?.min(timeout.unwrap_or(TIMEOUT));
        let stated = timeout.map_or(limit, |timeout| step * (count - 1) + timeout);
        let (first, begun) = (self.first(), Instant::now());
        let end = begun + limit.min(stated);
        let order = |number| ((first + number) % servers.len(), number / servers.len() > 0);
        let mut waiting = (0..count as usize).map(order).peekable();
        let (mut running, mut due, mut unable) = (FuturesUnordered::new(), begun, None);
        let mut failed = None;
        let mut has_answered = vec![false; servers.len()];
        loop {
            if Instant::now() >= due
                && let Some((number, again)) = waiting.find(|(number, _)| !has_answered[*number])
            {
                running.push(async move { (number, servers[number].ask(query, *tcp, again).await) });
                due = Instant::now() + step;
            }
            let is_last = waiting.peek().is_none();
            if is_last && running.is_empty() {
                return unable.ok_or(failed.unwrap_or(Unanswered::Silent));
            }
            tokio::select! {
                Some((number, answered)) = running.next(), if !running.is_empty() => match answered {
                    Ok(answer) if is_useful(&answer) => {
                        self.prefer(first, number);
                        return Ok(answer);
                    }
                    Ok(answer) => {
                        has_answered[number] = true;
                        unable.get_or_insert_with(|| told(answer));
                        due = Instant::now();
                    }
                    Err(error) => {
                        tracing::debug!(%error, "a name server cannot be asked");
                        // Other errors come after a while: of a host that is silent, and of a port that is closed.
                        let why = error.kind();
                        if matches!(why, io::ErrorKind::NetworkUnreachable | io::ErrorKind::PermissionDenied) {
                            let server = servers[number].address();
                            failed.get_or_insert(Unanswered::Unreachable { server, why });
                        }
                        due = Instant::now();
                    }
                },
                () = sleep_until(due), if !is_last => {}
                () = sleep_until(end) => return unable.ok_or(Unanswered::Silent),
            }
        }
    }

    /// The number of the server that is asked first.
    fn first(&self) -> usize {
        let count = self.0.servers.len();
        if self.0.rotate {
            return self.0.asked.fetch_add(1, Relaxed) % count;
        }
        match *self.preferred() {
            Some((number, until)) if Instant::now() < until => number,
            _ => 0,
        }
    }

    /// Asks `number` first for a while, if it has answered in place of `first`.
    fn prefer(&self, first: usize, number: usize) {
        if first != number {
            *self.preferred() = Some((number, Instant::now() + PREFERRED));
        }
    }

    fn preferred(&self) -> std::sync::MutexGuard<'_, Option<(usize, Instant)>> {
        self.0.preferred.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether an answer ends the search. A server that has no answer, is not responsible and asks no others is not meant to be
/// asked.
fn is_useful(answer: &Message) -> bool {
    let metadata = &answer.metadata;
    match metadata.response_code {
        ResponseCode::NXDomain => true,
        ResponseCode::NoError => {
            !answer.answers.is_empty()
                || metadata.authoritative
                || metadata.recursion_available
                || !answer.additionals.is_empty()
        }
        _ => false,
    }
}

/// What is told of an answer that is not useful: its code, and that it is the name server's.
fn told(answer: Message) -> Message {
    let code = match answer.metadata.response_code {
        ResponseCode::NoError => ResponseCode::ServFail,
        code => code,
    };
    let sentence = match code {
        ResponseCode::Refused => "the name server refused to answer",
        _ => "the name server answered with this code",
    };
    failure(code, Reason::Other, sentence)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::dns::Decision;
    use hickory_proto::op::Query as Question;
    use hickory_proto::op::{Edns, MessageType, OpCode};
    use hickory_proto::rr::rdata::TXT;
    use hickory_proto::rr::{Name, RData, Record, RecordType};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, UdpSocket};
    use tokio::task::JoinSet;

    /// How a name server answers a question that came by UDP or not; `None` for not at all.
    type Habit = fn(Message, bool) -> Option<Message>;

    #[tokio::test]
    async fn what_is_no_answer_is_told_from_silence() {
        let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = server.local_addr().unwrap();
        let garbage = async {
            let mut buffer = [0; 512];
            loop {
                let (_, from) = server.recv_from(&mut buffer).await.unwrap();
                server.send_to(b"SSH-2.0-x", from).await.unwrap();
            }
        };
        let query = Query::for_addresses(Name::root(), RecordType::NS, true);
        let asked = code_of(address, &query, false, Duration::from_secs(1));
        tokio::select! {
            () = garbage => {}
            answered = asked => assert_eq!(answered.unwrap_err().kind(), io::ErrorKind::InvalidData),
        }
    }

    /// Name servers of these habits. They end with the set.
    async fn servers(habits: &[Habit]) -> (NameServers, JoinSet<()>) {
        let (mut addresses, mut tasks) = (Vec::new(), JoinSet::new());
        for &habit in habits {
            let (udp, tcp) = loop {
                let udp = UdpSocket::bind("127.0.0.1:0").await.unwrap();
                // Another test may have the same port by TCP.
                if let Ok(tcp) = TcpListener::bind(udp.local_addr().unwrap()).await {
                    break (udp, tcp);
                }
            };
            addresses.push(udp.local_addr().unwrap());
            tasks.spawn(async move {
                let mut buffer = [0; 512];
                loop {
                    let (length, from) = udp.recv_from(&mut buffer).await.unwrap();
                    if let Some(answer) = habit(Message::from_vec(&buffer[..length]).unwrap(), true) {
                        // Somebody else's, with the wrong id, comes first.
                        let mut forged = answer.clone();
                        forged.metadata.id ^= 1;
                        udp.send_to(&forged.to_vec().unwrap(), from).await.unwrap();
                        udp.send_to(&answer.to_vec().unwrap(), from).await.unwrap();
                    }
                }
            });
            tasks.spawn(async move {
                loop {
                    let (mut app, _) = tcp.accept().await.unwrap();
                    let length = app.read_u16().await.unwrap();
                    let mut question = vec![0; length.into()];
                    app.read_exact(&mut question).await.unwrap();
                    let answer =
                        habit(Message::from_vec(&question).unwrap(), false).unwrap().to_vec().unwrap();
                    app.write_u16(answer.len().try_into().unwrap()).await.unwrap();
                    app.write_all(&answer).await.unwrap();
                }
            });
        }
        (NameServers::new(&Conf { servers: addresses, ..Conf::default() }), tasks)
    }

    fn response(asked: &Message) -> Message {
        let mut answer = Message::response(asked.metadata.id, OpCode::Query);
        answer.metadata.message_type = MessageType::Response;
        answer.metadata.recursion_available = true;
        answer.queries.clone_from(&asked.queries);
        answer
    }

    /// With one record.
    #[allow(clippy::unnecessary_wraps, reason = "a habit")]
    fn usual(asked: Message, _: bool) -> Option<Message> {
        let mut answer = response(&asked);
        let text = RData::TXT(TXT::new(vec!["x".into()]));
        answer.answers.push(Record::from_rdata(asked.queries[0].name().clone(), 1, text));
        Some(answer)
    }

    fn truncated(asked: Message, by_udp: bool) -> Option<Message> {
        let mut answer = usual(asked, by_udp)?;
        if by_udp {
            answer.answers.clear();
            answer.metadata.truncation = true;
        }
        Some(answer)
    }

    fn silent(_: Message, _: bool) -> Option<Message> {
        None
    }

    #[allow(clippy::unnecessary_wraps, reason = "a habit")]
    fn refusing(asked: Message, _: bool) -> Option<Message> {
        let mut answer = response(&asked);
        answer.metadata.response_code = ResponseCode::Refused;
        Some(answer)
    }

    #[allow(clippy::unnecessary_wraps, reason = "a habit")]
    fn lame(asked: Message, _: bool) -> Option<Message> {
        let mut answer = response(&asked);
        answer.metadata.recursion_available = false;
        Some(answer)
    }

    /// The bare header, as servers of before EDNS answer (RFC 6891 §6.2.2).
    fn without_edns(asked: Message, by_udp: bool) -> Option<Message> {
        if asked.edns.is_none() {
            return usual(asked, by_udp);
        }
        let mut answer = response(&asked);
        answer.queries.clear();
        answer.metadata.response_code = if by_udp { ResponseCode::FormErr } else { ResponseCode::NotImp };
        Some(answer)
    }

    fn dropping_edns(asked: Message, by_udp: bool) -> Option<Message> {
        if asked.edns.is_none() { usual(asked, by_udp) } else { None }
    }

    fn query() -> Query {
        let mut message = Message::query();
        message.queries = vec![Question::query(Name::from_ascii("long.lab.").unwrap(), RecordType::TXT)];
        message.set_edns(Edns::new());
        match Decision::of(&message.to_vec().unwrap()) {
            Decision::Ask(query) => *query,
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn an_answer_is_found_whatever_the_other_servers_do() {
        for habits in [
            &[usual as Habit][..],
            &[truncated],
            &[refusing, usual],
            &[lame, refusing, usual],
            &[silent, usual],
            &[without_edns],
            &[dropping_edns],
        ] {
            let (servers, _tasks) = servers(habits).await;
            for _ in 0..2 {
                let answer = servers.ask(&query()).await;
                let found = (answer.metadata.response_code, answer.answers.len());
                assert_eq!(found, (ResponseCode::NoError, 1), "{} servers", habits.len());
            }
        }
    }

    #[tokio::test]
    async fn a_server_that_knows_no_edns_is_remembered() {
        let (servers, _tasks) = servers(&[without_edns]).await;
        for tcp in [false, true] {
            let server = &servers.0.servers[0];
            let answer = server.ask(&query(), tcp, false).await.unwrap();
            assert_eq!(answer.answers.len(), 1);
            assert!(server.is_without_edns());
        }
    }

    #[tokio::test]
    async fn a_failure_is_that_of_the_servers_that_answered() {
        let code = async |habits: &[Habit]| {
            let (servers, _tasks) = servers(habits).await;
            servers.ask(&query()).await.metadata.response_code
        };
        assert_eq!(code(&[refusing]).await, ResponseCode::Refused);
        assert_eq!(code(&[silent, refusing]).await, ResponseCode::Refused);
        assert_eq!(code(&[lame]).await, ResponseCode::ServFail);
        let none = NameServers::new(&Conf::default());
        assert_eq!(none.ask_within(&query(), DEADLINE).await, Err(Unanswered::NoServer));
        let (silent, _tasks) = servers(&[silent]).await;
        let limit = Duration::from_millis(50);
        assert_eq!(silent.ask_within(&query(), limit).await, Err(Unanswered::Silent));
    }

    #[tokio::test]
    async fn a_server_that_cannot_be_asked_is_named_with_the_reason() {
        // Nobody has a route from an address to the one that no packet is sent to.
        let nobody = NameServers::one("255.255.255.255:53".parse().unwrap());
        let why = nobody.ask_within(&query(), DEADLINE).await.unwrap_err().to_string();
        assert!(why.starts_with("the name server 255.255.255.255 cannot be asked: "), "{why}");
    }

    #[tokio::test]
    async fn a_server_that_answers_in_place_of_a_silent_one_is_asked_first() {
        let (servers, _tasks) = servers(&[silent, usual]).await;
        assert_eq!(servers.first(), 0);
        servers.ask(&query()).await;
        assert_eq!(servers.first(), 1);
    }
}
