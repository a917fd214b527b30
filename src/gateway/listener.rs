//! Accepts links, and machines that want to join. One handshake never waits for another.

use std::collections::HashMap;
use std::io::{self, Cursor};
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rustls::ServerConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::serve::Gateway;
use crate::link::handshake::{Hello, Proved};
use crate::link::tls::{Credentials, Service};
use crate::net;
use crate::peers::rate::{PerSource, Rate};
use crate::trust::authority::{Authority, Refusal};
use crate::trust::join::{self, EXPORTER_LABEL, JoinError};

/// The deadline of a TLS handshake.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// The deadline of the first message of it: who says nothing is not waited for.
const HELLO: Duration = Duration::from_secs(3);
/// How many handshakes may be in progress; who comes then is turned away.
const MOST_HANDSHAKES: usize = 2048;
/// How many of them from one address: one machine alone cannot keep the others out.
const MOST_PER_SOURCE: usize = 64;

/// How often one address may be wrong about the secret of an invite. An invite is locked after ten wrong proofs: one
/// machine alone must not be able to do that.
const GUESSES: Rate = Rate(3, Duration::from_secs(300));

/// How long a joiner waits while others of its address are being looked at, and how often it looks.
const GUESS_PATIENCE: Duration = Duration::from_secs(2);
const GUESS_LOOK: Duration = Duration::from_millis(50);

/// The wrong proofs that each address has left.
pub struct Guesses(Mutex<PerSource>);

/// What the LAN port of this node serves.
pub struct LinkPort {
    /// Links, unless this node is a client only.
    pub gateway: Option<(Arc<Gateway>, Arc<Credentials>)>,
    /// Enrolment, where the group's authority is.
    pub authority: Option<(Authority, Arc<ServerConfig>)>,
    /// How often each address may still be wrong about the secret of an invite.
    pub guesses: Guesses,
    /// The runtimes that serve links: each link stays on one.
    pub workers: Vec<Handle>,
    /// The tasks of the links.
    pub tasks: TaskTracker,
    /// When it is cancelled, nothing more is accepted.
    pub drain: CancellationToken,
}

impl LinkPort {
    /// Accepts until the node drains.
    pub async fn run(self: Arc<Self>, listener: TcpListener) {
        let places = Arc::new(Places::default());
        for worker in self.workers.iter().cycle() {
            let (socket, address) = tokio::select! {
                accepted = net::accept(&listener) => accepted,
                () = self.drain.cancelled() => return,
            };
            let Some(place) = Places::take(&places, address.ip()) else {
                tracing::debug!(%address, "turned away: too many handshakes");
                continue;
            };
            net::tune_link(&socket);
            // A socket belongs to the runtime that it was made on: it moves as a plain one.
            let Ok(socket) = socket.into_std() else { continue };
            let port = self.clone();
            let task = async move {
                let Ok(socket) = TcpStream::from_std(socket) else { return };
                let deadline = Instant::now() + HANDSHAKE;
                let Some(hello) = hello(socket, address).await else { return };
                match (hello.service, &port.gateway, &port.authority) {
                    (Some(Service::Link), Some((gateway, credentials)), _) => {
                        let config = match credentials.server() {
                            Ok(config) => config,
                            Err(error) => return tracing::error!(%error, "links cannot be accepted"),
                        };
                        let Some(proved) = prove(hello, config, address, deadline).await else { return };
                        drop(place);
                        gateway.clone().serve(proved, address).await;
                    }
                    // Nobody has proved anything yet: enrolment keeps the place.
                    (Some(Service::Join), _, Some((authority, config))) => {
                        admit(hello, config.clone(), authority, &port.guesses, address, deadline).await;
                    }
                    _ => tracing::debug!(%address, "asked for what this node does not serve"),
                }
            };
            worker.spawn(self.tasks.track_future(task));
        }
    }
}

async fn hello(socket: TcpStream, address: SocketAddr) -> Option<Hello> {
    let hello = timeout(HELLO, Hello::read(socket)).await;
    let hello = hello.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    hello.inspect_err(|error| tracing::debug!(%address, %error, "no TLS")).ok()
}

async fn prove(
    hello: Hello,
    config: Arc<ServerConfig>,
    address: SocketAddr,
    deadline: Instant,
) -> Option<Proved> {
    let proved = timeout_at(deadline, hello.accept(config)).await;
    let proved = proved.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    proved.inspect_err(|error| tracing::warn!(%address, %error, "handshake refused")).ok()
}

/// Enrols one machine, if it proves that it was invited.
async fn admit(
    hello: Hello,
    config: Arc<ServerConfig>,
    authority: &Authority,
    guesses: &Guesses,
    address: SocketAddr,
    deadline: Instant,
) {
    let (reader, writer) = hello.tcp.into_split();
    let socket = tokio::io::join(Cursor::new(hello.received).chain(reader), writer);
    let tls = timeout_at(deadline, TlsAcceptor::from(config).accept(socket)).await;
    let tls = tls.unwrap_or_else(|_late| Err(io::ErrorKind::TimedOut.into()));
    let mut tls = match tls {
        Ok(tls) => tls,
        Err(error) => return tracing::warn!(%address, %error, "handshake refused"),
    };
    // Taken first and given back for what was no guess, so that many at a time are no way around it.
    if !guesses.take(address.ip()).await {
        tracing::warn!(%address, "member not admitted: too many wrong proofs from this address");
        return drop(timeout_at(deadline, join::refuse(&mut tls, Refusal::TooMany)).await);
    }
    let Ok(exporter) = tls.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None) else {
        return;
    };
    match join::serve(&mut tls, &exporter, authority).await {
        Ok(member) => {
            guesses.lock().give_back(address.ip());
            let (name, id, role) = (member.name, member.id.short(), member.role);
            tracing::info!(%address, name, id, %role, "member admitted");
        }
        Err(error) => {
            if !matches!(error, JoinError::Refused(Refusal::WrongProof)) {
                guesses.lock().give_back(address.ip());
            }
            let reason = format!("{:#}", anyhow::Error::new(error));
            tracing::warn!(%address, reason, "member not admitted");
        }
    }
    let _ = timeout(HANDSHAKE, tls.shutdown()).await;
}

impl Guesses {
    /// Takes one, once there is one: the others may be with joiners of the same address that are no guessers.
    async fn take(&self, source: IpAddr) -> bool {
        let patience = Instant::now() + GUESS_PATIENCE;
        while !self.lock().take(source, Instant::now().into_std()) {
            if Instant::now() >= patience {
                return false;
            }
            tokio::time::sleep(GUESS_LOOK).await;
        }
        true
    }

    fn lock(&self) -> MutexGuard<'_, PerSource> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Default for Guesses {
    fn default() -> Self {
        Self(Mutex::new(PerSource::new(GUESSES)))
    }
}

/// The handshakes in progress, by source.
#[derive(Default)]
struct Places(Mutex<HashMap<IpAddr, usize>>);

/// One of them, until it is dropped.
struct Place(Arc<Places>, IpAddr);

impl Places {
    fn take(places: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut taken = places.lock();
        if taken.values().sum::<usize>() >= MOST_HANDSHAKES {
            return None;
        }
        let mine = taken.entry(source).or_default();
        if *mine >= MOST_PER_SOURCE {
            return None;
        }
        *mine += 1;
        Some(Place(places.clone(), source))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.0.lock();
        if let Some(mine) = taken.get_mut(&self.1) {
            *mine -= 1;
            if *mine == 0 {
                taken.remove(&self.1);
            }
        }
    }
}
