//! Header fields as HTTP/2 carries them (HPACK, RFC 7541). What is sent refers to the static table only, so that it
//! needs no state; what is received may use all of the RFC.

mod tables;

use std::collections::VecDeque;

use tables::{CODE_LENGTHS, STATIC};

/// The size of the dynamic table, as the RFC counts it: the default, so that no setting is needed.
pub(super) const TABLE_SIZE: usize = 4096;
/// Precedes a header block: from here on the encoder's table has the size 0 (RFC 7541 §6.3).
pub(super) const NO_TABLE: u8 = 0x20;
/// What an entry counts for beside its bytes (RFC 7541 §4.1).
const ENTRY: usize = 32;
/// The most bytes of an integer (RFC 7541 §5.1) that are read: 28 bits are more than any length here.
const LONGEST_INTEGER: usize = 5;
/// The longest code, in bits.
const LONGEST_CODE: usize = 30;

/// A header block that cannot be decoded. The two ends no longer have the same table, so the connection is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HpackError {
    /// It breaks the format.
    #[error("header fields are not encoded as they should be")]
    Malformed,
    /// Its fields are longer than this end has announced.
    #[error("header fields are too long")]
    TooLong,
}

use HpackError::{Malformed, TooLong};

type Field = (Vec<u8>, Vec<u8>);

/// Writes one field.
pub fn encode(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    let named = || STATIC.iter().enumerate().filter(|(_, entry)| entry.0 == name);
    if let Some((index, _)) = named().find(|(_, entry)| entry.1.as_bytes() == value) {
        return integer(out, 0x80, 7, index + 1);
    }
    match named().next() {
        Some((index, _)) => integer(out, 0, 4, index + 1),
        None => {
            out.push(0);
            string(out, name.as_bytes());
        }
    }
    string(out, value);
}

fn string(out: &mut Vec<u8>, bytes: &[u8]) {
    integer(out, 0, 7, bytes.len());
    out.extend_from_slice(bytes);
}

/// An integer in the last `bits` of a byte, and in more of them if need be (RFC 7541 §5.1).
fn integer(out: &mut Vec<u8>, pattern: u8, bits: u32, value: usize) {
    let most = (1 << bits) - 1;
    if value < most {
        return out.push(pattern | low_byte(value));
    }
    out.push(pattern | low_byte(most));
    let mut rest = value - most;
    while rest >= 0x80 {
        out.push(low_byte(rest) | 0x80);
        rest >>= 7;
    }
    out.push(low_byte(rest));
}

fn low_byte(value: usize) -> u8 {
    value.to_le_bytes()[0]
}

/// The receiving end of one connection.
#[derive(Debug)]
pub struct Decoder {
    table: VecDeque<Field>,
    used: usize,
    size: usize,
}

impl Default for Decoder {
    fn default() -> Self {
        Self { table: VecDeque::new(), used: 0, size: TABLE_SIZE }
    }
}

impl Decoder {
    /// Reads one block, whose fields have at most `most` bytes together, in the count of RFC 9113 §6.5.2; gives each to
    /// `field`.
    ///
    /// # Errors
    /// [`HpackError`], after which this is of no use.
    pub fn decode(
        &mut self,
        block: &[u8],
        most: usize,
        mut field: impl FnMut(&[u8], &[u8]),
    ) -> Result<(), HpackError> {
        let (mut rest, mut length, mut begun) = (block, 0, false);
        while let Some(first) = rest.first().copied() {
            if first & 0b1110_0000 == 0b0010_0000 {
                let size = take_integer(&mut rest, 5)?;
                // Only in front of all fields (§4.2).
                if size > TABLE_SIZE || begun {
                    return Err(Malformed);
                }
                self.size = size;
                self.evict(0);
                continue;
            }
            begun = true;
            let (name, value) = if first & 0x80 != 0 {
                self.entry(take_integer(&mut rest, 7)?)?
            } else {
                let kept = first & 0x40 != 0;
                let index = take_integer(&mut rest, if kept { 6 } else { 4 })?;
                let name = match index {
                    0 => take_string(&mut rest, most)?,
                    index => self.entry(index)?.0,
                };
                let value = take_string(&mut rest, most)?;
                if kept {
                    self.keep((name.clone(), value.clone()));
                }
                (name, value)
            };
            length += name.len() + value.len() + ENTRY;
            if length > most {
                return Err(TooLong);
            }
            field(&name, &value);
        }
        Ok(())
    }

