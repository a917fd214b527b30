//! SOCKS4 and 4a at the local port.

use std::net::SocketAddr;

use laneway::local::handshakes::HANDSHAKE;

use crate::clock::Clock;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer};

const GRANTED: &str = "\0Z\0\0\0\0\0\0";
const REJECTED: &str = "\0[\0\0\0\0\0\0";

/// A request; with `ip`, the host of `at` is sent as a name (SOCKS4a) and `ip` in the place of the address.
fn request(command: u8, at: SocketAddr, ip: Option<[u8; 4]>) -> Vec<u8> {
    let SocketAddr::V4(at) = at else { panic!("SOCKS4 knows IPv4 only") };
    let (port, address) = (at.port().to_be_bytes(), ip.unwrap_or(at.ip().octets()));
    let name = ip.map(|_| format!("{}\0", at.ip())).unwrap_or_default();
    [&[4, command], &port[..], &address, b"somebody\0", name.as_bytes()].concat()
}

#[tokio::test]
async fn an_app_reaches_a_server_by_address_and_by_name() {
    let (lab, origin) = (Lab::new().await, Origin::new());
    let proxy = lab.proxy().await;
    for ip in [None, Some([0, 0, 0, 1])] {
        let mut app = Peer::connect(proxy.address).await;
        app.say([request(1, origin.address, ip), b"early".to_vec()].concat()).await;
        let mut server = origin.accept().await;
        app.hear(GRANTED).await;
        server.hear("early").await;
        server.say("answer").await;
        server.end();
        assert_eq!(app.rest().await, "answer");
    }
}

#[tokio::test]
async fn a_request_that_cannot_be_served_is_rejected() {
    let proxy = Proxy::direct().await;
    let gone = Origin::new().address;
    let endless = [&request(1, gone, Some([0, 0, 0, 1]))[..17], &[b'a'; 4096]].concat();
    for request in [request(1, gone, None), request(2, gone, None), request(9, gone, None), endless] {
        let mut app = Peer::connect(proxy.address).await;
        app.say(request).await;
        assert_eq!(app.rest().await, REJECTED);
    }
    assert_eq!(proxy.dials(), 1);
}

#[tokio::test]
async fn a_request_that_does_not_end_is_rejected_at_the_deadline() {
    let (proxy, clock) = (Proxy::direct().await, Clock::stop());
    let mut app = Peer::connect(proxy.address).await;
    app.say([4, 1, 0, 80, 127, 0, 0, 1, b'x']).await;
    clock.pass_to_deadline(HANDSHAKE, &app).await;
    assert_eq!(app.rest().await, REJECTED);
}
