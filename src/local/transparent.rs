//! Connections of apps that know nothing of a proxy: the system has led them here (`redirect`), and tells where they
//! were going. By address, or by the name that the app's first bytes tell.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::listener::{App, Local};
use super::session::Tunnelled;
use super::upstream::Upstream;
use crate::failure::{Failure, Kind};
use crate::link::relay::ReplayBuffer;
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::Refusal;
use crate::wire::first::{MAX_FIRST, Named, named};
use crate::wire::replay;
use crate::wire::target::{Host, Target};

/// How long an app may take to say a name, in all. In some protocols the server speaks first: then nothing comes.
const SILENCE: Duration = Duration::from_millis(300);

/// Serves one app until it is a tunnel. With `by_name` the name in its first bytes is preferred to the address; without,
/// it is what is left when the gateway can make nothing of the address.
pub async fn serve(local: &Local, app: App, by_name: bool) -> Option<Box<Tunnelled>> {
    let App { socket, peer, handshake } = app;
    // What it has to say has its own bound.
    drop(handshake);
    let id = local.id();
    let mut record = Record::of_app(&local.telemetry, id, "transparent", peer.to_string());
    let Some(address) = net::original_destination(&socket) else {
        record.refused(Refusal::Loop, "refused: it was made to this port itself, and leads nowhere");
        net::reset(socket);
        return None;
    };
    let mut way = Way { local, socket: &socket, id, address, early: BytesMut::new(), target: address.into() };
    let opened = if by_name { way.open_by_name().await } else { None };
    let opened = match opened {
        Some(opened) => opened,
        None => way.open(address.into()).await,
    };
    let opened = match opened {
        Err(failure) if !by_name && is_of_the_address(&failure) => {
            way.open_by_name().await.unwrap_or(Err(failure))
        }
        opened => opened,
    };
    let Way { early, target, .. } = way;
    record.aims_at(&target);
    match opened {
        Ok(upstream) => {
            let kept = Some(ReplayBuffer::new(&early.freeze()));
            Some(Box::new(Tunnelled { app: socket, target, id, upstream, kept, record }))
        }
        Err(failure) => {
            record.failed(&failure);
            net::reset(socket);
            None
        }
    }
}

/// The way of one app.
struct Way<'a> {
    local: &'a Local,
    socket: &'a TcpStream,
    id: u64,
    /// Where the app believes to be connected to.
    address: SocketAddr,
    /// What it has sent.
    early: BytesMut,
    /// Where it was opened to, or tried last.
    target: Target,
}

impl Way<'_> {
    async fn open(&mut self, target: Target) -> Result<Upstream, Failure> {
        let early = self.early.clone().freeze();
        let safe = replay::is_safe(&early);
        self.target = target;
        self.local.routes.open(&self.target, self.id, early, safe).await
    }

    /// Opens to the name that the app says; `None` when it says none.
    async fn open_by_name(&mut self) -> Option<Result<Upstream, Failure>> {
        let name = timeout(SILENCE, self.read_name()).await.ok()??;
        Some(self.open(Target { host: Host::Name(name), port: self.address.port() }).await)
    }

    async fn read_name(&mut self) -> Option<String> {
        loop {
            match named(&self.early) {
                Named::Name(name) => return Some(name),
                Named::Nameless => return None,
                Named::Unfinished => {}
            }
            // An end or an error is noticed by the tunnel.
            if !matches!(net::read_some(self.socket, &mut self.early, MAX_FIRST).await, Ok(1..)) {
                return None;
            }
        }
    }
}

/// The gateway cannot go to this address, or will not: it may mean something here alone.
fn is_of_the_address(failure: &Failure) -> bool {
    matches!(
        failure.kind,
        Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::ConnectTimeout
            | Kind::AddressForbidden
            | Kind::NameForbidden
    )
}
