//! Putting members out, and changing the discovery key.

use std::collections::BTreeSet;

use super::{Authority, Member};
use crate::trust::group::{self, Group, GroupError};
use crate::trust::news::{LONGEST_CRL, News};
use crate::trust::state::StateLock;
use crate::trust::{clock, random};
use crate::wire::id::NodeId;

/// The fewest digits of an id that name a member.
const FEWEST_DIGITS: usize = 4;

/// A member that was just put out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutOut {
    /// What it was called; `None` when this machine's list does not have it.
    pub name: Option<String>,
    /// Its id.
    pub id: NodeId,
    /// The group's epoch from now on.
    pub epoch: u64,
    /// How many invites were open and are closed now: a machine that knows a code could come in again.
    pub closed: usize,
}

/// Why a member stays.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Kept {
    /// Nobody has that name or id.
    #[error("no member is called {0:?}")]
    Unknown(String),
    /// The beginning of several ids.
    #[error("{who:?} could be any of {}", ids.join(", "))]
    Ambiguous {
        /// What was typed.
        who: String,
        /// Whose ids begin so.
        ids: Vec<String>,
    },
    /// It is out.
    #[error("{0} was removed before")]
    Already(String),
    /// The authority's own machine.
    #[error("this machine cannot remove itself: it holds the group's key")]
    Own,
    /// The revocation list is at its limit.
    #[error("the list of removed machines is full")]
    Full,
}

impl Kept {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unknown(_) => format!(
                "'laneway members' lists names and ids; {FEWEST_DIGITS} or more digits of an id are enough"
            ),
            Self::Ambiguous { .. } => "write more digits of the id".into(),
            Self::Own => {
                "'laneway ca export' moves the group's key to another machine, which can then remove \
                          this one"
                    .into()
            }
            Self::Full => "make a new group with 'laneway init', and let its members join that".into(),
            Self::Already(_) => return None,
        })
    }
}

impl Authority {
    /// Puts a member out, named by its name or the beginning of its id: signs the list with it, changes the discovery
    /// key, and closes all open invites.
    ///
    /// # Errors
    /// [`GroupError::Kept`], or when it cannot be recorded.
    pub fn revoke(&self, who: &str) -> Result<PutOut, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        let (id, name) = find(&self.members()?, who)?;
        if group.news.revokes(id) {
            return Err(Kept::Already(name.unwrap_or_else(|| id.short())).into());
        }
        if group.node.id == id {
            return Err(Kept::Own.into());
        }
        let mut revoked = group.news.revoked().clone();
        revoked.insert(id);
        // First of all: a crash may leave the doors shut, but not open.
        let closed = self.close_invites(&lock)?;
        let epoch = self.publish(&lock, &group, revoked)?.epoch();
        Ok(PutOut { name, id, epoch, closed })
    }

    /// Makes a new discovery key, and puts nobody out. Gives the new epoch.
    ///
    /// # Errors
    /// When it cannot be recorded.
    pub fn rotate(&self) -> Result<u64, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        Ok(self.publish(&lock, &group, group.news.revoked().clone())?.epoch())
    }

    /// Signs a list with all of these nodes, if one is missing: another machine that holds the same key has revoked
    /// without knowing what this one did, or the other way round.
    pub(in crate::trust) fn make_up_for(&self, told: &BTreeSet<NodeId>) -> Result<Option<News>, GroupError> {
        let lock = self.state.lock()?;
        let group = self.own_group()?;
        if told.is_subset(group.news.revoked()) {
            return Ok(None);
        }
        let all = group.news.revoked() | told;
        self.publish(&lock, &group, all).map(Some)
    }

    fn publish(
        &self,
        _lock: &StateLock,
        group: &Group,
        revoked: BTreeSet<NodeId>,
    ) -> Result<News, GroupError> {
        let epoch = group.news.epoch().saturating_add(1);
        let news = News::sign(&self.key, epoch, random(), revoked)?;
        if news.crl().len() > LONGEST_CRL {
            return Err(Kept::Full.into());
        }
        group::write_group(&self.state, &group.with_news(news.clone(), clock::now()))?;
        Ok(news)
    }
}

