//! One fetch for all who ask for the same. It goes on when the one who began it leaves.

mod body;
mod planning;
mod second;

use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::{Bytes, BytesMut};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::named::is_plain;
use super::pass::Begun;
use super::server::{Head, Rest, Server};
use super::{Stream, UNREACHED, as_sent};
use crate::cache::digest::Digest;
use crate::cache::draft::Draft;
use crate::cache::growing::Reader;
use crate::cache::policy;
use crate::cache::store::calls::says_nothing;
use crate::cache::stored::{Stored, Times};
use crate::failure::{Failure, Kind, Side};
use crate::gateway::cache::{Lead, Outcome};
use crate::gateway::silence::GIVE_UP;
use crate::gateway::state::Gateway;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::memory::{self, Account, Tally};
use crate::wire::http::{RequestHead, ResponseHead};
use crate::wire::id::NodeId;
use crate::wire::resume::Point;
use crate::wire::sharing;
use crate::wire::target::Target;

/// How many copies of the request's head are in memory: as received, as sent, in the keys of the fetch and in what is stored.
const COPIES: usize = 6;
/// How long a fetch goes on after its last reader has gone.
const UNWANTED: Duration = Duration::from_secs(60);
/// How often a fetch whose leader has left looks whether others wait.
const LOOK: Duration = Duration::from_secs(1);

/// What a fetch tells the stream that began it.
pub(super) enum ToLeader {
    /// There is a connection to the server.
    Connected,
    /// An interim response, for that stream alone.
    Interim(Bytes),
    /// The response is shared; the reader keeps the fetch going until the stream has its own.
    Shared(Reader),
    /// The response is for that stream alone.
    Begun(Box<Begun>),
}

/// One fetch.
// fields: what the stream that began it gives it, and what it is charged to
pub(super) struct Fetch {
    gateway: Arc<Gateway>,
    target: Target,
    is_secure: bool,
    credential: Option<Vec<u8>>,
    /// The member that it is made for.
    member: NodeId,
    /// The digest that the file must have, if an index names one, and the member who says so.
    named: Option<(Digest, NodeId)>,
    /// What the app asked for.
    request: RequestHead,
    uri: String,
    /// What is to be validated or completed.
    stored: Option<(u64, Stored)>,
    need: Need,
    lead: Lead,
    leader: mpsc::Sender<ToLeader>,
    /// Nobody waits for it.
    is_background: bool,
    account: Arc<Account>,
    /// The memory of the request, of its copies, of what is stored, and of the response's head.
    held: Tally,
}

/// A fetch that was begun. The stream that began it drives it while no other waits for it. When this is dropped, a task of the
/// node goes on with it.
pub(super) struct Started {
    tasks: TaskTracker,
    fetch: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl Started {
    /// Drives the fetch until it has ended.
    pub(super) async fn ended(&mut self) {
        match &mut self.fetch {
            Some(fetch) => fetch.await,
            None => std::future::pending().await,
        }
        self.fetch = None;
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        // There is no runtime any more when the node has ended.
        if let (Some(fetch), Ok(_)) = (self.fetch.take(), Handle::try_current()) {
            self.tasks.spawn(fetch);
        }
    }
}

/// What the server is asked for.
#[derive(Clone, Debug)]
pub(super) enum Need {
    /// The response, or whether the stored one is still valid.
    Whole,
    /// This range of it, of which nothing is stored.
    Range(String),
    /// What the stored response lacks between two offsets. From the first one up to `from` everything is stored.
    Rest { start: u64, from: u64, end: u64 },
}

/// A body that is about to be fetched.
struct Planned {
    stored: Stored,
    total: Option<u64>,
    /// The bytes that readers can get.
    range: (u64, u64),
    /// The offset of the first byte that the server sends.
    from: u64,
    point: Option<Point>,
    keep_alive: bool,
}

impl Fetch {
    pub(super) fn new(
        stream: &Stream<'_>,
        request: &RequestHead,
        uri: &str,
        (stored, need): (Option<(u64, Stored)>, Need),
        lead: Lead,
        leader: mpsc::Sender<ToLeader>,
    ) -> Self {
        // An account of its own, since the stream may end before the fetch.
        let account = stream.asker.account.holder().account(memory::Kind::Tunnel);
        let mut held = Tally::of(&account);
        let known = stored.as_ref().map_or(0, |(_, stored)| stored.memory());
        held.set(COPIES * (request.fields.memory() + uri.len()) + 2 * known);
        Self {
            gateway: stream.gateway.clone(),
            target: stream.target.clone(),
            is_secure: stream.is_secure,
            credential: stream.credential.clone(),
            member: stream.asker.member,
            named: stream.digest.clone().map(|digest| (digest, stream.asker.member)),
            request: request.clone(),
            uri: uri.to_owned(),
            stored,
            need,
            lead,
            leader,
            is_background: false,
            account,
            held,
        }
    }

