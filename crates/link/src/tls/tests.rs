//! Real handshakes in memory, with every kind of certificate that should and should not get in.

use super::*;
use laneway_sys::state::StateDir;
use laneway_trust::authority::{Authority, Uses};
use laneway_trust::certificate::Role;
use laneway_trust::membership::Membership;
use laneway_trust::name::WantedName;
use laneway_trust::{group, join};

use std::io;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};
use tokio_rustls::{LazyConfigAcceptor, TlsAcceptor, TlsConnector, client, server};

struct Lab {
    _directory: tempfile::TempDir,
    state: StateDir,
    authority: Authority,
    first: Group,
}

fn lab() -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path().join("state")).unwrap();
    let first = Authority::create(&state, "office", "first").unwrap();
    let authority = Authority::load(&state).unwrap().unwrap();
    Lab { _directory: directory, state, authority, first }
}

impl Lab {
    /// Another member, by the protocol of joining.
    async fn member(&self, role: Role) -> Group {
        let code = self.authority.invite(role, Uses::Times(1), None, None).unwrap();
        let (client, server) = (join_client(&code), join_server(&self.first).unwrap());
        let (mut joiner, mut signer) = handshake(client, server, None).await.unwrap();
        let ours = joiner.get_ref().1.export_keying_material([0; 32], join::EXPORTER_LABEL, None).unwrap();
        let theirs = signer.get_ref().1.export_keying_material([0; 32], join::EXPORTER_LABEL, None).unwrap();
        let name = WantedName::Suggested("laptop".into());
        let (joined, enrolled) = tokio::join!(
            join::request(&mut joiner, &ours, &code, &name, join::JoinKey::temporary().unwrap()),
            join::serve(&mut signer, &theirs, &self.authority),
        );
        enrolled.unwrap();
        joined.unwrap()
    }
}

type Pair = (client::TlsStream<DuplexStream>, server::TlsStream<DuplexStream>);

/// A handshake and a byte in each direction: in TLS 1.3 a client learns only then that it was refused.
async fn handshake(
    client: Arc<ClientConfig>,
    server: Arc<ServerConfig>,
    gateway: Option<NodeId>,
) -> Result<Pair, (io::Error, io::Error)> {
    let (near, far) = duplex(64 * 1024);
    let connecting = async {
        let mut stream = TlsConnector::from(client).connect(server_name(gateway), near).await?;
        stream.write_all(b"?").await?;
        stream.flush().await?;
        stream.read_u8().await?;
        Ok(stream)
    };
    let accepting = async {
        let mut stream = TlsAcceptor::from(server).accept(far).await?;
        stream.read_u8().await?;
        stream.write_all(b"!").await?;
        stream.flush().await?;
        Ok(stream)
    };
    match tokio::join!(connecting, accepting) {
        (Ok(client), Ok(server)) => Ok((client, server)),
        (Err(client), Err(server)) => Err((client, server)),
        (client, server) => panic!("one side is content: {client:?} {server:?}"),
    }
}

fn expect_refusal(outcome: Result<Pair, (io::Error, io::Error)>, by_client: bool, reason: &str) {
    let (client, server) = outcome.expect_err("the handshake is refused");
    let said = if by_client { client } else { server }.to_string();
    assert!(said.contains(reason), "{said}");
}

