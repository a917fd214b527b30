//! Group updates: the revoked members, and the discovery key of the others.
//!
//! The authority signs both together with the epoch, which counts updates. So nobody can combine the key of one update with
//! the list of another, and a member that has seen an update accepts no older one. The revocation list is a plain CRL
//! (RFC 5280). A certificate's serial number is its node's id, so the list names nodes.

use std::collections::BTreeSet;
use std::fmt;

use aws_lc_rs::{digest, signature};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, KeyPair, RevokedCertParams, SerialNumber, SigningKey as _,
    date_time_ymd,
};
use rustls_pki_types::CertificateRevocationListDer;
use serde::{Deserialize, Serialize};
use webpki::BorrowedCertRevocationList;

use super::base64::Base64;
use super::certificate::{self, CertificateError};
use laneway_wire::id::NodeId;

/// Maximum size of a revocation list, in bytes: room for [`MAX_MEMBERS`] entries of at most 36 bytes, and for another 500
/// machines that import the authority's key, or are admitted by a second machine with it. It bounds every message with a list.
pub const MAX_CRL: usize = 512 * 1024;

/// Maximum number of machines that may ever join a group with a code, removed ones included. All of them fit into the revocation
/// list at once, so that a member that was admitted can always be removed.
pub const MAX_MEMBERS: usize = 14_000;

/// The start of what is signed. An X.509 structure starts with 0x30, so neither can be taken for the other.
const LABEL: &[u8] = b"laneway group news 1";

/// An update as it is sent and stored. It is unverified until it is opened.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SealedUpdate {
    epoch: u64,
    discovery_key: Base64<[u8; 32]>,
    crl: Base64<CertificateRevocationListDer<'static>>,
    signature: Base64<[u8; 64]>,
}

/// An update that the group's authority has signed.
#[derive(Clone, PartialEq, Eq)]
pub struct GroupUpdate {
    sealed: SealedUpdate,
    revoked: BTreeSet<NodeId>,
}

/// Identifies an update, and orders updates: by epoch, and for two updates of one epoch, signed by two machines with the
/// authority's key, in an order that all members agree on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    epoch: u64,
    digest: [u8; 32],
}

/// Why an update is rejected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum UpdateError {
    /// The authority did not sign it.
    #[error("the update is not signed by the group's authority")]
    Forged,
    /// The revocation list exceeds [`MAX_CRL`].
    #[error("the revocation list is longer than {MAX_CRL} bytes")]
    TooLong,
    /// The revocation list is malformed.
    #[error("the revocation list cannot be read")]
    List(#[source] webpki::Error),
}

impl SealedUpdate {
    /// Verifies and parses it.
    ///
    /// # Errors
    /// [`UpdateError`].
    pub fn open(self, ca_key: &[u8; 32]) -> Result<GroupUpdate, UpdateError> {
        if self.crl.0.len() > MAX_CRL {
            return Err(UpdateError::TooLong);
        }
        let statement = statement(self.epoch, &self.discovery_key.0, &self.crl.0);
        signature::UnparsedPublicKey::new(&signature::ED25519, ca_key)
            .verify(&statement, &self.signature.0)
            .ok()
            .ok_or(UpdateError::Forged)?;
        let revoked = revoked(&self.crl.0).map_err(UpdateError::List)?;
        Ok(GroupUpdate { sealed: self, revoked })
    }

    /// The version that it claims, unverified.
    pub fn version(&self) -> Version {
        let hash = digest::digest(&digest::SHA256, &self.signature.0);
        let digest = *hash.as_ref().first_chunk().expect("a SHA-256 is 32 bytes long");
        Version { epoch: self.epoch, digest }
    }
}

