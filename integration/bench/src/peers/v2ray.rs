//! V2Ray: VMess with AES-128-GCM, and its own multiplexing.

use super::peer::{About, Missing, Peer, Place, lacks, text};
use crate::load::dial::Dialect;
use anyhow::Result;
use std::process::Command;

pub(super) struct V2ray;

impl Peer for V2ray {
    fn name(&self) -> &'static str {
        "v2ray"
    }

    fn about(&self) -> About {
        About {
            what: "V2Ray, VMess with aes-128-gcm and mux (1,024 a connection), multiplexed",
            dialect: Dialect::Socks5,
            plain_http: false,
            hops: 2,
        }
    }

    fn missing(&self) -> Option<Missing> {
        lacks(&["v2ray"])
    }

    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>> {
        Self::command(place, "gateway", include_str!("../../peers/v2ray-gateway.json"))
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        Self::command(place, "client", include_str!("../../peers/v2ray-client.json"))
    }
}

impl V2ray {
    fn command(place: &Place<'_>, side: &str, template: &str) -> Result<Option<Command>> {
        let configuration = place.configuration(&format!("{side}.json"), template)?;
        let mut command = Command::new("v2ray");
        command.args(["-config", text(&configuration)]);
        Ok(Some(command))
    }
}
