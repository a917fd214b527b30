//! The group's certificates (RFC 5280): what is in them, and whether one belongs to the group.
//!
//! All keys are Ed25519 (RFC 8410). webpki verifies; this module only says what to verify.

use std::time::Duration;

use aws_lc_rs::digest;
use aws_lc_rs::signature::Ed25519KeyPair;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, PKCS_ED25519, PublicKeyData, SanType, SerialNumber, SignatureAlgorithm,
    date_time_ymd,
};
use rustls_pki_types::{CertificateDer, Der, PrivatePkcs8KeyDer, TrustAnchor, UnixTime};
use serde::{Deserialize, Serialize};
use webpki::{
    BorrowedCertRevocationList, EndEntityCert, KeyUsage, RevocationCheckDepth, RevocationOptionsBuilder,
    UnknownStatusPolicy,
};

use super::clock;
use super::random::random;
use laneway_wire::datagram::UnusableKey;
use laneway_wire::failure::printable;
use laneway_wire::id::{GroupId, NodeId};

/// The DNS name in every gateway's certificate, which a client expects of a gateway whose id it does not know.
pub const GATEWAY_NAME: &str = "gateway.laneway";

/// What a certificate permits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// To use gateways.
    Client,
    /// To use gateways and to be one.
    Gateway,
}

/// The identity in a certificate: its SAN URI, `laneway://GROUP/ROLE/NODE`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Identity {
    /// The node's id.
    pub id: NodeId,
    /// What the certificate permits.
    pub role: Role,
    /// The group whose authority signed it.
    pub group: GroupId,
}

/// What is wrong with a certificate or a key.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// The authority's key did not sign it, or it is not valid for this use.
    #[error("the certificate is not valid in this group")]
    Invalid(#[source] webpki::Error),
    /// It contains no node identity.
    #[error("the certificate names no node of a group")]
    NoIdentity,
    /// It is valid, but for another group or node.
    #[error("the certificate is for another {0}")]
    Another(&'static str),
    /// The authority did not sign the statement about a node.
    #[error("the statement about the node is not valid in this group")]
    Statement,
    /// The private key cannot sign discovery datagrams.
    #[error(transparent)]
    Unusable(#[from] UnusableKey),
    /// Not an Ed25519 private key.
    #[error("the private key is not a usable Ed25519 key")]
    BadKey(#[source] rcgen::Error),
    /// It could not be signed.
    #[error("cannot sign the certificate")]
    Sign(#[source] rcgen::Error),
}

impl Role {
    fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Gateway => "gateway",
        }
    }
}

impl std::fmt::Display for Role {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.name())
    }
}

impl Identity {
    /// The identity in a certificate that has been verified.
    ///
    /// # Errors
    /// Unless it contains exactly one identity.
    pub fn of(certificate: &CertificateDer<'_>) -> Result<Self, CertificateError> {
        let parsed = EndEntityCert::try_from(certificate).map_err(CertificateError::Invalid)?;
        let mut found = parsed.valid_uri_names().map(Self::parse);
        match (found.next(), found.next()) {
            (Some(Some(identity)), None) => Ok(identity),
            _ => Err(CertificateError::NoIdentity),
        }
    }

    fn uri(&self) -> String {
        format!("laneway://{}/{}/{}", self.group, self.role, self.id)
    }

    fn parse(uri: &str) -> Option<Self> {
        let mut parts = uri.strip_prefix("laneway://")?.split('/');
        let group = GroupId::parse(parts.next()?)?;
        let role = match parts.next()? {
            "client" => Role::Client,
            "gateway" => Role::Gateway,
            _ => return None,
        };
        let id = NodeId::parse(parts.next()?)?;
        parts.next().is_none().then_some(Self { id, role, group })
    }
}

/// The node's name in a certificate that has been verified: the common name of its subject (RFC 5280 §4.1.2.6), if any.
pub fn name_of(certificate: &CertificateDer<'_>) -> Option<String> {
    let name = yasna::parse_der(certificate, |certificate| {
        certificate.read_sequence(|parts| {
            let name = parts.next().read_sequence(|fields| {
                // Version, serial number, algorithm, issuer, validity.
                for _ in 0..5 {
                    fields.next().read_der()?;
                }
                let name = fields.next().read_sequence(|subject| {
                    subject.next().read_set(|attributes| {
                        let attribute = attributes.next(&[yasna::tags::TAG_SEQUENCE])?;
                        attribute.read_sequence(|attribute| {
                            match attribute.next().read_oid()?.components().as_slice() {
                                [2, 5, 4, 3] => attribute.next().read_utf8string(),
                                _ => Err(yasna::ASN1Error::new(yasna::ASN1ErrorKind::Invalid)),
                            }
                        })
                    })
                })?;
                while fields.read_optional(|rest| rest.read_der())?.is_some() {}
                Ok(name)
            })?;
            // The algorithm again, and the signature.
            parts.next().read_der()?;
            parts.next().read_der()?;
            Ok(name)
        })
    });
    name.ok().map(|name| printable(&name))
}

