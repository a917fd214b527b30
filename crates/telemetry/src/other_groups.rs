//! The machines of other groups whose announcements arrive on this LAN. Nothing of what they send is verified: all that is known
//! is that they are there.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How long a machine counts as present after its last datagram: candidates announce themselves at least every 16 seconds.
const PRESENT: Duration = Duration::from_secs(60);
/// Maximum machines that are known at a time.
const MOST: usize = 16;

/// The addresses of machines of other groups, each with the time of its last datagram.
#[derive(Debug, Default)]
pub struct OtherGroups(Mutex<BTreeMap<IpAddr, Instant>>);

impl OtherGroups {
    /// Notes a datagram of another group. `true` for the first of all.
    pub fn note(&self, from: IpAddr, now: Instant) -> bool {
        let mut heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_first = heard.is_empty();
        if heard.len() >= MOST && !heard.contains_key(&from) {
            let Some((&oldest, &last)) = heard.iter().min_by_key(|(_, last)| **last) else { return false };
            if now.saturating_duration_since(last) < PRESENT {
                return false;
            }
            heard.remove(&oldest);
        }
        heard.insert(from, now);
        is_first
    }

    /// Notes a datagram of this group: whoever had this address before, it is a member's now, as after this machine was carried
    /// to another LAN with the same addresses.
    pub fn forget(&self, from: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&from);
    }

    /// The machines that are there now.
    pub fn present(&self, now: Instant) -> Vec<IpAddr> {
        let heard = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_present = |last: &Instant| now.saturating_duration_since(*last) < PRESENT;
        heard.iter().filter(|(_, last)| is_present(last)).map(|(address, _)| *address).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn machines_of_other_groups_are_counted_while_they_are_there_and_only_so_many() {
        let (others, start) = (OtherGroups::default(), Instant::now());
        let address = |last: u8| IpAddr::from([10, 0, 0, last]);
        assert!(others.note(address(1), start) && !others.note(address(1), start));
        for last in 2..40 {
            assert!(!others.note(address(last), start));
        }
        let present = others.present(start);
        assert_eq!((present.len(), present[0]), (MOST, address(1)));
        let later = start + PRESENT;
        assert!(!others.note(address(99), later), "there was one before");
        assert_eq!(others.present(later), [address(99)]);
        others.forget(address(99));
        assert!(others.present(later).is_empty(), "that of a member");
    }
}