    /// Makes it a fetch that nobody waits for.
    pub(super) fn in_background(mut self) -> Self {
        self.is_background = true;
        self
    }

    /// Begins the fetch. A reusable connection goes `back`.
    pub(super) fn start(self, server: Option<Server>, back: oneshot::Sender<Server>) -> Started {
        let tasks = self.gateway.tasks.clone();
        let fetch = Box::pin(async move {
            if let Some(server) = self.run(server).await {
                // The stream may have ended.
                let _ = back.send(server);
            }
        });
        Started { tasks, fetch: Some(fetch) }
    }

    async fn run(mut self, server: Option<Server>) -> Option<Server> {
        let mut idle = server;
        loop {
            let asked = {
                let mut unwanted = std::pin::pin!(unwanted(&self.leader, &self.lead, self.is_background));
                tokio::select! {
                    asked = self.ask(idle.take()) => asked,
                    () = &mut unwanted => return None,
                    () = self.account.evicted() => return None,
                }
            };
            let (head, server, requested) = match asked {
                Ok(asked) => asked,
                Err(failure) => {
                    self.lead.resolve(Outcome::Failed(failure));
                    return None;
                }
            };
            let times = Times { requested, received: SystemTime::now() };
            server.note_answer();
            let Head::Read(raw, response) = head else { return self.hand_over(head, server).await };
            if response.status == 304
                && let Some((id, stored)) = &self.stored
            {
                let fresh = policy::freshened(stored, &self.request, &response, times)
                    .filter(|fresh| self.is_for_all(&fresh.fields));
                if let Some(fresh) = fresh {
                    let id = *id;
                    return self.validated(id, fresh, *response, server).await;
                }
                // The 304 is about another response, or for one client alone, as with a cookie: ask for this response.
                self.discard().await;
                idle = response.keep_alive.then_some(server).map(Server::used);
                continue;
            }
            match self.partial(&response, times) {
                Ok(None) => {}
                Ok(Some(planned)) => return self.begin(raw, response, planned, server).await,
                Err(Again::Plainly) => {
                    self.discard().await;
                    self.need = Need::Whole;
                    idle = None;
                    continue;
                }
                Err(Again::Alone) => {
                    self.lead.cache().is_for_one(&self.uri);
                    return None;
                }
            }
            return match self.plan(&response, times, Some(server.address)) {
                Some(planned) => self.begin(raw, response, planned, server).await,
                None => {
                    self.forget(response.status).await;
                    self.hand_over(Head::Read(raw, response), server).await
                }
            };
        }
    }

    /// Begins to store the body, and shares it; a response whose body cannot be stored is for the one who asked first.
    async fn begin(
        mut self,
        raw: BytesMut,
        response: Box<ResponseHead>,
        mut planned: Planned,
        server: Server,
    ) -> Option<Server> {
        planned.stored.source = Some(server.address);
        let asked = self.held.bytes();
        self.held.add(raw.capacity() + response.fields.memory() + planned.stored.memory());
        if !self.account.may_take().await {
            return None;
        }
        let (from, is_rest) = (planned.from, matches!(self.need, Need::Rest { .. }));
        let old = self.stored.clone().filter(|_| is_rest && response.status == 206);
        let is_shared = planned.total.and_then(sharing::pieces).is_some();
        let digest = self.named.as_ref().map(|(digest, _)| digest.clone());
        let digest = digest.filter(|_| planned.stored.status == 200 && is_plain(&planned.stored.fields));
        let store = self.gateway_store();
        let is_all = old.is_none() && from == 0 && response.status != 206;
        let room = store.room(&planned.stored, planned.total).filter(|_| is_all);
        let drafted = match room {
            Some(room) => Ok(Draft::small(&store, room)),
            None => {
                let drafted = store.blocking(move |store| match old {
                    Some((id, stored)) => Draft::of(store, id, &stored),
                    None => Draft::new(store),
                });
                tokio::select! {
                    drafted = drafted => drafted.and_then(|draft| draft),
                    () = self.account.evicted() => return None,
                }
            }
        };
        let drafted = drafted.map(|mut draft| {
            draft.seek(from);
            if is_shared {
                draft.hash_pieces();
            }
            if let Some(digest) = digest {
                draft.check(digest);
            }
            draft
        });
        match (Rest::of(response.body), drafted) {
            (Some(rest), Ok(draft)) => {
                // From here on their stored form is enough.
                drop((raw, response));
                self.held.set(asked + planned.stored.memory());
                self.share(planned, rest, draft, server).await
            }
            _ if response.status == 206 && self.need.is_rewound(&self.request) => {
                self.lead.cache().is_for_one(&self.uri);
                None
            }
            // The error says nothing about the response.
            (_, Err(error)) if says_nothing(&error) => {
                self.hand_over(Head::Read(raw, response), server).await
            }
            _ => {
                self.forget(response.status).await;
                self.hand_over(Head::Read(raw, response), server).await
            }
        }
    }

