//! Digests of files, as the indexes of registries name them, and as the store proves them.

use std::fmt::Write as _;

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

/// The algorithm of a digest. The strongest comes last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-1, the only digest of old npm packages: it detects damage, but not an attacker who made two files with one digest.
    Sha1,
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
    /// SHA-512.
    Sha512,
}

/// What the bytes of a file must hash to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Digest {
    /// By which algorithm.
    pub algorithm: Algorithm,
    bytes: Box<[u8]>,
}

/// Computes a digest.
pub struct Hasher {
    algorithm: Algorithm,
    context: digest::Context,
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Hasher").field("algorithm", &self.algorithm).finish_non_exhaustive()
    }
}

impl Algorithm {
    /// The algorithm with this name, in lower case.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        match name {
            "sha1" => Some(Self::Sha1),
            "sha256" => Some(Self::Sha256),
            "sha384" => Some(Self::Sha384),
            "sha512" => Some(Self::Sha512),
            _ => None,
        }
    }

    fn provider(self) -> &'static digest::Algorithm {
        match self {
            Self::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
            Self::Sha256 => &digest::SHA256,
            Self::Sha384 => &digest::SHA384,
            Self::Sha512 => &digest::SHA512,
        }
    }
}

impl Digest {
    /// From hexadecimal digits.
    #[must_use]
    pub fn from_hex(algorithm: Algorithm, hex: &str) -> Option<Self> {
        if hex.len() != 2 * algorithm.provider().output_len() {
            return None;
        }
        let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok());
        let pairs = hex.as_bytes().chunks(2);
        let bytes =
            pairs.map(|pair| Some(digit(pair[0])? * 16 + digit(pair[1])?)).collect::<Option<Box<[u8]>>>()?;
        Some(Self { algorithm, bytes })
    }

    /// From `ALGORITHM=HEX` (PEP 503).
    #[must_use]
    pub fn from_assignment(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once('=')?;
        Self::from_hex(Algorithm::of(algorithm)?, hex)
    }

    /// The strongest of `ALGORITHM-BASE64`, separated by white space (Subresource Integrity §3.5).
    #[must_use]
    pub fn from_integrity(text: &str) -> Option<Self> {
        let one = |text: &str| {
            let (algorithm, value) = text.split('?').next()?.split_once('-')?;
            let algorithm = Algorithm::of(algorithm)?;
            let bytes = STANDARD
                .decode(value)
                .ok()
                .filter(|bytes| bytes.len() == algorithm.provider().output_len())?;
            Some(Self { algorithm, bytes: bytes.into() })
        };
        text.split_ascii_whitespace().filter_map(one).max_by_key(|digest| digest.algorithm)
    }

    /// Parses `ALGORITHM:HEX`, which [`Digest::shown`] writes.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (algorithm, hex) = text.split_once(':')?;
        Self::from_hex(Algorithm::of(algorithm)?, hex)
    }

    /// Whether its algorithm is collision-resistant, so that the digest alone may identify content.
    #[must_use]
    pub fn is_strong(&self) -> bool {
        self.algorithm != Algorithm::Sha1
    }

    /// `ALGORITHM:HEX`.
    #[must_use]
    pub fn shown(&self) -> String {
        let mut text = match self.algorithm {
            Algorithm::Sha1 => "sha1:",
            Algorithm::Sha256 => "sha256:",
            Algorithm::Sha384 => "sha384:",
            Algorithm::Sha512 => "sha512:",
        }
        .to_owned();
        for byte in &self.bytes {
            write!(text, "{byte:02x}").expect("a string grows");
        }
        text
    }

    /// Begins to check a file.
    #[must_use]
    pub fn hasher(&self) -> Hasher {
        Hasher { algorithm: self.algorithm, context: digest::Context::new(self.algorithm.provider()) }
    }

    /// Whether the bytes that went into `hasher` are the file.
    #[must_use]
    pub fn is_of(&self, hasher: Hasher) -> bool {
        hasher.finish() == *self
    }
}

impl Hasher {
    /// Adds bytes of the file.
    pub fn add(&mut self, bytes: &[u8]) {
        self.context.update(bytes);
    }

    /// The digest of what was added.
    #[must_use]
    pub fn finish(self) -> Digest {
        Digest { algorithm: self.algorithm, bytes: self.context.finish().as_ref().into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The digests of "abc" (FIPS 180-4).
    const SHA256: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    const SHA1: &str = "a9993e364706816aba3e25717850c26c9cd0d89d";

    #[test]
    fn a_digest_is_of_its_file_alone() {
        for digest in [
            Digest::from_assignment(&format!("sha256={SHA256}")).unwrap(),
            Digest::from_hex(Algorithm::Sha1, SHA1).unwrap(),
            Digest::from_integrity("sha256-ungWv48Bz+pBQUDeXa4iI7ADYaOWF3qctBD/YfIAFa0=").unwrap(),
        ] {
            assert_eq!(Digest::parse(&digest.shown()), Some(digest.clone()));
            for (bytes, is_file) in [(&b"abc"[..], true), (b"abd", false), (b"", false)] {
                let mut hasher = digest.hasher();
                hasher.add(bytes);
                assert_eq!(digest.is_of(hasher), is_file, "{}", digest.shown());
            }
        }
    }

    #[test]
    fn the_strongest_known_digest_of_an_integrity_counts() {
        let sha1 = format!("sha1-{}", STANDARD.encode([0; 20]));
        let sha512 = format!("sha512-{}", STANDARD.encode([0; 64]));
        let of = |text: &str| Digest::from_integrity(text).map(|digest| digest.algorithm);
        assert_eq!(of(&format!("{sha1} {sha512} md5-x")), Some(Algorithm::Sha512));
        assert_eq!(of(&sha1), Some(Algorithm::Sha1));
        for text in ["", "sha512-", "sha512-AAAA", "md5-AAAA", "sha256"] {
            assert_eq!(of(text), None, "{text}");
        }
        for text in ["sha256=", "sha256=zz", "md5=00", "sha256"] {
            assert_eq!(Digest::from_assignment(text), None, "{text}");
        }
    }
}
