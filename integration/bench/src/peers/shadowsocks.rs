//! shadowsocks-rust: encrypted, one TCP connection between the two sides for each of the app's.

use super::peer::{About, Missing, Peer, Place, text};
use crate::load::dial::Dialect;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

pub(super) struct Shadowsocks {
    /// Where its two programs are.
    pub(super) binaries: PathBuf,
}

impl Peer for Shadowsocks {
    fn name(&self) -> &'static str {
        "shadowsocks"
    }

    fn about(&self) -> About {
        About {
            what: "shadowsocks-rust, 2022-blake3-aes-128-gcm, not multiplexed",
            dialect: Dialect::Socks5,
            plain_http: false,
            hops: 2,
        }
    }

    fn missing(&self) -> Option<Missing> {
        let lacking = ["sslocal", "ssserver"].iter().find(|name| !self.binaries.join(name).is_file())?;
        Some(Missing::program(lacking))
    }

    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let template = include_str!("../../peers/ssserver.json");
        self.command(place, "ssserver", template)
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let template = include_str!("../../peers/sslocal.json");
        self.command(place, "sslocal", template)
    }
}

impl Shadowsocks {
    fn command(&self, place: &Place<'_>, program: &str, template: &str) -> Result<Option<Command>> {
        let configuration = place.configuration(&format!("{program}.json"), template)?;
        let mut command = Command::new(self.binaries.join(program));
        command.args(["-c", text(&configuration)]);
        Ok(Some(command))
    }
}
