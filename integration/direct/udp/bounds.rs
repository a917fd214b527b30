//! How long an idle destination is kept, at which rate a gateway accepts a client's datagrams, and what is dropped.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures_util::FutureExt;
use laneway::link::request::Transport;
use laneway::wire::capsule;

use super::{App, Server, exchange, until};
use crate::clock::Clock;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, within};
use crate::refusals::metric;

/// The time after which an idle destination is forgotten.
const IDLE: Duration = Duration::from_secs(120);
/// Less than that, and more than half of it.
const LONG: Duration = Duration::from_secs(100);
const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn a_destination_is_forgotten_after_its_idle_time_and_not_before() {
    let (proxy, server) = (Proxy::direct().await, Server::new().await);
    let app = App::associate(&proxy).await;
    let open = || proxy.telemetry.apps.usage(9).open;
    let clock = Clock::stop();
    let address = exchange(&app, &server).await;
    clock.pass(LONG).await;
    assert_eq!((open(), exchange(&app, &server).await), (1, address));
    clock.pass(LONG).await;
    assert_eq!((open(), exchange(&app, &server).await), (1, address), "it was used meanwhile");
    clock.pass(IDLE - SECOND).await;
    assert_eq!(open(), 1);
    clock.pass(2 * SECOND).await;
    assert_eq!(open(), 0);
    assert_ne!(exchange(&app, &server).await, address, "the next datagram makes another way");
}

#[tokio::test]
async fn a_gateway_ends_a_stream_on_which_nothing_passes() {
    let (lab, server, origin) = (Lab::new().await, Server::new().await, Origin::new());
    let link = lab.link().await;
    let opened = link.open_by(Transport::Udp, &server.1.into(), 1, Bytes::new()).await;
    let mut tunnel = opened.unwrap().stream;
    let mut question = BytesMut::new();
    capsule::encode(b"question", &mut question);
    let mut beside = link.open(&origin.address.into(), 2, Bytes::new()).await.unwrap().stream;
    let echo = tokio::spawn(origin.accept().await.echo());
    let clock = Clock::stop();
    tunnel.outbox.send(question.freeze()).await.unwrap();
    let gateway = server.hear("question").await;
    // Passes second by second, using the other tunnel of the link in each: so each ping is answered before its deadline,
    // and everything that the gateway has sent before has arrived.
    let mut pass = async |seconds: u32| {
        for _ in 0..seconds {
            clock.pass(SECOND).await;
            beside.outbox.send(Bytes::from_static(b"alive")).await.unwrap();
            assert_eq!(&within(beside.inbox.next()).await.unwrap().unwrap()[..], b"alive");
        }
    };
    pass(100).await;
    server.say(gateway, "answer").await;
    assert!(within(tunnel.inbox.next()).await.unwrap().is_some());
    pass(119).await;
    assert!(tunnel.inbox.next().now_or_never().is_none(), "ended early");
    pass(2).await;
    assert_eq!(within(tunnel.inbox.next()).await.unwrap(), None, "ended orderly");
    echo.abort();
}

#[tokio::test]
async fn datagrams_above_a_clients_rate_are_dropped_in_both_directions_and_counted() {
    // Bytes per second: a datagram is followed by a quarter of an hour without others.
    for upload in [true, false] {
        let (lab, server) = (Lab::with_limits("client-rate = '1'").await, Server::new().await);
        let proxy = lab.proxy().await;
        let app = App::associate(&proxy).await;
        let paced = || lab.telemetry.udp_dropped.values().iter().map(|(_, count)| count).sum::<u64>();
        // An empty datagram costs nothing.
        app.say(server.1, "").await;
        let gateway = server.hear("").await;
        for number in 0..50 {
            if upload {
                app.say(server.1, [7; 1000]).await;
            } else {
                server.say(gateway, [7; 1000]).await;
                // Datagrams that arrive together pass together.
                if number == 0 {
                    app.hear(server.1, [7; 1000]).await;
                }
            }
        }
        if upload {
            server.hear([7; 1000]).await;
        }
        until("the rest to be dropped", || paced() == 49).await;
        assert_eq!(lab.telemetry.udp_dropped.values(), [("paced", 49)]);
    }
}

#[tokio::test]
async fn without_memory_for_another_destination_its_datagrams_are_dropped_and_counted() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    // Room for the association and one destination, and not for a long datagram in its queue.
    let proxy = lab.proxy_with_memory(44_000).await;
    let app = App::associate(&proxy).await;
    app.say(server.1, &"takes all of it".repeat(800)).await;
    app.say(Server::new().await.1, "no memory").await;
    until("both to be dropped", || proxy.telemetry.udp_dropped.values().len() == 2).await;
    let mut dropped = metric(&proxy, "udp_dropped_total").await;
    dropped.sort_unstable();
    assert_eq!(dropped, ["{reason=\"memory\"} 1", "{reason=\"unsent\"} 1"]);
}
