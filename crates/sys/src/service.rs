//! The node as a service of the operating system.
//!
//! This file notifies the service manager that started this node (systemd, `sd_notify(3)`; the service control manager
//! of Windows) when the node is ready, reloads its configuration or stops, and feeds the watchdog. Without a service
//! manager, nothing is sent. [`registration`] installs and controls the service, and [`host`] runs it where the manager
//! demands a special entrance.

pub mod host;
mod notice;
pub mod registration;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::time::Duration;

use tokio::runtime::Handle;
use tokio::time::{MissedTickBehavior, interval};

use self::notice::Notice;
#[cfg(unix)]
use self::unix as system;
#[cfg(windows)]
use self::windows as system;

/// Time in addition to the drain timeout for the node's other shutdown steps.
const LAST_STEPS: Duration = Duration::from_secs(15);

/// The service manager, if there is one.
#[derive(Debug, Default)]
pub struct Manager {
    socket: Option<system::Socket>,
    watchdog: Option<Duration>,
}

impl Manager {
    /// The manager that `NOTIFY_SOCKET` names, with the watchdog interval of `WATCHDOG_USEC` if `WATCHDOG_PID` is
    /// this process. On Windows the one that [`host`] has connected to.
    pub fn from_environment() -> Self {
        let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
        let ours = number("WATCHDOG_PID").is_none_or(|id| id == u64::from(std::process::id()));
        let watchdog = number("WATCHDOG_USEC").filter(|&micros| ours && micros > 0);
        match system::connect() {
            Ok(None) => Self::default(),
            Ok(socket) => Self { socket, watchdog: watchdog.map(Duration::from_micros) },
            Err(error) => {
                tracing::warn!(%error, "the service manager cannot be notified");
                Self::default()
            }
        }
    }

    /// Reports that all ports are bound or that a reload is complete. The manager displays `status`.
    pub fn ready(&self, status: &str) {
        self.tell(Notice::Ready(status));
    }

    /// Reports that the configuration is being reloaded. [`Manager::ready`] must follow.
    pub fn reloading(&self) {
        self.tell(Notice::Reloading);
    }

    /// Reports that the node is stopping. Open connections have `drain` to finish, and the manager must not kill the
    /// node before that.
    pub fn stopping(&self, drain: Duration) {
        self.tell(Notice::Stopping(drain + LAST_STEPS));
    }

    /// Feeds the manager's watchdog, forever, while this task's thread and each of `threads` make progress. If one of
    /// them does not run an empty task, the watchdog is not fed and the manager restarts the node.
    pub async fn watched(&self, threads: Vec<Handle>) {
        let Some(limit) = self.watchdog else { return std::future::pending().await };
        let mut turns = interval(limit / 3);
        turns.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            turns.tick().await;
            let mut alive = true;
            for thread in &threads {
                alive &= thread.spawn(async {}).await.is_ok();
            }
            if alive {
                self.tell(Notice::Alive);
            }
        }
    }

    fn tell(&self, notice: Notice<'_>) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = socket.tell(notice) {
            tracing::warn!(%error, "the service manager was not notified");
        }
    }
}

#[cfg(test)]
#[cfg(target_os = "linux")]
mod tests {
    use super::system::Socket;
    use super::*;
    use std::os::linux::net::SocketAddrExt as _;
    use std::os::unix::net::{SocketAddr, UnixDatagram};
    use std::path::Path;
    use std::sync::mpsc;

    fn managed(at: &Path, watchdog: Option<Duration>) -> (Manager, UnixDatagram) {
        let heard = UnixDatagram::bind(at).unwrap();
        heard.set_nonblocking(true).unwrap();
        (Manager { socket: Some(Socket::named(at.as_os_str()).unwrap()), watchdog }, heard)
    }

    fn next(heard: &UnixDatagram) -> Option<String> {
        let mut buffer = [0; 256];
        let length = heard.recv(&mut buffer).ok()?;
        Some(String::from_utf8_lossy(&buffer[..length]).into_owned())
    }

    async fn until<T>(mut what: impl FnMut() -> Option<T>) -> T {
        loop {
            match what() {
                Some(found) => return found,
                None => tokio::time::sleep(Duration::from_millis(1)).await,
            }
        }
    }

    #[test]
    fn a_manager_is_told_at_a_path_and_at_an_abstract_name() {
        let directory = tempfile::tempdir().unwrap();
        let (manager, heard) = managed(&directory.path().join("notify"), None);
        manager.ready("of first");
        assert_eq!(next(&heard).unwrap(), "READY=1\nSTATUS=of first");
        manager.stopping(Duration::from_secs(30));
        assert_eq!(next(&heard).unwrap(), "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=45000000");

        let name = format!("laneway-test-{}", std::process::id());
        let heard = UnixDatagram::bind_addr(&SocketAddr::from_abstract_name(&name).unwrap()).unwrap();
        let socket = Socket::named(format!("@{name}").as_ref()).unwrap();
        Manager { socket: Some(socket), watchdog: None }.ready("x");
        assert_eq!(next(&heard).unwrap(), "READY=1\nSTATUS=x");
    }

    #[test]
    fn a_manager_that_is_gone_is_no_failure() {
        let directory = tempfile::tempdir().unwrap();
        assert!(Socket::named(directory.path().join("none").as_os_str()).is_err());
        let (manager, heard) = managed(&directory.path().join("notify"), None);
        drop(heard);
        manager.ready("nobody hears it");
        Manager::default().ready("nor this");
    }

    #[tokio::test]
    async fn a_thread_that_is_stuck_keeps_the_watchdog_from_being_fed() {
        let directory = tempfile::tempdir().unwrap();
        let often = Some(Duration::from_millis(3));
        let (stuck, of_stuck) = managed(&directory.path().join("stuck"), often);
        let (well, of_well) = managed(&directory.path().join("well"), often);

        let runtime = crate::net::runtime().unwrap();
        let thread = runtime.handle().clone();
        let (release, held) = mpsc::channel::<()>();
        let (began, begun) = mpsc::channel();
        thread.spawn(async move {
            began.send(()).unwrap();
            let _ = held.recv();
        });
        let (end, ended) = tokio::sync::oneshot::channel::<()>();
        let worker = std::thread::spawn(move || drop(runtime.block_on(ended)));
        begun.recv().unwrap();

        let feeding = async { tokio::join!(stuck.watched(vec![thread]), well.watched(Vec::new())) };
        let looking = async {
            for _ in 0..20 {
                assert_eq!(until(|| next(&of_well)).await, "WATCHDOG=1");
            }
            assert_eq!(next(&of_stuck), None, "fed, although a thread does nothing");
            drop(release);
            assert_eq!(until(|| next(&of_stuck)).await, "WATCHDOG=1");
        };
        tokio::select! {
            _ = feeding => unreachable!(),
            () = looking => {}
        }
        drop(end);
        worker.join().unwrap();
    }
}
