//! What a session writes to and reads from: a tunnel of a link, or a connection of this machine's own.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::Poll;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use tokio::net::TcpStream;

use crate::link::alive::Pulse;
use crate::link::client::LinkTunnel;
use crate::link::http2;
use crate::link::relay::is_link_lost;
use crate::link::tunnel::{Inbox, Outbox};
use crate::net;

/// One direct read takes at most so many bytes.
const READ: usize = 64 * 1024;

/// The way to one server.
pub enum Upstream {
    /// Over a link; with the gateway's name.
    Link(Box<LinkTunnel>, String),
    /// From this machine.
    Direct(TcpStream),
}

/// The upstream broke: what came before is not the whole.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The tunnel or its link.
    #[error("the tunnel broke")]
    Tunnel(#[from] http2::Error),
    /// The connection.
    #[error("the connection to the server broke")]
    Socket(#[from] io::Error),
}

impl UpstreamError {
    /// True when the link has failed, and not this tunnel alone.
    pub fn is_link_lost(&self) -> bool {
        matches!(self, Self::Tunnel(error) if is_link_lost(error))
    }
}

/// Towards the server.
pub enum Out<'a> {
    /// Over a link.
    Link(&'a mut Outbox),
    /// Directly.
    Direct(&'a TcpStream),
}

/// From the server.
pub enum In<'a> {
    /// Over a link.
    Link(&'a mut Inbox),
    /// Directly.
    Direct(&'a TcpStream),
}

impl Upstream {
    /// The gateway's name, or "direct".
    pub fn gateway(&self) -> &str {
        match self {
            Self::Link(_, gateway) => gateway,
            Self::Direct(_) => "direct",
        }
    }

    /// Waits until the server says something or hangs up, while nothing is asked of it.
    pub async fn until_stale(&mut self) {
        match self {
            Self::Link(tunnel, _) => drop(poll_fn(|cx| tunnel.stream.inbox.poll_fill(cx)).await),
            Self::Direct(server) => drop(server.peek(&mut [0]).await),
        }
    }

    /// Ends it orderly, after a complete exchange: the server reads an end and not a failure.
    pub fn end(self) {
        if let Self::Link(mut tunnel, _) = self {
            // Fails only on a tunnel that has ended anyway.
            let _ = tunnel.stream.outbox.finish();
        }
    }

    /// The pulse of the link that it goes over, if it does, and where that link's gateway listens.
    pub fn link(&self) -> Option<(Arc<Pulse>, SocketAddr)> {
        match self {
            Self::Link(tunnel, _) => Some((tunnel.stream.pulse().clone(), tunnel.gateway)),
            Self::Direct(_) => None,
        }
    }

    /// Both directions, to be used at the same time.
    pub fn halves(&mut self) -> (Out<'_>, In<'_>) {
        match self {
            Self::Link(tunnel, _) => {
                (Out::Link(&mut tunnel.stream.outbox), In::Link(&mut tunnel.stream.inbox))
            }
            Self::Direct(server) => (Out::Direct(server), In::Direct(server)),
        }
    }

    /// True when the server has said something or hung up while nothing was asked of it: a connection that was
    /// kept open is no longer of use.
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
        }
    }
}

impl Out<'_> {
    /// Sends all of `data`.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn send(&mut self, data: Bytes) -> Result<(), UpstreamError> {
        match self {
            Self::Link(outbox) => Ok(outbox.send(data).await?),
            Self::Direct(server) => Ok(net::write_all(server, &data).await?),
        }
    }
}

impl In<'_> {
    /// The next bytes; `None` at the orderly end.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub async fn next(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match self {
            Self::Link(inbox) => Ok(inbox.next().await?),
            Self::Direct(server) => {
                let mut buffer = BytesMut::new();
                let count = net::read_some(server, &mut buffer, READ).await?;
                Ok((count > 0).then(|| buffer.freeze()))
            }
        }
    }

    /// Does `work` (writing to the app) while what arrives is taken over, so that an app that stalls never holds
    /// frames inside the link. When the upstream breaks meanwhile, a `patient` caller has its work finished and
    /// the error given by [`In::next`].
    ///
    /// # Errors
    /// [`UpstreamError`], which leaves `work` undone.
    pub async fn while_filling<T>(
        &mut self,
        work: impl Future<Output = T>,
        patient: bool,
    ) -> Result<T, UpstreamError> {
        let mut work = std::pin::pin!(work);
        poll_fn(|cx| {
            if let Poll::Ready(done) = work.as_mut().poll(cx) {
                return Poll::Ready(Ok(done));
            }
            let Self::Link(inbox) = self else { return Poll::Pending };
            if inbox.poll_condemned(cx) {
                return Poll::Ready(Err(http2::Error::from(http2::Reason::ENHANCE_YOUR_CALM).into()));
            }
            while !inbox.has_ended() {
                match inbox.poll_fill(cx) {
                    Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(error)) if patient => inbox.fail_later(error),
                    Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                    Poll::Pending => break,
                }
            }
            Poll::Pending
        })
        .await
    }
}
