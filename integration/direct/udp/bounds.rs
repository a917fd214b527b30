//! How long an idle destination is kept, at which rate a gateway accepts a client's datagrams, and what is dropped.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use laneway::link::request::Transport;
use laneway::wire::capsule;
use tokio::time::{Instant, advance, pause, sleep, timeout};

use super::{App, Server, exchange, until};
use crate::lab::{Lab, Proxy};
use crate::peer::within;
use crate::refusals::metric;

/// Less than the time after which a destination is forgotten, and more than half of it.
const LONG: Duration = Duration::from_secs(100);
/// That time.
const IDLE: Duration = Duration::from_secs(120);

#[tokio::test]
async fn a_destination_is_forgotten_after_its_idle_time_and_not_before() {
    let (proxy, server) = (Proxy::direct().await, Server::new().await);
    let app = App::associate(&proxy).await;
    let open = || proxy.telemetry.apps.usage(9).open;
    let address = exchange(&app, &server).await;
    pause();
    sleep(LONG).await;
    assert_eq!((open(), exchange(&app, &server).await), (1, address));
    sleep(LONG).await;
    assert_eq!((open(), exchange(&app, &server).await), (1, address), "it was used meanwhile");
    sleep(IDLE + Duration::from_secs(1)).await;
    assert_eq!(open(), 0);
    assert_ne!(exchange(&app, &server).await, address, "the next datagram makes another way");
}

#[tokio::test]
async fn a_gateway_ends_a_stream_on_which_nothing_passes() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let opened = lab.link().await.open_by(Transport::Udp, &server.1.into(), 1, Bytes::new()).await;
    let mut tunnel = opened.unwrap().stream;
    let mut question = BytesMut::new();
    capsule::encode(b"question", &mut question);
    tunnel.outbox.send(question.freeze()).await.unwrap();
    let gateway = server.hear("question").await;
    pause();
    sleep(LONG).await;
    server.say(gateway, "answer").await;
    let last = Instant::now();
    assert!(within(tunnel.inbox.next()).await.unwrap().is_some());
    let end = timeout(4 * IDLE, tunnel.inbox.next()).await.expect("it has an end");
    assert_eq!(end.unwrap(), None, "ended orderly");
    let silent = last.elapsed();
    assert!(silent >= IDLE - Duration::from_secs(1) && silent < IDLE + Duration::from_secs(2), "{silent:?}");
}

#[tokio::test]
async fn datagrams_above_a_clients_rate_are_dropped_in_both_directions_and_counted() {
    // Ten seconds for each datagram.
    let lab = Lab::with_limits("client-rate = '100'").await;
    let (proxy, server) = (lab.proxy().await, Server::new().await);
    let app = App::associate(&proxy).await;
    let paced = || lab.telemetry.udp_dropped.values().iter().map(|(_, count)| count).sum::<u64>();
    for _ in 0..50 {
        app.say(server.1, [7; 1000]).await;
    }
    let gateway = server.hear([7; 1000]).await;
    until("the rest to be dropped", || paced() == 49).await;
    pause();
    advance(Duration::from_secs(60)).await;
    for _ in 0..50 {
        server.say(gateway, [8; 1000]).await;
        // One by one: what arrives together passes together.
        sleep(Duration::from_millis(1)).await;
    }
    app.hear(server.1, [8; 1000]).await;
    until("the rest to be dropped", || paced() == 98).await;
    assert_eq!(lab.telemetry.udp_dropped.values(), [("paced", 98)]);
}

#[tokio::test]
async fn without_memory_for_another_destination_its_datagrams_are_dropped_and_counted() {
    let (lab, server) = (Lab::new().await, Server::new().await);
    let proxy = lab.proxy_with_memory(1).await;
    let app = App::associate(&proxy).await;
    app.say(server.1, "takes all of it").await;
    app.say(Server::new().await.1, "no memory").await;
    until("both to be dropped", || proxy.telemetry.udp_dropped.values().len() == 2).await;
    let mut dropped = metric(&proxy, "udp_dropped_total").await;
    dropped.sort_unstable();
    assert_eq!(dropped, ["{reason=\"memory\"} 1", "{reason=\"unsent\"} 1"]);
}
