//! A body that is being written: a new one, or the missing parts of an incomplete one.

use std::fs::File;
use std::sync::Arc;
use std::{io, slice};

use bytes::{Bytes, BytesMut};
use laneway_wire::sharing::{PIECE, PieceHash};

use crate::digest::{Digest, Hasher};
use crate::pieces::{self, Listed};
use crate::store::{MAX_SMALL, Room, Store, end_of, hash_body, read_blocks};
use crate::stored::{BLOCK, BodyPart, Stored};

/// Maximum number of parts of one body; if there are more, the smallest are not stored. Clients that download a file over
/// several gateways ask each of them for every other MiB or so.
const MOST_PARTS: usize = 256;

/// The body is not the file that its index names. Nothing of it is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it is not the file that its index names")]
pub struct WrongFile;

impl WrongFile {
    /// Whether `error` says that a body was the wrong file.
    #[must_use]
    pub fn is(error: &io::Error) -> bool {
        error.get_ref().is_some_and(|source| source.is::<Self>())
    }
}

/// What a body must hash to, and how far it was hashed.
#[derive(Debug)]
struct Check {
    digest: Digest,
    hasher: Hasher,
    /// The offset of the next byte.
    at: u64,
}

/// Where the bytes are.
#[derive(Debug)]
enum Place {
    File(Arc<File>),
    /// In memory taken for them, as long as they are the whole body and few.
    Memory(BytesMut, Room),
}

/// A body that is being written. A new one is removed unless it is stored.
// fields: where its bytes go, what was written, and what is computed of that
#[derive(Debug)]
pub struct Draft {
    store: Arc<Store>,
    id: u64,
    place: Place,
    /// What was stored before.
    before: Vec<BodyPart>,
    /// The finished parts.
    written: Vec<BodyPart>,
    /// The part that is being written, and the checksum of its last block.
    part: BodyPart,
    block: crc32fast::Hasher,
    /// The numbers of the pieces whose hashes were stored before, in order.
    hashed: Vec<u32>,
    /// Hashes its pieces, if they are wanted.
    pieces: Option<Box<pieces::Hasher>>,
    /// What it must hash to, if that is known.
    check: Option<Box<Check>>,
    /// The bytes that were written.
    grown: u64,
    /// The number of withdrawals when this draft began.
    since: u64,
    is_new: bool,
    is_stored: bool,
}

impl Draft {
    /// A new body.
    ///
    /// # Errors
    /// The system's.
    pub fn new(store: &Arc<Store>) -> io::Result<Self> {
        let id = store.new_id();
        let file = store.create(id)?;
        Ok(Self::with(store, id, Place::File(Arc::new(file)), Vec::new(), true))
    }

    /// A new body that is kept in memory if it turns out to be small. Its bytes must come from the first one on.
    #[must_use]
    pub fn small(store: &Arc<Store>, room: Room) -> Self {
        Self::with(store, store.new_id(), Place::Memory(BytesMut::new(), room), Vec::new(), true)
    }

    /// The missing parts of the body of the response `id`.
    ///
    /// # Errors
    /// The system's, as when the response was removed meanwhile.
    pub fn of(store: &Arc<Store>, id: u64, stored: &Stored) -> io::Result<Self> {
        let file = store.reopen(id)?;
        let mut draft = Self::with(store, id, Place::File(Arc::new(file)), stored.parts.clone(), false);
        draft.hashed = stored.pieces.iter().map(|listed| listed.index).collect();
        Ok(draft)
    }

    fn with(store: &Arc<Store>, id: u64, place: Place, before: Vec<BodyPart>, is_new: bool) -> Self {
        Self {
            store: store.clone(),
            id,
            place,
            before,
            written: Vec::new(),
            part: BodyPart::default(),
            block: crc32fast::Hasher::new(),
            hashed: Vec::new(),
            pieces: None,
            check: None,
            grown: 0,
            since: store.withdrawn(),
            is_new,
            is_stored: false,
        }
    }

