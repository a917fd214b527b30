//! Removing members, and replacing the discovery key.

use std::collections::BTreeSet;

use super::holder::{Authority, Member};
use crate::clock;
use crate::departures;
use crate::error::{GroupError, MIN_ID_DIGITS, RevokeError};
use crate::files::{MEMBERS, write_json};
use crate::group::{self, Group};
use crate::random::random;
use crate::update::{GroupUpdate, MAX_CRL};
use laneway_sys::state::StateLock;
use laneway_wire::id::NodeId;

/// A member that was just removed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Its name; `None` when it is not in this machine's list.
    pub name: Option<String>,
    /// Its id.
    pub id: NodeId,
    /// Whether it was no member any more: it had left by itself, or another machine with the authority's key removed it. Open
    /// invites of this machine and the discovery key had remained.
    pub was_gone: bool,
    /// Whether it created the group, or became a member by importing the group's key. Others may have imported it later.
    pub had_key: bool,
}

/// What a revocation did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revocation {
    /// The members that it removed.
    pub removed: Vec<Removed>,
    /// The group's new epoch.
    pub epoch: u64,
    /// The number of invites that were closed, because a removed machine may know their codes.
    pub closed: usize,
}

/// Which discovery key an update has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    /// The one in force.
    Same,
    /// A new one, which removed members do not know.
    New,
}

impl Authority {
    /// Removes the members with these names or beginnings of ids: closes all open invites, and signs one update that revokes
    /// all of them and replaces the discovery key. When one of them cannot be removed, none is. That counts for those, too, that
    /// left by themselves, or that another machine with the authority's key removed: they may know codes of this machine.
    ///
    /// # Errors
    /// [`GroupError::Revoke`], or when it cannot be recorded.
    pub fn revoke_all(&self, who: &[&str]) -> Result<Revocation, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        let mut members = self.members()?;
        let mut revoked = group.update.revoked().clone();
        let leaving = departures::saved(&self.state, &group);
        let (mut removed, mut named) = (Vec::new(), BTreeSet::new());
        for who in who {
            let one = find(&members, group.update.revoked(), &leaving, who)?;
            if group.update.revokes(one.id) && !one.was_gone {
                return Err(RevokeError::Already(one.name.unwrap_or_else(|| one.id.short())).into());
            }
            if group.node.id == one.id {
                return Err(RevokeError::Own.into());
            }
            revoked.insert(one.id);
            if named.insert(one.id) {
                removed.push(one);
            }
        }
        let is_named = |member: &&mut Member| NodeId::parse(&member.id).is_some_and(|id| named.contains(&id));
        let now = clock::now().as_secs();
        members.iter_mut().filter(is_named).for_each(|member| member.removed = Some(now));
        // Before the revocation: a crash in between may leave invites closed, but never open.
        let closed = self.close_invites(&lock)?;
        let epoch = self.publish(&lock, &group, revoked, Key::New)?.epoch();
        // After it: until then the members are not removed for good, and naming them again must do all of this again.
        write_json(&self.state, MEMBERS, &members)?;
        Ok(Revocation { removed, epoch, closed })
    }

    /// Removes one member.
    ///
    /// # Errors
    /// As [`Self::revoke_all`].
    pub fn revoke(&self, who: &str) -> Result<Revocation, GroupError> {
        self.revoke_all(&[who])
    }

    /// Replaces the discovery key and removes no member. Returns the new epoch.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn rotate(&self) -> Result<u64, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        Ok(self.publish(&lock, &group, group.update.revoked().clone(), Key::New)?.epoch())
    }

    /// Signs an update that revokes all of these nodes, if one is missing from the current list: another machine that holds
    /// the authority's key revoked it without knowing this machine's list, or the other way round. `need_new_key` says that one
    /// of them may know the discovery key in force and must not.
    pub(crate) fn merge_revocations(
        &self,
        known: &BTreeSet<NodeId>,
        need_new_key: bool,
    ) -> Result<Option<GroupUpdate>, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        if known.is_subset(group.update.revoked()) {
            return Ok(None);
        }
        let all = group.update.revoked() | known;
        let key = if need_new_key { Key::New } else { Key::Same };
        self.publish(&lock, &group, all, key).map(Some)
    }

    /// Removes members that have left by themselves, and notes in the list that they did. Open invites stay open, and the
    /// discovery key is kept: whoever joins and leaves in turn must not use up the old keys by which members that were off find
    /// the group. `None` when all of them were removed before.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub(crate) fn remove_departed(&self, left: &[NodeId]) -> Result<Option<GroupUpdate>, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        let new: BTreeSet<NodeId> = left.iter().copied().filter(|id| !group.update.revokes(*id)).collect();
        // This machine's own membership ends with its state directory.
        let new: BTreeSet<NodeId> = new.into_iter().filter(|id| *id != group.node.id).collect();
        if new.is_empty() {
            return Ok(None);
        }
        let mut members = self.members()?;
        let is_new = |member: &&mut Member| NodeId::parse(&member.id).is_some_and(|id| new.contains(&id));
        members.iter_mut().filter(is_new).for_each(|member| member.left = Some(clock::now().as_secs()));
        write_json(&self.state, MEMBERS, &members)?;
        self.publish(&lock, &group, group.update.revoked() | &new, Key::Same).map(Some)
    }

    /// Signs and saves the next update.
    fn publish(
        &self,
        _lock: &StateLock,
        group: &Group,
        revoked: BTreeSet<NodeId>,
        key: Key,
    ) -> Result<GroupUpdate, GroupError> {
        let epoch = group.update.epoch().saturating_add(1);
        let discovery_key = match key {
            Key::Same => *group.update.discovery_key(),
            Key::New => random(),
        };
        let update = GroupUpdate::sign(&self.key, epoch, discovery_key, revoked)?;
        if update.crl().len() > MAX_CRL {
            return Err(RevokeError::Full.into());
        }
        group::write_group(&self.state, &group.with_update(update.clone(), clock::now()))?;
        Ok(update)
    }
}

