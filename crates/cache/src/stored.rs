//! One stored response without its body: what a cache has to remember (RFC 9111 §3), and its form on the disk.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use laneway_wire::http::Fields;
use laneway_wire::sharing::PieceHash;

use crate::digest::{Algorithm, Digest};
use crate::pieces::Listed;

/// The first bytes of each metadata file; the last one is the version of the format.
pub const MAGIC: [u8; 8] = *b"LWcache\x05";
/// The number of bytes of a body that share one checksum.
pub const BLOCK: usize = 64 * 1024;
/// The longest metadata that is read, in bytes: a head of 64 KiB with that of its request, and the checksums and hashes of
/// 64 GiB.
pub const MAX_METADATA: usize = 8 * 1024 * 1024;

/// When a response was asked for and when it came.
#[derive(Clone, Copy, Debug)]
pub struct Times {
    /// When the request was sent.
    pub requested: SystemTime,
    /// When the response was received.
    pub received: SystemTime,
}

/// The memory that one digest takes, in bytes, with what the allocator adds.
const DIGEST_MEMORY: usize = 96;

/// Consecutive bytes of a body.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct BodyPart {
    /// The offset of the first byte.
    pub start: u64,
    /// The offset after the last byte.
    pub end: u64,
    /// The CRC-32 of each block of [`BLOCK`] bytes, counted from `start`; the last block may be shorter.
    pub checksums: Vec<u32>,
}

impl BodyPart {
    /// The number of bytes.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.end - self.start
    }
}

/// A stored response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The URI of the request, in absolute form.
    pub uri: String,
    /// The status code.
    pub status: u16,
    /// The reason phrase.
    pub reason: Vec<u8>,
    /// The fields of the response that are for every recipient, without those that frame its body.
    pub fields: Fields,
    /// The fields of the request that Vary names, with their values (RFC 9111 §4.1). `None` for a field that was absent.
    pub selecting: Vec<(String, Option<Vec<u8>>)>,
    /// When the request was sent.
    pub requested: SystemTime,
    /// When the response was received.
    pub received: SystemTime,
    /// The number of bytes of the body.
    pub total: u64,
    /// The parts of the body that are stored, in order and without overlaps. Not the whole body for an incomplete response (RFC
    /// 9111 §3.3).
    pub parts: Vec<BodyPart>,
    /// The hashes of its pieces that are known, in order; only of a body that is shared in pieces.
    pub pieces: Vec<Listed>,
    /// The digests that the whole body was proved to have, at most one for each algorithm, if indexes have named any. The
    /// response can also be found by these.
    pub digests: Vec<Digest>,
    /// The address that the response came from, for the access rules.
    pub source: Option<SocketAddr>,
}

impl Stored {
    /// A 200 of which only the body matters, of `total` bytes: it has no fields, and nothing of the body is stored yet.
    #[must_use]
    pub fn of_body(uri: String, total: u64, received: SystemTime) -> Self {
        Self {
            uri,
            status: 200,
            reason: b"OK".to_vec(),
            fields: Fields::default(),
            selecting: Vec::new(),
            requested: received,
            received,
            total,
            parts: Vec::new(),
            pieces: Vec::new(),
            digests: Vec::new(),
            source: None,
        }
    }

