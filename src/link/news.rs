//! The group's news on a link: a request of its own that stays open, on which each side says what it has and gives what
//! the other lacks.
//!
//! Both speak alike. A message is a length (u32, big-endian) and that much JSON: `have` with a version, or `news`. Who
//! has newer news than the other says it has gives them, and gives each once only; who takes news over answers
//! with what it has then. Nothing is said to a peer that the very news to be said put out.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use http::{Method, Request, StatusCode};
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, timeout, timeout_at};

use super::client::Link;
use super::http2;
use super::stream::{Inbox, Outbox, Tunnel};
use crate::trust::board::Board;
use crate::trust::news::{LONGEST_CRL, NewsError, Sealed, Version};
use crate::wire::id::NodeId;

/// What the request is for; the path is what counts.
const URI: &str = "https://gateway.laneway/laneway/news";
/// The path of the request.
pub(super) const PATH: &str = "/laneway/news";

/// The longest message: the longest revocation list, as the base64 text that it becomes.
const LONGEST: usize = LONGEST_CRL / 3 * 4 + 4096;
/// How long the peer may take for one message that it has begun, and for taking one.
const PATIENCE: Duration = Duration::from_secs(10);

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Message {
    Have(Version),
    News(Box<Sealed>),
}

/// Why the exchange is over, and the link is none the worse for it.
#[derive(Debug, thiserror::Error)]
pub enum ExchangeError {
    /// The link or the request has ended.
    #[error("the exchange of news broke")]
    Broken(#[from] http2::Error),
    /// It does not exchange news.
    #[error("the gateway answered the request for news with status {0}")]
    Declined(StatusCode),
    /// The peer began a message and did not end it, or took none.
    #[error("the peer stalled in the exchange of news")]
    Stalled,
    /// The peer ended in the middle of a message, or said what is none.
    #[error("the peer does not speak as it should in the exchange of news")]
    Malformed,
    /// The peer's news are not the authority's.
    #[error(transparent)]
    Forged(#[from] NewsError),
    /// The peer is not of the group any more.
    #[error("the peer was removed from the group")]
    Revoked,
}

/// Exchanges news over a link of this node's as long as it stands and is in use.
pub async fn attend(link: Link, board: Arc<Board>) {
    let exchanged = async {
        let tunnel = request(&link).await?;
        exchange(tunnel, &board, link.gateway.id).await
    };
    let gateway = link.gateway.id.short();
    tokio::select! {
        result = exchanged => if let Err(error) = result {
            log(&gateway, error);
        },
        () = link.unusable() => {}
    }
}

/// Exchanges news with the gateway of a link until both have the same.
///
/// # Errors
/// [`ExchangeError`].
pub async fn deliver(link: &Link, board: &Board) -> Result<(), ExchangeError> {
    let mut exchange = Exchange::new(request(link).await?, link.gateway.id);
    let even = async {
        exchange.begin(board).await?;
        while exchange.peer != Some(board.version()) {
            match exchange.hear(board).await? {
                true => exchange.answer(board).await?,
                false => return Err(ExchangeError::Malformed),
            }
        }
        Ok(())
    };
    timeout(PATIENCE, even).await.ok().ok_or(ExchangeError::Stalled)??;
    // What it answered was the last word: an end that does not arrive changes nothing.
    let _ = exchange.outbox.finish();
    Ok(())
}

/// Exchanges news on a request that the peer of a link has made, until it ends the request.
pub async fn serve(tunnel: Tunnel, board: Arc<Board>, peer: NodeId) {
    if let Err(error) = exchange(tunnel, &board, peer).await {
        log(&peer.short(), error);
    }
}

fn log(peer: &str, error: ExchangeError) {
    let hostile = matches!(error, ExchangeError::Malformed | ExchangeError::Forged(_));
    let reason = format!("{:#}", anyhow::Error::new(error));
    if hostile {
        tracing::warn!(peer, reason, "no news from this peer");
    } else {
        tracing::debug!(peer, reason, "the exchange of news is over");
    }
}

async fn request(link: &Link) -> Result<Tunnel, ExchangeError> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = http::Uri::from_static(URI);
    let asked = async {
        let (response, send) = link.ask(request).await?;
        Ok::<_, http2::Error>((response.await?, send))
    };
    let (response, send) = timeout(PATIENCE, asked).await.ok().ok_or(ExchangeError::Stalled)??;
    match response.status() {
        StatusCode::OK => Ok({
            let outbox = Outbox::new(send, link.pulse.clone());
            Tunnel::new(outbox, Inbox::new(response.into_body(), link.pulse.aside()))
        }),
        status => Err(ExchangeError::Declined(status)),
    }
}

async fn exchange(tunnel: Tunnel, board: &Board, peer: NodeId) -> Result<(), ExchangeError> {
    let mut changes = board.changes();
    let mut exchange = Exchange::new(tunnel, peer);
    exchange.begin(board).await?;
    loop {
        tokio::select! {
            heard = exchange.hear(board) => if !heard? {
                return Ok(exchange.outbox.finish()?);
            },
            changed = changes.changed() => if changed.is_err() {
                return Ok(());
            },
        }
        changes.mark_unchanged();
        exchange.answer(board).await?;
    }
}

struct Exchange {
    outbox: Outbox,
    inbox: Inbox,
    buffer: BytesMut,
    /// When the message that has begun to arrive must be whole.
    due: Option<Instant>,
    id: NodeId,
    /// What the peer has, as it said, or as it was given.
    peer: Option<Version>,
    /// It gave news, and is owed an answer.
    owed: bool,
    /// What it was given last, and what it gave last.
    given: Option<Version>,
    taken: Option<Version>,
}

impl Exchange {
    fn new(Tunnel { outbox, inbox }: Tunnel, id: NodeId) -> Self {
        Self {
            outbox,
            inbox,
            buffer: BytesMut::new(),
            due: None,
            id,
            peer: None,
            owed: false,
            given: None,
            taken: None,
        }
    }

