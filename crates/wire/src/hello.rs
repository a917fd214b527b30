//! The TLS ClientHello (RFC 8446 §4.1.2), as far as a relay needs it: the server's name, and whether early data comes
//! with it, which must not be sent twice.

use std::cmp::Ordering;

/// TLS record type (RFC 8446 §5.1) and handshake message type (§4).
pub const HANDSHAKE_RECORD: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// Extensions: the server's name (RFC 6066 §3), and early data (RFC 8446 §4.2.10).
const SERVER_NAME: u16 = 0;
const EARLY_DATA: u16 = 42;
/// The only type of server name that is defined (RFC 6066 §3).
const HOST_NAME: u8 = 0;

/// Maximum size in bytes of a ClientHello without its record headers. With several post-quantum key shares one takes
/// about 4 KiB.
pub const MAX_HELLO: usize = 16 * 1024;

/// A whole ClientHello.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientHello {
    /// The server's name as the client wrote it: text that has not been checked to be a name.
    pub server_name: Option<String>,
    /// Data follows before the server has answered.
    pub early_data: bool,
    /// Its length in bytes, including its record headers.
    pub length: usize,
}

/// The bytes do not begin with a ClientHello, or with one that is larger than [`MAX_HELLO`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a TLS ClientHello")]
pub struct NotClientHello;

impl ClientHello {
    /// Parses the ClientHello at the start of `bytes`, however it is cut into records; `None` if more bytes must
    /// arrive. Nothing is copied before it is whole.
    ///
    /// # Errors
    /// [`NotClientHello`], also if its last record contains more than the ClientHello.
    pub fn parse(bytes: &[u8]) -> Result<Option<Self>, NotClientHello> {
        let Some(length) = length_in_records(bytes)? else { return Ok(None) };
        let (mut message, mut records) = (Vec::with_capacity(length), Reader(&bytes[..length]));
        while let Some(record) = records.record_header().and_then(|size| records.take(size)) {
            message.extend_from_slice(record);
        }
        let (server_name, early_data) = extensions(&message).ok_or(NotClientHello)?;
        Ok(Some(Self { server_name, early_data, length }))
    }
}

/// The length of the records at the start of `bytes` that contain exactly one ClientHello; `None` if more bytes must
/// arrive.
fn length_in_records(bytes: &[u8]) -> Result<Option<usize>, NotClientHello> {
    let mut records = Reader(bytes);
    // The beginning of the message, and the number of its bytes seen so far.
    let (mut header, mut seen) = ([0; 4], 0);
    loop {
        let length = message_length(&header[..seen.min(4)])?;
        match length.map(|length| seen.cmp(&length)) {
            Some(Ordering::Greater) => return Err(NotClientHello),
            Some(Ordering::Equal) => return Ok(Some(bytes.len() - records.0.len())),
            Some(Ordering::Less) | None => {}
        }
        if records.0.first().is_some_and(|kind| *kind != HANDSHAKE_RECORD) {
            return Err(NotClientHello);
        }
        let Some(size) = records.record_header() else { return Ok(None) };
        let content = records.0.get(..size).unwrap_or(records.0);
        for (place, byte) in header.iter_mut().skip(seen).zip(content) {
            *place = *byte;
        }
        seen += content.len();
        if size == 0 || seen > MAX_HELLO {
            return Err(NotClientHello);
        }
        if records.take(size).is_none() {
            // Bytes that have arrived already may show that it is something else.
            return message_length(&header[..seen.min(4)]).map(|_| None);
        }
    }
}

/// The length of the message that begins with `header`, once its four bytes are known.
fn message_length(header: &[u8]) -> Result<Option<usize>, NotClientHello> {
    match *header {
        [CLIENT_HELLO, high, middle, low] => {
            let length = 4 + (usize::from(high) << 16 | usize::from(middle) << 8 | usize::from(low));
            if length > MAX_HELLO { Err(NotClientHello) } else { Ok(Some(length)) }
        }
        [CLIENT_HELLO, ..] | [] => Ok(None),
        _ => Err(NotClientHello),
    }
}

/// The server's name and whether there is early data; `None` if the message is malformed.
fn extensions(message: &[u8]) -> Option<(Option<String>, bool)> {
    let mut message = Reader(message);
    let _type_and_length: [u8; 4] = message.array()?;
    let _version_and_random: [u8; 34] = message.array()?;
    let _session_id = message.vector_u8()?;
    let _cipher_suites = message.vector_u16()?;
    let _compression_methods = message.vector_u8()?;
    if message.0.is_empty() {
        return Some((None, false));
    }
    let mut extensions = message.vector_u16()?;
    if !message.0.is_empty() {
        return None;
    }
    let (mut name, mut early_data) = (None, false);
    while !extensions.0.is_empty() {
        let (kind, content) = (extensions.u16()?, extensions.vector_u16()?);
        match kind {
            EARLY_DATA => early_data = true,
            SERVER_NAME if name.is_none() => name = server_name(content),
            _ => {}
        }
    }
    Some((name, early_data))
}

