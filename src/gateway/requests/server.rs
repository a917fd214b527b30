//! A connection to a server, for plain requests.

use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Method;
use tokio::time::{Instant, sleep};

use super::asker::beyond;
use super::socket::{READ, SMALL_READ, Socket};
use crate::failure::Failure;
use crate::gateway::egress::Egress;
use crate::gateway::silence::{Facts, Reported, UNACKNOWLEDGED};
use crate::gateway::state::Gateway;
use crate::limits::buffer_pool::{PooledBuffer, detached};
use crate::link::unanswered::{FIRST_LOOK, INTERVAL};
use crate::memory::{Account, Tally};
use crate::wire::http::{
    BodyLength, ChunkedDecoder, MAX_HEAD, ResponseHead, Step, head_end, may_begin_response,
};
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// How many reads a close takes at most. Hundreds of connections may be closed at once, one after the other on a thread that
/// serves other clients, too; and a server that has sent as much has read the request.
const MOST_DISCARDED: usize = 2;
/// What rustls holds of a connection: a handshake message that is not whole or the server's certificates, and later a record each
/// way.
const TLS: usize = 64 * 1024;

/// A connection to a server.
pub(super) struct Server {
    socket: Arc<Socket>,
    egress: Arc<Egress>,
    target: Target,
    /// The member that it was made for.
    by: NodeId,
    /// The server's address.
    pub(super) address: SocketAddr,
    /// It has carried a response before.
    pub(super) is_used: bool,
    /// It has carried a member's request that the server may see end elsewhere than this gateway does: one with a body, which
    /// some servers leave unread, or with another method than GET. The next response may answer a part of that body.
    pub(super) is_private: bool,
    /// What has been received and not been consumed.
    pub(super) buffer: BytesMut,
    /// The memory of the buffer, and of TLS.
    held: Tally,
}

/// The beginning of a response.
pub(super) enum Head {
    /// A head, as it was received and as it is understood.
    Read(BytesMut, Box<ResponseHead>),
    /// Something else: what was received so far.
    Unclear(Bytes),
    /// The connection ended before anything came.
    Nothing(Option<io::Error>),
}

impl Head {
    /// Whether the server's machine has not even acknowledged the request.
    pub(super) fn is_unacknowledged(&self) -> bool {
        let Self::Nothing(Some(error)) = self else { return false };
        // A router's error takes the place of the timeout.
        use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
        matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable)
    }
}

/// How much of a body is still to come.
pub(super) enum Rest {
    Exact(u64),
    Chunked(Box<ChunkedDecoder>),
}

/// The body ended too early, or its chunks are malformed.
pub(super) struct Cut;

/// Closed in good order: the server has the whole request. What it has sent meanwhile is read first, because a close with
/// unread bytes would be a reset.
impl Drop for Server {
    fn drop(&mut self) {
        discard(|rest| self.socket.try_read(rest));
    }
}

/// Reads what is there, up to a bound.
fn discard(mut read: impl FnMut(&mut [u8]) -> io::Result<usize>) {
    let mut rest = PooledBuffer::take(SMALL_READ);
    for _ in 0..MOST_DISCARDED {
        if !read(&mut rest.room()[..SMALL_READ]).is_ok_and(|count| count > 0) {
            break;
        }
    }
}

impl Server {
    /// Connects to `target` for a member, with TLS if that `is_secure`. What the connection holds is charged to `account`.
    ///
    /// # Errors
    /// Those of [`Socket::connect`].
    pub(super) async fn connect(
        gateway: &Gateway,
        (target, by): (&Target, NodeId),
        is_secure: bool,
        account: &Arc<Account>,
    ) -> Result<Self, Failure> {
        let mut held = Tally::of(account);
        held.set(if is_secure { TLS } else { 0 });
        let (socket, address) = Socket::connect(gateway, (target, by), is_secure).await?;
        socket.limit_unacknowledged(Some(UNACKNOWLEDGED));
        Ok(Self {
            address,
            egress: gateway.egress.clone(),
            target: target.clone(),
            by,
            socket: Arc::new(socket),
            is_used: false,
            is_private: false,
            buffer: BytesMut::new(),
            held,
        })
    }

