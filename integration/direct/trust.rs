//! Group updates, and what they do to links that are up: several nodes of one group, all in this process.

use std::io::Cursor;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use laneway::gateway::propagation;
use laneway::link::client::{DialError, Link, LinkTunnel};
use laneway::link::handshake::Hello;
use laneway::link::tls::{self, Credentials, Service};
use laneway::link::updates;
use laneway::net;
use laneway::sys::state::StateDir;
use laneway::trust::authority::{Authority, Uses};
use laneway::trust::certificate::Role;
use laneway::trust::group::Group;
use laneway::trust::join;
use laneway::trust::membership::Membership;
use laneway::trust::name::WantedName;
use laneway::wire::id::NodeId;
use laneway::wire::target::Target;
use rustls::client::danger::HandshakeSignatureValid;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, ServerConfig, SignatureScheme};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use crate::lab::RunningGateway;
use crate::peer::{Origin, Peer, within};

/// The authority of a group, and its machine.
struct Office {
    _directory: tempfile::TempDir,
    state: StateDir,
    authority: Authority,
}

/// A member that runs.
struct Node {
    id: NodeId,
    credentials: Arc<Credentials>,
    /// Where it takes links, if it does.
    address: Option<SocketAddr>,
    tasks: TaskTracker,
    _gateway: Option<RunningGateway>,
}

impl Office {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        Authority::create(&state, "office", "first").unwrap();
        let authority = Authority::load(&state).unwrap().unwrap();
        Self { _directory: directory, state, authority }
    }

    fn group(&self) -> Group {
        Group::load(&self.state).unwrap().unwrap()
    }

    async fn member(&self, role: Role) -> Group {
        let code = self.authority.invite(role, Uses::Times(1), None, None).unwrap();
        let (mut joiner, mut signer) = duplex(64 * 1024);
        let session = [7; 32];
        let name = WantedName::Suggested("member".into());
        let (joined, enrolled) = tokio::join!(
            join::request(&mut joiner, &session, &code, &name, join::JoinKey::temporary().unwrap()),
            join::serve(&mut signer, &session, &self.authority),
        );
        enrolled.unwrap();
        joined.unwrap()
    }

    async fn client(&self) -> Node {
        Node::new(self.member(Role::Client).await)
    }

    async fn gateway(&self) -> Node {
        Node::gateway(self.member(Role::Gateway).await)
    }

    /// Revokes `nodes` and lets `to` learn of it.
    fn revoke(&self, nodes: &[&Node], to: &Node) {
        for node in nodes {
            self.authority.revoke(&node.id.to_string()).unwrap();
        }
        to.membership().apply(self.group().update.sealed()).unwrap();
    }
}

impl Node {
    fn new(group: Group) -> Self {
        let id = group.node.id;
        let credentials = Credentials::new(Membership::new(group)).unwrap();
        Self { id, credentials, address: None, tasks: TaskTracker::new(), _gateway: None }
    }

    fn gateway(group: Group) -> Self {
        let gateway = RunningGateway::start(group, "allow = '127.0.0.0/8'", u64::MAX);
        Self {
            id: gateway.shared.membership.group().node.id,
            credentials: gateway.shared.credentials.clone(),
            address: Some(gateway.address),
            tasks: gateway.shared.tasks.clone(),
            _gateway: Some(gateway),
        }
    }

    fn membership(&self) -> &Arc<Membership> {
        &self.credentials.membership
    }

    fn epoch(&self) -> u64 {
        self.membership().group().update.epoch()
    }

    async fn dial(&self, gateway: &Node) -> Result<Link, DialError> {
        let (config, membership) = (self.credentials.client().unwrap(), self.membership().clone());
        within(Link::dial(gateway.address.unwrap(), Some(gateway.id), config, membership, &self.tasks)).await
    }

    /// A link on which updates are exchanged.
    async fn link(&self, gateway: &Node) -> Link {
        let link = self.dial(gateway).await.unwrap();
        self.tasks.spawn(updates::follow(link.clone(), self.membership().clone()));
        link
    }

