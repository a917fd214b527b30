//! Identifiers of nodes and groups on the wire.

use std::fmt;

/// The id of a node: the first 16 bytes of the SHA-256 of its raw Ed25519 public key. Ids therefore need not be
/// assigned, and a certificate proves the id of its owner.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub [u8; 16]);

/// The id of a group: the first 8 bytes of the SHA-256 of its authority's raw Ed25519 public key.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(pub [u8; 8]);

impl NodeId {
    /// The first 8 hexadecimal digits: enough for a user to tell nodes apart.
    pub fn short(&self) -> String {
        hex(&self.0[..4])
    }

    /// Parses 32 hexadecimal digits, the format that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl GroupId {
    /// Parses 16 hexadecimal digits, the format that [`fmt::Display`] writes.
    pub fn parse(text: &str) -> Option<Self> {
        unhex(text).map(Self)
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.short())
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex(&self.0))
    }
}

impl fmt::Debug for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[usize::from(b >> 4)], DIGITS[usize::from(b & 15)]])
        .map(char::from)
        .collect()
}

pub(crate) fn unhex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return None;
    }
    let mut out = [0; N];
    for (byte, pair) in out.iter_mut().zip(digits.chunks_exact(2)) {
        let high = char::from(pair[0]).to_digit(16)?;
        let low = char::from(pair[1]).to_digit(16)?;
        *byte = u8::try_from(high * 16 + low).ok()?;
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn ids_read_back_what_they_print(node: [u8; 16], group: [u8; 8]) {
            prop_assert_eq!(NodeId::parse(&NodeId(node).to_string()), Some(NodeId(node)));
            prop_assert_eq!(GroupId::parse(&GroupId(group).to_string()), Some(GroupId(group)));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String) {
            if let Some(id) = NodeId::parse(&text) {
                prop_assert_eq!(id.to_string(), text.to_lowercase());
            }
        }
    }
}
