use std::io;

use super::host;
use super::notice::Notice;

/// The connection to the service control manager.
#[derive(Debug)]
pub(super) struct Socket(host::Connection);

/// The connection of a process that runs as a service; `None` in any other.
#[expect(clippy::unnecessary_wraps, reason = "as on the other systems")]
pub(super) fn connect() -> io::Result<Option<Socket>> {
    Ok(host::connection().map(Socket))
}

impl Socket {
    /// Sets the state of the service.
    pub(super) fn tell(&self, notice: Notice<'_>) -> io::Result<()> {
        match notice {
            Notice::Ready(status) => {
                // The manager displays no text.
                tracing::debug!(status, "the service manager is told that the node is ready");
                self.0.running()
            }
            Notice::Stopping(most) => self.0.stopping(most),
            // The manager knows neither a reload nor a watchdog.
            Notice::Reloading | Notice::Alive => Ok(()),
        }
    }
}
