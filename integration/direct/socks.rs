//! SOCKS5 at the local port, over a link: what an app sees of the other end.

use laneway::local::handshakes::HANDSHAKE;

use crate::clock::Clock;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer};

/// A connection to the origin through the proxy, both ends of it.
async fn through(proxy: &Proxy, origin: &Origin) -> (Peer, Peer) {
    let mut app = Peer::connect(proxy.address).await;
    let mut request = vec![5, 1, 0, 5, 1, 0, 1, 127, 0, 0, 1];
    request.extend(origin.address.port().to_be_bytes());
    // Greeting and request in one write: the app does not wait for the answer.
    app.say(request).await;
    let server = origin.accept().await;
    app.hear("\x05\0\x05\0\0\x01\0\0\0\0\0\0").await;
    (app, server)
}

#[tokio::test]
async fn each_side_may_end_first_and_the_other_goes_on() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let proxy = lab.proxy().await;
    let (mut app, mut server) = through(&proxy, &origin).await;
    app.say("question").await;
    app.end();
    assert_eq!(server.rest().await, "question");
    server.say("answer").await;
    server.end();
    assert_eq!(app.rest().await, "answer");

    let (mut app, mut server) = through(&proxy, &origin).await;
    server.say("banner").await;
    server.end();
    assert_eq!(app.rest().await, "banner");
    app.say("late").await;
    app.end();
    assert_eq!(server.rest().await, "late");
}

#[tokio::test]
async fn a_reset_of_the_server_is_a_reset_for_the_app() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let proxy = lab.proxy().await;
    let (mut app, mut server) = through(&proxy, &origin).await;
    server.say("some").await;
    app.hear("some").await;
    server.reset();
    assert_eq!(app.rest_before_reset().await, "");
}

#[tokio::test]
async fn a_reset_of_the_app_is_a_reset_for_the_server() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let proxy = lab.proxy().await;
    let (mut app, mut server) = through(&proxy, &origin).await;
    app.say("some").await;
    server.hear("some").await;
    app.reset();
    assert_eq!(server.rest_before_reset().await, "");
}

#[tokio::test]
async fn an_app_that_never_finishes_its_greeting_is_disconnected() {
    let (proxy, clock) = (Proxy::direct().await, Clock::stop());
    let mut app = Peer::connect(proxy.address).await;
    app.say([5, 1]).await;
    clock.pass_to_deadline(HANDSHAKE, &app).await;
    assert_eq!(app.rest().await, "");
}
