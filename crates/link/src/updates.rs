//! Group updates on a link: a request of its own that stays open, on which each side says which version it has and sends
//! what the other lacks.
//!
//! Both sides speak the same protocol. A message is a length (u32, big-endian) and that much JSON: `have` with a version, or
//! `news` with an update. A side that has a newer version than the other sends it, and each version only once; a side that
//! adopts an update answers with the version it has then. A peer that an update removes from the group is not sent it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::header::USER_AGENT;
use http::{HeaderValue, Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::Link;
use super::request::{UPDATES_PATH, uri};
use super::settings::AGENT;
use super::tls::PeerIdentity;
use super::tunnel::{Inbox, Outbox, Tunnel};
use laneway_h2 as http2;
use laneway_limits::limited;
use laneway_limits::memory::Tally;
use laneway_sys::blocking;
use laneway_trust::departures::Noting;
use laneway_trust::leaving::Resignation;
use laneway_trust::membership::Membership;
use laneway_trust::update::{MAX_CRL, SealedUpdate, UpdateError, Version};
use laneway_wire::failure::with_causes;
use laneway_wire::id::NodeId;

/// The longest message, in bytes: the longest revocation list as base64, and what surrounds it.
const MAX_MESSAGE: usize = MAX_CRL / 3 * 4 + 4096;
/// How long the peer may take to finish a message that it has begun, and to receive one.
const TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Have(Version),
    News(Box<SealedUpdate>),
    /// Members that leave the group.
    Left(Vec<Resignation>),
    /// The answer to [`Message::Left`].
    Noted,
}

/// Maximum number of leaving members in one message. Each costs two verified signatures.
const MAX_LEFT: usize = 64;

/// Why an exchange has ended. The link goes on.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The link or the request has ended.
    #[error("the exchange of group updates broke")]
    Broken(#[from] http2::Error),
    /// The gateway does not exchange updates.
    #[error("the gateway answered the request for group updates with status {0}")]
    Declined(StatusCode),
    /// The peer began a message and did not finish it, or does not read.
    #[error("the peer stalled in the exchange of group updates")]
    Stalled,
    /// The peer ended in the middle of a message, or sent something else.
    #[error("the peer broke the protocol in the exchange of group updates")]
    Malformed,
    /// The peer's update is not signed by the authority.
    #[error(transparent)]
    Forged(#[from] UpdateError),
    /// The peer is no longer a member of the group.
    #[error("the peer was removed from the group")]
    Revoked,
}

/// Exchanges updates over a link of this node until the link is retired or ends.
pub async fn follow(link: Link, membership: Arc<Membership>) {
    let exchanged = async {
        let tunnel = request(&link).await?;
        exchange(tunnel, &membership, link.gateway.id).await
    };
    tokio::select! {
        result = exchanged => if let Err(error) = result {
            log(&link.gateway, error);
        },
        () = link.unusable() => {}
    }
}

/// Exchanges updates with the gateway of a link until both have the same version.
///
/// # Errors
/// [`ExchangeError`].
pub async fn synchronize(link: &Link, membership: &Arc<Membership>) -> Result<(), ExchangeError> {
    let mut exchange = Exchange::new(request(link).await?, link.gateway.id);
    let even = async {
        exchange.begin(membership).await?;
        while exchange.peer != Some(membership.version()) {
            match exchange.receive(membership).await? {
                true => exchange.answer(membership).await?,
                false => return Err(ExchangeError::Malformed),
            }
        }
        Ok(())
    };
    timeout(TIMEOUT, even).await.ok().ok_or(ExchangeError::Stalled)??;
    // Both have the same version now, whether the end arrives or not.
    let _ = exchange.outbox.finish();
    Ok(())
}

/// Tells the gateway of a link which members leave, and waits until it has noted them.
///
/// # Errors
/// [`ExchangeError`].
pub async fn tell(link: &Link, membership: &Arc<Membership>) -> Result<(), ExchangeError> {
    let mut exchange = Exchange::new(request(link).await?, link.gateway.id);
    let told = async {
        exchange.begin(membership).await?;
        let mut ended = None;
        while !exchange.departures.is_noted {
            match exchange.receive(membership).await? {
                // A gateway that has noted them listens no more, so answering its own update may fail before its
                // note is read.
                true if ended.is_none() => ended = exchange.answer(membership).await.err(),
                true => {}
                false => return Err(ended.unwrap_or(ExchangeError::Malformed)),
            }
        }
        Ok(())
    };
    timeout(TIMEOUT, told).await.ok().ok_or(ExchangeError::Stalled)??;
    let _ = exchange.outbox.finish();
    Ok(())
}

/// Exchanges updates on a request of the peer until it ends the request.
pub async fn serve(tunnel: Tunnel, membership: Arc<Membership>, peer: PeerIdentity) {
    if let Err(error) = exchange(tunnel, &membership, peer.id).await {
        log(&peer, error);
    }
}

fn log(peer: &PeerIdentity, error: ExchangeError) {
    let is_hostile = matches!(error, ExchangeError::Malformed | ExchangeError::Forged(_));
    let (id, peer, reason) = (peer.id, &*peer.name, with_causes(&error));
    match is_hostile {
        true => limited!(warn, id, peer, reason, "group updates of this peer are refused"),
        false => tracing::debug!(peer, reason, "the exchange of group updates has ended"),
    }
}

async fn request(link: &Link) -> Result<Tunnel, ExchangeError> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri(UPDATES_PATH);
    request.headers_mut().insert(USER_AGENT, HeaderValue::from_static(AGENT));
    let answered = async {
        let (response, send) = link.send(request).await?;
        Ok::<_, http2::Error>((response.await?, send))
    };
    let (response, send) = timeout(TIMEOUT, answered).await.ok().ok_or(ExchangeError::Stalled)??;
    match response.status() {
        StatusCode::OK => Ok({
            let outbox = Outbox::new(send, link.state.clone());
            Tunnel::new(outbox, Inbox::new(response.into_body(), link.state.aside()))
        }),
        status => Err(ExchangeError::Declined(status)),
    }
}

