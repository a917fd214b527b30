//! The streams of one connection, by number.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use super::stream::Stream;

/// The streams. Each is stored until both directions have ended and no handle of it is left.
#[derive(Debug, Default)]
pub(super) struct Store(HashMap<u32, Box<Stream>, BuildHasherDefault<StreamIdHasher>>);

impl Store {
    /// Adds a stream.
    pub(super) fn insert(&mut self, id: u32, stream: Stream) {
        self.0.insert(id, Box::new(stream));
    }

    /// Removes a stream.
    pub(super) fn remove(&mut self, id: u32) -> Option<Box<Stream>> {
        self.0.remove(&id)
    }

    /// A stream that may have been removed.
    pub(super) fn get(&self, id: u32) -> Option<&Stream> {
        self.0.get(&id).map(|stream| &**stream)
    }

    /// A stream that may have been removed.
    pub(super) fn get_mut(&mut self, id: u32) -> Option<&mut Stream> {
        self.0.get_mut(&id).map(|stream| &mut **stream)
    }

    /// A stream of which a handle exists, so that it cannot have been removed.
    pub(super) fn held(&mut self, id: u32) -> &mut Stream {
        self.get_mut(id).expect("a stream with a handle is stored")
    }

    /// The numbers of all streams, in no order.
    pub(super) fn ids(&self) -> Vec<u32> {
        self.0.keys().copied().collect()
    }

    /// How many streams there are.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// All streams, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = &Stream> {
        self.0.values().map(|stream| &**stream)
    }

    /// All streams, in no order.
    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Stream> {
        self.0.values_mut().map(|stream| &mut **stream)
    }
}

/// The peer chooses stream numbers only in ascending order, so they need no keyed hash.
#[derive(Debug, Default)]
struct StreamIdHasher(u64);

impl Hasher for StreamIdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0 << 8 | u64::from(*byte);
        }
    }

    fn write_u32(&mut self, id: u32) {
        // All are odd; and the table uses the highest bits, too.
        self.0 = u64::from(id >> 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
}
