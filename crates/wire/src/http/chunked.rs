//! The chunked transfer coding (RFC 9112 §7.1), strict when reading.
//!
//! httparse's `parse_chunk_size` is not used: it reads an empty size as 0, the end of the body (§7.1 wants a digit),
//! and lets a lone LF stand in an extension, whose length it does not limit (§7.1.1 asks for a limit).

use std::io::Write as _;
use std::num::NonZeroUsize;

use bytes::{Buf, Bytes, BytesMut};

use super::Malformed;
use super::fields::check_trailer;
use super::grammar::is_text_byte;

/// Maximum size in bytes of the extensions on one chunk-size line (RFC 9112 §7.1.1 asks for a limit).
const MAX_EXTENSION: usize = 1024;
/// Maximum size in bytes of all extensions in one body, so that tiny chunks with long extensions cannot make a short
/// body arbitrarily long.
const MAX_EXTENSIONS: usize = 16 * 1024;
/// Maximum length in bytes of a chunk-size line with its CRLF: a `u64` has 16 hexadecimal digits.
const MAX_SIZE_LINE: usize = 16 + MAX_EXTENSION + 2;
/// Maximum size in bytes of the trailer section.
const MAX_TRAILER: usize = 8 * 1024;

/// Decodes a chunked body that arrives in pieces.
///
/// Chunk extensions and trailer fields are checked and dropped, as RFC 9112 §7.1.1 and §7.1.2 allow a proxy. A
/// truncated body is never done: the caller must treat the end of its input before [`Step::Done`] as a truncation
/// (§8).
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Bytes of extensions seen in this body.
    extensions: usize,
}

/// The result of one call of [`ChunkedDecoder::decode`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Bytes of the body, never empty, split off the input without a copy.
    Data(Bytes),
    /// The caller must append more input to the rest of this one.
    NeedMore,
    /// The body is complete. The rest of the input belongs to the next message.
    Done,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At a chunk-size line.
    Size,
    /// In a chunk, with this number of bytes (never 0) still to come.
    Data(u64),
    /// At the CRLF after a chunk.
    DataEnd,
    /// In the trailer section, after this many bytes of it.
    Trailer { bytes: usize },
    /// After the body.
    Done,
}

impl Default for ChunkedDecoder {
    fn default() -> Self {
        ChunkedDecoder::new()
    }
}

impl ChunkedDecoder {
    /// A decoder at the start of a body.
    #[must_use]
    pub fn new() -> ChunkedDecoder {
        ChunkedDecoder { state: State::Size, extensions: 0 }
    }

    /// Takes the next step and removes the bytes it used from the front of `input`. Call it again until it asks for
    /// more or is done.
    ///
    /// # Errors
    /// Anything but the exact syntax with bounded extensions and trailers. After an error every call returns the
    /// same error.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self.state {
                State::Size => {
                    let Some(end) = line_within(input, MAX_SIZE_LINE, Malformed::ChunkExtension)? else {
                        return Ok(Step::NeedMore);
                    };
                    let (size, extension) = chunk_size(&input[..end])?;
                    self.extensions += extension;
                    if self.extensions > MAX_EXTENSIONS {
                        return Err(Malformed::ChunkExtension);
                    }
                    input.advance(end + 2);
                    self.state = match size {
                        0 => State::Trailer { bytes: 0 },
                        size => State::Data(size),
                    };
                }
                State::Data(_) if input.is_empty() => return Ok(Step::NeedMore),
                State::Data(left) => {
                    let length = usize::try_from(left).map_or(input.len(), |left| left.min(input.len()));
                    self.state = match left - length as u64 {
                        0 => State::DataEnd,
                        left => State::Data(left),
                    };
                    return Ok(Step::Data(input.split_to(length).freeze()));
                }
                State::DataEnd => match input[..] {
                    [] | [b'\r'] => return Ok(Step::NeedMore),
                    [b'\r', b'\n', ..] => {
                        input.advance(2);
                        self.state = State::Size;
                    }
                    _ => return Err(Malformed::ChunkEnd),
                },
                State::Trailer { bytes } => {
                    let Some(end) = line_within(input, MAX_TRAILER - bytes, Malformed::TrailerTooLarge)?
                    else {
                        return Ok(Step::NeedMore);
                    };
                    self.state = if end == 0 {
                        State::Done
                    } else {
                        check_trailer(&input[..end + 2])?;
                        State::Trailer { bytes: bytes + end + 2 }
                    };
                    input.advance(end + 2);
                }
                State::Done => return Ok(Step::Done),
            }
        }
    }

    /// Whether the whole body has been decoded.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.state == State::Done
    }
}