impl GroupUpdate {
    /// Signs an update that revokes these nodes and sets this discovery key.
    pub(super) fn sign(
        ca_key: &KeyPair,
        epoch: u64,
        discovery_key: [u8; 32],
        revoked: BTreeSet<NodeId>,
    ) -> Result<Self, CertificateError> {
        let entry = |id: &NodeId| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&id.0),
            // A fixed date: readers do not need the time of the revocation, and clocks may be wrong.
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            // Machines without a clock must work, so lists are ordered by number, not by time.
            next_update: date_time_ymd(9999, 12, 31),
            crl_number: SerialNumber::from(epoch),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        let crl = crl.signed_by(&certificate::issuer(ca_key)).map_err(CertificateError::Sign)?;
        let crl = CertificateRevocationListDer::from(crl);
        let signature =
            ca_key.sign(&statement(epoch, &discovery_key, &crl)).map_err(CertificateError::Sign)?;
        let signature = signature.try_into().expect("an Ed25519 signature is 64 bytes long");
        let sealed = SealedUpdate {
            epoch,
            discovery_key: Base64(discovery_key),
            crl: Base64(crl),
            signature: Base64(signature),
        };
        Ok(Self { sealed, revoked })
    }

    /// The number of the update, from 0.
    pub fn epoch(&self) -> u64 {
        self.sealed.epoch
    }

    /// The key that authenticates discovery datagrams. Every member has it.
    pub fn discovery_key(&self) -> &[u8; 32] {
        &self.sealed.discovery_key.0
    }

    /// The revocation list, for TLS.
    pub fn crl(&self) -> &CertificateRevocationListDer<'static> {
        &self.sealed.crl.0
    }

    /// The revoked nodes.
    pub fn revoked(&self) -> &BTreeSet<NodeId> {
        &self.revoked
    }

    /// Whether it revokes this node.
    pub fn revokes(&self, id: NodeId) -> bool {
        self.revoked.contains(&id)
    }

    /// The version. The larger of two is the newer.
    pub fn version(&self) -> Version {
        self.sealed.version()
    }

    /// The update as it is sent and stored.
    pub fn sealed(&self) -> &SealedUpdate {
        &self.sealed
    }
}

impl fmt::Debug for GroupUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GroupUpdate")
            .field("epoch", &self.epoch())
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for SealedUpdate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SealedUpdate").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.epoch)
    }
}

/// The bytes that are signed.
fn statement(epoch: u64, discovery_key: &[u8; 32], crl: &[u8]) -> Vec<u8> {
    [LABEL, &epoch.to_be_bytes(), discovery_key, crl].concat()
}

/// The nodes in a revocation list.
fn revoked(crl: &[u8]) -> Result<BTreeSet<NodeId>, webpki::Error> {
    let crl = BorrowedCertRevocationList::from_der(crl)?;
    let mut ids = BTreeSet::new();
    for entry in &crl {
        ids.insert(node_id_of(entry?.serial_number).ok_or(webpki::Error::InvalidSerialNumber)?);
    }
    Ok(ids)
}

