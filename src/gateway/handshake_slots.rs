//! How many TLS handshakes may be in progress on the link port, in all and for each source address.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Maximum handshakes in progress. Further connections are closed at once.
const MAX_HANDSHAKES: usize = 2048;
/// Maximum handshakes in progress from one address, so that one machine alone cannot keep the others out.
const MAX_PER_SOURCE: usize = 64;

/// The handshakes in progress, counted by source address.
#[derive(Default)]
pub(super) struct HandshakeSlots(Mutex<HashMap<IpAddr, usize>>);

/// One handshake's slot; dropping it frees the slot.
pub(super) struct HandshakeSlot(Arc<HandshakeSlots>, IpAddr);

impl HandshakeSlots {
    /// A slot for a connection from `source`; `None` when one of the two limits is reached.
    pub(super) fn take(slots: &Arc<Self>, source: IpAddr) -> Option<HandshakeSlot> {
        let mut taken = slots.lock();
        if taken.values().sum::<usize>() >= MAX_HANDSHAKES {
            return None;
        }
        let of_source = taken.entry(source).or_default();
        if *of_source >= MAX_PER_SOURCE {
            return None;
        }
        *of_source += 1;
        Some(HandshakeSlot(slots.clone(), source))
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<IpAddr, usize>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HandshakeSlot {
    fn drop(&mut self) {
        let mut taken = self.0.lock();
        if let Some(of_source) = taken.get_mut(&self.1) {
            *of_source -= 1;
            if *of_source == 0 {
                taken.remove(&self.1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_cannot_take_all_slots_and_dropped_slots_are_free_again() {
        let slots = Arc::new(HandshakeSlots::default());
        let (one, other) = ("192.0.2.1".parse().unwrap(), "192.0.2.2".parse().unwrap());
        let mut taken: Vec<_> =
            (0..MAX_PER_SOURCE).map(|_| HandshakeSlots::take(&slots, one).unwrap()).collect();
        assert!(HandshakeSlots::take(&slots, one).is_none());
        assert!(HandshakeSlots::take(&slots, other).is_some());
        taken.pop();
        assert!(HandshakeSlots::take(&slots, one).is_some());
        drop(taken);
        assert!(slots.lock().is_empty());
    }
}
