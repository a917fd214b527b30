//! `members`, `revoke`, `rotate`, `ca`: what only the machine does that holds the group's key.

use std::fs::OpenOptions;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use super::say;
use crate::net;
use crate::problem::Problem;
use crate::trust::authority::{self, Authority};
use crate::trust::group::Group;
use crate::trust::state::StateDir;
use crate::wire::id::NodeId;

/// No export is longer, in bytes; something else may be without end.
const LONGEST_EXPORT: u64 = 64 * 1024 * 1024;

/// `laneway revoke`
#[derive(Debug, clap::Args)]
pub struct Revoke {
    /// Its name, or the beginning of its id: see 'laneway members'
    #[arg(value_name = "NAME|ID")]
    who: String,
}

/// `laneway ca`
#[derive(Debug, clap::Subcommand)]
pub enum Ca {
    /// Write the group's key and members to FILE. Whoever has it can let machines in and remove them
    Export {
        /// Where to; it must not be there yet
        file: PathBuf,
    },
    /// Make this machine one that lets machines in and removes them, by a file of 'laneway ca export'
    Import {
        /// The file
        file: PathBuf,
        /// This machine's name, if it is in no group yet [default: the host name]
        #[arg(long, value_name = "NAME")]
        name: Option<String>,
    },
}

/// The authority of this machine.
///
/// # Errors
/// When another one has it.
pub(super) fn own(state: &StateDir) -> Result<Authority, Problem> {
    Authority::load(state)?.ok_or_else(|| {
        Problem::usage(format!("{} does not hold a group's authority", state.path().display()))
            .hint("do this on the machine where 'laneway init' was done, or make a group with 'laneway init'")
    })
}

/// Lists the members.
///
/// # Errors
/// When this machine does not hold the authority.
pub fn members(state: &StateDir) -> Result<(), Problem> {
    let members = own(state)?.members()?;
    let group = Group::load(state)?;
    let mut unlisted = group.map(|group| group.news.revoked().clone()).unwrap_or_default();
    let row = |name: &str, id: &str, role: &str, standing: &str| {
        let line = format!("{name:<24} {:<10} {role:<8} {standing}", &id[..8.min(id.len())]);
        say(line.trim_end());
    };
    row("NAME", "ID", "ROLE", "");
    for member in members {
        let revoked = NodeId::parse(&member.id).is_some_and(|id| unlisted.remove(&id));
        row(&member.name, &member.id, &member.role.to_string(), if revoked { "removed" } else { "" });
    }
    for id in unlisted {
        row("?", &id.to_string(), "?", "removed");
    }
    Ok(())
}

impl Revoke {
    /// Puts a member out.
    ///
    /// # Errors
    /// When nobody is meant, or it cannot be saved.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        let out = own(state)?.revoke(&self.who)?;
        let name = out.name.unwrap_or_else(|| "a machine that is not in the list here".into());
        say(format_args!("Removed: {name} ({}). The group is in epoch {} now.", out.id.short(), out.epoch));
        if out.closed > 0 {
            let were = if out.closed == 1 {
                "The join code that was open is"
            } else {
                "All join codes that were open are"
            };
            say(format_args!("{were} closed: 'laneway invite' prints a new one."));
        }
        spread_by();
        Ok(())
    }
}

/// Changes the discovery key.
///
/// # Errors
/// When it cannot be saved.
pub fn rotate(state: &StateDir) -> Result<(), Problem> {
    let epoch = own(state)?.rotate()?;
    say(format_args!(
        "There is a new discovery key; the old one is good for 24 hours. The group is in epoch {epoch} now."
    ));
    spread_by();
    Ok(())
}

fn spread_by() {
    say("The others learn of it from this machine, at once if 'laneway up' runs here, else when it does.");
}

impl Ca {
    /// Moves the authority.
    ///
    /// # Errors
    /// When a file cannot be read or written, or is not the group's.
    pub fn run(self, state: &StateDir) -> Result<(), Problem> {
        match self {
            Self::Export { file } => export(state, &file),
            Self::Import { file, name } => import(state, &file, &name.unwrap_or_else(net::host_name)),
        }
    }
}

fn export(state: &StateDir, file: &Path) -> Result<(), Problem> {
    let bytes = own(state)?.export()?;
    let shown = file.display();
    let failed = |error: io::Error| {
        let problem = Problem::new(format!("cannot write {shown}"));
        match error.kind() {
            io::ErrorKind::AlreadyExists => problem.because(error).hint("name a file that is not there yet"),
            _ => problem.because(error),
        }
    };
    let mut options = OpenOptions::new();
    let mut written = options.write(true).create_new(true).mode(0o600).open(file).map_err(failed)?;
    if let Err(error) = written.write_all(&bytes).and_then(|()| written.sync_all()) {
        // Half a key is of no use to anybody.
        let _ = std::fs::remove_file(file);
        return Err(failed(error));
    }
    say(format_args!("{shown} holds the key of the group."));
    say(
        "WHOEVER HAS THIS FILE IS THE GROUP'S AUTHORITY: it lets machines in and removes them, and cannot be removed.",
    );
    say(
        "Carry it by a way that nobody else sees, and delete it when it is imported. On the other machine:\n",
    );
    say(format_args!("    laneway ca import {shown}\n"));
    say(
        "Both machines hold the key then. To move it and not to copy it, delete it here once that is done:\n",
    );
    say(format_args!("    rm {}", state.file("ca.key").display()));
    Ok(())
}

fn import(state: &StateDir, file: &Path, name: &str) -> Result<(), Problem> {
    let failed = |error: io::Error| Problem::new(format!("cannot read {}", file.display())).because(error);
    let mut bytes = Vec::new();
    let source = std::fs::File::open(file).map_err(failed)?;
    source.take(LONGEST_EXPORT).read_to_end(&mut bytes).map_err(failed)?;
    let imported = authority::import(state, &bytes, name)?;
    let (group, node) = (imported.group.name, imported.group.node.name);
    if imported.joined {
        say(format_args!("This machine is '{node}' in the group '{group}' now, and holds its key."));
    } else {
        say(format_args!("This machine, '{node}', holds the key of the group '{group}' now."));
    }
    say("Start 'laneway up' here, again if it runs, and it admits those that 'laneway invite' lets in.");
    say(format_args!("Delete {}: it is the key, too.", file.display()));
    Ok(())
}
