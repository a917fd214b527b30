//! The authority's key and list of members.

use std::fmt;
use std::sync::Arc;

use rcgen::KeyPair;
use rustls_pki_types::{CertificateDer, PrivatePkcs8KeyDer};
use serde::{Deserialize, Serialize};

use crate::base64::Base64;
use crate::certificate::{self, Role};
use crate::clock;
use crate::error::GroupError;
use crate::files::{CA_KEY, MEMBERS, damaged, read_json, try_read_pem, write_json};
use crate::group::Group;
use laneway_sys::state::{StateDir, StateLock};
use laneway_wire::id::GroupId;

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

/// A member, as recorded in `members.json` when its certificate was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The node id in hexadecimal, which is also the certificate's serial number.
    pub id: String,
    /// Unique in the group.
    pub name: String,
    /// What its certificate permits.
    pub role: Role,
    /// When it joined, in seconds since 1970 by the authority's clock.
    pub joined: u64,
    /// The invite that admitted it; `None` for the machine that made the group or imported its key.
    pub(super) invite: Option<Base64<[u8; 8]>>,
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

    /// Issues a certificate and records the member, under a name that is unique in the group.
    pub(super) fn issue(
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
        write_json(&self.state, MEMBERS, &members)?;
        Ok((name, node))
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

/// The name reduced to what is safe to print, to type and to put into a certificate. A common name has at most 64
/// characters (RFC 5280 appendix A), and a number may be appended.
fn tidy(name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = name.trim().chars().take(48).map(safe).collect();
    // `revoke` would take a leading dash for an option.
    let name = name.trim_matches('-');
    if name.is_empty() { "node".to_owned() } else { name.to_owned() }
}

/// The wanted name, with a number appended if it is taken.
fn free_name(wanted: &str, members: &[Member]) -> String {
    let taken = |name: &str| members.iter().any(|member| member.name.eq_ignore_ascii_case(name));
    let numbered = (2_u64..).map(|number| format!("{wanted}-{number}"));
    std::iter::once(wanted.to_owned())
        .chain(numbered)
        .find(|name| !taken(name))
        .expect("numbers do not run out")
}
