//! `members`, `revoke`, `rotate`, `ca`: commands for the machine that holds the authority's key.

use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use super::sightings::{Sightings, Where};
use super::{beside, progress, removal, say};
use crate::failure::printable;
use crate::net;
use crate::problem::{Problem, harmless};
use crate::sys::state::{self, StateDir, create_private, quoted};
use crate::trust::authority::{self, Authority, Copies, Names, Removed};
use crate::trust::group::Group;
use crate::trust::name::WantedName;

/// Maximum bytes read from a file to import; larger files are not exports.
const MAX_EXPORT: u64 = 64 * 1024 * 1024;

/// `laneway revoke`
#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// The members' names, or the beginnings of their ids, as 'laneway members' shows them
    #[arg(value_name = "NAME|ID", required = true)]
    members: Vec<String>,
    #[command(flatten)]
    gateways: Where,
}

/// `laneway ca`
#[derive(Debug, clap::Subcommand)]
pub enum Ca {
    /// Write the group's key and members to FILE. A machine with this file can admit and remove members
    Export {
        /// The file to write; it must not exist yet
        file: PathBuf,
    },
    /// Let this machine admit and remove members, with a file written by 'laneway ca export'
    Import {
        /// The file to read
        file: PathBuf,
        /// This machine's name in the group, if it is not a member yet [default: the host name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
}

/// Loads the authority that this machine holds.
///
/// # Errors
/// When this machine does not hold it.
pub(super) fn load(state: &StateDir) -> Result<Authority, Problem> {
    Authority::load(state)?.ok_or_else(|| {
        if let Some(problem) = beside::elsewhere(state) {
            return problem;
        }
        match Group::load(state) {
            Ok(Some(group)) => Problem::usage(format!(
                "this machine does not hold the key of the group '{}'",
                group.name
            ))
            .hint("run this on the machine where 'laneway init' was run, or on one that imported the key"),
            Ok(None) => crate::shared::no_group(state),
            Err(error) => error.into(),
        }
    })
}

impl Revoke {
    /// Removes members, all of them or none. Gateways are asked whom they have seen, unless each name is that of a member in
    /// the list.
    ///
    /// # Errors
    /// When one of them is unknown or ambiguous, the change cannot be saved, or the group has removed this machine.
    pub async fn run(self, state: &StateDir) -> Result<(), Problem> {
        let names: Vec<&str> = self.members.iter().map(String::as_str).collect();
        let authority = load(state)?;
        removal::refuse(state).await?;
        let seen = self.seen(&authority, state, &names).await?;
        let removed = authority.revoke_all(&names, &seen)?;
        let warning = keys_remain(&removed.removed, Authority::copies(state));
        for member in removed.removed {
            let unlisted = || "a machine that is not in this machine's list".into();
            let (name, id) = (member.name.unwrap_or_else(unlisted), member.id);
            let gone = if member.was_gone { "; it had left or was removed elsewhere before" } else { "" };
            say(format_args!("Removed: {name} ({id}){gone}."));
        }
        if removed.closed > 0 {
            let codes = if removed.closed == 1 { "The open join code is" } else { "All open join codes are" };
            say(format_args!("{codes} closed: 'laneway invite' prints a new one."));
        }
        print_propagation();
        if let Some(warning) = warning {
            say(warning);
        }
        Ok(())
    }

    /// The members that gateways have seen, and that this machine's list may lack.
    async fn seen(&self, authority: &Authority, state: &StateDir, names: &[&str]) -> Result<Names, Problem> {
        let mut seen = Sightings::saved(state);
        if !authority.are_present(names, &seen.names())? {
            self.gateways.check()?;
            let _waiting = progress::waiting("asking the gateways whom they have seen");
            self.gateways.ask(authority, &beside::group(state)?, state, &mut seen).await;
        }
        Ok(seen.names())
    }
}

/// What to do when a removed machine has, or may have, a copy of the group's key: no other key replaces that one.
fn keys_remain(removed: &[Removed], copies: Copies) -> Option<String> {
    let named = |member: &Removed| member.name.clone().unwrap_or_else(|| member.id.short());
    let holders: Vec<_> = removed.iter().filter(|member| member.had_key).map(named).collect();
    if holders.is_empty() {
        // Nobody is told which members imported it later.
        let had_copies = copies != Copies::OnlyHere;
        return had_copies.then(|| {
            "If a removed machine has a copy of the group's key, only a new group keeps it out.".to_owned()
        });
    }
    Some(format!(
        "WARNING: {} had the group's key. Removing a machine does not take its copy of the key away: whoever has one can admit and \
         remove machines. Unless the copy is deleted, only a new group helps: run 'laneway leave --force --yes' on every machine, \
         'laneway init' on one, and 'laneway join' with its code on the others.",
        holders.join(", ")
    ))
}

/// Replaces the discovery key.
///
/// # Errors
/// When the change cannot be saved, or the group has removed this machine.
pub async fn rotate(state: &StateDir) -> Result<(), Problem> {
    let authority = load(state)?;
    removal::refuse(state).await?;
    authority.rotate()?;
    say("The discovery key, by which machines of the group find each other, is replaced.");
    say(
        "The old one is accepted for another 24 hours, so that machines that are off now still find the group.",
    );
    print_propagation();
    Ok(())
}

fn print_propagation() {
    say("This machine passes the change on: at once while 'laneway up' runs here, otherwise when it starts.");
}

impl Ca {
    /// Whether it can make this machine a new member.
    pub fn may_join(&self) -> bool {
        matches!(self, Self::Import { .. })
    }

