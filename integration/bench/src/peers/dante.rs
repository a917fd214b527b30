//! Dante: one hop, no encryption; SOCKS5 as the distribution has it.

use super::peer::{About, Missing, Peer, Place, lacks, program, text};
use crate::load::dial::Dialect;
use anyhow::Result;
use std::process::Command;

pub(super) struct Dante;

impl Peer for Dante {
    fn name(&self) -> &'static str {
        "dante"
    }

    fn about(&self) -> About {
        About {
            what: "Dante's danted, one hop, not encrypted",
            dialect: Dialect::Socks5,
            plain_http: false,
            hops: 1,
        }
    }

    fn missing(&self) -> Option<Missing> {
        lacks(&["danted"])
    }

    fn gateway(&self, _: &Place<'_>) -> Result<Option<Command>> {
        Ok(None)
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let configuration = place.configuration("danted.conf", include_str!("../../peers/danted.conf"))?;
        let mut command = Command::new(program("danted"));
        let id = place.directory.join("danted.pid");
        command.args(["-N", "2", "-f", text(&configuration), "-p", text(&id)]);
        Ok(Some(command))
    }
}
