//! The client's end of a stream of requests.

use std::future::poll_fn;
use std::task::Poll;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::{sleep_until, timeout};

use crate::link::http2;
use crate::link::incoming::Incoming;
use crate::link::relay::Progress;
use crate::link::tunnel::{Inbox, Outbox, Tunnel};
use crate::wire::http::{MAX_HEAD, head_end};

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

/// The client's end: before the stream is granted, and after it.
enum Stage {
    Asked(Box<Incoming>),
    Granted(Tunnel),
    Over,
}

/// One client's stream of requests.
pub(super) struct Asker<'a> {
    stage: Stage,
    /// What was received and not consumed.
    buffer: BytesMut,
    progress: &'a Progress<'a>,
}

impl<'a> Asker<'a> {
    pub(super) fn new(incoming: Box<Incoming>, progress: &'a Progress<'a>) -> Self {
        Self { stage: Stage::Asked(incoming), buffer: BytesMut::new(), progress }
    }

    /// The request for the stream, while it is not granted.
    pub(super) fn into_incoming(self) -> Option<Box<Incoming>> {
        match self.stage {
            Stage::Asked(incoming) => Some(incoming),
            Stage::Granted(_) | Stage::Over => None,
        }
    }

    /// Whether the stream is granted, so that it cannot be refused any more.
    pub(super) fn is_granted(&self) -> bool {
        matches!(self.stage, Stage::Granted(_))
    }

    /// Grants the stream unless it is granted.
    pub(super) fn grant(&mut self) -> Result<(), Gone> {
        match std::mem::replace(&mut self.stage, Stage::Over) {
            Stage::Asked(incoming) => self.stage = Stage::Granted(incoming.accept()?),
            stage => self.stage = stage,
        }
        Ok(())
    }

    /// Reads the head of the next request; `None` when the client has ended its direction.
    pub(super) async fn head(&mut self) -> Result<Option<Bytes>, Gone> {
        let mut searched = 0;
        loop {
            if let Some(end) = head_end(&self.buffer, searched) {
                return Ok(Some(self.buffer.split_to(end).freeze()));
            }
            searched = self.buffer.len();
            if searched >= MAX_HEAD {
                return Err(Gone);
            }
            let next = match &mut self.stage {
                Stage::Asked(incoming) => timeout(FIRST, incoming.next()).await.map_err(|_late| Gone)??,
                Stage::Granted(tunnel) => tunnel.inbox.next().await?,
                Stage::Over => return Err(Gone),
            };
            match next {
                Some(bytes) => {
                    self.progress.add_received(bytes.len());
                    self.buffer.extend_from_slice(&bytes);
                }
                None if self.buffer.is_empty() => return Ok(None),
                None => return Err(Gone),
            }
        }
    }

    /// Both directions of a granted stream, and what was received and not consumed.
    pub(super) fn halves(&mut self) -> Result<(FromClient<'_>, ToClient<'_>), Gone> {
        let Stage::Granted(tunnel) = &mut self.stage else { return Err(Gone) };
        let from = FromClient { buffer: &mut self.buffer, inbox: &mut tunnel.inbox, progress: self.progress };
        Ok((from, ToClient { outbox: &mut tunnel.outbox, progress: self.progress }))
    }

    /// Sends bytes on a granted stream.
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        let Stage::Granted(tunnel) = &mut self.stage else { return Err(Gone) };
        let Tunnel { outbox, inbox } = tunnel;
        let evicted = poll_fn(|cx| if inbox.poll_evicted(cx) { Poll::Ready(()) } else { Poll::Pending });
        let mut to_client = ToClient { outbox, progress: self.progress };
        tokio::select! {
            sent = to_client.send(bytes) => sent,
            () = evicted => Err(Gone),
        }
    }

    /// Waits until the client has given up, or the stream has to end for want of memory.
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
            Stage::Over => {}
        }
    }

    /// Ends the stream in good order, and waits for the client to do so too.
    pub(super) async fn finish(self) {
        let Stage::Granted(mut tunnel) = self.stage else { return };
        if tunnel.outbox.finish().is_ok() {
            let rest = async { while matches!(tunnel.inbox.next().await, Ok(Some(_))) {} };
            let _ = timeout(LAST, rest).await;
        }
    }
}

/// What the client sends after the head of a request.
pub(super) struct FromClient<'a> {
    pub(super) buffer: &'a mut BytesMut,
    inbox: &'a mut Inbox,
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
        match self.inbox.next().await? {
            Some(bytes) => {
                if let Some(due) = self.progress.add_received(bytes.len()) {
                    sleep_until(due).await;
                }
                self.buffer.extend_from_slice(&bytes);
                Ok(true)
            }
            None => Ok(false),
        }
    }
}

/// What the client receives.
pub(super) struct ToClient<'a> {
    outbox: &'a mut Outbox,
    progress: &'a Progress<'a>,
}

impl ToClient<'_> {
    pub(super) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        let count = bytes.len();
        self.outbox.send_in_turn(bytes).await?;
        if let Some(due) = self.progress.add_sent(count) {
            sleep_until(due).await;
        }
        Ok(())
    }

    /// Waits until the client has given up.
    pub(super) async fn reset(&mut self) {
        poll_fn(|cx| self.outbox.poll_reset(cx).map(drop)).await;
    }
}
