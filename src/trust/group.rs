//! The group as a member sees it: its own name, certificate and key, and the keys all members share.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use super::Base64;
pub use super::authority::{Authority, Refusal, Uses};
pub use super::certificate::Role;
use super::certificate::{self, CertificateError, Identity};
use super::state::{StateDir, StateError, StateLock, quoted};
use crate::wire::id::{GroupId, NodeId};

/// This machine's membership of a group. It is only ever made whole: the certificate is the authority's, and
/// for this key.
#[derive(Clone)]
pub struct Group {
    /// Which group.
    pub id: GroupId,
    /// What people call it.
    pub name: String,
    /// Counts the revocations; a member never goes back.
    pub epoch: u64,
    /// Authenticates discovery datagrams; every member has it.
    pub discovery_key: [u8; 32],
    /// The authority's raw Ed25519 public key.
    pub ca_key: [u8; 32],
    /// This machine in the group.
    pub node: Node,
    /// The node's certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The node's private key.
    pub key: Arc<PrivatePkcs8KeyDer<'static>>,
    /// Whom the authority has put out, as it last signed it.
    pub crl: Option<CertificateRevocationListDer<'static>>,
}

/// A node as its own certificate describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Follows from its key.
    pub id: NodeId,
    /// Unique in the group when it joined.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// Why there is no usable group here, or why the authority could not do as asked.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// A file that must be beside the others is not.
    #[error("{} is missing", file.display())]
    Missing {
        /// Where it should be.
        file: PathBuf,
    },
    /// A file cannot be used.
    #[error("{} cannot be used", file.display())]
    Damaged {
        /// Which one.
        file: PathBuf,
        /// What is wrong with it.
        #[source]
        source: Damage,
    },
    /// A machine is in one group at a time.
    #[error("this machine is already in the group {name:?}")]
    AlreadyMember {
        /// What the group is called.
        name: String,
        /// The state directory.
        directory: PathBuf,
    },
    /// A group's key without the group: an `init` that was cut short, or a key brought here by hand.
    #[error("{} is there without a group", file.display())]
    Leftover {
        /// The key.
        file: PathBuf,
    },
    /// A certificate could not be made.
    #[error(transparent)]
    Certificate(#[from] CertificateError),
    /// An invite does not admit.
    #[error(transparent)]
    Refused(#[from] Refusal),
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
            Self::AlreadyMember { directory, .. } => {
                Some(format!("to leave it, stop laneway and move {} away", quoted(directory)))
            }
            Self::Leftover { file } => {
                Some(format!("if nobody needs this key, move {} away and try again", quoted(file)))
            }
            Self::Refused(refusal) => Some(refusal.hint()),
            Self::Certificate(_) => None,
        }
    }
}