    async fn until_epoch(&self, epoch: u64) {
        within(self.membership().changes().wait_for(|group| group.update.epoch() >= epoch)).await.unwrap();
    }
}

/// A tunnel that has carried a byte each way, and its other end.
async fn tunnel(link: &Link, origin: &Origin) -> (LinkTunnel, Peer) {
    let target = Target::from(origin.address);
    let opening = link.open(&target, 1, Bytes::from_static(b"?"));
    let (tunnel, mut server) = tokio::join!(within(opening), origin.accept());
    let mut tunnel = tunnel.unwrap();
    server.hear("?").await;
    server.say("!").await;
    within(tunnel.stream.inbox.next()).await.unwrap().unwrap();
    (tunnel, server)
}

#[tokio::test]
async fn news_go_from_link_to_link_in_both_directions() {
    let office = Office::new();
    let first = Node::gateway(office.group());
    let (client, second) = (office.client().await, office.gateway().await);
    let _up = client.link(&first).await;
    let _on = client.link(&second).await;
    let nobody = office.client().await;
    // The gateway tells its client, which tells the next gateway.
    office.revoke(&[&nobody], &first);
    second.until_epoch(1).await;
    assert!(client.membership().revokes(nobody.id) && second.membership().revokes(nobody.id));
}

#[tokio::test]
async fn what_was_missed_is_made_up_for_when_a_link_is_made_whoever_has_it() {
    let office = Office::new();
    let (old_gateway, old_client) = (office.gateway().await, office.client().await);
    let nobody = office.client().await;
    let new_gateway = Node::gateway(office.group());
    office.revoke(&[&nobody], &new_gateway);
    let new_client = office.client().await;
    assert_eq!((new_client.epoch(), old_client.epoch(), old_gateway.epoch()), (1, 0, 0));
    let _link = old_client.link(&new_gateway).await;
    old_client.until_epoch(1).await;
    let _link = new_client.link(&old_gateway).await;
    old_gateway.until_epoch(1).await;
}

#[tokio::test]
async fn a_revoked_clients_link_is_cut_at_once_with_its_tunnels_and_it_gets_no_new_one() {
    let (office, origin) = (Office::new(), Origin::new());
    let gateway = Node::gateway(office.group());
    let (laptop, other) = (office.client().await, office.client().await);
    let (link, good) = (laptop.link(&gateway).await, other.link(&gateway).await);
    let (mut cut, mut server) = tunnel(&link, &origin).await;
    let (mut kept, mut kept_server) = tunnel(&good, &origin).await;

    office.revoke(&[&laptop], &gateway);
    within(link.unusable()).await;
    // Both ends of its tunnel break, and neither looks complete.
    within(cut.stream.inbox.next()).await.unwrap_err();
    assert_eq!(server.rest_before_reset().await, "");
    let refused = laptop.dial(&gateway).await.unwrap_err();
    assert!(matches!(&refused, DialError::Removed(..)), "{refused:?}");
    assert!(laptop.membership().is_removed() && !other.membership().is_removed());

    // Everybody else is left alone and has the update; the revoked member never gets the new key.
    kept_server.say("still").await;
    let heard = within(kept.stream.inbox.next()).await.unwrap().unwrap();
    assert_eq!(&heard[..], b"still");
    other.until_epoch(1).await;
    assert_eq!(laptop.epoch(), 0);
}

#[tokio::test]
async fn the_link_to_a_revoked_gateway_is_cut_at_once_and_not_dialled_again() {
    let (office, origin) = (Office::new(), Origin::new());
    let first = Node::gateway(office.group());
    let (rogue, client) = (office.gateway().await, office.client().await);
    let good = client.link(&first).await;
    let bad = client.link(&rogue).await;
    let (mut cut, mut server) = tunnel(&bad, &origin).await;
    // The client learns of it over its other link.
    office.revoke(&[&rogue], &first);
    within(bad.unusable()).await;
    within(cut.stream.inbox.next()).await.unwrap_err();
    assert_eq!(server.rest_before_reset().await, "");
    assert!(good.is_usable());
    let refused = client.dial(&rogue).await.unwrap_err();
    assert!(matches!(&refused, DialError::Trust(..)), "{refused:?}");
    // The client has the update, and has not sent it to the rogue.
    assert_eq!((client.epoch(), rogue.epoch()), (1, 0));
}

