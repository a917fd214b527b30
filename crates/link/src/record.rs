//! TLS 1.3 record protection (RFC 8446 §5.2) with the keys of a finished handshake, without I/O.
//!
//! rustls makes the handshake and derives every key. This turns plaintext into records and back in one pass: from the
//! caller's memory into the send buffer, and from the receive buffer into the caller's memory.

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce};
use aws_lc_rs::aead::{Algorithm, UnboundKey};
use rustls::{AlertDescription, ConnectionTrafficSecrets};

/// The length of a record header, in bytes.
pub(super) const HEADER: usize = 5;
/// The most plaintext in one record, in bytes (RFC 8446 §5.1).
pub(super) const MAX_PLAIN: usize = 1 << 14;
/// By how many bytes a record is longer than its plaintext: the header, the inner content type and the tag.
pub(super) const OVERHEAD: usize = HEADER + 1 + TAG;
const TAG: usize = 16;
/// The most that follows the header, in bytes (RFC 8446 §5.2).
const MAX_SEALED: usize = MAX_PLAIN + 256;
/// The outer content type and the legacy version of every protected record.
const OUTER: [u8; 3] = [Content::Data as u8, 3, 3];

/// The content type of a record (RFC 8446 §5.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Content {
    /// An alert.
    Alert = 21,
    /// A message of the handshake protocol, after the handshake.
    Handshake = 22,
    /// Application data.
    Data = 23,
}

/// Why a record cannot be used. The connection is over then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// It was altered in transit, or sealed with another key.
    #[error("a record was altered in transit")]
    Altered,
    /// It is longer than a record may be.
    #[error("a record is too long")]
    TooLong,
    /// It is not a protected record, or not one that may come here.
    #[error("not a record that may come here")]
    Unexpected,
    /// The message in it cannot be read.
    #[error("a message in a record cannot be read")]
    Malformed,
    /// A message in it has a value that is not allowed.
    #[error("a message in a record has a value that is not allowed")]
    Illegal,
    /// The peer sends records without application data all the time.
    #[error("too many records without data")]
    TooMany,
    /// The handshake agreed on a cipher that is not implemented here.
    #[error("the cipher is not supported")]
    Cipher,
}

impl RecordError {
    /// The alert that says so (RFC 8446 §6.2).
    pub(super) fn alert(self) -> AlertDescription {
        match self {
            Self::Altered => AlertDescription::BadRecordMac,
            Self::TooLong => AlertDescription::RecordOverflow,
            Self::Unexpected | Self::TooMany => AlertDescription::UnexpectedMessage,
            Self::Malformed => AlertDescription::DecodeError,
            Self::Illegal => AlertDescription::IllegalParameter,
            Self::Cipher => AlertDescription::InternalError,
        }
    }
}

/// The key of one direction, and the number of its next record.
struct Keys {
    key: LessSafeKey,
    iv: [u8; NONCE_LEN],
    sequence: u64,
}

impl Keys {
    fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        let (algorithm, key, iv): (&'static Algorithm, _, _) = match secrets {
            ConnectionTrafficSecrets::Aes128Gcm { key, iv } => (&AES_128_GCM, key, iv),
            ConnectionTrafficSecrets::Aes256Gcm { key, iv } => (&AES_256_GCM, key, iv),
            ConnectionTrafficSecrets::Chacha20Poly1305 { key, iv } => (&CHACHA20_POLY1305, key, iv),
            _ => return Err(RecordError::Cipher),
        };
        Self::of(sequence, algorithm, key.as_ref(), iv.as_ref())
    }

    fn of(sequence: u64, algorithm: &'static Algorithm, key: &[u8], iv: &[u8]) -> Result<Self, RecordError> {
        let key = UnboundKey::new(algorithm, key).map_err(|_wrong_length| RecordError::Cipher)?;
        let iv = iv.try_into().map_err(|_wrong_length| RecordError::Cipher)?;
        Ok(Self { key: LessSafeKey::new(key), iv, sequence })
    }

    /// The nonce of the next record (RFC 8446 §5.3). The key is changed long before the numbers run out.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[NONCE_LEN - 8..].iter_mut().zip(self.sequence.to_be_bytes()) {
            *byte ^= number;
        }
        self.sequence += 1;
        Nonce::assume_unique_for_key(nonce)
    }
}

/// The sending direction.
pub(super) struct Sealer(Keys);

