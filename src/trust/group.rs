//! The group as a member sees it: its own name, certificate and key, and the keys all members share.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use rcgen::KeyPair;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

pub use super::authority::{Authority, Kept, Refusal, TransferError, Uses};
pub use super::certificate::Role;
use super::certificate::{self, CertificateError, Identity};
use super::news::{News, NewsError, Sealed};
use super::state::{StateDir, StateError, StateLock, quoted};
use super::{Base64, clock};
use crate::wire::id::{GroupId, NodeId};

/// This machine's membership of a group. It is only ever made whole: the certificate is the authority's, and
/// for this key.
#[derive(Clone)]
pub struct Group {
    /// Which group.
    pub id: GroupId,
    /// What people call it.
    pub name: String,
    /// Whom the authority has put out, and the discovery key. A member never goes back to older ones.
    pub news: News,
    /// The discovery keys before that, the newest first, as long as they are still good for whoever missed the news.
    pub retired: Vec<Retired>,
    /// The authority's raw Ed25519 public key.
    pub ca_key: [u8; 32],
    /// This machine in the group.
    pub node: Node,
    /// The node's certificate, then the authority's.
    pub chain: Vec<CertificateDer<'static>>,
    /// The node's private key.
    pub key: Arc<PrivatePkcs8KeyDer<'static>>,
}

/// A discovery key that is not the group's any more.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Retired {
    /// The epoch that it was the key of.
    pub epoch: u64,
    key: Base64<[u8; 32]>,
    /// When it is dropped, in seconds since 1970.
    until: u64,
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
    /// A member cannot be put out.
    #[error(transparent)]
    Kept(#[from] Kept),
    /// The authority cannot be moved.
    #[error(transparent)]
    Moved(#[from] TransferError),
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
            Self::Kept(kept) => kept.hint(),
            Self::Moved(error) => error.hint(),
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
    /// What it says of the group is not the authority's word.
    #[error("it does not fit the files beside it")]
    News(#[from] NewsError),
}

/// What the authority gives a new member.
#[derive(Serialize, Deserialize)]
pub(super) struct Membership {
    pub(super) group_name: String,
    pub(super) node_name: String,
    pub(super) node_certificate: Base64<CertificateDer<'static>>,
    pub(super) ca_certificate: Base64<CertificateDer<'static>>,
}

/// The whole of what the authority answers to a machine that it admits.
#[derive(Serialize, Deserialize)]
pub(super) struct Welcome {
    pub(super) membership: Membership,
    pub(super) news: Sealed,
}

impl Group {
    /// Reads the group this machine is in; `None` when it is in none.
    ///
    /// # Errors
    /// When a file is missing or damaged, or does not fit the others; the message names it.
    pub fn load(state: &StateDir) -> Result<Option<Self>, GroupError> {
        let Some(GroupFile { name, node_name, news, retired }) = read_json(state, GROUP)? else {
            return Ok(None);
        };
        let ca: CertificateDer<'static> = read_pem(state, CA_CERTIFICATE)?;
        let ca_key = certificate::authority_key(&ca).map_err(damaged(state, CA_CERTIFICATE))?;
        let key: PrivatePkcs8KeyDer<'static> = read_pem(state, NODE_KEY)?;
        let key = certificate::read_key(&key).map_err(damaged(state, NODE_KEY))?;
        let membership = Membership {
            group_name: name,
            node_name,
            node_certificate: Base64(read_pem(state, NODE_CERTIFICATE)?),
            ca_certificate: Base64(ca),
        };
        let news = news.open(&ca_key).map_err(damaged(state, GROUP))?;
        let mut group =
            Self::assemble(membership, news, key, &ca_key).map_err(damaged(state, NODE_CERTIFICATE))?;
        group.retired = retired;
        Ok(Some(group.without_retired(clock::now()).unwrap_or(group)))
    }

    /// Puts a group together, when every certificate is that authority's and this key's.
    pub(super) fn assemble(
        membership: Membership,
        news: News,
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
            news,
            retired: Vec::new(),
            ca_key: *ca_key,
            node: Node { id, name: membership.node_name, role },
            chain: vec![node, ca],
            key: Arc::new(key.into()),
        })
    }

    /// The same, with newer news; the discovery key before them is retired.
    pub(super) fn with_news(&self, news: News, now: Duration) -> Self {
        let retired = Retired {
            epoch: self.news.epoch(),
            key: Base64(*self.news.discovery_key()),
            until: now.saturating_add(RETIREMENT).as_secs(),
        };
        let mut all = vec![retired];
        all.extend(self.retired.iter().filter(|retired| retired.is_good(now)).cloned());
        all.truncate(MOST_RETIRED);
        Self { news, retired: all, ..self.clone() }
    }

    /// The same without the retired keys whose time is over; `None` when there are none such.
    pub(super) fn without_retired(&self, now: Duration) -> Option<Self> {
        let mut group = self.clone();
        group.retired.retain(|retired| retired.is_good(now));
        (group.retired.len() < self.retired.len()).then_some(group)
    }
}

impl Retired {
    /// The key.
    pub fn key(&self) -> &[u8; 32] {
        &self.key.0
    }

    /// A clock that was set back does not make a retirement longer.
    fn is_good(&self, now: Duration) -> bool {
        let left = self.until.saturating_sub(now.as_secs());
        0 < left && left <= RETIREMENT.as_secs()
    }
}

impl fmt::Debug for Retired {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Retired")
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
            .field("news", &self.news)
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
    save(state, &lock, group)?;
    Ok(state.remove(JOIN_KEY)?)
}

/// Removes the key that was kept for another attempt to join: it is answered.
///
/// # Errors
/// When it cannot be removed.
pub fn forget_attempt(state: &StateDir) -> Result<(), GroupError> {
    Ok(state.remove(JOIN_KEY)?)
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
    write_group(state, group)
}

/// Saves the group's news and the retired keys, unless the same or newer ones are saved already.
///
/// # Errors
/// When a file cannot be read or written.
pub(super) fn save_news(state: &StateDir, group: &Group) -> Result<(), GroupError> {
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
    let (saved, known) = (file.news.version(), group.news.version());
    Ok(saved > known || saved == known && file.retired == group.retired)
}

/// `crl.pem` is for other programs; what counts is in `group.json`, whose parts belong together.
pub(super) fn write_group(state: &StateDir, group: &Group) -> Result<(), GroupError> {
    write_pem(state, CRL, "X509 CRL", group.news.crl())?;
    let file = GroupFile {
        name: group.name.clone(),
        node_name: group.node.name.clone(),
        news: group.news.sealed().clone(),
        retired: group.retired.clone(),
    };
    write_json(state, GROUP, &file)
}

pub(super) const CA_KEY: &str = "ca.key";
pub(super) const JOIN_KEY: &str = "join.key";
const CA_CERTIFICATE: &str = "ca.pem";
const NODE_KEY: &str = "node.key";
const NODE_CERTIFICATE: &str = "node.pem";
const CRL: &str = "crl.pem";
pub(super) const GROUP: &str = "group.json";
/// How long a discovery key is still good after the next one was made.
const RETIREMENT: Duration = Duration::from_secs(24 * 3600);
/// How many retired keys are kept.
const MOST_RETIRED: usize = 8;

/// What `group.json` holds: all that no certificate says.
#[derive(Serialize, Deserialize)]
struct GroupFile {
    name: String,
    node_name: String,
    news: Sealed,
    retired: Vec<Retired>,
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
