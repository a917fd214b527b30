//! Copying the authority to another machine, in a file with everything that it needs.

use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::holder::{Authority, Member, name_for};
use crate::base64::Base64;
use crate::certificate::{self, CertificateError, Role};
use crate::clock;
use crate::error::{GroupError, TransferError};
use crate::files::{CA_KEY, EXPORTED, IMPORTED, MEMBERS, damaged, write_json, write_pem};
use crate::group::{self, Group, IssuedMembership};
use crate::name::WantedName;
use crate::update::SealedUpdate;
use laneway_sys::state::StateDir;

/// The version of the file's format.
const VERSION: u32 = 1;

/// The content of the file. Whoever has it is the group's authority.
#[derive(Serialize, Deserialize)]
struct Export {
    laneway_authority: u32,
    group_name: String,
    ca_key: Base64<Vec<u8>>,
    ca_certificate: Base64<CertificateDer<'static>>,
    #[serde(rename = "news")]
    update: SealedUpdate,
    members: Vec<Member>,
}

/// The result of an import.
#[derive(Debug)]
pub struct Imported {
    /// The group.
    pub group: Group,
    /// Whether this machine was in no group before, and became a member.
    pub joined: bool,
}

/// Where copies of the group's key are, as far as this machine can know: files can be copied and deleted anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Copies {
    /// It was made here and never exported.
    OnlyHere,
    /// It was exported from here.
    Exported,
    /// It was imported here, and not exported since.
    Imported,
}

impl Authority {
    /// Notes that the group's key was exported from this machine.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn note_export(state: &StateDir) -> Result<(), GroupError> {
        Ok(state.write(EXPORTED, b"")?)
    }

    /// Where copies of the group's key are, on a machine that holds it.
    pub fn copies(state: &StateDir) -> Copies {
        match (state.stamp(EXPORTED), state.stamp(IMPORTED)) {
            (Some(_), _) => Copies::Exported,
            (None, Some(_)) => Copies::Imported,
            (None, None) => Copies::OnlyHere,
        }
    }

    /// The content of a file for [`import`]. It contains the group's key.
    ///
    /// # Errors
    /// When the group's files cannot be read.
    pub fn export(&self) -> Result<Vec<u8>, GroupError> {
        let group = self.own_group()?;
        let ca = group.chain.into_iter().nth(1).ok_or(CertificateError::NoIdentity)?;
        let export = Export {
            laneway_authority: VERSION,
            group_name: group.name,
            ca_key: Base64(self.key.serialized_der().to_vec()),
            ca_certificate: Base64(ca),
            update: group.update.sealed().clone(),
            members: self.members()?,
        };
        let mut bytes = serde_json::to_vec_pretty(&export).map_err(damaged(&self.state, MEMBERS))?;
        bytes.push(b'\n');
        Ok(bytes)
    }
}

/// Makes this machine an authority of the export's group. A machine in no group also becomes a full member called
/// `node_name`, since it may be the last machine of the group.
///
/// # Errors
/// [`GroupError::Transfer`], or when a file cannot be written.
pub fn import(state: &StateDir, export: &[u8], node_name: &WantedName) -> Result<Imported, GroupError> {
    let not_an_export = |_: &dyn std::fmt::Debug| TransferError::NotAnExport;
    let header: Header = serde_json::from_slice(export).map_err(|error| not_an_export(&error))?;
    if header.laneway_authority != VERSION {
        return Err(TransferError::Newer.into());
    }
    let export: Export = serde_json::from_slice(export).map_err(|error| not_an_export(&error))?;
    let key = PrivatePkcs8KeyDer::from(export.ca_key.0);
    let key = certificate::read_key(&key).map_err(|error| not_an_export(&error))?;
    let authority = Authority::with_key(state, key);
    let ca_key = authority.ca_key;
    certificate::verify_authority(&ca_key, &export.ca_certificate.0)
        .map_err(|error| not_an_export(&error))?;
    let update = export.update.open(&ca_key).map_err(|error| not_an_export(&error))?;

    let lock = state.lock()?;
    let known = Group::load(state)?;
    if let Some(own) = &known
        && own.ca_key != ca_key
    {
        let (theirs, own) = (export.group_name, own.name.clone());
        return Err(TransferError::Foreign { theirs, own }.into());
    }
    if known.is_none() && state.read(CA_KEY)?.is_some() {
        return Err(GroupError::Leftover { file: state.file(CA_KEY) });
    }
    let mut members = authority.members()?;
    members.retain(|own| export.members.iter().all(|other| other.id != own.id));
    members.splice(0..0, export.members);
    if known.is_none() {
        name_for(node_name, &members, update.revoked())?;
    }
    write_json(state, MEMBERS, &members)?;
    let write_key = || {
        // An export that is read back where it was written is no sign of another machine.
        if state.stamp(CA_KEY).is_none() {
            state.write(IMPORTED, b"")?;
        }
        write_pem(state, CA_KEY, "PRIVATE KEY", authority.key.serialized_der())
    };
    if let Some(mut group) = known {
        if update.version() > group.update.version() {
            group = group.with_update(update, clock::now());
            group::write_group(state, &group)?;
        }
        write_key()?;
        return Ok(Imported { group, joined: false });
    }
    let node_key = certificate::new_key()?;
    let public_key = certificate::raw_public_key(&node_key);
    let (member, node) =
        authority.issue(&lock, update.revoked(), &public_key, node_name, Role::Gateway, None)?;
    let membership = IssuedMembership {
        group_name: export.group_name,
        statement: authority.vouch_for(&member.name, &public_key, Role::Gateway, update.epoch())?,
        node_name: member.name,
        node_certificate: Base64(node),
        ca_certificate: export.ca_certificate,
    };
    let group = Group::assemble(membership, update, node_key, &ca_key)?;
    write_key()?;
    group::save(state, &lock, &group)?;
    Ok(Imported { group, joined: true })
}

