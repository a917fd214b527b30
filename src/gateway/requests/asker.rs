//! The asking end of a stream of requests: a client, or this node's own apps.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::sync::oneshot;
use tokio::time::{sleep_until, timeout};

use crate::failure::Failure;
use crate::limits::buffer_pool::{detached, memory_of};
use crate::link::http2;
use crate::link::incoming::Incoming;
use crate::link::pipe::{self, Pipe};
use crate::link::relay::Progress;
use crate::link::tunnel::{Inbox, Outbox, Tunnel};
use crate::memory::{Account, Tally};
use crate::wire::http::{MAX_HEAD, MAX_LINK_HEAD, head_end};
use crate::wire::id::NodeId;

/// How long the client may take for the first request, which it sends along with the stream.
const FIRST: Duration = Duration::from_secs(10);
/// How long the client may take to end its direction after the last response.
const LAST: Duration = Duration::from_secs(10);

/// The client has given up, or the stream has to end.
#[derive(Debug)]
pub(super) struct Gone;

impl From<http2::Error> for Gone {
    fn from(_error: http2::Error) -> Self {
        Self
    }
}

impl From<pipe::Broken> for Gone {
    fn from(_broken: pipe::Broken) -> Self {
        Self
    }
}

/// A stream of this node's own apps. The sender is told once whether it is granted, or why not.
pub(super) struct LocalStream {
    pub(super) pipe: Pipe,
    pub(super) answer: Option<oneshot::Sender<Result<(), Failure>>>,
}

/// The client's end: before the stream is granted, and after it.
enum Stage {
    Asked(Box<Incoming>),
    Granted(Tunnel),
    Own(LocalStream),
    Over,
}

/// One stream of requests.
pub(super) struct Asker<'a> {
    stage: Stage,
    /// Who asks.
    pub(super) member: NodeId,
    /// What the stream holds is charged to this.
    pub(super) account: Arc<Account>,
    /// What is about to be sent.
    held: Tally,
    /// What was received and not consumed.
    buffer: BytesMut,
    /// The memory of `buffer`.
    received: Tally,
    /// The bytes of heads that are counted once they are granted: a refused request reaches no server.
    uncounted: usize,
    progress: &'a Progress<'a>,
}

/// The size of a buffer, in bytes, that the fixed cost of a stream covers: most requests and response heads need less.
const COVERED: usize = 4 * 1024;

/// How much of the memory of a buffer is counted by itself, in bytes.
pub(super) fn beyond(memory: usize) -> usize {
    memory.saturating_sub(COVERED)
}

impl<'a> Asker<'a> {
    /// The stream of a client.
    pub(super) fn client(
        incoming: Box<Incoming>,
        member: NodeId,
        account: Arc<Account>,
        progress: &'a Progress<'a>,
    ) -> Self {
        Self::new(Stage::Asked(incoming), member, account, progress)
    }

    /// The stream of an app of this node.
    pub(super) fn own(own: LocalStream, member: NodeId, progress: &'a Progress<'a>) -> Self {
        let account = own.pipe.account().clone();
        Self::new(Stage::Own(own), member, account, progress)
    }

    fn new(stage: Stage, member: NodeId, account: Arc<Account>, progress: &'a Progress<'a>) -> Self {
        let (held, received) = (Tally::of(&account), Tally::of(&account));
        Self { stage, member, account, held, buffer: BytesMut::new(), received, uncounted: 0, progress }
    }

    /// The request for the stream of a client, while it is not granted.
    pub(super) fn into_incoming(self) -> Option<Box<Incoming>> {
        match self.stage {
            Stage::Asked(incoming) => Some(incoming),
            Stage::Granted(_) | Stage::Own(_) | Stage::Over => None,
        }
    }

    /// Refuses the stream of an app, unless it was granted.
    pub(super) fn refuse(&mut self, failure: &Failure) {
        if let Stage::Own(LocalStream { answer, .. }) = &mut self.stage
            && let Some(answer) = answer.take()
        {
            // The app may have left.
            let _ = answer.send(Err(failure.clone()));
        }
    }

