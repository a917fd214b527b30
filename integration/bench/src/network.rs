//! Network namespaces, and what every connection in them has in common: the congestion control and the buffer limits.

use crate::isolate;
use anyhow::{Context, Result, bail, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use socket2::SockRef;
use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

/// The congestion control of all sockets. A host's default may be another, which costs relays up to 40%.
pub(crate) const CONGESTION_CONTROL: &str = "cubic";

/// Settings of every namespace: many ports for consecutive connections, and no metrics of earlier connections (the kernel
/// would begin the next peer's connections with the last peer's losses). Nothing else is changed.
const SETTINGS: [(&str, &str); 4] = [
    ("ip_local_port_range", "16384 65535"),
    ("tcp_tw_reuse", "1"),
    ("tcp_max_syn_backlog", "4096"),
    ("tcp_no_metrics_save", "1"),
];

/// How long a single attempt to connect may take.
const PATIENCE: Duration = Duration::from_secs(1);

/// A network namespace.
#[derive(Clone)]
pub(crate) struct Namespace(Arc<File>);

impl Namespace {
    /// This process's namespace, made ready: only loopback.
    pub(crate) fn own() -> Result<Self> {
        let namespace = Self(Arc::new(File::open("/proc/thread-self/ns/net")?));
        namespace.settle()?;
        Ok(namespace)
    }

    /// A new namespace, made ready: only loopback.
    pub(crate) fn new() -> Result<Self> {
        let make = || -> Result<File> {
            unshare(CloneFlags::CLONE_NEWNET)?;
            Ok(File::open("/proc/thread-self/ns/net")?)
        };
        let file = thread::scope(|scope| scope.spawn(make).join()).expect("no panic");
        let namespace = Self(Arc::new(file.context("a new network namespace")?));
        namespace.settle()?;
        Ok(namespace)
    }

    fn settle(&self) -> Result<()> {
        self.inside(|| {
            for (name, value) in SETTINGS {
                fs::write(format!("/proc/sys/net/ipv4/{name}"), value).with_context(|| name.to_owned())?;
            }
            ip("link set lo up\n")?;
            // Unlike the sysctl, a route may name an algorithm that the host does not let everybody choose. Both the
            // connecting and the accepting socket take it from their route.
            let local = format!(
                "dev lo table local proto kernel scope host src 127.0.0.1 congctl {CONGESTION_CONTROL}"
            );
            ip(&format!("route replace local 127.0.0.0/8 {local}\nroute replace local 127.0.0.1 {local}\n"))
        })
    }

    /// Calls `f` on a thread that is in this namespace; programs started and sockets made there stay in it.
    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        thread::scope(|scope| {
            let inside = move || {
                self.enter();
                f()
            };
            scope.spawn(inside).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
        })
    }

    /// Starts a thread in this namespace.
    pub(crate) fn spawn<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = self.clone();
        thread::spawn(move || {
            namespace.enter();
            f()
        })
    }

    fn enter(&self) {
        setns(&*self.0, CloneFlags::CLONE_NEWNET).expect("a namespace that is held can be entered");
    }

    /// Whether this address accepts TCP connections.
    pub(crate) fn reaches(&self, address: SocketAddr) -> bool {
        self.inside(|| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
    }
}

/// The actual settings of the sockets, for the report.
#[derive(Clone, Debug)]
pub(crate) struct Facts {
    pub(crate) congestion_control: String,
    pub(crate) tcp_rmem: String,
    pub(crate) tcp_wmem: String,
}

impl Facts {
    /// Reads the settings in `client`, from both ends of a connection to `gateway`, which is at `address`.
    ///
    /// # Errors
    /// When the congestion control is not [`CONGESTION_CONTROL`].
    pub(crate) fn read(client: &Namespace, gateway: &Namespace, address: Ipv4Addr) -> Result<Self> {
        let listener = gateway.inside(|| TcpListener::bind((address, 0)))?;
        let to = listener.local_addr()?;
        let dialled =
            client.inside(|| TcpStream::connect(to)).context("a connection inside the namespace")?;
        let (accepted, _): (_, SocketAddr) = listener.accept()?;
        let used = |stream: &TcpStream| -> Result<String> {
            let name = SockRef::from(stream).tcp_congestion()?;
            Ok(String::from_utf8_lossy(&name).trim_end_matches('\0').to_owned())
        };
        let (dialled, accepted) = (used(&dialled)?, used(&accepted)?);
        ensure!(
            dialled == CONGESTION_CONTROL && accepted == CONGESTION_CONTROL,
            "the sockets use {dialled} and {accepted}, not {CONGESTION_CONTROL}"
        );
        let setting = |name: &str| -> Result<String> {
            let value = client.inside(|| fs::read_to_string(format!("/proc/sys/net/ipv4/{name}")))?;
            Ok(value.split_whitespace().collect::<Vec<_>>().join(" "))
        };
        Ok(Self {
            congestion_control: dialled,
            tcp_rmem: setting("tcp_rmem")?,
            tcp_wmem: setting("tcp_wmem")?,
        })
    }
}

/// Runs one `ip` with a batch of commands in the calling thread's namespace.
pub(crate) fn ip(batch: &str) -> Result<()> {
    let program = isolate::find("ip").context("`ip` is not installed (package iproute2)")?;
    let mut child = Command::new(program)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().expect("it is piped").write_all(batch.as_bytes())?;
    let output = child.wait_with_output()?;
    if !output.status.success() {
        bail!("ip with\n{batch}{}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(())
}
