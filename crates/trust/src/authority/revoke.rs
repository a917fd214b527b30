//! Removing members, and replacing the discovery key.

use std::collections::{BTreeMap, BTreeSet};

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
    /// Its name; `None` when it is neither in this machine's list nor was seen with its name.
    pub name: Option<String>,
    /// Its id.
    pub id: NodeId,
    /// Whether it was no longer a member: it had left by itself, or another machine with the authority's key removed it. Open
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
    /// Removes the members with these names or beginnings of ids: closes all open invites, and signs one update that revokes all
    /// of them and replaces the discovery key. If one of them cannot be removed, none is. Members that left by themselves, or
    /// that another machine with the authority's key removed, are removed here as well: they may know join codes of this machine.
    /// `seen` are the members that gateways have seen; this machine's list may lack some of them.
    ///
    /// # Errors
    /// [`GroupError::Revoke`], or when it cannot be recorded.
    pub fn revoke_all(&self, who: &[&str], seen: &Names) -> Result<Revocation, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        let mut members = self.members()?;
        let mut revoked = group.update.revoked().clone();
        let all = self.candidates(&group, seen)?;
        let (mut removed, mut named) = (Vec::new(), BTreeSet::new());
        for who in who {
            let one = find(&all, who)?;
            if one.standing == Standing::Removed {
                return Err(already(&one, &all).into());
            }
            if group.node.id == one.id {
                return Err(RevokeError::Own.into());
            }
            revoked.insert(one.id);
            if named.insert(one.id) {
                let was_gone = one.standing == Standing::Gone;
                removed.push(Removed { name: one.name, id: one.id, was_gone, had_key: one.had_key });
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

    /// Whether each of `who` names exactly one current member, so that the gateways need not be asked. `seen` is as for
    /// [`Self::revoke_all`].
    ///
    /// # Errors
    /// When the group's files cannot be read.
    pub fn are_present(&self, who: &[&str], seen: &Names) -> Result<bool, GroupError> {
        let all = self.candidates(&self.own_group()?, seen)?;
        Ok(who.iter().all(|who| find(&all, who).is_ok_and(|one| one.standing == Standing::Present)))
    }

    fn candidates(&self, group: &Group, seen: &Names) -> Result<Vec<Candidate>, GroupError> {
        let leaving = departures::saved(&self.state, group);
        Ok(candidates(self.members()?, group.update.revoked(), &leaving, seen))
    }

    /// Removes one member.
    ///
    /// # Errors
    /// As [`Self::revoke_all`].
    pub fn revoke(&self, who: &str) -> Result<Revocation, GroupError> {
        self.revoke_all(&[who], &Names::new())
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
    /// discovery key is kept: a machine that keeps joining and leaving must not use up the old keys by which members that
    /// were off find the group. `None` when all of them were removed before.
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

/// The members by their ids, and their names as far as they are known.
pub type Names = BTreeMap<NodeId, Option<String>>;

/// A machine that is or was a member.
#[derive(Clone)]
struct Candidate {
    id: NodeId,
    name: Option<String>,
    had_key: bool,
    standing: Standing,
}

/// Whether a machine is a member.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Standing {
    Present,
    Leaving,
    /// It left by itself, or another machine with the authority's key removed it.
    Gone,
    /// It was removed for good.
    Removed,
}

impl Candidate {
    fn is_called(&self, name: &str) -> bool {
        self.name.as_ref().is_some_and(|own| own.eq_ignore_ascii_case(name))
    }

    fn is_no_member(&self) -> bool {
        matches!(self.standing, Standing::Gone | Standing::Removed)
    }

    fn shown_name(&self) -> String {
        self.name.clone().unwrap_or_else(|| "a machine that is not in this machine's list".to_owned())
    }
}

/// All machines that can be named: first those that the list does not know, then those in it.
fn candidates(
    members: Vec<Member>,
    revoked: &BTreeSet<NodeId>,
    leaving: &BTreeSet<NodeId>,
    seen: &Names,
) -> Vec<Candidate> {
    let mut unlisted: Names = revoked.iter().map(|id| (*id, None)).collect();
    unlisted.extend(seen.clone());
    let standing = |id, gone| match (revoked.contains(&id), leaving.contains(&id)) {
        (true, _) => gone,
        (false, true) => Standing::Leaving,
        (false, false) => Standing::Present,
    };
    let mut listed = Vec::new();
    for member in members {
        let Some(id) = NodeId::parse(&member.id) else { continue };
        unlisted.remove(&id);
        let gone = if member.removed.is_none() { Standing::Gone } else { Standing::Removed };
        let (had_key, standing) = (member.invite.is_none(), standing(id, gone));
        listed.push(Candidate { id, name: Some(member.name), had_key, standing });
    }
    let others = unlisted.into_iter().map(|(id, name)| {
        let standing = standing(id, Standing::Removed);
        Candidate { id, name, had_key: false, standing }
    });
    others.chain(listed).collect()
}

/// The one machine that `who` names: by its whole id, else by its name or the beginning of its id. Members that are leaving
/// count only when no other one is named, and removed ones only when neither kind is. Any machine can be named by its whole
/// id: another machine with the authority's key may have admitted it, and no gateway may have seen it.
fn find(all: &[Candidate], who: &str) -> Result<Candidate, RevokeError> {
    let digits = who.to_ascii_lowercase();
    if let Some(id) = NodeId::parse(&digits) {
        let known = all.iter().find(|one| one.id == id).cloned();
        let unknown = Candidate { id, name: None, had_key: false, standing: Standing::Present };
        return Ok(known.unwrap_or(unknown));
    }
    let begins = |id: NodeId| digits.len() >= MIN_ID_DIGITS && id.to_string().starts_with(&digits);
    let named = |one: &&Candidate| one.is_called(who) || begins(one.id);
    let (gone, others): (Vec<_>, Vec<_>) =
        all.iter().filter(named).partition(|candidate| candidate.is_no_member());
    let (leaving, present): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|candidate| candidate.standing == Standing::Leaving);
    let found = [present, leaving, gone].into_iter().find(|found| !found.is_empty()).unwrap_or_default();
    match found.as_slice() {
        [] => Err(RevokeError::Unknown(who.to_owned())),
        [one] => Ok((*one).clone()),
        // They were members under the same name, one after the other.
        [.., last] if last.is_no_member() => {
            let gone = found.iter().rev().find(|one| one.standing == Standing::Gone);
            Ok((*gone.unwrap_or(last)).clone())
        }
        several => Err(RevokeError::Ambiguous {
            who: who.to_owned(),
            found: several.iter().map(|one| format!("{} ({})", one.shown_name(), one.id)).collect(),
        }),
    }
}

/// The error that this machine was removed already, with who else has its name.
fn already(removed: &Candidate, all: &[Candidate]) -> RevokeError {
    let same_name = |one: &&Candidate| removed.name.as_ref().is_some_and(|name| one.is_called(name));
    let other = all.iter().filter(same_name).find(|one| !one.is_no_member());
    RevokeError::Already {
        name: removed.shown_name(),
        id: removed.id.short(),
        other: other.map(|other| other.id.short()),
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

    /// What is found in this list.
    fn named(
        members: &[Member],
        revoked: &BTreeSet<NodeId>,
        leaving: &BTreeSet<NodeId>,
        who: &str,
    ) -> Result<Removed, RevokeError> {
        let one = find(&candidates(members.to_vec(), revoked, leaving, &Names::new()), who)?;
        let was_gone = one.standing == Standing::Gone;
        Ok(Removed { name: one.name, id: one.id, was_gone, had_key: one.had_key })
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
        let again = revoke_error(authority.revoke("laptop").unwrap_err());
        assert_eq!(
            again,
            RevokeError::Already { name: "laptop".into(), id: node_id(&laptop).short(), other: None }
        );
    }

    #[test]
    fn a_revocation_closes_every_code_and_the_key_is_not_admitted_again() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Gateway, Uses::Any, None, None).unwrap();
        let laptop = key();
        authority.admit(&code.invite, &laptop, &suggested("laptop")).unwrap();
        assert_eq!(authority.revoke("laptop").unwrap().closed, 1);
        // Not admitted: not with the code that it knows, not as a machine whose answer was lost, and not with a new
        // code.
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
        assert_eq!(
            again,
            RevokeError::Already { name: "laptop".into(), id: node_id(&laptop).short(), other: None }
        );
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
        let found = |who: &str| named(&members, &BTreeSet::new(), &BTreeSet::new(), who);
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
            let refused = named(&members, &none, &none, who).unwrap_err();
            let RevokeError::Ambiguous { found, .. } = &refused else { panic!("{refused:?}") };
            assert_eq!(found.len(), 2);
            assert!(found.iter().any(|one| one.contains(&members[1].id)), "{found:?}");
        }
        // A whole id is never ambiguous, and a removed member is not in the way.
        let one = NodeId::parse(&members[1].id).unwrap();
        assert_eq!(named(&members, &none, &none, &members[1].id).unwrap().id, one);
        let gone = BTreeSet::from([one]);
        assert_eq!(named(&members, &gone, &none, "a").unwrap().id.to_string(), members[2].id);
        // Nor is one that is leaving, which may still be named.
        assert_eq!(named(&members, &none, &gone, "a").unwrap().id.to_string(), members[2].id);
        assert_eq!(named(&members[..2], &none, &gone, "a").unwrap().id, one);
    }

    #[test]
    fn a_member_that_only_gateways_know_is_removed_by_its_name_or_a_few_digits() {
        let (_directory, state, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let old = key();
        authority.admit(&code.invite, &old, &suggested("c10")).unwrap();
        authority.revoke("c10").unwrap();
        // They joined after the backup that was imported here.
        let [late, second, third] = [7, 8, 9].map(|first| NodeId([first; 16]));
        let seen = Names::from([(late, Some("c10".into())), (second, None), (third, None)]);
        let none = Names::new();
        assert!(!authority.are_present(&["c10"], &none).unwrap(), "the gateways are to be asked");
        assert!(authority.are_present(&["C10", "08080808"], &seen).unwrap());
        let digits = node_id(&old).short();
        let already = revoke_error(authority.revoke_all(&[&digits], &seen).unwrap_err());
        assert_eq!(already.to_string(), format!("c10 ({digits}) has been removed already"));
        assert!(already.hint().unwrap().contains("'laneway revoke 07070707'"), "{already:?}");

        let removed = authority.revoke_all(&["c10", "08080808"], &seen).unwrap().removed;
        let of = |name, id| Removed { name, id, was_gone: false, had_key: false };
        assert_eq!(removed, [of(Some("c10".into()), late), of(None, second)]);
        let after = Group::load(&state).unwrap().unwrap();
        assert!(after.update.revokes(late) && after.update.revokes(second) && !after.update.revokes(third));
        for who in ["c10", "07070707", "08080808"] {
            let again = revoke_error(authority.revoke_all(&[who], &seen).unwrap_err());
            assert!(matches!(again, RevokeError::Already { other: None, .. }), "{who}: {again:?}");
        }
        // One in the list does not hide another one of the same name.
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        authority.admit(&code.invite, &key(), &suggested("c11")).unwrap();
        let seen = Names::from([(third, Some("c11".into()))]);
        let several = revoke_error(authority.revoke_all(&["c11"], &seen).unwrap_err());
        assert!(matches!(&several, RevokeError::Ambiguous { found, .. } if found.len() == 2), "{several:?}");
    }

    #[test]
    fn several_members_are_removed_by_one_update_or_none_of_them() {
        let (_directory, state, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        for name in ["a", "b"] {
            authority.admit(&code.invite, &key(), &suggested(name)).unwrap();
        }
        let refused = authority.revoke_all(&["a", "nobody"], &Names::new()).unwrap_err();
        assert_eq!(revoke_error(refused), RevokeError::Unknown("nobody".into()));
        assert!(Group::load(&state).unwrap().unwrap().update.revoked().is_empty());
        let removed = authority.revoke_all(&["a", "b", "A"], &Names::new()).unwrap();
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
