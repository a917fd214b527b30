//! The group as a member knows it: the member's own name, certificate and key, and the state that all members share.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::base64::Base64;
pub use super::certificate::Role;
use super::certificate::{self, CertificateError, Identity};
use super::clock;
pub use super::error::GroupError;
use super::files::{
    CA_CERTIFICATE, CA_KEY, CRL, DEPARTURES, EXPORTED, GROUP, IMPORTED, INVITES, JOIN_KEY, MEMBERS,
    NODE_CERTIFICATE, NODE_KEY, REMOVAL, damaged, read_json, read_pem, write_json, write_pem,
};
use super::statement::Statement;
use super::update::{GroupUpdate, SealedUpdate};
use laneway_sys::state::{StateDir, StateLock};
use laneway_wire::datagram::{AnnouncedName, DatagramSigner, STATEMENT_SIZE};
use laneway_wire::id::{GroupId, NodeId};

/// This machine's membership of a group. It is only constructed complete: the authority signed the certificate, for this
/// key.
#[derive(Clone)]
pub struct Group {
    /// The group's id.
    pub id: GroupId,
    /// The group's name.
    pub name: String,
    /// The revocations and the discovery key. A member never goes back to an older update.
    pub update: GroupUpdate,
    /// Earlier discovery keys, the newest first, while they are still valid for members that missed the update.
    pub retired: Vec<RetiredKey>,
    /// The authority's raw Ed25519 public key.
    pub ca_key: [u8; 32],
    /// This machine as a member.
    pub node: Node,
    /// The node's certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The node's private key.
    pub key: Arc<PrivatePkcs8KeyDer<'static>>,
    /// What signs the node's discovery datagrams: the same key, and the authority's statement about the node.
    pub signer: Arc<DatagramSigner>,
}

/// A discovery key that has been replaced.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetiredKey {
    /// The epoch of the key.
    pub epoch: u64,
    key: Base64<[u8; 32]>,
    /// When its validity ends, in seconds since 1970.
    until: u64,
}

/// A node as its certificate describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Derived from its public key.
    pub id: NodeId,
    /// Its name, which was unique in the group when it joined.
    pub name: String,
    /// What the certificate permits.
    pub role: Role,
}

/// What the authority issues to a new member.
#[derive(Serialize, Deserialize)]
pub(super) struct IssuedMembership {
    pub(super) group_name: String,
    pub(super) node_name: String,
    pub(super) node_certificate: Base64<CertificateDer<'static>>,
    pub(super) ca_certificate: Base64<CertificateDer<'static>>,
    pub(super) statement: Base64<[u8; STATEMENT_SIZE]>,
}

/// The authority's answer to a machine that it admits.
#[derive(Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) membership: IssuedMembership,
    #[serde(rename = "news")]
    pub(super) update: SealedUpdate,
}

impl Group {
    /// Loads this machine's group; `None` when it is in none.
    ///
    /// # Errors
    /// When a file is missing or damaged, or does not match the others; the message names it.
    pub fn load(state: &StateDir) -> Result<Option<Self>, GroupError> {
        let Some(GroupFile { name, node_name, statement, update, retired }) = read_json(state, GROUP)? else {
            return Ok(None);
        };
        let ca: CertificateDer<'static> = read_pem(state, CA_CERTIFICATE)?;
        let ca_key = certificate::authority_key(&ca).map_err(damaged(state, CA_CERTIFICATE))?;
        let key: PrivatePkcs8KeyDer<'static> = read_pem(state, NODE_KEY)?;
        let key = certificate::read_key(&key).map_err(damaged(state, NODE_KEY))?;
        let membership = IssuedMembership {
            group_name: name,
            node_name,
            node_certificate: Base64(read_pem(state, NODE_CERTIFICATE)?),
            ca_certificate: Base64(ca),
            statement,
        };
        let update = update.open(&ca_key).map_err(damaged(state, GROUP))?;
        let mut group =
            Self::assemble(membership, update, key, &ca_key).map_err(damaged(state, NODE_CERTIFICATE))?;
        group.retired = retired;
        Ok(Some(group.without_expired_keys(clock::now()).unwrap_or(group)))
    }

    /// Assembles a group after verifying that this authority signed both certificates, the node's for this key, and that its
    /// statement agrees with the node's certificate.
    pub(super) fn assemble(
        membership: IssuedMembership,
        update: GroupUpdate,
        key: KeyPair,
        ca_key: &[u8; 32],
    ) -> Result<Self, CertificateError> {
        let Base64(node) = membership.node_certificate;
        let Base64(ca) = membership.ca_certificate;
        certificate::verify_authority(ca_key, &ca)?;
        let public_key = certificate::raw_public_key(&key);
        let Identity { id, role, group } = certificate::verify_node(ca_key, &node, &public_key)?;
        let Base64(bytes) = membership.statement;
        let name = AnnouncedName::new(&membership.node_name);
        let stated = Statement::verify(&bytes, ca_key, name)?;
        if (stated.role, stated.public_key) != (role, public_key) {
            return Err(CertificateError::Another("node"));
        }
        let signer = DatagramSigner::new(key.serialized_der(), bytes, name)?;
        Ok(Self {
            id: group,
            name: membership.group_name,
            update,
            retired: Vec::new(),
            ca_key: *ca_key,
            node: Node { id, name: membership.node_name, role },
            chain: vec![node, ca],
            key: Arc::new(key.into()),
            signer: Arc::new(signer),
        })
    }

