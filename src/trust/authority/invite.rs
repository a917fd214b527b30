//! Invites: open doors, how often they admit, and what closes them.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::Authority;
use crate::trust::certificate::Role;
use crate::trust::code::{self, JoinCode};
use crate::trust::group::{self, GroupError};
use crate::trust::state::{Stamp, StateLock};
use crate::trust::{Base64, clock, random};
use crate::wire::datagram::Keys;

/// How many wrong proofs an invite survives. A guess of its 128 bits is hopeless; ten say that somebody
/// tries, or that a code is damaged in a way that will not get better.
const WRONG_PROOFS: u32 = 10;

/// How long an ended invite is remembered, so that whoever still holds its code is told that it ended.
const REMEMBERED: Duration = Duration::from_secs(7 * 24 * 3600);

/// Between two looks at the file of invites.
const LOOK: Duration = Duration::from_millis(200);

/// How many machines an invite admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uses {
    /// This many more.
    Times(u32),
    /// Any number.
    Any,
}

/// An open door.
#[derive(Clone, Serialize, Deserialize)]
pub struct Invite {
    id: Base64<[u8; 8]>,
    secret: Base64<[u8; 16]>,
    /// What it makes of whom it admits.
    pub role: Role,
    /// How many it still admits.
    pub uses: Uses,
    /// When it ends, in seconds since 1970; 0 is never.
    pub expires: u64,
    /// What the new member is called, if not what it calls itself.
    pub name: Option<String>,
    wrong_proofs: u32,
    /// The authority has closed it.
    closed: bool,
}

/// Why an invite does not admit: the answer to a joiner, which the joiner shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Refusal {
    /// No such invite, or none any more.
    #[error("the group does not know this join code")]
    UnknownInvite,
    /// Its time is over.
    #[error("this join code has expired")]
    Expired,
    /// Others have used it.
    #[error("this join code has been used up")]
    UsedUp,
    /// Too many wrong proofs.
    #[error("this join code was locked after {WRONG_PROOFS} wrong attempts")]
    Locked,
    /// All that were open were closed.
    #[error("this join code was closed when a machine was removed from the group")]
    Closed,
    /// This address has shown too many wrong proofs.
    #[error("too many wrong attempts from this address")]
    TooMany,
    /// The key of this machine is on the list of those that were put out.
    #[error("this machine was removed from the group")]
    Removed,
    /// The joiner does not know the secret, or is not the one at the other end.
    #[error("the proof of this join code is wrong")]
    WrongProof,
    /// The authority could not keep the record.
    #[error("the machine that made the group could not record the new member")]
    Unrecorded,
}

impl Refusal {
    /// What the joiner can do about it.
    pub fn hint(self) -> String {
        let hint = match self {
            Self::UnknownInvite | Self::Expired | Self::UsedUp | Self::Locked | Self::Closed => {
                "run 'laneway invite' on the machine that made the group, and use the line that it prints"
            }
            Self::WrongProof => {
                "copy the line again, or run 'laneway invite' on the machine that made the group for a new one"
            }
            Self::TooMany => "wait a few minutes, and copy the whole line again",
            Self::Removed => "its key is not admitted again: move the state directory away and join anew",
            Self::Unrecorded => "the log of 'laneway up' on that machine says why",
        };
        hint.into()
    }
}

impl Authority {
    /// Opens a door and says the code for it. `ttl` of `None` is for ever.
    ///
    /// # Errors
    /// When the invite cannot be recorded; there is then no code.
    pub fn invite(
        &self,
        role: Role,
        uses: Uses,
        ttl: Option<Duration>,
        name: Option<String>,
    ) -> Result<JoinCode, GroupError> {
        let now = clock::now();
        let invite = Invite {
            id: Base64(random()),
            secret: Base64(random()),
            role,
            uses,
            expires: ttl.map_or(0, |ttl| now.saturating_add(ttl).as_secs()),
            name,
            wrong_proofs: 0,
            closed: false,
        };
        let code = JoinCode::new(self.ca_key, invite.id.0, invite.secret.0, invite.expires);
        let _lock = self.state.lock()?;
        let mut invites = self.invites()?;
        invites.retain(|invite| !code::expired(invite.expires, now.saturating_sub(REMEMBERED)));
        invites.push(invite);
        group::write_json(&self.state, INVITES, &invites)?;
        Ok(code)
    }

    /// An invite that is remembered, whether it still admits or not.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when there is none, or when `invites.json` cannot be read.
    pub fn invite_by_id(&self, id: &[u8; 8]) -> Result<Invite, GroupError> {
        let invite = self.invites()?.into_iter().find(|invite| invite.id.0 == *id);
        Ok(invite.ok_or(Refusal::UnknownInvite)?)
    }

