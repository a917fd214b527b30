//! Small requests on an otherwise idle peer: how many a second, and how long one takes.

use super::measure::{Measure, Metric, Subject};
use crate::load::small::{Request, requests};
use anyhow::Result;

pub(super) const NEW: Measure = Measure {
    name: "new-tunnels",
    title: "New tunnels (open, a byte each way, close), one and 64 at a time",
    quick: true,
    take: |subject| at_each_concurrency(subject, Request::NewTunnel, ""),
};

pub(super) const KEPT: Measure = Measure {
    name: "kept",
    title: "Requests on kept connections: through a tunnel, and as plain HTTP to the proxy's port",
    quick: true,
    take: |subject| {
        at_each_concurrency(subject, Request::KeptTunnel, "tunnel, ")?;
        if subject.peer.about().plain_http {
            at_each_concurrency(subject, Request::PlainHttp, "plain HTTP, ")?;
        }
        Ok(())
    },
};

fn at_each_concurrency(subject: &mut Subject<'_>, kind: Request, what: &str) -> Result<()> {
    for concurrency in [1, 64] {
        let went = requests(&subject.site.client, subject.route(), kind, concurrency, subject.window)?;
        subject.found(Metric::new(format!("{what}{concurrency}"), "/s", 0), went.per_second);
        subject.found(Metric::new(format!("{what}{concurrency}: p50"), "ms", 2), went.p50);
        subject.found(Metric::new(format!("{what}{concurrency}: p99"), "ms", 2), went.p99);
        went.all_well()?;
        subject.settle();
    }
    Ok(())
}