/// The one member that `who` names: by its whole id, else by its name or the beginning of its id. Members that are leaving
/// count only when no other one is named, and removed ones only when none of both is. A member that is not in the list can be named by its whole id: another machine with the
/// authority's key may have admitted it.
fn find(
    members: &[Member],
    revoked: &BTreeSet<NodeId>,
    leaving: &BTreeSet<NodeId>,
    who: &str,
) -> Result<Removed, RevokeError> {
    let unknown = || RevokeError::Unknown(who.to_owned());
    let digits = who.to_ascii_lowercase();
    let is_in = |ids: &BTreeSet<NodeId>, member: &Member| {
        NodeId::parse(&member.id).is_some_and(|id| ids.contains(&id))
    };
    let is_revoked = |member: &&Member| is_in(revoked, member);
    let was_gone = |member: &&Member| is_revoked(member) && member.removed.is_none();
    if let Some(id) = NodeId::parse(&digits) {
        let listed = members.iter().find(|member| member.id == digits);
        let name = listed.map(|member| member.name.clone());
        let had_key = listed.is_some_and(|member| member.invite.is_none());
        return Ok(Removed { name, id, was_gone: listed.as_ref().is_some_and(was_gone), had_key });
    }
    let named = |member: &&Member| {
        member.name.eq_ignore_ascii_case(who)
            || digits.len() >= MIN_ID_DIGITS && member.id.starts_with(&digits)
    };
    let (revoked, others): (Vec<_>, Vec<_>) = members.iter().filter(named).partition(is_revoked);
    let (leaving, present): (Vec<_>, Vec<_>) = others.into_iter().partition(|member| is_in(leaving, member));
    let found = [present, leaving, revoked].into_iter().find(|found| !found.is_empty()).unwrap_or_default();
    match found.as_slice() {
        [] => Err(unknown()),
        [one] => {
            let id = NodeId::parse(&one.id).ok_or_else(unknown)?;
            let had_key = one.invite.is_none();
            Ok(Removed { name: Some(one.name.clone()), id, was_gone: was_gone(one), had_key })
        }
        // They were members under the same name, one after the other.
        [.., last] if found.iter().all(is_revoked) => match found.iter().rev().find(|one| was_gone(one)) {
            Some(gone) => {
                let id = NodeId::parse(&gone.id).ok_or_else(unknown)?;
                let had_key = gone.invite.is_none();
                Ok(Removed { name: Some(gone.name.clone()), id, was_gone: true, had_key })
            }
            None => Err(RevokeError::Already(last.name.clone())),
        },
        several => Err(RevokeError::Ambiguous {
            who: who.to_owned(),
            found: several.iter().map(|member| format!("{} ({})", member.name, member.id)).collect(),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::{key, new, refusal, suggested};
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
        authority.admit(&code.invite, &laptop, &suggested("laptop")).unwrap();

        let removed = authority.revoke("LAPTOP").unwrap();
        let one =
            Removed { name: Some("laptop".into()), id: node_id(&laptop), was_gone: false, had_key: false };
        assert_eq!((removed.removed, removed.epoch), (vec![one], 1));
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
        authority.admit(&code.invite, &laptop, &suggested("laptop")).unwrap();
        assert_eq!(authority.revoke("laptop").unwrap().closed, 1);
        // Not with the code that it knows, not as a machine whose answer was lost, and not with a new code.
        let again = |invite, key: [u8; 32]| {
            refusal(authority.admit(invite, &key, &suggested("x")).map(drop).unwrap_err())
        };
        assert_eq!(again(&code.invite, key()), InviteError::Closed);
        assert_eq!(again(&code.invite, laptop), InviteError::Removed);
        let new = authority.invite(Role::Gateway, Uses::Any, None, None).unwrap();
        assert_eq!(again(&new.invite, laptop), InviteError::Removed);
        authority.admit(&new.invite, &key(), &suggested("x")).unwrap();
    }

    #[test]
    fn revoking_a_member_that_left_closes_every_code_and_replaces_the_discovery_key() {
        let (_directory, state, authority, before) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let laptop = key();
        authority.admit(&code.invite, &laptop, &suggested("laptop")).unwrap();
        let left = authority.remove_departed(&[node_id(&laptop)]).unwrap().unwrap();
        assert_eq!(left.discovery_key(), before.update.discovery_key());
        let revocation = authority.revoke("laptop").unwrap();
        assert_eq!((revocation.epoch, revocation.closed, revocation.removed[0].was_gone), (2, 1, true));
        let refused = authority.admit(&code.invite, &key(), &suggested("x")).map(drop).unwrap_err();
        assert_eq!(refusal(refused), InviteError::Closed);
        let after = Group::load(&state).unwrap().unwrap();
        assert_ne!(after.update.discovery_key(), before.update.discovery_key());
        // Now it is removed for good.
        let again = revoke_error(authority.revoke("laptop").unwrap_err());
        assert_eq!(again, RevokeError::Already("laptop".into()));
    }

    #[test]
    fn a_member_is_found_by_its_name_or_the_beginning_of_its_id_and_none_by_chance() {
        let (_directory, _, authority, group) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        for name in ["a", "b"] {
            authority.admit(&code.invite, &key(), &suggested(name)).unwrap();
        }
        let members = authority.members().unwrap();
        let b = &members[2];
        let found = |who: &str| find(&members, &BTreeSet::new(), &BTreeSet::new(), who);
        assert_eq!(found("B").unwrap().name.as_deref(), Some("b"));
        for id in [&b.id[..8], &b.id] {
            assert_eq!(found(&id.to_uppercase()).unwrap().name.as_deref(), Some("b"));
        }
        for nobody in ["c", "", &b.id[..3], "zzzz"] {
            assert_eq!(found(nobody), Err(RevokeError::Unknown(nobody.into())));
        }
        let stranger = NodeId([7; 16]);
        assert_eq!(
            found(&stranger.to_string()),
            Ok(Removed { name: None, id: stranger, was_gone: false, had_key: false })
        );
        assert_eq!(revoke_error(authority.revoke(&group.node.name).unwrap_err()), RevokeError::Own);
    }

    #[test]
    fn who_could_be_several_members_is_refused_with_their_ids() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        for name in ["a", "b", "c"] {
            authority.admit(&code.invite, &key(), &suggested(name)).unwrap();
        }
        let mut members = authority.members().unwrap();
        // Two of the same name, as after an import from another machine with the key.
        members[2].name = "A".into();
        // One whose name is the beginning of another's id.
        let beginning = members[1].id[..8].to_owned();
        members[3].name = beginning.clone();
        let none = BTreeSet::new();
        for who in ["a", &beginning] {
            let refused = find(&members, &none, &none, who).unwrap_err();
            let RevokeError::Ambiguous { found, .. } = &refused else { panic!("{refused:?}") };
            assert_eq!(found.len(), 2);
            assert!(found.iter().any(|one| one.contains(&members[1].id)), "{found:?}");
        }
        // A whole id is never ambiguous, and a removed member is not in the way.
        let one = NodeId::parse(&members[1].id).unwrap();
        assert_eq!(find(&members, &none, &none, &members[1].id).unwrap().id, one);
        let gone = BTreeSet::from([one]);
        assert_eq!(find(&members, &gone, &none, "a").unwrap().id.to_string(), members[2].id);
        // Nor is one that is leaving, which may still be named.
        assert_eq!(find(&members, &none, &gone, "a").unwrap().id.to_string(), members[2].id);
        assert_eq!(find(&members[..2], &none, &gone, "a").unwrap().id, one);
    }

    #[test]
    fn several_members_are_removed_by_one_update_or_none_of_them() {
        let (_directory, state, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        for name in ["a", "b"] {
            authority.admit(&code.invite, &key(), &suggested(name)).unwrap();
        }
        let refused = authority.revoke_all(&["a", "nobody"]).unwrap_err();
        assert_eq!(revoke_error(refused), RevokeError::Unknown("nobody".into()));
        assert!(Group::load(&state).unwrap().unwrap().update.revoked().is_empty());
        let removed = authority.revoke_all(&["a", "b", "A"]).unwrap();
        assert_eq!((removed.removed.len(), removed.epoch), (2, 1));
        assert_eq!(Group::load(&state).unwrap().unwrap().update.revoked().len(), 2);
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
        assert!(authority.merge_revocations(&BTreeSet::from([mine]), true).unwrap().is_none());
        let update = authority.merge_revocations(&BTreeSet::from([theirs]), true).unwrap().unwrap();
        assert_eq!((update.epoch(), update.revoked().len()), (2, 2));
        assert_eq!(Group::load(&state).unwrap().unwrap().update, update);
    }
}
