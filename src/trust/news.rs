//! The group's news: whom the authority has put out, and the discovery key of those who are still in.
//!
//! The authority signs both together, with the epoch that counts them, so that nobody can pair one's key with
//! another's list, and a list that a member has seen is never followed by an older one. The revocation list is a
//! plain RFC 5280 CRL. A certificate's serial number is its node's id, so the list names nodes.

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

use super::Base64;
use super::certificate::{self, CertificateError};
use crate::wire::id::NodeId;

/// The longest revocation list, in bytes: more than 5,000 nodes. It bounds every message that carries one.
pub const LONGEST_CRL: usize = 192 * 1024;

/// What the signature is over begins so. An X.509 structure begins with 0x30: one can never pass for the other.
const LABEL: &[u8] = b"laneway group news 1";

/// News as they travel and as they are stored; nothing is known of them until they are opened.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Sealed {
    epoch: u64,
    discovery_key: Base64<[u8; 32]>,
    crl: Base64<CertificateRevocationListDer<'static>>,
    signature: Base64<[u8; 64]>,
}

/// News that the group's authority has signed.
#[derive(Clone, PartialEq, Eq)]
pub struct News {
    sealed: Sealed,
    revoked: BTreeSet<NodeId>,
}

/// Which news they are, and their order: by epoch, and where two machines hold the authority's key and both signed at
/// the same time, in an order that all members agree on.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Version {
    epoch: u64,
    digest: [u8; 32],
}

/// Why news are not believed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NewsError {
    /// The authority did not sign them so.
    #[error("the news are not signed by the group's authority")]
    Forged,
    /// The list is longer than any list may be.
    #[error("the revocation list is longer than {LONGEST_CRL} bytes")]
    TooLong,
    /// The list is not one.
    #[error("the revocation list cannot be read")]
    List(#[source] webpki::Error),
}

impl Sealed {
    /// Verifies and reads them.
    ///
    /// # Errors
    /// [`NewsError`].
    pub fn open(self, ca_key: &[u8; 32]) -> Result<News, NewsError> {
        if self.crl.0.len() > LONGEST_CRL {
            return Err(NewsError::TooLong);
        }
        let statement = statement(self.epoch, &self.discovery_key.0, &self.crl.0);
        signature::UnparsedPublicKey::new(&signature::ED25519, ca_key)
            .verify(&statement, &self.signature.0)
            .ok()
            .ok_or(NewsError::Forged)?;
        let revoked = revoked(&self.crl.0).map_err(NewsError::List)?;
        Ok(News { sealed: self, revoked })
    }

    /// Which they claim to be.
    pub fn version(&self) -> Version {
        let hash = digest::digest(&digest::SHA256, &self.signature.0);
        let digest = *hash.as_ref().first_chunk().expect("a SHA-256 is 32 bytes long");
        Version { epoch: self.epoch, digest }
    }
}

impl News {
    /// Signs news: from now on these nodes are out, and discovery uses this key.
    pub(super) fn sign(
        ca_key: &KeyPair,
        epoch: u64,
        discovery_key: [u8; 32],
        revoked: BTreeSet<NodeId>,
    ) -> Result<Self, CertificateError> {
        let entry = |id: &NodeId| RevokedCertParams {
            serial_number: SerialNumber::from_slice(&id.0),
            // Not when it was revoked: who else reads the list can do without, and clocks may be wrong.
            revocation_time: date_time_ymd(2020, 1, 1),
            reason_code: None,
            invalidity_date: None,
        };
        let crl = CertificateRevocationListParams {
            this_update: date_time_ymd(2020, 1, 1),
            // Machines without a clock must work: a newer list follows this one by its number, not by time.
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
        let sealed = Sealed {
            epoch,
            discovery_key: Base64(discovery_key),
            crl: Base64(crl),
            signature: Base64(signature),
        };
        Ok(Self { sealed, revoked })
    }

    /// Counts what the authority has changed.
    pub fn epoch(&self) -> u64 {
        self.sealed.epoch
    }

    /// Authenticates discovery datagrams; every member has it.
    pub fn discovery_key(&self) -> &[u8; 32] {
        &self.sealed.discovery_key.0
    }

    /// Whom the authority has put out, for TLS.
    pub fn crl(&self) -> &CertificateRevocationListDer<'static> {
        &self.sealed.crl.0
    }

    /// Whom the authority has put out.
    pub fn revoked(&self) -> &BTreeSet<NodeId> {
        &self.revoked
    }

    /// Whether it has put this node out.
    pub fn revokes(&self, id: NodeId) -> bool {
        self.revoked.contains(&id)
    }

    /// Which news these are; the larger one is the newer.
    pub fn version(&self) -> Version {
        self.sealed.version()
    }

    /// As they travel and as they are stored.
    pub fn sealed(&self) -> &Sealed {
        &self.sealed
    }
}

