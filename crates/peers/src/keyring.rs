//! The discovery keys that are good now: the group's, and for a day those before it, so that a node that missed the news
//! still finds somebody who has them.

use std::collections::HashMap;
use std::sync::Arc;

use laneway_trust::group::Group;
use laneway_wire::datagram::{Datagram, Keys, Way, epoch_named};
use laneway_wire::id::NodeId;

/// How many gateways' epochs are remembered.
const MOST_GATEWAYS: usize = 4096;

/// The keys of one state of the group.
pub(super) struct Keyring {
    /// The group in that state.
    pub(super) group: Arc<Group>,
    current: Keys,
    retired: Vec<(u64, Keys)>,
}

impl Keyring {
    pub(super) fn new(group: Arc<Group>) -> Self {
        let current = Keys::new(group.update.discovery_key());
        let retired = group.retired.iter().map(|retired| (retired.epoch, Keys::new(retired.key()))).collect();
        Self { group, current, retired }
    }

    /// The keys of an epoch, while they are good.
    pub(super) fn keys(&self, epoch: u64) -> Option<&Keys> {
        if epoch == self.group.update.epoch() {
            return Some(&self.current);
        }
        self.retired.iter().find(|retired| retired.0 == epoch).map(|retired| &retired.1)
    }

    /// Reads a datagram in the epoch that it names.
    pub(super) fn decode(&self, bytes: &[u8], way: Way) -> Option<Datagram> {
        let keys = self.keys(epoch_named(bytes)?)?;
        Datagram::decode(bytes, self.group.id, keys, way).ok()
    }
}

/// The latest epoch that each gateway has spoken in. Whoever was put out still knows the key before: with that it must
/// not speak for those who have gone on.
#[derive(Default)]
pub(super) struct Epochs(HashMap<NodeId, u64>);

impl Epochs {
    /// Notes that a gateway spoke in `epoch`; false when it has spoken in a later one.
    pub(super) fn goes_on(&mut self, gateway: NodeId, epoch: u64) -> bool {
        if self.0.len() >= MOST_GATEWAYS && !self.0.contains_key(&gateway) {
            self.0.clear();
        }
        let latest = self.0.entry(gateway).or_insert(epoch);
        *latest = epoch.max(*latest);
        *latest == epoch
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneway_sys::state::StateDir;
    use laneway_trust::authority::Authority;
    use laneway_wire::datagram::Message;

    #[test]
    fn a_datagram_of_a_retired_epoch_is_read_and_one_of_a_forgotten_epoch_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let before = Keyring::new(Arc::new(Authority::create(&state, "office", "first").unwrap()));
        let authority = Authority::load(&state).unwrap().unwrap();
        let way = Way { from: "10.0.0.8:7420".parse().unwrap(), to: "10.0.0.9:7420".parse().unwrap() };
        let say = |keyring: &Keyring, epoch: u64| {
            let message = Message::Query { nonce: [1; 16] };
            let datagram = Datagram { group: keyring.group.id, epoch, sender: NodeId([2; 16]), message };
            datagram.encode(keyring.keys(keyring.group.update.epoch()).unwrap(), way)
        };
        let old = say(&before, 0);
        // More often than keys are kept.
        for epoch in 1..=9 {
            authority.rotate().unwrap();
            let now = Keyring::new(Arc::new(Group::load(&state).unwrap().unwrap()));
            assert_eq!(
                now.decode(&old, way).map(|datagram| datagram.epoch),
                (epoch < 9).then_some(0),
                "{epoch}"
            );
            let new = say(&now, epoch);
            assert_eq!(now.decode(&new, way).map(|datagram| datagram.epoch), Some(epoch));
            assert_eq!(before.decode(&new, way), None);
            // The old key does not do for the new epoch.
            assert_eq!(now.decode(&say(&before, epoch), way), None);
        }
    }

    #[test]
    fn a_gateway_that_has_gone_on_is_not_heard_in_an_older_epoch() {
        let mut epochs = Epochs::default();
        let (one, two) = (NodeId([1; 16]), NodeId([2; 16]));
        assert!(epochs.goes_on(one, 3) && epochs.goes_on(one, 3) && epochs.goes_on(one, 4));
        assert!(!epochs.goes_on(one, 3));
        assert!(epochs.goes_on(two, 3));
        for number in 0..2 * MOST_GATEWAYS as u128 {
            epochs.goes_on(NodeId(number.to_be_bytes()), 1);
        }
        assert!(epochs.0.len() <= MOST_GATEWAYS);
    }
}
