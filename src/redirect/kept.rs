//! The rules of a running node. They follow the networks that the machine is connected to, come back when somebody
//! removes them, and end with the node, even if it is killed.

use std::time::{Duration, Instant};

use ipnet::IpNet;

use super::error::RedirectError;
use super::installed::{Installed, installed, refuse_another_keeper, remove_all};
use super::interface;
use super::owner::Owner;
use super::program::run;
use super::rules::{ANY, Maker, Rules};
use crate::failure::with_causes;
use crate::sys::connected;

/// After which time a table without an owner is installed again, before it expires.
const RENEWAL: Duration = Duration::from_secs(5);

/// The rules of this process. Dropping them removes them.
#[derive(Debug)]
pub struct Kept {
    rules: Rules,
    /// The process that owns the table; `None` where nft or the kernel knows no owners: before Linux 5.12.
    owner: Option<Owner>,
    /// The networks that the rules were installed with.
    connected: Vec<IpNet>,
    /// When the rules were installed.
    since: Instant,
    /// Whether the last attempt failed, which is logged once.
    has_failed: bool,
    /// Whether the interface could be added. Where it could not, it is not missed.
    has_interface: bool,
}

impl Kept {
    /// Installs these rules and replaces those made by hand or by a killed node.
    ///
    /// # Errors
    /// [`RedirectError`], also when another node keeps its rules; then nothing is installed.
    pub fn install(rules: Rules) -> Result<Self, RedirectError> {
        refuse_another_keeper()?;
        let since = Instant::now();
        let mut kept = Self {
            rules,
            owner: None,
            connected: Vec::new(),
            since,
            has_failed: false,
            has_interface: false,
        };
        kept.apply()?;
        kept.add_interface();
        Ok(kept)
    }

    /// Replaces the rules, now or as soon as that is possible.
    pub fn change(&mut self, rules: Rules) {
        if self.rules != rules {
            self.rules = rules;
            self.renew();
        }
    }

    /// Whether the rules are still what they should be. To be asked once a second; it takes less than a millisecond.
    pub fn is_current(&mut self) -> bool {
        !self.is_gone()
            && !self.expires()
            && !self.has_failed
            && connected::networks() == self.connected
            && !self.misses_interface()
    }

    /// Installs the rules again if the machine's networks have changed, if somebody has removed the rules, or if they are
    /// about to expire.
    pub fn renew(&mut self) {
        if self.is_gone() {
            tracing::warn!("the rules of transparent mode were removed: installing them again");
            self.owner = None;
        }
        let applied = self.apply();
        if let Err(error) = &applied
            && !self.has_failed
        {
            tracing::error!(error = with_causes(&error), "the rules of transparent mode are not installed");
        }
        self.has_failed = applied.is_err();
        if self.misses_interface() {
            self.add_interface();
        }
    }

    fn is_gone(&mut self) -> bool {
        self.owner.as_mut().is_some_and(Owner::has_ended)
    }

    fn expires(&self) -> bool {
        self.owner.is_none() && self.since.elapsed() >= RENEWAL
    }

    fn apply(&mut self) -> Result<(), RedirectError> {
        self.since = Instant::now();
        self.connected = connected::networks();
        let text = |maker| self.rules.text(maker, &self.connected);
        let process = std::process::id();
        let owned = text(Maker::Owner(process));
        if let Some(owner) = &mut self.owner {
            let applied = owner.apply(&owned);
            if matches!(applied, Err(RedirectError::Io(..))) {
                // The process does not answer. The next attempt starts another.
                self.owner = None;
            }
            return applied;
        }
        let mut owner = Owner::start()?;
        match owner.apply(&[ANY, &owned].concat()) {
            Ok(()) => self.owner = Some(owner),
            Err(error) => {
                drop(owner);
                run("nft", &["-f", "-"], &[ANY, &text(Maker::Node(process))].concat())?;
                tracing::debug!(%error, "no table with an owner: the rules expire after the node");
            }
        }
        Ok(())
    }

    fn misses_interface(&self) -> bool {
        self.has_interface && interface::is_missing(self.rules.v4.is_some())
    }

    fn add_interface(&mut self) {
        let added = interface::add(self.rules.v4.is_some(), self.rules.v6.is_some());
        self.has_interface = added.is_ok();
        if let Err(error) = added {
            // Needed only where there is no route; a machine that has one works without it.
            tracing::warn!(
                error = with_causes(&error),
                "no default route for redirected connections: those to a network without a route still fail"
            );
        }
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        let removed = match self.owner.take() {
            Some(owner) => {
                drop(owner);
                interface::remove()
            }
            None => match installed() {
                Ok(Some(Installed { maker: Maker::Node(process), .. })) if process != std::process::id() => {
                    Ok(())
                }
                _ => remove_all(),
            },
        };
        if let Err(error) = removed {
            tracing::error!(error = with_causes(&error), "rules not removed: run 'laneway transparent down'");
        }
    }
}