    /// Counts one use of an invite, before the certificate is made: a crash may lose a use but never adds one.
    pub(super) fn consume(&self, lock: &StateLock, id: &[u8; 8]) -> Result<(), GroupError> {
        self.change_invite(lock, id, |invite| {
            invite.admits(clock::now())?;
            if let Uses::Times(left) = &mut invite.uses {
                *left = left.saturating_sub(1);
            }
            Ok(())
        })
    }

    /// Counts a wrong proof; the tenth locks the invite.
    ///
    /// # Errors
    /// When that cannot be recorded.
    pub fn wrong_proof(&self, id: &[u8; 8]) -> Result<(), GroupError> {
        let lock = self.state.lock()?;
        self.change_invite(&lock, id, |invite| {
            invite.wrong_proofs = invite.wrong_proofs.saturating_add(1);
            Ok(())
        })
    }

    /// Closes every invite that still admits; gives how many there were.
    pub(super) fn close_invites(&self, _lock: &StateLock) -> Result<usize, GroupError> {
        let (mut invites, now) = (self.invites()?, clock::now());
        let open = invites.iter_mut().filter(|invite| invite.admits(now).is_ok());
        let count = open.map(|invite| invite.closed = true).count();
        if count > 0 {
            group::write_json(&self.state, INVITES, &invites)?;
        }
        Ok(count)
    }

    fn invites(&self) -> Result<Vec<Invite>, GroupError> {
        Ok(group::read_json(&self.state, INVITES)?.unwrap_or_default())
    }

    fn change_invite(
        &self,
        _lock: &StateLock,
        id: &[u8; 8],
        change: impl FnOnce(&mut Invite) -> Result<(), Refusal>,
    ) -> Result<(), GroupError> {
        let mut invites = self.invites()?;
        let invite = invites.iter_mut().find(|invite| invite.id.0 == *id).ok_or(Refusal::UnknownInvite)?;
        change(invite)?;
        group::write_json(&self.state, INVITES, &invites)
    }
}

impl Invite {
    /// The key that a proof of its secret is made with.
    pub(in crate::trust) fn proof_key(&self) -> hmac::Key {
        code::proof_key(&self.secret.0)
    }

    /// Whether it lets one more machine in.
    pub(in crate::trust) fn admits(&self, now: Duration) -> Result<(), Refusal> {
        if self.closed {
            return Err(Refusal::Closed);
        }
        if self.wrong_proofs >= WRONG_PROOFS {
            return Err(Refusal::Locked);
        }
        if code::expired(self.expires, now) {
            return Err(Refusal::Expired);
        }
        match self.uses {
            Uses::Times(0) => Err(Refusal::UsedUp),
            Uses::Times(_) | Uses::Any => Ok(()),
        }
    }
}

/// Finds the keys that the searches of joiners are authenticated with, without a look at the disk for each: anybody on
/// the LAN can ask.
pub struct Doorbell {
    authority: Authority,
    known: Mutex<Known>,
}

#[derive(Default)]
struct Known {
    keys: HashMap<[u8; 8], Arc<Keys>>,
    file: Option<Stamp>,
    looked: Option<Instant>,
}

impl Doorbell {
    /// For the invites of `authority`.
    pub fn new(authority: Authority) -> Self {
        Self { authority, known: Mutex::default() }
    }

    /// The keys of a remembered invite. One that no longer admits is found too, so that its holder is told so, and a
    /// machine whose answer was lost can ask again.
    pub fn keys(&self, invite: &[u8; 8], now: Instant) -> Option<Arc<Keys>> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked.is_none_or(|looked| now.saturating_duration_since(looked) >= LOOK) {
            known.looked = Some(now);
            let file = self.authority.state.stamp(INVITES);
            if file != known.file
                && let Ok(invites) = self.authority.invites()
            {
                let keys = |invite: Invite| {
                    (invite.id.0, Arc::new(Keys::new(&code::discovery_key(&invite.secret.0))))
                };
                known.keys = invites.into_iter().map(keys).collect();
                known.file = file;
            }
        }
        known.keys.get(invite).cloned()
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("role", &self.role)
            .field("uses", &self.uses)
            .field("expires", &self.expires)
            .field("name", &self.name)
            .field("wrong_proofs", &self.wrong_proofs)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

const INVITES: &str = "invites.json";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::tests::{key, new, refusal};

    fn admit(authority: &Authority, code: &JoinCode) -> Result<(), GroupError> {
        authority.admit(&code.invite, &key(), "x").map(drop)
    }

