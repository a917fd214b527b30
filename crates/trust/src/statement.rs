//! The authority's statement about one member: its key and its role, in 105 bytes. It travels in discovery datagrams,
//! where a certificate does not fit.
//!
//! ```text
//!   0  1  role (1: client, 2: gateway)
//!   1  8  epoch of the group when it was issued, big-endian
//!   9 32  the member's raw Ed25519 public key, from which its id follows
//!  41 64  Ed25519 signature by the authority over a label, the bytes before, and the member's announced name
//! ```
//! A statement does not expire, like the certificate that it is issued with. A revocation ends both: it names the id.

use aws_lc_rs::signature;
use rcgen::{KeyPair, SigningKey as _};

use super::certificate::{self, CertificateError, Role};
use laneway_wire::datagram::{AnnouncedName, STATEMENT_SIZE};
use laneway_wire::id::NodeId;

/// The start of what is signed. It separates statements from everything else that the authority signs: an X.509 structure
/// starts with 0x30, a group update with another label.
const LABEL: &[u8] = b"laneway member 2";
const SIGNATURE: usize = 41;

const _: () = assert!(SIGNATURE + 64 == STATEMENT_SIZE);

/// What the authority states about one member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Statement {
    /// What the member may do.
    pub role: Role,
    /// The epoch of the group when the statement was issued.
    pub epoch: u64,
    /// The member's raw Ed25519 public key.
    pub public_key: [u8; 32],
}

impl Statement {
    /// Parses a statement without verifying it.
    ///
    /// # Errors
    /// [`CertificateError::Statement`], when the role is unknown.
    pub fn read(bytes: &[u8; STATEMENT_SIZE]) -> Result<Self, CertificateError> {
        let (epoch, public_key) = (bytes[1..].first_chunk(), bytes[9..].first_chunk());
        let role = match bytes[0] {
            1 => Some(Role::Client),
            2 => Some(Role::Gateway),
            _ => None,
        };
        match (role, epoch, public_key) {
            (Some(role), Some(epoch), Some(public_key)) => {
                Ok(Self { role, epoch: u64::from_be_bytes(*epoch), public_key: *public_key })
            }
            _ => Err(CertificateError::Statement),
        }
    }

    /// Parses a statement that the authority with this raw public key signed about a member of this name.
    ///
    /// # Errors
    /// [`CertificateError::Statement`].
    pub fn verify(
        bytes: &[u8; STATEMENT_SIZE],
        ca_key: &[u8; 32],
        name: AnnouncedName,
    ) -> Result<Self, CertificateError> {
        let statement = Self::read(bytes)?;
        signature::UnparsedPublicKey::new(&signature::ED25519, ca_key)
            .verify(&[LABEL, &bytes[..SIGNATURE], &name.0].concat(), &bytes[SIGNATURE..])
            .ok()
            .ok_or(CertificateError::Statement)?;
        Ok(statement)
    }

    /// The member's id.
    pub fn id(&self) -> NodeId {
        certificate::node_id(&self.public_key)
    }

    /// The statement about the member of this name, signed by the authority.
    pub(super) fn sign(
        &self,
        ca_key: &KeyPair,
        name: AnnouncedName,
    ) -> Result<[u8; STATEMENT_SIZE], CertificateError> {
        let mut bytes = [0; STATEMENT_SIZE];
        bytes[0] = match self.role {
            Role::Client => 1,
            Role::Gateway => 2,
        };
        bytes[1..9].copy_from_slice(&self.epoch.to_be_bytes());
        bytes[9..SIGNATURE].copy_from_slice(&self.public_key);
        let signature =
            ca_key.sign(&[LABEL, &bytes[..SIGNATURE], &name.0].concat()).map_err(CertificateError::Sign)?;
        bytes[SIGNATURE..].copy_from_slice(&signature);
        Ok(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_statement_reads_back_and_any_changed_bit_another_name_or_another_authority_is_noticed() {
        let (ca, other) = (certificate::new_key().unwrap(), certificate::new_key().unwrap());
        let ca_key = certificate::raw_public_key(&ca);
        let name = AnnouncedName::new("mill-7");
        for role in [Role::Client, Role::Gateway] {
            let public_key = certificate::raw_public_key(&certificate::new_key().unwrap());
            let statement = Statement { role, epoch: 7, public_key };
            let bytes = statement.sign(&ca, name).unwrap();
            assert_eq!(Statement::verify(&bytes, &ca_key, name).unwrap(), statement);
            assert!(Statement::verify(&bytes, &ca_key, AnnouncedName::new("mill-8")).is_err());
            assert_eq!(statement.id(), certificate::node_id(&public_key));
            let elsewhere = certificate::raw_public_key(&other);
            assert!(matches!(Statement::verify(&bytes, &elsewhere, name), Err(CertificateError::Statement)));
            for bit in 0..STATEMENT_SIZE * 8 {
                let mut changed = bytes;
                changed[bit / 8] ^= 1 << (bit % 8);
                assert!(Statement::verify(&changed, &ca_key, name).is_err(), "bit {bit}");
            }
        }
    }
}
