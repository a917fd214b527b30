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

pub use self::holder::{Authority, Held, Member};
use self::holder::{name_for, require_room};
pub use self::invite::{Invite, Uses};
pub use self::join_responder::JoinResponder;
pub use self::revoke::{Names, Removed, Revocation};
pub use self::transfer::{Copies, Imported, import};
use super::base64::Base64;
use super::certificate::{self, CertificateError, Role};
use super::clock;
use super::departures;
use super::error::GroupError;
pub use super::error::{InviteError, RevokeError, TransferError};
use super::files::{CA_KEY, MEMBERS, write_json, write_pem};
use super::group::{self, Group, IssuedMembership, Welcome};
use super::name::WantedName;
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
        let (node_name, nobody) = (WantedName::Chosen(node_name.to_owned()), BTreeSet::new());
        let node_key = certificate::new_key()?;
        let public_key = certificate::raw_public_key(&node_key);
        name_for(&node_name, &[], &nobody)?;
        write_json(state, MEMBERS, &Vec::<Member>::new())?;
        let (member, node) = authority.issue(&lock, &nobody, &public_key, &node_name, Role::Gateway, None)?;
        let membership = IssuedMembership {
            group_name: group_name.to_owned(),
            statement: authority.vouch_for(&member.name, &public_key, Role::Gateway, 0)?,
            node_name: member.name,
            node_certificate: Base64(node),
            ca_certificate: Base64(certificate::sign_authority(&authority.key)?),
        };
        let update = GroupUpdate::sign(&authority.key, 0, random(), nobody)?;
        let group = Group::assemble(membership, update, node_key, &authority.ca_key)?;
        write_pem(state, CA_KEY, "PRIVATE KEY", authority.key.serialized_der())?;
        group::save(state, &lock, &group)?;
        Ok(group)
    }

    /// Admits the machine with this key, which has proved that it was invited and that the key is its own. A member that asks
    /// again gets the same certificate again, since the answer may have been lost. Its name and role never change.
    ///
    /// # Errors
    /// [`GroupError::Refused`], or when the member cannot be recorded; then no certificate is issued.
    pub(super) fn admit(
        &self,
        invite: &[u8; 8],
        public_key: &[u8; 32],
        wanted: &WantedName,
    ) -> Result<(Welcome, Role), GroupError> {
        let lock = self.state.lock()?;
        // Loaded now, not at the start: a revocation changes the group while the daemon runs.
        let own = self.own_group()?;
        let id = certificate::node_id(public_key);
        if own.update.revokes(id) {
            return Err(InviteError::Removed.into());
        }
        // Those who have said that they leave are removed a little later, and may join again at once under their names.
        let gone = own.update.revoked() | &departures::saved(&self.state, &own);
        let recorded = self.invite_by_id(invite)?;
        let wanted = recorded.name.clone().map_or_else(|| wanted.clone(), WantedName::Chosen);
        let id = id.to_string();
        let (member, node) = match self.members()?.into_iter().find(|member| member.id == id) {
            Some(member) => {
                // The code that admitted the member still gets it the same answer, even when used up.
                if member.invite != Some(Base64(*invite)) {
                    recorded.admits(clock::now())?;
                }
                let same_name = [&member.name, &member.wanted].into_iter().any(|name| name == wanted.name());
                if !same_name || member.role != recorded.role {
                    return Err(InviteError::KnownKey { name: member.name, role: member.role }.into());
                }
                let node = certificate::sign_node(&self.key, public_key, &member.name, member.role)?;
                (member, node)
            }
            None => {
                recorded.admits(clock::now())?;
                // Refused before the use is counted: a machine that chose a bad name may try again.
                let members = self.members()?;
                require_room(&members, own.update.revoked())?;
                name_for(&wanted, &members, &gone)?;
                self.consume(&lock, invite)?;
                self.issue(&lock, &gone, public_key, &wanted, recorded.role, Some(Base64(*invite)))?
            }
        };
        let ca = own.chain.into_iter().nth(1).ok_or(CertificateError::NoIdentity)?;
        let membership = IssuedMembership {
            group_name: own.name,
            statement: self.vouch_for(&member.name, public_key, member.role, own.update.epoch())?,
            node_name: member.name,
            node_certificate: Base64(node),
            ca_certificate: Base64(ca),
        };
        Ok((Welcome { membership, update: own.update.sealed().clone() }, member.role))
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::update::MAX_MEMBERS;
    use laneway_wire::id::NodeId;
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

    /// A name that a machine derived from its host name.
    pub(crate) fn suggested(name: &str) -> WantedName {
        WantedName::Suggested(name.into())
    }

    /// A name that a person chose.
    pub(crate) fn chosen(name: &str) -> WantedName {
        WantedName::Chosen(name.into())
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
    fn a_name_that_another_member_has_is_numbered_when_suggested_and_refused_when_chosen() {
        let (_directory, _, authority, first) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let admit = |wanted: &WantedName| authority.admit(&code.invite, &key(), wanted);
        let name = |wanted: &str| admit(&suggested(wanted)).unwrap().0.membership.node_name;
        assert_eq!(name("first"), "first-2");
        assert_eq!(name("FIRST"), "FIRST-3");
        assert_eq!(name("f1rst"), "f1rst-4");
        let taken = |name: &str| InviteError::NameTaken { name: name.into(), id: first.node.id.to_string() };
        for name in ["first", "First", "flrst"] {
            assert_eq!(refusal(admit(&chosen(name)).map(drop).unwrap_err()), taken(name));
        }
        let refused = authority.invite(Role::Client, Uses::Any, None, Some("FIRST".into())).unwrap_err();
        assert_eq!(refusal(refused), taken("FIRST"));
        assert_eq!(authority.members().unwrap().len(), 4);
    }

    #[test]
    fn a_name_that_cannot_be_printed_or_typed_is_refused_and_uses_up_nothing() {
        let (_directory, state, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Times(1), None, None).unwrap();
        for bad in ["", "--all", "lab pc\u{1b}[31m", "a\nb", "\u{430}dmin", &"x".repeat(49)] {
            for wanted in [suggested(bad), chosen(bad)] {
                let refused = authority.admit(&code.invite, &key(), &wanted).map(drop).unwrap_err();
                assert_eq!(refusal(refused), InviteError::BadName, "{bad:?}");
            }
            let refused = authority.invite(Role::Client, Uses::Any, None, Some(bad.into())).unwrap_err();
            assert_eq!(refusal(refused), InviteError::BadName, "{bad:?}");
        }
        let empty = StateDir::open(state.path().join("other")).unwrap();
        assert_eq!(refusal(Authority::create(&empty, "x", "a b").unwrap_err()), InviteError::BadName);
        authority.admit(&code.invite, &key(), &chosen("laptop")).unwrap();
    }

    #[test]
    fn a_machine_that_was_installed_again_gets_its_name_back_once_the_old_member_is_removed() {
        let (_directory, _, authority, _) = new();
        let join = |wanted: WantedName| {
            let code = authority.invite(Role::Gateway, Uses::Times(1), None, None).unwrap();
            authority.admit(&code.invite, &key(), &wanted).map(|(welcome, _)| welcome.membership.node_name)
        };
        assert_eq!(join(chosen("laptop")).unwrap(), "laptop");
        let InviteError::NameTaken { id, .. } = refusal(join(chosen("laptop")).unwrap_err()) else {
            panic!("another refusal");
        };
        authority.revoke(&id).unwrap();
        assert_eq!(join(chosen("laptop")).unwrap(), "laptop");
        // The name now means the new member.
        let removed = authority.revoke("laptop").unwrap().removed;
        assert_ne!(removed[0].id.to_string(), id);
    }

    #[test]
    fn a_full_group_admits_nobody_so_that_every_member_can_still_be_removed() {
        let (_directory, state, authority, _) = new();
        let mut members = authority.members().unwrap();
        let member = |number: usize| Member {
            id: NodeId((u128::try_from(number).unwrap() << 100 | 1 << 127).to_be_bytes()).to_string(),
            name: format!("m{number}"),
            wanted: format!("m{number}"),
            role: Role::Client,
            joined: 0,
            invite: None,
            left: None,
            removed: None,
        };
        members.extend((1..MAX_MEMBERS - 1).map(member));
        write_json(&state, MEMBERS, &members).unwrap();
        // Removed members count, and one that only another authority knows.
        authority.revoke(&NodeId([0xff; 16]).to_string()).unwrap();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let refused = authority.admit(&code.invite, &key(), &suggested("late")).map(drop).unwrap_err();
        assert_eq!(refusal(refused), InviteError::Full);

        let all: Vec<String> = members.iter().skip(1).map(|member| member.id.clone()).collect();
        let all: Vec<&str> = all.iter().map(String::as_str).collect();
        let removed = authority.revoke_all(&all, &Names::new()).unwrap();
        assert_eq!(removed.removed.len(), MAX_MEMBERS - 2);
        assert_eq!(Group::load(&state).unwrap().unwrap().update.revoked().len(), MAX_MEMBERS - 1);
    }
}
