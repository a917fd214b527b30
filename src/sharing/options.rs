//! The option of what this node keeps for other members.

use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;

use super::{DIRECTORY, Holdings};
use crate::memory::Budget;
use crate::shared::Unused;
use crate::size::{Size, SizeError};
use crate::sys::files;

/// The default disk space in bytes, at most and at least, and one in this many of the free space.
const DEFAULT: u64 = 4 << 30;
const LEAST: u64 = 64 << 20;
const PART_OF_FREE: u64 = 20;

/// `--peer-cache`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerCache {
    /// Nothing is kept, and nothing is got from other members.
    Off,
    /// At most this many bytes are kept.
    Size(Size),
}

impl FromStr for PeerCache {
    type Err = SizeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "off" { Ok(Self::Off) } else { text.parse().map(Self::Size) }
    }
}

/// Opens what this node keeps in `directory`, unless it is to keep nothing, or the directory cannot be used, which is noted in
/// `unused`: a node works without.
pub fn open(
    option: Option<PeerCache>,
    directory: &Path,
    memory: &Budget,
    unused: &mut Unused,
) -> Option<Arc<Holdings>> {
    let limit = match option {
        Some(PeerCache::Off) => return None,
        Some(PeerCache::Size(size)) => size.0,
        None => {
            let above = directory.parent().unwrap_or(directory);
            let part = files::free_space(above).map_or(DEFAULT, |free| free / PART_OF_FREE);
            part.clamp(LEAST, DEFAULT)
        }
    };
    let opened = Holdings::open(directory, limit, memory);
    unused.note(DIRECTORY, directory, opened.as_ref().map(|holdings| holdings.store()));
    match opened {
        Ok(holdings) => {
            tracing::info!(directory = %directory.display(), limit, "large downloads are kept for other members");
            Some(holdings)
        }
        Err(error) => {
            tracing::warn!(directory = %directory.display(), %error, "no download is kept: the directory cannot be used");
            None
        }
    }
}
