//! The group's authority: the machine that holds `ca.key`, invites and admits.
//!
//! Every change reads the files again under the state directory's lock, because the command line changes
//! them while the daemon runs.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::hmac;
use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::certificate::{self, CertificateError, Role};
use super::code::{self, JoinCode};
use super::group::{self, Group, GroupError, Membership};
use super::state::{StateDir, StateLock};
use super::{Base64, clock, random};
use crate::wire::id::{GroupId, NodeId};

/// How many wrong proofs an invite survives. A guess of its 128 bits is hopeless; ten say that somebody
/// tries, or that a code is damaged in a way that will not get better.
const WRONG_PROOFS: u32 = 10;

/// How long an ended invite is remembered, so that whoever still holds its code is told that it ended.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// The holder of the group's key.
#[derive(Clone)]
pub struct Authority {
    /// The group it speaks for.
    pub group: GroupId,
    ca_key: [u8; 32],
    key: Arc<KeyPair>,
    state: StateDir,
}

/// How many machines an invite admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uses {
    /// This many more.
    Times(u32),
    /// Any number.
    Any,
}

/// An open door.
#[derive(Clone, Serialize, Deserialize)]
pub struct Invite {
    id: Base64<[u8; 8]>,
    secret: Base64<[u8; 16]>,
    /// What it makes of whom it admits.
    pub role: Role,
    /// How many it still admits.
    pub uses: Uses,
    /// When it ends, in seconds since 1970; 0 is never.
    pub expires: u64,
    /// What the new member is called, if not what it calls itself.
    pub name: Option<String>,
    wrong_proofs: u32,
}

/// Why an invite does not admit: the answer to a joiner, which the joiner shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No such invite, or none any more.
    #[error("the group does not know this join code")]
    UnknownInvite,
    /// Its time is over.
    #[error("this join code has expired")]
    Expired,
    /// Others have used it.
    #[error("this join code has been used up")]
    UsedUp,
    /// Too many wrong proofs.
    #[error("this join code was locked after {WRONG_PROOFS} wrong attempts")]
    Locked,
    /// The joiner does not know the secret, or is not the one at the other end.
    #[error("the proof of this join code is wrong")]
    WrongProof,
    /// The authority could not keep the record.
    #[error("the machine that made the group could not record the new member")]
    Unrecorded,
}

impl Refusal {
    /// What the joiner can do about it.
    pub fn hint(self) -> String {
        let hint = match self {
            Self::UnknownInvite | Self::Expired | Self::UsedUp | Self::Locked => {
                "run 'laneway invite' on the machine that made the group, and use the line that it prints"
            }
            Self::WrongProof => {
                "copy the line again, or run 'laneway invite' on the machine that made the group for a new one"
            }
            Self::Unrecorded => "the log of 'laneway up' on that machine says why",
        };
        hint.into()
    }
}

