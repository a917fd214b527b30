//! The keys of datagrams: the HMAC keys that members share, and each node's own signing key.

use std::fmt;

use aws_lc_rs::signature::{self, Ed25519KeyPair, UnparsedPublicKey};
use aws_lc_rs::{hkdf, hmac};

use super::layout::{NAME_SIZE, STATEMENT_SIZE, Type, Way, plain_ip};
use crate::id::NodeId;

/// The keys of one group or of one invite: one key for each type of datagram.
pub struct Keys {
    by_type: [hmac::Key; 5],
    names: hmac::Key,
}

impl Keys {
    /// Derives the keys from the discovery key of the group or of the invite (RFC 5869).
    pub fn new(discovery_key: &[u8; 32]) -> Self {
        let derived = hkdf::Salt::new(hkdf::HKDF_SHA256, b"laneway discovery 2").extract(discovery_key);
        let derived = |label: &[u8]| {
            let mut bytes = [0; 32];
            derived
                .expand(&[label], hmac::HMAC_SHA256)
                .and_then(|okm| okm.fill(&mut bytes))
                .expect("32 bytes are within what HKDF-SHA256 gives");
            bytes
        };
        let key = |label: &[u8]| hmac::Key::new(hmac::HMAC_SHA256, &derived(label));
        Self {
            by_type: [key(b"query"), key(b"offer"), key(b"beacon"), key(b"join query"), key(b"join offer")],
            names: hmac::Key::new(hmac::HMAC_SHA512, &derived(b"name")),
        }
    }

    /// Masks the name of a sender, or unmasks it: a one-time pad, because a node keeps one name forever, so that each pad
    /// masks one text only.
    pub(super) fn mask(&self, sender: NodeId, name: [u8; NAME_SIZE]) -> [u8; NAME_SIZE] {
        let pad = hmac::sign(&self.names, &sender.0);
        let mut masked = name;
        masked.iter_mut().zip(pad.as_ref()).for_each(|(byte, pad)| *byte ^= pad);
        masked
    }

    pub(super) fn tag(&self, kind: Type, head: &[u8], way: Way) -> [u8; 16] {
        let mut context = hmac::Context::with_key(&self.by_type[kind as usize - 1]);
        context.update(head);
        for address in kind.covered(way) {
            context.update(&plain_ip(address.ip()).octets());
            context.update(&address.port().to_be_bytes());
        }
        let mut tag = [0; 16];
        tag.copy_from_slice(&context.sign().as_ref()[..16]);
        tag
    }
}

/// What signs a node's offers and beacons: its private key, the authority's statement about it, and its name.
pub struct DatagramSigner {
    key: Ed25519KeyPair,
    statement: [u8; STATEMENT_SIZE],
    name: AnnouncedName,
}

/// The name of a node, as its offers and beacons carry it: a longer one is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AnnouncedName(pub [u8; NAME_SIZE]);

impl AnnouncedName {
    /// As much of this name as fits.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; NAME_SIZE];
        bytes.iter_mut().zip(name.bytes()).for_each(|(byte, of_name)| *byte = of_name);
        Self(bytes)
    }

    /// The name, if it is one: printable ASCII without spaces.
    pub fn text(&self) -> Option<&str> {
        let length = self.0.iter().position(|byte| *byte == 0).unwrap_or(NAME_SIZE);
        let (name, padding) = self.0.split_at(length);
        let is_name = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
        let is_whole = padding.iter().all(|byte| *byte == 0);
        std::str::from_utf8(name).ok().filter(|_| is_name && is_whole)
    }
}

/// A private key that is not an Ed25519 key in PKCS#8 (RFC 8410 §7).
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the private key cannot sign datagrams")]
pub struct UnusableKey;

impl DatagramSigner {
    /// The signer with this private key (PKCS#8, DER), this statement and this name, which the statement covers.
    ///
    /// # Errors
    /// [`UnusableKey`].
    pub fn new(
        key: &[u8],
        statement: [u8; STATEMENT_SIZE],
        name: AnnouncedName,
    ) -> Result<Self, UnusableKey> {
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(key).ok().ok_or(UnusableKey)?;
        Ok(Self { key, statement, name })
    }

    /// The name of the owner of the key.
    pub(super) fn name(&self) -> AnnouncedName {
        self.name
    }

    /// The authority's statement about the owner of the key.
    pub fn statement(&self) -> &[u8; STATEMENT_SIZE] {
        &self.statement
    }

    pub(super) fn sign(&self, kind: Type, head: &[u8], way: Way) -> [u8; 64] {
        let signature = self.key.sign(&signed(kind, head, way));
        *signature.as_ref().first_chunk().expect("an Ed25519 signature is 64 bytes long")
    }
}

/// Hides the key.
impl fmt::Debug for DatagramSigner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DatagramSigner").finish_non_exhaustive()
    }
}

/// Whether the owner of this public key signed `head` for this way.
pub(super) fn is_signed_by(
    public_key: &[u8; 32],
    kind: Type,
    head: &[u8],
    way: Way,
    signature: &[u8],
) -> bool {
    UnparsedPublicKey::new(&signature::ED25519, public_key)
        .verify(&signed(kind, head, way), signature)
        .is_ok()
}

/// The bytes that are signed. The label separates them from everything else that node keys sign: a TLS signature begins
/// with 64 spaces (RFC 8446 §4.4.3).
fn signed(kind: Type, head: &[u8], way: Way) -> Vec<u8> {
    let label: &[u8] = match kind {
        Type::Offer => b"laneway offer 2",
        Type::Beacon => b"laneway beacon 2",
        Type::Query | Type::JoinQuery | Type::JoinOffer => b"laneway other 2",
    };
    let mut bytes = [label, &[0], head].concat();
    for address in kind.covered(way) {
        bytes.extend(plain_ip(address.ip()).octets());
        bytes.extend(address.port().to_be_bytes());
    }
    bytes
}
