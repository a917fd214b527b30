//! Fetches a page through a gateway of this machine's group, with the library alone: no node has to run here.
//!
//! ```sh
//! cargo run --example fetch -- 10.0.0.5:80
//! ```
//!
//! It reads the membership that `laneway join` saved, asks the LAN for gateways, opens a link to the first one that answered,
//! and one tunnel on that link.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use laneway::link::client::Link;
use laneway::link::tls;
use laneway::peers::survey;
use laneway::sys::state::StateDir;
use laneway::trust::group::Group;
use laneway::trust::membership::Membership;
use laneway::wire::target::Target;
use tokio_util::task::TaskTracker;

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let server: Target = std::env::args().nth(1).context("usage: fetch HOST:PORT")?.parse()?;
    let state = StateDir::open(StateDir::default_path()?)?;
    let group = Group::load(&state)?.context("this machine is not in a group: run 'laneway join' first")?;

    let options = survey::Options {
        group: group.clone().into(),
        port: 7420,
        lans: vec![],
        known: vec![],
        time: Duration::from_secs(1),
        patience: Duration::ZERO,
    };
    let survey = survey::look(options).await?;
    let gateway = *survey.links().first().context("no gateway answered")?;

    let config = tls::link_client(&group)?;
    let tasks = TaskTracker::new();
    let membership = Membership::new(group);
    let link = Link::dial(gateway.link, Some(gateway.id), config, membership, &tasks).await?;
    let request = format!("GET / HTTP/1.0\r\nHost: {server}\r\n\r\n");
    let opened = link.open(&server, 1, request.into()).await;
    let mut tunnel = opened.map_err(|failure| anyhow::anyhow!(failure.sentence))?.stream;
    while let Some(bytes) = tunnel.inbox.next().await? {
        std::io::stdout().write_all(&bytes)?;
    }
    Ok(())
}
