//! The group's files in the state directory: their names and formats.

use rustls_pki_types::pem::PemObject;
use serde::{Deserialize, Serialize};

use super::certificate;
use super::error::{Damage, GroupError};
use laneway_sys::state::StateDir;

/// The authority's private key.
pub(super) const CA_KEY: &str = "ca.key";
/// The authority's certificate.
pub(super) const CA_CERTIFICATE: &str = "ca.pem";
/// The node's private key.
pub(super) const NODE_KEY: &str = "node.key";
/// The node's certificate.
pub(super) const NODE_CERTIFICATE: &str = "node.pem";
/// The private key of an attempt to join that has not been answered.
pub(super) const JOIN_KEY: &str = "join.key";
/// The group state.
pub(super) const GROUP: &str = "group.json";
/// The members that have said that they leave, and that the authority has not removed yet.
pub(super) const DEPARTURES: &str = "departures.json";
/// The revocation list, for other programs.
pub(super) const CRL: &str = "crl.pem";
/// The revocation list that proves that the group has removed this machine.
pub(super) const REMOVAL: &str = "removal.crl";
/// The authority's list of members.
pub(super) const MEMBERS: &str = "members.json";
/// Exists once the authority's key was exported.
pub(super) const EXPORTED: &str = "exported";
/// Exists where the authority's key was imported: another machine had it, and may have it still.
pub(super) const IMPORTED: &str = "imported";
/// The authority's invites.
pub(super) const INVITES: &str = "invites.json";

/// Reads a JSON file; `None` when it does not exist.
pub(super) fn read_json<T: for<'de> Deserialize<'de>>(
    state: &StateDir,
    name: &str,
) -> Result<Option<T>, GroupError> {
    let bytes = state.read(name)?;
    bytes.map(|bytes| serde_json::from_slice(&bytes).map_err(damaged(state, name))).transpose()
}

/// Replaces a JSON file.
pub(super) fn write_json<T: Serialize>(state: &StateDir, name: &str, value: &T) -> Result<(), GroupError> {
    let mut bytes = serde_json::to_vec_pretty(value).map_err(damaged(state, name))?;
    bytes.push(b'\n');
    Ok(state.write(name, &bytes)?)
}

/// Reads a PEM file; `None` when it does not exist.
pub(super) fn try_read_pem<T: PemObject>(state: &StateDir, name: &str) -> Result<Option<T>, GroupError> {
    let bytes = state.read(name)?;
    bytes.map(|bytes| T::from_pem_slice(&bytes).map_err(damaged(state, name))).transpose()
}

/// Replaces a PEM file.
pub(super) fn write_pem(state: &StateDir, name: &str, label: &str, der: &[u8]) -> Result<(), GroupError> {
    Ok(state.write(name, certificate::pem(label, der).as_bytes())?)
}

/// The error for a file whose content cannot be used.
pub(super) fn damaged<E: Into<Damage>>(state: &StateDir, name: &str) -> impl FnOnce(E) -> GroupError {
    let file = state.file(name);
    move |source| GroupError::Damaged { file, source: source.into() }
}

/// Reads a PEM file that must exist.
pub(super) fn read_pem<T: PemObject>(state: &StateDir, name: &str) -> Result<T, GroupError> {
    try_read_pem(state, name)?.ok_or_else(|| GroupError::Missing { file: state.file(name) })
}
