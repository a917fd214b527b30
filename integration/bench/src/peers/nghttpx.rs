//! Two nghttpx with HTTP/2 over TLS between them. nghttpx needs an HTTP proxy behind it to dial; the server acts as that.

use super::peer::{About, Missing, Peer, Place, lacks, make_certificate, text};
use crate::load::dial::Dialect;
use anyhow::Result;
use std::process::Command;

pub(super) struct Nghttpx;

impl Peer for Nghttpx {
    fn name(&self) -> &'static str {
        "nghttpx"
    }

    fn about(&self) -> About {
        About {
            what: "two nghttpx, HTTP/2 over TLS 1.3, multiplexed; the server answers its CONNECT",
            dialect: Dialect::Connect,
            plain_http: true,
            hops: 2,
        }
    }

    fn missing(&self) -> Option<Missing> {
        lacks(&["nghttpx", "openssl"])
    }

    fn prepare(&self, place: &Place<'_>) -> Result<()> {
        make_certificate(place)
    }

    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>> {
        Self::command(place, "gateway", include_str!("../../peers/nghttpx-gateway.conf"))
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        Self::command(place, "client", include_str!("../../peers/nghttpx-client.conf"))
    }
}

impl Nghttpx {
    fn command(place: &Place<'_>, side: &str, template: &str) -> Result<Option<Command>> {
        let configuration = place.configuration(&format!("{side}.conf"), template)?;
        let mut command = Command::new("nghttpx");
        command.args(["--conf", text(&configuration)]);
        Ok(Some(command))
    }
}