    /// The connection after a complete exchange.
    pub(super) fn used(mut self) -> Self {
        self.is_used = true;
        self
    }

    /// Charges what the connection holds to another account from now on.
    pub(super) fn charge_to(&mut self, account: &Arc<Account>) {
        self.held.charge_to(account);
    }

    /// Keeps bytes that were received with others.
    pub(super) fn keep(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
        self.count();
    }

    /// Cuts off and keeps what follows the first `left` bytes. Returns how many of those `bytes` has.
    pub(super) fn cut(&mut self, bytes: &mut Bytes, left: u64) -> u64 {
        let ours = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
        if ours < bytes.len() {
            self.keep(&bytes.split_off(ours));
            *bytes = detached(std::mem::take(bytes), READ);
        }
        ours as u64
    }

    /// Notes how much memory the connection holds.
    fn count(&mut self) {
        self.held.set(memory(&self.socket, &self.buffer));
    }

    /// Whether an idle connection cannot be used again: the server has closed it, or has sent something without a request.
    pub(super) fn is_stale(&self) -> bool {
        let silent =
            matches!(self.socket.try_read(&mut [0]), Err(error) if error.kind() == io::ErrorKind::WouldBlock);
        !silent || !self.buffer.is_empty()
    }

    pub(super) async fn send(&self, bytes: &[u8]) -> io::Result<()> {
        self.socket.write_all(bytes).await
    }

    /// The socket, for sending while a response is read.
    pub(super) fn socket(&self) -> Arc<Socket> {
        self.socket.clone()
    }

    /// The next bytes, those in the buffer first; none at the end.
    pub(super) async fn next(&mut self) -> io::Result<Bytes> {
        if !self.buffer.is_empty() {
            let rest = self.buffer.split().freeze();
            return Ok(detached(rest, SMALL_READ));
        }
        ready(&self.socket, &self.held).await?;
        let is_roomy = self.held.account().is_none_or(|account| account.is_roomy());
        self.socket.next(if is_roomy { READ } else { SMALL_READ }).await
    }

    /// Notes that the server has answered.
    pub(super) fn note_answer(&self) {
        self.egress.answered((&self.target, self.by), self.address, self.socket.speech());
    }

    /// Notes that the server's machine has not even acknowledged a request.
    pub(super) fn note_silence(&self) {
        self.egress.is_silent((&self.target, self.by), self.socket.speech(), false);
    }

    /// Reads a head. What follows it stays in the buffer. A request that does not arrive is given up in the end, although the
    /// server itself may take as long as it likes.
    pub(super) async fn head(&mut self, method: &Method) -> Head {
        let mut searched = 0;
        let (since, reported) = (Instant::now(), Reported::default());
        let asked = (&self.target, self.by);
        let mut given_up = pin!(given_up(&self.egress, asked, self.socket.clone(), since, &reported));
        loop {
            if let Some(end) = head_end(&self.buffer, searched) {
                let head = self.buffer.split_to(end);
                return match ResponseHead::parse(&head, method) {
                    Ok(response) => Head::Read(head, Box::new(response)),
                    Err(_) => Head::Unclear(unclear(&head, &mut self.buffer)),
                };
            }
            searched = self.buffer.len();
            if searched >= MAX_HEAD || !may_begin_response(&self.buffer) {
                return Head::Unclear(self.buffer.split().freeze());
            }
            let (socket, held, buffer) = (&self.socket, &self.held, &mut self.buffer);
            let reading = async {
                ready(socket, held).await?;
                socket.append_to(buffer).await
            };
            let read = tokio::select! {
                biased;
                read = reading => read,
                () = &mut given_up => Err(io::ErrorKind::TimedOut.into()),
            };
            match read {
                Ok(0) if self.buffer.is_empty() => return Head::Nothing(None),
                Err(error) if self.buffer.is_empty() => return Head::Nothing(Some(error)),
                Ok(0) | Err(_) => return Head::Unclear(self.buffer.split().freeze()),
                Ok(_) => self.held.set(memory(&self.socket, &self.buffer)),
            }
        }
    }