/// The node id of a serial number. A DER INTEGER has no leading zeros except one that keeps it positive.
fn node_id_of(serial: &[u8]) -> Option<NodeId> {
    let digits = serial.strip_prefix(&[0]).unwrap_or(serial);
    let mut id = [0; 16];
    let start = id.len().checked_sub(digits.len())?;
    id[start..].copy_from_slice(digits);
    Some(NodeId(id))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn ids(numbers: &[u8]) -> BTreeSet<NodeId> {
        numbers.iter().map(|number| NodeId([*number; 16])).collect()
    }

    #[test]
    fn an_update_is_read_back_with_its_revocations() {
        let key = certificate::new_key().unwrap();
        let ca_key = certificate::raw_public_key(&key);
        let update = GroupUpdate::sign(&key, 7, [3; 32], ids(&[1, 0x7f, 0x80, 0xff])).unwrap();
        let json = serde_json::to_vec(update.sealed()).unwrap();
        let read = serde_json::from_slice::<SealedUpdate>(&json).unwrap().open(&ca_key).unwrap();
        assert_eq!(read, update);
        assert_eq!((read.epoch(), read.discovery_key()), (7, &[3; 32]));
        assert!(read.revokes(NodeId([0xff; 16])) && !read.revokes(NodeId([2; 16])));
        let nobody = GroupUpdate::sign(&key, 0, [3; 32], ids(&[])).unwrap();
        assert!(nobody.sealed().clone().open(&ca_key).unwrap().revoked().is_empty());
    }

    #[test]
    fn what_the_authority_did_not_sign_together_is_not_believed() {
        let (key, other) = (certificate::new_key().unwrap(), certificate::new_key().unwrap());
        let ca_key = certificate::raw_public_key(&key);
        let (old, new) = (
            GroupUpdate::sign(&key, 1, [1; 32], ids(&[])).unwrap().sealed,
            GroupUpdate::sign(&key, 2, [2; 32], ids(&[9])).unwrap().sealed,
        );
        for forged in [
            SealedUpdate { epoch: 3, ..new.clone() },
            SealedUpdate { discovery_key: old.discovery_key.clone(), ..new.clone() },
            SealedUpdate { crl: old.crl.clone(), ..new.clone() },
            SealedUpdate { signature: old.signature.clone(), ..new.clone() },
            GroupUpdate::sign(&other, 3, [1; 32], ids(&[])).unwrap().sealed,
        ] {
            assert_eq!(forged.open(&ca_key), Err(UpdateError::Forged));
        }
        let long = SealedUpdate { crl: Base64(vec![0; MAX_CRL + 1].into()), ..new };
        assert_eq!(long.open(&ca_key), Err(UpdateError::TooLong));
    }

    #[test]
    fn the_list_has_room_for_every_member_that_may_ever_join() {
        let key = certificate::new_key().unwrap();
        // Serial numbers whose first bit is set are a byte longer.
        let ids =
            (0..MAX_MEMBERS as u128 + 500).map(|number| NodeId((number << 100 | 1 << 127).to_be_bytes()));
        let update = GroupUpdate::sign(&key, u64::MAX, [0; 32], ids.collect()).unwrap();
        assert!(update.crl().len() <= MAX_CRL, "{}", update.crl().len());
    }

    #[test]
    fn a_later_epoch_is_newer_and_of_two_of_one_epoch_all_choose_the_same() {
        let key = certificate::new_key().unwrap();
        let sign = |epoch, byte| GroupUpdate::sign(&key, epoch, [byte; 32], ids(&[])).unwrap().version();
        assert!(sign(2, 1) > sign(1, 1) && sign(2, 1) > sign(1, 2));
        assert_ne!(sign(2, 1), sign(2, 2));
        assert_eq!(sign(2, 1), sign(2, 1));
    }

    #[test]
    fn debug_output_has_no_key() {
        let key = certificate::new_key().unwrap();
        let update = GroupUpdate::sign(&key, 1, [0xab; 32], ids(&[1])).unwrap();
        let printed = format!("{update:?} {:?} {:?}", update.sealed(), update.version());
        assert!(!printed.contains("171, 171") && !printed.contains("q6ur"), "{printed}");
    }

    proptest! {
        #[test]
        fn every_id_is_found_in_the_list(id: [u8; 16], zeroes in 0_usize..15) {
            let mut id = id;
            id[..zeroes].fill(0);
            id[15] |= 1;
            let key = certificate::new_key().unwrap();
            let update = GroupUpdate::sign(&key, 1, [0; 32], BTreeSet::from([NodeId(id)])).unwrap();
            let read = update.sealed().clone().open(&certificate::raw_public_key(&key)).unwrap();
            prop_assert!(read.revokes(NodeId(id)));
        }

        #[test]
        fn arbitrary_bytes_are_no_list(bytes: Vec<u8>) {
            prop_assert!(revoked(&bytes).is_err());
        }
    }
}
