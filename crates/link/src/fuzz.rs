//! For the fuzz target of records: a peer that seals arbitrary records, and the end that opens them.

use rustls::ConnectionTrafficSecrets;
use rustls::crypto::cipher::{AeadKey, Iv};

use super::receiving::{Message, Receiving};
use super::record::{HEADER, Opener, Sealer};

/// Both ends of one direction of a link after its handshake, with made-up keys.
pub struct Records {
    sealer: Sealer,
    receiving: Receiving,
    key: u8,
}

/// The result at the receiving end.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// Application data, perhaps none.
    Data(Vec<u8>),
    /// The end in good order.
    Ended,
    /// The connection is over: by this alert of the peer (true), or with this alert to it (false).
    Over(bool, u8),
}

impl Default for Records {
    fn default() -> Self {
        let (sealer, opener) = keys(0);
        Self { sealer, receiving: Receiving::new(opener, false, &[]), key: 0 }
    }
}

fn keys(number: u8) -> (Sealer, Opener) {
    let (key, iv) = (AeadKey::from([number; 32]), Iv::from([number; 12]));
    let secrets = ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv };
    let sealer = Sealer::new(0, &secrets).expect("the cipher is implemented");
    (sealer, Opener::new(0, &secrets).expect("the cipher is implemented"))
}

impl Records {
    /// A sealed record with this content, type and padding, of 2^16 bytes at most.
    pub fn seal(&mut self, inner: &[u8]) -> Vec<u8> {
        self.sealer.seal_inner(inner)
    }

    /// The end that opens receives these bytes, and opens at most `most` bytes at a time.
    pub fn receive(&mut self, bytes: &[u8], most: usize) -> Received {
        self.receiving.put(bytes);
        let (mut data, mut out) = (Vec::new(), vec![0; most + HEADER]);
        loop {
            match self.receiving.open(&mut out, most) {
                Ok((count, message)) => {
                    data.extend_from_slice(&out[..count]);
                    match message {
                        Some(Message::Alert(alert)) => return Received::Over(true, alert.into()),
                        Some(Message::KeyUpdate(_)) => {
                            self.key = self.key.wrapping_add(1);
                            let (sealer, opener) = keys(self.key);
                            self.sealer = sealer;
                            self.receiving.change_key(opener);
                        }
                        None if self.receiving.has_ended && data.is_empty() => return Received::Ended,
                        None if count == 0 => return Received::Data(data),
                        None => {}
                    }
                }
                Err(error) => return Received::Over(false, error.alert().into()),
            }
        }
    }
}