    /// The next bytes of the content of a body; `None` at its end.
    pub(super) async fn content(&mut self, rest: &mut Rest) -> Result<Option<Bytes>, Cut> {
        match rest {
            Rest::Exact(0) => Ok(None),
            Rest::Exact(left) => {
                let mut bytes = self.next().await.map_err(|_error| Cut)?;
                if bytes.is_empty() {
                    return Err(Cut);
                }
                let ours = self.cut(&mut bytes, *left);
                *left -= ours;
                Ok(Some(bytes))
            }
            Rest::Chunked(decoder) => loop {
                match decoder.decode(&mut self.buffer) {
                    // Most of what was read may be extensions.
                    Ok(Step::Data(data)) => {
                        let data = decoder.gather(data, &mut self.buffer);
                        return Ok(Some(detached(data, READ)));
                    }
                    Ok(Step::Done) => return Ok(None),
                    Ok(Step::NeedMore) => {}
                    Err(_) => return Err(Cut),
                }
                ready(&self.socket, &self.held).await.map_err(|_error| Cut)?;
                match self.socket.read_some(&mut self.buffer, READ).await {
                    Ok(1..) => self.count(),
                    Ok(0) if decoder.may_end() => return Ok(None),
                    Ok(0) | Err(_) => return Err(Cut),
                }
            },
        }
    }
}

/// Waits until there is something to read, and then for memory. Hundreds of servers may answer at the same time.
async fn ready(socket: &Socket, held: &Tally) -> io::Result<()> {
    socket.ready().await?;
    if let Some(account) = held.account() {
        account.may_take().await;
    }
    Ok(())
}

/// What a connection holds, in bytes.
fn memory(socket: &Socket, buffer: &BytesMut) -> usize {
    let tls = if socket.is_secure() { TLS } else { 0 };
    tls + beyond(buffer.capacity())
}

/// What was received: a head, and what follows it.
fn unclear(head: &BytesMut, rest: &mut BytesMut) -> Bytes {
    let mut all = head.clone();
    all.unsplit(rest.split());
    all.freeze()
}

/// Follows a request without an answer. Ready when the request is given up.
async fn given_up(
    egress: &Egress,
    asked: (&Target, NodeId),
    socket: Arc<Socket>,
    since: Instant,
    reported: &Reported,
) {
    // The connection may have carried other requests.
    let before = socket.acknowledged();
    sleep(FIRST_LOOK).await;
    loop {
        let facts = Facts {
            waited: since.elapsed(),
            quiet: socket.quiet(since),
            unacknowledged: socket.unacknowledged(),
            has_worked: socket.acknowledged() > before,
            is_lost: egress.is_lost(),
        };
        if egress.unanswered(asked, socket.speech(), facts, reported) {
            return;
        }
        sleep(INTERVAL).await;
    }
}

impl Rest {
    /// The number of bytes that are still to come, if it is known.
    pub(super) fn left(&self) -> Option<u64> {
        match self {
            Self::Exact(left) => Some(*left),
            Self::Chunked(_) => None,
        }
    }

    /// The rest of a body of this length; `None` if only the end of the connection ends it, so that a body that was cut looks
    /// complete.
    pub(super) fn of(body: BodyLength) -> Option<Self> {
        match body {
            BodyLength::None => Some(Self::Exact(0)),
            BodyLength::Exact(length) => Some(Self::Exact(length)),
            BodyLength::Chunked => Some(Self::Chunked(Box::new(ChunkedDecoder::of_response()))),
            BodyLength::UntilClose => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_close_discards_what_is_there_and_does_not_follow_a_server_that_goes_on() {
        let mut reads = 0;
        discard(|rest| {
            reads += 1;
            Ok(rest.len())
        });
        assert_eq!(reads, MOST_DISCARDED);
        let mut left = vec![7, 0];
        discard(|_| Ok(left.pop().expect("nothing is read after the end")));
        assert_eq!(left, [7]);
    }
}
