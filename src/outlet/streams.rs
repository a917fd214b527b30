//! Connections that leave the network.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::shared::Outlet;
use super::socks::{self, Refused};
use crate::mark;
use crate::net;
use crate::wire::target::{Host, Target};

/// Bytes of one read.
const READ: usize = 32 * 1024;
/// How long the node, on this machine, may take to accept.
const DEADLINE: Duration = Duration::from_secs(5);

/// Accepts connections to anywhere.
pub(super) async fn run(outlet: Arc<Outlet>, listener: TcpListener) {
    loop {
        let place = outlet.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (app, _) = net::accept(&listener).await;
        let shared = outlet.clone();
        outlet.sent.spawn(async move {
            carry(&shared, app).await;
            drop(place);
        });
    }
}

/// Accepts connections to the local proxy itself, for software that is configured to use it.
pub(super) async fn run_to_proxy(outlet: Arc<Outlet>, listener: TcpListener) {
    loop {
        let place = outlet.places.clone().acquire_owned().await.expect("the semaphore is never closed");
        let (app, _) = net::accept(&listener).await;
        let node = outlet.node;
        outlet.sent.spawn(async move {
            match timeout(DEADLINE, mark::connect(node)).await {
                Ok(Ok(proxy)) => relay(app, proxy).await,
                _ => net::reset(app),
            }
            drop(place);
        });
    }
}

async fn carry(outlet: &Outlet, app: TcpStream) {
    let address = match app.local_addr().map(net::plain) {
        // Made to this port itself.
        Ok(address) if address.ip().is_loopback() => return net::reset(app),
        Ok(address) => address,
        Err(_) => return net::reset(app),
    };
    let opened = match address == outlet.node {
        true => mark::connect(outlet.node).await.map_err(Refused::Node),
        false => open(outlet, address).await,
    };
    match opened {
        Ok(server) => relay(app, server).await,
        Err(_) => net::reset(app),
    }
}

/// Connects to the address, or to the name that it was the answer for.
async fn open(outlet: &Outlet, address: SocketAddr) -> Result<TcpStream, Refused> {
    match socks::connect(outlet.node, &address.into()).await {
        Err(refused) if refused.concerns_address() => match outlet.names.name_of(address.ip()) {
            Some(name) => {
                let target = Target { host: Host::Name(name), port: address.port() };
                socks::connect(outlet.node, &target).await
            }
            None => Err(refused),
        },
        opened => opened,
    }
}

/// Copies both ways. The end of each direction is passed on, and a failure resets both.
async fn relay(mut app: TcpStream, mut server: TcpStream) {
    net::tune_stream(&app);
    net::reset_on_drop(&app);
    net::reset_on_drop(&server);
    let copied: io::Result<_> = copy_bidirectional_with_sizes(&mut app, &mut server, READ, READ).await;
    if copied.is_ok() {
        net::end_orderly(&app);
        net::end_orderly(&server);
    }
}
