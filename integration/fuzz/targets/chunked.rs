//! The chunked coding, compared with a decoder that is given the whole body at once.

use bytes::BytesMut;
use laneway::wire::http::{ChunkedDecoder, ChunkedEncoder, MAX_HEAD, Step};

/// `data` begins with a chunked body.
pub fn run(data: &[u8]) {
    let want = reference(data);
    let lenient = decode(ChunkedDecoder::of_response, std::iter::once(data));
    for (decoder, want) in [
        (ChunkedDecoder::of_request as fn() -> _, &want),
        (ChunkedDecoder::of_response as fn() -> _, &lenient),
    ] {
        assert_eq!(&decode(decoder, std::iter::once(data)), want, "whole");
        assert_eq!(&decode(decoder, super::input::pieces(data)), want, "in pieces");
        if data.len() <= 256 {
            assert_eq!(&decode(decoder, data.chunks(1)), want, "byte by byte");
        }
    }
    if want.1 != End::Refused {
        assert_eq!(lenient, want, "what is accepted strictly has no other meaning");
    }

    let mut encoded = BytesMut::new();
    super::input::pieces(data).for_each(|piece| ChunkedEncoder::encode(piece, &mut encoded));
    encoded.extend_from_slice(ChunkedEncoder::END);
    let decoded = decode(ChunkedDecoder::of_request, std::iter::once(&encoded[..]));
    assert_eq!(decoded, (data.to_vec(), End::Done(0)));
}

/// How decoding ended.
#[derive(Debug, PartialEq)]
enum End {
    /// The body is complete; this number of bytes follows it.
    Done(usize),
    NeedsMore,
    Refused,
}

fn decode<'a>(decoder: fn() -> ChunkedDecoder, pieces: impl Iterator<Item = &'a [u8]>) -> (Vec<u8>, End) {
    let (mut decoder, mut input) = (decoder(), BytesMut::new());
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
    let (mut body, mut extensions, mut announced) = (Vec::new(), 0_u64, 0_u64);
    let end = loop {
        // Known without the rest of the line.
        if data.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) {
            break End::Refused;
        }
        let line = match line(data, MAX_HEAD) {
            Ok(line) => line,
            Err(end) => break end,
        };
        let digits = line.iter().position(|byte| !byte.is_ascii_hexdigit()).unwrap_or(line.len());
        let (digits, extension) = line.split_at(digits);
        let blank = |byte: &u8| matches!(byte, b' ' | b'\t');
        let begins = extension.is_empty() || extension.iter().find(|byte| !blank(byte)) == Some(&b';');
        extensions += extension.len() as u64;
        let allowed = extensions.saturating_sub(announced) <= MAX_HEAD as u64;
        if digits.is_empty() || !begins || !is_text(extension) || !allowed {
            break End::Refused;
        }
        let digits = str::from_utf8(digits).expect("digits");
        let Ok(size) = u64::from_str_radix(digits, 16) else { break End::Refused };
        data = &data[line.len() + 2..];
        announced = announced.saturating_add(size);
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
    let mut left = MAX_HEAD;
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