/// The id of the group whose authority has this raw public key.
pub fn group_id(ca_key: &[u8; 32]) -> GroupId {
    GroupId(hash_start(ca_key))
}

/// The id of the node with this raw public key.
pub fn node_id(public_key: &[u8; 32]) -> NodeId {
    NodeId(hash_start(public_key))
}

/// The DNS name that only this gateway's certificate contains.
pub fn gateway_name(id: NodeId) -> String {
    format!("{id}.{GATEWAY_NAME}")
}

/// The group's trust anchor, derived from the authority's raw public key alone. It equals what webpki reads from the
/// authority's certificate.
pub fn trust_anchor(ca_key: &[u8; 32]) -> TrustAnchor<'static> {
    let name = authority_name(group_id(ca_key));
    // SET { SEQUENCE { commonName, UTF8String } }, every length below 128 and so one byte.
    let length = |content: usize| u8::try_from(content).expect("the name is 24 bytes long");
    let mut subject = vec![0x31, length(name.len() + 9), 0x30, length(name.len() + 7)];
    subject.extend([0x06, 0x03, 0x55, 0x04, 0x03, 0x0c, length(name.len())]);
    subject.extend(name.as_bytes());
    TrustAnchor {
        subject: Der::from(subject),
        subject_public_key_info: Der::from([&SPKI_START[..], ca_key].concat()),
        name_constraints: None,
    }
}

/// Generates an Ed25519 private key. Its file has the form of RFC 8410 §7, without the public key: OpenSSL 3.0 reads no
/// other.
pub(super) fn new_key() -> Result<KeyPair, CertificateError> {
    let key = Ed25519KeyPair::generate().and_then(|key| key.to_pkcs8v1());
    let key = key.map_err(|_unspecified| CertificateError::BadKey(rcgen::Error::RingUnspecified))?;
    read_key(&key.as_ref().into())
}

/// Parses an Ed25519 private key, with its public key or without it (RFC 8410 §7, RFC 5958 §2).
pub(super) fn read_key(key: &PrivatePkcs8KeyDer<'_>) -> Result<KeyPair, CertificateError> {
    KeyPair::from_pkcs8_der_and_sign_algo(key, &PKCS_ED25519).map_err(CertificateError::BadKey)
}

/// The 32 bytes of an Ed25519 public key.
pub(super) fn raw_public_key(key: &KeyPair) -> [u8; 32] {
    key.public_key_raw().try_into().expect("keys are only made and read as Ed25519")
}

/// Signs the authority's own certificate.
pub(super) fn sign_authority(key: &KeyPair) -> Result<CertificateDer<'static>, CertificateError> {
    let certificate = authority_params(key).self_signed(key).map_err(CertificateError::Sign)?;
    Ok(certificate.into())
}

/// Signs a node's certificate.
pub(super) fn sign_node(
    ca_key: &KeyPair,
    public_key: &[u8; 32],
    name: &str,
    role: Role,
) -> Result<CertificateDer<'static>, CertificateError> {
    let identity = Identity { id: node_id(public_key), role, group: group_id(&raw_public_key(ca_key)) };
    let ia5 = |text: String| text.try_into().map_err(CertificateError::Sign);
    // The id is also the serial number: one key has one certificate, and a revocation list names nodes.
    let mut params = base_params(name, identity.id.0);
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(ia5(identity.uri())?)];
    params.use_authority_key_identifier_extension = true;
    if role == Role::Gateway {
        params.extended_key_usages.push(ExtendedKeyUsagePurpose::ServerAuth);
        for name in [GATEWAY_NAME.to_owned(), gateway_name(identity.id)] {
            params.subject_alt_names.push(SanType::DnsName(ia5(name)?));
        }
    }
    let certificate =
        params.signed_by(&RawKey(*public_key), &issuer(ca_key)).map_err(CertificateError::Sign)?;
    Ok(certificate.into())
}

/// The issuer of the group's certificates, with the same names and identifiers as the authority's certificate.
pub(crate) fn issuer(ca_key: &KeyPair) -> Issuer<'static, &KeyPair> {
    Issuer::new(authority_params(ca_key), ca_key)
}