/// Writes a chunked body.
#[derive(Debug, Clone, Copy)]
pub struct ChunkedEncoder;

impl ChunkedEncoder {
    /// The bytes after the data of every chunk.
    pub const CHUNK_END: &'static [u8] = b"\r\n";
    /// The last chunk, with an empty trailer section. Without it the body is truncated.
    pub const END: &'static [u8] = b"0\r\n\r\n";

    /// The bytes before `length` bytes of data, which [`ChunkedEncoder::CHUNK_END`] must follow. There is no empty
    /// chunk: it would end the body.
    #[must_use]
    pub fn frame(length: NonZeroUsize) -> ChunkHeader {
        let mut header = ChunkHeader { bytes: [0; 18], length: 0 };
        let mut rest = &mut header.bytes[..];
        write!(rest, "{length:x}\r\n").expect("16 digits and CRLF fit");
        header.length = 18 - rest.len();
        header
    }

    /// Appends `data` to `out` as one chunk; nothing if it is empty.
    pub fn encode(data: &[u8], out: &mut BytesMut) {
        if let Some(length) = NonZeroUsize::new(data.len()) {
            out.extend_from_slice(ChunkedEncoder::frame(length).as_ref());
            out.extend_from_slice(data);
            out.extend_from_slice(ChunkedEncoder::CHUNK_END);
        }
    }
}

/// A chunk-size line, made without allocation.
#[derive(Debug, Clone, Copy)]
pub struct ChunkHeader {
    bytes: [u8; 18],
    length: usize,
}