async fn exchange(tunnel: Tunnel, membership: &Arc<Membership>, peer: NodeId) -> Result<(), ExchangeError> {
    let mut changes = membership.changes();
    let mut departures = membership.departures();
    let mut exchange = Exchange::new(tunnel, peer);
    exchange.begin(membership).await?;
    loop {
        tokio::select! {
            received = exchange.receive(membership) => if !received? {
                return Ok(exchange.outbox.finish()?);
            },
            changed = changes.changed() => if changed.is_err() {
                return Ok(());
            },
            changed = departures.changed() => if changed.is_err() {
                return Ok(());
            },
        }
        changes.mark_unchanged();
        departures.mark_unchanged();
        exchange.answer(membership).await?;
    }
}

struct Exchange {
    outbox: Outbox,
    inbox: Inbox,
    buffer: BytesMut,
    /// The memory of `buffer`, and of the message that is being sent.
    memory: Tally,
    /// When the message that has begun to arrive must be complete.
    due: Option<Instant>,
    id: NodeId,
    /// The version that the peer has: the one it named, or the one it was sent.
    peer: Option<Version>,
    /// The peer sent an update, and is owed an answer.
    owed: bool,
    /// The version that was sent to the peer last, and the one it sent last.
    sent: Option<Version>,
    received: Option<Version>,
    departures: Departures,
}

/// What both ends have said about members that leave.
#[derive(Default)]
struct Departures {
    /// The leaving members that this node and the peer have named to each other.
    told: BTreeSet<NodeId>,
    /// What the peer told last, which is not noted yet.
    heard: Option<Vec<Resignation>>,
    /// The peer has noted what it was told.
    is_noted: bool,
}

impl Exchange {
    fn new(Tunnel { outbox, inbox }: Tunnel, id: NodeId) -> Self {
        Self {
            outbox,
            memory: inbox.tally(),
            inbox,
            buffer: BytesMut::new(),
            due: None,
            id,
            peer: None,
            owed: false,
            sent: None,
            received: None,
            departures: Departures::default(),
        }
    }

    /// Names the version that this node has.
    async fn begin(&mut self, membership: &Membership) -> Result<(), ExchangeError> {
        self.send(&Message::Have(membership.version())).await
    }

    /// Waits for the next message, and adopts the update in it. False when the peer has ended. What was read of an
    /// unfinished message is kept when this future is dropped.
    async fn receive(&mut self, membership: &Membership) -> Result<bool, ExchangeError> {
        let message = loop {
            if let Some(message) = self.next_message()? {
                break message;
            }
            let next = self.inbox.next();
            let piece = match self.due {
                Some(due) => timeout_at(due, next).await.ok().ok_or(ExchangeError::Stalled)?,
                None => next.await,
            };
            match piece? {
                Some(piece) => {
                    self.buffer.extend_from_slice(&piece);
                    self.memory.set(self.buffer.capacity());
                }
                None if self.buffer.is_empty() => return Ok(false),
                None => return Err(ExchangeError::Malformed),
            }
            self.due.get_or_insert_with(|| Instant::now() + TIMEOUT);
        };
        match message {
            Message::Have(version) => self.peer = self.peer.max(Some(version)),
            Message::News(sealed) => {
                // Each is newer than the last one, so only the authority could flood this node.
                if self.received.replace(sealed.version()) >= Some(sealed.version()) {
                    return Err(ExchangeError::Malformed);
                }
                membership.apply(&sealed)?;
                self.peer = self.peer.max(Some(sealed.version()));
                self.owed = true;
            }
            Message::Left(resignations) => {
                if resignations.len() > MAX_LEFT {
                    return Err(ExchangeError::Malformed);
                }
                self.departures.heard = Some(resignations);
            }
            Message::Noted => self.departures.is_noted = true,
        }
        Ok(true)
    }

