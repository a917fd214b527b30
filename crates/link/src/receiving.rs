//! The receiving direction of the record layer (RFC 8446 §5), without I/O: records go in, and application data comes out, or a
//! message that concerns the connection.

use rustls::AlertDescription;

use super::buffer::Buffer;
use super::record::{Content, HEADER, Opener, RecordError};

/// How many records in a row may carry no application data: empty ones, alerts that end nothing, changes of the key. An honest
/// peer sends one or two.
const MAX_WITHOUT_DATA: u32 = 32;
/// How many times the peer may change its key, and how many bytes of application data earn it one more change. A change costs
/// about as much processor time as opening so many bytes; AES-GCM needs one in 2^24 records (RFC 8446 §5.5).
const KEY_CHANGES: u64 = 256;
const BYTES_PER_KEY_CHANGE: u64 = 64 * 1024;

const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;

/// The receiving direction.
pub(super) struct Receiving {
    opener: Opener,
    /// What was received, and not handed to the caller yet.
    pub(super) buffer: Buffer,
    /// How many bytes at the front of the buffer are opened already, and how many of their record follow them.
    opened: Option<(usize, usize)>,
    /// The peer has sent its close_notify.
    pub(super) has_ended: bool,
    /// Tickets may arrive.
    is_client: bool,
    /// How many records without application data came last, in a row.
    without_data: u32,
    /// How many times the peer may change its key now, and the bytes that have earned it no change yet.
    key_changes: u64,
    uncounted: u64,
}

/// What is not application data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// An alert that ends the connection (RFC 8446 §6.2).
    Alert(AlertDescription),
    /// The peer's next record has its next key (§4.6.3): [`Receiving::change_key`] before anything else. True when it asks for
    /// a new key of this end.
    KeyUpdate(bool),
}

impl Receiving {
    /// A direction whose first bytes, `early`, were opened already.
    pub(super) fn new(opener: Opener, is_client: bool, early: &[u8]) -> Self {
        let mut receiving = Self {
            opener,
            buffer: Buffer::default(),
            opened: (!early.is_empty()).then_some((early.len(), 0)),
            has_ended: false,
            is_client,
            without_data: 0,
            key_changes: KEY_CHANGES,
            uncounted: 0,
        };
        receiving.put(early);
        receiving
    }

    /// Adds a copy of bytes that were received.
    pub(super) fn put(&mut self, bytes: &[u8]) {
        self.buffer.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.buffer.fill(bytes.len());
    }

    /// Opens the records that follow with another key.
    pub(super) fn change_key(&mut self, opener: Opener) {
        self.opener = opener;
    }

    /// How many bytes the record at the front lacks; at least those of a header.
    pub(super) fn missing(&self) -> usize {
        match Opener::length(self.buffer.filled()) {
            Ok(Some(length)) => length - self.buffer.filled().len(),
            _ => HEADER,
        }
    }

    /// Opens what was received into the front of `out`, at most `most` bytes, with as few copies as possible. Returns how many,
    /// and the message that follows them; neither when no whole record is there.
    ///
    /// # Errors
    /// When the peer broke the protocol, or sends too much that is not data. The connection is over.
    pub(super) fn open(
        &mut self,
        out: &mut [u8],
        most: usize,
    ) -> Result<(usize, Option<Message>), RecordError> {
        let mut filled = 0;
        loop {
            if let Some((opened, rest)) = self.opened {
                let count = opened.min(most - filled);
                out[filled..filled + count].copy_from_slice(&self.buffer.filled()[..count]);
                filled += count;
                if count < opened {
                    self.buffer.consume(count);
                    self.opened = Some((opened - count, rest));
                    return Ok((filled, None));
                }
                self.buffer.consume(count + rest);
                self.opened = None;
            }
            if self.has_ended || filled == most {
                return Ok((filled, None));
            }
            let length = match Opener::length(self.buffer.filled())? {
                Some(length) if length <= self.buffer.filled().len() => length,
                _ => return Ok((filled, None)),
            };
            // The content fits if the record has no padding, which neither end sends.
            let room = Opener::room(length);
            let fits = room <= most - filled + 1 && room <= out.len() - filled;
            if !fits && filled > 0 {
                return Ok((filled, None));
            }
            let record = &mut self.buffer.filled_mut()[..length];
            let (content, count) = if fits {
                self.opener.open_into(record, &mut out[filled..filled + room])?
            } else {
                self.opener.open_within(record)?
            };
            if content == Content::Data {
                if fits {
                    filled += count;
                    self.buffer.consume(length);
                } else {
                    self.buffer.consume(HEADER);
                    self.opened = Some((count, length - HEADER - count));
                }
                self.count_data(count)?;
                continue;
            }
            let opened = if fits { &out[filled..] } else { &record[HEADER..] };
            let message = opened[..count].to_vec();
            self.buffer.consume(length);
            if let Some(message) = self.message(content, &message)? {
                return Ok((filled, Some(message)));
            }
        }
    }

    fn count_data(&mut self, count: usize) -> Result<(), RecordError> {
        if count == 0 {
            return self.count_without_data();
        }
        self.without_data = 0;
        self.uncounted += count as u64;
        Ok(())
    }

    fn count_without_data(&mut self) -> Result<(), RecordError> {
        self.without_data += 1;
        if self.without_data > MAX_WITHOUT_DATA { Err(RecordError::TooMany) } else { Ok(()) }
    }

    fn count_key_change(&mut self) -> Result<(), RecordError> {
        let earned = self.uncounted / BYTES_PER_KEY_CHANGE;
        self.uncounted %= BYTES_PER_KEY_CHANGE;
        self.key_changes = (self.key_changes + earned).min(KEY_CHANGES);
        self.key_changes = self.key_changes.checked_sub(1).ok_or(RecordError::TooMany)?;
        Ok(())
    }

    /// An alert (RFC 8446 §6) or a message after the handshake (§4.6). None when there is nothing to do about it.
    fn message(&mut self, content: Content, message: &[u8]) -> Result<Option<Message>, RecordError> {
        self.count_without_data()?;
        match (content, message) {
            // §5.4.
            (_, []) => Err(RecordError::Unexpected),
            (Content::Alert, [_, description]) => match AlertDescription::from(*description) {
                AlertDescription::CloseNotify => {
                    self.has_ended = true;
                    Ok(None)
                }
                AlertDescription::UserCanceled => Ok(None),
                description => Ok(Some(Message::Alert(description))),
            },
            (Content::Alert, _) => Err(RecordError::Malformed),
            (Content::Handshake, [KEY_UPDATE, 0, 0, 1, wanted @ (0 | 1)]) => {
                self.count_key_change()?;
                Ok(Some(Message::KeyUpdate(*wanted == 1)))
            }
            (Content::Handshake, [KEY_UPDATE, 0, 0, 1, _]) => Err(RecordError::Illegal),
            // The key changes with the next record, so that nothing may follow in this one (§5.1).
            (Content::Handshake, [KEY_UPDATE, 0, 0, 1, _, _, ..]) => Err(RecordError::Unexpected),
            (Content::Handshake, [KEY_UPDATE, ..]) => Err(RecordError::Malformed),
            // Sessions are not resumed here.
            (Content::Handshake, [NEW_SESSION_TICKET, ..]) if self.is_client => Ok(None),
            _ => Err(RecordError::Unexpected),
        }
    }
}

#[cfg(test)]
mod tests;