    /// Whether the stream is granted, so that it cannot be refused any more.
    pub(super) fn is_granted(&self) -> bool {
        match &self.stage {
            Stage::Granted(_) => true,
            Stage::Own(own) => own.answer.is_none(),
            Stage::Asked(_) | Stage::Over => false,
        }
    }

    /// Resets the stream: nothing comes from the server.
    pub(super) fn cut(self) {
        if let Stage::Granted(mut tunnel) = self.stage {
            tunnel.reset(http2::Reason::CONNECT_ERROR);
        }
    }

    /// Notes how much memory is held for what is about to be sent, in bytes.
    pub(super) fn hold(&mut self, bytes: usize) {
        self.held.set(bytes);
    }

    /// Grants the stream unless it is granted. The request is served from here on, and counts.
    pub(super) fn grant(&mut self) -> Result<(), Gone> {
        self.progress.add_received(std::mem::take(&mut self.uncounted));
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Asked(incoming) => self.stage = Stage::Granted(incoming.accept()?),
            Stage::Own(LocalStream { pipe, answer }) => {
                // The app may have left.
                answer.map(|answer| answer.send(Ok(())));
                self.stage = Stage::Own(LocalStream { pipe, answer: None });
            }
            stage => self.stage = stage,
        }
        Ok(())
    }

    /// Reads the head of the next request; `None` when the client has ended its direction.
    pub(super) async fn head(&mut self) -> Result<Option<Bytes>, Gone> {
        let mut searched = 0;
        loop {
            if let Some(end) = head_end(&self.buffer, searched) {
                // The head outlives what was received with it.
                return Ok(Some(detached(self.buffer.split_to(end).freeze(), MAX_LINK_HEAD)));
            }
            searched = self.buffer.len();
            if searched >= MAX_LINK_HEAD {
                return Err(Gone);
            }
            let next = match &mut self.stage {
                Stage::Asked(incoming) => timeout(FIRST, incoming.next()).await.map_err(|_late| Gone)??,
                Stage::Granted(tunnel) => tunnel.inbox.next().await?,
                Stage::Own(own) => own.pipe.receiver.next().await?,
                Stage::Over => return Err(Gone),
            };
            match next {
                Some(bytes) => {
                    self.uncounted += bytes.len();
                    self.buffer.extend_from_slice(&bytes);
                    self.received.set(beyond(self.buffer.capacity()));
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Gone),
            }
        }
    }

    /// Whether nothing of a request has come, and the stream was not ended for lack of memory.
    pub(super) fn is_idle(&self) -> bool {
        self.buffer.is_empty() && !self.account.is_evicted()
    }

    /// Both directions of a granted stream, and what was received and not consumed.
    pub(super) fn halves(&mut self) -> Result<(FromClient<'_>, ToClient<'_>), Gone> {
        let (input, output) = match &mut self.stage {
            Stage::Granted(Tunnel { inbox, outbox }) => (Input::Link(inbox), Output::Link(outbox)),
            Stage::Own(LocalStream { pipe, .. }) => {
                (Input::Own(&mut pipe.receiver), Output::Own(&mut pipe.sender))
            }
            Stage::Asked(_) | Stage::Over => return Err(Gone),
        };
        let (buffer, received) = (&mut self.buffer, &mut self.received);
        let from = FromClient { buffer, received, input, progress: self.progress };
        let (account, held) = (&self.account, Tally::of(&self.account));
        Ok((from, ToClient { account, held, output, progress: self.progress }))
    }

    /// Sends bytes on a granted stream.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        let (_, mut to_client) = self.halves()?;
        to_client.send(bytes).await
    }

    /// Waits until the client has given up, or the stream has to end because memory is short.
    pub(super) async fn gone(&mut self) {
        match &mut self.stage {
            Stage::Asked(incoming) => incoming.abandoned().await,
            Stage::Granted(tunnel) => {
                poll_fn(|cx| {
                    if tunnel.inbox.poll_evicted(cx) {
                        return Poll::Ready(());
                    }
                    tunnel.outbox.poll_reset(cx).map(drop)
                })
                .await;
            }
            Stage::Own(own) => own.pipe.sender.broken().await,
            Stage::Over => {}
        }
    }

    /// Ends the stream in good order, and waits for the client to do so too.
    pub(super) async fn finish(self) {
        let mut tunnel = match self.stage {
            Stage::Granted(tunnel) => tunnel,
            Stage::Own(mut own) => return own.pipe.sender.finish(),
            Stage::Asked(_) | Stage::Over => return,
        };
        if tunnel.outbox.finish().is_ok() {
            let rest = async { while matches!(tunnel.inbox.next().await, Ok(Some(_))) {} };
            let _ = timeout(LAST, rest).await;
        }
    }
}

