//! Squid: one hop, no encryption; what a proxy server in the middle costs.

use super::peer::{About, Missing, Peer, Place, lacks, program, text};
use crate::load::dial::Dialect;
use anyhow::Result;
use std::process::Command;

pub(super) struct Squid;

impl Peer for Squid {
    fn name(&self) -> &'static str {
        "squid"
    }

    fn about(&self) -> About {
        About {
            what: "Squid, one hop, not encrypted, no cache",
            dialect: Dialect::Connect,
            plain_http: true,
            hops: 1,
        }
    }

    fn missing(&self) -> Option<Missing> {
        lacks(&["squid"])
    }

    fn gateway(&self, _: &Place<'_>) -> Result<Option<Command>> {
        Ok(None)
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let configuration = place.configuration("squid.conf", include_str!("../../peers/squid.conf"))?;
        let mut command = Command::new(program("squid"));
        command.args(["--foreground", "-f", text(&configuration)]);
        Ok(Some(command))
    }
}
