//! Invites: how many machines they admit, and what ends them.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::hmac;
use serde::{Deserialize, Serialize};

use super::holder::{Authority, name_for};
use crate::base64::Base64;
use crate::certificate::Role;
use crate::clock;
use crate::code::{self, JoinCode};
use crate::error::{GroupError, InviteError};
use crate::files::{INVITES, read_json, write_json};
use crate::name::WantedName;
use crate::random::random;
use laneway_sys::state::StateLock;

/// How long an expired invite is kept, so that a joiner with its code is told that it expired.
const KEPT_AFTER_EXPIRY: Duration = Duration::from_secs(7 * 24 * 3600);

/// How many machines an invite admits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Uses {
    /// At most this many more.
    Times(u32),
    /// Any number.
    Any,
}

/// An invite, as recorded in `invites.json`.
#[derive(Clone, Serialize, Deserialize)]
pub struct Invite {
    pub(super) id: Base64<[u8; 8]>,
    pub(super) secret: Base64<[u8; 16]>,
    /// The role of the machines that it admits.
    pub role: Role,
    /// How many machines it still admits.
    pub uses: Uses,
    /// When it expires, in seconds since 1970; 0 for never.
    pub expires: u64,
    /// The name of the new member; `None` for the name that it asks for.
    pub name: Option<String>,
    /// Whether the authority has closed it.
    closed: bool,
}

impl Authority {
    /// Creates an invite and returns its code. A `ttl` of `None` never expires. With a `name`, the invite admits machines
    /// under this name only: the second one is refused.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when no machine can have the name, or when the invite cannot be recorded.
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
            closed: false,
        };
        let code = JoinCode::new(self.ca_key, invite.id.0, invite.secret.0, invite.expires);
        let _lock = self.state.lock()?;
        if let Some(name) = &invite.name {
            name_for(
                &WantedName::Chosen(name.clone()),
                &self.members()?,
                self.own_group()?.update.revoked(),
            )?;
        }
        let mut invites = self.invites()?;
        invites.retain(|invite| !code::expired(invite.expires, now.saturating_sub(KEPT_AFTER_EXPIRY)));
        invites.push(invite);
        write_json(&self.state, INVITES, &invites)?;
        Ok(code)
    }

    /// A recorded invite, whether it still admits or not.
    ///
    /// # Errors
    /// [`GroupError::Refused`] when there is no such invite, or when `invites.json` cannot be read.
    pub fn invite_by_id(&self, id: &[u8; 8]) -> Result<Invite, GroupError> {
        let invite = self.invites()?.into_iter().find(|invite| invite.id.0 == *id);
        Ok(invite.ok_or(InviteError::UnknownInvite)?)
    }

    /// Counts one use of an invite, before the certificate is issued: a crash may lose a use but never adds one.
    pub(super) fn consume(&self, lock: &StateLock, id: &[u8; 8]) -> Result<(), GroupError> {
        self.change_invite(lock, id, |invite| {
            invite.admits(clock::now())?;
            if let Uses::Times(left) = &mut invite.uses {
                *left = left.saturating_sub(1);
            }
            Ok(())
        })
    }

    /// Closes every invite that still admits. Returns their number.
    pub(super) fn close_invites(&self, _lock: &StateLock) -> Result<usize, GroupError> {
        let (mut invites, now) = (self.invites()?, clock::now());
        let open = invites.iter_mut().filter(|invite| invite.admits(now).is_ok());
        let count = open.map(|invite| invite.closed = true).count();
        if count > 0 {
            write_json(&self.state, INVITES, &invites)?;
        }
        Ok(count)
    }

    /// All recorded invites.
    pub(super) fn invites(&self) -> Result<Vec<Invite>, GroupError> {
        Ok(read_json(&self.state, INVITES)?.unwrap_or_default())
    }

    fn change_invite(
        &self,
        _lock: &StateLock,
        id: &[u8; 8],
        change: impl FnOnce(&mut Invite) -> Result<(), InviteError>,
    ) -> Result<(), GroupError> {
        let mut invites = self.invites()?;
        let invite =
            invites.iter_mut().find(|invite| invite.id.0 == *id).ok_or(InviteError::UnknownInvite)?;
        change(invite)?;
        write_json(&self.state, INVITES, &invites)
    }
}

impl Invite {
    /// The HMAC key of a proof of its secret.
    pub(crate) fn proof_key(&self) -> hmac::Key {
        code::proof_key(&self.secret.0)
    }

    /// Whether it admits one more machine.
    pub(crate) fn admits(&self, now: Duration) -> Result<(), InviteError> {
        if self.closed {
            return Err(InviteError::Closed);
        }
        if code::expired(self.expires, now) {
            return Err(InviteError::Expired);
        }
        match self.uses {
            Uses::Times(0) => Err(InviteError::UsedUp),
            Uses::Times(_) | Uses::Any => Ok(()),
        }
    }
}

