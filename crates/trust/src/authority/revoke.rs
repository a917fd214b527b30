//! Removing members, and replacing the discovery key.

use std::collections::BTreeSet;

use super::holder::{Authority, Member};
use crate::clock;
use crate::error::{GroupError, MIN_ID_DIGITS, RevokeError};
use crate::group::{self, Group};
use crate::random::random;
use crate::update::{GroupUpdate, MAX_CRL};
use laneway_sys::state::StateLock;
use laneway_wire::id::NodeId;

/// A member that was just removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// Its name; `None` when it is not in this machine's list.
    pub name: Option<String>,
    /// Its id.
    pub id: NodeId,
    /// The group's new epoch.
    pub epoch: u64,
    /// The number of invites that were closed, because the removed machine may know their codes.
    pub closed: usize,
}

impl Authority {
    /// Removes the member with this name or beginning of an id: closes all open invites, and signs an update that revokes
    /// the member and replaces the discovery key.
    ///
    /// # Errors
    /// [`GroupError::Revoke`], or when it cannot be recorded.
    pub fn revoke(&self, who: &str) -> Result<Revocation, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        let (id, name) = find(&self.members()?, who)?;
        if group.update.revokes(id) {
            return Err(RevokeError::Already(name.unwrap_or_else(|| id.short())).into());
        }
        if group.node.id == id {
            return Err(RevokeError::Own.into());
        }
        let mut revoked = group.update.revoked().clone();
        revoked.insert(id);
        // Before the revocation: a crash in between may leave invites closed, but never open.
        let closed = self.close_invites(&lock)?;
        let epoch = self.publish(&lock, &group, revoked)?.epoch();
        Ok(Revocation { name, id, epoch, closed })
    }

    /// Replaces the discovery key and removes no member. Returns the new epoch.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn rotate(&self) -> Result<u64, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        Ok(self.publish(&lock, &group, group.update.revoked().clone())?.epoch())
    }

    /// Signs an update that revokes all of these nodes, if one is missing from the current list: another machine that holds
    /// the authority's key revoked it without knowing this machine's list, or the other way round.
    pub(crate) fn merge_revocations(
        &self,
        known: &BTreeSet<NodeId>,
    ) -> Result<Option<GroupUpdate>, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        if known.is_subset(group.update.revoked()) {
            return Ok(None);
        }
        let all = group.update.revoked() | known;
        self.publish(&lock, &group, all).map(Some)
    }

    /// Signs and saves the next update.
    fn publish(
        &self,
        _lock: &StateLock,
        group: &Group,
        revoked: BTreeSet<NodeId>,
    ) -> Result<GroupUpdate, GroupError> {
        let epoch = group.update.epoch().saturating_add(1);
        let update = GroupUpdate::sign(&self.key, epoch, random(), revoked)?;
        if update.crl().len() > MAX_CRL {
            return Err(RevokeError::Full.into());
        }
        group::write_group(&self.state, &group.with_update(update.clone(), clock::now()))?;
        Ok(update)
    }
}

