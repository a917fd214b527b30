//! One question to one name server: by UDP, and by TCP where the answer does not fit (RFC 7766 §5).

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use hickory_proto::op::{Message, MessageType, ResponseCode};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UdpSocket;

use crate::mark;
use crate::wire::dns::{LONGEST, Query};

/// Number of answers in a row that arrived only without EDNS, after which the server is asked without it.
const STRIKES: u8 = 3;
/// Offset of the counts of the authority and additional sections in a message (RFC 1035 §4.1.1).
const OPTIONAL_COUNTS: std::ops::Range<usize> = 8..12;

/// A name server.
#[derive(Debug)]
pub(super) struct Server {
    address: SocketAddr,
    /// [`STRIKES`] for a server that does not know EDNS.
    strikes: AtomicU8,
}

impl Server {
    pub(super) fn new(address: SocketAddr) -> Self {
        Self { address, strikes: AtomicU8::new(0) }
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
        let socket = UdpSocket::bind((any, 0)).await?;
        socket.connect(self.address).await?;
        socket.send(&bytes(request)?).await?;
        let mut buffer = vec![0; LONGEST];
        loop {
            let length = socket.recv(&mut buffer).await?;
            // Somebody else may have guessed the port: only the right answer ends the wait.
            if is_for(&buffer[..length], request)
                && let Some(answer) = read(&mut buffer[..length])
                && is_answer(&answer, request)
            {
                return Ok(answer);
            }
        }
    }

    async fn by_tcp(&self, request: &Message) -> io::Result<Message> {
        let mut stream = mark::connect(self.address).await?;
        stream.set_nodelay(true)?;
        let request_bytes = bytes(request)?;
        let length = u16::try_from(request_bytes.len()).map_err(io::Error::other)?;
        stream.write_all(&[&length.to_be_bytes()[..], &request_bytes].concat()).await?;
        let mut answer = vec![0; stream.read_u16().await?.into()];
        stream.read_exact(&mut answer).await?;
        let answer = read(&mut answer).filter(|answer| is_answer(answer, request));
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

/// Reads a message. A fault in the sections that only accompany an answer does not make the answer useless.
fn read(bytes: &mut [u8]) -> Option<Message> {
    Message::from_vec(bytes).ok().or_else(|| {
        bytes.get_mut(OPTIONAL_COUNTS)?.fill(0);
        Message::from_vec(bytes).ok()
    })
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
