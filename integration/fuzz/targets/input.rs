//! How the targets turn bytes into something to work with.

/// Cuts `data` into pieces of 1 to 16 bytes, at positions that its content determines.
pub(super) fn pieces(mut data: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let length = usize::from(*data.first()? % 16) + 1;
        let (piece, rest) = data.split_at(length.min(data.len()));
        data = rest;
        Some(piece)
    })
}

/// The rest of an input that is read as numbers and choices; zeros follow its end.
pub(super) struct Choices<'a>(pub(super) &'a [u8]);

impl Choices<'_> {
    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn array<const N: usize>(&mut self) -> [u8; N] {
        let (taken, rest) = self.0.split_at(N.min(self.0.len()));
        self.0 = rest;
        let mut bytes = [0; N];
        bytes[..taken.len()].copy_from_slice(taken);
        bytes
    }

    pub(super) fn byte(&mut self) -> u8 {
        let [byte] = self.array();
        byte
    }

    pub(super) fn flag(&mut self) -> bool {
        self.byte() & 1 > 0
    }

    pub(super) fn of<T: Copy>(&mut self, all: &[T]) -> T {
        all[usize::from(self.byte()) % all.len()]
    }
}
