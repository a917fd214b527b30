//! What can go wrong with the group, its files and its authority, and what to do about it.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::certificate::{CertificateError, Role};
use super::name::shown;
use super::update::{MAX_MEMBERS, UpdateError};
use laneway_sys::state::{StateError, quoted};

/// Minimum number of digits that name a member by its id.
pub(super) const MIN_ID_DIGITS: usize = 4;

/// Why this machine has no usable group, or why the authority could not do what was asked.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The state directory cannot be used.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file is missing that belongs with the others.
    #[error("{} is missing", quoted(file))]
    Missing {
        /// The missing file.
        file: PathBuf,
    },
    /// A file cannot be used.
    #[error("{} cannot be used", quoted(file))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Damage,
    },
    /// The machine is in a group already; it can be in one at a time.
    #[error("this machine is already in the group {name:?}")]
    AlreadyMember {
        /// The group's name.
        name: String,
        /// The state directory.
        directory: PathBuf,
        /// Whether it holds the group's key.
        holds_key: bool,
        /// The option that commands need for that directory ([`laneway_sys::state::StateDir::option`]).
        option: String,
    },
    /// A group's key without the group: an interrupted `init`, or a key copied here by hand.
    #[error("{} exists, but its group does not", quoted(file))]
    Leftover {
        /// The key's file.
        file: PathBuf,
    },
    /// A certificate could not be signed.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// The invite does not admit.
    #[error(transparent)]
    Refused(#[from] InviteError),
    /// The member cannot be removed.
    #[error(transparent)]
    Revoke(#[from] RevokeError),
    /// The authority cannot be imported.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

impl GroupError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::State(error) => error.hint(),
            Self::Missing { file } | Self::Damaged { file, .. } => {
                let directory = quoted(file.parent().unwrap_or(file));
                Some(format!("restore it, or move {directory} away and join the group again"))
            }
            Self::AlreadyMember { directory, holds_key, option, .. } => {
                let directory = quoted(directory);
                Some(match holds_key {
                    true => format!(
                        "'laneway invite{option}' prints a line that lets another machine join it. For another group on this \
                         machine, stop laneway and move {directory} away, but keep it: it holds the group's key"
                    ),
                    false => format!(
                        "'laneway up{option}' starts this node; 'laneway leave{option}' leaves the group"
                    ),
                })
            }
            Self::Leftover { file } => {
                Some(format!("if nobody needs this key, move {} away and try again", quoted(file)))
            }
            Self::Refused(refusal) => Some(refusal.hint()),
            Self::Revoke(error) => error.hint(),
            Self::Transfer(error) => error.hint(),
            Self::Certificate(_) => None,
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Not the expected JSON.
    #[error("it is not a file that laneway wrote")]
    Json(#[from] serde_json::Error),
    /// Not PEM.
    #[error("it is not valid PEM text")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// It does not match the other files.
    #[error("it does not match the files beside it")]
    Certificate(#[from] CertificateError),
    /// The group state in it is not signed by the authority.
    #[error("it does not match the files beside it")]
    Update(#[from] UpdateError),
}

/// Why the authority does not admit a joiner. It is sent to the joiner, which shows it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum InviteError {
    /// The invite does not exist, or no longer.
    #[error("the group does not know this join code")]
    UnknownInvite,
    /// The invite has expired.
    #[error("this join code has expired")]
    Expired,
    /// The invite has admitted as many machines as it may.
    #[error("this join code has been used up")]
    UsedUp,
    /// The invite was closed together with all open ones.
    #[error("this join code was closed when a machine was removed from the group")]
    Closed,
    /// The joiner's key is revoked.
    #[error("this machine was removed from the group")]
    Removed,
    /// The joiner does not know the secret, or is not the other end of this TLS connection.
    #[error("the proof of this join code is wrong")]
    WrongProof,
    /// The joiner does not hold the private key of the public key that it sent.
    #[error("this machine does not hold the key that it asks to register")]
    NotItsKey,
    /// The key is a member's, with another name or role. A join changes neither.
    #[error("this machine's key already belongs to the member {}, {role}", shown(name))]
    KnownKey {
        /// The member's name.
        name: String,
        /// Its role.
        role: Role,
    },
    /// Another member has the chosen name, or one that looks like it.
    #[error("the name {} is taken by the member with the id {}", shown(name), shown(id))]
    NameTaken {
        /// The wanted name.
        name: String,
        /// The other member's id.
        id: String,
    },
    /// The name is not one that a member may have.
    #[error(
        "a machine's name has 1 to 48 letters (a to z), digits, '-', '_' or '.', and starts and ends with a letter or digit"
    )]
    BadName,
    /// With one member more, the revocation list might not have room for all members.
    #[error("the group is full: {MAX_MEMBERS} machines have joined, including those that were removed")]
    Full,
    /// The authority could not record the new member.
    #[error("the machine that created the group could not record the new member")]
    Unrecorded,
}

impl InviteError {
    /// What the user of the joining machine can do about it.
    pub fn hint(&self) -> String {
        let hint = match self {
            Self::UnknownInvite | Self::Expired | Self::UsedUp | Self::Closed => {
                "run 'laneway invite' on the machine with the group's key, and use the command that it prints"
            }
            Self::WrongProof => {
                "copy the line again, or run 'laneway invite' on the machine with the group's key for a new one"
            }
            Self::Removed => {
                "run 'laneway invite' on the machine with the group's key, and here the line that it prints"
            }
            Self::NotItsKey => "use the same version of laneway on both machines, and try again",
            Self::KnownKey { name, .. } => {
                let name = shown(name);
                return format!(
                    "join with --name {name} and a code for the same role. For another name or role, run 'laneway revoke \
                     {name}' on the machine with the group's key, move the state directory here away, and join with a new \
                     code"
                );
            }
            Self::NameTaken { id, .. } => {
                let id = shown(id);
                return format!(
                    "choose another name with --name. If that member is this machine before it was installed again, run \
                     'laneway revoke {id}' on the machine with the group's key, and join with a new code"
                );
            }
            Self::BadName => "choose a name with --name",
            Self::Full => "create a new group with 'laneway init', and let the members join it",
            Self::Unrecorded => {
                "the log of 'laneway up' on that machine says why, such as a full disk; then run this line again"
            }
        };
        hint.into()
    }

    /// Whether a machine that asks again with the same key and code gets the same answer. After any other answer it must keep
    /// its key, which the authority may have registered already.
    pub fn is_final(&self) -> bool {
        !matches!(self, Self::KnownKey { .. } | Self::Unrecorded | Self::NotItsKey)
    }
}

/// Why a member cannot be removed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RevokeError {
    /// No member has that name or id.
    #[error("no member is called {0:?}")]
    Unknown(String),
    /// It names several members.
    #[error("{who:?} could be any of {}", found.join(", "))]
    Ambiguous {
        /// The given name or beginning of an id.
        who: String,
        /// The names and whole ids of these members.
        found: Vec<String>,
    },
    /// The member was removed before.
    #[error("{name} ({id}) has been removed already")]
    Already {
        /// Its name.
        name: String,
        /// The beginning of its id.
        id: String,
        /// The beginning of the id of a member that has the same name.
        other: Option<String>,
    },
    /// It is the authority's own machine.
    #[error("this machine cannot remove itself: it holds the group's key")]
    Own,
    /// The revocation list has reached its size limit.
    #[error("the list of removed machines is full")]
    Full,
}