#[tokio::test]
async fn a_link_that_is_out_of_use_but_has_open_tunnels_is_cut_too() {
    let (office, origin) = (Office::new(), Origin::new());
    let (rogue, client) = (office.gateway().await, office.client().await);
    let link = client.link(&rogue).await;
    let (mut open, _server) = tunnel(&link, &origin).await;
    link.retire();
    drop(link);
    office.revoke(&[&rogue], &client);
    within(open.stream.inbox.next()).await.unwrap_err();
}

#[tokio::test]
async fn a_gateway_without_clients_gets_the_news_from_another_gateway() {
    let office = Office::new();
    let (first, second) = (Node::gateway(office.group()), office.gateway().await);
    let laptop = office.client().await;
    office.revoke(&[&laptop], &first);
    let (tell, behind) = mpsc::channel(4);
    let run = propagation::run(
        first.credentials.clone(),
        vec![],
        behind,
        Box::new(|| true),
        Box::new(|| (Vec::new(), false)),
    );
    let running = tokio::spawn(run);
    tell.send((second.id, second.address.unwrap())).await.unwrap();
    second.until_epoch(1).await;
    running.abort();

    // A member that comes back asks the gateways that it knows.
    let late = office.client().await;
    office.revoke(&[&late], &first);
    let (_tell, behind) = mpsc::channel(4);
    let known = vec![first.address.unwrap()];
    let running = tokio::spawn(propagation::run(
        second.credentials.clone(),
        known,
        behind,
        Box::new(|| false),
        Box::new(|| (Vec::new(), false)),
    ));
    second.until_epoch(2).await;
    running.abort();
}

/// The request for updates by hand: sends `bytes`, and gives the status and what comes back until the gateway ends it.
async fn by_hand(client: &Node, gateway: &Node, path: &str, bytes: Vec<u8>) -> (StatusCode, usize) {
    let tcp = tokio::net::TcpStream::connect(gateway.address.unwrap()).await.unwrap();
    let connector = tokio_rustls::TlsConnector::from(client.credentials.client().unwrap());
    let tls = connector.connect(laneway::link::tls::server_name(None), tcp).await.unwrap();
    let (requests, connection) = h2::client::handshake(tls).await.unwrap();
    let driving = tokio::spawn(connection);
    let request = Request::builder().method(Method::POST).uri(format!("https://x{path}")).body(()).unwrap();
    let (response, mut send) = requests.ready().await.unwrap().send_request(request, false).unwrap();
    // A refusal may reset the stream under it.
    let _ = send.send_data(bytes.into(), true);
    let response = within(response).await.unwrap();
    let status = response.status();
    let mut body = response.into_body();
    let mut count = 0;
    while let Some(Ok(piece)) = within(body.data()).await {
        let _ = body.flow_control().release_capacity(piece.len());
        count += piece.len();
    }
    driving.abort();
    (status, count)
}

fn message(json: &str) -> Vec<u8> {
    [&u32::try_from(json.len()).unwrap().to_be_bytes()[..], json.as_bytes()].concat()
}

#[tokio::test]
async fn forged_and_broken_messages_end_the_exchange_and_nothing_else() {
    let (office, origin) = (Office::new(), Origin::new());
    let gateway = Node::gateway(office.group());
    let client = office.client().await;
    let link = client.link(&gateway).await;
    let (_tunnel, _server) = tunnel(&link, &origin).await;

    let foreign = Office::new();
    foreign.authority.rotate().unwrap();
    let foreign = serde_json::to_string(foreign.group().update.sealed()).unwrap();
    let own = serde_json::to_string(office.group().update.sealed()).unwrap();
    let forged = own.replace("\"epoch\":0", "\"epoch\":9");
    assert_ne!(own, forged);
    for wrong in [
        message(&format!("{{\"news\":{foreign}}}")),
        message(&format!("{{\"news\":{forged}}}")),
        message("{\"news\":{}}"),
        message("nonsense"),
        u32::MAX.to_be_bytes().to_vec(),
    ] {
        let (status, _) = by_hand(&client, &gateway, "/laneway/news", wrong).await;
        assert_eq!(status, StatusCode::OK);
    }
    assert_eq!(gateway.epoch(), 0);
    let (status, _) = by_hand(&client, &gateway, "/laneway/other", vec![]).await;
    assert_eq!(status, StatusCode::NOT_IMPLEMENTED);
    // The honest link has noticed nothing.
    let _more = tunnel(&link, &origin).await;
    office.revoke(&[&office.client().await], &gateway);
    client.until_epoch(1).await;
}

