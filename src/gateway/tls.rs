//! TLS from a gateway to the servers of fronts: the roots of this system and those that are configured, checked as any client
//! of HTTPS does.

use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, IpAddr, ServerName};
use rustls::{CertificateError, ClientConfig, ClientConnection, RootCertStore};
use tokio::net::TcpStream;
use tokio::sync::OnceCell;
use tokio::time::timeout;

use crate::failure::{Failure, Kind, Side, with_causes};
use crate::limits::buffer_pool::PooledBuffer;
use crate::link::tls::words;
use crate::problem::Problem;
use crate::sys::blocking;
use crate::sys::state::quoted;
use crate::wire::target::{Host, Target};

/// How long a server may take for the handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);

/// How many bytes are encrypted before the server takes them.
const SENDING: usize = 16 * 1024;

/// What a gateway needs for TLS to servers. The roots of the system are read when they are first needed.
#[derive(Default)]
pub struct ServerTls {
    own_roots: Vec<CertificateDer<'static>>,
    config: OnceCell<Arc<ClientConfig>>,
}

/// A connection to a server over TLS.
pub(super) struct SecureStream {
    socket: TcpStream,
    tls: Mutex<ClientConnection>,
}

impl ServerTls {
    /// Trusts the certificates in these PEM files beside the roots of the system. A file that cannot be used is logged: most of
    /// what a gateway does needs none.
    pub fn new(files: &[PathBuf]) -> Self {
        let mut own_roots = Vec::new();
        for file in files {
            match roots(file) {
                Ok(certificates) => own_roots.extend(certificates),
                Err(problem) => {
                    let reason = problem.to_string().replace('\n', "; ");
                    tracing::warn!(reason, "fronts go without these certificate authorities");
                }
            }
        }
        Self { own_roots, config: OnceCell::new() }
    }

    async fn config(&self) -> Result<Arc<ClientConfig>, Failure> {
        let build = || async {
            let own = self.own_roots.clone();
            let built = blocking::run(move || config(own)).await;
            let failed = |why: String| Failure::new(Kind::Certificate, Side::Gateway, why);
            built.map_err(|error| failed(error.to_string()))?.map_err(|error| failed(with_causes(&error)))
        };
        self.config.get_or_try_init(build).await.cloned()
    }

    /// Makes TLS over a connection to `target`.
    ///
    /// # Errors
    /// [`Kind::Certificate`] when the server's certificate is not valid for the target's host; other kinds when the server does
    /// not speak TLS, or takes too long.
    pub(super) async fn connect(&self, socket: TcpStream, target: &Target) -> Result<SecureStream, Failure> {
        let config = self.config().await?;
        let name = match &target.host {
            Host::Name(name) => {
                ServerName::try_from(name.trim_end_matches('.').to_owned()).map_err(|error| {
                    Failure::new(
                        Kind::Certificate,
                        Side::Gateway,
                        format!("{target} can have no certificate: {error}"),
                    )
                })?
            }
            Host::Address(ip) => ServerName::IpAddress(IpAddr::from(*ip)),
        };
        let failed = |error: io::Error| tls_failure(target, &error);
        let mut tls = ClientConnection::new(config, name).map_err(|error| failed(io::Error::other(error)))?;
        tls.set_buffer_limit(Some(SENDING));
        let stream = SecureStream { socket, tls: Mutex::new(tls) };
        match timeout(HANDSHAKE, stream.handshake()).await {
            Ok(done) => done.map_err(failed).map(|()| stream),
            Err(_late) => {
                let sentence =
                    format!("{target} did not answer the TLS handshake within {} s", HANDSHAKE.as_secs());
                Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence))
            }
        }
    }
}

/// The certificates in a PEM file of `--front-ca`.
///
/// # Errors
/// When it cannot be read, or has none.
pub fn roots(file: &Path) -> Result<Vec<CertificateDer<'static>>, Problem> {
    const FORM: &str = "the file has certificates in PEM form: -----BEGIN CERTIFICATE-----";
    let read = CertificateDer::pem_file_iter(file).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let unusable = Problem::usage(format!("--front-ca {} cannot be used", quoted(file)));
    match read {
        Ok(certificates) if certificates.is_empty() => Err(unusable.hint(FORM)),
        Ok(certificates) => Ok(certificates),
        Err(pem::Error::Io(error)) => Err(unusable
            .because(error)
            .hint("put the file there, readable for the node's user, or name another one; then start the node again")),
        Err(error) => Err(unusable.because(error).hint(FORM)),
    }
}

