//! One question to one name server: by UDP, and by TCP where the answer does not fit (RFC 7766 §5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering::Relaxed};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt, Interest};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;

use crate::limits::buffer_pool::PooledBuffer;
use crate::wire::dns::{LONGEST, Query};
use crate::{mark, net};

/// Number of answers in a row that arrived only without EDNS, after which the server is asked without it.
const STRIKES: u8 = 3;
/// Offset of the flags, and the one of them that says that an answer was cut (RFC 1035 §4.1.1).
const FLAGS: usize = 2;
const TRUNCATED: u8 = 2;
/// Offset of the counts of the authority and additional sections in a message (RFC 1035 §4.1.1).
const OPTIONAL_COUNTS: std::ops::Range<usize> = 8..12;
/// Offset of the count of the answer section.
const ANSWER_COUNT: std::ops::Range<usize> = 6..8;
/// Length of the header of a message.
const HEADER: usize = 12;
/// Up to how many answers are looked at one by one: each time the message is read again.
const MOST_REPAIRED: u16 = 64;
/// A type of records for private use (RFC 6895 §3.1).
const UNKNOWN_TYPE: u16 = 65_280;

/// How many answers are received over TCP at a time, each of up to 64 KiB. They hold that only while they arrive.
static LONG: Semaphore = Semaphore::const_new(64);

/// A name server.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    /// [`STRIKES`] for a server that does not know EDNS.
    strikes: AtomicU8,
    /// Whether a datagram came from there that was no answer.
    has_garbled: AtomicBool,
}

impl Server {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, strikes: AtomicU8::new(0), has_garbled: AtomicBool::new(false) }
    }

    /// Where it is.
    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether it has sent something that was no answer to a question.
    pub(super) fn has_garbled(&self) -> bool {
        self.has_garbled.load(Relaxed)
    }

    /// Whether it is asked without EDNS.
    pub(super) fn is_without_edns(&self) -> bool {
        self.strikes.load(Relaxed) >= STRIKES
    }

    /// Asks once, without a deadline of its own. `again` after a question that was not answered: some servers, and
    /// firewalls before them, drop what has an EDNS record, so that it is left out (RFC 6891 §6.2.2).
    ///
    /// # Errors
    /// The error of the system; [`io::ErrorKind::InvalidData`] for an answer that cannot be read.
    pub(super) async fn ask(&self, query: &Query, by_tcp: bool, again: bool) -> io::Result<Message> {
        if !query.has_edns() || self.is_without_edns() {
            return self.exchange(query, by_tcp, false).await;
        }
        if again {
            let answer = self.exchange(query, by_tcp, false).await?;
            self.strikes.fetch_update(Relaxed, Relaxed, |strikes| strikes.checked_add(1)).ok();
            return Ok(answer);
        }
        let answer = self.exchange(query, by_tcp, true).await?;
        let ignorant = [ResponseCode::FormErr, ResponseCode::NotImp, ResponseCode::BADVERS];
        if !ignorant.contains(&answer.metadata.response_code) {
            self.strikes.store(0, Relaxed);
            return Ok(answer);
        }
        let answer = self.exchange(query, by_tcp, false).await?;
        if !ignorant.contains(&answer.metadata.response_code) {
            self.strikes.store(STRIKES, Relaxed);
        }
        Ok(answer)
    }

    async fn exchange(&self, query: &Query, by_tcp: bool, edns: bool) -> io::Result<Message> {
        let request = query.to_server(Message::query().metadata.id, edns);
        if !by_tcp {
            let answer = self.by_udp(&request).await?;
            if !answer.metadata.truncation {
                return Ok(answer);
            }
        }
        self.by_tcp(&request).await
    }

    /// Not marked as the node's own: UDP is never redirected.
    async fn by_udp(&self, request: &Message) -> io::Result<Message> {
        let any: IpAddr = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let socket = net::unless_reserved(UdpSocket::bind((any, 0)).await?)?;
        socket.connect(self.address).await?;
        socket.send(&bytes(request)?).await?;
        loop {
            // First, so that no buffer is held for as long as the server takes.
            if socket.ready(Interest::READABLE | Interest::ERROR).await?.is_error() {
                let failed = socket.try_io(Interest::ERROR, || match socket.take_error()? {
                    Some(error) => Ok(error),
                    None => Err(io::ErrorKind::WouldBlock.into()),
                });
                // The port is closed.
                if let Ok(error) = failed {
                    return Err(error);
                }
            }
            let mut buffer = PooledBuffer::take(LONGEST);
            let buffer = &mut buffer.room()[..LONGEST];
            let length = match socket.try_recv(buffer) {
                Ok(length) => length,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) => return Err(error),
            };
            // Somebody else may have guessed the port: only the right answer ends the wait.
            if is_for(&buffer[..length], request)
                && let Some(answer) = read(&mut buffer[..length])
                && is_answer(&answer, request)
            {
                return Ok(answer);
            }
            self.has_garbled.store(true, Relaxed);
        }
    }

    async fn by_tcp(&self, request: &Message) -> io::Result<Message> {
        let mut stream = mark::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let request_bytes = bytes(request)?;
        let length = u16::try_from(request_bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &request_bytes].concat()).await?;
        let length = stream.read_u16().await?;
        // No more of them come at a time than the limit of memory has room for beside what connections hold.
        let _place = LONG.acquire().await.expect("the semaphore is never closed");
        let mut answer = vec![0; length.into()];
        stream.read_exact(&mut answer).await?;
        // Here nothing is cut: there is nowhere else to ask for the rest.
        let is_cut = |answer: &Message| answer.metadata.truncation && answer.answers.is_empty();
        let answer = read(&mut answer).filter(|answer| is_answer(answer, request) && !is_cut(answer));
        answer.ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

