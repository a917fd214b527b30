//! The wire format of HTTP/2 frames (RFC 9113 §4 and §6).

use super::Reason;

/// The first bytes that a client sends (RFC 9113 §3.4).
pub(super) const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// The length of a frame header, in bytes.
pub(super) const HEAD: usize = 9;
/// The largest frame payload before any setting, in bytes, and the least that may be announced.
pub(super) const MIN_FRAME_SIZE: u32 = 1 << 14;
/// The largest frame payload that may be announced, in bytes.
pub(super) const MAX_FRAME_SIZE: u32 = (1 << 24) - 1;
/// The largest window, in bytes (RFC 9113 §6.9.1).
pub(super) const MAX_WINDOW: u32 = (1 << 31) - 1;
/// The highest stream number (RFC 9113 §5.1.1); the bit above it is reserved.
pub(super) const MAX_STREAM_ID: u32 = (1 << 31) - 1;
/// The window before any setting, in bytes.
pub(super) const FIRST_WINDOW: u32 = 65_535;

/// Of DATA and HEADERS: nothing follows in this direction.
pub(super) const END_STREAM: u8 = 0x1;
/// Of SETTINGS and PING: an answer.
pub(super) const ACK: u8 = 0x1;
/// Of HEADERS and CONTINUATION: the header block ends with this frame.
pub(super) const END_HEADERS: u8 = 0x4;
/// Of DATA and HEADERS: the payload begins with the length of the padding at its end.
pub(super) const PADDED: u8 = 0x8;
/// Of HEADERS: five bytes of priority precede the header block.
pub(super) const PRIORITY_FLAG: u8 = 0x20;

/// The type of a frame. Unknown ones are ignored (RFC 9113 §5.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Data = 0,
    Headers = 1,
    Priority = 2,
    ResetStream = 3,
    Settings = 4,
    PushPromise = 5,
    Ping = 6,
    GoAway = 7,
    WindowUpdate = 8,
    Continuation = 9,
    Unknown = 0xff,
}

/// The header of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Head {
    /// The length of the payload.
    pub(super) length: u32,
    pub(super) kind: Kind,
    pub(super) flags: u8,
    /// 0 for the whole connection.
    pub(super) stream: u32,
}

impl Head {
    /// Parses a frame header.
    pub(super) fn parse(bytes: [u8; HEAD]) -> Self {
        let [l0, l1, l2, kind, flags, stream @ ..] = bytes;
        let kind = match kind {
            0 => Kind::Data,
            1 => Kind::Headers,
            2 => Kind::Priority,
            3 => Kind::ResetStream,
            4 => Kind::Settings,
            5 => Kind::PushPromise,
            6 => Kind::Ping,
            7 => Kind::GoAway,
            8 => Kind::WindowUpdate,
            9 => Kind::Continuation,
            _ => Kind::Unknown,
        };
        let length = u32::from_be_bytes([0, l0, l1, l2]);
        Self { length, kind, flags, stream: u32::from_be_bytes(stream) & MAX_STREAM_ID }
    }

    /// The encoded header.
    pub(super) fn bytes(self) -> [u8; HEAD] {
        let [_, l0, l1, l2] = self.length.to_be_bytes();
        let [s0, s1, s2, s3] = self.stream.to_be_bytes();
        [l0, l1, l2, self.kind as u8, self.flags, s0, s1, s2, s3]
    }

    /// Whether `flag` is set.
    pub(super) fn has(&self, flag: u8) -> bool {
        self.flags & flag != 0
    }

    /// Whether nothing follows in this direction of the stream.
    pub(super) fn ends_stream(&self) -> bool {
        self.has(END_STREAM)
    }
}

/// Appends a whole frame.
pub(super) fn write(out: &mut Vec<u8>, kind: Kind, flags: u8, stream: u32, payload: &[u8]) {
    let length = u32::try_from(payload.len()).expect("this end sends no longer frames than 2^24 bytes");
    out.extend_from_slice(&Head { length, kind, flags, stream }.bytes());
    out.extend_from_slice(payload);
}

/// The start and end of a payload without its padding (RFC 9113 §6.1).
///
/// # Errors
/// When the padding is longer than the payload.
pub(super) fn unpad(head: &Head, payload: &[u8]) -> Result<(usize, usize), Reason> {
    if !head.has(PADDED) {
        return Ok((0, payload.len()));
    }
    let padding = payload.first().ok_or(Reason::FRAME_SIZE_ERROR)?;
    let end = payload.len().checked_sub(usize::from(*padding)).filter(|end| *end >= 1);
    Ok((1, end.ok_or(Reason::PROTOCOL_ERROR)?))
}

