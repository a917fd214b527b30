//! The TLS configurations of links and of joining: who may talk to whom, and in which protocol.
//!
//! TLS 1.3 only, without resumption and without early data. Certificates are verified by the webpki verifiers of rustls
//! against the group's authority alone; there is no verifier of our own.

mod credentials;
pub mod words;

use std::sync::Arc;

use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, aws_lc_rs};
use rustls::pki_types::{CertificateDer, DnsName, ServerName, TrustAnchor, UnixTime};
use rustls::server::{ClientHello, NoServerSessionStorage, VerifierBuilderError, WebPkiClientVerifier};
use rustls::time_provider::TimeProvider;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

pub use self::credentials::Credentials;
use laneway_trust::certificate::{
    CertificateError, GATEWAY_NAME, Identity, gateway_name, name_of, trust_anchor,
};
use laneway_trust::clock;
use laneway_trust::code::JoinCode;
use laneway_trust::group::Group;
use laneway_wire::id::NodeId;

/// The protocol of links: HTTP/2 (RFC 9113).
pub const ALPN_LINK: &[u8] = b"h2";

/// The protocol of joining a group.
pub const ALPN_JOIN: &[u8] = b"laneway-join/1";

/// The protocol of links that carry pieces of bodies from member to member, and nothing else: HTTP/2.
pub const ALPN_PIECES: &[u8] = b"laneway-pieces/1";

/// The protocol by which a node that the group has removed gets the proof of that.
pub const ALPN_REMOVAL: &[u8] = b"laneway-removal/1";

/// Why there is no TLS configuration, or no identity of the peer.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// rustls refuses the node's certificate or key.
    #[error("this node's certificate and key cannot be used for TLS")]
    Certificate(#[from] rustls::Error),
    /// The revocation list cannot be read.
    #[error("the group's revocation list cannot be used")]
    Revocations(#[from] VerifierBuilderError),
    /// The peer's certificate is one of the group, but names no node.
    #[error("the peer's certificate names no node")]
    Peer(#[from] CertificateError),
    /// The peer sent no certificate.
    #[error("the peer sent no certificate")]
    NoCertificate,
}

/// The node at the other end of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerIdentity {
    /// Its id, from the certificate.
    pub id: NodeId,
    /// Its name, from the certificate.
    pub name: Arc<str>,
}

/// What a client requests of the link port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Service {
    /// A link between members.
    Link,
    /// Pieces of bodies, for another member.
    Pieces,
    /// Joining the group.
    Join,
    /// The proof that the group has removed the node that asks.
    Removal,
}

impl Service {
    /// The service that the ClientHello requests, which selects the configuration. `None` for any other protocol, and
    /// without ALPN: rustls would accept that, so the caller has to close the connection.
    pub fn requested_by(hello: &ClientHello<'_>) -> Option<Self> {
        hello.alpn()?.find_map(|protocol| match protocol {
            ALPN_LINK => Some(Self::Link),
            ALPN_PIECES => Some(Self::Pieces),
            ALPN_JOIN => Some(Self::Join),
            ALPN_REMOVAL => Some(Self::Removal),
            _ => None,
        })
    }
}

/// The configuration of the client's end of a link.
///
/// # Errors
/// When the group's certificates or revocation list cannot be used.
pub fn link_client(group: &Group) -> Result<Arc<ClientConfig>, TlsError> {
    let verifier =
        WebPkiServerVerifier::builder_with_provider(roots(trust_anchor(&group.ca_key)), provider())
            .with_crls([group.update.crl().clone()])
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()?;
    let config = ClientConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_webpki_verifier(verifier)
        .with_client_auth_cert(group.chain.clone(), group.key.clone_key().into())?;
    Ok(client(config, ALPN_LINK))
}

/// The configuration of the asking end of a link that carries pieces.
///
/// # Errors
/// As [`link_client`].
pub fn pieces_client(group: &Group) -> Result<Arc<ClientConfig>, TlsError> {
    let mut config = (*link_client(group)?).clone();
    config.alpn_protocols = vec![ALPN_PIECES.to_vec()];
    Ok(Arc::new(config))
}