fn config(own: Vec<CertificateDer<'static>>) -> Result<Arc<ClientConfig>, rustls::Error> {
    let found = rustls_native_certs::load_native_certs();
    for error in &found.errors {
        tracing::warn!(%error, "certificates of the system are not usable");
    }
    let mut roots = RootCertStore::empty();
    let (added, ignored) = roots.add_parsable_certificates(found.certs);
    tracing::debug!(added, ignored, "roots of the system for the fronts' servers");
    for certificate in own {
        roots.add(certificate)?;
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let mut config = config.with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn tls_failure(target: &Target, error: &io::Error) -> Failure {
    let tls = error.get_ref().and_then(|error| error.downcast_ref::<rustls::Error>());
    match tls {
        Some(rustls::Error::InvalidCertificate(why)) => {
            let why = match why {
                CertificateError::UnknownIssuer => {
                    "it was not issued by an authority that the gateway trusts".to_owned()
                }
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    "it has expired by the gateway's clock".to_owned()
                }
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                    "it is for another name".to_owned()
                }
                other => words::certificate(other),
            };
            let remedy = match why.contains("(CA:TRUE)") {
                true => "give the server another one, with CA:FALSE; if its issuer is your own, name that",
                false => "if its issuer is your own, name it",
            };
            let sentence = format!(
                "the certificate of {target} is not valid: {why}; {remedy} with --front-ca FILE on the gateway"
            );
            Failure::new(Kind::Certificate, Side::Server, sentence)
        }
        Some(error) => Failure::new(
            Kind::BadResponse,
            Side::Server,
            format!("no TLS with {target}: {}", words::said(error)),
        ),
        None => {
            Failure::new(Kind::Terminated, Side::Server, format!("{target} ended the TLS handshake: {error}"))
        }
    }
}

/// The socket, as rustls reads and writes it.
struct Direct<'a>(&'a TcpStream);

impl Read for Direct<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buffer)
    }
}

impl Write for Direct<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl SecureStream {
    /// The socket below.
    pub(super) fn socket(&self) -> &TcpStream {
        &self.socket
    }

    fn tls(&self) -> MutexGuard<'_, ClientConnection> {
        self.tls.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what is to be sent, as far as the socket takes it. Returns whether all was taken.
    fn flush(&self, tls: &mut ClientConnection) -> io::Result<bool> {
        while tls.wants_write() {
            match tls.write_tls(&mut Direct(&self.socket)) {
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        Ok(true)
    }

    fn receive(&self, tls: &mut ClientConnection) -> io::Result<usize> {
        let count = tls.read_tls(&mut Direct(&self.socket))?;
        let processed = tls.process_new_packets().map_err(io::Error::other);
        // An alert tells the server why.
        let flushed = self.flush(tls);
        processed?;
        flushed.map(|_| count)
    }

    async fn handshake(&self) -> io::Result<()> {
        loop {
            let is_flushed = {
                let mut tls = self.tls();
                let is_flushed = self.flush(&mut tls)?;
                if is_flushed && !tls.is_handshaking() {
                    return Ok(());
                }
                match self.receive(&mut tls) {
                    Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                    Ok(_) => continue,
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => is_flushed,
                    Err(error) => return Err(error),
                }
            };
            if is_flushed {
                self.socket.readable().await?;
            } else {
                tokio::select! {
                    ready = self.socket.readable() => ready?,
                    ready = self.socket.writable() => ready?,
                }
            }
        }
    }

    /// Reads what is there; 0 at the orderly end. An end that the server has not announced is an error, because it could be
    /// anybody's.
    pub(super) fn try_read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut tls = self.tls();
        loop {
            match tls.reader().read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                read => return read,
            }
            self.receive(&mut tls)?;
        }
    }

    /// Waits for data and reads at most `most` bytes. Returns a buffer and their number; none is held while it waits.
    pub(super) async fn read(&self, most: usize) -> io::Result<(PooledBuffer, usize)> {
        tokio::task::consume_budget().await;
        loop {
            let mut buffer = PooledBuffer::take(most);
            match self.try_read(&mut buffer.room()[..most]) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => drop(buffer),
                read => return read.map(|count| (buffer, count)),
            }
            self.socket.readable().await?;
        }
    }

    /// Sends all of `bytes`.
    pub(super) async fn write_all(&self, mut bytes: &[u8]) -> io::Result<()> {
        tokio::task::consume_budget().await;
        loop {
            let is_flushed = {
                let mut tls = self.tls();
                let count = tls.writer().write(bytes)?;
                bytes = &bytes[count..];
                self.flush(&mut tls)?
            };
            match (is_flushed, bytes.is_empty()) {
                (true, true) => return Ok(()),
                (true, false) => {}
                (false, _) => self.socket.writable().await?,
            }
        }
    }

    /// Tells the server that nothing follows.
    pub(super) fn close(&self) {
        let mut tls = self.tls();
        tls.send_close_notify();
        // Fails only on a connection that is gone.
        let _ = self.flush(&mut tls);
    }
}