/// The part of an export that all formats share.
#[derive(Deserialize)]
struct Header {
    laneway_authority: u32,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Uses;
    use crate::authority::tests::{key, new};
    use std::os::unix::fs::PermissionsExt as _;

    fn empty() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        (directory, state)
    }

    fn named(name: &str) -> WantedName {
        WantedName::Suggested(name.into())
    }

    fn transfer_error(error: GroupError) -> TransferError {
        match error {
            GroupError::Transfer(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_machine_in_no_group_becomes_the_authority_of_what_is_left() {
        let (_old, _, authority, first) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        authority.admit(&code.invite, &key(), &named("laptop")).unwrap();
        authority.revoke("laptop").unwrap();
        let (_directory, state) = empty();
        let imported = import(&state, &authority.export().unwrap(), &named("second")).unwrap();
        assert!(imported.joined);
        let group = Group::load(&state).unwrap().unwrap();
        assert_eq!((group.id, group.name.as_str(), group.update.epoch()), (first.id, "office", 1));
        assert_eq!((group.node.name.as_str(), group.node.role), ("second", Role::Gateway));
        let here = Authority::load(&state).unwrap().unwrap();
        let names: Vec<_> = here.members().unwrap().into_iter().map(|member| member.name).collect();
        assert_eq!(names, ["first", "laptop", "second"]);
        let mode = std::fs::metadata(state.file(CA_KEY)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        // This machine can do everything that an authority does.
        let code = here.invite(Role::Gateway, Uses::Any, None, None).unwrap();
        here.admit(&code.invite, &key(), &named("third")).unwrap();
        assert_eq!(here.revoke("third").unwrap().epoch, 2);
    }

    #[test]
    fn a_member_becomes_an_authority_and_keeps_what_it_is() {
        let (_old, _, authority, _) = new();
        let (_directory, state) = empty();
        let export = authority.export().unwrap();
        let before = import(&state, &export, &named("second")).unwrap().group;
        // It is a member now. Its key is removed, and a later import brings a newer update.
        std::fs::remove_file(state.file(CA_KEY)).unwrap();
        authority.rotate().unwrap();
        let after = import(&state, &authority.export().unwrap(), &named("other")).unwrap();
        assert!(!after.joined);
        assert_eq!((after.group.node, after.group.update.epoch()), (before.node, 1));
        // An older update is not applied.
        assert_eq!(import(&state, &export, &named("x")).unwrap().group.update.epoch(), 1);
        assert_eq!(Group::load(&state).unwrap().unwrap().update.epoch(), 1);
    }

    #[test]
    fn a_full_group_can_be_recovered_from_an_export() {
        let (_old, state, authority, _) = new();
        let first = authority.members().unwrap().remove(0);
        let member = |number: usize| Member {
            id: laneway_wire::id::NodeId((u128::try_from(number).unwrap() << 100).to_be_bytes()).to_string(),
            name: format!("m{number}"),
            ..first.clone()
        };
        let all: Vec<_> = (0..crate::update::MAX_MEMBERS).map(member).collect();
        write_json(&state, MEMBERS, &all).unwrap();
        let (_directory, empty) = empty();
        let imported = import(&empty, &authority.export().unwrap(), &named("second")).unwrap();
        let here = Authority::load(&empty).unwrap().unwrap();
        assert!(imported.joined && here.revoke("m7").is_ok());
    }

    #[test]
    fn another_group_and_files_that_are_no_export_are_refused_and_nothing_changes() {
        let (_old, state, authority, _) = new();
        let (_other, other_state, other, _) = new();
        let before = other_state.read(CA_KEY).unwrap();
        let refused =
            transfer_error(import(&other_state, &authority.export().unwrap(), &named("x")).unwrap_err());
        assert!(matches!(refused, TransferError::Foreign { .. }), "{refused:?}");
        assert_eq!(other_state.read(CA_KEY).unwrap(), before);

        let export = String::from_utf8(other.export().unwrap()).unwrap();
        let key_of = |text: &str| {
            let value: serde_json::Value = serde_json::from_str(text).unwrap();
            value["ca_key"].as_str().unwrap().to_owned()
        };
        let own = String::from_utf8(authority.export().unwrap()).unwrap();
        let mixed = own.replace(&key_of(&own), &key_of(&export));
        for wrong in ["", "{}", &export[..export.len() / 2], &mixed] {
            let refused = transfer_error(import(&state, wrong.as_bytes(), &named("x")).unwrap_err());
            assert_eq!(refused, TransferError::NotAnExport, "{wrong}");
        }
        let newer = export.replacen("\"laneway_authority\": 1", "\"laneway_authority\": 2", 1);
        assert_eq!(
            transfer_error(import(&state, newer.as_bytes(), &named("x")).unwrap_err()),
            TransferError::Newer
        );
    }

    #[test]
    fn a_key_without_a_group_is_not_overwritten() {
        let (_old, _, authority, _) = new();
        let (_directory, state) = empty();
        state.write(CA_KEY, b"somebody's").unwrap();
        let refused = import(&state, &authority.export().unwrap(), &named("x")).unwrap_err();
        assert!(matches!(refused, GroupError::Leftover { .. }), "{refused:?}");
        assert_eq!(state.read(CA_KEY).unwrap().as_deref(), Some(&b"somebody's"[..]));
    }
}