#[tokio::test]
async fn a_peer_that_asks_again_and_again_is_given_the_news_once() {
    let office = Office::new();
    let gateway = Node::gateway(office.group());
    let client = office.client().await;
    let nobody = office.client().await;
    let before = client.membership().version();
    office.revoke(&[&nobody], &gateway);
    let have = serde_json::to_string(&before).unwrap();
    let often = message(&format!("{{\"have\":{have}}}")).repeat(50);
    let (_, heard) = by_hand(&client, &gateway, "/laneway/news", often).await;
    let news = serde_json::to_string(office.group().update.sealed()).unwrap().len();
    assert!((news..2 * news).contains(&heard), "{heard} bytes for news of {news}");
}

/// Passes bytes on between two connections, and flips one bit of what the gateway says after `clean` bytes of it.
async fn flipping_relay(to: SocketAddr, clean: usize) -> SocketAddr {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (near, _) = net::accept(&listener).await;
        let far = tokio::net::TcpStream::connect(to).await.unwrap();
        let (mut from_client, mut to_client) = near.into_split();
        let (mut from_gateway, mut to_gateway) = far.into_split();
        let back = async {
            let (mut passed, mut buffer) = (0, vec![0; 16 * 1024]);
            while let Ok(count @ 1..) = from_gateway.read(&mut buffer).await {
                if (passed..passed + count).contains(&clean) {
                    buffer[clean - passed] ^= 0x10;
                }
                passed += count;
                if to_client.write_all(&buffer[..count]).await.is_err() {
                    return;
                }
            }
        };
        // Either end takes the other with it.
        tokio::select! {
            _ = tokio::io::copy(&mut from_client, &mut to_gateway) => {}
            () = back => {}
        }
    });
    address
}

#[tokio::test]
async fn a_bit_that_flips_on_the_way_kills_the_link_and_no_wrong_byte_is_delivered() {
    let (office, origin) = (Office::new(), Origin::new());
    let gateway = Node::gateway(office.group());
    let client = office.client().await;
    let sent: Vec<u8> = (0..2_000_000_u32).map(|number| number.to_le_bytes()[1]).collect();
    for clean in [8_000, 100_000, 300_007, 1_000_000] {
        let address = flipping_relay(gateway.address.unwrap(), clean).await;
        let (config, membership) = (client.credentials.client().unwrap(), client.membership().clone());
        let link = Link::dial(address, Some(gateway.id), config, membership, &client.tasks).await.unwrap();
        let target = Target::from(origin.address);
        let (tunnel, server) = tokio::join!(within(link.open(&target, 1, Bytes::new())), origin.accept());
        let mut tunnel = tunnel.unwrap();
        let content = sent.clone();
        tokio::spawn(async move {
            use tokio::io::AsyncWriteExt;
            let mut server = server;
            // The link is gone before all of it is taken.
            let _ = server.stream.write_all(&content).await;
        });
        let mut heard = Vec::new();
        let end = loop {
            match within(tunnel.stream.inbox.next()).await {
                Ok(Some(bytes)) => heard.extend(bytes),
                end => break end,
            }
        };
        assert!(end.is_err(), "it looks complete after {} bytes", heard.len());
        assert!(heard.len() < sent.len() && sent.starts_with(&heard), "wrong bytes among {}", heard.len());
        within(link.unusable()).await;
    }
}

/// Accepts no client: it says that each was removed from the group.
#[derive(Debug)]
struct SaysRemoved;

