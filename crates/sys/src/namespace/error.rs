//! Why there may be no namespaces.

use std::io;

/// Why a process cannot have namespaces of its own.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// A setting of the kernel forbids it to ordinary users. The setting is named.
    #[error("the kernel setting {0} forbids it")]
    Setting(&'static str),
    /// The kernel has too many user namespaces, or may have none.
    #[error("the kernel setting user.max_user_namespaces allows no further one")]
    Exhausted,
    /// AppArmor allows them only to programs that have a profile.
    #[error("AppArmor allows it only to programs with a profile for it")]
    AppArmor,
    /// Something else forbids it: the seccomp filter of a container, or a sandbox.
    #[error("the system forbids it: {0}")]
    Forbidden(#[source] io::Error),
    /// Another failure.
    #[error("{0} failed")]
    Failed(&'static str, #[source] io::Error),
}