    fn next_message(&mut self) -> Result<Option<Message>, ExchangeError> {
        let Some((length, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > MAX_MESSAGE {
            return Err(ExchangeError::Malformed);
        }
        let Some(json) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(json).ok().ok_or(ExchangeError::Malformed)?;
        self.buffer.advance(4 + length);
        if self.buffer.is_empty() {
            self.buffer = BytesMut::new();
        }
        self.memory.set(self.buffer.capacity());
        self.due = (!self.buffer.is_empty()).then(|| Instant::now() + TIMEOUT);
        Ok(Some(message))
    }

    /// Sends what the peer lacks and was not sent yet, and the answer that it is owed.
    async fn answer(&mut self, membership: &Arc<Membership>) -> Result<(), ExchangeError> {
        if let Some(heard) = self.departures.heard.take() {
            self.note(heard, membership).await?;
        }
        let group = membership.group();
        // The update that removes it is adopted before it is sent to anybody.
        if group.update.revokes(self.id) {
            return Err(ExchangeError::Revoked);
        }
        if membership.revokes(self.id) {
            // The peer has left. What it still sends does not matter, but a reset in answer could overtake what it was told
            // before. Its links are closed soon.
            self.outbox.finish()?;
            let rest = async { while matches!(self.inbox.next().await, Ok(Some(_))) {} };
            let _ = timeout(TIMEOUT, rest).await;
            return Err(ExchangeError::Revoked);
        }
        let departures = membership.departures().borrow().clone();
        self.departures.told.retain(|id| departures.contains_key(id));
        let untold: Vec<_> =
            departures.iter().filter(|(id, _)| !self.departures.told.contains(id)).take(MAX_LEFT).collect();
        if !untold.is_empty() {
            self.departures.told.extend(untold.iter().map(|(id, _)| **id));
            let left = untold.into_iter().map(|(_, resignation)| resignation.clone()).collect();
            self.send(&Message::Left(left)).await?;
        }
        let version = group.update.version();
        if self.peer.is_some_and(|has| has < version) && self.sent.is_none_or(|sent| sent < version) {
            self.sent = Some(version);
            self.owed = false;
            return self.send(&Message::News(Box::new(group.update.sealed().clone()))).await;
        }
        if std::mem::take(&mut self.owed) {
            self.send(&Message::Have(version)).await?;
        }
        Ok(())
    }

    /// Notes the members that the peer says leave, and answers once a restart cannot forget them.
    async fn note(
        &mut self,
        heard: Vec<Resignation>,
        membership: &Arc<Membership>,
    ) -> Result<(), ExchangeError> {
        for resignation in &heard {
            self.departures.told.insert(resignation.claimed().ok_or(ExchangeError::Malformed)?);
        }
        let membership = membership.clone();
        let noting = blocking::run_with_state(move || membership.note_departures(heard));
        match noting.await {
            Ok(Noting::Noted) => self.send(&Message::Noted).await,
            Ok(Noting::Forged) => Err(ExchangeError::Malformed),
            // The peer finds that no answer comes, and asks another gateway.
            Ok(Noting::Unsaved) | Err(_) => Ok(()),
        }
    }

    async fn send(&mut self, message: &Message) -> Result<(), ExchangeError> {
        let json = serde_json::to_vec(message).ok().ok_or(ExchangeError::Malformed)?;
        let length = u32::try_from(json.len()).ok().ok_or(ExchangeError::Malformed)?;
        let frame = Bytes::from([&length.to_be_bytes()[..], &json].concat());
        let length = frame.len();
        self.memory.add(length);
        let sent = timeout(TIMEOUT, self.outbox.send(frame)).await;
        self.memory.remove(length);
        Ok(sent.ok().ok_or(ExchangeError::Stalled)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::alive::LinkState;
    use crate::connection::Connection;
    use h2::RecvStream;
    use laneway_sys::state::StateDir;
    use laneway_trust::authority::Authority;
    use laneway_trust::group::Group;
    use std::future::poll_fn;
    use tokio::task::JoinHandle;

    const PEER: NodeId = NodeId([7; 16]);

    /// A node of a group whose authority is here too.
    struct Lab {
        _directory: tempfile::TempDir,
        state: StateDir,
        authority: Authority,
        membership: Arc<Membership>,
    }

    fn lab() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let membership = Membership::new(Authority::create(&state, "office", "first").unwrap());
        let authority = Authority::load(&state).unwrap().unwrap();
        Lab { _directory: directory, state, authority, membership }
    }

    impl Lab {
        fn signed(&self) -> SealedUpdate {
            Group::load(&self.state).unwrap().unwrap().update.sealed().clone()
        }
    }

    /// The peer's end of one exchange.
    struct Other {
        send: h2::SendStream<Bytes>,
        receive: RecvStream,
        heard: BytesMut,
        serving: JoinHandle<Result<(), ExchangeError>>,
    }

    impl Other {
        async fn of(membership: Arc<Membership>) -> Self {
            Self::of_peer(membership, PEER).await
        }

        async fn of_peer(membership: Arc<Membership>, peer: NodeId) -> Self {
            let (near, far) = tokio::io::duplex(1024 * 1024);
            let server = tokio::spawn(async move {
                let mut connection = Connection::server(far, crate::settings::config());
                let accepted = poll_fn(|cx| connection.poll_accept(cx)).await;
                let (request, respond) = accepted.unwrap().unwrap();
                let send = respond.send(&http::Response::new(()), false).unwrap();
                let inbox = Inbox::new(request.into_body(), Arc::<LinkState>::default().aside());
                let tunnel = Tunnel::new(Outbox::new(send, inbox.link_state().clone()), inbox);
                tokio::spawn(poll_fn(move |cx| connection.poll_drive(cx)));
                exchange(tunnel, &membership, peer).await
            });
            let (requests, connection) = h2::client::handshake(near).await.unwrap();
            tokio::spawn(connection);
            let request = Request::builder().method(Method::POST).uri(uri(UPDATES_PATH)).body(()).unwrap();
            let mut requests = requests.ready().await.unwrap();
            let (response, send) = requests.send_request(request, false).unwrap();
            let receive = response.await.unwrap().into_body();
            Self { send, receive, heard: BytesMut::new(), serving: server }
        }

        fn say(&mut self, message: &Message) {
            let json = serde_json::to_vec(message).unwrap();
            let frame = [&u32::try_from(json.len()).unwrap().to_be_bytes()[..], &json].concat();
            self.send.send_data(frame.into(), false).unwrap();
        }

        /// Ends its direction.
        fn finish(&mut self) {
            self.send.send_data(Bytes::new(), true).unwrap();
        }

        async fn hear(&mut self) -> Option<Message> {
            timeout(TIMEOUT * 3, self.next()).await.expect("a message, or the end")
        }

        async fn next(&mut self) -> Option<Message> {
            loop {
                if let Some((length, rest)) = self.heard.split_first_chunk::<4>()
                    && let Some(json) = rest.get(..u32::from_be_bytes(*length) as usize)
                {
                    let message = serde_json::from_slice(json).unwrap();
                    self.heard.advance(4 + u32::from_be_bytes(*length) as usize);
                    return Some(message);
                }
                self.heard.extend(self.receive.data().await?.ok()?);
            }
        }

        async fn ended(self) -> Result<(), ExchangeError> {
            timeout(TIMEOUT * 3, self.serving).await.expect("the end").unwrap()
        }
    }

    #[tokio::test]
    async fn a_member_that_an_update_removes_is_not_sent_the_update() {
        let lab = lab();
        let mut other = Other::of(lab.membership.clone()).await;
        assert!(matches!(other.hear().await, Some(Message::Have(_))));
        other.say(&Message::Have(lab.membership.version()));
        lab.authority.revoke(&PEER.to_string()).unwrap();
        lab.membership.apply(&lab.signed()).unwrap();
        assert!(other.hear().await.is_none(), "it was sent something");
        assert!(matches!(other.ended().await, Err(ExchangeError::Revoked)));
    }

    /// Another member, which can leave.
    fn leaver(lab: &Lab, name: &str) -> Group {
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path().join("state")).unwrap();
        let name = laneway_trust::name::WantedName::Chosen(name.into());
        laneway_trust::authority::import(&state, &lab.authority.export().unwrap(), &name).unwrap().group
    }

    #[tokio::test]
    async fn a_departure_is_noted_before_the_exchange_with_its_member_ends() {
        let lab = lab();
        let leaver = leaver(&lab, "second");
        let membership = Membership::of_node(Group::load(&lab.state).unwrap().unwrap(), &lab.state);
        let mut other = Other::of_peer(membership.clone(), leaver.node.id).await;
        assert!(matches!(other.hear().await, Some(Message::Have(_))));
        other.say(&Message::Left(vec![Resignation::sign(&leaver).unwrap()]));
        assert!(matches!(other.hear().await, Some(Message::Noted)));
        assert!(lab.state.read("departures.json").unwrap().is_some(), "noted but not saved");
        assert!(membership.revokes(leaver.node.id));
        assert!(other.hear().await.is_none());
        other.finish();
        assert!(matches!(other.ended().await, Err(ExchangeError::Revoked)));
    }

    #[tokio::test]
    async fn a_member_that_leaves_may_still_answer_what_it_hears_of_others_that_left() {
        let lab = lab();
        let (leaver, another) = (leaver(&lab, "second"), leaver(&lab, "third"));
        lab.membership.note_departures(vec![Resignation::sign(&another).unwrap()]);
        let mut other = Other::of_peer(lab.membership.clone(), leaver.node.id).await;
        assert!(matches!(other.hear().await, Some(Message::Have(_))));
        other.say(&Message::Have(lab.membership.version()));
        assert!(matches!(other.hear().await, Some(Message::Left(left)) if left.len() == 1));
        other.say(&Message::Left(vec![Resignation::sign(&leaver).unwrap()]));
        assert!(matches!(other.hear().await, Some(Message::Noted)));
        assert!(other.hear().await.is_none());
        // Its answer comes late: a reset would have overtaken what it was told.
        other.say(&Message::Noted);
        assert!(!other.serving.is_finished());
        other.finish();
        assert!(matches!(other.ended().await, Err(ExchangeError::Revoked)));
    }

    #[tokio::test]
    async fn a_departure_that_cannot_be_saved_is_not_noted() {
        let lab = lab();
        let leaver = leaver(&lab, "second");
        let membership = Membership::of_node(Group::load(&lab.state).unwrap().unwrap(), &lab.state);
        std::fs::create_dir(lab.state.file("departures.json")).unwrap();
        let mut other = Other::of_peer(membership, leaver.node.id).await;
        assert!(matches!(other.hear().await, Some(Message::Have(_))));
        other.say(&Message::Left(vec![Resignation::sign(&leaver).unwrap()]));
        assert!(other.hear().await.is_none(), "the leaver was told something");
        other.finish();
        assert!(matches!(other.ended().await, Err(ExchangeError::Revoked)));
    }

    #[tokio::test]
    async fn updates_are_passed_on_and_not_sent_back_to_their_sender() {
        let lab = lab();
        let mut other = Other::of(lab.membership.clone()).await;
        let start = lab.membership.version();
        assert!(matches!(other.hear().await, Some(Message::Have(version)) if version == start));
        other.say(&Message::Have(start));
        lab.authority.rotate().unwrap();
        let first = lab.signed();
        lab.membership.apply(&first).unwrap();
        assert!(matches!(other.hear().await, Some(Message::News(news)) if *news == first));

        lab.authority.rotate().unwrap();
        let second = lab.signed();
        other.say(&Message::News(Box::new(second.clone())));
        // The answer names the version, and nothing else is sent.
        assert!(matches!(other.hear().await, Some(Message::Have(version)) if version == second.version()));
        assert_eq!(lab.membership.version(), second.version());
        other.finish();
        assert!(other.hear().await.is_none());
        other.ended().await.unwrap();
    }

    #[tokio::test]
    async fn an_update_that_is_not_newer_than_the_one_before_ends_the_exchange() {
        let lab = lab();
        let old = lab.signed();
        for repeated in [false, true] {
            let mut other = Other::of(lab.membership.clone()).await;
            assert!(matches!(other.hear().await, Some(Message::Have(_))));
            lab.authority.rotate().unwrap();
            let news = lab.signed();
            other.say(&Message::News(Box::new(news.clone())));
            other.say(&Message::News(Box::new(if repeated { news } else { old.clone() })));
            assert!(matches!(other.ended().await, Err(ExchangeError::Malformed)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_not_finished_ends_the_exchange() {
        let lab = lab();
        let mut other = Other::of(lab.membership.clone()).await;
        other.send.send_data(Bytes::from_static(&[0, 0, 0]), false).unwrap();
        assert!(matches!(other.ended().await, Err(ExchangeError::Stalled)));
    }
}
