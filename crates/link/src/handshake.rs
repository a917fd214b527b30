//! The TLS handshake of a link. rustls does all of it, including verification; afterwards the keys go to the record layer of
//! [`Secure`].

use std::io::{self, Cursor};
use std::sync::Arc;

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::{Acceptor, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, UnbufferedStatus};
use rustls::{ClientConfig, CommonState, Error, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpStream;

use super::secure::{Schedule, Secure};
use super::tls::Service;
use laneway_sys::net;

/// How many bytes one read takes.
const READ: usize = 4 * 1024;
/// The longest ClientHello, in bytes with the headers of its records: one with a key share of ML-KEM has about 1,800. Anyone
/// who connects can make this node hold twice as much in each of some thousand handshakes.
const MAX_HELLO: usize = 4 * 1024;
/// The alert `no_application_protocol` (RFC 8446 §6, RFC 7301 §3.2) in a record of its own.
const NO_SUCH_SERVICE: [u8; 7] = [21, 3, 3, 0, 2, 2, 120];
/// The longest flight after the ClientHello, in bytes: a group's certificates have a few hundred.
const MAX_FLIGHT: usize = 8 * 1024;

/// A connection whose ends have verified each other.
pub struct Proved {
    /// The stream of bytes.
    pub stream: Secure,
    /// The verified certificates of the other end.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// The client's end.
///
/// # Errors
/// An error of the socket, or why one end does not trust the other.
pub async fn connect(
    tcp: TcpStream,
    config: Arc<ClientConfig>,
    name: ServerName<'static>,
) -> io::Result<Proved> {
    let session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
    Handshake { tcp, session: Session::Client(session), received: Vec::new() }.complete().await
}

/// A connection that has sent its ClientHello.
pub struct Hello {
    /// The socket.
    pub tcp: TcpStream,
    /// What was read from it: the ClientHello, and perhaps more.
    pub received: Vec<u8>,
    /// What it requests; none when that is unknown.
    pub service: Option<Service>,
}

impl Hello {
    /// Reads the ClientHello. The caller sets the deadline.
    ///
    /// # Errors
    /// An error of the socket, or that this is not TLS.
    pub async fn read(mut tcp: TcpStream) -> io::Result<Self> {
        let mut acceptor = Acceptor::default();
        let mut received = Vec::with_capacity(1024);
        loop {
            let seen = received.len();
            if seen >= MAX_HELLO {
                return Err(invalid("the ClientHello is too long"));
            }
            if tcp.read_buf(&mut received).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            let mut fresh = &received[seen..];
            while !fresh.is_empty() {
                acceptor.read_tls(&mut fresh)?;
                match acceptor.accept() {
                    Ok(Some(hello)) => {
                        let service = Service::requested_by(&hello.client_hello());
                        return Ok(Self { tcp, received, service });
                    }
                    Ok(None) => {}
                    Err((error, mut alert)) => {
                        let mut bytes = Vec::new();
                        alert.write_all(&mut bytes)?;
                        // The connection is refused whether the alert is sent or not.
                        let _ = tcp.try_write(&bytes);
                        return Err(invalid(error));
                    }
                }
            }
        }
    }

    /// Tells the client that this node does not serve what it requests, and closes the connection.
    pub async fn refuse(self) {
        // The connection is refused whether the alert is sent or not.
        let _ = self.tcp.try_write(&NO_SUCH_SERVICE);
        net::linger(&self.tcp).await;
    }

    /// The connection for protocols that only exchange a message or two. rustls would take in handshake messages of 64 KiB from
    /// anyone who connects, so it gets no more bytes than such a protocol needs.
    pub fn into_bounded(mut self) -> impl AsyncRead + AsyncWrite + Unpin {
        let most = MAX_HELLO + MAX_FLIGHT;
        // It is kept until the end.
        self.received.shrink_to_fit();
        let (reader, writer) = self.tcp.into_split();
        tokio::io::join(Cursor::new(self.received).chain(reader).take(most as u64), writer)
    }

    /// The server's end of a link.
    ///
    /// # Errors
    /// An error of the socket, or why one end does not trust the other.
    pub async fn accept(self, config: Arc<ServerConfig>) -> io::Result<Proved> {
        let session = UnbufferedServerConnection::new(config).map_err(invalid)?;
        let Self { tcp, received, .. } = self;
        Handshake { tcp, session: Session::Server(session), received }.complete().await
    }
}

enum Session {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// What the session needs next.
enum Step {
    /// Another call.
    Again,
    /// To have its output sent.
    Send,
    /// More input.
    Receive,
    /// Nothing, because the handshake is done.
    Done,
}

struct Handshake {
    tcp: TcpStream,
    session: Session,
    received: Vec<u8>,
}

impl Handshake {
    async fn complete(mut self) -> io::Result<Proved> {
        let (mut sending, mut early) = (Vec::new(), Vec::new());
        loop {
            match self.session.step(&mut self.received, &mut sending, &mut early) {
                Ok(Step::Again) => {}
                Ok(Step::Send) => {
                    self.tcp.write_all(&sending).await?;
                    sending.clear();
                }
                Ok(Step::Receive) => {
                    if self.received.len() + early.len() > MAX_FLIGHT {
                        return Err(invalid("the handshake is too long"));
                    }
                    self.received.reserve(READ);
                    if self.tcp.read_buf(&mut self.received).await? == 0 {
                        return Err(io::ErrorKind::UnexpectedEof.into());
                    }
                }
                Ok(Step::Done) => break,
                Err(error) => {
                    // All that the session can still do is to write an alert that says why.
                    while self.session.state().wants_write() {
                        self.session.step(&mut self.received, &mut sending, &mut early).map_err(invalid)?;
                    }
                    let _ = self.tcp.try_write(&sending);
                    if let Session::Server(_) = self.session {
                        // The client ends its handshake before it is verified, and may have sent more. Closing the socket
                        // with that unread would reset the connection, and the alert would be lost.
                        net::linger(&self.tcp).await;
                    }
                    return Err(invalid(error));
                }
            }
        }
        let certificates = self.session.state().peer_certificates().unwrap_or_default();
        let certificates = certificates.iter().map(|one| one.clone().into_owned()).collect();
        let (secrets, schedule) = match self.session {
            Session::Client(session) => {
                let (secrets, kernel) = session.dangerous_into_kernel_connection().map_err(invalid)?;
                (secrets, Schedule::Client(kernel))
            }
            Session::Server(session) => {
                let (secrets, kernel) = session.dangerous_into_kernel_connection().map_err(invalid)?;
                (secrets, Schedule::Server(kernel))
            }
        };
        let stream = Secure::new(self.tcp, secrets, schedule, &early, &self.received)?;
        Ok(Proved { stream, certificates })
    }
}

impl Session {
    fn state(&self) -> &CommonState {
        match self {
            Self::Client(session) => session,
            Self::Server(session) => session,
        }
    }

    /// Takes one step. Removes what it used from `received`, and appends output to `sending` and application data to `early`.
    fn step(
        &mut self,
        received: &mut Vec<u8>,
        sending: &mut Vec<u8>,
        early: &mut Vec<u8>,
    ) -> Result<Step, Error> {
        let (used, step) = match self {
            Self::Client(session) => advance(session.process_tls_records(received), sending, early),
            Self::Server(session) => advance(session.process_tls_records(received), sending, early),
        };
        received.drain(..used);
        match step? {
            Step::Done if self.state().is_handshaking() => Ok(Step::Receive),
            step => Ok(step),
        }
    }
}

fn advance<Side>(
    status: UnbufferedStatus<'_, '_, Side>,
    sending: &mut Vec<u8>,
    early: &mut Vec<u8>,
) -> (usize, Result<Step, Error>) {
    let mut used = status.discard;
    let step = match status.state {
        Ok(ConnectionState::EncodeTlsData(mut flight)) => {
            let at = sending.len();
            if let Err(EncodeError::InsufficientSize(size)) = flight.encode(&mut []) {
                sending.resize(at + size.required_size, 0);
                flight.encode(&mut sending[at..]).map_err(|error| Error::General(error.to_string()))
            } else {
                Ok(0)
            }
            .map(|_written| Step::Again)
        }
        Ok(ConnectionState::TransmitTlsData(flight)) => {
            flight.done();
            Ok(Step::Send)
        }
        Ok(ConnectionState::ReadTraffic(mut traffic)) => {
            let mut read = Ok(Step::Again);
            while let Some(record) = traffic.next_record() {
                match record {
                    Ok(record) => {
                        used += record.discard;
                        early.extend_from_slice(record.payload);
                    }
                    Err(error) => read = Err(error),
                }
            }
            read
        }
        Ok(ConnectionState::BlockedHandshake) => Ok(Step::Receive),
        Ok(ConnectionState::WriteTraffic(_)) => Ok(Step::Done),
        Ok(state) => Err(Error::General(format!("the connection is over: {state:?}"))),
        Err(error) => Err(error),
    };
    (used, step)
}

fn invalid(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests;