/// The configuration of the gateway's end of a link: only members of the group are accepted.
///
/// # Errors
/// When the group's certificates or revocation list cannot be used.
pub fn link_server(group: &Group) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(trust_anchor(&group.ca_key)), provider())
            .with_crls([group.update.crl().clone()])
            .only_check_end_entity_revocation()
            .allow_unknown_revocation_status()
            .build()?;
    let config = ServerConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(group.chain.clone(), group.key.clone_key().into())?;
    Ok(server(config, &[ALPN_LINK, ALPN_PIECES]))
}

/// The configuration of the end that proves a removal: only nodes that are members of the group, or were, are accepted.
///
/// # Errors
/// When the group's certificates cannot be used.
pub fn removal_server(group: &Group) -> Result<Arc<ServerConfig>, TlsError> {
    let verifier =
        WebPkiClientVerifier::builder_with_provider(roots(trust_anchor(&group.ca_key)), provider())
            .build()?;
    let config = ServerConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(verifier)
        .with_single_cert(group.chain.clone(), group.key.clone_key().into())?;
    Ok(server(config, &[ALPN_REMOVAL]))
}

/// The configuration of a joiner, which has no certificate yet and trusts the key in its code alone.
pub fn join_client(code: &JoinCode) -> Arc<ClientConfig> {
    let config = ClientConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("the provider has TLS 1.3 cipher suites")
        .with_root_certificates(roots(trust_anchor(&code.ca_key)))
        .with_no_client_auth();
    client(config, ALPN_JOIN)
}

/// The configuration of the authority's end of joining.
///
/// # Errors
/// When the group's certificates cannot be used.
pub fn join_server(group: &Group) -> Result<Arc<ServerConfig>, TlsError> {
    let config = ServerConfig::builder_with_details(provider(), Arc::new(Clock))
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(group.chain.clone(), group.key.clone_key().into())?;
    Ok(server(config, &[ALPN_JOIN]))
}

/// The name that the server's certificate must have: that of this gateway, or the one that all gateways have.
pub fn server_name(gateway: Option<NodeId>) -> ServerName<'static> {
    let name = gateway.map_or_else(|| GATEWAY_NAME.to_owned(), gateway_name);
    ServerName::DnsName(DnsName::try_from(name).expect("hexadecimal digits and a constant are a DNS name"))
}

/// The identity of the other end, whose certificates the handshake has verified.
///
/// # Errors
/// When the certificate names no node.
pub fn peer(certificates: &[CertificateDer<'_>]) -> Result<PeerIdentity, TlsError> {
    let certificate = certificates.first().ok_or(TlsError::NoCertificate)?;
    let id = Identity::of(certificate)?.id;
    Ok(PeerIdentity { id, name: name_of(certificate).unwrap_or_else(|| id.short()).into() })
}

/// The time for rustls on machines that may have no clock.
#[derive(Debug)]
struct Clock;

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(UnixTime::since_unix_epoch(clock::now()))
    }
}

/// Links have a record layer of their own ([`super::record`]), which needs the secrets of the handshake.
fn client(mut config: ClientConfig, protocol: &[u8]) -> Arc<ClientConfig> {
    config.alpn_protocols = vec![protocol.to_vec()];
    // The name would show the LAN which node is dialled.
    config.enable_sni = false;
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_secret_extraction = protocol == ALPN_LINK;
    Arc::new(config)
}

fn server(mut config: ServerConfig, protocols: &[&[u8]]) -> Arc<ServerConfig> {
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config.enable_secret_extraction = protocols.contains(&ALPN_LINK);
    Arc::new(config)
}

fn roots(anchor: TrustAnchor<'static>) -> Arc<RootCertStore> {
    Arc::new(RootCertStore { roots: vec![anchor] })
}

/// AES-128 first, because it is the fastest: a link carries bulk data on a LAN.
fn provider() -> Arc<CryptoProvider> {
    use aws_lc_rs::cipher_suite::{
        TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256,
    };
    let cipher_suites =
        vec![TLS13_AES_128_GCM_SHA256, TLS13_AES_256_GCM_SHA384, TLS13_CHACHA20_POLY1305_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..aws_lc_rs::default_provider() })
}

#[cfg(test)]
mod tests;