/// A certificate that was given out, as `members.json` remembers it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The certificate's serial number in hexadecimal.
    pub serial: String,
    /// The node id in hexadecimal.
    pub id: String,
    /// Unique in the group.
    pub name: String,
    /// What it may do.
    pub role: Role,
    /// When it joined, in seconds since 1970 by the authority's clock.
    pub joined: u64,
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
        let (member, node) = authority.issue_locked(&lock, &public_key, node_name, Role::Gateway)?;
        let membership = Membership {
            group_name: group_name.to_owned(),
            node_name: member.name,
            epoch: 0,
            discovery_key: Base64(random()),
            node_certificate: Base64(node),
            ca_certificate: Base64(certificate::sign_authority(&authority.key)?),
            crl: None,
        };
        let group = Group::assemble(membership, node_key, &authority.ca_key)?;
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

    /// Opens a door and says the code for it. `ttl` of `None` is for ever.
    ///
    /// # Errors
    /// When the invite cannot be recorded; there is then no code.
    pub fn invite(
        &self,
        role: Role,
        uses: Uses,
        ttl: Option<Duration>,
        name: Option<String>,
    ) -> Result<JoinCode, GroupError> {
        let now = clock::now();
        let invite = Invite {
            id: Base64(random()),
            secret: Base64(random()),
            role,
            uses,
            expires: ttl.map_or(0, |ttl| now.saturating_add(ttl).as_secs()),
            name,
            wrong_proofs: 0,
        };
        let code = JoinCode::new(self.ca_key, invite.id.0, invite.secret.0, invite.expires);
        let _lock = self.state.lock()?;
        let mut invites = self.invites()?;
        invites.retain(|invite| !code::expired(invite.expires, now.saturating_sub(REMEMBERED)));
        invites.push(invite);
        group::write_json(&self.state, INVITES, &invites)?;
        Ok(code)
    }

    /// An invite that admits now.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when there is none, or when `invites.json` cannot be read.
    pub fn invite_by_id(&self, id: &[u8; 8]) -> Result<Invite, GroupError> {
        let invite = self.invites()?.into_iter().find(|invite| invite.id.0 == *id);
        let invite = invite.ok_or(Refusal::UnknownInvite)?;
        invite.admits(clock::now())?;
        Ok(invite)
    }

    /// The invites that admit now: what the answer to a joiner's search is authenticated with.
    ///
    /// # Errors
    /// When `invites.json` cannot be read.
    #[cfg(test)]
    fn open_invites(&self) -> Result<Vec<Invite>, GroupError> {
        let mut invites = self.invites()?;
        invites.retain(|invite| invite.admits(clock::now()).is_ok());
        Ok(invites)
    }

    /// Counts one use of an invite, before the certificate is made: a crash may lose a use but never adds one.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when another joiner was faster, or when that cannot be recorded.
    pub fn consume(&self, id: &[u8; 8]) -> Result<(), GroupError> {
        self.change_invite(id, |invite| {
            invite.admits(clock::now())?;
            if let Uses::Times(left) = &mut invite.uses {
                *left = left.saturating_sub(1);
            }
            Ok(())
        })
    }

    /// Counts a wrong proof; the tenth locks the invite.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub fn wrong_proof(&self, id: &[u8; 8]) -> Result<(), GroupError> {
        self.change_invite(id, |invite| {
            invite.wrong_proofs = invite.wrong_proofs.saturating_add(1);
            Ok(())
        })
    }

    /// Everyone who was given a certificate, in order.
    ///
    /// # Errors
    /// When `members.json` cannot be read.
    pub fn members(&self) -> Result<Vec<Member>, GroupError> {
        Ok(group::read_json(&self.state, MEMBERS)?.unwrap_or_default())
    }

    /// Signs a certificate and records it, under a name nobody in the group has yet.
    ///
    /// # Errors
    /// When it cannot be recorded; there is then no certificate.
    pub(super) fn issue(
        &self,
        public_key: &[u8; 32],
        name: &str,
        role: Role,
    ) -> Result<Membership, GroupError> {
        let lock = self.state.lock()?;
        // Read now, not at start: a revocation changes the shared keys while the daemon runs.
        let Some(own) = Group::load(&self.state)? else {
            return Err(GroupError::Leftover { file: self.state.file(group::CA_KEY) });
        };
        let (member, node) = self.issue_locked(&lock, public_key, name, role)?;
        Ok(Membership {
            group_name: own.name,
            node_name: member.name,
            epoch: own.epoch,
            discovery_key: Base64(own.discovery_key),
            node_certificate: Base64(node),
            ca_certificate: Base64(own.chain.into_iter().nth(1).ok_or(CertificateError::NoIdentity)?),
            crl: own.crl.map(Base64),
        })
    }

    fn issue_locked(
        &self,
        _lock: &StateLock,
        public_key: &[u8; 32],
        name: &str,
        role: Role,
    ) -> Result<(Member, CertificateDer<'static>), GroupError> {
        let serial = certificate::new_serial();
        let mut members = self.members()?;
        let member = Member {
            serial: NodeId(serial).to_string(),
            id: certificate::node_id(public_key).to_string(),
            name: free_name(&tidy(name), &members),
            role,
            joined: clock::now().as_secs(),
        };
        let node = certificate::sign_node(&self.key, public_key, &member.name, role, serial)?;
        members.push(member.clone());
        group::write_json(&self.state, MEMBERS, &members)?;
        Ok((member, node))
    }

    fn with_key(state: &StateDir, key: KeyPair) -> Self {
        let ca_key = certificate::raw_public_key(&key);
        Self { group: certificate::group_id(&ca_key), ca_key, key: Arc::new(key), state: state.clone() }
    }

    fn invites(&self) -> Result<Vec<Invite>, GroupError> {
        Ok(group::read_json(&self.state, INVITES)?.unwrap_or_default())
    }

    fn change_invite(
        &self,
        id: &[u8; 8],
        change: impl FnOnce(&mut Invite) -> Result<(), Refusal>,
    ) -> Result<(), GroupError> {
        let _lock = self.state.lock()?;
        let mut invites = self.invites()?;
        let invite = invites.iter_mut().find(|invite| invite.id.0 == *id).ok_or(Refusal::UnknownInvite)?;
        change(invite)?;
        group::write_json(&self.state, INVITES, &invites)
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("group", &self.group).finish_non_exhaustive()
    }
}

impl Invite {
    /// Which one.
    pub fn id(&self) -> [u8; 8] {
        self.id.0
    }

    /// The key of the discovery datagrams by which its holder finds the authority.
    pub fn discovery_key(&self) -> [u8; 32] {
        code::discovery_key(&self.secret.0)
    }

    /// The key that a proof of its secret is made with.
    pub(super) fn proof_key(&self) -> hmac::Key {
        code::proof_key(&self.secret.0)
    }

