//! The proof that the group has removed this machine: a revocation list that names its certificate, signed by the authority.
//! The update with that list is not sent to the machine, because it also holds the others' discovery key.

use super::certificate;
use super::files::REMOVAL;
use super::group::Group;
use super::update::MAX_CRL;
use laneway_sys::state::{StateDir, StateError};

/// Whether this revocation list proves that the group has removed this machine.
#[must_use]
pub fn is_proved_by(crl: &[u8], group: &Group) -> bool {
    let Some(certificate) = group.chain.first().filter(|_| crl.len() <= MAX_CRL) else { return false };
    certificate::is_revoked(certificate, &group.ca_key, crl)
}

/// The proof that was saved, if it is one.
pub(super) fn saved(state: &StateDir, group: &Group) -> Option<Vec<u8>> {
    state.read(REMOVAL).ok().flatten().filter(|crl| is_proved_by(crl, group))
}

/// Saves the proof.
pub(super) fn save(state: &StateDir, crl: &[u8]) -> Result<(), StateError> {
    state.write(REMOVAL, crl)
}
