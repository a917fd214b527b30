//! The group's authority: the machine that holds `ca.key`, invites, admits and puts out.
//!
//! Every change reads the files again under the state directory's lock, because the command line changes
//! them while the daemon runs.

mod invite;
mod revoke;
mod transfer;

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

pub use self::invite::{Doorbell, Invite, Refusal, Uses};
pub use self::revoke::{Kept, PutOut};
pub use self::transfer::{Imported, TransferError, import};
use super::certificate::{self, CertificateError, Role};
use super::group::{self, Group, GroupError, Membership, Welcome};
use super::news::News;
use super::state::{StateDir, StateLock};
use super::{Base64, clock, random};
use crate::wire::id::GroupId;

/// The holder of the group's key.
#[derive(Clone)]
pub struct Authority {
    /// The group it speaks for.
    pub group: GroupId,
    ca_key: [u8; 32],
    key: Arc<KeyPair>,
    state: StateDir,
}

/// A certificate that was given out, as `members.json` remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node id in hexadecimal, which is the certificate's serial number too.
    pub id: String,
    /// Unique in the group.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it joined, in seconds since 1970 by the authority's clock.
    pub joined: u64,
    /// The invite that it came by, unless it made the group.
    invite: Option<Base64<[u8; 8]>>,
}

impl Authority {
    /// Makes a new group of which this machine is the authority and the first member.
    ///
    /// # Errors
    /// When this machine is in a group, or a file cannot be written.
    pub fn create(state: &StateDir, group_name: &str, node_name: &str) -> Result<Group, GroupError> {
        let lock = state.lock()?;
        group::refuse_second_group(state)?;
        if state.read(group::CA_KEY)?.is_some() {
            return Err(GroupError::Leftover { file: state.file(group::CA_KEY) });
        }
        let authority = Self::with_key(state, certificate::new_key()?);
        let node_key = certificate::new_key()?;
        let public_key = certificate::raw_public_key(&node_key);
        group::write_json(state, MEMBERS, &Vec::<Member>::new())?;
        let (node_name, node) = authority.issue(&lock, &public_key, node_name, Role::Gateway, None)?;
        let membership = Membership {
            group_name: group_name.to_owned(),
            node_name,
            node_certificate: Base64(node),
            ca_certificate: Base64(certificate::sign_authority(&authority.key)?),
        };
        let news = News::sign(&authority.key, 0, random(), BTreeSet::new())?;
        let group = Group::assemble(membership, news, node_key, &authority.ca_key)?;
        group::write_pem(state, group::CA_KEY, "PRIVATE KEY", authority.key.serialized_der())?;
        group::save(state, &lock, &group)?;
        Ok(group)
    }

    /// The authority, where this machine is it.
    ///
    /// # Errors
    /// When `ca.key` cannot be read or is open to others.
    pub fn load(state: &StateDir) -> Result<Option<Self>, GroupError> {
        let key: Option<PrivatePkcs8KeyDer<'static>> = group::try_read_pem(state, group::CA_KEY)?;
        let Some(key) = key else { return Ok(None) };
        let key = certificate::read_key(&key).map_err(group::damaged(state, group::CA_KEY))?;
        Ok(Some(Self::with_key(state, key)))
    }

    /// Everyone who was given a certificate, in order.
    ///
    /// # Errors
    /// When `members.json` cannot be read.
    pub fn members(&self) -> Result<Vec<Member>, GroupError> {
        Ok(group::read_json(&self.state, MEMBERS)?.unwrap_or_default())
    }

