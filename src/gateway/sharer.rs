//! Serves pieces of bodies to other members. It knows neither what they belong to nor who fetched it: whoever asks names a piece
//! by its hash. Only membership and the limits of each member decide.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use super::clients::{Admitted, Client, Clients, Limits};
use crate::failure::{Failure, Kind, Side};
use crate::link::handshake::Proved;
use crate::link::incoming::Incoming;
use crate::link::request::RequestKind;
use crate::link::server::ServerLink;
use crate::link::tls;
use crate::memory::{self, Budget, Tally};
use crate::sharing::{Holdings, Waited};
use crate::telemetry::Telemetry;
use crate::trust::membership::Membership;
use crate::wire::sharing::{PIECE, PieceHash};

/// What one member may have asked for at a time: a node asks for four pieces of each body.
const MOST_PIECES: u32 = 32;
/// How many pieces one member may ask for in a second: a line of 10 Gbit/s takes 1,200.
const MOST_OPENS: u32 = 2048;
/// How many pieces are in memory at a time, for all members together.
const AT_ONCE: usize = 16;
/// How long to wait for a piece that a running download may bring before the answer is that it has not come yet.
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a request waits for its turn.
const TURN: Duration = Duration::from_secs(20);

/// What all members that ask for pieces share.
pub struct Sharer {
    holdings: Arc<Holdings>,
    clients: Clients,
    at_once: Semaphore,
    memory: Arc<Budget>,
    membership: Arc<Membership>,
    telemetry: Arc<Telemetry>,
    name: String,
    drain: CancellationToken,
}

impl Sharer {
    /// Serves what is in `holdings`, to each member at most `rate` bytes per second, if that is not 0.
    pub fn new(
        holdings: Arc<Holdings>,
        rate: u64,
        (memory, membership): (Arc<Budget>, Arc<Membership>),
        (telemetry, name): (Arc<Telemetry>, String),
        drain: CancellationToken,
    ) -> Arc<Self> {
        let clients = Clients::new(Self::limits(rate), u32::MAX);
        let at_once = Semaphore::new(AT_ONCE);
        Arc::new(Self { holdings, clients, at_once, memory, membership, telemetry, name, drain })
    }

    fn limits(rate: u64) -> Limits {
        Limits { tunnels: MOST_PIECES, opens: MOST_OPENS, rate }
    }

    /// Changes the rate of each member.
    pub fn change(&self, rate: u64) {
        self.clients.change(Self::limits(rate));
    }

    /// Serves one link until it ends.
    pub(super) async fn serve(self: Arc<Self>, proved: Proved, address: SocketAddr) {
        let identity = match tls::peer(&proved.certificates) {
            Ok(identity) => identity,
            Err(error) => return tracing::debug!(%address, %error, "the member has no laneway certificate"),
        };
        let id = identity.id;
        if self.membership.revokes(id) {
            return tracing::debug!(%address, member = &*identity.name, "no pieces: the member has left the group");
        }
        let client = self.clients.client(id, &self.memory);
        let place = client.enter();
        let account = client.memory.account(memory::Kind::Link);
        let accepted = tokio::select! {
            accepted = ServerLink::accept(proved, identity, &account) => accepted,
            () = place.superseded() => return,
            () = account.evicted() => return,
        };
        let mut link = match accepted {
            Ok(link) => link,
            Err(error) => return tracing::debug!(%address, %error, "no link for pieces"),
        };
        // The pieces of a link are sent one after the other: the first one is of use to the member before the others have come.
        let order = Arc::new(Semaphore::new(1));
        let mut tasks = JoinSet::new();
        let mut revoked = std::pin::pin!(self.membership.until_revoked(id));
        loop {
            tokio::select! {
                next = link.next() => match next {
                    Some(Ok(incoming)) => self.dispatch(incoming, (&client, &order), &mut tasks),
                    Some(Err(_)) | None => return,
                },
                Some(ended) = tasks.join_next() => if let Err(error) = ended && error.is_panic() {
                    tracing::error!(%error, "the task of a piece failed");
                },
                () = &mut revoked => return,
                () = place.superseded() => return,
                () = account.evicted() => return,
                // Others have the pieces, too.
                () = self.drain.cancelled() => return,
            }
        }
    }

    /// Starts the task of one request.
    fn dispatch(
        self: &Arc<Self>,
        mut incoming: Incoming,
        (client, order): (&Arc<Client>, &Arc<Semaphore>),
        tasks: &mut JoinSet<()>,
    ) {
        while tasks.try_join_next().is_some() {}
        let Ok(RequestKind::Piece(hash)) = incoming.kind else {
            let sentence = "links of this protocol carry pieces only";
            return incoming.refuse(&Failure::new(Kind::Unsupported, Side::Gateway, sentence), &self.name);
        };
        match self.clients.admit(client) {
            Ok(admitted) if client.memory.admits() => {
                incoming.charge_to(client.memory.account(memory::Kind::Tunnel));
                tasks.spawn(self.clone().piece(incoming, hash, (client.clone(), order.clone()), admitted));
            }
            _ => incoming.answer_missing(false),
        }
    }

    /// Answers with a piece.
    async fn piece(
        self: Arc<Self>,
        mut incoming: Incoming,
        hash: PieceHash,
        (client, order): (Arc<Client>, Arc<Semaphore>),
        _admitted: Admitted,
    ) {
        let mut held = incoming.account().map(Tally::of).unwrap_or_default();
        let turn = async {
            match self.holdings.until_here(&hash, PATIENCE).await {
                Waited::Here => {}
                Waited::NotYet => return Err(true),
                Waited::Missing => return Err(false),
            }
            let next = order.acquire().await.map_err(|_closed| false)?;
            let one = timeout(TURN, self.at_once.acquire()).await;
            one.ok().and_then(Result::ok).map(|one| (next, one)).ok_or(false)
        };
        let turn = tokio::select! {
            turn = turn => turn,
            () = incoming.abandoned() => return,
        };
        let _turn = match turn {
            Ok(turn) => turn,
            Err(is_about_to_come) => return incoming.answer_missing(is_about_to_come),
        };
        held.set(usize::try_from(PIECE).unwrap_or(usize::MAX));
        let Some(piece) = self.holdings.get(hash).await else { return incoming.answer_missing(false) };
        let length = piece.len();
        if let Some(due) = client.pace.passed(length) {
            sleep_until(due).await;
        }
        // It is counted where it waits to be sent.
        held.set(0);
        incoming.answer_piece(piece).await;
        self.telemetry.pieces.one("served");
        self.telemetry.peer_served.many(length as u64);
    }
}
