//! The authority's permission to ask a gateway which members it has seen: who is where is nobody else's business.

use aws_lc_rs::signature;

use super::authority::Authority;
use super::certificate::CertificateError;
use laneway_wire::id::NodeId;

/// The start of what is signed. It separates permits from everything else that the authority signs.
const LABEL: &[u8] = b"laneway permit 1";

/// The permission of one member to ask one gateway. It does not expire, and is of no use to another member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Permit([u8; 64]);

impl Authority {
    /// The permission of `asker` to ask `gateway`.
    ///
    /// # Errors
    /// When the key cannot sign.
    pub fn permit(&self, asker: NodeId, gateway: NodeId) -> Result<Permit, CertificateError> {
        let signed = self.sign(&signed(asker, gateway))?;
        signed.try_into().map(Permit).ok().ok_or(CertificateError::NoIdentity)
    }
}

impl Permit {
    /// In hexadecimal, for a field of a request.
    pub fn text(&self) -> String {
        self.0.iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// Parses [`Permit::text`].
    pub fn parse(text: &str) -> Option<Self> {
        let mut bytes = [0; 64];
        if text.len() != 128 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(text.get(2 * at..2 * at + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// Whether the authority with this raw public key gave it to `asker` for `gateway`.
    pub fn is_valid(&self, ca_key: &[u8; 32], asker: NodeId, gateway: NodeId) -> bool {
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, ca_key);
        key.verify(&signed(asker, gateway), &self.0).is_ok()
    }
}

fn signed(asker: NodeId, gateway: NodeId) -> Vec<u8> {
    [LABEL, &asker.0, &gateway.0].concat()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::new;

    #[test]
    fn a_permit_is_good_for_its_asker_and_gateway_only() {
        let (_directory, _, authority, group) = new();
        let (_other, _, _, other) = new();
        let (asker, gateway) = (NodeId([1; 16]), NodeId([2; 16]));
        let permit = authority.permit(asker, gateway).unwrap();
        assert_eq!(Permit::parse(&permit.text()), Some(permit.clone()));
        assert!(permit.is_valid(&group.ca_key, asker, gateway));
        assert!(!permit.is_valid(&group.ca_key, gateway, asker));
        assert!(!permit.is_valid(&other.ca_key, asker, gateway));
        for text in ["", "00", &"zz".repeat(64), &"é".repeat(64)] {
            assert_eq!(Permit::parse(text), None);
        }
    }
}
