//! The metadata of stored responses.

use laneway::cache::stored::Stored;

/// `data` is what follows the magic number and the checksum, so that a fuzzer need not find those.
pub fn run(data: &[u8]) {
    let mut file = b"LWcache\x01".to_vec();
    file.extend(crc32fast::hash(data).to_be_bytes());
    file.extend(data);
    let Some(stored) = Stored::decode(&file) else { return };
    assert!(stored.length() <= stored.total);
    assert_eq!(Stored::decode(&stored.encode()), Some(stored));
}
