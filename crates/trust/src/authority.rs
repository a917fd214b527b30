//! The group's authority, on a machine that holds `ca.key`: it invites, admits and removes members.
//!
//! Every change reads the files again while it holds the state directory's lock, because the command line changes them
//! while the daemon runs.

mod holder;
mod invite;
mod join_responder;
mod revoke;
mod transfer;

use std::collections::BTreeSet;

pub use self::holder::{Authority, Member};
pub use self::invite::{Invite, Uses};
pub use self::join_responder::JoinResponder;
pub use self::revoke::Revocation;
pub use self::transfer::{Imported, import};
use super::base64::Base64;
use super::certificate::{self, CertificateError, Role};
use super::error::GroupError;
pub use super::error::{InviteError, RevokeError, TransferError};
use super::files::{CA_KEY, MEMBERS, write_json, write_pem};
use super::group::{self, Group, IssuedMembership, Welcome};
use super::random::random;
use super::update::GroupUpdate;
use laneway_sys::state::StateDir;

impl Authority {
    /// Creates a group. This machine becomes its authority and its first member.
    ///
    /// # Errors
    /// When this machine is in a group already, or a file cannot be written.
    pub fn create(state: &StateDir, group_name: &str, node_name: &str) -> Result<Group, GroupError> {
        let lock = state.lock()?;
        group::refuse_second_group(state)?;
        if state.read(CA_KEY)?.is_some() {
            return Err(GroupError::Leftover { file: state.file(CA_KEY) });
        }
        let authority = Self::with_key(state, certificate::new_key()?);
        let node_key = certificate::new_key()?;
        let public_key = certificate::raw_public_key(&node_key);
        write_json(state, MEMBERS, &Vec::<Member>::new())?;
        let (node_name, node) = authority.issue(&lock, &public_key, node_name, Role::Gateway, None)?;
        let membership = IssuedMembership {
            group_name: group_name.to_owned(),
            node_name,
            node_certificate: Base64(node),
            ca_certificate: Base64(certificate::sign_authority(&authority.key)?),
        };
        let update = GroupUpdate::sign(&authority.key, 0, random(), BTreeSet::new())?;
        let group = Group::assemble(membership, update, node_key, &authority.ca_key)?;
        write_pem(state, CA_KEY, "PRIVATE KEY", authority.key.serialized_der())?;
        group::save(state, &lock, &group)?;
        Ok(group)
    }

    /// Admits the machine with this key, which has proved that it was invited. A machine that this invite admitted before
    /// gets the same certificate again, since the answer may have been lost.
    ///
    /// # Errors
    /// [`GroupError::Refused`], or when the member cannot be recorded; then no certificate is issued.
    pub(super) fn admit(
        &self,
        invite: &[u8; 8],
        public_key: &[u8; 32],
        name: &str,
    ) -> Result<(Welcome, Role), GroupError> {
        let lock = self.state.lock()?;
        // Loaded now and not at the start: a revocation changes the group while the daemon runs.
        let own = self.own_group()?;
        let id = certificate::node_id(public_key);
        if own.update.revokes(id) {
            return Err(InviteError::Removed.into());
        }
        let admitted_by = Some(Base64(*invite));
        let id = id.to_string();
        let known =
            self.members()?.into_iter().find(|member| member.id == id && member.invite == admitted_by);
        let (node_name, node, role) = match known {
            Some(member) => {
                let node = certificate::sign_node(&self.key, public_key, &member.name, member.role)?;
                (member.name, node, member.role)
            }
            None => {
                self.consume(&lock, invite)?;
                let invite = self.invite_by_id(invite)?;
                let name = invite.name.as_deref().unwrap_or(name);
                let (name, node) = self.issue(&lock, public_key, name, invite.role, admitted_by)?;
                (name, node, invite.role)
            }
        };
        let ca = own.chain.into_iter().nth(1).ok_or(CertificateError::NoIdentity)?;
        let membership = IssuedMembership {
            group_name: own.name,
            node_name,
            node_certificate: Base64(node),
            ca_certificate: Base64(ca),
        };
        Ok((Welcome { membership, update: own.update.sealed().clone() }, role))
    }
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

    pub(crate) fn refusal(error: GroupError) -> InviteError {
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
        assert_eq!((loaded.id, loaded.name.as_str(), loaded.update.epoch()), (authority.group, "office", 0));
        assert_eq!(loaded.node, made.node);
        assert_eq!((loaded.node.name.as_str(), loaded.node.role), ("first", Role::Gateway));
        assert_eq!(loaded.update, made.update);
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
