//! The chunked transfer coding (RFC 9112 §7.1): strict when a request is read, lenient for responses.
//!
//! httparse's `parse_chunk_size` is not used: it reads an empty size as 0, the end of the body (§7.1 wants a digit),
//! and lets a lone LF stand in an extension, whose length it does not limit (§7.1.1 asks for a limit).

use std::io::Write as _;
use std::num::NonZeroUsize;

use bytes::{Buf, Bytes, BytesMut};

use super::fields::check_trailer;
use super::grammar::{is_blank, is_text_byte};
use super::{MAX_HEAD, Malformed};

/// A chunk of fewer bytes is gathered with those that follow it.
const SMALL_CHUNK: usize = 4096;
/// The most that is gathered, in bytes, not counting the last chunk.
const GATHERED: usize = 64 * 1024;

/// Decodes a chunked body that arrives in pieces.
///
/// Chunk extensions and trailer fields are dropped, as RFC 9112 §7.1.1 and §7.1.2 allow a proxy. A chunk-size line and a
/// trailer section have at most [`MAX_HEAD`] bytes, and all extensions of a request body together at most as many more than it
/// has of data (§7.1.1 asks for a limit). A truncated body is never done: the caller must treat the end of its input before
/// [`Step::Done`] as a truncation (§8), unless [`ChunkedDecoder::may_end`].
#[derive(Debug)]
pub struct ChunkedDecoder {
    state: State,
    /// Reads a response: lines may end with LF alone and sizes with white space, and trailer lines may be anything.
    lenient: bool,
    /// Bytes of the input that contain no line end.
    searched: usize,
    /// Bytes of extensions seen in this body.
    extensions: u64,
    /// Bytes of data announced by this body.
    data: u64,
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

impl ChunkedDecoder {
    /// A decoder at the start of the body of a request. Only CRLF ends a line, although RFC 9112 §2.2 lets a recipient
    /// take a lone LF for the end.
    #[must_use]
    pub fn of_request() -> ChunkedDecoder {
        ChunkedDecoder { state: State::Size, lenient: false, searched: 0, extensions: 0, data: 0 }
    }

    /// A decoder at the start of the body of a response.
    #[must_use]
    pub fn of_response() -> ChunkedDecoder {
        ChunkedDecoder { lenient: true, ..ChunkedDecoder::of_request() }
    }

    /// Takes the next step and removes the bytes it used from the front of `input`. Call it again until it asks for
    /// more or is done. Between the calls `input` may only grow at its end.
    ///
    /// # Errors
    /// What breaks the syntax, or exceeds a limit. After an error every call returns the same error.
    pub fn decode(&mut self, input: &mut BytesMut) -> Result<Step, Malformed> {
        loop {
            match self.state {
                // Known at once, without the end of a line that may never come.
                State::Size if input.first().is_some_and(|byte| !byte.is_ascii_hexdigit()) => {
                    return Err(Malformed::ChunkSize);
                }
                State::Size => {
                    let Some(line) = self.line(input, MAX_HEAD, Malformed::ChunkExtension)? else {
                        return Ok(Step::NeedMore);
                    };
                    let (size, extension) = chunk_size(&input[..line.length], self.lenient)?;
                    self.extensions = self.extensions.saturating_add(extension as u64);
                    if !self.lenient && self.extensions.saturating_sub(self.data) > MAX_HEAD as u64 {
                        return Err(Malformed::ChunkExtension);
                    }
                    self.advance(input, &line);
                    self.data = self.data.saturating_add(size);
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
                    [b'\n', ..] if self.lenient => {
                        input.advance(1);
                        self.state = State::Size;
                    }
                    _ => return Err(Malformed::ChunkEnd),
                },
                State::Trailer { bytes } => {
                    let Some(line) = self.line(input, MAX_HEAD - bytes, Malformed::TrailerTooLarge)? else {
                        return Ok(Step::NeedMore);
                    };
                    self.state = if line.length == 0 {
                        State::Done
                    } else {
                        if !self.lenient {
                            check_trailer(&input[..line.with_break])?;
                        }
                        State::Trailer { bytes: bytes + line.with_break }
                    };
                    self.advance(input, &line);
                }
                State::Done => return Ok(Step::Done),
            }
        }
    }

    /// The content of a small chunk together with that of the chunks that follow it in `input`, up to about 64 KiB. A body
    /// of one-byte chunks would otherwise cost one write for each byte.
    pub fn gather(&mut self, first: Bytes, input: &mut BytesMut) -> Bytes {
        if first.len() >= SMALL_CHUNK || input.is_empty() {
            return first;
        }
        let mut all = BytesMut::from(first);
        // The end and an error are found again by the next call of `decode`.
        while all.len() < GATHERED
            && let Ok(Step::Data(data)) = self.decode(input)
        {
            all.extend_from_slice(&data);
        }
        all.freeze()
    }