    /// Says what this node has.
    async fn begin(&mut self, board: &Board) -> Result<(), ExchangeError> {
        self.say(&Message::Have(board.version())).await
    }

    /// Waits for the next message, and takes over what it brings. False when the peer has ended. What was read of an
    /// unfinished message is kept when this is dropped.
    async fn hear(&mut self, board: &Board) -> Result<bool, ExchangeError> {
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
                Some(piece) => self.buffer.extend_from_slice(&piece),
                None if self.buffer.is_empty() => return Ok(false),
                None => return Err(ExchangeError::Malformed),
            }
            self.due.get_or_insert_with(|| Instant::now() + PATIENCE);
        };
        match message {
            Message::Have(version) => self.peer = self.peer.max(Some(version)),
            Message::News(sealed) => {
                // Each is newer than the last, so who floods this node needs the authority's key.
                if self.taken.replace(sealed.version()) >= Some(sealed.version()) {
                    return Err(ExchangeError::Malformed);
                }
                board.hear(&sealed)?;
                self.peer = self.peer.max(Some(sealed.version()));
                self.owed = true;
            }
        }
        Ok(true)
    }

    fn next_message(&mut self) -> Result<Option<Message>, ExchangeError> {
        let Some((length, rest)) = self.buffer.split_first_chunk::<4>() else { return Ok(None) };
        let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
        if length > LONGEST {
            return Err(ExchangeError::Malformed);
        }
        let Some(json) = rest.get(..length) else { return Ok(None) };
        let message = serde_json::from_slice(json).ok().ok_or(ExchangeError::Malformed)?;
        self.buffer.advance(4 + length);
        self.due = (!self.buffer.is_empty()).then(|| Instant::now() + PATIENCE);
        Ok(Some(message))
    }

    /// Gives what the peer lacks and has not been given, and what it is owed.
    async fn answer(&mut self, board: &Board) -> Result<(), ExchangeError> {
        let group = board.group();
        // The news that put it out do that before they are given to anybody.
        if group.news.revokes(self.id) {
            return Err(ExchangeError::Revoked);
        }
        let version = group.news.version();
        if self.peer.is_some_and(|has| has < version) && self.given.is_none_or(|given| given < version) {
            self.given = Some(version);
            self.owed = false;
            return self.say(&Message::News(Box::new(group.news.sealed().clone()))).await;
        }
        if std::mem::take(&mut self.owed) {
            self.say(&Message::Have(version)).await?;
        }
        Ok(())
    }

    async fn say(&mut self, message: &Message) -> Result<(), ExchangeError> {
        let json = serde_json::to_vec(message).ok().ok_or(ExchangeError::Malformed)?;
        let length = u32::try_from(json.len()).ok().ok_or(ExchangeError::Malformed)?;
        let frame = Bytes::from([&length.to_be_bytes()[..], &json].concat());
        let said = timeout(PATIENCE, self.outbox.send(frame)).await;
        Ok(said.ok().ok_or(ExchangeError::Stalled)??)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::link::alive::Pulse;
    use crate::link::connection::Connection;
    use crate::trust::authority::Authority;
    use crate::trust::group::Group;
    use crate::trust::state::StateDir;
    use h2::RecvStream;
    use std::future::poll_fn;
    use tokio::task::JoinHandle;

    const PEER: NodeId = NodeId([7; 16]);

    /// A node of a group whose authority is here too.
    struct Lab {
        _directory: tempfile::TempDir,
        state: StateDir,
        authority: Authority,
        board: Arc<Board>,
    }

    fn lab() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let board = Board::new(Authority::create(&state, "office", "first").unwrap());
        let authority = Authority::load(&state).unwrap().unwrap();
        Lab { _directory: directory, state, authority, board }
    }

    impl Lab {
        fn signed(&self) -> Sealed {
            Group::load(&self.state).unwrap().unwrap().news.sealed().clone()
        }
    }

    /// The peer's end of one exchange, on a link that nobody cuts.
    struct Other {
        send: h2::SendStream<Bytes>,
        receive: RecvStream,
        heard: BytesMut,
        serving: JoinHandle<Result<(), ExchangeError>>,
    }

    impl Other {
        async fn of(board: Arc<Board>) -> Self {
            let (near, far) = tokio::io::duplex(1024 * 1024);
            let server = tokio::spawn(async move {
                let mut connection = Connection::server(far, crate::link::config());
                let accepted = poll_fn(|cx| connection.poll_accept(cx)).await;
                let (request, respond) = accepted.unwrap().unwrap();
                let send = respond.send(&http::Response::new(()), false).unwrap();
                let inbox = Inbox::new(request.into_body(), Arc::<Pulse>::default().aside());
                let tunnel = Tunnel::new(Outbox::new(send, inbox.pulse().clone()), inbox);
                tokio::spawn(poll_fn(move |cx| connection.poll_drive(cx)));
                exchange(tunnel, &board, PEER).await
            });
            let (requests, connection) = h2::client::handshake(near).await.unwrap();
            tokio::spawn(connection);
            let request = Request::builder().method(Method::POST).uri(URI).body(()).unwrap();
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

        async fn hear(&mut self) -> Option<Message> {
            timeout(PATIENCE * 3, self.next()).await.expect("a message, or the end")
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
            timeout(PATIENCE * 3, self.serving).await.expect("the end").unwrap()
        }
    }

    #[tokio::test]
    async fn the_new_key_is_not_given_to_whom_the_same_news_put_out() {
        let lab = lab();
        let mut other = Other::of(lab.board.clone()).await;
        assert!(matches!(other.hear().await, Some(Message::Have(_))));
        other.say(&Message::Have(lab.board.version()));
        lab.authority.revoke(&PEER.to_string()).unwrap();
        lab.board.hear(&lab.signed()).unwrap();
        assert!(other.hear().await.is_none(), "it was told");
        assert!(matches!(other.ended().await, Err(ExchangeError::Revoked)));
    }

    #[tokio::test]
    async fn news_are_pushed_when_they_come_and_are_not_sent_back_to_whom_they_are_from() {
        let lab = lab();
        let mut other = Other::of(lab.board.clone()).await;
        let start = lab.board.version();
        assert!(matches!(other.hear().await, Some(Message::Have(version)) if version == start));
        other.say(&Message::Have(start));
        lab.authority.rotate().unwrap();
        let first = lab.signed();
        lab.board.hear(&first).unwrap();
        assert!(matches!(other.hear().await, Some(Message::News(news)) if *news == first));

        lab.authority.rotate().unwrap();
        let second = lab.signed();
        other.say(&Message::News(Box::new(second.clone())));
        // The answer is that it has them, and nothing else comes.
        assert!(matches!(other.hear().await, Some(Message::Have(version)) if version == second.version()));
        assert_eq!(lab.board.version(), second.version());
        other.send.send_data(Bytes::new(), true).unwrap();
        assert!(other.hear().await.is_none());
        other.ended().await.unwrap();
    }

    #[tokio::test]
    async fn news_that_are_no_newer_than_those_before_end_the_exchange() {
        let lab = lab();
        let old = lab.signed();
        for repeated in [false, true] {
            let mut other = Other::of(lab.board.clone()).await;
            assert!(matches!(other.hear().await, Some(Message::Have(_))));
            lab.authority.rotate().unwrap();
            let news = lab.signed();
            other.say(&Message::News(Box::new(news.clone())));
            other.say(&Message::News(Box::new(if repeated { news } else { old.clone() })));
            assert!(matches!(other.ended().await, Err(ExchangeError::Malformed)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_message_that_is_begun_and_not_ended_is_given_up() {
        let lab = lab();
        let mut other = Other::of(lab.board.clone()).await;
        other.send.send_data(Bytes::from_static(&[0, 0, 0]), false).unwrap();
        assert!(matches!(other.ended().await, Err(ExchangeError::Stalled)));
    }
}
