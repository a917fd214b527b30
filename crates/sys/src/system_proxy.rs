//! The proxy settings of the user's desktop, which browsers and most other software follow.
//!
//! | system | settings | programs |
//! | --- | --- | --- |
//! | Windows | Internet Settings of the user, in the registry | |
//! | GNOME and its kin | `org.gnome.system.proxy` | `gsettings` |
//! | KDE Plasma | `kioslaverc` | `kreadconfig6`, `kwriteconfig6`, or those of version 5 |
//! | macOS | each network service | `networksetup` |
//!
//! A setting is a store, a key and a value as text, in the syntax of the store. [`current`] reads all settings that
//! matter, so that [`apply`] can restore them.

#[cfg(all(unix, not(target_os = "macos")))]
mod desktop;
#[cfg(any(target_os = "macos", all(unix, test)))]
#[cfg_attr(not(target_os = "macos"), allow(dead_code, reason = "on other systems only its tests run"))]
mod network_services;
#[cfg(unix)]
mod program;
#[cfg(windows)]
mod registry;
mod setting;

#[cfg(all(unix, not(target_os = "macos")))]
use self::desktop as system;
#[cfg(target_os = "macos")]
use self::network_services as system;
#[cfg(windows)]
use self::registry as system;

use std::net::SocketAddr;

pub use self::setting::{ProxyError, Setting};

/// What the user may do when settings cannot be changed.
pub const REFUSED: &str = system::REFUSED;

/// The settings as they are.
///
/// # Errors
/// [`ProxyError`].
pub fn current() -> Result<Vec<Setting>, ProxyError> {
    let found = system::current()?;
    if found.is_empty() { Err(ProxyError::Unknown) } else { Ok(found) }
}

/// The settings that send software through the HTTP proxy at `proxy`, except for what is on this machine. `current` tells
/// which there are.
pub fn through(proxy: SocketAddr, current: &[Setting]) -> Vec<Setting> {
    system::through(proxy, current)
}

/// Applies these settings, and tells running software.
///
/// # Errors
/// [`ProxyError`]. Some may be set then.
pub fn apply(settings: &[Setting]) -> Result<(), ProxyError> {
    system::apply(settings)
}

/// Whose settings these are, in words.
pub fn names(settings: &[Setting]) -> String {
    let mut stores: Vec<_> = settings.iter().map(|setting| system::name_of(&setting.store)).collect();
    stores.dedup();
    stores.join(", ")
}
