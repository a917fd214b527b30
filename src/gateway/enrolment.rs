//! Enrolment of machines that join the group, on the node that holds the authority's key.

use std::io::{self, Cursor};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use crate::failure::with_causes;
use crate::limits::rate::{PerSource, Rate, network_of};
use crate::link::handshake::Hello;
use crate::trust::authority::Authority;
use crate::trust::join::{self, EXPORTER_LABEL, MAX_DELAY};

/// Wrong proofs of one source that are answered at once. Each one beyond that is answered after [`SLOWED`]. No source is
/// locked out and no invite is: the 128 bits of a secret cannot be guessed, and a right proof never waits.
const WRONG_PROOFS: Rate = Rate::new(3, Duration::from_secs(60));
/// How long a source with too many wrong proofs waits for its answer to the next one.
const SLOWED: Duration = MAX_DELAY;
/// The deadline for closing the TLS connection after the exchange.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// The wrong proofs of each source: an IPv4 address or an IPv6 /64.
pub struct WrongProofs(Mutex<PerSource>);

/// Enrols one machine if it proves that it was invited. `deadline` bounds the TLS handshake.
pub(super) async fn enrol(
    hello: Hello,
    config: Arc<ServerConfig>,
    authority: &Authority,
    wrong: &WrongProofs,
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
    let Ok(exporter) = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None) else {
        return;
    };
    match join::serve_slowing(&mut tls, &exporter, authority, || wrong.delay(address.ip())).await {
        Ok(member) => {
            let (name, id, role) = (member.name, member.id.short(), member.role);
            tracing::info!(%address, name, id, %role, "member admitted");
        }
        Err(error) => {
            let reason = with_causes(&error);
            tracing::warn!(%address, reason, "member not admitted");
        }
    }
    let _ = timeout(SHUTDOWN, tls.shutdown()).await;
}

impl WrongProofs {
    /// Counts a wrong proof. Returns how long its answer is delayed.
    fn delay(&self, source: IpAddr) -> Duration {
        let mut wrong = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let answered_at_once = wrong.take(network_of(source), Instant::now().into_std());
        if answered_at_once { Duration::ZERO } else { SLOWED }
    }
}

impl Default for WrongProofs {
    fn default() -> Self {
        Self(Mutex::new(PerSource::new(WRONG_PROOFS)))
    }
}