impl fmt::Debug for Invite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Invite")
            .field("role", &self.role)
            .field("uses", &self.uses)
            .field("expires", &self.expires)
            .field("name", &self.name)
            .field("closed", &self.closed)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::tests::{chosen, key, new, refusal, suggested};

    fn admit(authority: &Authority, code: &JoinCode) -> Result<(), GroupError> {
        authority.admit(&code.invite, &key(), &suggested("x")).map(drop)
    }

    #[test]
    fn an_invite_counts_down_and_is_seen_by_another_process() {
        let (_directory, state, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Times(2), None, None).unwrap();
        let daemon = Authority::load(&state).unwrap().unwrap();
        assert_eq!(daemon.invite_by_id(&code.invite).unwrap().uses, Uses::Times(2));
        admit(&daemon, &code).unwrap();
        admit(&authority, &code).unwrap();
        assert_eq!(refusal(admit(&daemon, &code).unwrap_err()), InviteError::UsedUp);
        assert_eq!(refusal(daemon.invite_by_id(&[0; 8]).unwrap_err()), InviteError::UnknownInvite);
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
        let (first, role) = authority.admit(&code.invite, &mine, &suggested("first")).unwrap();
        assert_eq!(first.membership.node_name, "first-2");
        // By the name that it asked for, and by the name that it got.
        for wanted in [suggested("first"), chosen("first-2")] {
            let (again, role_again) = authority.admit(&code.invite, &mine, &wanted).unwrap();
            assert!(
                first.membership.node_certificate == again.membership.node_certificate,
                "another certificate"
            );
            assert_eq!((again.membership.node_name.as_str(), role), ("first-2", role_again));
        }
        assert_eq!(authority.members().unwrap().len(), 2);
        assert_eq!(
            refusal(authority.admit(&code.invite, &other, &suggested("first")).map(drop).unwrap_err()),
            InviteError::UsedUp
        );
        // Another code for the same role gives it the same certificate, and is not used up by it.
        let code = authority.invite(Role::Gateway, Uses::Times(1), None, None).unwrap();
        let (again, _) = authority.admit(&code.invite, &mine, &suggested("first")).unwrap();
        assert!(first.membership.node_certificate == again.membership.node_certificate);
        authority.admit(&code.invite, &other, &suggested("other")).unwrap();
        assert_eq!(authority.members().unwrap().len(), 3);
    }

    #[test]
    fn a_join_never_changes_the_name_or_the_role_of_a_member() {
        let (_directory, _, authority, _) = new();
        let invite = |role, name| authority.invite(role, Uses::Any, None, name).unwrap().invite;
        let (gateway, client) = (invite(Role::Gateway, None), invite(Role::Client, None));
        let named = invite(Role::Gateway, Some("kiosk".into()));
        let laptop = key();
        authority.admit(&gateway, &laptop, &chosen("laptop")).unwrap();
        let before = authority.members().unwrap();
        let known = InviteError::KnownKey { name: "laptop".into(), role: Role::Gateway };
        for (code, name) in [(gateway, "renamed"), (client, "laptop"), (client, "renamed"), (named, "laptop")]
        {
            for wanted in [suggested(name), chosen(name)] {
                let refused = authority.admit(&code, &laptop, &wanted).map(drop).unwrap_err();
                assert_eq!(refusal(refused), known, "{name}");
            }
        }
        assert_eq!(authority.members().unwrap(), before);
    }

    #[test]
    fn a_closed_or_expired_code_of_another_invite_gives_a_member_nothing() {
        let (_directory, _, authority, _) = new();
        let code = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let expired = authority.invite(Role::Client, Uses::Any, Some(Duration::ZERO), None).unwrap();
        let laptop = key();
        authority.admit(&code.invite, &laptop, &chosen("laptop")).unwrap();
        let refused = authority.admit(&expired.invite, &laptop, &chosen("laptop")).map(drop);
        assert_eq!(refusal(refused.unwrap_err()), InviteError::Expired);
    }

    #[test]
    fn ended_invites_say_so_and_are_forgotten_later() {
        let (_directory, _, authority, _) = new();
        let ended = authority.invite(Role::Client, Uses::Any, Some(Duration::ZERO), None).unwrap();
        let open = authority.invite(Role::Client, Uses::Any, Some(Duration::from_secs(60)), None).unwrap();
        assert_eq!(refusal(admit(&authority, &ended).unwrap_err()), InviteError::Expired);
        admit(&authority, &open).unwrap();
        let mut invites = authority.invites().unwrap();
        invites[0].expires -= KEPT_AFTER_EXPIRY.as_secs() + 1;
        write_json(&authority.state, INVITES, &invites).unwrap();
        authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        assert_eq!(refusal(authority.invite_by_id(&ended.invite).unwrap_err()), InviteError::UnknownInvite);
        assert_eq!(authority.invites().unwrap().len(), 2);
    }
}
