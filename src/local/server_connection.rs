//! The connection to a server: a tunnel of a link, a socket of this machine, or this node's own gateway.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::net::TcpStream;

use crate::link::alive::LinkState;
use crate::link::client::LinkTunnel;
use crate::link::http2;
use crate::link::pipe::{self, Pipe};
use crate::link::relay::{is_cut, is_link_lost};
use crate::link::tunnel::{Inbox, Outbox};
use crate::net;
use crate::wire::id::NodeId;

/// The maximum of one read from a socket, in bytes.
const READ: usize = 64 * 1024;

/// The connection to one server.
pub enum ServerConnection {
    /// A tunnel of a link, and the name of its gateway.
    Link(Box<LinkTunnel>, String),
    /// A socket of this machine.
    Direct(TcpStream),
    /// A stream of plain requests to the gateway of this node, which may answer them from its cache.
    Own(Pipe),
}

/// The connection to the server broke: what was received is incomplete.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The tunnel or its link broke.
    #[error("{}", why_broken(.0))]
    Tunnel(#[from] http2::Error),
    /// The socket broke.
    #[error("the connection to the server broke")]
    Socket(#[from] io::Error),
    /// The gateway of this node broke it.
    #[error("the connection to the server broke")]
    Own(#[from] pipe::Broken),
}

impl ServerError {
    /// Whether the whole link failed, not only this tunnel.
    pub fn is_link_lost(&self) -> bool {
        matches!(self, Self::Tunnel(error) if is_link_lost(error))
    }

    /// Whether the gateway says that its uplink no longer carries anything to the server.
    pub fn is_cut(&self) -> bool {
        matches!(self, Self::Tunnel(error) if is_cut(error))
    }
}

/// What has happened to a tunnel, as the gateway tells it by the code of its reset.
fn why_broken(error: &http2::Error) -> &'static str {
    match error {
        error if is_link_lost(error) => "the link to the gateway broke",
        error if is_cut(error) => "the way from the gateway to the server is cut",
        error if error.reason() == Some(http2::Reason::ENHANCE_YOUR_CALM) => "given up for want of memory",
        _ => "the server broke the connection, or closed it too early",
    }
}

/// The direction towards the server.
pub enum ToServer<'a> {
    /// Over a link.
    Link(&'a mut Outbox),
    /// From this machine.
    Direct(&'a TcpStream),
    /// By the gateway of this node.
    Own(&'a mut pipe::Sender),
}

/// The direction from the server.
pub enum FromServer<'a> {
    /// Over a link.
    Link(&'a mut Inbox),
    /// To this machine.
    Direct(&'a TcpStream),
    /// By the gateway of this node.
    Own(&'a mut pipe::Receiver),
}

impl ServerConnection {
    /// The gateway's name, or "direct".
    pub fn gateway(&self) -> &str {
        match self {
            Self::Link(_, gateway) => gateway,
            Self::Direct(_) | Self::Own(_) => "direct",
        }
    }

    /// The gateway that carries it; `None` for a direct connection.
    pub fn gateway_id(&self) -> Option<NodeId> {
        match self {
            Self::Link(tunnel, _) => Some(tunnel.id),
            Self::Direct(_) | Self::Own(_) => None,
        }
    }

    /// The state of its link and the address at which that link's gateway listens; `None` for a direct connection.
    pub fn link(&self) -> Option<(Arc<LinkState>, SocketAddr)> {
        match self {
            Self::Link(tunnel, _) => Some((tunnel.stream.link_state().clone(), tunnel.gateway)),
            Self::Direct(_) | Self::Own(_) => None,
        }
    }

    /// Both directions, for use at the same time.
    pub fn halves(&mut self) -> (ToServer<'_>, FromServer<'_>) {
        match self {
            Self::Link(tunnel, _) => {
                (ToServer::Link(&mut tunnel.stream.outbox), FromServer::Link(&mut tunnel.stream.inbox))
            }
            Self::Direct(server) => (ToServer::Direct(server), FromServer::Direct(server)),
            Self::Own(Pipe { sender, receiver }) => (ToServer::Own(sender), FromServer::Own(receiver)),
        }
    }

    /// True when an idle connection cannot be reused: the server has closed it, or has sent bytes without a request.
    pub fn is_stale(&mut self) -> bool {
        match self {
            Self::Link(tunnel, _) => {
                let inbox = &mut tunnel.stream.inbox;
                poll_fn(|cx| inbox.poll_fill(cx)).now_or_never().is_some()
            }
            Self::Direct(server) => match server.try_read(&mut [0]) {
                Err(error) => error.kind() != io::ErrorKind::WouldBlock,
                Ok(_) => true,
            },
            Self::Own(pipe) => pipe.receiver.is_stale(),
        }
    }

    /// Waits until [`ServerConnection::is_stale`] would be true.
    pub async fn until_stale(&mut self) {
        match self {
            Self::Link(tunnel, _) => drop(poll_fn(|cx| tunnel.stream.inbox.poll_fill(cx)).await),
            Self::Direct(server) => drop(server.peek(&mut [0]).await),
            Self::Own(pipe) => pipe.receiver.stale().await,
        }
    }

    /// Waits until something has come from the server. False when the connection has ended without that.
    pub async fn until_answer(&mut self) -> bool {
        match self {
            Self::Link(tunnel, _) => {
                let inbox = &mut tunnel.stream.inbox;
                let filled = poll_fn(|cx| inbox.poll_fill(cx)).await;
                filled.is_ok() && !inbox.is_empty()
            }
            Self::Direct(server) => matches!(server.peek(&mut [0]).await, Ok(1..)),
            Self::Own(pipe) => {
                pipe.receiver.stale().await;
                true
            }
        }
    }

    /// Closes the connection in an orderly way after a complete exchange: the server reads an end and not a reset.
    pub fn close(self) {
        match self {
            Self::Link(mut tunnel, _) => {
                // Fails only on a tunnel that has ended already.
                let _ = tunnel.stream.outbox.finish();
            }
            Self::Own(mut pipe) => pipe.sender.finish(),
            Self::Direct(_) => {}
        }
    }
}

impl ToServer<'_> {
    /// Sends all of `data`.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn send(&mut self, data: Bytes) -> Result<(), ServerError> {
        match self {
            Self::Link(outbox) => Ok(outbox.send(data).await?),
            Self::Direct(server) => Ok(net::write_all(server, &data).await?),
            Self::Own(sender) => Ok(sender.send(data).await?),
        }
    }
}

impl FromServer<'_> {
    /// The next bytes; `None` at the orderly end.
    ///
    /// # Errors
    /// [`ServerError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, ServerError> {
        match self {
            Self::Link(inbox) => Ok(inbox.next().await?),
            Self::Direct(server) => {
                let mut buffer = BytesMut::new();
                let count = net::read_some(server, &mut buffer, READ).await?;
                Ok((count > 0).then(|| buffer.freeze()))
            }
            Self::Own(receiver) => Ok(receiver.next().await?),
        }
    }

    /// The state of its link; `None` for a direct connection.
    pub fn link_state(&self) -> Option<&Arc<LinkState>> {
        match self {
            Self::Link(inbox) => Some(inbox.link_state()),
            Self::Direct(_) | Self::Own(_) => None,
        }
    }

    /// Ends the stream of a link, because nothing more of it is wanted.
    pub fn cancel(&mut self) {
        if let Self::Link(inbox) = self {
            inbox.cancel();
        }
    }

    /// Runs `work` (writing to the app) and meanwhile takes what arrives out of the link, so that a stalled app never
    /// holds frames inside the link. When the connection to the server breaks meanwhile: with `finish_work`, `work` is
    /// finished and [`FromServer::next`] gives the error afterwards.
    ///
    /// # Errors
    /// [`ServerError`]; `work` is then incomplete.
    pub async fn while_filling<T>(
        &mut self,
        work: impl Future<Output = T>,
        finish_work: bool,
    ) -> Result<T, ServerError> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let Self::Link(inbox) = self else { return Poll::Pending };
            if inbox.poll_evicted(cx) {
                return Poll::Ready(Err(http2::Error::from(http2::Reason::ENHANCE_YOUR_CALM).into()));
            }
            while !inbox.has_ended() {
                match inbox.poll_fill(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) if finish_work => inbox.fail_later(error),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_of_one_stream_is_the_servers_end_and_not_the_links() {
        let said = |error: http2::Error| ServerError::from(error).to_string();
        let of_stream = |reason: http2::Reason| said(reason.into());
        let by_server = "the server broke the connection, or closed it too early";
        assert_eq!(of_stream(http2::Reason::CANCEL), by_server);
        assert_eq!(of_stream(http2::Reason::CONNECT_ERROR), "the way from the gateway to the server is cut");
        assert_eq!(of_stream(http2::Reason::ENHANCE_YOUR_CALM), "given up for want of memory");
        assert_eq!(said(http2::Error::GoAway(http2::Reason::NO_ERROR)), "the link to the gateway broke");
    }
}
