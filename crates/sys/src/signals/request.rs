//! What is requested.

/// What is requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Request {
    /// Stop: SIGTERM, SIGINT; on Windows Ctrl-C, Ctrl-Break, the end of the console, of the session or of the system, or
    /// the service control manager.
    Stop,
    /// Reload the configuration: SIGHUP; on Windows `sc control laneway paramchange`.
    Reload,
}