    /// Whether the whole body is stored.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.has(0, self.total)
    }

    /// Whether these bytes are stored: the first one, and the one after the last.
    #[must_use]
    pub fn has(&self, start: u64, end: u64) -> bool {
        self.reach(start) >= end
    }

    /// The offset of the first byte from `start` on that is not stored.
    #[must_use]
    pub fn reach(&self, start: u64) -> u64 {
        let parts = self.parts.iter();
        parts.fold(start, |at, part| if part.start <= at && at < part.end { part.end } else { at })
    }

    /// The offset from which the bytes are stored without a gap up to `end`.
    #[must_use]
    pub fn reach_back(&self, end: u64) -> u64 {
        let parts = self.parts.iter().rev();
        parts.fold(end, |at, part| if part.start < at && at <= part.end { part.start } else { at })
    }

    /// The offset at which the next stored part after `start` begins; the end of the body if there is none.
    #[must_use]
    pub fn next_part(&self, start: u64) -> u64 {
        self.parts.iter().map(|part| part.start).find(|next| *next > start).unwrap_or(self.total)
    }

    /// The number of bytes of the body that are stored.
    #[must_use]
    pub fn length(&self) -> u64 {
        self.parts.iter().map(BodyPart::length).sum()
    }

    /// The digest by this algorithm that the whole body was proved to have.
    #[must_use]
    pub fn digest(&self, algorithm: Algorithm) -> Option<&Digest> {
        self.digests.iter().find(|digest| digest.algorithm == algorithm)
    }

    /// Whether the whole body was proved to have any digest.
    #[must_use]
    pub fn is_proved(&self) -> bool {
        !self.digests.is_empty()
    }

    /// The memory that it takes, in bytes.
    #[must_use]
    pub fn memory(&self) -> usize {
        let checksums: usize = self.parts.iter().map(|part| 4 * part.checksums.len() + 48).sum();
        let selecting: usize =
            self.selecting.iter().map(|(name, value)| name.len() + value.as_ref().map_or(0, Vec::len)).sum();
        size_of::<Self>()
            + self.uri.len()
            + self.fields.memory()
            + selecting
            + checksums
            + size_of_val(&*self.pieces)
            + DIGEST_MEMORY * self.digests.len()
    }

    /// When it was asked for and when it arrived.
    #[must_use]
    pub fn times(&self) -> Times {
        Times { requested: self.requested, received: self.received }
    }

    /// The bytes of a metadata file.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut out = MAGIC.to_vec();
        out.extend([0; 4]);
        bytes(&mut out, self.uri.as_bytes());
        bytes(&mut out, self.source.map(|source| source.to_string()).unwrap_or_default().as_bytes());
        out.extend(self.status.to_be_bytes());
        bytes(&mut out, &self.reason);
        count(&mut out, self.fields.len());
        for (name, value) in self.fields.iter() {
            bytes(&mut out, name);
            bytes(&mut out, value);
        }
        count(&mut out, self.selecting.len());
        for (name, value) in &self.selecting {
            bytes(&mut out, name.as_bytes());
            out.push(u8::from(value.is_some()));
            bytes(&mut out, value.as_deref().unwrap_or_default());
        }
        for time in [self.requested, self.received] {
            let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
            out.extend(u64::try_from(since.as_millis()).unwrap_or(u64::MAX).to_be_bytes());
        }
        out.extend(self.total.to_be_bytes());
        count(&mut out, self.parts.len());
        for part in &self.parts {
            out.extend(part.start.to_be_bytes());
            out.extend(part.end.to_be_bytes());
            part.checksums.iter().for_each(|sum| out.extend(sum.to_be_bytes()));
        }
        count(&mut out, self.pieces.len());
        for Listed { index, hash } in &self.pieces {
            out.extend(index.to_be_bytes());
            out.extend(hash.0);
        }
        count(&mut out, self.digests.len());
        self.digests.iter().for_each(|digest| bytes(&mut out, digest.shown().as_bytes()));
        let checksum = crc32fast::hash(&out[MAGIC.len() + 4..]);
        out[MAGIC.len()..MAGIC.len() + 4].copy_from_slice(&checksum.to_be_bytes());
        out
    }

    /// Reads the bytes of a metadata file; `None` when they are damaged, or of another version.
    #[must_use]
    pub fn decode(file: &[u8]) -> Option<Self> {
        let rest = file.strip_prefix(&MAGIC)?;
        let (checksum, rest) = rest.split_first_chunk::<4>()?;
        if crc32fast::hash(rest) != u32::from_be_bytes(*checksum) {
            return None;
        }
        let mut reader = Reader(rest);
        let stored = reader.stored()?;
        reader.0.is_empty().then_some(stored)
    }
}

/// Writes a number of things, or of bytes.
fn count(out: &mut Vec<u8>, count: usize) {
    out.extend(u32::try_from(count).unwrap_or(u32::MAX).to_be_bytes());
}

fn bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    count(out, bytes.len());
    out.extend_from_slice(bytes);
}

