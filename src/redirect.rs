//! Redirects connections of this machine's software to the transparent port (Linux), with one nftables table and one
//! interface that carries the default route of last resort. No other rule, table, route or interface is touched.
//!
//! A machine on an isolated network has no route to the server, and without a route no connection starts. The default
//! route points to the interface, and the table redirects each connection before it gets there. Anything else that
//! would leave through the interface is rejected.

mod error;
pub mod inside;
mod installed;
mod interface;
mod kept;
mod owner;
mod program;
mod rules;

pub use error::RedirectError;
pub use installed::{Installed, Leftover, TRANSPARENT_PORT, installed, leftover, listens};
pub use interface::DUMMY;
pub use kept::Kept;
pub use rules::{Maker, Rules};

use crate::failure::with_causes;
use crate::sys::connected;
use installed::{refuse_another_keeper, remove_all};
use program::run;
use rules::ANY;

/// Installs rules until [`remove`], and replaces those of an earlier call or a killed node.
///
/// # Errors
/// [`RedirectError`]; then nothing is installed.
pub fn install(rules: &Rules) -> Result<(), RedirectError> {
    refuse_another_keeper()?;
    run("nft", &["-f", "-"], &[ANY, &rules.text(Maker::Hand, &connected::networks())].concat())?;
    if let Err(error) = interface::add(rules.v4.is_some(), rules.v6.is_some()) {
        // Needed only where there is no route; a machine that has one works without it.
        tracing::warn!(
            error = with_causes(&error),
            "no default route for redirected connections: those to a network without a route still fail"
        );
    }
    Ok(())
}

/// Removes everything that [`install`] or a killed node has installed, if anything.
///
/// # Errors
/// [`RedirectError`], also when a running node keeps the rules.
pub fn remove() -> Result<(), RedirectError> {
    refuse_another_keeper()?;
    remove_all()
}

/// Removes what a killed node has left. Rules that were made by hand stay.
///
/// # Errors
/// [`RedirectError`].
pub fn clean() -> Result<(), RedirectError> {
    if !interface::exists() {
        return Ok(());
    }
    match installed()? {
        Some(Installed { maker: Maker::Hand, .. }) => Ok(()),
        Some(Installed { maker, .. }) if maker.is_alive() => Ok(()),
        _ => {
            tracing::info!("the rules of transparent mode of a killed node are removed");
            remove_all()
        }
    }
}