    fn entry(&self, index: usize) -> Result<Field, HpackError> {
        let index = index.checked_sub(1).ok_or(Malformed)?;
        match STATIC.get(index) {
            Some((name, value)) => Ok((name.as_bytes().to_vec(), value.as_bytes().to_vec())),
            None => self.table.get(index - STATIC.len()).cloned().ok_or(Malformed),
        }
    }

    fn keep(&mut self, field: Field) {
        let needed = field.0.len() + field.1.len() + ENTRY;
        self.evict(needed);
        // What is larger than the table empties it, and is not kept (RFC 7541 §4.4).
        if needed <= self.size {
            self.used += needed;
            self.table.push_front(field);
        }
    }

    fn evict(&mut self, needed: usize) {
        while self.used + needed > self.size {
            let Some((name, value)) = self.table.pop_back() else { return };
            self.used -= name.len() + value.len() + ENTRY;
        }
    }
}

fn take_integer(rest: &mut &[u8], bits: u32) -> Result<usize, HpackError> {
    let (first, mut tail) = rest.split_first().ok_or(Malformed)?;
    let most = (1 << bits) - 1;
    let mut value = usize::from(*first) & most;
    if value == most {
        let mut shift = 0;
        loop {
            let (byte, next) = tail.split_first().ok_or(Malformed)?;
            tail = next;
            value += usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                break;
            }
            shift += 7;
            if shift == 7 * (LONGEST_INTEGER - 1) {
                return Err(Malformed);
            }
        }
    }
    *rest = tail;
    Ok(value)
}

fn take_string(rest: &mut &[u8], most: usize) -> Result<Vec<u8>, HpackError> {
    let is_coded = rest.first().ok_or(Malformed)? & 0x80 != 0;
    let length = take_integer(rest, 7)?;
    let (bytes, tail) = rest.split_at_checked(length).ok_or(Malformed)?;
    *rest = tail;
    match is_coded {
        // A code has 5 bits at least.
        true if length / 5 * 8 > most => Err(TooLong),
        true => decode_string(bytes),
        false => Ok(bytes.to_vec()),
    }
}

/// Undoes the code of strings (RFC 7541 §5.2).
fn decode_string(bytes: &[u8]) -> Result<Vec<u8>, HpackError> {
    let mut decoded = Vec::with_capacity(bytes.len() * 8 / 5);
    let (mut code, mut length) = (0u32, 0usize);
    for byte in bytes {
        for bit in (0..8).rev() {
            code = code << 1 | u32::from(byte >> bit & 1);
            length += 1;
            let ranks = &CODES.by_length[length];
            if let Some(rank) = code.checked_sub(ranks.first).filter(|rank| *rank < ranks.count) {
                // The code of the end of a string must not occur.
                let symbol = CODES.symbols[(ranks.before + rank) as usize];
                decoded.push(u8::try_from(symbol).map_err(|_end| Malformed)?);
                (code, length) = (0, 0);
            } else if length == LONGEST_CODE {
                return Err(Malformed);
            }
        }
    }
    // What is left of the last byte is filled with ones.
    if length > 7 || code + 1 != 1 << length { Err(Malformed) } else { Ok(decoded) }
}

/// The codes of one length.
#[derive(Clone, Copy)]
struct Ranks {
    first: u32,
    count: u32,
    /// How many symbols have shorter codes.
    before: u32,
}

struct Codes {
    by_length: [Ranks; LONGEST_CODE + 1],
    /// In the order of their codes.
    symbols: [u16; CODE_LENGTHS.len()],
}

static CODES: Codes = codes();