#[tokio::test]
async fn members_link_and_know_each_other() {
    let lab = lab();
    for role in [Role::Client, Role::Gateway] {
        let member = lab.member(role).await;
        for expected in [None, Some(lab.first.node.id)] {
            let configs = (link_client(&member).unwrap(), link_server(&lab.first).unwrap());
            let (client, server) = handshake(configs.0, configs.1, expected).await.unwrap();
            let (client, server) = (client.get_ref().1, server.get_ref().1);
            let gateway = peer(client.peer_certificates().unwrap()).unwrap();
            assert_eq!((gateway.id, &*gateway.name), (lab.first.node.id, lab.first.node.name.as_str()));
            let other = peer(server.peer_certificates().unwrap()).unwrap();
            assert_eq!((other.id, &*other.name), (member.node.id, member.node.name.as_str()));
            assert_eq!(client.protocol_version(), Some(rustls::ProtocolVersion::TLSv1_3));
            assert_eq!(client.alpn_protocol(), Some(ALPN_LINK));
            assert_eq!(server.server_name(), None);
            let suite = client.negotiated_cipher_suite().unwrap().suite();
            assert_eq!(suite, rustls::CipherSuite::TLS13_AES_128_GCM_SHA256);
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
}

#[tokio::test]
async fn a_machine_that_joined_can_be_the_gateway_after_a_restart() {
    let lab = lab();
    let member = lab.member(Role::Gateway).await;
    let home = tempfile::tempdir().unwrap();
    let state = StateDir::open(home.path().join("state")).unwrap();
    group::remember_membership(&state, &member).unwrap();
    let member = Group::load(&state).unwrap().unwrap();
    let configs = (link_client(&lab.first).unwrap(), link_server(&member).unwrap());
    handshake(configs.0, configs.1, Some(member.node.id)).await.unwrap();
}

#[tokio::test]
async fn another_group_is_refused_by_both_sides() {
    let (ours, theirs) = (lab(), lab());
    let outcome =
        handshake(link_client(&ours.first).unwrap(), link_server(&theirs.first).unwrap(), None).await;
    expect_refusal(outcome, true, "UnknownIssuer");

    // A client that would take any server still does not get in.
    let mut careless = theirs.first.clone();
    careless.ca_key = ours.first.ca_key;
    let outcome = handshake(link_client(&careless).unwrap(), link_server(&ours.first).unwrap(), None).await;
    expect_refusal(outcome, false, "UnknownIssuer");

    let code = theirs.authority.invite(Role::Client, Uses::Any, None, None).unwrap();
    let outcome = handshake(join_client(&code), join_server(&ours.first).unwrap(), None).await;
    expect_refusal(outcome, true, "UnknownIssuer");
}

#[tokio::test]
async fn a_client_without_a_certificate_is_refused() {
    let lab = lab();
    let code = lab.authority.invite(Role::Client, Uses::Any, None, None).unwrap();
    let mut stranger = ClientConfig::clone(&join_client(&code));
    stranger.alpn_protocols = vec![ALPN_LINK.to_vec()];
    let outcome = handshake(Arc::new(stranger), link_server(&lab.first).unwrap(), None).await;
    expect_refusal(outcome, false, "no certificate");
}

#[tokio::test]
async fn a_client_only_member_cannot_pose_as_a_gateway() {
    let lab = lab();
    let client_only = lab.member(Role::Client).await;
    let outcome = handshake(link_client(&lab.first).unwrap(), link_server(&client_only).unwrap(), None).await;
    expect_refusal(outcome, true, "extended key usage");
    let code = lab.authority.invite(Role::Client, Uses::Any, None, None).unwrap();
    let outcome = handshake(join_client(&code), join_server(&client_only).unwrap(), None).await;
    expect_refusal(outcome, true, "extended key usage");
}

#[tokio::test]
async fn one_gateway_cannot_pose_as_another() {
    let lab = lab();
    let member = lab.member(Role::Gateway).await;
    let configs = (link_client(&lab.first).unwrap(), link_server(&member).unwrap());
    let outcome = handshake(configs.0, configs.1, Some(lab.first.node.id)).await;
    expect_refusal(outcome, true, "not valid for name");
}

#[tokio::test]
async fn a_revoked_member_is_refused_at_either_end_and_others_are_not() {
    let lab = lab();
    let (revoked, good) = (lab.member(Role::Gateway).await, lab.member(Role::Gateway).await);
    lab.authority.revoke(&revoked.node.id.to_string()).unwrap();
    let first = Group::load(&lab.state).unwrap().unwrap();

    let outcome = handshake(link_client(&revoked).unwrap(), link_server(&first).unwrap(), None).await;
    expect_refusal(outcome, false, "Revoked");
    let outcome = handshake(link_client(&first).unwrap(), link_server(&revoked).unwrap(), None).await;
    expect_refusal(outcome, true, "Revoked");
    handshake(link_client(&good).unwrap(), link_server(&first).unwrap(), None).await.unwrap();
    handshake(link_client(&first).unwrap(), link_server(&good).unwrap(), None).await.unwrap();
}

#[tokio::test]
async fn links_and_joins_do_not_mix() {
    let lab = lab();
    let code = lab.authority.invite(Role::Client, Uses::Any, None, None).unwrap();
    let outcome = handshake(join_client(&code), link_server(&lab.first).unwrap(), None).await;
    expect_refusal(outcome, true, "NoApplicationProtocol");
    let outcome = handshake(link_client(&lab.first).unwrap(), join_server(&lab.first).unwrap(), None).await;
    expect_refusal(outcome, true, "NoApplicationProtocol");
}

#[tokio::test]
async fn the_service_is_chosen_by_alpn() {
    let lab = lab();
    let code = lab.authority.invite(Role::Client, Uses::Any, None, None).unwrap();
    let mut neither = ClientConfig::clone(&join_client(&code));
    neither.alpn_protocols = vec![b"http/1.1".to_vec()];
    let mut nothing = neither.clone();
    nothing.alpn_protocols.clear();
    for (client, expected) in [
        (link_client(&lab.first).unwrap(), Some(Service::Link)),
        (join_client(&code), Some(Service::Join)),
        (Arc::new(neither), None),
        (Arc::new(nothing), None),
    ] {
        let (near, far) = duplex(64 * 1024);
        let dialling = tokio::spawn(TlsConnector::from(client).connect(server_name(None), near));
        let start = LazyConfigAcceptor::new(rustls::server::Acceptor::default(), far).await.unwrap();
        assert_eq!(Service::requested_by(&start.client_hello()), expected);
        dialling.abort();
    }
}

#[test]
fn a_tls_1_2_client_is_refused() {
    let lab = lab();
    // The least a TLS 1.2 ClientHello can be (RFC 5246 §7.4.1.2), with one good cipher suite, Ed25519 and X25519.
    let extensions = [0, 13, 0, 4, 0, 2, 8, 7, 0, 10, 0, 4, 0, 2, 0, 29];
    let body = [&[3, 3][..], &[7; 32], &[0, 0, 2, 0xc0, 0x2b, 1, 0, 0, 16], &extensions].concat();
    let body_length = u8::try_from(body.len()).unwrap();
    let hello = [&[22, 3, 1, 0, body_length + 4, 1, 0, 0, body_length][..], &body].concat();
    for config in [link_server(&lab.first).unwrap(), join_server(&lab.first).unwrap()] {
        let mut connection = rustls::ServerConnection::new(config).unwrap();
        connection.read_tls(&mut &hello[..]).unwrap();
        let refused = connection.process_new_packets().unwrap_err();
        assert!(matches!(refused, rustls::Error::PeerIncompatible(_)), "{refused:?}");
    }
}

#[test]
fn nothing_is_resumed_early_or_hinted() {
    let lab = lab();
    let client = link_client(&lab.first).unwrap();
    assert!(!client.enable_early_data && !client.enable_sni);
    for server in [link_server(&lab.first).unwrap(), join_server(&lab.first).unwrap()] {
        assert_eq!((server.send_tls13_tickets, server.max_early_data_size), (0, 0));
        assert!(!server.session_storage.can_cache());
    }
}

#[test]
fn a_machine_without_a_clock_has_a_time_at_which_certificates_are_valid() {
    assert!(Clock.current_time().unwrap().as_secs() >= clock::CLOCK_FLOOR.as_secs());
}

#[test]
fn a_server_name_is_the_gateway_asked_for_or_any() {
    assert_eq!(server_name(None).to_str(), "gateway.laneway");
    let id = NodeId([0xab; 16]);
    assert_eq!(server_name(Some(id)).to_str(), format!("{id}.gateway.laneway"));
}

#[tokio::test]
async fn a_configuration_follows_the_news_of_the_group() {
    let lab = lab();
    let laptop = lab.member(Role::Gateway).await;
    let here = Credentials::new(Membership::new(lab.first.clone())).unwrap();
    let there = Credentials::new(Membership::new(laptop.clone())).unwrap();
    handshake(there.client().unwrap(), here.server().unwrap(), None).await.unwrap();
    assert!(Arc::ptr_eq(&here.server().unwrap(), &here.server().unwrap()), "made again without need");

    lab.authority.revoke(&laptop.node.id.to_string()).unwrap();
    let news = Group::load(&lab.state).unwrap().unwrap().update;
    here.membership.apply(news.sealed()).unwrap();
    let outcome = handshake(there.client().unwrap(), here.server().unwrap(), None).await;
    expect_refusal(outcome, false, "Revoked");
    let outcome = handshake(here.client().unwrap(), there.server().unwrap(), None).await;
    expect_refusal(outcome, true, "Revoked");
}
