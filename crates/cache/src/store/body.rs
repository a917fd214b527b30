//! The stored part of a body, read with its checksums.

use std::fs::File;
use std::io;
use std::ops::Range;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use laneway_sys::{files, net};

use super::layout::open_body;
use crate::digest::{Digest, Hasher};
use crate::stored::{BLOCK, BodyPart, Stored};

/// The body of a stored response. It can be read to its end even if the response is removed meanwhile.
#[derive(Debug)]
pub struct Body(Content);

/// Where it is.
#[derive(Debug)]
enum Content {
    /// These parts of the body in a file, in which the body begins at this offset.
    File(File, u64, Vec<BodyPart>),
    /// All of it in memory.
    Memory(Bytes),
}

impl Body {
    /// Opens it.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file is shorter than `stored` says.
    pub(crate) fn open(directory: &Path, id: u64, stored: &Stored) -> io::Result<Self> {
        let (file, start) = open_body(directory, id)?;
        let file = net::unless_crowded(file)?;
        if file.metadata()?.len() < start + stored.parts.last().map_or(0, |part| part.end) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self(Content::File(file, start, stored.parts.clone())))
    }

    /// A body that is not written yet.
    pub(super) fn in_memory(bytes: Bytes) -> Self {
        Self(Content::Memory(bytes))
    }

    /// The bytes from `start` on, at most up to `end`: the rest of the block in which `start` lies, and at most `blocks`
    /// blocks in all. Each block is verified before anything of it is returned.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file is not what was stored.
    pub fn read(&self, start: u64, end: u64, blocks: u64) -> io::Result<Bytes> {
        match &self.0 {
            Content::File(file, base, parts) => read_from((file, *base), parts, (start, end), blocks),
            Content::Memory(_) if start >= end => Ok(Bytes::new()),
            Content::Memory(bytes) => {
                let most = blocks.saturating_mul(BLOCK as u64);
                let range = as_index(start)?..as_index(end.min(start.saturating_add(most)))?;
                bytes.get(range.clone()).ok_or(io::ErrorKind::UnexpectedEof)?;
                Ok(bytes.slice(range))
            }
        }
    }

    /// The digest of a whole body, by the algorithm of `like`.
    ///
    /// # Errors
    /// Those of [`Body::read`].
    pub fn digest(&self, like: &Digest) -> io::Result<Digest> {
        let (mut hasher, mut at) = (like.hasher(), 0);
        while let Some(next) = self.hash(&mut hasher, at)? {
            at = next;
        }
        Ok(hasher.finish())
    }

    /// Adds the next blocks of a whole body to `hasher`, from `at` on. Returns the offset after them; `None` at the end.
    ///
    /// # Errors
    /// Those of [`Body::read`].
    pub fn hash(&self, hasher: &mut Hasher, at: u64) -> io::Result<Option<u64>> {
        let end = match &self.0 {
            Content::File(_, _, parts) => end_of(parts, at),
            Content::Memory(bytes) => Some(bytes.len() as u64).filter(|end| at < *end),
        };
        let Some(end) = end else { return Ok(None) };
        let bytes = self.read(at, end, AT_A_TIME)?;
        hasher.add(&bytes);
        Ok(Some(at + bytes.len() as u64))
    }

    /// Reads from `start` on into `room`, which has space for at least one block, at most up to `end`. Returns where in it the
    /// bytes are.
    ///
    /// # Errors
    /// Those of [`Body::read`].
    pub fn read_into(&self, (start, end): (u64, u64), room: &mut [u8]) -> io::Result<Range<usize>> {
        let Content::File(file, base, parts) = &self.0 else {
            let bytes = self.read(start, end, (room.len() / BLOCK) as u64)?;
            room.get_mut(..bytes.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(&bytes);
            return Ok(0..bytes.len());
        };
        read_into((file, *base), parts, (start, end), room)
    }
}

