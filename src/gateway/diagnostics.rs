//! Requests about this gateway itself: its state, and the speed of the link. They concern no destination, so they are
//! not counted as carried traffic.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::clients::{Client, Measuring};
use super::state::Gateway;
use crate::failure::{Failure, Kind, Side};
use crate::link::gateway_info::{GatewayInfo, MAX_SERVERS};
use crate::link::incoming::Incoming;
use crate::link::speed::{self, Direction};

impl Gateway {
    /// Answers with this gateway's clock, servers and state.
    pub(super) fn about(&self, incoming: Incoming, client: &Arc<Client>) {
        if let Err(failure) = self.clients.admit(client) {
            return incoming.refuse(&failure, &self.name);
        }
        let announced = self.announced.borrow().clone();
        let advert = announced.as_ref().map(|announcement| &announcement.advert);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        incoming.answer_info(&GatewayInfo {
            clock: u64::try_from(clock.as_millis()).unwrap_or(u64::MAX),
            servers: self.egress.servers().iter().take(MAX_SERVERS).map(ToString::to_string).collect(),
            state: advert.map(|advert| advert.state.word().into()),
            reach: advert.map(|advert| advert.reach.word().into()),
        });
    }

    /// Serves one measurement of the link's speed, within the client's rate limit.
    pub(super) async fn speed(
        self: Arc<Self>,
        mut incoming: Incoming,
        direction: Direction,
        client: Arc<Client>,
        admitted: Result<Measuring, Failure>,
    ) {
        let no_memory = || {
            let sentence = "the gateway has no memory left for a measurement";
            Failure::new(Kind::LimitReached, Side::Gateway, sentence)
        };
        match admitted {
            Err(failure) => incoming.refuse(&failure, &self.name),
            Ok(_) if self.memory.is_short() => incoming.refuse(&no_memory(), &self.name),
            Ok(_admitted) => {
                incoming.charge_to(self.memory.account());
                speed::serve(incoming, direction, &client.pace).await;
            }
        }
    }
}