    /// The line at the start of `input`; `None` if its end has not arrived. A line of more than `limit` bytes with its
    /// line break is `too_long`, however the input is cut in pieces.
    fn line(&mut self, input: &[u8], limit: usize, too_long: Malformed) -> Result<Option<Line>, Malformed> {
        let within = &input[..limit.min(input.len())];
        let Some(end) = within[self.searched..].iter().position(|&byte| byte == b'\n') else {
            self.searched = within.len();
            return if input.len() >= limit { Err(too_long) } else { Ok(None) };
        };
        let end = self.searched + end;
        let length = match input[..end].split_last() {
            Some((b'\r', line)) if self.lenient || !line.contains(&b'\r') => line.len(),
            _ if self.lenient => end,
            _ => return Err(Malformed::LineBreak),
        };
        Ok(Some(Line { length, with_break: end + 1 }))
    }

    fn advance(&mut self, input: &mut BytesMut, line: &Line) {
        input.advance(line.with_break);
        self.searched = 0;
    }

    /// Whether the input may end here: the last chunk has arrived, without which a body is incomplete (RFC 9112 §8).
    /// What may be missing is the rest of the trailer section of a response.
    #[must_use]
    pub fn may_end(&self) -> bool {
        self.is_done() || self.lenient && matches!(self.state, State::Trailer { .. })
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

/// A line at the start of the input.
struct Line {
    /// Its length without the line break.
    length: usize,
    with_break: usize,
}

/// Parses a chunk-size line into the size and the length of its extensions. White space before an extension is dropped
/// (RFC 9110 §5.6.3: a recipient MUST parse "bad" white space), and in a response also white space at the end, with which
/// some servers pad the size.
fn chunk_size(line: &[u8], lenient: bool) -> Result<(u64, usize), Malformed> {
    let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
    let (digits, rest) = line.split_at(digits);
    let blanks = rest.iter().take_while(|byte| is_blank(byte)).count();
    let extension = &rest[blanks..];
    let ends_well = match extension.first() {
        Some(b';') => true,
        None => blanks == 0 || lenient,
        Some(_) => false,
    };
    if digits.is_empty() || !ends_well {
        return Err(Malformed::ChunkSize);
    }
    if !lenient && !extension.iter().copied().all(is_text_byte) {
        return Err(Malformed::ChunkExtension);
    }
    let digits = str::from_utf8(digits).ok().ok_or(Malformed::ChunkSize)?;
    let size = u64::from_str_radix(digits, 16).ok().ok_or(Malformed::ChunkSize)?;
    Ok((size, rest.len()))
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

    #[test]
    fn one_byte_chunks_are_few_pieces() {
        let mut input = BytesMut::from("1\r\na\r\n".repeat(100_000).as_str());
        let mut decoder = ChunkedDecoder::of_response();
        let (mut pieces, mut bytes) = (0, 0);
        while let Step::Data(data) = decoder.decode(&mut input).unwrap() {
            pieces += 1;
            bytes += decoder.gather(data, &mut input).len();
        }
        assert_eq!((pieces, bytes), (2, 100_000));
    }

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
        decode_by(ChunkedDecoder::of_request(), pieces)
    }

    fn decode_by<'a>(mut decoder: ChunkedDecoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> Decoded {
        let mut input = BytesMut::new();
        let (mut body, mut error) = (Vec::new(), None);
        for piece in pieces {
            input.extend_from_slice(piece);
            error = loop {
                match decoder.decode(&mut input) {
                    Ok(Step::Data(data)) => {
                        assert!(!data.is_empty());
                        let data = decoder.gather(data, &mut input);
                        body.extend_from_slice(&data);
                    }
                    Ok(Step::NeedMore | Step::Done) => break None,
                    Err(error) => break Some(error),
                }
            };
        }
        // Before the end of the body the rest depends on the cuts; after it, the rest is the next message.
        let rest = if decoder.is_done() { input.to_vec() } else { Vec::new() };
        Decoded { body, done: decoder.is_done(), rest, error }
    }

