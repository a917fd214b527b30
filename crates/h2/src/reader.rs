//! Splits the bytes of the peer into frames. The payload of DATA is received directly into the buffer that its reader gets.

use bytes::Bytes;

use super::frame::{self, END_HEADERS, END_STREAM, HEAD, Head, Kind, PREFACE, PRIORITY_FLAG};
use super::{Config, Reason, Side};
use laneway_limits::buffer_pool::PooledBuffer;

/// How many frames one header block may come in.
const MAX_BLOCK_FRAMES: u32 = 64;

/// The frames of one connection, as far as they have arrived.
pub(super) struct Reader {
    max_frame_size: u32,
    /// The most bytes of an encoded header block: as many as its fields may have.
    max_block_size: usize,
    partial: Partial,
    /// A header block that goes on in the next frame.
    block: Option<HeaderBlock>,
}

/// What is being received, and how many bytes of it are there.
enum Partial {
    Preface([u8; PREFACE.len()], usize),
    Head([u8; HEAD], usize),
    Data(Head, PooledBuffer, usize),
    Payload(Head, Vec<u8>, usize),
}

const NEXT: Partial = Partial::Head([0; HEAD], 0);

/// An encoded header block.
pub(super) struct HeaderBlock {
    pub(super) stream: u32,
    pub(super) ends: bool,
    pub(super) bytes: Vec<u8>,
    /// How many frames it came in so far.
    frames: u32,
}

/// What was received.
pub(super) enum Received {
    /// No frame is complete yet.
    Nothing,
    /// A DATA frame with its payload without padding.
    Data(Head, Bytes),
    /// All frames of a header block.
    Headers(HeaderBlock),
    /// Any other frame with its payload.
    Frame(Head, Vec<u8>),
}

impl Reader {
    /// A reader that has received nothing.
    pub(super) fn new(side: Side, config: &Config) -> Self {
        let partial = match side {
            Side::Client => NEXT,
            Side::Server => Partial::Preface([0; PREFACE.len()], 0),
        };
        Self {
            max_frame_size: config.max_frame_size,
            max_block_size: config.max_header_list_size as usize,
            partial,
            block: None,
        }
    }

    /// The memory, in bytes, of what has arrived of unfinished frames and header blocks.
    pub(super) fn memory(&self) -> usize {
        let partial = match &self.partial {
            Partial::Preface(..) | Partial::Head(..) => 0,
            Partial::Data(_, buffer, _) => buffer.memory(),
            Partial::Payload(_, bytes, _) => bytes.capacity(),
        };
        partial + self.block.as_ref().map_or(0, |block| block.bytes.capacity())
    }

    /// The room for the next bytes, and the most that may be put there; the room itself may be longer.
    pub(super) fn room(&mut self) -> (&mut [u8], usize) {
        match &mut self.partial {
            Partial::Preface(bytes, count) => (&mut bytes[*count..], PREFACE.len() - *count),
            Partial::Head(bytes, count) => (&mut bytes[*count..], HEAD - *count),
            Partial::Data(head, buffer, count) => {
                (&mut buffer.room()[*count..], head.length as usize - *count)
            }
            Partial::Payload(head, bytes, count) => (&mut bytes[*count..], head.length as usize - *count),
        }
    }

    /// Takes `count` bytes that were put into the room.
    ///
    /// # Errors
    /// When they break the protocol.
    pub(super) fn fill(&mut self, count: usize) -> Result<Received, Reason> {
        let (filled, length) = match &mut self.partial {
            Partial::Preface(_, filled) => (filled, PREFACE.len()),
            Partial::Head(_, filled) => (filled, HEAD),
            Partial::Data(head, _, filled) | Partial::Payload(head, _, filled) => {
                (filled, head.length as usize)
            }
        };
        *filled += count;
        let filled = *filled;
        if let Partial::Preface(bytes, _) = &self.partial
            && bytes[..filled] != PREFACE[..filled]
        {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if filled < length {
            return Ok(Received::Nothing);
        }
        match std::mem::replace(&mut self.partial, NEXT) {
            Partial::Preface(..) => Ok(Received::Nothing),
            Partial::Head(bytes, _) => self.begin(Head::parse(bytes)),
            Partial::Data(head, mut buffer, length) => {
                let (start, end) = frame::unpad(&head, &buffer.room()[..length])?;
                Ok(Received::Data(head, buffer.part(start..end)))
            }
            Partial::Payload(head, payload, _) => self.finish(head, payload),
        }
    }

    /// Checks a frame header, and makes room for the payload.
    fn begin(&mut self, head: Head) -> Result<Received, Reason> {
        if head.length > self.max_frame_size {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let unfinished = self.block.as_ref().map(|block| block.stream);
        if unfinished.is_some() != (head.kind == Kind::Continuation)
            || unfinished.is_some_and(|stream| stream != head.stream)
        {
            return Err(Reason::PROTOCOL_ERROR);
        }
        let before = self.block.as_ref().map_or(0, |block| block.bytes.len());
        let is_block = matches!(head.kind, Kind::Headers | Kind::Continuation);
        if is_block && before + head.length as usize > self.max_block_size {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.partial = match (head.kind, head.length) {
            (Kind::Data, 0) if head.has(frame::PADDED) => return Err(Reason::FRAME_SIZE_ERROR),
            (Kind::Data, 0) => return Ok(Received::Data(head, Bytes::new())),
            (_, 0) => return self.finish(head, Vec::new()),
            (Kind::Data, length) => Partial::Data(head, PooledBuffer::take(length as usize), 0),
            (_, length) => Partial::Payload(head, vec![0; length as usize], 0),
        };
        Ok(Received::Nothing)
    }

    /// Takes a frame that is not DATA.
    fn finish(&mut self, head: Head, payload: Vec<u8>) -> Result<Received, Reason> {
        let block = match (head.kind, self.block.take()) {
            (Kind::Headers, _) => {
                let (start, end) = frame::unpad(&head, &payload)?;
                let start = if head.has(PRIORITY_FLAG) { start + 5 } else { start };
                let is_padded = head.has(frame::PADDED);
                let fault = if is_padded { Reason::PROTOCOL_ERROR } else { Reason::FRAME_SIZE_ERROR };
                let bytes = payload.get(start..end).ok_or(fault)?.to_vec();
                HeaderBlock { stream: head.stream, ends: head.has(END_STREAM), bytes, frames: 1 }
            }
            (_, Some(mut block)) => {
                block.bytes.extend_from_slice(&payload);
                block.frames += 1;
                block
            }
            (_, None) => return Ok(Received::Frame(head, payload)),
        };
        if head.has(END_HEADERS) {
            return Ok(Received::Headers(block));
        }
        // Empty frames would never reach the bound on their bytes.
        if block.frames == MAX_BLOCK_FRAMES {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        self.block = Some(block);
        Ok(Received::Nothing)
    }
}
