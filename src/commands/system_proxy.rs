//! `laneway env --system`: sets the proxy of the user's desktop to the local proxy, and restores what was there.

use std::net::SocketAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use super::say;
use crate::problem::Problem;
use crate::sys::state::StateDir;
use crate::sys::system_proxy::{self, ProxyError, Setting};

/// The file of the earlier settings, until they are restored.
const SAVED: &str = "system-proxy.json";

/// What is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Switch {
    /// Set the settings, and keep the earlier ones
    On,
    /// Restore the earlier ones
    Off,
}

/// Settings as they are saved: store, key and value.
type Values = Vec<(String, String, Option<String>)>;

/// The file.
#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    /// What was there before.
    before: Values,
    /// What was set.
    set: Values,
}

fn values(settings: &[Setting]) -> Values {
    settings.iter().map(|one| (one.store.clone(), one.key.clone(), one.value.clone())).collect()
}

fn settings(values: Values) -> Vec<Setting> {
    values.into_iter().map(|(store, key, value)| Setting { store, key, value }).collect()
}

/// Sets the settings to this local proxy.
///
/// # Errors
/// When this system has none, or they cannot be saved or set.
pub(super) fn on(proxy: SocketAddr, state: &StateDir) -> Result<(), Problem> {
    let current = system_proxy::current().map_err(problem)?;
    let wanted = system_proxy::through(proxy, &current);
    // A second call, even with another port, must not take the settings of the first for the earlier ones.
    let before = match load(state)? {
        Some(saved) if saved.set == values(&current) => saved.before,
        _ => values(&current),
    };
    // Saved first: what cannot be restored is not changed.
    save(state, &Saved { before, set: values(&wanted) })?;
    if let Err(error) = system_proxy::apply(&wanted) {
        // Stores that were set before the failure go back.
        let _ = system_proxy::apply(&current);
        state.remove(SAVED)?;
        return Err(problem(error));
    }
    say(format_args!("{}: software uses the proxy {proxy}", system_proxy::names(&wanted)));
    say("'laneway env --system off' restores the earlier settings.");
    Ok(())
}

/// Restores the settings that [`on`] has found. Settings that somebody has changed since are left alone.
///
/// # Errors
/// When they cannot be read or set.
pub(super) fn off(state: &StateDir) -> Result<(), Problem> {
    let Some(saved) = load(state)? else {
        say("The proxy settings are not laneway's: nothing to restore.");
        return Ok(());
    };
    let current = system_proxy::current().map_err(problem)?;
    if values(&current) != saved.set {
        state.remove(SAVED)?;
        say(format_args!(
            "{}: the proxy settings were changed since, and stay as they are.",
            system_proxy::names(&current)
        ));
        return Ok(());
    }
    let before = settings(saved.before);
    system_proxy::apply(&before).map_err(problem)?;
    state.remove(SAVED)?;
    say(format_args!("{}: the earlier proxy settings are restored.", system_proxy::names(&before)));
    Ok(())
}

fn load(state: &StateDir) -> Result<Option<Saved>, Problem> {
    let Some(bytes) = state.read(SAVED)? else { return Ok(None) };
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        let path = state.file(SAVED);
        Problem::new(format!("the saved proxy settings in {} cannot be read", path.display()))
            .because(error)
            .hint("remove that file, and set the proxy in the settings of the desktop")
    })
}

fn save(state: &StateDir, saved: &Saved) -> Result<(), Problem> {
    let bytes = serde_json::to_vec(saved)
        .map_err(|error| Problem::new("the proxy settings cannot be saved").because(error))?;
    Ok(state.write(SAVED, &bytes)?)
}

fn problem(error: ProxyError) -> Problem {
    match error {
        ProxyError::Unknown => Problem::new(error.to_string())
            .hint("for a shell: 'laneway env'; for one command: 'laneway run -- CMD'; for a browser: its own settings"),
        ProxyError::Refused { what, why } => {
            Problem::new(what).after(Problem::new(why)).hint(system_proxy::REFUSED)
        }
    }
}