    /// Exports or imports the authority.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is not the group's.
    pub fn run(self, state: StateDir) -> Result<(), Problem> {
        let (Self::Export { file } | Self::Import { file, .. }) = &self;
        if file.as_os_str() == "-" {
            // Elsewhere it is standard input or output: nobody looks for the key in a file of that name.
            return Err(Problem::new(
                "the group's key is exported and imported by a file only, and '-' names none",
            )
            .hint("name a file, such as group.laneway"));
        }
        match self {
            Self::Export { file } => export(&state, &file),
            Self::Import { file, name } => import(&StateDir::open(state.path())?, &file, name),
        }
    }
}

fn export(state: &StateDir, file: &Path) -> Result<(), Problem> {
    let bytes = load(state)?.export()?;
    let shown = quoted(file);
    let failed = |error: io::Error| {
        let problem = Problem::new(format!("cannot write {shown}"));
        match error.kind() {
            io::ErrorKind::AlreadyExists => {
                problem.because(error).hint("name a file that does not exist yet")
            }
            io::ErrorKind::StorageFull => {
                problem.because(error).hint("free some space, or name a file on another disk")
            }
            io::ErrorKind::NotFound => problem.because(error).hint("name a file in a directory that exists"),
            io::ErrorKind::PermissionDenied => {
                problem.because(error).hint("name a file in a directory of yours, or run this as root")
            }
            _ => problem.because(error),
        }
    };
    let mut written = create_private(file).map_err(failed)?;
    if let Err(error) = written.write_all(&bytes).and_then(|()| written.sync_all()) {
        // A truncated export is useless.
        let _ = std::fs::remove_file(file);
        return Err(failed(error));
    }
    Authority::note_export(state)?;
    say(format_args!("{shown} holds the key of the group."));
    say(
        "WHOEVER HAS THIS FILE IS THE GROUP'S AUTHORITY: it admits and removes members, and cannot be removed.",
    );
    say(
        "Keep it offline as a backup, or copy it over a confidential channel and delete it after the import. On the other machine:\n",
    );
    say(format_args!("    laneway ca import {shown}\n"));
    say(
        "Both machines then hold the key. To move the key instead of copying it, delete it here afterwards:\n",
    );
    say(format_args!("    rm {}", quoted(&state.file("ca.key"))));
    Ok(())
}

/// Warns of an export that other users of this machine can read.
fn warn_if_exposed(file: &Path) {
    if let Some(error) = state::exposed(file) {
        let hint = error.hint().unwrap_or_default();
        let what = harmless(&format!("warning: {error}, and it contains the group's key\nhint: {hint}\n"));
        // The import is done, whether or not anybody reads this.
        let _ = io::stderr().write_all(what.as_bytes());
    }
}

fn import(state: &StateDir, file: &Path, named: Option<String>) -> Result<(), Problem> {
    let failed = |error: io::Error| {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => {
                "name the file that 'laneway ca export FILE' wrote on the machine with the group's key, and \
                                        carry it here first"
            }
            io::ErrorKind::PermissionDenied => "run this as the user who owns the file, or as root",
            _ => "copy the file here again, complete and unchanged",
        };
        Problem::new(format!("cannot read {}", quoted(file))).because(error).hint(hint)
    };
    let mut bytes = Vec::new();
    let source = std::fs::File::open(file).map_err(failed)?;
    source.take(MAX_EXPORT).read_to_end(&mut bytes).map_err(failed)?;
    let wanted = WantedName::new(named.clone(), &net::host_name());
    let imported = authority::import(state, &bytes, &wanted)?;
    let (group, node, option) = (imported.group.name, imported.group.node.name, state.option());
    if imported.joined {
        say(format_args!("This machine is now '{node}' in the group '{group}', and holds its key."));
        say(format_args!(
            "If it was a member before under another name, that one is still a member: 'laneway members{option}' lists it, \
             'laneway revoke NAME{option}' removes it."
        ));
    } else {
        say(format_args!("This machine, '{node}', now holds the key of the group '{group}'."));
    }
    if let Some(other) = named.filter(|name| !imported.joined && *name != node) {
        say(format_args!(
            "It keeps its name, and nothing is called '{}': to change it, run 'laneway leave{option}', and join again with --name.",
            printable(&other)
        ));
    }
    say(format_args!(
        "A node that runs here uses the key within a second; if none runs, start 'laneway up{option}'. It then admits machines with \
         a code of 'laneway invite{option}'."
    ));
    warn_if_exposed(file);
    say(format_args!("Keep {} offline as the backup, or delete it: it contains the key, too.", quoted(file)));
    Ok(())
}