/// Verifies that the authority with this key signed the certificate for this public key. Returns its identity.
pub(super) fn verify_node(
    ca_key: &[u8; 32],
    certificate: &CertificateDer<'_>,
    public_key: &[u8; 32],
) -> Result<Identity, CertificateError> {
    let parsed = EndEntityCert::try_from(certificate).map_err(CertificateError::Invalid)?;
    let anchors = [trust_anchor(ca_key)];
    let now = UnixTime::since_unix_epoch(clock::now());
    parsed
        .verify_for_usage(
            &[webpki::aws_lc_rs::ED25519],
            &anchors,
            &[],
            now,
            KeyUsage::client_auth(),
            None,
            None,
        )
        .map_err(CertificateError::Invalid)?;
    let identity = Identity::of(certificate)?;
    if identity.group != group_id(ca_key) {
        return Err(CertificateError::Another("group"));
    }
    // The SubjectPublicKeyInfo is the anchor's, with its own SEQUENCE tag and length in front.
    let same_key = parsed.subject_public_key_info().ends_with(&[&SPKI_START[..], public_key].concat());
    if !same_key || identity.id != node_id(public_key) {
        return Err(CertificateError::Another("node"));
    }
    Ok(identity)
}

/// Whether this revocation list names a certificate of the group, and the authority has signed it.
pub(super) fn is_revoked(certificate: &CertificateDer<'_>, ca_key: &[u8; 32], crl: &[u8]) -> bool {
    let Ok(parsed) = EndEntityCert::try_from(certificate) else { return false };
    let Ok(crl) = BorrowedCertRevocationList::from_der(crl) else { return false };
    let (crl, anchors) = (crl.into(), [trust_anchor(ca_key)]);
    let crls = [&crl];
    let Ok(options) = RevocationOptionsBuilder::new(&crls) else { return false };
    let options = options
        .with_depth(RevocationCheckDepth::EndEntity)
        .with_status_policy(UnknownStatusPolicy::Allow)
        .build();
    let now = UnixTime::since_unix_epoch(clock::now());
    let verified = parsed.verify_for_usage(
        &[webpki::aws_lc_rs::ED25519],
        &anchors,
        &[],
        now,
        KeyUsage::client_auth(),
        Some(options),
        None,
    );
    matches!(verified, Err(webpki::Error::CertRevoked))
}

/// Verifies that a certificate is that of the authority with this key.
pub(super) fn verify_authority(
    ca_key: &[u8; 32],
    certificate: &CertificateDer<'_>,
) -> Result<(), CertificateError> {
    match authority_key(certificate)? {
        key if key == *ca_key => Ok(()),
        _ => Err(CertificateError::Another("group")),
    }
}

/// The raw public key in an authority's certificate.
pub(super) fn authority_key(certificate: &CertificateDer<'_>) -> Result<[u8; 32], CertificateError> {
    let anchor = webpki::anchor_from_trusted_cert(certificate).map_err(CertificateError::Invalid)?;
    let key = anchor.subject_public_key_info.strip_prefix(&SPKI_START).and_then(|key| key.try_into().ok());
    let key = key.ok_or(CertificateError::Another("kind of group"))?;
    if anchor != trust_anchor(&key) {
        return Err(CertificateError::Another("kind of group"));
    }
    Ok(key)
}

/// PEM text (RFC 7468).
pub(super) fn pem(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(64));
        text.push_str(line);
        text.push('\n');
        rest = after;
    }
    text + &format!("-----END {label}-----\n")
}

/// What precedes the 32 key bytes inside the SubjectPublicKeyInfo of an Ed25519 key (RFC 8410 §4).
const SPKI_START: [u8; 10] = [0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// A public key whose private half is elsewhere.
struct RawKey([u8; 32]);

impl PublicKeyData for RawKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        &PKCS_ED25519
    }
}