/// The member that is meant. One that is not in the list can be named by its whole id: another machine may have admitted
/// it with the same key.
fn find(members: &[Member], who: &str) -> Result<(NodeId, Option<String>), Kept> {
    let unknown = || Kept::Unknown(who.to_owned());
    let named = members.iter().find(|member| member.name.eq_ignore_ascii_case(who));
    let digits = who.to_ascii_lowercase();
    let by_id =
        members.iter().filter(|member| digits.len() >= FEWEST_DIGITS && member.id.starts_with(&digits));
    let mut found = named.into_iter().chain(by_id.filter(|_| named.is_none()));
    match (found.next(), found.next()) {
        (Some(one), None) => Ok((NodeId::parse(&one.id).ok_or_else(unknown)?, Some(one.name.clone()))),
        (Some(one), Some(other)) => {
            let all = [one, other].into_iter().chain(found);
            let ids = all.map(|member| member.id.clone()).collect();
            Err(Kept::Ambiguous { who: who.to_owned(), ids })
        }
        _ => Ok((NodeId::parse(&digits).ok_or_else(unknown)?, None)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::tests::{key, new, refusal};
    use crate::trust::authority::{Refusal, Uses};
    use crate::trust::certificate::{Role, node_id};

    fn kept(error: GroupError) -> Kept {
        match error {
            GroupError::Kept(kept) => kept,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_revoked_member_is_on_the_list_of_the_next_epoch_and_the_old_discovery_key_is_retired() {
        let (_directory, state, authority, before) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let laptop = key();
        authority.admit(&code.invite, &laptop, "laptop").unwrap();

        let out = authority.revoke("LAPTOP").unwrap();
        assert_eq!((out.name.as_deref(), out.id, out.epoch), (Some("laptop"), node_id(&laptop), 1));
        let after = Group::load(&state).unwrap().unwrap();
        assert!(after.news.revokes(node_id(&laptop)) && !after.news.revokes(after.node.id));
        assert_ne!(after.news.discovery_key(), before.news.discovery_key());
        let [retired] = after.retired.as_slice() else { panic!("{:?}", after.retired) };
        assert_eq!((retired.epoch, retired.key()), (0, before.news.discovery_key()));
        assert_eq!(kept(authority.revoke("laptop").unwrap_err()), Kept::Already("laptop".into()));
    }

    #[test]
    fn a_revocation_closes_every_code_and_the_key_does_not_come_in_again() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Gateway, Uses::Any, None, None).unwrap();
        let laptop = key();
        authority.admit(&code.invite, &laptop, "laptop").unwrap();
        assert_eq!(authority.revoke("laptop").unwrap().closed, 1);
        // Neither by the code that it knows, nor as the machine whose answer was lost, nor by a new code.
        let again =
            |invite, key: [u8; 32]| refusal(authority.admit(invite, &key, "x").map(drop).unwrap_err());
        assert_eq!(again(&code.invite, key()), Refusal::Closed);
        assert_eq!(again(&code.invite, laptop), Refusal::Removed);
        let new = authority.invite(Role::Gateway, Uses::Any, None, None).unwrap();
        assert_eq!(again(&new.invite, laptop), Refusal::Removed);
        authority.admit(&new.invite, &key(), "x").unwrap();
    }

    #[test]
    fn a_member_is_meant_by_its_name_or_the_beginning_of_its_id_and_nobody_by_chance() {
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
            assert_eq!(find(&members, nobody), Err(Kept::Unknown(nobody.into())));
        }
        let mut twins = members.clone();
        twins[1].id = format!("{}{}", &b.id[..8], &twins[1].id[8..]);
        assert!(matches!(find(&twins, &b.id[..8]), Err(Kept::Ambiguous { .. })));
        let stranger = NodeId([7; 16]);
        assert_eq!(find(&members, &stranger.to_string()), Ok((stranger, None)));
        assert_eq!(kept(authority.revoke(&group.node.name).unwrap_err()), Kept::Own);
    }

    #[test]
    fn a_rotation_changes_the_key_and_puts_nobody_out() {
        let (_directory, state, authority, before) = new();
        assert_eq!(authority.rotate().unwrap(), 1);
        assert_eq!(authority.rotate().unwrap(), 2);
        let after = Group::load(&state).unwrap().unwrap();
        assert!(after.news.revoked().is_empty());
        let retired: Vec<_> = after.retired.iter().map(|retired| retired.epoch).collect();
        assert_eq!(retired, [1, 0]);
        assert_eq!(after.retired[1].key(), before.news.discovery_key());
    }

    #[test]
    fn a_revocation_that_another_authority_did_not_know_of_is_signed_again() {
        let (_directory, state, authority, _) = new();
        let [mine, theirs] = [NodeId([1; 16]), NodeId([2; 16])];
        authority.revoke(&mine.to_string()).unwrap();
        assert!(authority.make_up_for(&BTreeSet::from([mine])).unwrap().is_none());
        let news = authority.make_up_for(&BTreeSet::from([theirs])).unwrap().unwrap();
        assert_eq!((news.epoch(), news.revoked().len()), (2, 2));
        assert_eq!(Group::load(&state).unwrap().unwrap().news, news);
    }
}
