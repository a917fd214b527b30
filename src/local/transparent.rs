//! Connections that the system has redirected here (`redirect`) from apps that know of no proxy. The system tells where
//! an app was connecting to; its first bytes may tell the name of the server.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::BytesMut;
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::context::{App, Local, until_given_up};
use super::server_connection::ServerConnection;
use super::session::Session;
use crate::failure::{Failure, Kind, Side};
use crate::link::relay::ReplayBuffer;
use crate::memory::{Account, Tally};
use crate::net;
use crate::telemetry::record::Record;
use crate::telemetry::refusal::RefusalReason;
use crate::wire::first::{MAX_FIRST, NameSearch, ServerName};
use crate::wire::replay;
use crate::wire::target::{Host, Target};

/// How long an app may take in all to send a name. In some protocols the server speaks first, and no name comes.
const NAME_DEADLINE: Duration = Duration::from_millis(300);

/// Serves one app until it has become a session, or is refused. If the node prefers names, the name in the app's first bytes is
/// tried before the address; otherwise after it, if the gateway cannot or must not reach the address.
pub async fn serve(local: &Local, app: App) -> Option<Box<Session>> {
    let by_name = *local.prefers_names.borrow();
    let App { socket, peer, handshake, account } = app;
    // Reading the name has a deadline of its own.
    drop(handshake);
    let id = local.next_id();
    let mut record = Record::of_app(&local.telemetry, id, "transparent", peer.to_string());
    let Some(address) = net::original_destination(&socket) else {
        record.refused(RefusalReason::Loop, "refused: it was made to this port itself, and leads nowhere");
        net::reset(socket);
        return None;
    };
    let mut opening = Opening {
        local,
        app: (&socket, &account),
        id,
        address,
        early: BytesMut::new(),
        held: Tally::of(&account),
        target: address.into(),
    };
    let opened = opening.open(by_name).await;
    let Opening { early, target, .. } = opening;
    record.aims_at(&target);
    match opened {
        Ok(server) => {
            let replay = Some(ReplayBuffer::new(&early.freeze(), &account));
            Some(Session::new((socket, account), target, id, server, replay, record))
        }
        Err(failure) => {
            record.failed(&failure);
            net::reset(socket);
            None
        }
    }
}

/// The opening of one redirected connection.
struct Opening<'a> {
    local: &'a Local,
    /// Its socket, and what it holds.
    app: (&'a TcpStream, &'a Arc<Account>),
    id: u64,
    /// The address that the app connected to.
    address: SocketAddr,
    /// What the app has sent so far.
    early: BytesMut,
    /// The memory of those bytes.
    held: Tally,
    /// The target that was opened, or tried last.
    target: Target,
}

impl Opening<'_> {
    async fn open(&mut self, by_name: bool) -> Result<ServerConnection, Failure> {
        if by_name && let Some(opened) = self.open_by_name().await {
            return opened;
        }
        match self.open_target(self.address.into()).await {
            Err(failure) if !by_name && concerns_address(&failure) => {
                self.open_by_name().await.unwrap_or(Err(failure))
            }
            opened => opened,
        }
    }

    async fn open_target(&mut self, target: Target) -> Result<ServerConnection, Failure> {
        let early = self.early.clone().freeze();
        let is_safe = replay::is_safe(&early);
        self.target = target;
        let (app, account) = self.app;
        tokio::select! {
            biased;
            opened = self.local.routes.open(&self.target, self.id, early, is_safe, account) => opened,
            // It may have waited long for a gateway, and may repeat by itself what it has given up.
            () = until_given_up(app) => {
                let sentence = format!("the app closed its connection before there was one to {}", self.target);
                Err(Failure::new(Kind::Terminated, Side::Local, sentence))
            }
        }
    }

    /// Opens the name in the app's first bytes; `None` when they have none.
    async fn open_by_name(&mut self) -> Option<Result<ServerConnection, Failure>> {
        let name = timeout(NAME_DEADLINE, self.read_name()).await.ok()??;
        Some(self.open_target(Target { host: Host::Name(name), port: self.address.port() }).await)
    }

    async fn read_name(&mut self) -> Option<String> {
        let mut search = NameSearch::default();
        loop {
            match search.search(&self.early) {
                ServerName::Found(name) => return Some(name),
                ServerName::Absent => return None,
                ServerName::Incomplete => {}
            }
            // The session notices an end or an error.
            let read = net::read_some(self.app.0, &mut self.early, MAX_FIRST).await;
            self.held.set(self.early.len());
            if !matches!(read, Ok(1..)) {
                return None;
            }
        }
    }
}

/// Whether the gateway cannot reach the address, or must not: the address may be valid on this machine only.
fn concerns_address(failure: &Failure) -> bool {
    matches!(
        failure.kind,
        Kind::NetworkUnreachable
            | Kind::HostUnreachable
            | Kind::ConnectTimeout
            | Kind::AddressForbidden
            | Kind::NameForbidden
    )
}
