//! The stored part of a body, read with its checksums.

use std::fs::File;
use std::io;
use std::path::Path;

use bytes::{Bytes, BytesMut};
use laneway_sys::files;

use crate::stored::{BLOCK, BodyPart, Stored};

/// The body of a stored response. It can be read to its end even if the response is removed meanwhile.
#[derive(Debug)]
pub struct Body {
    file: File,
    parts: Vec<BodyPart>,
}

impl Body {
    /// Opens it.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file is shorter than `stored` says.
    pub(crate) fn open(path: &Path, stored: &Stored) -> io::Result<Self> {
        let file = files::open(path)?;
        if file.metadata()?.len() < stored.parts.last().map_or(0, |part| part.end) {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(Self { file, parts: stored.parts.clone() })
    }

    /// The bytes from `start` on, at most up to `end`: the rest of the block in which `start` lies, and at most `blocks`
    /// blocks in all. Each block is verified before anything of it is returned.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file is not what was stored.
    pub fn read(&self, start: u64, end: u64, blocks: u64) -> io::Result<Bytes> {
        read(&self.file, &self.parts, (start, end), blocks)
    }
}

/// The same of any file whose `parts` are known.
pub(crate) fn read(
    file: &File,
    parts: &[BodyPart],
    (start, end): (u64, u64),
    blocks: u64,
) -> io::Result<Bytes> {
    if start >= end {
        return Ok(Bytes::new());
    }
    let part = parts.iter().find(|part| part.start <= start && start < part.end);
    let part = part.ok_or(io::ErrorKind::InvalidData)?;
    let (block, end) = (BLOCK as u64, end.min(part.end) - part.start);
    let start = start - part.start;
    let first = start / block;
    let until = ((first + blocks) * block).min(end.div_ceil(block) * block).min(part.length());
    let as_index = |at: u64| usize::try_from(at).map_err(io::Error::other);
    let mut bytes = BytesMut::zeroed(as_index(until - first * block)?);
    files::read_exact_at(file, &mut bytes, part.start + first * block)?;
    let mut expected = part.checksums.iter().skip(as_index(first)?);
    if !bytes.chunks(BLOCK).all(|piece| expected.next() == Some(&crc32fast::hash(piece))) {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let (from, to) = (start - first * block, end.min(until) - first * block);
    Ok(bytes.freeze().slice(as_index(from)?..as_index(to)?))
}
