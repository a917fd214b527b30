//! A TCP connection after its TLS handshake, as a stream of bytes: TLS 1.3 records over one socket in both directions
//! (RFC 8446 §5). One system call moves many records, and each byte is copied once at most.

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
use super::receiving::{Message, Receiving};
use super::record::{Content, MAX_PLAIN, OVERHEAD, Opener, RecordError, Sealer};
use super::steps::Steps;
use laneway_sys::net;

/// A piece of at least this many bytes gets records of its own and is not copied; smaller ones share a record.
const OWN_RECORD: usize = 4 * 1024;
/// How many sealed bytes wait for the socket at most: the record that exceeds it still fits into the buffer.
const MAX_SEALED: usize = Steps::MAX_AT_ONCE / 4 * 3;

const KEY_UPDATE: u8 = 24;
const FATAL: u8 = 2;

/// The state of rustls after the handshake, which derives the next keys (RFC 8446 §7.2).
pub(super) enum Schedule {
    /// The client's end.
    Client(KernelConnection<ClientConnectionData>),
    /// The server's end.
    Server(KernelConnection<ServerConnectionData>),
}

/// The stream. If it is dropped without [`AsyncWrite::poll_shutdown`], the other end takes the end for a failure.
pub struct Secure {
    tcp: TcpStream,
    schedule: Schedule,
    receiving: Receiving,
    /// How many bytes were received since other tasks had a chance to run.
    since_yield: usize,
    sending: Sending,
    queue: Arc<Queue>,
}

/// The sending direction.
struct Sending {
    sealer: Sealer,
    /// How many records may be sealed with one key.
    max_records_per_key: u64,
    /// What is sealed, and waits for the socket.
    buffer: Buffer,
    /// The peer has asked for a new key (RFC 8446 §4.6.3).
    update_wanted: bool,
    /// An alert was sealed that ends this direction.
    closing: bool,
}

impl Drop for Secure {
    fn drop(&mut self) {
        self.queue.close();
    }
}

impl Secure {
    /// A stream over `tcp` with the keys of a finished handshake. `early` was received after it and opened by rustls already;
    /// `received` follows, and is not opened yet.
    pub(super) fn new(
        tcp: TcpStream,
        secrets: ExtractedSecrets,
        schedule: Schedule,
        early: &[u8],
        received: &[u8],
    ) -> io::Result<Self> {
        let suite = match &schedule {
            Schedule::Client(kernel) => kernel.negotiated_cipher_suite(),
            Schedule::Server(kernel) => kernel.negotiated_cipher_suite(),
        };
        let limit = suite.tls13().map_or(0, |suite| suite.common.confidentiality_limit);
        let ExtractedSecrets { tx: (sent, tx), rx: (seen, rx) } = secrets;
        let is_client = matches!(schedule, Schedule::Client(_));
        let opener = Opener::new(seen, &rx).map_err(invalid)?;
        let mut receiving = Receiving::new(opener, is_client, early);
        receiving.put(received);
        Ok(Self {
            tcp,
            schedule,
            receiving,
            since_yield: 0,
            sending: Sending {
                sealer: Sealer::new(sent, &tx).map_err(invalid)?,
                max_records_per_key: limit.saturating_sub(1024),
                buffer: Buffer::default(),
                update_wanted: false,
                closing: false,
            },
            queue: Arc::default(),
        })
    }

    /// The queue of bytes that wait to be sealed.
    pub(super) fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    /// Changes the sending key more often than it must be.
    #[cfg(test)]
    pub(super) fn change_keys_after(&mut self, records: u64) -> u64 {
        std::mem::replace(&mut self.sending.max_records_per_key, records)
    }

    /// Opens what was received into the front of `out`, at most `most` bytes. Returns how many; none when no whole record is
    /// there.
    fn open_some(&mut self, out: &mut [u8], most: usize) -> io::Result<usize> {
        let mut filled = 0;
        loop {
            let opened = self.receiving.open(&mut out[filled..], most - filled);
            let (count, message) = opened.map_err(|error| self.fail(error))?;
            filled += count;
            match message {
                None => return Ok(filled),
                Some(Message::Alert(description)) => {
                    return Err(invalid(rustls::Error::AlertReceived(description)));
                }
                Some(Message::KeyUpdate(is_wanted)) => {
                    let next = match &mut self.schedule {
                        Schedule::Client(kernel) => kernel.update_rx_secret(),
                        Schedule::Server(kernel) => kernel.update_rx_secret(),
                    };
                    let (sequence, secrets) = next.map_err(invalid)?;
                    self.receiving.change_key(Opener::new(sequence, &secrets).map_err(invalid)?);
                    self.sending.update_wanted |= is_wanted;
                }
            }
        }
    }

