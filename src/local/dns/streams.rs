//! Questions by TCP (RFC 7766): each is preceded by its length; several are answered at a time, in the order in which the
//! answers arrive.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, BytesMut};
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, sleep_until, timeout};

use super::NameServer;
use crate::memory::Tally;
use crate::net;
use crate::wire::dns::{Decision, encode};

/// How long a connection may be idle (RFC 7766 §6.2.3), and how long one message may take.
const IDLE: Duration = Duration::from_secs(10);
/// Maximum number of questions of one connection that are answered at a time; further ones are not read meanwhile.
const MOST_AT_A_TIME: usize = 32;
/// What a question that is being answered holds, in bytes.
const QUESTION: usize = 8 * 1024;

impl NameServer {
    /// Accepts connections until the node drains.
    pub(super) async fn serve_streams(self: Arc<Self>, listener: TcpListener) {
        let drain = &self.local.drain;
        loop {
            let accepted = async {
                let place =
                    self.connections.clone().acquire_owned().await.expect("the semaphore is never closed");
                (place, net::accept(&listener).await)
            };
            let (place, (socket, app)) = tokio::select! {
                accepted = accepted => accepted,
                () = drain.cancelled() => return,
            };
            let server = self.clone();
            self.local.tasks.spawn(async move {
                if let Err(error) = server.serve_stream(socket).await {
                    tracing::debug!(%app, %error, "a DNS connection ended");
                }
                drop(place);
            });
        }
    }

    async fn serve_stream(self: &Arc<Self>, mut socket: TcpStream) -> io::Result<()> {
        // Fails only on a connection that is gone, which the first read shows.
        let _ = socket.set_nodelay(true);
        let (mut reader, mut writer) = socket.split();
        let (mut buffer, mut ended) = (BytesMut::with_capacity(512), false);
        let mut answers = FuturesUnordered::new();
        let account = self.local.routes.memory.account();
        let mut held = Tally::of(&account);
        // A message that arrives slowly does not extend it.
        let mut until = Instant::now() + IDLE;
        loop {
            while answers.len() < MOST_AT_A_TIME
                && let Some(message) = next_message(&mut buffer)
            {
                let decision = Decision::of(&message);
                self.counts.question("tcp", &decision);
                if matches!(decision, Decision::Ignore) {
                    return Ok(());
                }
                answers.push(self.answer_framed(decision));
                until = Instant::now() + IDLE;
            }
            if ended && answers.is_empty() {
                return Ok(());
            }
            held.set(buffer.capacity() + answers.len() * QUESTION);
            let has_room = answers.len() < MOST_AT_A_TIME;
            tokio::select! {
                Some(answer) = answers.next(), if !answers.is_empty() => {
                    timeout(IDLE, writer.write_all(&answer)).await??;
                    until = Instant::now() + IDLE;
                }
                read = reader.read_buf(&mut buffer), if has_room && !ended => ended = read? == 0,
                () = account.evicted() => return Ok(()),
                () = sleep_until(until), if answers.is_empty() => return Ok(()),
                () = self.local.drain.cancelled(), if answers.is_empty() => return Ok(()),
            }
        }
    }

    /// The answer to a question that was asked by HTTP; `None` if the bytes are no DNS question.
    pub async fn answer_to(self: &Arc<Self>, question: &[u8]) -> Option<Vec<u8>> {
        let decision = Decision::of(question);
        self.counts.question("http", &decision);
        self.answer_decided(decision).await
    }

    async fn answer_decided(self: &Arc<Self>, decision: Decision) -> Option<Vec<u8>> {
        match decision {
            Decision::Ignore => None,
            Decision::Answer(_, _, answer) => Some(answer),
            Decision::Ask(query) => Some(encode(&match self.stream_queries.clone().try_acquire_owned() {
                Ok(place) => self.answer(*query, place).await,
                Err(_) => self.excess(&query),
            })),
        }
    }

    /// The answer, preceded by its length.
    async fn answer_framed(self: &Arc<Self>, decision: Decision) -> Vec<u8> {
        let Some(answer) = self.answer_decided(decision).await else { return Vec::new() };
        let length = u16::try_from(answer.len()).expect("encoded into at most 65,535 bytes");
        [&length.to_be_bytes()[..], &answer].concat()
    }
}

/// Takes a complete message out of what has arrived (RFC 1035 §4.2.2).
fn next_message(buffer: &mut BytesMut) -> Option<BytesMut> {
    let length = u16::from_be_bytes(*buffer.first_chunk()?).into();
    if buffer.len() < 2 + length {
        return None;
    }
    buffer.advance(2);
    Some(buffer.split_to(length))
}