fn authority_params(key: &KeyPair) -> CertificateParams {
    let ca_key = raw_public_key(key);
    let mut params = base_params(&authority_name(group_id(&ca_key)), random());
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn base_params(name: &str, serial: [u8; 16]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    // Valid on machines without a clock; 9999-12-31 23:59:59 is RFC 5280 §4.1.2.5's "does not expire".
    params.not_before = date_time_ymd(2020, 1, 1);
    params.not_after = date_time_ymd(9999, 12, 31) + Duration::from_secs(86_399);
    params
}

fn authority_name(group: GroupId) -> String {
    format!("laneway {group}")
}

fn hash_start<const N: usize>(key: &[u8; 32]) -> [u8; N] {
    let hash = digest::digest(&digest::SHA256, key);
    *hash.as_ref().first_chunk().expect("an id is shorter than a SHA-256")
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rustls_pki_types::pem::PemObject as _;

    #[test]
    fn the_anchor_made_from_the_key_is_the_one_in_the_certificate() {
        for _ in 0..8 {
            let key = new_key().unwrap();
            let certificate = sign_authority(&key).unwrap();
            let anchor = trust_anchor(&raw_public_key(&key));
            assert_eq!(anchor, webpki::anchor_from_trusted_cert(&certificate).unwrap());
            assert_eq!(authority_key(&certificate).unwrap(), raw_public_key(&key));
        }
    }

    #[test]
    fn keys_are_written_without_the_public_key_and_read_with_it_too() {
        let key = new_key().unwrap();
        let written = key.serialized_der();
        assert_eq!((written.len(), written[4]), (48, 0), "PKCS#8 of version 1 (RFC 8410 §7)");
        let pair = Ed25519KeyPair::from_pkcs8(written).unwrap();
        let with_public_key = pair.to_pkcs8().unwrap();
        assert_eq!(with_public_key.as_ref()[4], 1, "of version 2 (RFC 5958 §2)");
        for form in [written, with_public_key.as_ref()] {
            assert_eq!(raw_public_key(&read_key(&form.into()).unwrap()), raw_public_key(&key));
        }
    }

    #[test]
    fn a_node_certificate_says_whose_it_is_and_what_it_may_do() {
        let (ca, node) = (new_key().unwrap(), new_key().unwrap());
        let (ca_key, public) = (raw_public_key(&ca), raw_public_key(&node));
        for (role, dns_names) in [(Role::Client, 0), (Role::Gateway, 2)] {
            let certificate = sign_node(&ca, &public, "büro 1", role).unwrap();
            let identity = verify_node(&ca_key, &certificate, &public).unwrap();
            assert_eq!(identity, Identity { id: node_id(&public), role, group: group_id(&ca_key) });
            let parsed = EndEntityCert::try_from(&certificate).unwrap();
            assert_eq!(parsed.valid_dns_names().count(), dns_names);
        }
    }

    #[test]
    fn only_a_gateway_certificate_is_good_for_serving() {
        let (ca, node) = (new_key().unwrap(), new_key().unwrap());
        let anchors = [trust_anchor(&raw_public_key(&ca))];
        let serves = |role| {
            let certificate = sign_node(&ca, &raw_public_key(&node), "a", role).unwrap();
            let now = UnixTime::since_unix_epoch(clock::now());
            let usage = KeyUsage::server_auth();
            EndEntityCert::try_from(&certificate)
                .unwrap()
                .verify_for_usage(&[webpki::aws_lc_rs::ED25519], &anchors, &[], now, usage, None, None)
                .map(drop)
        };
        assert_eq!(serves(Role::Gateway), Ok(()));
        assert!(matches!(serves(Role::Client), Err(webpki::Error::RequiredEkuNotFoundContext(_))));
    }

    #[test]
    fn certificates_of_others_are_refused() {
        let (ca, other_ca, node, other) =
            (new_key().unwrap(), new_key().unwrap(), new_key().unwrap(), new_key().unwrap());
        let (ca_key, public) = (raw_public_key(&ca), raw_public_key(&node));
        let certificate = sign_node(&ca, &public, "a", Role::Gateway).unwrap();
        let foreign = verify_node(&raw_public_key(&other_ca), &certificate, &public);
        assert!(
            matches!(foreign, Err(CertificateError::Invalid(webpki::Error::UnknownIssuer))),
            "{foreign:?}"
        );
        let not_mine = verify_node(&ca_key, &certificate, &raw_public_key(&other));
        assert!(matches!(not_mine, Err(CertificateError::Another("node"))), "{not_mine:?}");
        assert!(matches!(authority_key(&certificate), Err(CertificateError::Another(_))));
    }

    #[test]
    fn pem_reads_back() {
        let key = new_key().unwrap();
        let certificate = sign_authority(&key).unwrap();
        let text = pem("CERTIFICATE", &certificate);
        assert_eq!(CertificateDer::from_pem_slice(text.as_bytes()).unwrap(), certificate);
        assert!(text.lines().all(|line| line.len() <= 64));
    }

    proptest! {
        #[test]
        fn an_identity_reads_back_what_it_prints(id: [u8; 16], group: [u8; 8], gateway: bool) {
            let role = if gateway { Role::Gateway } else { Role::Client };
            let identity = Identity { id: NodeId(id), role, group: GroupId(group) };
            prop_assert_eq!(Identity::parse(&identity.uri()), Some(identity));
            prop_assert_eq!(Identity::parse(&format!("{}/", identity.uri())), None);
        }

        #[test]
        fn arbitrary_bytes_are_no_certificate(bytes: Vec<u8>) {
            prop_assert!(Identity::of(&CertificateDer::from(bytes.clone())).is_err());
            prop_assert!(authority_key(&CertificateDer::from(bytes)).is_err());
        }
    }
}
