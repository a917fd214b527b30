//! Header blocks of one connection, one after the other: what is read of them is bounded, and is the same once it was
//! written and read again.

use laneway::h2::hpack::{Decoder, encode};

/// The longest head that is read.
const MOST: usize = 16 * 1024;

/// `data` is blocks, each behind its length in one byte.
pub fn run(mut data: &[u8]) {
    let mut decoder = Decoder::default();
    while let Some((length, rest)) = data.split_first() {
        let (block, rest) = rest.split_at(rest.len().min(usize::from(*length)));
        data = rest;
        let (mut fields, mut written) = (Vec::new(), Vec::new());
        let read = decoder.decode(block, MOST, |name, value| fields.push((name.to_vec(), value.to_vec())));
        let size: usize = fields.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
        assert!(size <= MOST, "{size}");
        if read.is_err() {
            return;
        }
        let mut again = Vec::new();
        for (name, value) in &fields {
            let Ok(name) = std::str::from_utf8(name) else { continue };
            encode(&mut written, name, value);
            again.push((name.as_bytes().to_vec(), value.clone()));
        }
        let mut read = Vec::new();
        Decoder::default()
            .decode(&written, MOST, |name, value| read.push((name.to_vec(), value.to_vec())))
            .expect("what was written can be read");
        assert_eq!(read, again);
    }
}