const fn codes() -> Codes {
    let mut codes = Codes {
        by_length: [Ranks { first: 0, count: 0, before: 0 }; LONGEST_CODE + 1],
        symbols: [0; CODE_LENGTHS.len()],
    };
    let (mut length, mut next, mut known) = (1, 0, 0);
    while length <= LONGEST_CODE {
        next <<= 1;
        codes.by_length[length] = Ranks { first: next, count: 0, before: known };
        let mut symbol: u16 = 0;
        while (symbol as usize) < CODE_LENGTHS.len() {
            if CODE_LENGTHS[symbol as usize] as usize == length {
                codes.symbols[known as usize] = symbol;
                codes.by_length[length].count += 1;
                known += 1;
                next += 1;
            }
            symbol += 1;
        }
        length += 1;
    }
    codes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MOST: usize = 16 * 1024;

    fn decode(decoder: &mut Decoder, block: &[u8]) -> Result<Vec<(String, String)>, HpackError> {
        let mut fields = Vec::new();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        decoder.decode(block, MOST, |name, value| fields.push((text(name), text(value))))?;
        Ok(fields)
    }

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<u8> = hex.bytes().filter(u8::is_ascii_hexdigit).collect();
        let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
        digits.chunks(2).map(byte).collect()
    }

    /// RFC 7541, C.4 and C.6: three blocks each, with coded strings and one table for all three.
    #[test]
    fn the_examples_of_the_rfc_are_understood() {
        let mut decoder = Decoder::default();
        let first = decode(&mut decoder, &bytes("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff")).unwrap();
        let expected =
            [(":method", "GET"), (":scheme", "http"), (":path", "/"), (":authority", "www.example.com")];
        let owned = |fields: &[(&str, &str)]| -> Vec<(String, String)> {
            fields.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect()
        };
        assert_eq!(first, owned(&expected));
        let second = decode(&mut decoder, &bytes("8286 84be 5886 a8eb 1064 9cbf")).unwrap();
        assert_eq!(second[3..], owned(&[(":authority", "www.example.com"), ("cache-control", "no-cache")]));
        let third = "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf";
        let third = decode(&mut decoder, &bytes(third)).unwrap();
        assert_eq!(third[4], ("custom-key".into(), "custom-value".into()));
    }

    #[test]
    fn the_table_forgets_what_is_too_much_and_what_it_is_told_to() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40];
        string(&mut block, b"name");
        string(&mut block, &[b'v'; 3000]);
        decode(&mut decoder, &block).unwrap();
        decode(&mut decoder, &[0xbe]).unwrap();
        decode(&mut decoder, &block).unwrap();
        assert_eq!(decoder.table.len(), 1, "two do not fit");
        assert_eq!(decode(&mut decoder, &[0xbf]), Err(Malformed));
        decode(&mut decoder, &[0x20]).unwrap();
        assert_eq!((decoder.table.len(), decoder.used), (0, 0));
        decode(&mut decoder, &block).unwrap();
        assert_eq!(decode(&mut decoder, &[0xbe]), Err(Malformed), "nothing is kept in a table of size 0");
    }

    #[test]
    fn what_is_too_much_or_is_none_is_refused() {
        let mut decoder = Decoder::default();
        let mut block = vec![0x40];
        string(&mut block, b"name");
        string(&mut block, &[b'v'; 4000]);
        decode(&mut decoder, &block).unwrap();
        assert_eq!(decode(&mut decoder, &[0xbe; 5]), Err(TooLong), "a small block may stand for much");
        let none: [&[u8]; 7] = [
            &[0x80],
            &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
            &[0x00, 0x05, b'a'],
            &[0x3f, 0xe2, 0x1f],
            // The end of a string, padding that is too long, and padding that is not of ones.
            &[0x00, 0x84, 0xff, 0xff, 0xff, 0xff, 0x00],
            &[0x00, 0x82, 0x1f, 0xff, 0x00],
            &[0x00, 0x81, 0x18, 0x00],
        ];
        for block in none {
            assert_eq!(decode(&mut Decoder::default(), block), Err(Malformed), "{block:x?}");
        }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(fields in prop::collection::vec(("[a-z:-]{1,20}", ".{0,300}"), 0..20)) {
            let mut block = Vec::new();
            for (name, value) in &fields {
                encode(&mut block, name, value.as_bytes());
            }
            prop_assert_eq!(decode(&mut Decoder::default(), &block), Ok(fields));
        }

        #[test]
        fn arbitrary_blocks_never_panic(blocks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..200), 1..5)) {
            let mut decoder = Decoder::default();
            for block in blocks {
                if decode(&mut decoder, &block).is_err() {
                    break;
                }
                let used: usize = decoder.table.iter().map(|(name, value)| name.len() + value.len() + ENTRY).sum();
                prop_assert!(used == decoder.used && used <= decoder.size && decoder.size <= TABLE_SIZE);
            }
        }
    }
}
