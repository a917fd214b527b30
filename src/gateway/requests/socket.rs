//! The socket to a server: plain, or under TLS.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::failure::Failure;
use crate::gateway::dial::Dialled;
use crate::gateway::silence::Speech;
use crate::gateway::state::Gateway;
use crate::gateway::tls::SecureStream;
use crate::limits::buffer_pool::PooledBuffer;
use crate::net;
use crate::sys::broken::Break;
use crate::wire::id::NodeId;
use crate::wire::target::Target;

/// The maximum of one read, in bytes.
pub(super) const READ: usize = 256 * 1024;
/// The maximum of the first read of a response, in bytes.
pub(super) const SMALL_READ: usize = 64 * 1024;
/// The maximum of one read under TLS, in bytes: a few records.
const SECURE_READ: usize = 64 * 1024;

/// A socket to a server.
pub(super) enum Socket {
    /// With what a write was told.
    Plain(TcpStream, Break),
    Secure(Box<SecureStream>),
}

impl Socket {
    /// Connects to `target` for a member, with TLS if that `is_secure`. Returns the server's address, too.
    ///
    /// # Errors
    /// Those of [`crate::gateway::egress::Egress::connect`], and those of the TLS handshake.
    pub(super) async fn connect(
        gateway: &Gateway,
        (target, by): (&Target, NodeId),
        is_secure: bool,
    ) -> Result<(Self, SocketAddr), Failure> {
        let Dialled { stream: socket, peer } = gateway.egress.connect(target, by).await?;
        // It carries one request after the other.
        net::keep_alive(&socket);
        let socket = match is_secure {
            false => Self::Plain(socket, Break::default()),
            true => Self::Secure(Box::new(gateway.tls.connect(socket, target).await?)),
        };
        Ok((socket, peer))
    }

    /// Whether it is spoken to over TLS.
    pub(super) fn is_secure(&self) -> bool {
        matches!(self, Self::Secure(_))
    }

    fn tcp(&self) -> &TcpStream {
        match self {
            Self::Plain(socket, _) => socket,
            Self::Secure(stream) => stream.socket(),
        }
    }

    /// Reads what is there.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(socket, _) => socket.try_read(buffer),
            Self::Secure(stream) => stream.try_read(buffer),
        }
    }

    /// Waits until there is something to read, except under TLS.
    pub(super) async fn ready(&self) -> io::Result<()> {
        match self {
            Self::Plain(socket, _) => socket.readable().await,
            Self::Secure(_) => Ok(()),
        }
    }

    /// Waits for data and reads at most `most` bytes; 0 at the end.
    pub(super) async fn read_some(&self, buffer: &mut BytesMut, most: usize) -> io::Result<usize> {
        match self {
            Self::Plain(socket, broken) => broken.checked(net::read_some(socket, buffer, most).await?),
            Self::Secure(_) => self.append_to(buffer).await,
        }
    }

    /// Waits for data and adds it to `buffer`, without room for more than that; 0 at the end.
    pub(super) async fn append_to(&self, buffer: &mut BytesMut) -> io::Result<usize> {
        let (socket, broken) = match self {
            Self::Plain(socket, broken) => (socket, broken),
            Self::Secure(stream) => {
                let (mut read, count) = stream.read(SECURE_READ).await?;
                buffer.extend_from_slice(&read.room()[..count]);
                return Ok(count);
            }
        };
        tokio::task::consume_budget().await;
        loop {
            socket.readable().await?;
            let mut read = PooledBuffer::take(SMALL_READ);
            match net::try_read(socket, &mut read.room(), SMALL_READ) {
                Ok(count) => {
                    buffer.extend_from_slice(&read.room()[..count]);
                    return broken.checked(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Waits for data, and returns at most `most` bytes of it; none at the end.
    pub(super) async fn next(&self, most: usize) -> io::Result<Bytes> {
        let (socket, broken) = match self {
            Self::Plain(socket, broken) => (socket, broken),
            Self::Secure(stream) => {
                let (read, count) = stream.read(SECURE_READ).await?;
                return Ok(read.fill(count));
            }
        };
        tokio::task::consume_budget().await;
        loop {
            socket.readable().await?;
            let mut buffer = PooledBuffer::take(most);
            match net::try_read(socket, &mut buffer.room(), most) {
                Ok(count) => return Ok(buffer.fill(broken.checked(count)?)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error),
            }
        }
    }

    pub(super) async fn write_all(&self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(socket, broken) => {
                net::write_all(socket, bytes).await.inspect_err(|error| broken.note(error))
            }
            Self::Secure(stream) => stream.write_all(bytes).await,
        }
    }

    /// Ends this direction.
    pub(super) fn shutdown_write(&self) {
        match self {
            // Fails only on a socket that is gone, which the other direction notices.
            Self::Plain(socket, _) => drop(net::shutdown_write(socket)),
            Self::Secure(stream) => stream.close(),
        }
    }

    /// Limits how long what was sent may stay unacknowledged, or removes the limit.
    pub(super) fn limit_unacknowledged(&self, limit: Option<Duration>) {
        net::limit_unacknowledged(self.tcp(), limit);
    }

    /// For how long the server's machine has acknowledged nothing of what was sent.
    pub(super) fn unacknowledged(&self) -> Option<Duration> {
        net::unacknowledged(self.tcp())
    }

    /// How many bytes the server's machine has acknowledged.
    pub(super) fn acknowledged(&self) -> u64 {
        net::acknowledged(self.tcp())
    }

    /// For how long nothing was sent, at most since `since`.
    pub(super) fn quiet(&self, since: Instant) -> Duration {
        let waited = since.elapsed();
        net::quiet(self.tcp()).map_or(waited, |quiet| quiet.min(waited))
    }

    /// The protocol below the requests.
    pub(super) fn speech(&self) -> Speech {
        match self {
            Self::Plain(..) => Speech::Http,
            Self::Secure(_) => Speech::Tls,
        }
    }

    pub(super) fn reset_on_drop(&self) {
        net::reset_on_drop(self.tcp());
    }

    pub(super) fn end_orderly(&self) {
        net::end_orderly(self.tcp());
    }
}