    /// Hashes the pieces of the body from the next byte on.
    pub fn hash_pieces(&mut self) {
        let hasher = pieces::Hasher::new(self.at(), std::mem::take(&mut self.hashed));
        self.pieces.get_or_insert_with(|| Box::new(hasher));
    }

    /// Stores the whole body only if it has this digest.
    pub fn check(&mut self, digest: Digest) {
        let hasher = digest.hasher();
        self.check = Some(Box::new(Check { digest, hasher, at: 0 }));
    }

    /// Whether bytes stored before this draft may still have to be hashed.
    #[must_use]
    pub fn is_behind(&self) -> bool {
        let is_digest_behind = self.check.as_ref().is_some_and(|check| check.at != self.at());
        is_digest_behind || self.pieces.is_some() && !self.before.is_empty()
    }

    /// Once everything is written: hashes some of the bytes stored before this draft, so that [`Draft::store`] does not have to
    /// hash all of them at once. False when nothing is left to hash. The body has `total` bytes.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::InvalidData`] when the file is not what was stored.
    pub fn hash_more(&mut self, total: u64) -> io::Result<bool> {
        self.seek(self.at());
        self.end_pieces(total);
        if self.hash_piece(self.at().next_multiple_of(PIECE).min(total), total) {
            return Ok(true);
        }
        let Place::File(file) = &self.place else { return Ok(false) };
        let Some(Check { hasher, at, .. }) = self.check.as_deref_mut() else { return Ok(false) };
        for parts in [&self.written, &self.before] {
            if let Some(next) = hash_body(file, parts, hasher, *at)? {
                *at = next;
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Hashes from the file one of the pieces up to `end` that were partly written before this draft. False when there are no
    /// more. The body has `total` bytes.
    fn hash_piece(&mut self, end: u64, total: u64) -> bool {
        let has_more = !self.before.is_empty();
        let Some(mut hasher) = self.pieces.take_if(|_| has_more) else { return false };
        let next = hasher.next_unhashed(end, total);
        if let Some((index, range)) = next
            && let Ok(hash) = self.hash_range(range)
        {
            hasher.add(Listed { index, hash });
        }
        self.pieces = Some(hasher);
        next.is_some()
    }

    /// The hash of these bytes, which are read from the file.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::NotFound`] when some of them were not written.
    fn hash_range(&self, (start, end): (u64, u64)) -> io::Result<PieceHash> {
        let file = self.file().ok_or(io::ErrorKind::NotFound)?;
        let (mut hasher, mut at) = (blake3::Hasher::new(), start);
        // Of the part that is being written, only whole blocks have a checksum.
        let reach = self.part.start + (self.part.checksums.len() * BLOCK) as u64;
        let stored = [&self.before[..], &self.written];
        while at < end {
            let part = stored.iter().find_map(|parts| Some((*parts, end_of(parts, at)?)));
            let part = part
                .or((self.part.start <= at && at < reach).then_some((slice::from_ref(&self.part), reach)));
            let (parts, until) = part.ok_or(io::ErrorKind::NotFound)?;
            let bytes = read_blocks(file, parts, (at, until.min(end)))?;
            hasher.update(&bytes);
            at += bytes.len() as u64;
        }
        Ok(PieceHash(*hasher.finalize().as_bytes()))
    }

    /// Hashes the last piece of a body of `total` bytes, all of which was written.
    pub fn end_pieces(&mut self, total: u64) {
        if let Some(pieces) = &mut self.pieces {
            pieces.end(total);
        }
    }

    /// The pieces that were hashed, without the first `from` of them.
    #[must_use]
    pub fn listed(&self, from: usize) -> &[Listed] {
        let done = self.pieces.as_ref().map_or(&[][..], |pieces| pieces.done());
        done.get(from..).unwrap_or_default()
    }

    /// The id of the response.
    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The file, to read what was written; `None` while that is in memory.
    #[must_use]
    pub fn file(&self) -> Option<&Arc<File>> {
        match &self.place {
            Place::File(file) => Some(file),
            Place::Memory(..) => None,
        }
    }

    /// Whether `count` more bytes are kept in memory, so that [`Draft::append`] does not block.
    #[must_use]
    pub fn has_memory_for(&self, count: usize) -> bool {
        matches!(&self.place, Place::Memory(held, _) if held.len() + count <= MAX_SMALL)
    }

    /// What was stored before this.
    #[must_use]
    pub fn before(&self) -> &[BodyPart] {
        &self.before
    }

    /// The offset of the next byte.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.part.end
    }

    /// Whether anything was written.
    #[must_use]
    pub fn has_grown(&self) -> bool {
        self.grown > 0 || self.part.length() > 0
    }

    /// The offset at which the part that is being written begins.
    pub(crate) fn start(&self) -> u64 {
        self.part.start
    }

    /// The checksums of the finished blocks of that part, from block `first` on.
    pub(crate) fn checksums(&self, first: usize) -> &[u32] {
        self.part.checksums.get(first..).unwrap_or_default()
    }

    /// Goes on at another offset. Returns the part that ends here, if it has any bytes.
    pub fn seek(&mut self, at: u64) -> Option<BodyPart> {
        let part = std::mem::replace(&mut self.part, BodyPart { start: at, end: at, checksums: Vec::new() });
        let part = self.finish(part)?;
        self.written.push(part.clone());
        Some(part)
    }

    /// The part with the checksum of its last block.
    fn finish(&mut self, mut part: BodyPart) -> Option<BodyPart> {
        let block = std::mem::take(&mut self.block);
        if !part.length().is_multiple_of(BLOCK as u64) {
            part.checksums.push(block.finalize());
        }
        (part.length() > 0).then_some(part)
    }

    /// Writes the next bytes.
    ///
    /// # Errors
    /// The system's; [`io::ErrorKind::StorageFull`] when this body alone takes more than half of the store.
    pub fn append(&mut self, bytes: &[u8]) -> io::Result<()> {
        let fits = self.has_memory_for(bytes.len());
        match &mut self.place {
            Place::Memory(held, _) if fits => held.extend_from_slice(bytes),
            _ => {
                let file = self.ensure_file()?;
                self.write(&file, bytes, self.part.end)?;
            }
        }
        if let Some(pieces) = &mut self.pieces {
            pieces.update(self.part.end, bytes);
        }
        if let Some(check) = self.check.as_deref_mut().filter(|check| check.at == self.part.end) {
            check.hasher.add(bytes);
            check.at += bytes.len() as u64;
        }
        let mut rest = bytes;
        while !rest.is_empty() {
            let room = BLOCK - self.in_block();
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.block.update(now);
            self.part.end += now.len() as u64;
            if self.in_block() == 0 {
                self.part.checksums.push(std::mem::take(&mut self.block).finalize());
            }
            rest = later;
        }
        // One at a time: whoever reads the body waits meanwhile.
        self.hash_piece(self.part.start + (self.part.checksums.len() * BLOCK) as u64, u64::MAX);
        Ok(())
    }

    /// The file. What is in memory is written to it first.
    fn ensure_file(&mut self) -> io::Result<Arc<File>> {
        let held = match &mut self.place {
            Place::File(file) => return Ok(file.clone()),
            Place::Memory(held, _) => std::mem::take(held),
        };
        let file = Arc::new(self.store.create(self.id)?);
        self.place = Place::File(file.clone());
        self.write(&file, &held, 0)?;
        Ok(file)
    }

    fn write(&mut self, file: &File, bytes: &[u8], at: u64) -> io::Result<()> {
        if !self.store.admits(self.grown + bytes.len() as u64) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.store.grow(bytes.len() as u64)?;
        if let Err(error) = self.store.write_to(file, bytes, at) {
            self.store.shrink(bytes.len() as u64);
            return Err(error);
        }
        self.grown += bytes.len() as u64;
        Ok(())
    }

    /// The bytes of the last block.
    fn in_block(&self) -> usize {
        usize::try_from(self.part.length() % BLOCK as u64).unwrap_or(0)
    }

    /// Stores the response that this body belongs to: `stored`, with the parts that were written. Returns its id and what was
    /// stored.
    ///
    /// # Errors
    /// The system's; nothing is stored then. [`io::ErrorKind::NotFound`] when the response to complete was removed meanwhile;
    /// [`WrongFile`] when the body does not have the expected digest.
    pub fn store(mut self, mut stored: Stored) -> io::Result<(u64, Stored)> {
        if self.since != self.store.withdrawn() {
            return Err(io::ErrorKind::NotFound.into());
        }
        self.seek(0);
        stored.parts = std::mem::take(&mut self.written);
        let mut others = std::mem::take(&mut self.before);
        if !self.is_new {
            // Another draft may have added parts to it meanwhile.
            let now = self.store.stored(self.id).ok_or(io::ErrorKind::NotFound)?;
            others.extend(now.parts);
        }
        for part in others {
            let is_apart = |other: &BodyPart| other.end <= part.start || part.end <= other.start;
            if stored.parts.iter().all(is_apart) {
                stored.parts.push(part);
            }
        }
        stored.parts.retain(|part| part.end <= stored.total);
        stored.parts = joined(stored.parts);
        if stored.parts.len() > MOST_PARTS {
            stored.parts.sort_unstable_by_key(|part| std::cmp::Reverse(part.length()));
            stored.parts.truncate(MOST_PARTS);
            stored.parts.sort_unstable_by_key(|part| part.start);
        }
        if let Some(hasher) = &mut self.pieces {
            hasher.end(stored.total);
            pieces::merge(&mut stored.pieces, hasher.done());
        }
        stored.digests = self.proved(&stored)?.into_iter().collect();
        if let Place::Memory(held, room) = &mut self.place
            && stored.is_complete()
        {
            let (body, room) = (Bytes::from(std::mem::take(held).to_vec()), room.take());
            self.store.put(self.id, &stored, body, room);
            self.is_stored = true;
            return Ok((self.id, stored));
        }
        self.ensure_file()?;
        let room = (std::mem::take(&mut self.grown), self.since);
        self.store.complete(self.id, &stored, self.is_new, room)?;
        self.is_stored = true;
        Ok((self.id, stored))
    }

    /// The expected digest of the whole body, if it has it.
    fn proved(&mut self, stored: &Stored) -> io::Result<Option<Digest>> {
        let check = self.check.take().filter(|_| stored.is_complete());
        let Some(Check { digest, mut hasher, mut at }) = check.map(|check| *check) else { return Ok(None) };
        if let Place::File(file) = &self.place {
            // Does nothing, unless bytes stored before this draft are not hashed yet.
            while let Some(next) = hash_body(file, &stored.parts, &mut hasher, at)? {
                at = next;
            }
        }
        if digest.is_of(hasher) {
            return Ok(Some(digest));
        }
        if !self.is_new {
            self.store.remove(self.id);
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, WrongFile))
    }
}

/// The parts in order. Two adjacent parts become one if the first ends with a whole block: the blocks, and so the checksums,
/// stay the same.
fn joined(mut parts: Vec<BodyPart>) -> Vec<BodyPart> {
    parts.sort_unstable_by_key(|part| part.start);
    let mut joined: Vec<BodyPart> = Vec::new();
    for part in parts {
        match joined.last_mut() {
            Some(before) if before.end == part.start && before.length().is_multiple_of(BLOCK as u64) => {
                before.end = part.end;
                before.checksums.extend(part.checksums);
            }
            _ => joined.push(part),
        }
    }
    joined
}

impl Drop for Draft {
    fn drop(&mut self) {
        self.store.shrink(self.grown);
        if self.is_stored {
            return;
        }
        if let Place::File(file) = &self.place {
            // Removing and closing it may take the disk a while.
            let (id, is_new, file) = (self.id, self.is_new, file.clone());
            self.store.later(move |store| {
                if is_new {
                    store.discard(id);
                }
                drop(file);
            });
        }
    }
}
