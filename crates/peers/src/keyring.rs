//! The discovery keys that are valid now: the group's current one, and for a day the earlier ones, so that a node that missed
//! an update still finds a gateway that has it.

use std::collections::HashMap;
use std::sync::Arc;

use laneway_trust::group::Group;
use laneway_wire::datagram::{Datagram, Keys, Way, epoch_named};
use laneway_wire::id::NodeId;

/// Maximum gateways whose epochs are remembered.
const MAX_GATEWAYS: usize = 4096;

/// The keys of the group in one state.
pub(super) struct Keyring {
    /// The group in this state.
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

    /// The keys of an epoch; `None` when they are no longer valid.
    pub(super) fn keys(&self, epoch: u64) -> Option<&Keys> {
        if epoch == self.group.update.epoch() {
            return Some(&self.current);
        }
        self.retired.iter().find(|retired| retired.0 == epoch).map(|retired| &retired.1)
    }

    /// Verifies and decodes a datagram with the key of the epoch in it.
    pub(super) fn decode(&self, bytes: &[u8], way: Way) -> Option<Datagram> {
        let keys = self.keys(epoch_named(bytes)?)?;
        Datagram::decode(bytes, self.group.id, keys, way).ok()
    }
}

/// The latest epoch in which each gateway was heard. A removed member still has the previous key, and must not forge
/// datagrams of gateways that use a later one.
#[derive(Default)]
pub(super) struct Epochs(HashMap<NodeId, u64>);

impl Epochs {
    /// Notes a gateway's datagram of `epoch`. `false` when the gateway was heard in a later epoch.
    pub(super) fn accept(&mut self, gateway: NodeId, epoch: u64) -> bool {
        if self.0.len() >= MAX_GATEWAYS && !self.0.contains_key(&gateway) {
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
        // More rotations than retired keys are kept.
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
            // The old key is not accepted for the new epoch.
            assert_eq!(now.decode(&say(&before, epoch), way), None);
        }
    }

    #[test]
    fn a_gateway_of_a_later_epoch_is_not_accepted_in_an_older_one() {
        let mut epochs = Epochs::default();
        let (one, two) = (NodeId([1; 16]), NodeId([2; 16]));
        assert!(epochs.accept(one, 3) && epochs.accept(one, 3) && epochs.accept(one, 4));
        assert!(!epochs.accept(one, 3));
        assert!(epochs.accept(two, 3));
        for number in 0..2 * MAX_GATEWAYS as u128 {
            epochs.accept(NodeId(number.to_be_bytes()), 1);
        }
        assert!(epochs.0.len() <= MAX_GATEWAYS);
    }
}
