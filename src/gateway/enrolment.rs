//! Enrolment of machines that join the group, on the node that holds the authority's key.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;

use super::strangers::Strangers;
use crate::failure::with_causes;
use crate::limited;
use crate::limits::lines::NOBODY;
use crate::link::handshake::Hello;
use crate::trust::authority::Authority;
use crate::trust::join::{self, EXPORTER_LABEL, JoinError};

/// The deadline for closing the TLS connection after the exchange.
const SHUTDOWN: Duration = Duration::from_secs(10);

/// How many bytes of the answer are encrypted before the joiner takes them.
const STEP: usize = 4 * 1024;

/// Enrols one machine if it proves that it was invited. `deadline` bounds the TLS handshake. Returns
/// whether the machine was admitted.
pub(super) async fn enrol(
    hello: Hello,
    config: Arc<ServerConfig>,
    authority: &Authority,
    strangers: &Strangers,
    address: SocketAddr,
    deadline: Instant,
) -> bool {
    let tls = timeout_at(deadline, TlsAcceptor::from(config).accept(hello.into_bounded())).await;
    let tls = tls.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    let mut tls = match tls {
        Ok(tls) => tls,
        Err(error) => {
            strangers.log.handshake_failed(address, &error);
            return false;
        }
    };
    tls.get_mut().1.set_buffer_limit(Some(STEP));
    let Ok(exporter) = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None) else {
        return false;
    };
    let delay = || strangers.wrong_proofs.delay(address.ip());
    let outcome = join::serve_in_turn(&mut tls, &exporter, authority, (&strangers.admissions, delay)).await;
    match &outcome {
        Ok(member) => {
            let (name, id, role) = (&member.name, member.id.short(), member.role);
            limited!(info, member.id, %address, name, id, %role, "member admitted");
        }
        // Only somebody with a code gets this far, and the operator must act.
        Err(error @ (JoinError::Authority(_) | JoinError::Stopped)) => {
            let reason = with_causes(error);
            limited!(warn, NOBODY, %address, reason, "member not admitted");
        }
        Err(error) => strangers.log.not_admitted(address, &with_causes(error)),
    }
    let _ = timeout(SHUTDOWN, tls.shutdown()).await;
    outcome.is_ok()
}
