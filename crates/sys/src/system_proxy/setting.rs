//! One setting, and why it cannot be read or changed.

/// One setting.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setting {
    /// Where it is kept.
    pub store: String,
    /// Its name.
    pub key: String,
    /// Its value, in the syntax of the store; `None` where it is not set.
    pub value: Option<String>,
}

/// Why settings cannot be read or changed.
#[derive(Debug, thiserror::Error)]
pub enum ProxyError {
    /// No settings are known on this system.
    #[error("this system has no proxy settings that laneway knows")]
    Unknown,
    /// A store refuses.
    #[error("{what}")]
    Refused {
        /// What was refused.
        what: String,
        /// Why, in the words of the system.
        why: String,
    },
}
