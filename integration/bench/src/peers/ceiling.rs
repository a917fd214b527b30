//! Two plain relays in a row: the limit for two processes without multiplexing and encryption.

use super::peer::{About, Missing, Peer, Place};
use crate::load::dial::Dialect;
use crate::relay;
use anyhow::Result;
use std::process::Command;

/// The name by which all others find it.
pub(crate) const NAME: &str = "ceiling";

pub(super) struct Ceiling;

impl Peer for Ceiling {
    fn name(&self) -> &'static str {
        NAME
    }

    fn about(&self) -> About {
        About {
            what: "two plain relays, 64 KiB buffers",
            dialect: Dialect::Connect,
            plain_http: true,
            hops: 2,
        }
    }

    fn missing(&self) -> Option<Missing> {
        None
    }

    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([relay::ROLE, &place.link.to_string(), &place.site.server.to_string()]);
        Ok(Some(command))
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args([relay::ROLE, &place.front.to_string(), &place.link.to_string(), "connect"]);
        Ok(Some(command))
    }
}