fn bytes(message: &Message) -> io::Result<Vec<u8>> {
    message.to_vec().map_err(io::Error::other)
}

/// Whether the bytes have the id of this request.
fn is_for(bytes: &[u8], request: &Message) -> bool {
    bytes.starts_with(&request.metadata.id.to_be_bytes())
}

/// Reads a message. A fault in the sections that only accompany an answer does not make the answer useless, nor does one record
/// of the answer that cannot be read. Of an answer that was cut, some servers send what fits, up to the middle of a record: only
/// the question counts, since the whole answer is asked for.
fn read(bytes: &mut [u8]) -> Option<Message> {
    Message::from_vec(bytes).ok().or_else(|| {
        bytes.get_mut(OPTIONAL_COUNTS)?.fill(0);
        if bytes[FLAGS] & TRUNCATED > 0 {
            bytes[ANSWER_COUNT].fill(0);
        }
        Message::from_vec(bytes).ok().or_else(|| read_in_part(bytes))
    })
}

/// Reads a message of a question and answers, of which some cannot be read: these become records of a type that nobody knows.
/// They keep their places, to which other records may point.
fn read_in_part(bytes: &mut [u8]) -> Option<Message> {
    let count = u16::from_be_bytes([*bytes.get(ANSWER_COUNT.start)?, bytes[ANSWER_COUNT.start + 1]]);
    if count > MOST_REPAIRED {
        return None;
    }
    bytes[ANSWER_COUNT].fill(0);
    let question = Message::from_vec(bytes).ok()?;
    let mut at = HEADER;
    for _ in &question.queries {
        at = name_end(bytes, at)? + 4;
    }
    for number in 1..=count {
        bytes[ANSWER_COUNT].copy_from_slice(&number.to_be_bytes());
        let kind = name_end(bytes, at)?;
        if Message::from_vec(bytes).is_err() {
            bytes.get_mut(kind..kind + 2)?.copy_from_slice(&UNKNOWN_TYPE.to_be_bytes());
        }
        let length = bytes.get(kind + 8..kind + 10)?;
        at = kind + 10 + usize::from(u16::from_be_bytes([length[0], length[1]]));
    }
    Message::from_vec(bytes).ok()
}

