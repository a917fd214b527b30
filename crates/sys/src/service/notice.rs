use std::time::Duration;

/// What a node tells the service manager.
#[derive(Clone, Copy, Debug)]
pub(super) enum Notice<'a> {
    /// All ports are bound, or a reload is complete. The manager displays the text.
    Ready(&'a str),
    /// The configuration is being reloaded.
    Reloading,
    /// The node stops, within this time.
    Stopping(Duration),
    /// The watchdog is fed.
    Alive,
}