    fn admits(&self, now: Duration) -> Result<(), Refusal> {
        if self.wrong_proofs >= WRONG_PROOFS {
            return Err(Refusal::Locked);
        }
        if code::expired(self.expires, now) {
            return Err(Refusal::Expired);
        }
        match self.uses {
            Uses::Times(0) => Err(Refusal::UsedUp),
            Uses::Times(_) | Uses::Any => Ok(()),
        }
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("role", &self.role)
            .field("uses", &self.uses)
            .field("expires", &self.expires)
            .field("name", &self.name)
            .field("wrong_proofs", &self.wrong_proofs)
            .finish_non_exhaustive()
    }
}

const INVITES: &str = "invites.json";
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
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    fn new() -> (tempfile::TempDir, StateDir, Authority, Group) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let group = Authority::create(&state, "office", "first").unwrap();
        let authority = Authority::load(&state).unwrap().unwrap();
        (directory, state, authority, group)
    }

    fn refusal(error: GroupError) -> Refusal {
        match error {
            GroupError::Refused(refusal) => refusal,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_new_group_is_what_is_loaded_later() {
        let (_directory, state, authority, made) = new();
        let loaded = Group::load(&state).unwrap().unwrap();
        assert_eq!((loaded.id, loaded.name.as_str(), loaded.epoch), (authority.group, "office", 0));
        assert_eq!(loaded.node, made.node);
        assert_eq!((loaded.node.name.as_str(), loaded.node.role), ("first", Role::Gateway));
        assert_eq!(loaded.discovery_key, made.discovery_key);
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
        let (_directory, _, authority, mut group) = new();
        group.discovery_key = [0xab; 32];
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let invite = authority.invite_by_id(&code.invite).unwrap();
        let printed = format!("{group:?} {authority:?} {invite:?} {code:?}");
        assert!(!printed.contains("171, 171") && !printed.contains("secret"), "{printed}");
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
        let name = |wanted: &str| {
            let key = certificate::new_key().unwrap();
            authority.issue(&certificate::raw_public_key(&key), wanted, Role::Client).unwrap().node_name
        };
        assert_eq!(name("first"), "first-2");
        assert_eq!(name("FIRST"), "FIRST-3");
        assert_eq!(name(" lab pc\u{1b}[31m "), "lab-pc--31m");
        assert_eq!(name("--all"), "all");
        assert_eq!(name(""), "node");
        assert_eq!(name(&"x".repeat(1000)), "x".repeat(48));
        assert_eq!(authority.members().unwrap().len(), 7);
    }

    #[test]
    fn an_invite_counts_down_and_is_seen_by_another_process() {
        let (_directory, state, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Times(2), None, None).unwrap();
        let daemon = Authority::load(&state).unwrap().unwrap();
        assert_eq!(daemon.invite_by_id(&code.invite).unwrap().uses, Uses::Times(2));
        daemon.consume(&code.invite).unwrap();
        authority.consume(&code.invite).unwrap();
        assert_eq!(refusal(daemon.consume(&code.invite).unwrap_err()), Refusal::UsedUp);
        assert_eq!(refusal(daemon.invite_by_id(&code.invite).unwrap_err()), Refusal::UsedUp);
        assert_eq!(refusal(daemon.invite_by_id(&[0; 8]).unwrap_err()), Refusal::UnknownInvite);
    }

    #[test]
    fn two_at_once_cannot_share_one_use() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Times(3), None, None).unwrap();
        let admitted = std::thread::scope(|scope| {
            let tries: Vec<_> =
                (0..12).map(|_| scope.spawn(|| authority.consume(&code.invite).is_ok())).collect();
            tries.into_iter().filter_map(|admitted| admitted.join().ok()).filter(|admitted| *admitted).count()
        });
        assert_eq!(admitted, 3);
    }

    #[test]
    fn ten_wrong_proofs_lock_an_invite() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        for _ in 0..9 {
            authority.wrong_proof(&code.invite).unwrap();
        }
        assert!(authority.invite_by_id(&code.invite).is_ok());
        authority.wrong_proof(&code.invite).unwrap();
        assert_eq!(refusal(authority.invite_by_id(&code.invite).unwrap_err()), Refusal::Locked);
        assert!(authority.open_invites().unwrap().is_empty());
    }

    #[test]
    fn ended_invites_say_so_and_are_forgotten_later() {
        let (_directory, _, authority, _) = new();
        let ended = authority.invite(Role::Client, Uses::Any, Some(Duration::ZERO), None).unwrap();
        let open = authority.invite(Role::Client, Uses::Any, Some(Duration::from_secs(60)), None).unwrap();
        assert_eq!(refusal(authority.invite_by_id(&ended.invite).unwrap_err()), Refusal::Expired);
        assert!(authority.invite_by_id(&open.invite).is_ok());
        assert_eq!(authority.open_invites().unwrap().len(), 1);
        let mut invites = authority.invites().unwrap();
        invites[0].expires -= REMEMBERED.as_secs() + 1;
        group::write_json(&authority.state, INVITES, &invites).unwrap();
        authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        assert_eq!(refusal(authority.invite_by_id(&ended.invite).unwrap_err()), Refusal::UnknownInvite);
        assert_eq!(authority.invites().unwrap().len(), 2);
    }
}