impl AsRef<[u8]> for ChunkHeader {
    fn as_ref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

/// The length of the line at the start of `input` without its CRLF; `None` if its end has not arrived. A line that
/// takes more than `limit` bytes with its CRLF is `too_long`, however the input is cut in pieces. Only CRLF ends a
/// line: any other CR or LF is refused, although RFC 9112 §2.2 lets a recipient take a lone LF for the end.
fn line_within(input: &[u8], limit: usize, too_long: Malformed) -> Result<Option<usize>, Malformed> {
    match input.iter().take(limit).position(|&byte| byte == b'\n') {
        Some(end) => match input[..end].split_last() {
            Some((b'\r', line)) if !line.contains(&b'\r') => Ok(Some(line.len())),
            _ => Err(Malformed::LineBreak),
        },
        None if input.len() >= limit => Err(too_long),
        None => Ok(None),
    }
}

/// Parses a chunk-size line into the size and the length of its extensions. White space before an extension
/// (RFC 9112 §7.1.1: "bad" white space) is refused.
fn chunk_size(line: &[u8]) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, extension) = line.split_at(digits);
    if !matches!(digits.len(), 1..=16) || !matches!(extension, [] | [b';', ..]) {
        return Err(Malformed::ChunkSize);
    }
    if extension.len() > MAX_EXTENSION || !extension.iter().copied().all(is_text_byte) {
        return Err(Malformed::ChunkExtension);
    }
    let digits = str::from_utf8(digits).ok().ok_or(Malformed::ChunkSize)?;
    let size = u64::from_str_radix(digits, 16).ok().ok_or(Malformed::ChunkSize)?;
    Ok((size, extension.len()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The outcome of pieces that are appended one after the other.
    #[derive(Debug, PartialEq)]
    struct Decoded {
        body: Vec<u8>,
        done: bool,
        /// Bytes after the body.
        rest: Vec<u8>,
        error: Option<Malformed>,
    }

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
        let (mut decoder, mut input) = (ChunkedDecoder::new(), BytesMut::new());
        let (mut body, mut error) = (Vec::new(), None);
        for piece in pieces {
            input.extend_from_slice(piece);
            error = loop {
                match decoder.decode(&mut input) {
                    Ok(Step::Data(data)) => {
                        assert!(!data.is_empty());
                        body.extend_from_slice(&data);
                    }
                    Ok(Step::NeedMore | Step::Done) => break None,
                    Err(error) => break Some(error),
                }
            };
        }
        // Before the end the rest depends on the cuts; after it, it is the next message.
        let rest = if decoder.is_done() { input.to_vec() } else { Vec::new() };
        Decoded { body, done: decoder.is_done(), rest, error }
    }

    #[test]
    fn decodes() {
        for (text, body, rest) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"),
            ("1\r\na\r\n00002\r\nbc\r\n000\r\n\r\n", "abc", ""),
            ("a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", "01234567890123456789", ""),
            ("2;a=b;c=\"d e\"\r\n\r\n\r\n0;x\r\n\r\n", "\r\n", ""),
            ("1\r\na\r\n0\r\nX: 1\r\nContent-Length: 9\r\n\r\nrest", "a", "rest"),
        ] {
            let want = Decoded { body: body.into(), done: true, rest: rest.into(), error: None };
            assert_eq!(decode([text.as_bytes()]), want, "{text:?}");
        }
    }

    #[test]
    fn refuses_every_smuggling_shape() {
        use Malformed::*;
        let long_extension = format!("1;{}\r\n", "x".repeat(1024));
        let endless_extension = format!("1;{}", "x".repeat(2048));
        let many_extensions = format!("1;{}\r\na\r\n", "x".repeat(1023)).repeat(17);
        let long_trailer = format!("0\r\nA: {}\r\n\r\n", "x".repeat(8 * 1024));
        let endless_trailer = format!("0\r\nA: {}", "x".repeat(9 * 1024));
        let long_trailers = format!("0\r\n{}\r\n", format!("A: {}\r\n", "x".repeat(500)).repeat(17));
        let many_trailers = format!("0\r\n{}\r\n", "A: 1\r\n".repeat(1366));
        for (text, want) in [
            ("5\nhello\r\n0\r\n\r\n", LineBreak),
            ("\n", LineBreak),
            ("5\rx\r\nhello\r\n", LineBreak),
            ("5;a\nb\r\nhello\r\n", LineBreak),
            ("5;a\rb\r\nhello\r\n", LineBreak),
            ("5\r\r\nhello\r\n", LineBreak),
            ("0\r\n\n", LineBreak),
            ("0\r\nA: 1\n\r\n", LineBreak),
            ("\r\n", ChunkSize),
            ("x\r\n", ChunkSize),
            ("0x5\r\nhello\r\n", ChunkSize),
            ("+5\r\nhello\r\n", ChunkSize),
            ("-5\r\nhello\r\n", ChunkSize),
            (" 5\r\nhello\r\n", ChunkSize),
            ("5 \r\nhello\r\n", ChunkSize),
            ("5 ;a\r\nhello\r\n", ChunkSize),
            ("5\t\r\nhello\r\n", ChunkSize),
            ("5_0\r\nhello\r\n", ChunkSize),
            ("5,5\r\nhello\r\n", ChunkSize),
            (";a\r\n", ChunkSize),
            ("00000000000000005\r\nhello\r\n", ChunkSize),
            ("10000000000000005\r\nhello\r\n", ChunkSize),
            ("5;\0\r\nhello\r\n", ChunkExtension),
            (&long_extension, ChunkExtension),
            (&endless_extension, ChunkExtension),
            (&many_extensions, ChunkExtension),
            ("5\r\nhello0\r\n\r\n", ChunkEnd),
            ("5\r\nhello\n0\r\n\r\n", ChunkEnd),
            ("5\r\nhello\rX0\r\n\r\n", ChunkEnd),
            ("0\r\n A: 1\r\n\r\n", ObsFold),
            ("0\r\nA: 1\r\n 2\r\n\r\n", ObsFold),
            ("0\r\nA : 1\r\n\r\n", SpaceBeforeColon),
            ("0\r\nA\r\n\r\n", FieldName),
            ("0\r\nGET / HTTP/1.1\r\n\r\n", FieldName),
            ("0\r\nA: \0\r\n\r\n", FieldValue),
            (&long_trailer, TrailerTooLarge),
            (&endless_trailer, TrailerTooLarge),
            (&long_trailers, TrailerTooLarge),
            (&many_trailers, TrailerTooLarge),
        ] {
            let decoded = decode([text.as_bytes()]);
            assert_eq!(decoded.error, Some(want), "{:?}", &text[..text.len().min(80)]);
            assert!(!decoded.done);
        }
    }

    #[test]
    fn what_httparse_accepts_as_a_chunk_size_and_this_decoder_refuses() {
        for (line, size, want) in [
            ("\r\n", 0, Malformed::ChunkSize),
            (";a\r\n", 0, Malformed::ChunkSize),
            ("5;a\nb\r\n", 5, Malformed::LineBreak),
            ("5;\0\r\n", 5, Malformed::ChunkExtension),
        ] {
            let accepted = httparse::Status::Complete((line.len(), size));
            assert_eq!(httparse::parse_chunk_size(line.as_bytes()), Ok(accepted), "{line:?}");
            assert_eq!(decode([line.as_bytes()]).error, Some(want), "{line:?}");
        }
    }

    #[test]
    fn a_truncated_body_is_never_done() {
        let whole = b"5;x\r\nhello\r\n1\r\n!\r\n0\r\nA: 1\r\n\r\n";
        for end in 0..whole.len() {
            let decoded = decode([&whole[..end]]);
            assert!(!decoded.done && decoded.error.is_none(), "{end}");
        }
        assert!(decode([&whole[..]]).done);
    }

    #[test]
    fn the_largest_chunk_size_neither_overflows_nor_allocates() {
        let decoded = decode([&b"ffffffffffffffff\r\nab"[..], b"cd"]);
        assert_eq!((&decoded.body[..], decoded.done, decoded.error), (&b"abcd"[..], false, None));
    }

    #[test]
    fn waits_for_no_more_than_the_longest_size_line() {
        let line = format!("1;{}", "x".repeat(MAX_SIZE_LINE));
        assert_eq!(decode([&line.as_bytes()[..MAX_SIZE_LINE - 1]]).error, None);
        assert_eq!(decode([&line.as_bytes()[..MAX_SIZE_LINE]]).error, Some(Malformed::ChunkExtension));
    }

    #[test]
    fn an_error_stays() {
        let (mut decoder, mut input) = (ChunkedDecoder::new(), BytesMut::from("x\r\n"));
        for _ in 0..2 {
            assert_eq!(decoder.decode(&mut input), Err(Malformed::ChunkSize));
        }
    }

    #[test]
    fn data_is_not_copied() {
        let (mut decoder, mut input) = (ChunkedDecoder::new(), BytesMut::from("5\r\nhello\r\n"));
        let address = input[3..].as_ptr();
        let Ok(Step::Data(data)) = decoder.decode(&mut input) else { panic!("no data") };
        assert_eq!(data.as_ptr(), address);
    }

    #[test]
    fn headers() {
        let header = |length| ChunkedEncoder::frame(NonZeroUsize::new(length).unwrap());
        assert_eq!(header(1).as_ref(), b"1\r\n");
        assert_eq!(header(usize::MAX).as_ref(), format!("{:x}\r\n", usize::MAX).as_bytes());
        let mut out = BytesMut::new();
        ChunkedEncoder::encode(b"", &mut out);
        assert!(out.is_empty());
    }

    /// Text that looks like a chunked body often enough to reach every state.
    fn nearly_chunked() -> impl Strategy<Value = Vec<u8>> {
        let piece = prop_oneof![
            4 => prop::collection::vec(any::<u8>(), 1..40).prop_map(|data| {
                let mut out = BytesMut::new();
                ChunkedEncoder::encode(&data, &mut out);
                out.to_vec()
            }),
            1 => Just(b"3;ext=1\r\nabc\r\n".to_vec()),
            1 => Just(b"0\r\n".to_vec()),
            1 => Just(b"Name: value\r\n".to_vec()),
            1 => Just(b"\r\n".to_vec()),
            1 => Just(vec![b'x'; 1100]),
            1 => prop::collection::vec(prop::sample::select(&b"0159afx; :\r\n\0"[..]), 1..6),
        ];
        prop::collection::vec(piece, 0..12).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        #[test]
        fn cuts_make_no_difference(text in nearly_chunked(), cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let mut cuts: Vec<_> = cuts.iter().map(|cut| cut.index(text.len() + 1)).collect();
            cuts.extend([0, text.len()]);
            cuts.sort_unstable();
            let whole = decode([&text[..]]);
            prop_assert_eq!(&decode(cuts.windows(2).map(|pair| &text[pair[0]..pair[1]])), &whole);
            prop_assert_eq!(&decode(text.chunks(1)), &whole);
        }

        #[test]
        fn arbitrary_bytes_never_panic(text in prop::collection::vec(any::<u8>(), 0..200)) {
            decode([&text[..]]);
        }

        #[test]
        fn what_is_encoded_is_decoded(chunks in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 0..8)) {
            let mut out = BytesMut::new();
            for chunk in &chunks {
                ChunkedEncoder::encode(chunk, &mut out);
            }
            out.extend_from_slice(ChunkedEncoder::END);
            let want = Decoded { body: chunks.concat(), done: true, rest: Vec::new(), error: None };
            prop_assert_eq!(decode([&out[..]]), want);
        }
    }
}