impl RevokeError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown(_) => format!(
                "'laneway members' lists names and ids, of which {MIN_ID_DIGITS} digits are enough. A member that no gateway has \
                 seen is only on the list of the machine that admitted it"
            ),
            Self::Ambiguous { .. } => "give the whole id".into(),
            Self::Own => {
                "copy the key: 'laneway ca export FILE' here, 'laneway ca import FILE' on another member. Then run \
                 'laneway leave' here, or 'laneway revoke' there"
                    .into()
            }
            Self::Full => "create a new group with 'laneway init', and let the members join it".into(),
            Self::Already { name, other: Some(other), .. } => {
                format!("another machine that is called {name} is a member: 'laneway revoke {other}' removes that one")
            }
            Self::Already { .. } => "a machine that still works under this name is another one: 'laneway members' lists it when \
                 a gateway that answers has seen it"
                .into(),
        })
    }
}

/// Why the authority is not imported.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TransferError {
    /// The file is not an export.
    #[error("the file was not written by 'laneway ca export'")]
    NotAnExport,
    /// The file has a later format.
    #[error("the file was made by a newer laneway")]
    Newer,
    /// This machine is a member of another group.
    #[error("the file belongs to the group {theirs:?}, and this machine is in another group, {own:?}")]
    Foreign {
        /// The name of the file's group.
        theirs: String,
        /// The name of this machine's group.
        own: String,
    },
}

impl TransferError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::NotAnExport => "copy the file again, complete and unchanged".into(),
            Self::Newer => "update laneway on this machine".into(),
            Self::Foreign { .. } => "import it on a member of that group, or with another --state DIR".into(),
        })
    }
}
