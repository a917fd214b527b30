//! One connection to the server over one gateway, for one range after another.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::Method;

use crate::failure::Failure;
use crate::link::client::Link;
use crate::link::request::Transport;
use crate::local::pieces::SourceId;
use crate::local::routes::Routes;
use crate::local::server_connection::{FromServer, ServerConnection, ServerError};
use crate::memory::{Account, Tally};
use crate::wire::http::{MAX_LINK_HEAD, Malformed, PART, ResponseHead, head_end};
use crate::wire::resume::{Mismatch, Point};
use crate::wire::target::Target;

/// Maximum number of interim responses (1xx) to one request.
const MOST_INTERIM: u32 = 16;

/// One connection.
pub(super) struct Lane {
    pub(super) source: SourceId,
    link: Link,
    server: Option<ServerConnection>,
    /// The server takes another request on it.
    keeps: bool,
}

/// What is asked for.
// fields: what opening a connection takes, and what is asked on it
pub(super) struct RangeRequest<'a> {
    pub(super) routes: &'a Routes,
    pub(super) target: &'a Target,
    pub(super) transport: Transport,
    pub(super) id: u64,
    pub(super) account: Arc<Account>,
    /// The request.
    pub(super) head: Bytes,
    pub(super) point: Point,
    /// The offsets of the first byte and after the last one.
    pub(super) range: (u64, u64),
}

/// Why a request brought nothing more.
#[derive(Debug, thiserror::Error)]
pub(super) enum Why {
    /// The link was lost.
    #[error("{0}")]
    Lost(ServerError),
    /// The gateway fetches the whole file for others, and gives parts of it as they come.
    #[error("the gateway fetches the file for others")]
    Later,
    /// The gateway does not open a connection to the server.
    #[error("{0}")]
    Refused(Failure),
    /// The answer is not the part that was asked for.
    #[error("{0}")]
    Unfit(Mismatch),
    /// The connection broke, or brought no response of HTTP.
    #[error("{0}")]
    Broken(String),
}

impl From<Malformed> for Why {
    fn from(malformed: Malformed) -> Self {
        Self::Broken(malformed.to_string())
    }
}

impl From<ServerError> for Why {
    fn from(error: ServerError) -> Self {
        if error.is_link_lost() { Self::Lost(error) } else { Self::Broken(error.to_string()) }
    }
}

impl Lane {
    /// A connection over `link` that is not open yet.
    pub(super) fn new(source: SourceId, link: Link) -> Self {
        Self { source, link, server: None, keeps: false }
    }

    /// Whether another request may be sent on it.
    pub(super) fn keeps(&self) -> bool {
        self.keeps && self.server.is_some()
    }

    /// Asks for a range. Returns the bytes of it that came with the head of the response.
    pub(super) async fn begin(mut self, asked: RangeRequest<'_>) -> (Self, Result<Bytes, Why>) {
        let result = self.ask(&asked).await;
        (self, result)
    }

    /// The next bytes of the response.
    pub(super) async fn next(mut self) -> (Self, Result<Bytes, Why>) {
        let result = match &mut self.server {
            Some(server) => next(&mut server.halves().1).await,
            None => Err(Malformed::Unfinished.into()),
        };
        (self, result)
    }

    async fn ask(&mut self, asked: &RangeRequest<'_>) -> Result<Bytes, Why> {
        if let Some(mut server) = self.server.take()
            && !server.is_stale()
            && server.halves().0.send(asked.head.clone()).await.is_ok()
        {
            // No answer means that it was closed before the request came (RFC 9112 §9.3.1).
            if let Some(first) = self.answer(&mut server, asked).await? {
                self.server = Some(server);
                return Ok(first);
            }
        }
        let RangeRequest { routes, target, transport, id, account, .. } = asked;
        let opened = routes.open_over(&self.link, (*transport, target), *id, asked.head.clone(), account);
        let mut server = Box::pin(opened).await.map_err(Why::Refused)?;
        let first = self.answer(&mut server, asked).await?;
        self.server = Some(server);
        first.ok_or_else(|| Malformed::Unfinished.into())
    }

    /// Reads the head of the response, and checks that the part that was asked for follows it. `None` when the connection ended
    /// before anything came.
    async fn answer(
        &mut self,
        server: &mut ServerConnection,
        asked: &RangeRequest<'_>,
    ) -> Result<Option<Bytes>, Why> {
        let (_, mut from) = server.halves();
        let (mut buffer, mut searched, mut interim) = (BytesMut::new(), 0, 0);
        let mut held = Tally::of(&asked.account);
        loop {
            if let Some(end) = head_end(&buffer, searched) {
                let response = ResponseHead::parse_of_node(&buffer.split_to(end), &Method::GET)?;
                if response.is_interim() && interim < MOST_INTERIM {
                    (interim, searched) = (interim + 1, 0);
                    continue;
                }
                if response.fields.get(PART).is_some() {
                    return Err(Why::Later);
                }
                let (start, end) = asked.range;
                asked.point.check_part(&response, start, end).map_err(Why::Unfit)?;
                self.keeps = response.keep_alive;
                return Ok(Some(buffer.freeze()));
            }
            searched = buffer.len();
            if searched >= MAX_LINK_HEAD {
                return Err(Malformed::HeadTooLarge.into());
            }
            match from.next().await {
                Ok(Some(bytes)) => buffer.extend_from_slice(&bytes),
                Ok(None) if buffer.is_empty() => return Ok(None),
                Ok(None) => return Err(Malformed::Unfinished.into()),
                Err(error) if buffer.is_empty() && !error.is_link_lost() => return Ok(None),
                Err(error) => return Err(error.into()),
            }
            held.set(buffer.capacity());
        }
    }
}

async fn next(from: &mut FromServer<'_>) -> Result<Bytes, Why> {
    from.next().await?.ok_or_else(|| Malformed::Unfinished.into())
}
