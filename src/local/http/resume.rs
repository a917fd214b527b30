//! Resuming a download over another gateway.

use bytes::BytesMut;

use super::exchange::{Exchange, Trouble};
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::relay::Progress;
use crate::local::server_connection::FromServer;
use crate::sys::closed::until_closed;
use crate::telemetry::record::Record;
use crate::wire::http::{MAX_LINK_HEAD, Malformed, ResponseHead, head_end};
use crate::wire::resume::Point;

/// Maximum number of attempts in a row that deliver nothing.
const MOST_FRUITLESS: u32 = 8;

impl Exchange<'_> {
    /// Continues a download whose link was lost over the next gateway, and again if that one is lost. Bytes are appended
    /// to what the app has received only if they are certain to be of the same representation; otherwise the app sees a
    /// truncated response. `why` says how the link was lost.
    ///
    /// # Errors
    /// [`Trouble`] when the rest cannot be delivered, or the app leaves.
    pub(super) async fn resume(&self, why: String, record: &mut Record) -> Result<(), Trouble> {
        tokio::select! {
            biased;
            resumed = self.go_on(why, record) => resumed,
            () = until_closed(self.app) => Err(Trouble::Left),
        }
    }

    async fn go_on(&self, mut why: String, record: &mut Record) -> Result<(), Trouble> {
        let mut fruitless = 0;
        while fruitless < MOST_FRUITLESS {
            let Some((point, left)) = self.point().clone() else { return Err(Trouble::Truncated(why)) };
            let offset = point.end() - left;
            limited!(
                info,
                NOBODY,
                conn = format!("{:016x}", self.id),
                offset,
                left,
                "the rest of a download is asked for on the next gateway"
            );
            let mut head = BytesMut::new();
            point.request(self.request, offset).write_forward(&self.local.name, &mut head);
            let mut server = self
                .open(head.freeze(), true)
                .await
                .map_err(|failure| Trouble::Truncated(failure.to_string()))?;
            record.gateway = server.gateway().to_owned();
            self.comes_over(&server);
            let traffic = record.traffic();
            let progress = Progress::of_app(&traffic);
            let result = self.rest(&mut server.halves().1, &point, (offset, left), &progress, record).await;
            let moved = progress.moved();
            record.moved(moved);
            fruitless = if moved.received > 0 { 0 } else { fruitless + 1 };
            match result {
                Err(Trouble::Lost(again)) => why = again,
                Err(trouble) => return Err(trouble),
                Ok(()) => return Ok(()),
            }
        }
        Err(Trouble::Truncated(why))
    }

    /// Delivers the last `left` bytes of the response at `point`, which the server was asked for from `offset` on.
    async fn rest(
        &self,
        server: &mut FromServer<'_>,
        point: &Point,
        (offset, left): (u64, u64),
        progress: &Progress<'_>,
        record: &Record,
    ) -> Result<(), Trouble> {
        let mut buffer = BytesMut::new();
        let mut searched = 0;
        let response = loop {
            if let Some(end) = head_end(&buffer, searched) {
                let head = buffer.split_to(end);
                let response = ResponseHead::parse_of_node(&head, &self.request.method);
                let response = response.map_err(|malformed| Trouble::Truncated(malformed.to_string()))?;
                if !response.is_interim() {
                    break response;
                }
                searched = 0;
                continue;
            }
            searched = buffer.len();
            if searched >= MAX_LINK_HEAD {
                return Err(Trouble::Truncated(Malformed::HeadTooLarge.to_string()));
            }
            buffer.extend_from_slice(&self.next_of_body(server, &mut BytesMut::new()).await?);
        };
        point.check(&response, offset).map_err(|mismatch| Trouble::Truncated(mismatch.to_string()))?;
        record.rescued("resumed");
        let mut head = BytesMut::new();
        let prospect = self.prospect(server, &response);
        self.exact(server, &mut head, &mut buffer, left, (progress, false, prospect)).await?;
        self.finish_body(server, &mut head, false).await
    }
}