    /// Sends the alert that says what is wrong, if the socket takes it at once.
    fn fail(&mut self, error: RecordError) -> io::Error {
        if !self.sending.closing {
            self.sending.closing = true;
            self.seal(Content::Alert, &[&[FATAL, error.alert().into()]]);
            // The connection is over either way.
            let _ = self.tcp.try_write(self.sending.buffer.filled());
        }
        invalid(error)
    }

    /// Ends the connection because the peer is no longer a member, with the alert that says so (RFC 8446 §6.2).
    pub async fn refuse_revoked(mut self) {
        self.seal(Content::Alert, &[&[FATAL, AlertDescription::CertificateRevoked.into()]]);
        // The connection is over either way.
        let _ = self.tcp.try_write(self.sending.buffer.filled());
        net::linger(&self.tcp).await;
    }

    fn seal(&mut self, content: Content, parts: &[&[u8]]) {
        let plain: usize = parts.iter().map(|part| part.len()).sum();
        let length = self.sending.sealer.seal(content, parts, self.sending.buffer.room(plain + OVERHEAD));
        self.sending.buffer.fill(length);
    }

    /// Changes the sending key when it is used up, or when the other end asks for that.
    fn update_key(&mut self) -> io::Result<()> {
        if !self.sending.update_wanted && self.sending.sealer.sealed() < self.sending.max_records_per_key {
            return Ok(());
        }
        self.sending.update_wanted = false;
        self.seal(Content::Handshake, &[&[KEY_UPDATE, 0, 0, 1, 0]]);
        let next: Result<(u64, ConnectionTrafficSecrets), _> = match &mut self.schedule {
            Schedule::Client(kernel) => kernel.update_tx_secret(),
            Schedule::Server(kernel) => kernel.update_tx_secret(),
        };
        let (sequence, secrets) = next.map_err(invalid)?;
        self.sending.sealer = Sealer::new(sequence, &secrets).map_err(invalid)?;
        Ok(())
    }

    /// Seals as much of `slices` as may wait for the socket. Returns how many bytes that were.
    fn seal_some(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let (mut count, most) = (0, self.queue.steps().at_once().min(MAX_SEALED));
        let mut slices = slices.iter().map(|slice| &slice[..]).filter(|slice| !slice.is_empty()).peekable();
        while let Some(slice) = slices.next() {
            self.update_key()?;
            if slice.len() >= OWN_RECORD {
                for part in slice.chunks(MAX_PLAIN) {
                    if self.sending.buffer.filled().len() >= most {
                        return Ok(count);
                    }
                    self.seal(Content::Data, &[part]);
                    count += part.len();
                }
                continue;
            }
            if self.sending.buffer.filled().len() >= most {
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
        while !self.sending.buffer.filled().is_empty() {
            let sent = Pin::new(&mut self.tcp).poll_write(cx, self.sending.buffer.filled());
            self.queue.socket_took(sent.is_ready());
            let sent = ready!(sent)?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.sending.buffer.consume(sent);
        }
        Poll::Ready(Ok(()))
    }

    fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        // A whole record must fit.
        let missing = self.receiving.missing();
        let most = self.queue.steps().at_once().max(missing);
        let room = self.receiving.buffer.room(missing);
        let most = most.min(room.len());
        let mut room = ReadBuf::new(&mut room[..most]);
        let received = match Pin::new(&mut self.tcp).poll_read(cx, &mut room) {
            Poll::Ready(result) => result.map(|()| room.filled().len()),
            Poll::Pending => {
                self.since_yield = 0;
                return Poll::Pending;
            }
        }?;
        if received == 0 {
            // An end without close_notify: what was received may not be all.
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        self.receiving.buffer.fill(received);
        self.queue.steps().passed(received);
        self.since_yield += received;
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
            if count > 0 || self.receiving.has_ended {
                return Poll::Ready(Ok(count));
            }
            // What was received is still in the processor's cache when the tunnels' tasks, which run now, pass it on.
            if self.since_yield >= self.queue.steps().at_once() {
                self.since_yield = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            ready!(self.poll_receive(cx))?;
        }
    }

    fn memory(&self) -> usize {
        self.receiving.buffer.memory() + self.sending.buffer.memory()
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
            this.queue.sealed(count);
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
        if !this.sending.closing {
            this.sending.closing = true;
            this.seal(Content::Alert, &[&[1, AlertDescription::CloseNotify.into()]]);
        }
        ready!(this.poll_send(cx))?;
        Pin::new(&mut this.tcp).poll_shutdown(cx)
    }
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