    #[test]
    fn decodes() {
        for (text, body, rest) in [
            ("0\r\n\r\n", "", ""),
            ("5\r\nhello\r\n0\r\n\r\nGET", "hello", "GET"),
            ("1\r\na\r\n00000000000000000002\r\nbc\r\n000\r\n\r\n", "abc", ""),
            ("3 ;x=1\r\nabc\r\n0\t ; y\r\n\r\n", "abc", ""),
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
        let long_extension = format!("1;{}\r\n", "x".repeat(MAX_HEAD));
        let endless_extension = format!("1;{}", "x".repeat(2 * MAX_HEAD));
        let many_extensions = format!("1;{}\r\na\r\n", "x".repeat(1023)).repeat(66);
        let long_trailer = format!("0\r\nA: {}\r\n\r\n", "x".repeat(MAX_HEAD));
        let endless_trailer = format!("0\r\nA: {}", "x".repeat(MAX_HEAD + 10));
        let long_trailers = format!("0\r\n{}\r\n", format!("A: {}\r\n", "x".repeat(500)).repeat(132));
        let many_trailers = format!("0\r\n{}\r\n", "A: 1\r\n".repeat(11_000));
        for (text, want) in [
            ("5\nhello\r\n0\r\n\r\n", LineBreak),
            ("\n", ChunkSize),
            ("x", ChunkSize),
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
            ("5 a\r\nhello\r\n", ChunkSize),
            ("5\t\r\nhello\r\n", ChunkSize),
            ("5_0\r\nhello\r\n", ChunkSize),
            ("5,5\r\nhello\r\n", ChunkSize),
            (";a\r\n", ChunkSize),
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
    fn a_response_is_read_leniently_where_its_meaning_is_certain() {
        for (text, body, rest) in [
            ("5  \r\nhello\r\n0\t\r\n\r\nx", "hello", "x"),
            ("5\nhello\n0\n\nx", "hello", "x"),
            ("5;\0\rx\r\nhello\r\n0\r\n\r\n", "hello", ""),
            ("0\r\nA: 1\r\n folded\r\nB : 2\r\nnone\r\nC: \0\r\n\r\n", "", ""),
        ] {
            let want = Decoded { body: body.into(), done: true, rest: rest.into(), error: None };
            assert_eq!(decode_by(ChunkedDecoder::of_response(), [text.as_bytes()]), want, "{text:?}");
            assert!(decode([text.as_bytes()]).error.is_some(), "not of a request: {text:?}");
        }
        for (text, want) in [
            (" 5\r\nhello\r\n", Malformed::ChunkSize),
            ("\r\n", Malformed::ChunkSize),
            ("5x\r\nhello\r\n", Malformed::ChunkSize),
            ("5 5\r\nhello\r\n", Malformed::ChunkSize),
            ("5\rx\r\nhello\r\n", Malformed::ChunkSize),
            ("-1\r\n", Malformed::ChunkSize),
            ("10000000000000000\r\n", Malformed::ChunkSize),
            ("5\r\nhelloX\r\n", Malformed::ChunkEnd),
            ("5\r\nhello\rX", Malformed::ChunkEnd),
        ] {
            let decoded = decode_by(ChunkedDecoder::of_response(), [text.as_bytes()]);
            assert_eq!(decoded.error, Some(want), "{text:?}");
        }
    }

    #[test]
    fn the_body_of_a_response_may_end_after_its_last_chunk_and_never_before() {
        let text = b"1\r\na\r\n0;x\r\nA: 1\r\n\r\n";
        let last_chunk = b"1\r\na\r\n0;x\r\n".len();
        for end in 0..=text.len() {
            for (mut decoder, may_end) in [
                (ChunkedDecoder::of_response(), end >= last_chunk),
                (ChunkedDecoder::of_request(), end == text.len()),
            ] {
                let mut input = BytesMut::from(&text[..end]);
                while let Step::Data(_) = decoder.decode(&mut input).unwrap() {}
                assert_eq!(decoder.may_end(), may_end, "{end}");
            }
        }
    }

    #[test]
    fn extensions_are_limited_in_bytes_and_their_number_only_by_the_data_between_them() {
        let chunk = format!("{:x};{}\r\n{}\r\n", 8 * 1024, "s".repeat(1024), "x".repeat(8 * 1024));
        let mut decoder = ChunkedDecoder::of_request();
        for _ in 0..1000 {
            let mut input = BytesMut::from(chunk.as_bytes());
            assert!(matches!(decoder.decode(&mut input), Ok(Step::Data(_))));
            assert_eq!(decoder.decode(&mut input), Ok(Step::NeedMore));
        }
    }

    #[test]
    fn a_response_may_have_more_bytes_of_extensions_than_of_data() {
        let body = format!("1;{}\r\nx\r\n", "s".repeat(80)).repeat(3000) + "0\r\n\r\n";
        let of_response = decode_by(ChunkedDecoder::of_response(), [body.as_bytes()]);
        assert_eq!((of_response.body.len(), of_response.done), (3000, true));
        assert_eq!(decode([body.as_bytes()]).error, Some(Malformed::ChunkExtension));
    }

    #[test]
    fn waits_for_no_more_than_the_longest_size_line() {
        let line = format!("1;{}", "x".repeat(MAX_HEAD));
        assert_eq!(decode([&line.as_bytes()[..MAX_HEAD - 1]]).error, None);
        assert_eq!(decode([&line.as_bytes()[..MAX_HEAD]]).error, Some(Malformed::ChunkExtension));
    }

    #[test]
    fn an_error_stays() {
        let (mut decoder, mut input) = (ChunkedDecoder::of_request(), BytesMut::from("x\r\n"));
        for _ in 0..2 {
            assert_eq!(decoder.decode(&mut input), Err(Malformed::ChunkSize));
        }
    }

    #[test]
    fn data_is_not_copied() {
        let (mut decoder, mut input) = (ChunkedDecoder::of_request(), BytesMut::from("5\r\nhello\r\n"));
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
            let lenient = decode_by(ChunkedDecoder::of_response(), [&text[..]]);
            let pieces = cuts.windows(2).map(|pair| &text[pair[0]..pair[1]]);
            prop_assert_eq!(&decode_by(ChunkedDecoder::of_response(), pieces), &lenient);
            if whole.error.is_none() {
                prop_assert_eq!(&lenient, &whole);
            }
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
