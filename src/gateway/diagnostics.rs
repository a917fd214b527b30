//! Requests about this gateway itself: its state, and the speed of the link. They concern no destination, so they are
//! not counted as carried traffic.

use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use super::clients::{Admitted, Client, Measuring};
use super::state::{Gateway, no_memory};
use crate::failure::Failure;
use crate::link::gateway_info::{GatewayInfo, MAX_SERVERS};
use crate::link::incoming::Incoming;
use crate::link::speed::{self, Direction};
use crate::memory;

impl Gateway {
    /// Answers with this gateway's clock, servers and state.
    pub(super) async fn about(
        self: Arc<Self>,
        mut incoming: Box<Incoming>,
        client: Arc<Client>,
        admitted: Result<Admitted, Failure>,
    ) {
        let _admitted = match admitted {
            Ok(admitted) => admitted,
            Err(failure) => return incoming.refuse(&failure, &self.name),
        };
        incoming.charge_to(client.memory.account(memory::Kind::Tunnel));
        incoming.answer_info(self.info()).await;
    }

    fn info(&self) -> GatewayInfo {
        let announced = self.announced.borrow().clone();
        let advert = announced.as_ref().map(|announcement| &announcement.advert);
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        GatewayInfo {
            clock: u64::try_from(clock.as_millis()).unwrap_or(u64::MAX),
            servers: self.egress.servers().iter().take(MAX_SERVERS).map(ToString::to_string).collect(),
            state: advert.map(|advert| advert.state.word().into()),
            reach: advert.map(|advert| advert.reach.word().into()),
        }
    }

    /// Serves one measurement of the link's speed, within the client's rate limit.
    pub(super) async fn speed(
        self: Arc<Self>,
        mut incoming: Incoming,
        direction: Direction,
        client: Arc<Client>,
        admitted: Result<Measuring, Failure>,
    ) {
        match admitted {
            Err(failure) => incoming.refuse(&failure, &self.name),
            Ok(_) if !client.memory.admits() => incoming.refuse(&no_memory(), &self.name),
            Ok(_admitted) => {
                incoming.charge_to(client.memory.account(memory::Kind::Tunnel));
                speed::serve(incoming, direction, &client.pace).await;
            }
        }
    }
}
