//! Data that reveals its own position.

use super::CHUNK;
use std::sync::LazyLock;

/// A prime, so that no buffer size of a power of two hides a missing or duplicated block.
const PERIOD: usize = 251;

static PATTERN: LazyLock<Vec<u8>> = LazyLock::new(|| (0..=250_u8).cycle().take(CHUNK + PERIOD).collect());

/// Up to a [`CHUNK`] of the pattern from this position on.
pub(crate) fn from(position: u64) -> &'static [u8] {
    let start = usize::try_from(position % PERIOD as u64).expect("less than the period");
    &PATTERN[start..start + CHUNK]
}

/// Whether these bytes are the pattern's from this position on.
pub(crate) fn is(position: u64, bytes: &[u8]) -> bool {
    bytes
        .chunks(CHUNK)
        .scan(position, |at, chunk| {
            let expected = &from(*at)[..chunk.len()];
            *at += chunk.len() as u64;
            Some(chunk == expected)
        })
        .all(|same| same)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shifted_block_is_noticed() {
        assert!(is(0, from(0)));
        assert!(is(70_000, &from(70_000)[..5000]));
        for shift in [1, 4096, 16_384, 65_536, 131_072] {
            assert!(!is(shift, from(0)), "{shift}");
        }
    }
}
