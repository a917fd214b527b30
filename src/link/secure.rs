//! A TCP connection whose TLS handshake is done, as a stream of bytes: TLS 1.3 records over one socket, in both
//! directions (RFC 8446 §5). Many records pass in one system call, and each byte is moved once on its way.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::ClientConnectionData;
use rustls::kernel::KernelConnection;
use rustls::server::ServerConnectionData;
use rustls::{AlertDescription, ConnectionTrafficSecrets, ExtractedSecrets};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use super::buffer::Buffer;
use super::connection::Wire;
use super::queue::Queue;
use super::record::{Content, HEADER, LARGEST_PLAIN, OVERHEAD, Opener, RecordError, Sealer};
use super::steps::Steps;

/// A piece of this size gets records of its own and is never copied; smaller ones are put together.
const OWN_RECORD: usize = 4 * 1024;
/// As many sealed bytes wait for the socket at most, so that the last record still fits into the buffer.
const MOST_SEALED: usize = Steps::MOST_AT_ONCE / 4 * 3;

const KEY_UPDATE: u8 = 24;
const NEW_SESSION_TICKET: u8 = 4;
const FATAL: u8 = 2;

/// What rustls keeps of the handshake: it derives the next keys (RFC 8446 §7.2).
pub(super) enum Schedule {
    /// The client's end.
    Client(KernelConnection<ClientConnectionData>),
    /// The server's end.
    Server(KernelConnection<ServerConnectionData>),
}

/// The stream. Dropping it closes the socket without a farewell, which the other end takes for a failure.
pub struct Secure {
    tcp: TcpStream,
    schedule: Schedule,
    opener: Opener,
    sealer: Sealer,
    /// So many records may be made with one key.
    most_sealed_with_a_key: u64,
    received: Buffer,
    /// How many bytes at the front of `received`, after a header, are opened already, and what follows them there of
    /// their record.
    opened: Option<(usize, usize)>,
    sealed: Buffer,
    queue: Arc<Queue>,
    since_turn: usize,
    update_wanted: bool,
    peer_closed: bool,
    closing: bool,
}

impl Secure {
    /// A stream over `tcp` with the keys of a finished handshake. `received` has come after it already, and `early`
    /// is what of that rustls has opened.
    pub(super) fn new(
        tcp: TcpStream,
        secrets: ExtractedSecrets,
        schedule: Schedule,
        early: &[u8],
        received: &[u8],
    ) -> io::Result<Self> {
        let limit = match &schedule {
            Schedule::Client(kernel) => kernel.negotiated_cipher_suite(),
            Schedule::Server(kernel) => kernel.negotiated_cipher_suite(),
        };
        let most_sealed_with_a_key =
            limit.tls13().map_or(0, |suite| suite.common.confidentiality_limit).saturating_sub(1024);
        let ExtractedSecrets { tx: (sent, tx), rx: (seen, rx) } = secrets;
        let mut stream = Self {
            tcp,
            schedule,
            opener: Opener::new(seen, &rx).map_err(invalid)?,
            sealer: Sealer::new(sent, &tx).map_err(invalid)?,
            most_sealed_with_a_key,
            received: Buffer::default(),
            opened: None,
            sealed: Buffer::default(),
            queue: Arc::default(),
            since_turn: 0,
            update_wanted: false,
            peer_closed: false,
            closing: false,
        };
        if !early.is_empty() {
            stream.opened = Some((early.len(), 0));
        }
        for bytes in [early, received] {
            stream.received.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
            stream.received.fill(bytes.len());
        }
        Ok(stream)
    }

    /// What waits to be sealed.
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Changes the sending key more often than it must be.
    #[cfg(test)]
    pub(super) fn change_keys_after(&mut self, records: u64) {
        self.most_sealed_with_a_key = records;
    }

