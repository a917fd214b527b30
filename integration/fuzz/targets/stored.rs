//! The metadata of stored responses.

use laneway::cache::stored::{MAGIC, Stored};

/// `data` is what follows the magic number and the checksum, so that a fuzzer need not find those.
pub fn run(data: &[u8]) {
    let Some(stored) = read(data) else { return };
    assert!(stored.length() <= stored.total);
    assert_eq!(Stored::decode(&stored.encode()), Some(stored));
}

pub(super) fn read(data: &[u8]) -> Option<Stored> {
    let mut file = MAGIC.to_vec();
    file.extend(crc32fast::hash(data).to_be_bytes());
    file.extend(data);
    Stored::decode(&file)
}