    fn gateway_store(&self) -> Arc<crate::cache::store::Store> {
        self.lead.store()
    }

    /// Removes what was stored before: it is of no use for the URI any more.
    async fn discard(&mut self) {
        if let Some((id, _)) = self.stored.take() {
            self.gateway_store().blocking(move |store| store.release(id)).await.ok();
        }
    }

    /// Sends the request and reads the head of the response, over the idle connection if that still works.
    async fn ask(&self, idle: Option<Server>) -> Result<(Head, Server, SystemTime), Failure> {
        let sent = self.asked();
        let head = self.head(&sent);
        let (mut idle, begun) = (idle, Instant::now());
        loop {
            let mut server = match idle.take() {
                Some(mut server) => {
                    server.charge_to(&self.account);
                    server
                }
                None => {
                    Server::connect(&self.gateway, (&self.target, self.member), self.is_secure, &self.account)
                        .await?
                }
            };
            self.lead.resolve(Outcome::Connected);
            // The stream may have ended.
            let _ = self.leader.send(ToLeader::Connected).await;
            let requested = SystemTime::now();
            // A server that does not take the request may have answered before.
            let _ = server.send(&head).await;
            loop {
                match server.head(&sent.method).await {
                    Head::Read(raw, response) if response.is_interim() => {
                        let _ = self.leader.send(ToLeader::Interim(raw.freeze())).await;
                    }
                    head if head.is_unacknowledged() => {
                        server.note_silence();
                        let is_lost = self.gateway.egress.is_lost();
                        if server.is_used || begun.elapsed() >= GIVE_UP || is_lost {
                            return Err(Failure::new(Kind::ConnectTimeout, Side::Server, UNREACHED));
                        }
                        break;
                    }
                    Head::Nothing(_) if server.is_used => break,
                    head => return Ok((head, server, requested)),
                }
            }
        }
    }

    /// The request as the server gets it.
    fn head(&self, request: &RequestHead) -> BytesMut {
        as_sent(request, self.credential.as_deref())
    }

    /// Ends the fetch: the stored response is valid.
    async fn validated(
        self,
        id: u64,
        fresh: Stored,
        response: ResponseHead,
        server: Server,
    ) -> Option<Server> {
        let (store, updated) = (self.gateway_store(), fresh.clone());
        if let Err(error) =
            store.blocking(move |store| store.update(id, &updated)).await.and_then(|done| done)
        {
            limited!(warn, NOBODY, %error, "the validation of a stored response is not stored");
        }
        let identity = self.lead.cache().identity(&self.request);
        self.lead.resolve(Outcome::Valid(id, Arc::new(fresh), identity));
        (response.keep_alive && server.buffer.is_empty()).then(|| server.used())
    }

    /// Ends the fetch: the response is only for whoever asked first.
    async fn hand_over(self, head: Head, server: Server) -> Option<Server> {
        let begun = Begun { head, server };
        // The stream may have ended.
        let _ = self.leader.send(ToLeader::Begun(Box::new(begun))).await;
        None
    }

    /// Removes what was stored before a response that is not stored.
    async fn forget(&mut self, status: u16) {
        // With an anonymous login the response may be for all.
        if status >= 500 || status == 401 {
            return;
        }
        self.lead.cache().is_for_one(&self.uri);
        self.discard().await;
    }
}

/// What follows a response that does not contain what was asked for.
enum Again {
    /// The whole is asked for.
    Plainly,
    /// Everybody asks for themselves.
    Alone,
}

/// Waits until the one who began the fetch has left, and nobody else waits for it.
async fn unwanted(leader: &mpsc::Sender<ToLeader>, lead: &Lead, is_background: bool) {
    leader.closed().await;
    if is_background {
        tokio::time::sleep(UNWANTED).await;
    }
    while lead.is_awaited() {
        tokio::time::sleep(LOOK).await;
    }
}