/// The host name in the extension; `None` if there is none, or if it is not text.
fn server_name(mut extension: Reader<'_>) -> Option<String> {
    let mut names = extension.vector_u16()?;
    let [kind] = names.array()?;
    let name = names.vector_u16()?;
    (kind == HOST_NAME).then(|| String::from_utf8(name.0.to_vec()).ok()).flatten()
}

/// Reads fields from the front of a slice.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    /// The size of the record whose header comes next (RFC 8446 §5.1).
    fn record_header(&mut self) -> Option<usize> {
        let [_type, _version_high, _version_low, high, low] = self.array()?;
        Some(usize::from(u16::from_be_bytes([high, low])))
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn vector_u8(&mut self) -> Option<Self> {
        let [length] = self.array()?;
        self.take(length.into()).map(Self)
    }

    fn vector_u16(&mut self) -> Option<Self> {
        let length = self.u16()?;
        self.take(length.into()).map(Self)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The ClientHello that a real library sends to this server.
    pub(crate) fn real_hello(name: &str) -> Vec<u8> {
        let config =
            rustls::ClientConfig::builder_with_provider(rustls::crypto::aws_lc_rs::default_provider().into())
                .with_protocol_versions(&[&rustls::version::TLS13])
                .unwrap()
                .with_root_certificates(rustls::RootCertStore::empty())
                .with_no_client_auth();
        let name = name.to_owned().try_into().unwrap();
        let mut connection = rustls::ClientConnection::new(config.into(), name).unwrap();
        let mut out = Vec::new();
        connection.write_tls(&mut out).unwrap();
        out
    }

    /// This message in records of at most `size` bytes.
    fn cut(hello: &[u8], size: usize) -> Vec<u8> {
        let record = |part: &[u8]| {
            [&[HANDSHAKE_RECORD, 3, 1][..], &u16::try_from(part.len()).unwrap().to_be_bytes(), part].concat()
        };
        hello[5..].chunks(size).flat_map(record).collect()
    }

    #[test]
    fn the_name_in_the_hello_of_a_real_library_is_found_however_it_is_cut() {
        let hello = real_hello("files.example");
        for size in [1, 2, 3, 7, 50, 100, 16_000] {
            let records = cut(&hello, size);
            for length in 0..records.len() {
                assert_eq!(ClientHello::parse(&records[..length]), Ok(None), "{length} of {size}");
            }
            let whole = [&records[..], b"\x17\x03\x03"].concat();
            let read = ClientHello::parse(&whole).unwrap().unwrap();
            assert_eq!(read.server_name.as_deref(), Some("files.example"));
            assert_eq!((read.length, read.early_data), (records.len(), false));
        }
        // An address is not a name, and is not sent (RFC 6066 §3).
        assert_eq!(ClientHello::parse(&real_hello("192.0.2.1")).unwrap().unwrap().server_name, None);
    }

    #[test]
    fn other_bytes_are_refused_at_once() {
        let long = [&[HANDSHAKE_RECORD, 3, 1, 0xff, 0xff, CLIENT_HELLO, 0, 0x40, 0][..], &[0; 100]].concat();
        let trailing = {
            let mut hello = real_hello("files.example");
            hello.push(0);
            let size = u16::try_from(hello.len() - 5).unwrap().to_be_bytes();
            hello[3..5].copy_from_slice(&size);
            hello
        };
        for bytes in
            [&b"GET / HTTP/1.1"[..], b"\x16\x03\x01\0\0", b"\x16\x03\x01\0\x05\x02", &long, &trailing]
        {
            assert_eq!(ClientHello::parse(bytes), Err(NotClientHello), "{}", bytes.escape_ascii());
        }
    }

    proptest! {
        #[test]
        fn a_broken_hello_never_panics(name in "[a-z]{1,40}", at: usize, byte: u8, size in 1_usize..300) {
            let mut hello = cut(&real_hello(&name), size);
            let at = at % hello.len();
            hello[at] = byte;
            if let Ok(Some(read)) = ClientHello::parse(&hello) {
                prop_assert!(read.length <= hello.len());
            }
        }

        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = ClientHello::parse(&[&[HANDSHAKE_RECORD, 3, 1, 0, 200, CLIENT_HELLO, 0], &bytes[..]].concat());
        }
    }
}
