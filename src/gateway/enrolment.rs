//! Enrolment of machines that join the group, on the node that holds the authority's key.

use std::io::{self, Cursor};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::failure::with_causes;
use crate::limits::rate::{PerSource, Rate};
use crate::link::handshake::Hello;
use crate::trust::authority::{Authority, InviteError};
use crate::trust::join::{self, EXPORTER_LABEL, JoinError};

/// Wrong proofs of an invite's secret that one address may send. An invite is locked after ten wrong proofs, and one
/// machine alone must not be able to cause that.
const WRONG_PROOFS: Rate = Rate::new(3, Duration::from_secs(300));
/// How long a joiner waits for a free attempt while other joiners of its address use theirs.
const ATTEMPT_WAIT: Duration = Duration::from_secs(2);
/// Interval between two tries to take a free attempt.
const ATTEMPT_POLL_INTERVAL: Duration = Duration::from_millis(50);
/// The deadline for closing the TLS connection after the exchange.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// The attempts to prove an invite's secret that each source address has left.
pub struct ProofAttempts(Mutex<PerSource>);

/// Enrols one machine if it proves that it was invited. `deadline` bounds the TLS handshake.
pub(super) async fn enrol(
    hello: Hello,
    config: Arc<ServerConfig>,
    authority: &Authority,
    attempts: &ProofAttempts,
    address: SocketAddr,
    deadline: Instant,
) {
    let (reader, writer) = hello.tcp.into_split();
    let socket = tokio::io::join(Cursor::new(hello.received).chain(reader), writer);
    let tls = timeout_at(deadline, TlsAcceptor::from(config).accept(socket)).await;
    let tls = tls.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    let mut tls = match tls {
        Ok(tls) => tls,
        Err(error) => return tracing::warn!(%address, %error, "TLS handshake failed"),
    };
    // Taken before the proof is checked and given back unless it was wrong, so that parallel connections do not get
    // around the limit.
    if !attempts.take(address.ip()).await {
        tracing::warn!(%address, "member not admitted: too many wrong proofs from this address");
        return drop(timeout_at(deadline, join::refuse(&mut tls, InviteError::TooMany)).await);
    }
    let Ok(exporter) = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None) else {
        return;
    };
    match join::serve(&mut tls, &exporter, authority).await {
        Ok(member) => {
            attempts.give_back(address.ip());
            let (name, id, role) = (member.name, member.id.short(), member.role);
            tracing::info!(%address, name, id, %role, "member admitted");
        }
        Err(error) => {
            if !matches!(error, JoinError::Refused(InviteError::WrongProof)) {
                attempts.give_back(address.ip());
            }
            let reason = with_causes(&error);
            tracing::warn!(%address, reason, "member not admitted");
        }
    }
    let _ = timeout(SHUTDOWN, tls.shutdown()).await;
}

impl ProofAttempts {
    /// Takes one attempt, waiting up to [`ATTEMPT_WAIT`]: those in use may be given back by honest joiners behind the
    /// same address. `false` when none became free.
    async fn take(&self, source: IpAddr) -> bool {
        let until = Instant::now() + ATTEMPT_WAIT;
        while !self.lock().take(source, Instant::now().into_std()) {
            if Instant::now() >= until {
                return false;
            }
            tokio::time::sleep(ATTEMPT_POLL_INTERVAL).await;
        }
        true
    }

    fn give_back(&self, source: IpAddr) {
        self.lock().give_back(source);
    }

    fn lock(&self) -> MutexGuard<'_, PerSource> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for ProofAttempts {
    fn default() -> Self {
        Self(Mutex::new(PerSource::new(WRONG_PROOFS)))
    }
}
