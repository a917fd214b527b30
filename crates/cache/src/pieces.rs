//! The hashes of the pieces of a body, made while it is written.

use laneway_wire::sharing::{PIECE, PieceHash};

/// The hash of one piece of a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its number, from 0.
    pub index: u32,
    /// Its hash.
    pub hash: PieceHash,
}

/// The hash of `bytes`.
#[must_use]
pub fn hash(bytes: &[u8]) -> PieceHash {
    PieceHash(*blake3::hash(bytes).as_bytes())
}

/// Hashes the pieces of a body whose bytes come in order, except for jumps; and names those that it cannot hash, because their
/// beginning or end was stored before.
#[derive(Debug, Default)]
pub(crate) struct Hasher {
    state: blake3::Hasher,
    /// The offset of the next byte.
    at: u64,
    /// All bytes of the current piece before `at` were hashed.
    is_whole: bool,
    done: Vec<Listed>,
    /// The numbers of the pieces that had a hash before, in order.
    known: Vec<u32>,
    /// The first piece that has not been named or found to have a hash.
    next: u64,
}

impl Hasher {
    /// For the bytes from `at` on. The pieces in `known`, which is in order, have a hash.
    pub(crate) fn new(at: u64, known: Vec<u32>) -> Self {
        Self { known, next: at / PIECE, ..Self::default() }
    }

    /// Names the next piece that ends by `end` and has no hash, and its bytes; each one once. The body has `total` bytes.
    pub(crate) fn next_unhashed(&mut self, end: u64, total: u64) -> Option<(u32, (u64, u64))> {
        loop {
            let range = (self.next * PIECE, total.min((self.next + 1) * PIECE));
            let index = u32::try_from(self.next).ok().filter(|_| range.0 < range.1 && range.1 <= end)?;
            self.next += 1;
            let is_done = self.done.iter().rev().any(|listed| listed.index == index);
            if !is_done && self.known.binary_search(&index).is_err() {
                return Some((index, range));
            }
        }
    }

    /// Adds the hash of a piece that [`Hasher::next_unhashed`] has named.
    pub(crate) fn add(&mut self, listed: Listed) {
        self.done.push(listed);
    }

    /// Takes the bytes at this offset.
    pub(crate) fn update(&mut self, at: u64, mut bytes: &[u8]) {
        if at != self.at {
            (self.at, self.is_whole) = (at, false);
        }
        while !bytes.is_empty() {
            let inside = self.at % PIECE;
            if inside == 0 {
                self.state.reset();
                self.is_whole = true;
            }
            let room = usize::try_from(PIECE - inside).unwrap_or(usize::MAX);
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            if self.is_whole {
                self.state.update(now);
            }
            self.at += now.len() as u64;
            if self.at.is_multiple_of(PIECE) {
                self.piece_ended(self.at - PIECE);
            }
            bytes = later;
        }
    }

    /// Takes the end of a body of `total` bytes.
    pub(crate) fn end(&mut self, total: u64) {
        if self.at == total && !total.is_multiple_of(PIECE) {
            self.piece_ended(total - total % PIECE);
        }
    }

    fn piece_ended(&mut self, start: u64) {
        let index = u32::try_from(start / PIECE).ok().filter(|_| std::mem::take(&mut self.is_whole));
        if let Some(index) = index {
            self.done.push(Listed { index, hash: PieceHash(*self.state.finalize().as_bytes()) });
        }
    }

    /// The hashes so far, in the order in which they were made.
    pub(crate) fn done(&self) -> &[Listed] {
        &self.done
    }
}

/// Puts `more` into a list that is in order. Of two hashes of the same piece the new one stays.
pub(crate) fn merge(list: &mut Vec<Listed>, more: &[Listed]) {
    if more.is_empty() {
        return;
    }
    list.retain(|old| more.iter().all(|new| new.index != old.index));
    list.extend_from_slice(more);
    list.sort_unstable_by_key(|listed| listed.index);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn content(length: u64) -> Vec<u8> {
        (0..length).map(|at| u8::try_from(at * 31 % 251).unwrap()).collect()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn pieces_are_hashed_however_the_body_is_cut(sizes in proptest::collection::vec(1_usize..700_000, 1..12)) {
            let total = 3 * PIECE + 4321;
            let all = content(total);
            let (mut hasher, mut at, mut sizes) = (Hasher::default(), 0, sizes.iter().cycle());
            while at < all.len() {
                let end = (at + sizes.next().unwrap()).min(all.len());
                hasher.update(at as u64, &all[at..end]);
                at = end;
            }
            hasher.end(total);
            let expected: Vec<_> = all.chunks(usize::try_from(PIECE).unwrap()).map(hash).collect();
            let found: Vec<_> = hasher.done().iter().map(|listed| listed.hash).collect();
            prop_assert_eq!(found, expected);
        }
    }

    #[test]
    fn a_piece_of_which_the_beginning_is_missing_has_no_hash() {
        let all = content(2 * PIECE);
        let mut hasher = Hasher::default();
        hasher.update(5, &all[5..]);
        assert_eq!(hasher.done(), [Listed { index: 1, hash: hash(&all[all.len() / 2..]) }]);
        hasher.update(0, &all[..7]);
        hasher.end(2 * PIECE);
        assert_eq!(hasher.done().len(), 1);
    }
}