    /// Opens what has been received into the front of `out`, at most `most` bytes, and as little as possible by way of a
    /// copy. Gives how many; none when a whole record is wanting.
    fn open_some(&mut self, out: &mut [u8], most: usize) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            if let Some((opened, rest)) = self.opened {
                let count = opened.min(most - filled);
                out[filled..filled + count].copy_from_slice(&self.received.filled()[..count]);
                filled += count;
                if count < opened {
                    self.received.consume(count);
                    self.opened = Some((opened - count, rest));
                    return Ok(filled);
                }
                self.received.consume(count + rest);
                self.opened = None;
            }
            if self.peer_closed || filled == most {
                return Ok(filled);
            }
            let length = match Opener::length(self.received.filled()).map_err(|error| self.fail(error))? {
                Some(length) if length <= self.received.filled().len() => length,
                _ => return Ok(filled),
            };
            // What is no padding fits if this does; padding is never sent here.
            let room = Opener::room(length);
            let fits = room <= most - filled + 1 && room <= out.len() - filled;
            if !fits && filled > 0 {
                return Ok(filled);
            }
            let record = &mut self.received.filled_mut()[..length];
            if fits {
                let space = &mut out[filled..filled + room];
                match self.opener.open_into(record, space) {
                    Ok((Content::Data, count)) => {
                        filled += count;
                        self.received.consume(length);
                    }
                    Ok((content, count)) => {
                        let message = space[..count].to_vec();
                        self.received.consume(length);
                        self.message(content, &message)?;
                    }
                    Err(error) => return Err(self.fail(error)),
                }
            } else {
                match self.opener.open_within(record) {
                    Ok((Content::Data, count)) => {
                        self.received.consume(HEADER);
                        self.opened = Some((count, length - HEADER - count));
                    }
                    Ok((content, count)) => {
                        let message = record[HEADER..HEADER + count].to_vec();
                        self.received.consume(length);
                        self.message(content, &message)?;
                    }
                    Err(error) => return Err(self.fail(error)),
                }
            }
        }
    }

    /// What is not the application's: an alert (RFC 8446 §6) or a message after the handshake (§4.6).
    fn message(&mut self, content: Content, message: &[u8]) -> io::Result<()> {
        match (content, message) {
            (Content::Alert, [_, description]) => match AlertDescription::from(*description) {
                AlertDescription::CloseNotify => {
                    self.peer_closed = true;
                    Ok(())
                }
                AlertDescription::UserCanceled => Ok(()),
                description => Err(invalid(rustls::Error::AlertReceived(description))),
            },
            (Content::Handshake, [KEY_UPDATE, 0, 0, 1, wanted @ (0 | 1)]) => {
                let (sequence, secrets) = match &mut self.schedule {
                    Schedule::Client(kernel) => kernel.update_rx_secret(),
                    Schedule::Server(kernel) => kernel.update_rx_secret(),
                }
                .map_err(invalid)?;
                self.opener = Opener::new(sequence, &secrets).map_err(invalid)?;
                self.update_wanted |= *wanted == 1;
                Ok(())
            }
            // Sessions are not resumed here.
            (Content::Handshake, [NEW_SESSION_TICKET, ..])
                if matches!(self.schedule, Schedule::Client(_)) =>
            {
                Ok(())
            }
            _ => Err(self.fail(RecordError::Unexpected)),
        }
    }

    /// Tells the other end why it is over, if the socket takes that at once.
    fn fail(&mut self, error: RecordError) -> io::Error {
        if !self.closing {
            self.closing = true;
            let description = match error {
                RecordError::Altered => AlertDescription::BadRecordMac,
                RecordError::TooLong => AlertDescription::RecordOverflow,
                RecordError::Unexpected => AlertDescription::UnexpectedMessage,
                RecordError::Cipher => AlertDescription::InternalError,
            };
            self.seal(Content::Alert, &[&[FATAL, description.into()]]);
            // The connection is over either way.
            let _ = self.tcp.try_write(self.sealed.filled());
        }
        invalid(error)
    }

    fn seal(&mut self, content: Content, parts: &[&[u8]]) {
        let plain: usize = parts.iter().map(|part| part.len()).sum();
        let length = self.sealer.seal(content, parts, self.sealed.room(plain + OVERHEAD));
        self.sealed.fill(length);
    }

    /// Changes the sending key when it has been used enough, or when the other end asks for that.
    fn update_key(&mut self) -> io::Result<()> {
        if !self.update_wanted && self.sealer.sealed() < self.most_sealed_with_a_key {
            return Ok(());
        }
        self.update_wanted = false;
        self.seal(Content::Handshake, &[&[KEY_UPDATE, 0, 0, 1, 0]]);
        let next: Result<(u64, ConnectionTrafficSecrets), _> = match &mut self.schedule {
            Schedule::Client(kernel) => kernel.update_tx_secret(),
            Schedule::Server(kernel) => kernel.update_tx_secret(),
        };
        let (sequence, secrets) = next.map_err(invalid)?;
        self.sealer = Sealer::new(sequence, &secrets).map_err(invalid)?;
        Ok(())
    }

    /// Seals as much of `slices` as may wait for the socket; gives how much.
    fn seal_some(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut count, most) = (0, self.queue.steps().at_once().min(MOST_SEALED));
        let mut slices = slices.iter().map(|slice| &slice[..]).filter(|slice| !slice.is_empty()).peekable();
        while let Some(slice) = slices.next() {
            self.update_key()?;
            if slice.len() >= OWN_RECORD {
                for part in slice.chunks(LARGEST_PLAIN) {
                    if self.sealed.filled().len() >= most {
                        return Ok(count);
                    }
                    self.seal(Content::Data, &[part]);
                    count += part.len();
                }
                continue;
            }
            if self.sealed.filled().len() >= most {
                return Ok(count);
            }
            // At most four small pieces, so no more than one record.
            let mut parts = [slice, &[], &[], &[]];
            let mut used = 1;
            while let Some(next) = slices.next_if(|next| used < parts.len() && next.len() < OWN_RECORD) {
                parts[used] = next;
                used += 1;
            }
            self.seal(Content::Data, &parts[..used]);
            count += parts.iter().map(|part| part.len()).sum::<usize>();
        }
        Ok(count)
    }

    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        while !self.sealed.filled().is_empty() {
            let sent = Pin::new(&mut self.tcp).poll_write(cx, self.sealed.filled());
            self.queue.sent(sent.is_ready());
            let sent = ready!(sent)?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sealed.consume(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A whole record must fit.
        let missing = match Opener::length(self.received.filled()) {
            Ok(Some(length)) => length - self.received.filled().len(),
            _ => HEADER,
        };
        let most = self.queue.steps().at_once().max(missing);
        let room = self.received.room(missing);
        let most = most.min(room.len());
        let mut room = ReadBuf::new(&mut room[..most]);
        let received = match Pin::new(&mut self.tcp).poll_read(cx, &mut room) {
            Poll::Ready(result) => result.map(|()| room.filled().len()),
            Poll::Pending => {
                self.since_turn = 0;
                return Poll::Pending;
            }
        }?;
        if received == 0 {
            // An end without a farewell: what came may not be all.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.received.fill(received);
        self.queue.steps().passed(received);
        self.since_turn += received;
        Poll::Ready(Ok(()))
    }
}

impl Wire for Secure {
    fn poll_receive_into(
        &mut self,
        out: &mut [u8],
        most: usize,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<usize>> {
        loop {
            let count = self.open_some(out, most)?;
            if count > 0 || self.peer_closed {
                return Poll::Ready(Ok(count));
            }
            // What has been received is still in the processor's cache when others, who have their turn now, pass it on.
            if self.since_turn >= self.queue.steps().at_once() {
                self.since_turn = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(self.poll_receive(cx))?;
        }
    }
}

#[cfg(test)]
impl tokio::io::AsyncRead for Secure {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, out: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = out.remaining();
        let count = ready!(self.get_mut().poll_receive_into(out.initialize_unfilled(), most, cx))?;
        out.advance(count);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Secure {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        loop {
            let count = this.seal_some(slices)?;
            this.queue.left(count);
            this.queue.steps().passed(count);
            if count > 0 || slices.iter().all(|slice| slice.is_empty()) {
                return Poll::Ready(Ok(count));
            }
            ready!(this.poll_send(cx))?;
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.get_mut().poll_send(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.closing {
            this.closing = true;
            this.seal(Content::Alert, &[&[1, AlertDescription::CloseNotify.into()]]);
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