impl Sealer {
    pub(super) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        Ok(Self(Keys::new(sequence, secrets)?))
    }

    /// How many records were sealed with this key.
    pub(super) fn sealed(&self) -> u64 {
        self.0.sequence
    }

    /// Seals `parts`, together at most [`MAX_PLAIN`] bytes, as one record at the start of `out`, which has room for
    /// [`OVERHEAD`] bytes more. Returns the length of the record.
    pub(super) fn seal(&mut self, content: Content, parts: &[&[u8]], out: &mut [u8]) -> usize {
        let plain: usize = parts.iter().map(|part| part.len()).sum();
        let length = u16::try_from(plain + 1 + TAG).expect("a record's length fits into 16 bits");
        let (header, rest) = out.split_at_mut(HEADER);
        header[..3].copy_from_slice(&OUTER);
        header[3..].copy_from_slice(&length.to_be_bytes());
        let (body, rest) = rest.split_at_mut(plain);
        let (kind, end) = ([content as u8], &mut rest[..1 + TAG]);
        let (nonce, aad) = (self.0.nonce(), Aad::from(&*header));
        let sealed = if let [only] = parts {
            self.0.key.seal_out_of_place_scatter(nonce, aad, only, body, &kind, end)
        } else {
            let mut at = 0;
            for part in parts {
                body[at..at + part.len()].copy_from_slice(part);
                at += part.len();
            }
            self.0.key.seal_in_place_scatter(nonce, aad, body, &kind, end)
        };
        sealed.expect("the lengths are those of one record");
        plain + OVERHEAD
    }
}

impl Sealer {
    /// A record whose content, type and padding are these bytes, whatever they are: what another implementation might send.
    pub(super) fn seal_inner(&mut self, inner: &[u8]) -> Vec<u8> {
        let length = u16::try_from(inner.len() + TAG).expect("a record's length fits into 16 bits");
        let header = [&OUTER[..], &length.to_be_bytes()].concat();
        let mut sealed = inner.to_vec();
        let (nonce, aad) = (self.0.nonce(), Aad::from(&header[..]));
        self.0.key.seal_in_place_append_tag(nonce, aad, &mut sealed).expect("the length is that of a record");
        [header, sealed].concat()
    }
}

/// The receiving direction.
pub(super) struct Opener(Keys);

impl Opener {
    pub(super) fn new(sequence: u64, secrets: &ConnectionTrafficSecrets) -> Result<Self, RecordError> {
        Ok(Self(Keys::new(sequence, secrets)?))
    }

    /// The whole length of the record at the start of `bytes`; none while its header is incomplete.
    ///
    /// # Errors
    /// When it is not a protected record.
    pub(super) fn length(bytes: &[u8]) -> Result<Option<usize>, RecordError> {
        let Some(&[kind, _, _, high, low]) = bytes.first_chunk::<HEADER>() else { return Ok(None) };
        let length = usize::from(u16::from_be_bytes([high, low]));
        match () {
            () if kind != Content::Data as u8 => Err(RecordError::Unexpected),
            () if length > MAX_SEALED => Err(RecordError::TooLong),
            () if length < TAG => Err(RecordError::Altered),
            () => Ok(Some(HEADER + length)),
        }
    }

    /// How many bytes of room [`Opener::open_into`] needs for a record of this whole length.
    pub(super) fn room(length: usize) -> usize {
        length - HEADER - TAG
    }

    /// Opens `record` into `out`, of exactly [`Opener::room`] bytes. Returns its type and how many bytes of `out` it fills.
    ///
    /// # Errors
    /// When the record was altered; the content of `out` is undefined then.
    pub(super) fn open_into(
        &mut self,
        record: &[u8],
        out: &mut [u8],
    ) -> Result<(Content, usize), RecordError> {
        let (header, sealed) = record.split_at(HEADER);
        let (body, tag) = sealed.split_at(sealed.len() - TAG);
        let nonce = self.0.nonce();
        let opened = self.0.key.open_separate_gather(nonce, Aad::from(header), body, tag, out);
        opened.map_err(|_unspecified| RecordError::Altered)?;
        inner(out)
    }

    /// Opens `record` in place. Returns its type, and how many bytes of content follow the header.
    ///
    /// # Errors
    /// When the record was altered.
    pub(super) fn open_within(&mut self, record: &mut [u8]) -> Result<(Content, usize), RecordError> {
        let (header, sealed) = record.split_at_mut(HEADER);
        let nonce = self.0.nonce();
        let opened = self.0.key.open_in_place(nonce, Aad::from(&*header), sealed);
        inner(opened.map_err(|_unspecified| RecordError::Altered)?)
    }
}

/// The content type, and the length of the content without padding (RFC 8446 §5.4).
fn inner(opened: &[u8]) -> Result<(Content, usize), RecordError> {
    // Padding counts: content, its type and padding are 2^14 + 1 bytes at most.
    if opened.len() > MAX_PLAIN + 1 {
        return Err(RecordError::TooLong);
    }
    let last = opened.iter().rposition(|byte| *byte != 0).ok_or(RecordError::Unexpected)?;
    let content = match opened[last] {
        21 => Content::Alert,
        22 => Content::Handshake,
        23 => Content::Data,
        _ => return Err(RecordError::Unexpected),
    };
    Ok((content, last))
}

#[cfg(test)]
mod tests;
