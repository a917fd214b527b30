//! Who belongs to the group, and how a machine gets in.
//!
//! A group is a small certificate authority: [`authority`] holds its key, [`group`] is what every member
//! holds, [`code`] is the line a person carries to a new machine and [`join`] what the two machines then
//! say. [`news`] say who is out again; a running node keeps them on its [`board`]. All of it lives in the
//! [`state`] directory. Nothing here opens a socket.

pub mod authority;
pub mod board;
pub mod certificate;
pub mod clock;
pub mod code;
pub mod group;
pub mod join;
pub mod news;
pub mod state;

use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Bytes that are base64 text in JSON.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Base64<T>(pub(crate) T);

/// Shows nothing: it may be a secret.
impl<T> fmt::Debug for Base64<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("…")
    }
}

impl<T: AsRef<[u8]>> Serialize for Base64<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de, T: TryFrom<Vec<u8>>> Deserialize<'de> for Base64<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = STANDARD.decode(text).map_err(D::Error::custom)?;
        let length = bytes.len();
        let value = T::try_from(bytes).ok().map(Self);
        value.ok_or_else(|| D::Error::invalid_length(length, &"another number of bytes"))
    }
}

/// Random bytes for keys, secrets, ids and serial numbers.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes)
        .expect("the operating system's random generator cannot fail once it is up");
    bytes
}