/// A payload that is one number of four bytes.
///
/// # Errors
/// When it is longer or shorter.
pub(super) fn number(payload: &[u8]) -> Result<u32, Reason> {
    payload.try_into().map(u32::from_be_bytes).map_err(|_length| Reason::FRAME_SIZE_ERROR)
}

/// The parameters of SETTINGS (RFC 9113 §6.5.2, RFC 8441 §3). Those that are `None` keep their value.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Settings {
    /// The size of the HPACK table; the smallest one, if several are named (RFC 7541 §4.2).
    pub(super) table: Option<u32>,
    pub(super) push: Option<bool>,
    pub(super) streams: Option<u32>,
    pub(super) window: Option<u32>,
    pub(super) frame: Option<u32>,
    pub(super) fields: Option<u32>,
    pub(super) extended_connect: Option<bool>,
}

impl Settings {
    /// Parses a payload. Unknown parameters are ignored.
    ///
    /// # Errors
    /// When a value is not allowed.
    pub(super) fn parse(payload: &[u8]) -> Result<Self, Reason> {
        let (settings, []) = payload.as_chunks::<6>() else { return Err(Reason::FRAME_SIZE_ERROR) };
        let mut read = Self::default();
        for [i0, i1, value @ ..] in settings {
            let value = u32::from_be_bytes(*value);
            let flag = || match value {
                0 | 1 => Ok(value == 1),
                _ => Err(Reason::PROTOCOL_ERROR),
            };
            match u16::from_be_bytes([*i0, *i1]) {
                1 => read.table = Some(read.table.map_or(value, |other| other.min(value))),
                2 => read.push = Some(flag()?),
                3 => read.streams = Some(value),
                4 if value > MAX_WINDOW => return Err(Reason::FLOW_CONTROL_ERROR),
                4 => read.window = Some(value),
                5 if !(MIN_FRAME_SIZE..=MAX_FRAME_SIZE).contains(&value) => {
                    return Err(Reason::PROTOCOL_ERROR);
                }
                5 => read.frame = Some(value),
                6 => read.fields = Some(value),
                // It may not be taken back (RFC 8441 §3).
                8 if read.extended_connect == Some(true) && value == 0 => return Err(Reason::PROTOCOL_ERROR),
                8 => read.extended_connect = Some(flag()?),
                _ => {}
            }
        }
        Ok(read)
    }

    /// Appends the frame.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        let settings = [
            (1, self.table),
            (2, self.push.map(u32::from)),
            (3, self.streams),
            (4, self.window),
            (5, self.frame),
            (6, self.fields),
            (8, self.extended_connect.map(u32::from)),
        ];
        let mut payload = Vec::new();
        for (id, value) in settings {
            if let Some(value) = value {
                payload.extend_from_slice(&u16::to_be_bytes(id));
                payload.extend_from_slice(&value.to_be_bytes());
            }
        }
        write(out, Kind::Settings, 0, 0, &payload);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn heads_and_settings_survive_the_round_trip(
            length in 0..=MAX_FRAME_SIZE, flags: u8, stream in 0..=MAX_STREAM_ID,
            push: Option<bool>, streams: Option<u32>, window in prop::option::of(0..=MAX_WINDOW),
            frame in prop::option::of(MIN_FRAME_SIZE..=MAX_FRAME_SIZE), fields: Option<u32>, table: Option<u32>,
        ) {
            let head = Head { length, kind: Kind::Data, flags, stream };
            prop_assert_eq!(Head::parse(head.bytes()), head);
            let settings = Settings { table, push, streams, window, frame, fields, extended_connect: push };
            let mut written = Vec::new();
            settings.write(&mut written);
            prop_assert_eq!(Settings::parse(&written[HEAD..]), Ok(settings));
        }

        #[test]
        fn arbitrary_payloads_never_panic(payload in prop::collection::vec(any::<u8>(), 0..60), flags: u8) {
            let _ = (Settings::parse(&payload), number(&payload));
            let head = Head { length: 0, kind: Kind::Data, flags, stream: 1 };
            if let Ok((start, end)) = unpad(&head, &payload) {
                prop_assert!(start <= end && end <= payload.len());
            }
        }
    }

    #[test]
    fn settings_with_values_that_are_not_allowed_are_errors() {
        let with = |id: u8, value: u32| Settings::parse(&[&[0, id][..], &value.to_be_bytes()].concat());
        assert_eq!(with(2, 2), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(with(4, MAX_WINDOW + 1), Err(Reason::FLOW_CONTROL_ERROR));
        assert_eq!(with(5, MIN_FRAME_SIZE - 1), Err(Reason::PROTOCOL_ERROR));
        assert_eq!(with(99, 7), Ok(Settings::default()));
        assert_eq!(Settings::parse(&[0; 7]), Err(Reason::FRAME_SIZE_ERROR));
    }
}
