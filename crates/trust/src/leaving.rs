//! How a member leaves its group: it signs that it does. Any member can verify the signature and pass it on, so that it
//! reaches the authority, which then removes the member.

use aws_lc_rs::signature::{self, Ed25519KeyPair};
use serde::{Deserialize, Serialize};

use super::base64::Base64;
use super::certificate::CertificateError;
use super::group::Group;
use super::name;
use super::statement::Statement;
use laneway_wire::datagram::{AnnouncedName, STATEMENT_SIZE};
use laneway_wire::id::{GroupId, NodeId};

/// The start of what is signed. It separates this from everything else that node keys sign.
const LABEL: &[u8] = b"laneway leaves 1";

/// A member's signed word that it leaves the group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Resignation {
    /// The authority's statement, which says that the key is a member's.
    statement: Base64<[u8; STATEMENT_SIZE]>,
    /// The member's name, which the statement covers.
    name: String,
    /// The signature by that key, over the label and the group's id.
    signature: Base64<[u8; 64]>,
}

impl Resignation {
    /// The resignation of this machine.
    ///
    /// # Errors
    /// When its key cannot sign.
    pub fn sign(group: &Group) -> Result<Self, CertificateError> {
        let key = Ed25519KeyPair::from_pkcs8_maybe_unchecked(group.key.secret_pkcs8_der());
        let key = key.ok().ok_or(CertificateError::NoIdentity)?;
        let signed = key.sign(&signed(group.id));
        let signature = signed.as_ref().try_into().ok().ok_or(CertificateError::NoIdentity)?;
        let (statement, name) = (Base64(*group.signer.statement()), group.node.name.clone());
        Ok(Self { statement, name, signature: Base64(signature) })
    }

    /// Who claims to leave. Only [`Self::verify`] proves it.
    pub fn claimed(&self) -> Option<NodeId> {
        Statement::read(&self.statement.0).ok().map(|statement| statement.id())
    }

    /// Who leaves, if it is a member of this group and signed this itself.
    pub fn verify(&self, group: GroupId, ca_key: &[u8; 32]) -> Option<NodeId> {
        if !name::is_valid(&self.name) {
            return None;
        }
        let statement = Statement::verify(&self.statement.0, ca_key, AnnouncedName::new(&self.name)).ok()?;
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, statement.public_key);
        key.verify(&signed(group), &self.signature.0).ok()?;
        Some(statement.id())
    }
}

fn signed(group: GroupId) -> Vec<u8> {
    [LABEL, &group.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::new;

    #[test]
    fn only_the_member_itself_can_leave_and_only_this_group() {
        let (_directory, _, _, group) = new();
        let (_other_directory, _, _, other) = new();
        let resignation = Resignation::sign(&group).unwrap();
        assert_eq!(resignation.verify(group.id, &group.ca_key), Some(group.node.id));
        assert_eq!(resignation.claimed(), Some(group.node.id));
        assert_eq!(resignation.verify(other.id, &other.ca_key), None);
        // Somebody else's signature under this member's statement.
        let forged =
            Resignation { signature: Resignation::sign(&other).unwrap().signature, ..resignation.clone() };
        assert_eq!(forged.verify(group.id, &group.ca_key), None);
        let json = serde_json::to_string(&resignation).unwrap();
        assert_eq!(serde_json::from_str::<Resignation>(&json).unwrap(), resignation);
    }
}