/// As [`Body::read_into`], for any file in which the body begins at `base`, and whose `parts` are known.
pub(crate) fn read_into(
    (file, base): (&File, u64),
    parts: &[BodyPart],
    (start, end): (u64, u64),
    room: &mut [u8],
) -> io::Result<Range<usize>> {
    let Blocks { from, to, first, checksums } = blocks(parts, (start, end), (room.len() / BLOCK) as u64)?;
    let (length, range) = (as_index(to - from)?, as_index(start - from)?..as_index(end.min(to) - from)?);
    let room = room.get_mut(..length).ok_or(io::ErrorKind::InvalidInput)?;
    read_verified(file, base + from, room, checksums.get(first..).unwrap_or_default())?;
    Ok(range)
}

/// How many blocks are read at a time to compute a digest.
const AT_A_TIME: u64 = 16;

/// Adds the next blocks of a file, of which these parts are stored, to `hasher`, from `at` on. Returns the offset after them;
/// `None` where no part is stored.
///
/// # Errors
/// Those of [`Body::read`].
pub(crate) fn hash(file: &File, parts: &[BodyPart], hasher: &mut Hasher, at: u64) -> io::Result<Option<u64>> {
    let Some(end) = end_of(parts, at) else { return Ok(None) };
    let bytes = read(file, parts, (at, end), AT_A_TIME)?;
    hasher.add(&bytes);
    Ok(Some(at + bytes.len() as u64))
}

/// The first of these bytes of a file, of which these parts are stored.
///
/// # Errors
/// Those of [`Body::read`].
pub(crate) fn read_blocks(file: &File, parts: &[BodyPart], range: (u64, u64)) -> io::Result<Bytes> {
    read(file, parts, range, AT_A_TIME)
}

/// Where the part ends that contains the byte at `at`.
pub(crate) fn end_of(parts: &[BodyPart], at: u64) -> Option<u64> {
    parts.iter().find(|part| part.start <= at && at < part.end).map(|part| part.end)
}

/// Whole blocks of one part: where the first of them begins, where the last one ends, and their checksums.
struct Blocks<'a> {
    from: u64,
    to: u64,
    first: usize,
    checksums: &'a [u32],
}

/// At most `most` blocks that contain the bytes from `start` on, up to `end`.
fn blocks(parts: &[BodyPart], (start, end): (u64, u64), most: u64) -> io::Result<Blocks<'_>> {
    let part = parts.iter().find(|part| part.start <= start && start < part.end.min(end));
    let part = part.ok_or(io::ErrorKind::InvalidData)?;
    let (block, end) = (BLOCK as u64, end.min(part.end) - part.start);
    let first = (start - part.start) / block;
    let until = ((first + most) * block).min(end.div_ceil(block) * block).min(part.length());
    let (from, to) = (part.start + first * block, part.start + until);
    Ok(Blocks { from, to, first: as_index(first)?, checksums: &part.checksums })
}

fn read_verified(file: &File, at: u64, room: &mut [u8], checksums: &[u32]) -> io::Result<()> {
    files::read_exact_at(file, room, at)?;
    let mut expected = checksums.iter();
    if !room.chunks(BLOCK).all(|piece| expected.next() == Some(&crc32fast::hash(piece))) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    Ok(())
}

fn as_index(at: u64) -> io::Result<usize> {
    usize::try_from(at).map_err(io::Error::other)
}

/// Reads at most `most` blocks of any file whose `parts` are known, into new memory.
fn read(file: &File, parts: &[BodyPart], range: (u64, u64), most: u64) -> io::Result<Bytes> {
    read_from((file, 0), parts, range, most)
}

/// As `read`, for a file in which the body begins at `base`.
fn read_from(
    (file, base): (&File, u64),
    parts: &[BodyPart],
    (start, end): (u64, u64),
    most: u64,
) -> io::Result<Bytes> {
    if start >= end {
        return Ok(Bytes::new());
    }
    let Blocks { from, to, first, checksums } = blocks(parts, (start, end), most)?;
    let mut bytes = BytesMut::zeroed(as_index(to - from)?);
    read_verified(file, base + from, &mut bytes, checksums.get(first..).unwrap_or_default())?;
    Ok(bytes.freeze().slice(as_index(start - from)?..as_index(end.min(to) - from)?))
}