/// What is wrong with a file.
#[derive(Debug, thiserror::Error)]
pub enum Damage {
    /// Not the JSON it should be.
    #[error("it is not what laneway wrote")]
    Json(#[from] serde_json::Error),
    /// Not PEM.
    #[error("it is not the PEM text it should be")]
    Pem(#[from] rustls_pki_types::pem::Error),
    /// Does not fit the other files.
    #[error("it does not fit the files beside it")]
    Certificate(#[from] CertificateError),
}

/// What the authority gives a new member.
#[derive(Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) group_name: String,
    pub(super) node_name: String,
    pub(super) epoch: u64,
    pub(super) discovery_key: Base64<[u8; 32]>,
    pub(super) node_certificate: Base64<CertificateDer<'static>>,
    pub(super) ca_certificate: Base64<CertificateDer<'static>>,
    pub(super) crl: Option<Base64<CertificateRevocationListDer<'static>>>,
}

impl Group {
    /// Reads the group this machine is in; `None` when it is in none.
    ///
    /// # Errors
    /// When a file is missing or damaged, or does not fit the others; the message names it.
    pub fn load(state: &StateDir) -> Result<Option<Self>, GroupError> {
        let Some(GroupFile { name, node_name, epoch, discovery_key }) = read_json(state, GROUP)? else {
            return Ok(None);
        };
        let ca: CertificateDer<'static> = read_pem(state, CA_CERTIFICATE)?;
        let ca_key = certificate::authority_key(&ca).map_err(damaged(state, CA_CERTIFICATE))?;
        let key: PrivatePkcs8KeyDer<'static> = read_pem(state, NODE_KEY)?;
        let key = certificate::read_key(&key).map_err(damaged(state, NODE_KEY))?;
        let membership = Membership {
            group_name: name,
            node_name,
            epoch,
            discovery_key,
            node_certificate: Base64(read_pem(state, NODE_CERTIFICATE)?),
            ca_certificate: Base64(ca),
            crl: try_read_pem(state, CRL)?.map(Base64),
        };
        let group = Self::assemble(membership, key, &ca_key).map_err(damaged(state, NODE_CERTIFICATE))?;
        Ok(Some(group))
    }

    /// Puts a group together, when every certificate is that authority's and this key's.
    pub(super) fn assemble(
        membership: Membership,
        key: KeyPair,
        ca_key: &[u8; 32],
    ) -> Result<Self, CertificateError> {
        let Base64(node) = membership.node_certificate;
        let Base64(ca) = membership.ca_certificate;
        certificate::verify_authority(ca_key, &ca)?;
        let Identity { id, role, group } =
            certificate::verify_node(ca_key, &node, &certificate::raw_public_key(&key))?;
        Ok(Self {
            id: group,
            name: membership.group_name,
            epoch: membership.epoch,
            discovery_key: membership.discovery_key.0,
            ca_key: *ca_key,
            node: Node { id, name: membership.node_name, role },
            chain: vec![node, ca],
            key: Arc::new(key.into()),
            crl: membership.crl.map(|crl| crl.0),
        })
    }
}

impl fmt::Debug for Group {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group")
            .field("id", &self.id)
            .field("name", &self.name)
            .field("epoch", &self.epoch)
            .field("node", &self.node)
            .finish_non_exhaustive()
    }
}

/// Saves what a joiner was given, so that [`Group::load`] finds it.
///
/// # Errors
/// When this machine is in a group already, or a file cannot be written.
pub fn remember_membership(state: &StateDir, group: &Group) -> Result<(), GroupError> {
    let lock = state.lock()?;
    refuse_second_group(state)?;
    save(state, &lock, group)
}

/// Refuses when this machine is in a group, even in one whose other files cannot be read any more.
///
/// # Errors
/// [`GroupError::AlreadyMember`], or when `group.json` itself cannot be read.
pub fn refuse_second_group(state: &StateDir) -> Result<(), GroupError> {
    match read_json::<GroupFile>(state, GROUP)? {
        Some(GroupFile { name, .. }) => {
            Err(GroupError::AlreadyMember { name, directory: state.path().to_owned() })
        }
        None => Ok(()),
    }
}

/// Writes the files of a member. `group.json` comes last: without it there is no group here.
pub(super) fn save(state: &StateDir, _lock: &StateLock, group: &Group) -> Result<(), GroupError> {
    let [node, ca] = group.chain.as_slice() else {
        return Err(CertificateError::NoIdentity.into());
    };
    write_pem(state, NODE_KEY, "PRIVATE KEY", group.key.secret_pkcs8_der())?;
    write_pem(state, NODE_CERTIFICATE, "CERTIFICATE", node)?;
    write_pem(state, CA_CERTIFICATE, "CERTIFICATE", ca)?;
    if let Some(crl) = &group.crl {
        write_pem(state, CRL, "X509 CRL", crl)?;
    }
    let file = GroupFile {
        name: group.name.clone(),
        node_name: group.node.name.clone(),
        epoch: group.epoch,
        discovery_key: Base64(group.discovery_key),
    };
    write_json(state, GROUP, &file)
}

pub(super) const CA_KEY: &str = "ca.key";
const CA_CERTIFICATE: &str = "ca.pem";
const NODE_KEY: &str = "node.key";
const NODE_CERTIFICATE: &str = "node.pem";
const CRL: &str = "crl.pem";
const GROUP: &str = "group.json";

/// What `group.json` holds: all that no certificate says.
#[derive(Serialize, Deserialize)]
struct GroupFile {
    name: String,
    node_name: String,
    epoch: u64,
    discovery_key: Base64<[u8; 32]>,
}

pub(super) fn read_json<T: for<'de> Deserialize<'de>>(
    state: &StateDir,
    name: &str,
) -> Result<Option<T>, GroupError> {
    let bytes = state.read(name)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged(state, name))).transpose()
}

pub(super) fn write_json<T: Serialize>(state: &StateDir, name: &str, value: &T) -> Result<(), GroupError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(damaged(state, name))?;
    bytes.push(b'\n');
    Ok(state.write(name, &bytes)?)
}

pub(super) fn try_read_pem<T: PemObject>(state: &StateDir, name: &str) -> Result<Option<T>, GroupError> {
    let bytes = state.read(name)?;
    bytes.map(|bytes| T::from_pem_slice(&bytes).map_err(damaged(state, name))).transpose()
}

pub(super) fn write_pem(state: &StateDir, name: &str, label: &str, der: &[u8]) -> Result<(), GroupError> {
    Ok(state.write(name, certificate::pem(label, der).as_bytes())?)
}

pub(super) fn damaged<E: Into<Damage>>(state: &StateDir, name: &str) -> impl FnOnce(E) -> GroupError {
    let file = state.file(name);
    move |source| GroupError::Damaged { file, source: source.into() }
}

fn read_pem<T: PemObject>(state: &StateDir, name: &str) -> Result<T, GroupError> {
    try_read_pem(state, name)?.ok_or_else(|| GroupError::Missing { file: state.file(name) })
}
