//! Answers for joiners that search the LAN for the authority.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::holder::Held;
use super::invite::Invite;
use crate::code;
use crate::files::INVITES;
use laneway_sys::state::Stamp;
use laneway_wire::datagram::Keys;

/// Interval between two checks of whether the file of invites changed.
const RELOAD_CHECK_INTERVAL: Duration = Duration::from_millis(200);

/// Finds the keys that authenticate the queries of joiners. It does not read the disk for each query, since anybody on
/// the LAN can send one.
pub struct JoinResponder {
    authority: Held,
    cache: Mutex<Cache>,
}

#[derive(Default)]
struct Cache {
    keys: HashMap<[u8; 8], Arc<Keys>>,
    /// The file that the keys are from.
    file: Option<Stamp>,
    checked: Option<Instant>,
}

impl JoinResponder {
    /// Answers for the invites of `authority`, while this machine holds it.
    pub fn new(authority: Held) -> Self {
        Self { authority, cache: Mutex::default() }
    }

    /// The keys of a recorded invite. Invites that no longer admit are included, so that their joiners are told so, and a
    /// machine whose answer was lost can ask again.
    pub fn keys(&self, invite: &[u8; 8], now: Instant) -> Option<Arc<Keys>> {
        let authority = self.authority.borrow();
        let authority = authority.as_ref()?;
        let mut cache = self.cache.lock().unwrap_or_else(PoisonError::into_inner);
        if cache.checked.is_none_or(|checked| now.saturating_duration_since(checked) >= RELOAD_CHECK_INTERVAL)
        {
            cache.checked = Some(now);
            let file = authority.state.stamp(INVITES);
            if file != cache.file
                && let Ok(invites) = authority.invites()
            {
                let keys = |invite: Invite| {
                    (invite.id.0, Arc::new(Keys::new(&code::discovery_key(&invite.secret.0))))
                };
                cache.keys = invites.into_iter().map(keys).collect();
                cache.file = file;
            }
        }
        cache.keys.get(invite).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Uses;
    use crate::authority::tests::new;
    use crate::certificate::Role;
    use tokio::sync::watch;

    #[test]
    fn a_new_invite_is_found_soon_and_the_disk_is_not_read_for_every_query() {
        let (_directory, state, authority, _) = new();
        let first = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        let (holder, held) = watch::channel(None);
        let responder = JoinResponder::new(held);
        let start = Instant::now();
        assert!(responder.keys(&first.invite, start).is_none(), "this machine does not hold the key yet");
        holder.send_replace(Some(authority.clone()));
        let known = responder.keys(&first.invite, start).unwrap();
        let second = authority.invite(Role::Client, Uses::Any, None, None).unwrap();
        assert!(
            responder.keys(&second.invite, start + RELOAD_CHECK_INTERVAL / 2).is_none(),
            "it has read the file again"
        );
        assert!(responder.keys(&second.invite, start + RELOAD_CHECK_INTERVAL).is_some());
        // Keys are not derived again while the file is unchanged.
        let now = responder.keys(&first.invite, start + RELOAD_CHECK_INTERVAL).unwrap();
        assert!(Arc::ptr_eq(
            &now,
            &responder.keys(&first.invite, start + RELOAD_CHECK_INTERVAL * 3).unwrap()
        ));
        drop(known);
        std::fs::remove_file(state.file(INVITES)).unwrap();
        assert!(responder.keys(&first.invite, start + RELOAD_CHECK_INTERVAL * 4).is_none());
    }
}
