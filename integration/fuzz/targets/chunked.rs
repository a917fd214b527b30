//! The chunked coding, compared with a decoder that is given the whole body at once.

use bytes::BytesMut;
use laneway::wire::http::{ChunkedDecoder, ChunkedEncoder, Step};

/// `data` begins with a chunked body.
pub fn run(data: &[u8]) {
    let want = reference(data);
    assert_eq!(decode(std::iter::once(data)), want, "whole");
    assert_eq!(decode(super::input::pieces(data)), want, "in pieces");
    if data.len() <= 256 {
        assert_eq!(decode(data.chunks(1)), want, "byte by byte");
    }

    let mut encoded = BytesMut::new();
    super::input::pieces(data).for_each(|piece| ChunkedEncoder::encode(piece, &mut encoded));
    encoded.extend_from_slice(ChunkedEncoder::END);
    assert_eq!(decode(std::iter::once(&encoded[..])), (data.to_vec(), End::Done(0)));
}

/// How decoding ended.
#[derive(Debug, PartialEq)]
enum End {
    /// The body is complete; this number of bytes follows it.
    Done(usize),
    NeedsMore,
    Refused,
}

fn decode<'a>(pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, End) {
    let (mut decoder, mut input) = (ChunkedDecoder::new(), BytesMut::new());
    let (mut body, mut end) = (Vec::new(), End::NeedsMore);
    for piece in pieces {
        input.extend_from_slice(piece);
        while end == End::NeedsMore {
            match decoder.decode(&mut input) {
                Ok(Step::Data(data)) => {
                    assert!(!data.is_empty());
                    body.extend_from_slice(&data);
                }
                Ok(Step::NeedMore) => break,
                Ok(Step::Done) => end = End::Done(0),
                Err(_) => end = End::Refused,
            }
        }
    }
    assert_eq!(decoder.is_done(), end == End::Done(0));
    (body, if end == End::Done(0) { End::Done(input.len()) } else { end })
}

/// RFC 9112 §7.1 with the limits of the decoder.
fn reference(mut data: &[u8]) -> (Vec<u8>, End) {
    let (mut body, mut extensions) = (Vec::new(), 0);
    let end = loop {
        let line = match line(data, 16 + 1024 + 2) {
            Ok(line) => line,
            Err(end) => break end,
        };
        let digits = line.iter().position(|byte| *byte == b';').unwrap_or(line.len());
        let (digits, extension) = line.split_at(digits);
        extensions += extension.len();
        let number = (1..=16).contains(&digits.len()) && digits.iter().all(u8::is_ascii_hexdigit);
        if !number || !is_text(extension) || extension.len() > 1024 || extensions > 16 * 1024 {
            break End::Refused;
        }
        data = &data[line.len() + 2..];
        let digits = str::from_utf8(digits).expect("digits");
        let size = u64::from_str_radix(digits, 16).expect("at most 16 digits");
        if size == 0 {
            break trailer(data);
        }
        let Some(split) = usize::try_from(size).ok().and_then(|size| data.split_at_checked(size)) else {
            body.extend_from_slice(data);
            break End::NeedsMore;
        };
        body.extend_from_slice(split.0);
        data = match split.1 {
            [b'\r', b'\n', rest @ ..] => rest,
            [] | [b'\r'] => break End::NeedsMore,
            _ => break End::Refused,
        };
    };
    (body, end)
}

fn trailer(mut data: &[u8]) -> End {
    let mut left = 8 * 1024;
    loop {
        let line = match line(data, left) {
            Ok(line) => line,
            Err(end) => return end,
        };
        data = &data[line.len() + 2..];
        left -= line.len() + 2;
        if line.is_empty() {
            return End::Done(data.len());
        }
        let name = line.iter().position(|byte| *byte == b':').unwrap_or(0);
        let token = |byte: &u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(byte);
        if name == 0 || !line[..name].iter().all(token) || !is_text(&line[name..]) {
            return End::Refused;
        }
    }
}

/// The first line without its CRLF, which ends within `limit` bytes.
fn line(data: &[u8], limit: usize) -> Result<&[u8], End> {
    let within = &data[..data.len().min(limit)];
    match within.iter().position(|byte| *byte == b'\n') {
        Some(at) => match within[..at].strip_suffix(b"\r") {
            Some(line) if !line.contains(&b'\r') => Ok(line),
            _ => Err(End::Refused),
        },
        None if data.len() >= limit => Err(End::Refused),
        None => Err(End::NeedsMore),
    }
}

fn is_text(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| matches!(byte, b'\t' | b' '..=b'~' | 0x80..))
}
