//! The discovery keys that are valid now: the group's current one, and for a day the earlier ones, so that a node that missed
//! an update still finds a gateway that has it.

use std::sync::Arc;

use laneway_trust::group::Group;
use laneway_wire::datagram::{Datagram, Dropped, Keys, Received, Way, epoch_named};

/// Why a datagram of another group is dropped, as metrics name it.
pub(super) const OTHER_GROUP: &str = "group";
/// Why a datagram of an epoch whose key is not known is dropped.
pub(super) const EPOCH: &str = "epoch";

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

    /// The keys that an epoch most likely has. An update may keep the discovery key of the one before, and a retired key is
    /// listed with its last epoch only.
    pub(super) fn keys(&self, epoch: u64) -> &Keys {
        let since = self.retired.iter().filter(|retired| retired.0 >= epoch);
        since.min_by_key(|retired| retired.0).map_or(&self.current, |retired| &retired.1)
    }

    /// Whether the keys of this epoch are known for certain.
    fn is_known(&self, epoch: u64) -> bool {
        epoch == self.group.update.epoch() || self.retired.iter().any(|retired| retired.0 == epoch)
    }

    /// Decodes a datagram whose HMAC is right by the key of the epoch in it.
    ///
    /// # Errors
    /// The reason, as metrics name it.
    pub(super) fn decode(&self, bytes: &[u8], way: Way) -> Result<Received, &'static str> {
        let epoch = epoch_named(bytes).ok_or("form")?;
        Datagram::decode(bytes, self.group.id, self.keys(epoch), way).map_err(|dropped| match dropped {
            Dropped::Form => "form",
            Dropped::Group => OTHER_GROUP,
            Dropped::Forged if !self.is_known(epoch) => EPOCH,
            Dropped::Forged => "forged",
            Dropped::Signature => "signature",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use laneway_sys::state::StateDir;
    use laneway_trust::authority::Authority;
    use laneway_wire::datagram::Message;
    use laneway_wire::id::NodeId;

    #[test]
    fn a_datagram_of_an_epoch_before_a_departure_is_read_like_one_after_it() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let group = Authority::create(&state, "office", "first").unwrap();
        let here = Keyring::new(Arc::new(group));
        let way = Way { from: "10.0.0.8:7420".parse().unwrap(), to: "10.0.0.9:7420".parse().unwrap() };
        // A node that has the same key in another epoch, and an earlier key whose last epoch was 4.
        let read = |retired: Vec<(u64, Keys)>, epoch: u64, keys: &Keys| {
            let current = Keys::new(here.group.update.discovery_key());
            let keyring = Keyring { group: here.group.clone(), current, retired };
            let message = Message::Query { nonce: [1; 16] };
            let query = Datagram { group: here.group.id, epoch, sender: NodeId([2; 16]), message };
            keyring.decode(&query.encode(keys, way, None), way).map(drop)
        };
        let earlier = || Keys::new(&[4; 32]);
        assert_eq!(read(vec![], 3, &here.current), Ok(()));
        assert_eq!(read(vec![(4, earlier())], 5, &here.current), Ok(()));
        assert_eq!(read(vec![(4, earlier())], 3, &earlier()), Ok(()));
        assert_eq!(read(vec![(4, earlier())], 3, &here.current), Err("epoch"));
    }

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
            datagram.encode(keyring.keys(keyring.group.update.epoch()), way, None)
        };
        let old = say(&before, 0);
        // More rotations than retired keys are kept.
        for epoch in 1..=9 {
            authority.rotate().unwrap();
            let now = Keyring::new(Arc::new(Group::load(&state).unwrap().unwrap()));
            let outcome = |keyring: &Keyring, bytes: &[u8]| keyring.decode(bytes, way).map(drop);
            assert_eq!(outcome(&now, &old), if epoch < 9 { Ok(()) } else { Err("epoch") }, "{epoch}");
            let new = say(&now, epoch);
            assert_eq!((outcome(&now, &new), outcome(&before, &new)), (Ok(()), Err("epoch")));
            // The old key is not accepted for the new epoch.
            assert_eq!(outcome(&now, &say(&before, epoch)), Err("forged"));
        }
    }
}
