//! The authority's key and list of members.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use rcgen::{KeyPair, SigningKey as _};
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};
use tokio::sync::watch;

use crate::base64::Base64;
use crate::certificate::{self, CertificateError, Role};
use crate::clock;
use crate::error::{GroupError, InviteError};
use crate::files::{CA_KEY, MEMBERS, damaged, read_json, try_read_pem, write_json};
use crate::group::Group;
use crate::name::{self, Taken, WantedName};
use crate::statement::Statement;
use crate::update::MAX_MEMBERS;
use laneway_sys::state::{StateDir, StateLock};
use laneway_wire::datagram::{AnnouncedName, STATEMENT_SIZE};
use laneway_wire::id::{GroupId, NodeId};

/// The group's authority, on a machine that holds its key.
#[derive(Clone)]
pub struct Authority {
    /// The group's id.
    pub group: GroupId,
    /// The raw public key.
    pub(super) ca_key: [u8; 32],
    pub(super) key: Arc<KeyPair>,
    pub(super) state: StateDir,
}

/// The authority of a running node: none until `ca.key` is in its state directory, which `laneway ca import` may write at any
/// time.
pub type Held = watch::Receiver<Option<Authority>>;

/// A member, as recorded in `members.json` when its certificate was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node id in hexadecimal, which is also the certificate's serial number.
    pub id: String,
    /// Its name. No other present member has one that looks like it, unless another machine that holds the authority's
    /// key admitted that member.
    pub name: String,
    /// The name that it asked for.
    pub(super) wanted: String,
    /// What its certificate permits.
    pub role: Role,
    /// When it joined, in seconds since 1970 by the authority's clock.
    pub joined: u64,
    /// The invite that admitted it; `None` for the machine that created the group or imported its key.
    pub(super) invite: Option<Base64<[u8; 8]>>,
    /// When it left the group by itself, in seconds since 1970.
    #[serde(default)]
    pub left: Option<u64>,
    /// When this machine revoked it, in seconds since 1970.
    #[serde(default)]
    pub removed: Option<u64>,
}

impl Authority {
    /// Loads the authority; `None` when this machine does not hold it.
    ///
    /// # Errors
    /// When `ca.key` cannot be read, or other users may read it.
    pub fn load(state: &StateDir) -> Result<Option<Self>, GroupError> {
        let key: Option<PrivatePkcs8KeyDer<'static>> = try_read_pem(state, CA_KEY)?;
        let Some(key) = key else { return Ok(None) };
        let key = certificate::read_key(&key).map_err(damaged(state, CA_KEY))?;
        Ok(Some(Self::with_key(state, key)))
    }

    /// All members that were issued a certificate, in order.
    ///
    /// # Errors
    /// When `members.json` cannot be read.
    pub fn members(&self) -> Result<Vec<Member>, GroupError> {
        Ok(read_json(&self.state, MEMBERS)?.unwrap_or_default())
    }

    /// Issues a certificate for a key that no member has, and records the new member.
    ///
    /// # Errors
    /// [`InviteError::BadName`] and [`InviteError::NameTaken`], or when it cannot be recorded; then no certificate is issued.
    pub(super) fn issue(
        &self,
        _lock: &StateLock,
        revoked: &BTreeSet<NodeId>,
        public_key: &[u8; 32],
        wanted: &WantedName,
        role: Role,
        invite: Option<Base64<[u8; 8]>>,
    ) -> Result<(Member, CertificateDer<'static>), GroupError> {
        let mut members = self.members()?;
        let name = name_for(wanted, &members, revoked)?;
        let node = certificate::sign_node(&self.key, public_key, &name, role)?;
        let member = Member {
            id: certificate::node_id(public_key).to_string(),
            name,
            wanted: wanted.name().to_owned(),
            role,
            joined: clock::now().as_secs(),
            invite,
            left: None,
            removed: None,
        };
        members.push(member.clone());
        write_json(&self.state, MEMBERS, &members)?;
        Ok((member, node))
    }

    /// Signs the statement about the member of this name with this key.
    pub(super) fn vouch_for(
        &self,
        name: &str,
        public_key: &[u8; 32],
        role: Role,
        epoch: u64,
    ) -> Result<Base64<[u8; STATEMENT_SIZE]>, CertificateError> {
        Statement { role, epoch, public_key: *public_key }
            .sign(&self.key, AnnouncedName::new(name))
            .map(Base64)
    }

    /// A signature by the authority over this message, which begins with a label of its own.
    pub(crate) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, CertificateError> {
        self.key.sign(message).map_err(CertificateError::Sign)
    }

    /// The group of this machine.
    pub(super) fn own_group(&self) -> Result<Group, GroupError> {
        Group::load(&self.state)?.ok_or_else(|| GroupError::Leftover { file: self.state.file(CA_KEY) })
    }

    /// The authority with this key.
    pub(super) fn with_key(state: &StateDir, key: KeyPair) -> Self {
        let ca_key = certificate::raw_public_key(&key);
        Self { group: certificate::group_id(&ca_key), ca_key, key: Arc::new(key), state: state.clone() }
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authority").field("group", &self.group).finish_non_exhaustive()
    }
}

/// Fails when the revocation list might not have room for all members with one more. The machine that imports the group's key
/// is not counted here: a full group must be recoverable, and the list has room for it.
///
/// # Errors
/// [`InviteError::Full`].
pub(super) fn require_room(members: &[Member], revoked: &BTreeSet<NodeId>) -> Result<(), InviteError> {
    let listed: BTreeSet<NodeId> = members.iter().filter_map(|member| NodeId::parse(&member.id)).collect();
    let unlisted = revoked.difference(&listed).count();
    if members.len() + unlisted < MAX_MEMBERS { Ok(()) } else { Err(InviteError::Full) }
}

/// The name under which a new member is recorded.
///
/// # Errors
/// As [`Authority::issue`].
pub(super) fn name_for(
    wanted: &WantedName,
    members: &[Member],
    revoked: &BTreeSet<NodeId>,
) -> Result<String, InviteError> {
    if !name::is_valid(wanted.name()) {
        return Err(InviteError::BadName);
    }
    let is_removed = |member: &&Member| NodeId::parse(&member.id).is_some_and(|id| revoked.contains(&id));
    // The name of a removed member is free again.
    let mut present = members.iter().filter(|member| !is_removed(member));
    let taken = Taken::new(present.clone().map(|member| member.name.as_str()));
    if !wanted.is_chosen() {
        return Ok(taken.free_name(wanted.name()));
    }
    match present.find(|member| name::are_alike(&member.name, wanted.name())) {
        Some(other) => {
            let (name, id) = (wanted.name().to_owned(), other.id.clone());
            Err(InviteError::NameTaken { name, id })
        }
        None => Ok(wanted.name().to_owned()),
    }
}