impl fmt::Debug for News {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("News")
            .field("epoch", &self.epoch())
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Sealed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealed").field("epoch", &self.epoch).finish_non_exhaustive()
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "epoch {}", self.epoch)
    }
}

fn statement(epoch: u64, discovery_key: &[u8; 32], crl: &[u8]) -> Vec<u8> {
    [LABEL, &epoch.to_be_bytes(), discovery_key, crl].concat()
}

fn revoked(crl: &[u8]) -> Result<BTreeSet<NodeId>, webpki::Error> {
    let crl = BorrowedCertRevocationList::from_der(crl)?;
    let mut ids = BTreeSet::new();
    for entry in &crl {
        ids.insert(id_of(entry?.serial_number).ok_or(webpki::Error::InvalidSerialNumber)?);
    }
    Ok(ids)
}

/// The id whose number this is: a DER INTEGER has no leading zeroes but the one that keeps it positive.
fn id_of(serial: &[u8]) -> Option<NodeId> {
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
    fn news_are_read_back_and_say_who_is_out() {
        let key = certificate::new_key().unwrap();
        let ca_key = certificate::raw_public_key(&key);
        let news = News::sign(&key, 7, [3; 32], ids(&[1, 0x7f, 0x80, 0xff])).unwrap();
        let json = serde_json::to_vec(news.sealed()).unwrap();
        let read = serde_json::from_slice::<Sealed>(&json).unwrap().open(&ca_key).unwrap();
        assert_eq!(read, news);
        assert_eq!((read.epoch(), read.discovery_key()), (7, &[3; 32]));
        assert!(read.revokes(NodeId([0xff; 16])) && !read.revokes(NodeId([2; 16])));
        let nobody = News::sign(&key, 0, [3; 32], ids(&[])).unwrap();
        assert!(nobody.sealed().clone().open(&ca_key).unwrap().revoked().is_empty());
    }

    #[test]
    fn what_the_authority_did_not_sign_together_is_not_believed() {
        let (key, other) = (certificate::new_key().unwrap(), certificate::new_key().unwrap());
        let ca_key = certificate::raw_public_key(&key);
        let (old, new) = (
            News::sign(&key, 1, [1; 32], ids(&[])).unwrap().sealed,
            News::sign(&key, 2, [2; 32], ids(&[9])).unwrap().sealed,
        );
        for forged in [
            Sealed { epoch: 3, ..new.clone() },
            Sealed { discovery_key: old.discovery_key.clone(), ..new.clone() },
            Sealed { crl: old.crl.clone(), ..new.clone() },
            Sealed { signature: old.signature.clone(), ..new.clone() },
            News::sign(&other, 3, [1; 32], ids(&[])).unwrap().sealed,
        ] {
            assert_eq!(forged.open(&ca_key), Err(NewsError::Forged));
        }
        let long = Sealed { crl: Base64(vec![0; LONGEST_CRL + 1].into()), ..new };
        assert_eq!(long.open(&ca_key), Err(NewsError::TooLong));
    }

    #[test]
    fn five_thousand_revocations_fit() {
        let key = certificate::new_key().unwrap();
        let many = (0..5_000_u128).map(|number| NodeId((number << 100 | 1 << 127).to_be_bytes())).collect();
        let news = News::sign(&key, 1, [0; 32], many).unwrap();
        assert!(news.crl().len() <= LONGEST_CRL, "{}", news.crl().len());
    }

    #[test]
    fn a_later_epoch_is_newer_and_of_two_of_one_epoch_all_choose_the_same() {
        let key = certificate::new_key().unwrap();
        let sign = |epoch, byte| News::sign(&key, epoch, [byte; 32], ids(&[])).unwrap().version();
        assert!(sign(2, 1) > sign(1, 1) && sign(2, 1) > sign(1, 2));
        assert_ne!(sign(2, 1), sign(2, 2));
        assert_eq!(sign(2, 1), sign(2, 1));
    }

    #[test]
    fn debug_output_has_no_key() {
        let key = certificate::new_key().unwrap();
        let news = News::sign(&key, 1, [0xab; 32], ids(&[1])).unwrap();
        let printed = format!("{news:?} {:?} {:?}", news.sealed(), news.version());
        assert!(!printed.contains("171, 171") && !printed.contains("q6ur"), "{printed}");
    }

    proptest! {
        #[test]
        fn every_id_is_found_in_the_list(id: [u8; 16], zeroes in 0_usize..15) {
            let mut id = id;
            id[..zeroes].fill(0);
            id[15] |= 1;
            let key = certificate::new_key().unwrap();
            let news = News::sign(&key, 1, [0; 32], BTreeSet::from([NodeId(id)])).unwrap();
            let read = news.sealed().clone().open(&certificate::raw_public_key(&key)).unwrap();
            prop_assert!(read.revokes(NodeId(id)));
        }

        #[test]
        fn arbitrary_bytes_are_no_list(bytes: Vec<u8>) {
            prop_assert!(revoked(&bytes).is_err());
        }
    }
}
