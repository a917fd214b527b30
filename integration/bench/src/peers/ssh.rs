//! OpenSSH's dynamic forwarding: SOCKS5 at the client, every connection a channel of one encrypted connection.

use super::peer::{About, Missing, Peer, Place, lacks, program, run, text};
use crate::load::dial::Dialect;
use anyhow::Result;
use std::process::Command;

pub(super) struct Ssh;

impl Peer for Ssh {
    fn name(&self) -> &'static str {
        "ssh"
    }

    fn about(&self) -> About {
        About {
            what: "OpenSSH -D, aes128-gcm, multiplexed",
            dialect: Dialect::Socks5,
            plain_http: false,
            hops: 2,
        }
    }

    fn missing(&self) -> Option<Missing> {
        lacks(&["ssh", "sshd", "ssh-keygen"])
    }

    fn prepare(&self, place: &Place<'_>) -> Result<()> {
        for key in ["host", "user"] {
            let mut generate = Command::new("ssh-keygen");
            generate.args(["-q", "-t", "ed25519", "-N", "", "-f", text(&place.directory.join(key))]);
            run(generate)?;
        }
        Ok(())
    }

    fn gateway(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let configuration = place.configuration("sshd.conf", include_str!("../../peers/sshd.conf"))?;
        // sshd executes itself for each connection, and needs its full path for that.
        let mut command = Command::new(program("sshd"));
        command.args(["-D", "-e", "-f", text(&configuration)]);
        Ok(Some(command))
    }

    fn client(&self, place: &Place<'_>) -> Result<Option<Command>> {
        let configuration = place.configuration("ssh.conf", include_str!("../../peers/ssh.conf"))?;
        let mut command = Command::new("ssh");
        command.args(["-N", "-F", text(&configuration), "gateway"]);
        Ok(Some(command))
    }
}
