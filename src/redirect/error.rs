//! What can go wrong with the rules.

use std::io;

use crate::problem::Problem;

/// Why the rules could not be installed, removed or read.
#[derive(Debug, thiserror::Error)]
pub enum RedirectError {
    /// The program is not installed.
    #[error("'{0}' is not installed")]
    Missing(&'static str),
    /// The user lacks the permission.
    #[error("{0}")]
    Forbidden(String),
    /// The program failed.
    #[error("{program}: {complaint}")]
    Refused {
        /// The program's name.
        program: &'static str,
        /// The first line of its error output.
        complaint: String,
    },
    /// Another node keeps rules of its own here.
    #[error("the node of process {0} redirects this machine's connections")]
    Kept(u32),
    /// The program could not be run.
    #[error("cannot run '{0}'")]
    Io(&'static str, #[source] io::Error),
}

impl RedirectError {
    /// The error as a problem for the user, with a hint.
    pub fn problem(self, what: &str) -> Problem {
        let hint = match &self {
            Self::Missing("nft") => Some("install nftables (apt install nftables)".into()),
            Self::Missing(_) => Some("install iproute2 (apt install iproute2)".into()),
            Self::Forbidden(_) => Some("run this as root, or with CAP_NET_ADMIN".into()),
            Self::Kept(process) => Some(format!(
                "the rules end with that node: stop it, or reload it without --transparent-rules; 'kill -9 {process}' \
                 ends one that hangs"
            )),
            Self::Refused { .. } | Self::Io(..) => None,
        };
        let problem = Problem::new(what).because(self);
        match hint {
            Some(hint) => problem.hint(hint),
            None => problem,
        }
    }
}
