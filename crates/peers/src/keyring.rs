//! The discovery keys that are valid now: the group's current one, and for a day the earlier ones, so that a node that missed
//! an update still finds a gateway that has it.

use std::sync::Arc;

use laneway_trust::group::Group;
use laneway_wire::datagram::{Datagram, Dropped, Keys, Received, Way, epoch_named};

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

    /// Decodes a datagram whose HMAC is right by the key of the epoch in it.
    ///
    /// # Errors
    /// The reason, as metrics name it.
    pub(super) fn decode(&self, bytes: &[u8], way: Way) -> Result<Received, &'static str> {
        let epoch = epoch_named(bytes).ok_or("form")?;
        let keys = self.keys(epoch).ok_or("epoch")?;
        Datagram::decode(bytes, self.group.id, keys, way).map_err(|dropped| match dropped {
            Dropped::Form => "form",
            Dropped::Group => "group",
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
    fn a_datagram_of_a_retired_epoch_is_read_and_one_of_a_forgotten_epoch_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let before = Keyring::new(Arc::new(Authority::create(&state, "office", "first").unwrap()));
        let authority = Authority::load(&state).unwrap().unwrap();
        let way = Way { from: "10.0.0.8:7420".parse().unwrap(), to: "10.0.0.9:7420".parse().unwrap() };
        let say = |keyring: &Keyring, epoch: u64| {
            let message = Message::Query { nonce: [1; 16] };
            let datagram = Datagram { group: keyring.group.id, epoch, sender: NodeId([2; 16]), message };
            datagram.encode(keyring.keys(keyring.group.update.epoch()).unwrap(), way, None)
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
