//! Two Envoys, HTTP/2 CONNECT over TLS between them, as its documentation's "tunneling TCP over HTTP" shows.

use super::peer::{About, Missing, Peer, Place, lacks, make_certificate, text};
use crate::load::dial::Dialect;
use anyhow::Result;
use std::path::PathBuf;
use std::process::Command;

pub(super) struct Envoy {
    pub(super) binary: PathBuf,
}

impl Peer for Envoy {
    fn name(&self) -> &'static str {
        "envoy"
    }

    fn about(&self) -> About {
        About {
            what: "two Envoys, HTTP/2 CONNECT over TLS 1.3, multiplexed",
            // Its TCP listener has one fixed server: it does less than a proxy that reads the target from the request.
            dialect: Dialect::Raw,
            plain_http: false,
            hops: 2,
        }
    }

    fn missing(&self) -> Option<Missing> {
        if !self.binary.is_file() {
            return Some(Missing::program("envoy"));
        }
        lacks(&["openssl"])
    }

    fn prepare(&self, place: &Place<'_>) -> Result<()> {
        make_certificate(place)
    }

    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>> {
        self.command(place, "gateway", include_str!("../../peers/envoy-gateway.yaml"))
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        self.command(place, "client", include_str!("../../peers/envoy-client.yaml"))
    }
}

impl Envoy {
    fn command(&self, place: &Place<'_>, side: &str, template: &str) -> Result<Option<Command>> {
        let configuration = place.configuration(&format!("{side}.yaml"), template)?;
        let mut command = Command::new(&self.binary);
        command.args([
            "--config-path",
            text(&configuration),
            "--log-level",
            "error",
            "--disable-hot-restart",
        ]);
        Ok(Some(command))
    }
}
