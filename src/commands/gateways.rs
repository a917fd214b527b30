//! The gateways that a command asks, tells or measures.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use crate::net;
use crate::peers::survey::{self, Survey};
use crate::problem::Problem;
use crate::trust::group::Group;
use crate::wire::target::Target;

/// How long the LAN is surveyed.
const SURVEY_TIME: Duration = Duration::from_millis(1200);

/// The links of the gateways that the user has named, of which nothing else is known.
///
/// # Errors
/// When one has no address.
pub(super) async fn named<T>(gateways: &[Target]) -> Result<BTreeMap<SocketAddr, Option<T>>, Problem> {
    let mut found = BTreeMap::new();
    for gateway in gateways {
        let addresses = net::lookup(&gateway.to_string()).await.map_err(|error| {
            let problem = Problem::new(format!("the gateway {gateway} has no address")).because(error);
            problem.hint(
                "'laneway discover' shows the addresses of gateways: a member's name in the group is not its host name",
            )
        })?;
        found.extend(addresses.into_iter().map(|address| (address, None)));
    }
    Ok(found)
}

/// Asks the LAN for gateways for a moment, and those at the `known` links.
///
/// # Errors
/// When no query can be sent.
pub(super) async fn look(
    group: &Group,
    known: Vec<SocketAddr>,
    port: u16,
    lans: &[String],
) -> io::Result<Survey> {
    let (group, lans) = (group.clone().into(), lans.to_owned());
    let time = SURVEY_TIME;
    survey::look(survey::Options { group, port, lans, known, time, patience: Duration::ZERO }).await
}