/// What is left to be read.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn stored(&mut self) -> Option<Stored> {
        let uri = self.text()?;
        let source = match self.text()?.as_str() {
            "" => None,
            address => Some(address.parse().ok()?),
        };
        let status = self.array().map(u16::from_be_bytes).filter(|status| (200..1000).contains(status))?;
        let reason = self.bytes()?.to_vec();
        let mut fields = Fields::default();
        for _ in 0..self.count()? {
            let (name, value) = (self.bytes()?, self.bytes()?);
            fields.push(str::from_utf8(name).ok()?, value).ok()?;
        }
        // Earlier versions stored a cookie that came with a 304 for one app.
        if fields.get("set-cookie").is_some() {
            return None;
        }
        let mut selecting = Vec::new();
        for _ in 0..self.count()? {
            let (name, [is_present], value) = (self.text()?, self.array()?, self.bytes()?.to_vec());
            selecting.push((name, (is_present != 0).then_some(value)));
        }
        let (requested, received) = (self.time()?, self.time()?);
        let (total, count) = (self.number()?, self.count()?);
        let mut parts: Vec<BodyPart> = Vec::new();
        for _ in 0..count {
            let part = self.part(parts.last().map_or(0, |before| before.end), total)?;
            parts.push(part);
        }
        let mut pieces = Vec::new();
        for _ in 0..self.count()? {
            pieces.push(Listed { index: self.count()?, hash: PieceHash(self.array()?) });
        }
        let mut digests: Vec<Digest> = Vec::new();
        for _ in 0..self.count()? {
            let digest = Digest::parse(&self.text()?)?;
            if digests.iter().any(|known| known.algorithm == digest.algorithm) {
                return None;
            }
            digests.push(digest);
        }
        Some(Stored {
            uri,
            status,
            reason,
            fields,
            selecting,
            requested,
            received,
            total,
            parts,
            pieces,
            digests,
            source,
        })
    }

    /// A part of the body that does not begin before `least` and does not end after `total`.
    fn part(&mut self, least: u64, total: u64) -> Option<BodyPart> {
        let (start, end) = (self.number()?, self.number()?);
        if start < least || start >= end || end > total {
            return None;
        }
        let mut checksums = Vec::new();
        for _ in 0..(end - start).div_ceil(BLOCK as u64) {
            checksums.push(u32::from_be_bytes(self.array()?));
        }
        Some(BodyPart { start, end, checksums })
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (array, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*array)
    }

    fn count(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    fn number(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    fn time(&mut self) -> Option<SystemTime> {
        UNIX_EPOCH.checked_add(Duration::from_millis(self.number()?))
    }

    fn bytes(&mut self) -> Option<&'a [u8]> {
        let count = usize::try_from(self.count()?).ok()?;
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn text(&mut self) -> Option<String> {
        self.bytes().and_then(|bytes| String::from_utf8(bytes.to_vec()).ok())
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn test_digest((algorithm, digits): (&str, usize)) -> Digest {
        Digest::parse(&format!("{algorithm}:{}", "7".repeat(digits))).unwrap()
    }

    pub(crate) fn example() -> Stored {
        let mut fields = Fields::default();
        fields.push("Cache-Control", b"max-age=60").unwrap();
        fields.push("ETag", b"\"a\"").unwrap();
        Stored {
            uri: "http://h/f".into(),
            status: 200,
            reason: b"OK".to_vec(),
            fields,
            selecting: vec![("accept".into(), None), ("accept-language".into(), Some(b"de".to_vec()))],
            requested: UNIX_EPOCH + Duration::from_secs(1_000),
            received: UNIX_EPOCH + Duration::from_secs(1_001),
            total: 3,
            parts: vec![BodyPart { start: 0, end: 3, checksums: vec![crc32fast::hash(b"abc")] }],
            pieces: vec![Listed { index: 0, hash: PieceHash([7; 32]) }],
            digests: ["sha256", "sha512"].into_iter().zip([64, 128]).map(test_digest).collect(),
            source: "192.0.2.1:80".parse().ok(),
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let stored = example();
        assert_eq!(Stored::decode(&stored.encode()), Some(stored));
    }

    #[test]
    fn a_response_with_a_cookie_is_not_read() {
        let mut stored = example();
        stored.fields.push("Set-Cookie", b"a=b").unwrap();
        assert_eq!(Stored::decode(&stored.encode()), None);
    }

    #[test]
    fn parts_are_read_back_and_say_what_is_there() {
        let part = |start: u64, end: u64| BodyPart { start, end, checksums: vec![7] };
        let stored = Stored { total: 20, parts: vec![part(2, 5), part(5, 9), part(12, 20)], ..example() };
        assert_eq!(Stored::decode(&stored.encode()), Some(stored.clone()));
        assert_eq!([0, 2, 4, 9, 12].map(|at| stored.reach(at)), [0, 9, 9, 9, 20]);
        assert_eq!([2, 3, 9, 10, 20].map(|end| stored.reach_back(end)), [2, 2, 2, 10, 12]);
        assert_eq!([0, 2, 9, 12].map(|at| stored.next_part(at)), [2, 5, 12, 20]);
        assert_eq!(stored.length(), 15);
        assert!(stored.has(3, 9) && !stored.has(3, 10) && !stored.is_complete());
        for parts in
            [vec![part(2, 5), part(4, 6)], vec![part(5, 5)], vec![part(12, 21)], vec![part(5, 9), part(2, 5)]]
        {
            assert_eq!(Stored::decode(&Stored { parts, ..stored.clone() }.encode()), None);
        }
    }

    #[test]
    fn no_flipped_bit_and_no_cut_is_read() {
        let whole = example().encode();
        for at in 0..whole.len() * 8 {
            let mut flipped = whole.clone();
            flipped[at / 8] ^= 1 << (at % 8);
            assert_eq!(Stored::decode(&flipped), None, "bit {at}");
        }
        for length in 0..whole.len() {
            assert_eq!(Stored::decode(&whole[..length]), None, "cut at {length}");
        }
    }

    proptest! {
        /// With a correct checksum, so that everything behind it is reached.
        #[test]
        fn arbitrary_bytes_never_panic(rest in proptest::collection::vec(any::<u8>(), 0..200)) {
            let mut file = MAGIC.to_vec();
            file.extend(crc32fast::hash(&rest).to_be_bytes());
            file.extend(rest);
            if let Some(stored) = Stored::decode(&file) {
                prop_assert!(stored.length() <= stored.total);
            }
        }
    }
}