    /// Admits the machine with this key, which has proved that it was invited. One that this invite has admitted before
    /// gets the same certificate again: the answer may have been lost on the way.
    ///
    /// # Errors
    /// [`GroupError::Refused`], or when it cannot be recorded; there is then no certificate.
    pub(super) fn admit(
        &self,
        invite: &[u8; 8],
        public_key: &[u8; 32],
        name: &str,
    ) -> Result<(Welcome, Role), GroupError> {
        let lock = self.state.lock()?;
        // Read now, not at start: a revocation changes what a member is told while the daemon runs.
        let own = self.own_group()?;
        let id = certificate::node_id(public_key);
        if own.news.revokes(id) {
            return Err(Refusal::Removed.into());
        }
        let by = Some(Base64(*invite));
        let id = id.to_string();
        let known = self.members()?.into_iter().find(|member| member.id == id && member.invite == by);
        let (node_name, node, role) = match known {
            Some(member) => {
                let node = certificate::sign_node(&self.key, public_key, &member.name, member.role)?;
                (member.name, node, member.role)
            }
            None => {
                self.consume(&lock, invite)?;
                let invite = self.invite_by_id(invite)?;
                let name = invite.name.as_deref().unwrap_or(name);
                let (name, node) = self.issue(&lock, public_key, name, invite.role, by)?;
                (name, node, invite.role)
            }
        };
        let ca = own.chain.into_iter().nth(1).ok_or(CertificateError::NoIdentity)?;
        let membership = Membership {
            group_name: own.name,
            node_name,
            node_certificate: Base64(node),
            ca_certificate: Base64(ca),
        };
        Ok((Welcome { membership, news: own.news.sealed().clone() }, role))
    }

    /// Signs a certificate and records it, under a name nobody else in the group has.
    fn issue(
        &self,
        _lock: &StateLock,
        public_key: &[u8; 32],
        name: &str,
        role: Role,
        invite: Option<Base64<[u8; 8]>>,
    ) -> Result<(String, CertificateDer<'static>), GroupError> {
        let id = certificate::node_id(public_key).to_string();
        let mut members = self.members()?;
        members.retain(|member| member.id != id);
        let name = free_name(&tidy(name), &members);
        let node = certificate::sign_node(&self.key, public_key, &name, role)?;
        members.push(Member { id, name: name.clone(), role, joined: clock::now().as_secs(), invite });
        group::write_json(&self.state, MEMBERS, &members)?;
        Ok((name, node))
    }

    fn own_group(&self) -> Result<Group, GroupError> {
        Group::load(&self.state)?.ok_or_else(|| GroupError::Leftover { file: self.state.file(group::CA_KEY) })
    }

    fn with_key(state: &StateDir, key: KeyPair) -> Self {
        let ca_key = certificate::raw_public_key(&key);
        Self { group: certificate::group_id(&ca_key), ca_key, key: Arc::new(key), state: state.clone() }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("group", &self.group).finish_non_exhaustive()
    }
}

const MEMBERS: &str = "members.json";