/// The offset after the name at this offset (RFC 1035 §4.1.4).
fn name_end(bytes: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match *bytes.get(at)? {
            0 => return Some(at + 1),
            // A pointer ends a name.
            0xc0.. => return Some(at + 2),
            length => at += 1 + usize::from(length),
        }
    }
}

/// Whether it answers this request. A server that cannot read a request may repeat nothing of it but the id.
fn is_answer(answer: &Message, request: &Message) -> bool {
    let (asked, answered) = (&request.queries[0], answer.queries.first());
    answer.metadata.message_type == MessageType::Response
        && answer.metadata.id == request.metadata.id
        && match answered {
            Some(answered) => {
                answered.name().eq_ignore_root(asked.name())
                    && answered.query_type() == asked.query_type()
                    && answered.query_class() == asked.query_class()
            }
            None => answer.metadata.response_code != ResponseCode::NoError,
        }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hickory_proto::op::OpCode;
    use hickory_proto::rr::rdata::{A, CNAME};
    use hickory_proto::rr::{Name, RData, Record};
    use proptest::prelude::*;

    /// An answer with an alias and two addresses.
    fn answer() -> Vec<u8> {
        let name = |text: &str| Name::from_ascii(text).unwrap();
        let mut message = Message::response(7, OpCode::Query);
        message.metadata.message_type = MessageType::Response;
        message
            .queries
            .push(hickory_proto::op::Query::query(name("a.lab."), hickory_proto::rr::RecordType::A));
        message.answers.push(Record::from_rdata(name("a.lab."), 1, RData::CNAME(CNAME(name("b.a.lab.")))));
        for last in [1, 2] {
            let data = RData::A(A(Ipv4Addr::new(10, 0, 0, last)));
            message.answers.push(Record::from_rdata(name("b.a.lab."), 1, data));
        }
        message.to_vec().unwrap()
    }

    fn addresses(bytes: &mut [u8]) -> Option<Vec<IpAddr>> {
        Some(read(bytes)?.answers.iter().filter_map(|record| record.data.ip_addr()).collect())
    }

    #[test]
    fn an_answer_is_used_although_one_of_its_records_cannot_be_read() {
        let (one, two) = (IpAddr::from([10, 0, 0, 1]), IpAddr::from([10, 0, 0, 2]));
        assert_eq!(addresses(&mut answer()), Some(vec![one, two]));
        // The length of the first address becomes 3, and one byte goes.
        let mut bytes = answer();
        let at = bytes.windows(6).position(|bytes| bytes == [0, 4, 10, 0, 0, 1]).unwrap();
        bytes[at + 1] = 3;
        bytes.remove(at + 5);
        assert!(Message::from_vec(&bytes).is_err());
        assert_eq!(addresses(&mut bytes), Some(vec![two]));
        bytes.truncate(at);
        assert_eq!(addresses(&mut bytes), None);
    }

    #[test]
    fn of_an_answer_that_was_cut_in_the_middle_of_a_record_the_question_is_read() {
        let mut bytes = answer();
        bytes.truncate(bytes.len() - 3);
        bytes[FLAGS] |= TRUNCATED;
        let read = read(&mut bytes).unwrap();
        assert!(read.metadata.truncation && read.answers.is_empty());
        assert_eq!(read.queries[0].name().to_ascii(), "a.lab.");
    }

    proptest! {
        #[test]
        fn damaged_answers_never_panic(at in any::<prop::sample::Index>(), byte in any::<u8>(), end in any::<prop::sample::Index>()) {
            let mut bytes = answer();
            let (at, end) = (at.index(bytes.len()), end.index(bytes.len() + 1));
            bytes[at] = byte;
            bytes.truncate(end);
            let _ = read(&mut bytes);
        }
    }
}