impl ClientCertVerifier for SaysRemoved {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        _certificate: &CertificateDer<'_>,
        _others: &[CertificateDer<'_>],
        _now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        Err(rustls::Error::InvalidCertificate(rustls::CertificateError::Revoked))
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }
}

/// A gateway with [`SaysRemoved`] that shows `list` as proof.
fn liar(group: &Group, list: Vec<u8>) -> (SocketAddr, JoinSet<()>) {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let config = config.with_client_cert_verifier(Arc::new(SaysRemoved));
    let mut config = config.with_single_cert(group.chain.clone(), group.key.clone_key().into()).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec()];
    config.enable_secret_extraction = true;
    let (config, shows) = (Arc::new(config), tls::removal_server(group).unwrap());
    let listener = net::listen("127.0.0.1:0".parse().unwrap()).unwrap();
    let (address, mut running) = (listener.local_addr().unwrap(), JoinSet::new());
    running.spawn(async move {
        loop {
            let (socket, _) = net::accept(&listener).await;
            let hello = Hello::read(socket).await.unwrap();
            if hello.service == Some(Service::Link) {
                assert!(hello.accept(config.clone()).await.is_err());
                continue;
            }
            let (reader, writer) = hello.tcp.into_split();
            let socket = tokio::io::join(Cursor::new(hello.received).chain(reader), writer);
            let mut tls = TlsAcceptor::from(shows.clone()).accept(socket).await.unwrap();
            tls.write_u32(u32::try_from(list.len()).unwrap()).await.unwrap();
            let _ = tls.write_all(&list).await;
            let _ = tls.shutdown().await;
        }
    });
    (address, running)
}

/// One gateway could tell a machine that it was removed, and be believed.
#[tokio::test]
async fn what_a_gateway_says_of_a_removal_counts_only_with_the_signature_of_the_authority() {
    let office = Office::new();
    let (gateway, laptop) = (office.member(Role::Gateway).await, office.client().await);
    let another = office.client().await;
    office.authority.revoke(&another.id.to_string()).unwrap();
    let of_another = office.group().update.crl().to_vec();
    office.authority.revoke(&laptop.id.to_string()).unwrap();
    let right = office.group().update.crl().to_vec();
    let mut damaged = right.clone();
    *damaged.last_mut().unwrap() ^= 1;
    for (list, is_proof) in
        [(vec![], false), (of_another, false), (damaged, false), (vec![0; 1000], false), (right, true)]
    {
        let (address, _running) = liar(&gateway, list);
        let (config, membership) = (laptop.credentials.client().unwrap(), laptop.membership().clone());
        let refused = within(Link::dial(address, None, config, membership, &laptop.tasks)).await.unwrap_err();
        match is_proof {
            true => assert!(matches!(&refused, DialError::Removed(..)), "{refused:?}"),
            false => assert!(matches!(&refused, DialError::Unproved(..)), "{refused:?}"),
        }
        assert_eq!(laptop.membership().is_removed(), is_proof);
    }
}

#[tokio::test]
async fn a_member_that_is_no_more_learns_nothing_but_that_and_others_learn_nothing() {
    let office = Office::new();
    let gateway = Node::gateway(office.group());
    let (laptop, other) = (office.client().await, office.client().await);
    office.revoke(&[&laptop], &gateway);
    let ask = async |node: &Node| {
        let mut config = (*tls::link_client(&node.membership().group()).unwrap()).clone();
        config.alpn_protocols = vec![tls::ALPN_REMOVAL.to_vec()];
        config.enable_secret_extraction = false;
        let tcp = tokio::net::TcpStream::connect(gateway.address.unwrap()).await.unwrap();
        let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
        let mut tls = connector.connect(tls::server_name(None), tcp).await.unwrap();
        let mut all = Vec::new();
        within(tls.read_to_end(&mut all)).await.unwrap();
        all
    };
    let list = gateway.membership().group().update.crl().to_vec();
    assert_eq!(ask(&laptop).await[4..], list);
    assert_eq!(ask(&other).await, [0; 4]);
    let group = gateway.membership().group();
    assert!(!list.windows(32).any(|part| part == group.update.discovery_key()));
}