/// A name that is safe to print, to type and to put into a certificate (a common name has at most 64
/// characters, RFC 5280 appendix A; a number may follow).
fn tidy(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.trim().chars().take(48).map(safe).collect();
    // A leading dash would be read as an option by `revoke`.
    let name = name.trim_matches('-');
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

fn free_name(wanted: &str, members: &[Member]) -> String {
    let taken = |name: &str| members.iter().any(|member| member.name.eq_ignore_ascii_case(name));
    let numbered = (2_u64..).map(|number| format!("{wanted}-{number}"));
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !taken(name))
        .expect("numbers do not run out")
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    pub(crate) fn new() -> (tempfile::TempDir, StateDir, Authority, Group) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let group = Authority::create(&state, "office", "first").unwrap();
        let authority = Authority::load(&state).unwrap().unwrap();
        (directory, state, authority, group)
    }

    pub(crate) fn refusal(error: GroupError) -> Refusal {
        match error {
            GroupError::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    /// The public key of a machine that wants to join.
    pub(crate) fn key() -> [u8; 32] {
        certificate::raw_public_key(&certificate::new_key().unwrap())
    }

    #[test]
    fn a_new_group_is_what_is_loaded_later() {
        let (_directory, state, authority, made) = new();
        let loaded = Group::load(&state).unwrap().unwrap();
        assert_eq!((loaded.id, loaded.name.as_str(), loaded.news.epoch()), (authority.group, "office", 0));
        assert_eq!(loaded.node, made.node);
        assert_eq!((loaded.node.name.as_str(), loaded.node.role), ("first", Role::Gateway));
        assert_eq!(loaded.news, made.news);
        assert_eq!(loaded.chain, made.chain);
        assert_eq!(loaded.key.secret_pkcs8_der(), made.key.secret_pkcs8_der());
        assert_eq!(authority.members().unwrap()[0].id, loaded.node.id.to_string());
    }

    #[test]
    fn every_file_is_for_its_owner_alone() {
        let (_directory, state, authority, _) = new();
        authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let mut names = Vec::new();
        for entry in std::fs::read_dir(state.path()).unwrap() {
            let entry = entry.unwrap();
            assert_eq!(entry.metadata().unwrap().permissions().mode() & 0o777, 0o600, "{entry:?}");
            names.push(entry.file_name().into_string().unwrap());
        }
        names.sort();
        let expected = [
            "ca.key",
            "ca.pem",
            "crl.pem",
            "group.json",
            "invites.json",
            "lock",
            "members.json",
            "node.key",
            "node.pem",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn debug_output_has_no_secrets() {
        let (_directory, _, authority, group) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let invite = authority.invite_by_id(&code.invite).unwrap();
        let printed = format!("{group:?} {authority:?} {invite:?} {code:?}");
        assert!(!printed.contains("key") && !printed.contains("secret"), "{printed}");
    }

    #[test]
    fn a_second_group_is_refused_and_the_first_untouched() {
        let (_directory, state, _, made) = new();
        let again = Authority::create(&state, "other", "x").unwrap_err();
        assert!(matches!(&again, GroupError::AlreadyMember { name, .. } if name == "office"), "{again:?}");
        assert!(matches!(group::remember_membership(&state, &made), Err(GroupError::AlreadyMember { .. })));
        assert_eq!(Group::load(&state).unwrap().unwrap().id, made.id);
    }

    #[test]
    fn a_key_without_a_group_is_not_overwritten() {
        let (_directory, state, _, _) = new();
        let key = state.read("ca.key").unwrap();
        std::fs::remove_file(state.file("group.json")).unwrap();
        assert!(Group::load(&state).unwrap().is_none());
        assert!(matches!(Authority::create(&state, "other", "x"), Err(GroupError::Leftover { .. })));
        assert_eq!(state.read("ca.key").unwrap(), key);
    }

    #[test]
    fn a_missing_damaged_or_foreign_file_is_named() {
        for name in ["node.key", "node.pem", "ca.pem"] {
            let (_directory, state, _, _) = new();
            std::fs::remove_file(state.file(name)).unwrap();
            let error = Group::load(&state).unwrap_err();
            assert_eq!(error.to_string(), format!("{} is missing", state.file(name).display()));
            let hint =
                format!("restore it, or move {} away and join the group again", state.path().display());
            assert_eq!(error.hint(), Some(hint));
        }
        for name in ["node.key", "node.pem", "ca.pem", "group.json"] {
            let (_directory, state, _, _) = new();
            state.write(name, b"nonsense").unwrap();
            let message = Group::load(&state).unwrap_err().to_string();
            assert_eq!(message, format!("{} cannot be used", state.file(name).display()));
        }
        for name in ["node.key", "node.pem", "ca.pem"] {
            let (_directory, state, _, _) = new();
            let (_other_directory, other, _, _) = new();
            state.write(name, &other.read(name).unwrap().unwrap()).unwrap();
            assert!(matches!(Group::load(&state), Err(GroupError::Damaged { .. })), "{name}");
        }
    }

    #[test]
    fn names_are_tidied_and_unique() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let name =
            |wanted: &str| authority.admit(&code.invite, &key(), wanted).unwrap().0.membership.node_name;
        assert_eq!(name("first"), "first-2");
        assert_eq!(name("FIRST"), "FIRST-3");
        assert_eq!(name(" lab pc\u{1b}[31m "), "lab-pc--31m");
        assert_eq!(name("--all"), "all");
        assert_eq!(name(""), "node");
        assert_eq!(name(&"x".repeat(1000)), "x".repeat(48));
        assert_eq!(authority.members().unwrap().len(), 7);
    }
}
