//! A gateway of the group that answers pings and carries nothing, in each way that it can, ranked before an honest one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use laneway::net;
use laneway::trust::certificate::Role;
use laneway::wire::datagram::State;
use laneway::wire::id::NodeId;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::fronts::sha256;
use crate::lab::{Lab, Proxy};
use crate::peer::{Origin, Peer, within};
use crate::raw::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, Raw, RawGateway, established, frame, reset,
};

/// What it does with each request for a tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It says that the server has refused the connection.
    BlamesTheServer,
    /// It says that its own rules forbid the destination.
    Forbids,
    /// It answers with 502 and no reason.
    Fails,
    /// It accepts, and resets the stream at once.
    Resets,
    /// It accepts, and drops what the app sends.
    Drops,
    /// It never answers.
    Ignores,
    /// It accepts, and sends noise.
    Garbles,
    /// It answers requests itself, with the wrong file.
    Forges,
}

struct Rogue {
    id: NodeId,
    address: SocketAddr,
    /// The requests for tunnels that it got.
    asked: Arc<AtomicUsize>,
    _serving: JoinSet<()>,
}

fn refusal(stream: u32, reason: Option<&str>) -> Vec<u8> {
    let mut block = b"\x08\x03502".to_vec();
    if let Some(reason) = reason {
        let value = format!("laneway; error=x; {reason}; details=\"no\"");
        block.extend(b"\x00\x0cproxy-status");
        block.push(u8::try_from(value.len()).unwrap());
        block.extend(value.bytes());
    }
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

impl Rogue {
    /// A member's gateway that is ranked before the one of `lab`, even when neither is heard any more: then the one at the
    /// smaller address comes first.
    async fn start(lab: &Lab, manner: Manner) -> Self {
        let member = lab.member(Role::Gateway).await;
        let mut gateway = RawGateway::new(&member);
        let mut others = Vec::new();
        while gateway.address > lab.link_address {
            others.push(std::mem::replace(&mut gateway, RawGateway::new(&member)));
        }
        let (address, asked) = (gateway.address, Arc::<AtomicUsize>::default());
        let mut serving = JoinSet::new();
        let counted = asked.clone();
        serving.spawn(async move {
            let mut links = JoinSet::new();
            loop {
                links.spawn(serve(gateway.accept().await, manner, counted.clone()));
            }
        });
        Self { id: member.node.id, address, asked, _serving: serving }
    }
}

async fn serve(mut link: Raw, manner: Manner, asked: Arc<AtomicUsize>) {
    while let Some(got) = link.input.frame().await {
        let said = match (got.kind, got.flags) {
            (PING, 0) => frame(PING, ACK, 0, &got.payload),
            // POST is a group update.
            (HEADERS, _) if got.payload[0] != 0x83 => {
                asked.fetch_add(1, Relaxed);
                match manner {
                    Manner::BlamesTheServer => refusal(got.stream, Some("kind=refused; side=server")),
                    Manner::Forbids => refusal(got.stream, Some("kind=name-forbidden; side=gateway")),
                    Manner::Fails => refusal(got.stream, None),
                    Manner::Resets => [established(got.stream), reset(got.stream)].concat(),
                    Manner::Drops => established(got.stream),
                    Manner::Ignores => continue,
                    Manner::Garbles => {
                        [established(got.stream), frame(DATA, END_STREAM, got.stream, &[0x96; 4096])].concat()
                    }
                    Manner::Forges => {
                        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nwrong";
                        [established(got.stream), frame(DATA, 0, got.stream, answer)].concat()
                    }
                }
            }
            _ => continue,
        };
        if !link.output.try_say(said).await {
            return;
        }
    }
}

/// A proxy with links to both gateways, the rogue's first.
async fn linked(lab: &Lab, rogue: &Rogue) -> Proxy {
    linked_to(lab, rogue.id, rogue.address).await
}

async fn linked_to(lab: &Lab, id: NodeId, address: SocketAddr) -> Proxy {
    let proxy = lab.proxy_to(&[]).await;
    proxy.hears(id, address, State::Active);
    proxy.hears(lab.gateway.node.id, lab.link_address, State::Standby);
    let mut up = proxy.links.up();
    within(up.wait_for(|links| links.len() == 2)).await.unwrap();
    assert_eq!(first(&proxy), address);
    proxy
}

fn first(proxy: &Proxy) -> SocketAddr {
    proxy.links.up().borrow()[0].address
}

/// A server in a network of its own.
fn origin(network: u8) -> Origin {
    let listener: TcpListener = net::listen(SocketAddr::from(([127, 0, network, 1], 0))).unwrap();
    Origin::at(listener)
}

/// Checks that an app gets what this server answers.
async fn gets(proxy: &Proxy, origin: &Origin) {
    let mut app = Peer::connect(proxy.address).await;
    let at = origin.address;
    app.say(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")).await;
    let mut server = origin.accept().await;
    server.head().await;
    server.say("HTTP/1.1 204 No Content\r\nDate: x\r\n\r\n").await;
    assert!(app.head().await.starts_with("HTTP/1.1 204 "));
}

#[tokio::test]
async fn what_a_rogue_gateway_refuses_resets_or_garbles_is_carried_by_another_one() {
    for manner in [Manner::BlamesTheServer, Manner::Forbids, Manner::Fails, Manner::Resets, Manner::Garbles] {
        let lab = Lab::new().await;
        let rogue = Rogue::start(&lab, manner).await;
        let (proxy, server) = (linked(&lab, &rogue).await, origin(1));
        for _ in 0..3 {
            gets(&proxy, &server).await;
        }
        assert_eq!(
            rogue.asked.load(Relaxed),
            1,
            "{manner:?}: it was asked for a destination that it had failed"
        );
    }
}

#[tokio::test]
async fn a_rogue_gateway_that_fails_destinations_of_several_networks_is_used_last() {
    for manner in [Manner::BlamesTheServer, Manner::Resets] {
        let lab = Lab::new().await;
        let rogue = Rogue::start(&lab, manner).await;
        let proxy = linked(&lab, &rogue).await;
        for network in 1..4 {
            gets(&proxy, &origin(network)).await;
        }
        let mut up = proxy.links.up();
        within(up.wait_for(|links| links[0].address == lab.link_address)).await.unwrap();
        let before = rogue.asked.load(Relaxed);
        gets(&proxy, &origin(4)).await;
        assert_eq!(rogue.asked.load(Relaxed), before, "{manner:?}");
    }
}

#[tokio::test]
async fn after_silence_of_a_rogue_gateway_requests_are_carried_by_another_one() {
    for manner in [Manner::Drops, Manner::Ignores] {
        let lab = Lab::new().await;
        let rogue = Rogue::start(&lab, manner).await;
        let proxy = linked(&lab, &rogue).await;
        // Each of them is left without an answer. The second one makes the gateway doubtful.
        let servers = [origin(1), origin(2)];
        let (one, two) = (&servers[0], &servers[1]);
        tokio::join!(gets(&proxy, one), gets(&proxy, two));
        let before = rogue.asked.load(Relaxed);
        gets(&proxy, one).await;
        assert_eq!(rogue.asked.load(Relaxed), before, "{manner:?}");
    }
}

#[tokio::test]
async fn clients_of_two_gateways_that_carry_nothing_find_a_third_one() {
    let lab = Lab::new().await;
    let rogues =
        [Rogue::start(&lab, Manner::BlamesTheServer).await, Rogue::start(&lab, Manner::Resets).await];
    let proxy = lab.proxy_to(&[]).await;
    rogues.iter().for_each(|rogue| proxy.hears(rogue.id, rogue.address, State::Active));
    let mut up = proxy.links.up();
    within(up.wait_for(|links| links.len() == 2)).await.unwrap();
    proxy.hears(lab.gateway.node.id, lab.link_address, State::Standby);
    let server = origin(1);
    let at = server.address;
    for _ in 0..2 {
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")).await;
        assert!(app.head().await.starts_with("HTTP/1.1 502 "), "neither carries it");
    }
    within(up.wait_for(|links| links.iter().any(|link| link.address == lab.link_address))).await.unwrap();
    gets(&proxy, &server).await;
}

#[tokio::test]
async fn eight_gateways_that_carry_nothing_do_not_keep_a_client_from_another_one() {
    let lab = Lab::new().await;
    let proxy = lab.proxy_to(&[]).await;
    let mut rogues = Vec::new();
    for _ in 0..8 {
        let rogue = Rogue::start(&lab, Manner::BlamesTheServer).await;
        proxy.hears(rogue.id, rogue.address, State::Active);
        rogues.push(rogue);
    }
    let mut up = proxy.links.up();
    within(up.wait_for(|links| links.len() == 2)).await.unwrap();
    proxy.hears(lab.gateway.node.id, lab.link_address, State::Standby);
    within(async {
        let mut hosts = (0..=255).cycle();
        while !up.borrow_and_update().iter().any(|link| link.address == lab.link_address) {
            let mut app = Peer::connect(proxy.address).await;
            let at = format!("127.1.{}.1:9", hosts.next().unwrap());
            app.say(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")).await;
            app.head().await;
        }
    })
    .await;
    gets(&proxy, &origin(1)).await;
}

#[tokio::test]
async fn a_server_that_refuses_costs_no_gateway_its_place() {
    let lab = Lab::new().await;
    let (id, better) = lab.better_gateway().await;
    let proxy = linked_to(&lab, id, better.address).await;
    for network in 1..20 {
        let at = origin(network).address;
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("GET http://{at}/ HTTP/1.1\r\nHost: {at}\r\nConnection: close\r\n\r\n")).await;
        assert!(app.head().await.starts_with("HTTP/1.1 502 "));
    }
    let server = origin(20);
    gets(&proxy, &server).await;
    assert_eq!(first(&proxy), better.address);
}

#[tokio::test]
async fn a_gateway_that_forges_a_file_is_found_out_and_another_one_is_asked() {
    let lab = Lab::new().await;
    let rogue = Rogue::start(&lab, Manner::Forges).await;
    let proxy = linked(&lab, &rogue).await;
    let origin = Origin::new();
    proxy.has_fronts(vec![format!("oci=http://{}", origin.address).parse().unwrap()]);
    let path = format!("/v2/app/blobs/sha256:{}", sha256(b"right"));
    let ask = async || {
        let mut app = Peer::connect(proxy.address).await;
        app.say(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", proxy.address)).await;
        app
    };
    let received = ask().await.rest_before_reset().await;
    assert!(!received.contains("wrong") && rogue.asked.load(Relaxed) == 1, "{received}");
    let mut app = ask().await;
    let mut server = origin.accept().await;
    server.head().await;
    server.say("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nright").await;
    app.head().await;
    app.hear("right").await;
    assert_eq!(rogue.asked.load(Relaxed), 1);
}