/// Where what the client sends comes from.
enum Input<'a> {
    Link(&'a mut Inbox),
    Own(&'a mut pipe::Receiver),
}

/// Where what the client receives goes.
enum Output<'a> {
    Link(&'a mut Outbox),
    Own(&'a mut pipe::Sender),
}

/// What the client sends after the head of a request.
pub(super) struct FromClient<'a> {
    pub(super) buffer: &'a mut BytesMut,
    received: &'a mut Tally,
    input: Input<'a>,
    progress: &'a Progress<'a>,
}

impl FromClient<'_> {
    /// Waits until the client ends its direction. What it sends before that is kept, up to a limit.
    pub(super) async fn end(&mut self) -> Result<(), Gone> {
        while self.buffer.len() < MAX_HEAD {
            if !self.more().await? {
                return Ok(());
            }
        }
        std::future::pending().await
    }

    /// Reads more into the buffer; false at the end.
    pub(super) async fn more(&mut self) -> Result<bool, Gone> {
        let next = match &mut self.input {
            Input::Link(inbox) => inbox.next().await?,
            Input::Own(receiver) => receiver.next().await?,
        };
        match next {
            Some(bytes) => {
                // First, because the caller may give up waiting.
                self.buffer.extend_from_slice(&bytes);
                self.received.set(beyond(self.buffer.capacity()));
                if let Some(due) = self.progress.add_received(bytes.len()) {
                    sleep_until(due).await;
                }
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// What the client receives.
pub(super) struct ToClient<'a> {
    account: &'a Arc<Account>,
    /// The memory of what waits for room in the stream's queue.
    held: Tally,
    output: Output<'a>,
    progress: &'a Progress<'a>,
}

impl ToClient<'_> {
    /// What the stream holds is charged to this.
    pub(super) fn account(&self) -> &Arc<Account> {
        self.account
    }

    /// Counts other memory for the same stream.
    pub(super) fn tally(&self) -> Tally {
        Tally::of(self.account)
    }

    /// Sends bytes, unless the stream has to end meanwhile because memory is short.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        let count = bytes.len();
        self.held.set(beyond(memory_of(count)));
        let output = &mut self.output;
        let sending = async {
            match output {
                Output::Link(outbox) => Ok::<_, Gone>(outbox.send_in_turn(bytes).await?),
                Output::Own(sender) => Ok(sender.send(bytes).await?),
            }
        };
        tokio::select! {
            biased;
            sent = sending => sent?,
            () = self.account.evicted() => return Err(Gone),
        }
        self.held.set(0);
        if let Some(due) = self.progress.add_sent(count) {
            sleep_until(due).await;
        }
        Ok(())
    }

    /// Waits until the client has given up.
    pub(super) async fn reset(&mut self) {
        match &mut self.output {
            Output::Link(outbox) => poll_fn(|cx| outbox.poll_reset(cx).map(drop)).await,
            Output::Own(sender) => sender.broken().await,
        }
    }
}