    /// The group after a newer update. The current discovery key is retired if the update replaces it.
    pub(super) fn with_update(&self, update: GroupUpdate, now: Duration) -> Self {
        if update.discovery_key() == self.update.discovery_key() {
            return Self { update, ..self.clone() };
        }
        let retired = RetiredKey {
            epoch: self.update.epoch(),
            key: Base64(*self.update.discovery_key()),
            until: now.saturating_add(RETIREMENT).as_secs(),
        };
        let mut all = vec![retired];
        all.extend(self.retired.iter().filter(|retired| retired.is_valid(now)).cloned());
        all.truncate(MAX_RETIRED);
        Self { update, retired: all, ..self.clone() }
    }

    /// The group without retired keys that are no longer valid; `None` when all are still valid.
    pub(super) fn without_expired_keys(&self, now: Duration) -> Option<Self> {
        let mut group = self.clone();
        group.retired.retain(|retired| retired.is_valid(now));
        (group.retired.len() < self.retired.len()).then_some(group)
    }
}

impl RetiredKey {
    /// The key.
    pub fn key(&self) -> &[u8; 32] {
        &self.key.0
    }

    /// A clock that is set back does not extend the validity.
    fn is_valid(&self, now: Duration) -> bool {
        let left = self.until.saturating_sub(now.as_secs());
        0 < left && left <= RETIREMENT.as_secs()
    }
}

impl fmt::Debug for RetiredKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RetiredKey")
            .field("epoch", &self.epoch)
            .field("until", &self.until)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("update", &self.update)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Saves the group that a joiner was admitted to, so that [`Group::load`] finds it.
///
/// # Errors
/// When this machine is in a group already, or a file cannot be written.
pub fn remember_membership(state: &StateDir, group: &Group) -> Result<(), GroupError> {
    let lock = state.lock()?;
    refuse_second_group(state)?;
    save(state, &lock, group)?;
    Ok(state.remove(JOIN_KEY)?)
}

/// Removes this machine's membership, and the authority's files if it holds them. `group.json` goes first: without it the
/// machine is in no group.
///
/// # Errors
/// When a file cannot be removed.
pub fn forget(state: &StateDir) -> Result<(), GroupError> {
    let _lock = state.lock()?;
    let rest = [
        NODE_KEY,
        NODE_CERTIFICATE,
        CA_KEY,
        CA_CERTIFICATE,
        CRL,
        MEMBERS,
        INVITES,
        JOIN_KEY,
        EXPORTED,
        IMPORTED,
        DEPARTURES,
        REMOVAL,
    ];
    [GROUP].into_iter().chain(rest).try_for_each(|file| state.remove(file))?;
    Ok(())
}

/// Removes the key that was kept for another attempt to join, after an answer.
///
/// # Errors
/// When it cannot be removed.
pub fn forget_attempt(state: &StateDir) -> Result<(), GroupError> {
    Ok(state.remove(JOIN_KEY)?)
}

/// Fails when this machine is in a group, even in one whose other files cannot be read.
///
/// # Errors
/// [`GroupError::AlreadyMember`], or when `group.json` itself cannot be read.
pub fn refuse_second_group(state: &StateDir) -> Result<(), GroupError> {
    match read_json::<GroupFile>(state, GROUP)? {
        Some(GroupFile { name, .. }) => {
            let (directory, holds_key) = (state.path().to_owned(), state.stamp(CA_KEY).is_some());
            Err(GroupError::AlreadyMember { name, directory, holds_key, option: state.option() })
        }
        None => Ok(()),
    }
}

/// Writes the files of a member. `group.json` comes last: without it this machine is in no group.
pub(super) fn save(state: &StateDir, _lock: &StateLock, group: &Group) -> Result<(), GroupError> {
    let [node, ca] = group.chain.as_slice() else {
        return Err(CertificateError::NoIdentity.into());
    };
    write_pem(state, NODE_KEY, "PRIVATE KEY", group.key.secret_pkcs8_der())?;
    write_pem(state, NODE_CERTIFICATE, "CERTIFICATE", node)?;
    write_pem(state, CA_CERTIFICATE, "CERTIFICATE", ca)?;
    write_group(state, group)
}

/// Saves the current update and the retired keys, unless the same or newer ones are saved already.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn save_update(state: &StateDir, group: &Group) -> Result<(), GroupError> {
    if is_saved(state, group)? {
        return Ok(());
    }
    let _lock = state.lock()?;
    if is_saved(state, group)? { Ok(()) } else { write_group(state, group) }
}

fn is_saved(state: &StateDir, group: &Group) -> Result<bool, GroupError> {
    let Some(file) = read_json::<GroupFile>(state, GROUP)? else {
        return Err(GroupError::Missing { file: state.file(GROUP) });
    };
    let (saved, known) = (file.update.version(), group.update.version());
    Ok(saved > known || saved == known && file.retired == group.retired)
}

/// Writes `group.json` and `crl.pem`. The latter is for other programs; `group.json` is what counts.
pub(super) fn write_group(state: &StateDir, group: &Group) -> Result<(), GroupError> {
    write_pem(state, CRL, "X509 CRL", group.update.crl())?;
    let file = GroupFile {
        name: group.name.clone(),
        node_name: group.node.name.clone(),
        statement: Base64(*group.signer.statement()),
        update: group.update.sealed().clone(),
        retired: group.retired.clone(),
    };
    write_json(state, GROUP, &file)
}

/// How long a discovery key stays valid after it was replaced.
const RETIREMENT: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of retired keys.
const MAX_RETIRED: usize = 8;

/// The content of `group.json`: what the certificates do not contain.
#[derive(Serialize, Deserialize)]
struct GroupFile {
    name: String,
    node_name: String,
    statement: Base64<[u8; STATEMENT_SIZE]>,
    #[serde(rename = "news")]
    update: SealedUpdate,
    retired: Vec<RetiredKey>,
}
