//! Requests about this gateway itself: its state, and the speed of the link. They concern no destination, so they are
//! not counted as carried traffic.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::clients::{Admitted, Client, Measuring};
use super::served::Seen;
use super::state::Gateway;
use crate::link::gateway_info::{GatewayInfo, MAX_ADDRESSES, MAX_SERVERS, MAX_UNREACHED};
use crate::link::incoming::Incoming;
use crate::link::roster::Sighting;
use crate::link::speed::{self, Direction};
use crate::telemetry::snapshot::Unreached;
use crate::trust::clock;
use crate::wire::datagram::Reach;
use crate::wire::id::NodeId;

impl Gateway {
    /// Answers the member `id` with this gateway's clock, servers and state, and with signs that its keys were copied.
    pub(super) async fn about(self: Arc<Self>, incoming: Box<Incoming>, id: NodeId, _admitted: Admitted) {
        let mut info = self.info();
        info.asked_from = incoming.from.map(|from| from.ip());
        info.linked_from = self.served.addresses(id, MAX_ADDRESSES);
        incoming.answer_info(info).await;
    }

    /// Answers the authority which members this gateway has seen, itself included.
    pub(super) async fn roster(self: Arc<Self>, incoming: Box<Incoming>, _admitted: Admitted) {
        let now = clock::now().as_secs();
        let of = |(id, seen): (NodeId, Seen)| Sighting {
            id: id.to_string(),
            name: seen.name,
            version: seen.version,
            ago: now.saturating_sub(seen.at),
        };
        let mut seen: Vec<_> =
            self.served.members().into_iter().filter(|(id, _)| *id != self.id).map(of).collect();
        let version = Some(env!("CARGO_PKG_VERSION").to_owned());
        seen.push(Sighting { id: self.id.to_string(), name: Some(self.name.to_string()), version, ago: 0 });
        incoming.answer_roster(seen).await;
    }

    fn info(&self) -> GatewayInfo {
        let announced = self.announced.borrow().clone();
        let advert = announced.as_ref().map(|announcement| &announcement.advert);
        // A node with servers that reaches none is not a candidate, and announces nothing.
        let servers = self.egress.servers();
        let reaches_none = !servers.is_empty() && *self.egress.reach().borrow() == Reach::Unreachable;
        let reach = advert.map(|advert| advert.reach).or(reaches_none.then_some(Reach::Unreachable));
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        GatewayInfo {
            clock: u64::try_from(clock.as_millis()).unwrap_or(u64::MAX),
            servers: servers.iter().take(MAX_SERVERS).map(ToString::to_string).collect(),
            state: advert.map(|advert| advert.state.word().into()),
            reach: reach.map(|reach| reach.word().into()),
            rules: Some(self.egress.dialer().rules()),
            in_maintenance: self.activity.is_in_maintenance(),
            unreached: self.egress.unreached().into_iter().take(MAX_UNREACHED).map(said_abroad).collect(),
            unused: self.unused.now(),
            asked_from: None,
            linked_from: Vec::new(),
        }
    }
}

/// Rewords a fault for another machine to show, where "this machine" would be wrong.
fn said_abroad(fault: Unreached) -> Unreached {
    Unreached { reason: fault.reason.replace("this machine", "the gateway"), ..fault }
}

/// Serves one measurement of the link's speed, within the client's rate limit.
pub(super) async fn speed(
    incoming: Box<Incoming>,
    direction: Direction,
    client: Arc<Client>,
    _admitted: Measuring,
) {
    speed::serve(*incoming, direction, &client.pace).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_gateway_says_of_itself_does_not_name_the_machine_that_shows_it() {
        for (here, abroad) in [
            (
                "this machine's name servers did not answer for a.b",
                "the gateway's name servers did not answer for a.b",
            ),
            ("this machine has no default route", "the gateway has no default route"),
            ("no answer in time", "no answer in time"),
        ] {
            let fault = Unreached { server: "a.b:80".into(), reason: here.into() };
            assert_eq!(said_abroad(fault).reason, abroad);
        }
    }
}