/// The member with this name or beginning of an id. A member that is not in the list can be named by its whole id:
/// another machine with the authority's key may have admitted it.
fn find(members: &[Member], who: &str) -> Result<(NodeId, Option<String>), RevokeError> {
    let unknown = || RevokeError::Unknown(who.to_owned());
    let named = members.iter().find(|member| member.name.eq_ignore_ascii_case(who));
    let digits = who.to_ascii_lowercase();
    let by_id =
        members.iter().filter(|member| digits.len() >= MIN_ID_DIGITS && member.id.starts_with(&digits));
    let mut found = named.into_iter().chain(by_id.filter(|_| named.is_none()));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok((NodeId::parse(&one.id).ok_or_else(unknown)?, Some(one.name.clone()))),
        (Some(one), Some(other)) => {
            let all = [one, other].into_iter().chain(found);
            let ids = all.map(|member| member.id.clone()).collect();
            Err(RevokeError::Ambiguous { who: who.to_owned(), ids })
        }
        _ => Ok((NodeId::parse(&digits).ok_or_else(unknown)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::{key, new, refusal};
    use crate::authority::{InviteError, Uses};
    use crate::certificate::{Role, node_id};

    fn revoke_error(error: GroupError) -> RevokeError {
        match error {
            GroupError::Revoke(error) => error,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_revoked_member_is_on_the_list_of_the_next_epoch_and_the_old_discovery_key_is_retired() {
        let (_directory, state, authority, before) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let laptop = key();
        authority.admit(&code.invite, &laptop, "laptop").unwrap();

        let removed = authority.revoke("LAPTOP").unwrap();
        assert_eq!(
            (removed.name.as_deref(), removed.id, removed.epoch),
            (Some("laptop"), node_id(&laptop), 1)
        );
        let after = Group::load(&state).unwrap().unwrap();
        assert!(after.update.revokes(node_id(&laptop)) && !after.update.revokes(after.node.id));
        assert_ne!(after.update.discovery_key(), before.update.discovery_key());
        let [retired] = after.retired.as_slice() else { panic!("{:?}", after.retired) };
        assert_eq!((retired.epoch, retired.key()), (0, before.update.discovery_key()));
        assert_eq!(
            revoke_error(authority.revoke("laptop").unwrap_err()),
            RevokeError::Already("laptop".into())
        );
    }

    #[test]
    fn a_revocation_closes_every_code_and_the_key_is_not_admitted_again() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Gateway, Uses::Any, None, None).unwrap();
        let laptop = key();
        authority.admit(&code.invite, &laptop, "laptop").unwrap();
        assert_eq!(authority.revoke("laptop").unwrap().closed, 1);
        // Not with the code that it knows, not as a machine whose answer was lost, and not with a new code.
        let again =
            |invite, key: [u8; 32]| refusal(authority.admit(invite, &key, "x").map(drop).unwrap_err());
        assert_eq!(again(&code.invite, key()), InviteError::Closed);
        assert_eq!(again(&code.invite, laptop), InviteError::Removed);
        let new = authority.invite(Role::Gateway, Uses::Any, None, None).unwrap();
        assert_eq!(again(&new.invite, laptop), InviteError::Removed);
        authority.admit(&new.invite, &key(), "x").unwrap();
    }

    #[test]
    fn a_member_is_found_by_its_name_or_the_beginning_of_its_id_and_none_by_chance() {
        let (_directory, _, authority, group) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        for name in ["a", "b"] {
            authority.admit(&code.invite, &key(), name).unwrap();
        }
        let members = authority.members().unwrap();
        let b = &members[2];
        assert_eq!(find(&members, "B").unwrap().1.as_deref(), Some("b"));
        assert_eq!(find(&members, &b.id[..8].to_uppercase()).unwrap().1.as_deref(), Some("b"));
        for nobody in ["c", "", &b.id[..3], "zzzz"] {
            assert_eq!(find(&members, nobody), Err(RevokeError::Unknown(nobody.into())));
        }
        let mut twins = members.clone();
        twins[1].id = format!("{}{}", &b.id[..8], &twins[1].id[8..]);
        assert!(matches!(find(&twins, &b.id[..8]), Err(RevokeError::Ambiguous { .. })));
        let stranger = NodeId([7; 16]);
        assert_eq!(find(&members, &stranger.to_string()), Ok((stranger, None)));
        assert_eq!(revoke_error(authority.revoke(&group.node.name).unwrap_err()), RevokeError::Own);
    }

    #[test]
    fn a_rotation_replaces_the_key_and_removes_no_member() {
        let (_directory, state, authority, before) = new();
        assert_eq!(authority.rotate().unwrap(), 1);
        assert_eq!(authority.rotate().unwrap(), 2);
        let after = Group::load(&state).unwrap().unwrap();
        assert!(after.update.revoked().is_empty());
        let retired: Vec<_> = after.retired.iter().map(|retired| retired.epoch).collect();
        assert_eq!(retired, [1, 0]);
        assert_eq!(after.retired[1].key(), before.update.discovery_key());
    }

    #[test]
    fn a_revocation_that_another_authority_missed_is_signed_again() {
        let (_directory, state, authority, _) = new();
        let [mine, theirs] = [NodeId([1; 16]), NodeId([2; 16])];
        authority.revoke(&mine.to_string()).unwrap();
        assert!(authority.merge_revocations(&BTreeSet::from([mine])).unwrap().is_none());
        let update = authority.merge_revocations(&BTreeSet::from([theirs])).unwrap().unwrap();
        assert_eq!((update.epoch(), update.revoked().len()), (2, 2));
        assert_eq!(Group::load(&state).unwrap().unwrap().update, update);
    }
}