    #[test]
    fn an_invite_counts_down_and_is_seen_by_another_process() {
        let (_directory, state, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Times(2), None, None).unwrap();
        let daemon = Authority::load(&state).unwrap().unwrap();
        assert_eq!(daemon.invite_by_id(&code.invite).unwrap().uses, Uses::Times(2));
        admit(&daemon, &code).unwrap();
        admit(&authority, &code).unwrap();
        assert_eq!(refusal(admit(&daemon, &code).unwrap_err()), Refusal::UsedUp);
        assert_eq!(refusal(daemon.invite_by_id(&[0; 8]).unwrap_err()), Refusal::UnknownInvite);
    }

    #[test]
    fn two_at_once_cannot_share_one_use() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Times(3), None, None).unwrap();
        let admitted = std::thread::scope(|scope| {
            let tries: Vec<_> = (0..12).map(|_| scope.spawn(|| admit(&authority, &code).is_ok())).collect();
            tries.into_iter().filter_map(|admitted| admitted.join().ok()).filter(|admitted| *admitted).count()
        });
        assert_eq!(admitted, 3);
    }

    #[test]
    fn the_same_machine_gets_its_certificate_again_and_no_other_does() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Gateway, Uses::Times(1), None, None).unwrap();
        let (mine, other) = (key(), key());
        let (first, role) = authority.admit(&code.invite, &mine, "laptop").unwrap();
        let (again, role_again) = authority.admit(&code.invite, &mine, "renamed").unwrap();
        assert!(
            first.membership.node_certificate == again.membership.node_certificate,
            "another certificate"
        );
        assert_eq!((again.membership.node_name.as_str(), role), ("laptop", role_again));
        assert_eq!(authority.members().unwrap().len(), 2);
        assert_eq!(
            refusal(authority.admit(&code.invite, &other, "laptop").map(drop).unwrap_err()),
            Refusal::UsedUp
        );
        // With another code it is admitted anew, and is still one member.
        let code = authority.invite(Role::Client, Uses::Times(1), None, None).unwrap();
        let (now_a_client, role) = authority.admit(&code.invite, &mine, "laptop").unwrap();
        assert_eq!((now_a_client.membership.node_name.as_str(), role), ("laptop", Role::Client));
        assert_eq!(authority.members().unwrap().len(), 2);
    }

    #[test]
    fn ten_wrong_proofs_lock_an_invite() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        for _ in 0..9 {
            authority.wrong_proof(&code.invite).unwrap();
        }
        admit(&authority, &code).unwrap();
        authority.wrong_proof(&code.invite).unwrap();
        assert_eq!(refusal(admit(&authority, &code).unwrap_err()), Refusal::Locked);
    }

    #[test]
    fn ended_invites_say_so_and_are_forgotten_later() {
        let (_directory, _, authority, _) = new();
        let ended = authority.invite(Role::Client, Uses::Any, Some(Duration::ZERO), None).unwrap();
        let open = authority.invite(Role::Client, Uses::Any, Some(Duration::from_secs(60)), None).unwrap();
        assert_eq!(refusal(admit(&authority, &ended).unwrap_err()), Refusal::Expired);
        admit(&authority, &open).unwrap();
        let mut invites = authority.invites().unwrap();
        invites[0].expires -= REMEMBERED.as_secs() + 1;
        group::write_json(&authority.state, INVITES, &invites).unwrap();
        authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        assert_eq!(refusal(authority.invite_by_id(&ended.invite).unwrap_err()), Refusal::UnknownInvite);
        assert_eq!(authority.invites().unwrap().len(), 2);
    }

    #[test]
    fn the_doorbell_knows_a_new_invite_soon_and_does_not_read_the_disk_for_every_ring() {
        let (_directory, state, authority, _) = new();
        let first = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let bell = Doorbell::new(authority.clone());
        let start = Instant::now();
        let known = bell.keys(&first.invite, start).unwrap();
        let second = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        assert!(bell.keys(&second.invite, start + LOOK / 2).is_none(), "it has looked again");
        assert!(bell.keys(&second.invite, start + LOOK).is_some());
        // Nor are keys made again while the file is the same.
        let now = bell.keys(&first.invite, start + LOOK).unwrap();
        assert!(Arc::ptr_eq(&now, &bell.keys(&first.invite, start + LOOK * 3).unwrap()));
        drop(known);
        std::fs::remove_file(state.file(INVITES)).unwrap();
        assert!(bell.keys(&first.invite, start + LOOK * 4).is_none());
    }
}
