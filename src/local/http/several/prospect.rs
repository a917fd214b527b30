//! Whether a download is to come over several gateways.

use std::time::{Duration, Instant};

use super::super::exchange::Exchange;
use crate::link::client::Link;
use crate::local::server_connection::FromServer;
use crate::wire::http::{DISCARD, ResponseHead};
use crate::wire::resume::Point;

/// The least of a file that comes over several gateways, in bytes. At 100 Mbit/s it takes more than a second.
const LEAST: u64 = 16 << 20;
/// How long the first gateway is measured at least, and at most; in between it is this part of the time that the download would
/// take over it alone. Whoever asks for the same file meanwhile gets it together with this one.
const MEASURED: Duration = Duration::from_millis(300);
const MOST_MEASURED: Duration = Duration::from_secs(2);
const MEASURED_PART: f64 = 0.01;
/// A download that ends within this time over the first gateway alone stays there: asking others takes a part of a second.
const WORTH: Duration = Duration::from_secs(2);
/// The time in which nothing came and the app could have taken more, as a part of the whole: if it is less, the app is slower
/// than the gateway.
const WAITING: f64 = 0.5;

/// A download over one gateway that may go on over several.
pub(in super::super) struct Prospect {
    pub(super) point: Point,
    /// The link that it comes over.
    pub(super) link: Link,
    since: Instant,
    /// How long the app and this node have waited for bytes.
    waited: Duration,
    /// How many bytes were left at the beginning.
    left: u64,
}

impl Prospect {
    /// Notes how long nothing came.
    pub(in super::super) fn waited(&mut self, time: Duration) {
        self.waited += time;
    }

    /// Whether it is worth asking other gateways for the `left` bytes.
    pub(in super::super) fn is_due(&self, left: u64) -> bool {
        let passed = self.since.elapsed();
        let alone = left as f64 / self.rate(left).max(1.0);
        let measured = (alone * MEASURED_PART).clamp(MEASURED.as_secs_f64(), MOST_MEASURED.as_secs_f64());
        passed.as_secs_f64() >= measured
            && self.waited.as_secs_f64() >= passed.as_secs_f64() * WAITING
            && alone >= WORTH.as_secs_f64()
    }

    /// The bytes per second that the first gateway has delivered, with `left` bytes left.
    pub(super) fn rate(&self, left: u64) -> f64 {
        (self.left - left) as f64 / self.since.elapsed().as_secs_f64().max(0.001)
    }
}

impl Exchange<'_> {
    /// The prospect of a response of which nothing has been passed on; `None` if it comes over one gateway in any case.
    ///
    /// What the gateway has stored, or fetches for several clients, comes over it alone: it would cross other lines once more. So
    /// does a file of a server that has not said that it supports ranges: each gateway would fetch the whole.
    pub(in super::super) fn prospect(
        &self,
        server: &FromServer<'_>,
        response: &ResponseHead,
    ) -> Option<Prospect> {
        let is_large = |(point, left): &(Point, u64)| *left >= LEAST && point.end() == point.total();
        let (point, left) = self.point().clone().filter(is_large)?;
        let links = &self.local.routes.links;
        let link = links.with_state(server.link_state()?).filter(|_| self.local.routes.spreads)?;
        let was_wrong = self.request.fields.get(DISCARD).is_some();
        if was_wrong
            || !has_ranges(response)
            || is_shared(response, &format!("laneway-{}", link.gateway.id.short()))
            || !links.has_others(link.gateway.id)
        {
            return None;
        }
        Some(Prospect { point, link, since: Instant::now(), waited: Duration::ZERO, left })
    }
}

/// Whether the server has said that it sends parts of this content (RFC 9110 §14.3), or has sent one.
fn has_ranges(response: &ResponseHead) -> bool {
    let mut units = response.fields.all("accept-ranges").flat_map(|value| value.split(|&byte| byte == b','));
    response.status == 206 || units.any(|unit| unit.trim_ascii().eq_ignore_ascii_case(b"bytes"))
}

/// Whether the gateway has answered from its cache, or from what it fetches for several (RFC 9211).
fn is_shared(response: &ResponseHead, gateway: &str) -> bool {
    let status = response.fields.get("cache-status").and_then(|status| str::from_utf8(status).ok());
    let parameters = status.and_then(|status| status.strip_prefix(gateway)).unwrap_or_default();
    parameters.split(';').map(str::trim).any(|parameter| parameter == "hit" || parameter == "collapsed")
}
