//! The running node's view of its group, shared by all its parts.
//!
//! Updates come from peers over links, or from the command line through the state directory. Each is verified, applied, and
//! then saved. A node never goes back to an older update.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::authority::Authority;
use super::clock;
use super::departures::{Departed, Departures, Noting};
use super::error::GroupError;
use super::files::{CA_KEY, GROUP};
use super::group::{self, Group};
use super::leaving::Resignation;
use super::removal;
use super::update::{GroupUpdate, SealedUpdate, UpdateError, Version};
use laneway_sys::blocking;
use laneway_sys::state::{Stamp, StateDir, Watch};
use laneway_wire::failure::with_causes;
use laneway_wire::id::NodeId;

/// Interval between two checks of the state directory, which the command line changes.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// The current group, and notice of its changes.
#[derive(Debug)]
pub struct Membership {
    group: watch::Sender<Arc<Group>>,
    known: Mutex<Known>,
    departures: Departures,
    /// When the authority last removed members that left.
    removed_at: Mutex<Option<Instant>>,
    /// The proof that the group has removed this machine, and whether it was saved.
    removal: watch::Sender<Option<Removal>>,
}

/// A revocation list that names this machine.
#[derive(Clone, Debug)]
struct Removal {
    crl: Arc<[u8]>,
    is_saved: bool,
}

/// What all updates seen say, including those that were not applied.
#[derive(Debug, Default)]
struct Known {
    revocations: BTreeSet<NodeId>,
    /// Two updates each lack a revocation of the other and have different discovery keys, so a removed member may know either.
    need_new_key: bool,
}

impl Known {
    /// Remembers what an update says besides the `current` one.
    fn learn(&mut self, current: &GroupUpdate, update: &GroupUpdate) {
        let adds = !update.revoked().is_subset(&self.revocations);
        let lacks = update.version() > current.version() && !self.revocations.is_subset(update.revoked());
        self.need_new_key |= (adds || lacks) && update.discovery_key() != current.discovery_key();
        self.revocations.extend(update.revoked());
    }
}

/// Minimum time between two updates because members left. Each is sent to every member, and holds the whole list of removed
/// ones.
const DEPARTURE_INTERVAL: Duration = Duration::from_secs(30);
/// How long the links of a member stay open after it has said that it leaves, so that it still hears that this is noted.
const LAST_WORDS: Duration = Duration::from_secs(5);

impl Membership {
    /// Starts with the group as it was loaded, for a command: it saves nothing.
    pub fn new(group: Group) -> Arc<Self> {
        Self::with(group, Departures::default())
    }

    /// Starts with the group as it was loaded, and the saved departures, for a node that runs.
    pub fn of_node(group: Group, state: &StateDir) -> Arc<Self> {
        let departures = Departures::load(state, &group);
        let removal = removal::saved(state, &group).map(|crl| Removal { crl: crl.into(), is_saved: true });
        let membership = Self::with(group, departures);
        membership.removal.send_replace(removal);
        membership
    }

    fn with(group: Group, departures: Departures) -> Arc<Self> {
        let known = Known { revocations: group.update.revoked().clone(), need_new_key: false };
        Arc::new(Self {
            group: watch::Sender::new(Arc::new(group)),
            known: Mutex::new(known),
            departures,
            removed_at: Mutex::default(),
            removal: watch::Sender::new(None),
        })
    }

    /// Whether the group has removed this machine: it has the update that says so, or the proof.
    pub fn is_removed(&self) -> bool {
        let group = self.group.borrow();
        group.update.revokes(group.node.id) || self.removal.borrow().is_some()
    }

    /// Takes a revocation list that a gateway has sent to show why it does not accept this node. Returns whether it proves that
    /// the group has removed this machine: that the authority has signed it.
    pub fn note_removal(&self, crl: &[u8]) -> bool {
        let is_proof = removal::is_proved_by(crl, &self.group());
        let is_new = is_proof && self.removal.borrow().is_none();
        if is_new {
            self.removal.send_replace(Some(Removal { crl: crl.into(), is_saved: false }));
        }
        is_proof
    }

    /// The current group.
    pub fn group(&self) -> Arc<Group> {
        self.group.borrow().clone()
    }

    /// The group, and its changes.
    pub fn changes(&self) -> watch::Receiver<Arc<Group>> {
        self.group.subscribe()
    }

    /// The version of the current update.
    pub fn version(&self) -> Version {
        self.group.borrow().update.version()
    }

    /// Whether this node is no longer a member: the authority has revoked it, or it has said that it leaves.
    pub fn revokes(&self, id: NodeId) -> bool {
        self.group.borrow().update.revokes(id) || self.departures.contains(id)
    }

    /// Waits until the authority has revoked this node, or until shortly after it has said that it leaves.
    pub async fn until_revoked(&self, id: NodeId) {
        let (mut changes, mut departures) = (self.changes(), self.departures());
        let revoked = async {
            if changes.wait_for(|group| group.update.revokes(id)).await.is_err() {
                std::future::pending().await
            }
        };
        let left = async {
            if departures.wait_for(|departed| departed.contains_key(&id)).await.is_err() {
                std::future::pending::<()>().await;
            }
            tokio::time::sleep(LAST_WORDS).await;
        };
        tokio::select! {
            () = revoked => {}
            () = left => {}
        }
    }

    /// The members that have said that they leave, and the changes.
    pub fn departures(&self) -> watch::Receiver<Arc<Departed>> {
        self.departures.subscribe()
    }

    /// Notes resignations, each of which the member itself must have signed. From then on none of their links is
    /// accepted. Blocks while it writes the state directory.
    pub fn note_departures(&self, resignations: Vec<Resignation>) -> Noting {
        self.departures.note(resignations, &self.group())
    }

    /// Forgets the departures of members that the authority has removed.
    fn forget_departures(&self, update: &GroupUpdate) {
        self.departures.forget(|id| update.revokes(id));
    }

    /// Removes the members that have left, as the authority.
    fn remove_departed(&self, authority: &Authority) -> Result<(), GroupError> {
        let left: Vec<NodeId> = self.departures().borrow().keys().copied().collect();
        let mut removed_at = self.removed_at.lock().unwrap_or_else(PoisonError::into_inner);
        let is_early = removed_at.is_some_and(|at| at.elapsed() < DEPARTURE_INTERVAL);
        if left.is_empty() || is_early {
            return Ok(());
        }
        if let Some(update) = authority.remove_departed(&left)? {
            *removed_at = Some(Instant::now());
            tracing::info!(count = left.len(), "members that left are removed");
            // Cannot fail: this machine has just signed it.
            let _ = self.apply(update.sealed());
        }
        self.forget_departures(&self.group().update);
        Ok(())
    }

    /// Applies an update if the authority signed it and it is newer than the current one. An older one changes nothing.
    ///
    /// # Errors
    /// [`UpdateError`], unless it is the current update or one that the authority signed.
    pub fn apply(&self, sealed: &SealedUpdate) -> Result<(), UpdateError> {
        let group = self.group();
        if sealed.version() == group.update.version() {
            return Ok(());
        }
        let update = sealed.clone().open(&group.ca_key)?;
        let epoch = update.epoch();
        // Held until the update is in force: `need_new_key` is about what is known besides it.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        known.learn(&self.group().update, &update);
        let changed = self.group.send_if_modified(|group| {
            let newer = update.version() > group.update.version();
            if newer {
                *group = Arc::new(group.with_update(update, clock::now()));
            }
            newer
        });
        drop(known);
        if changed {
            self.forget_departures(&self.group().update);
            let own = group.node.id;
            let removed = self.group().update.revoked().difference(group.update.revoked()).count();
            tracing::info!(removed, "group update applied");
            tracing::debug!(epoch, "group state");
            if self.group().update.revokes(own) && !group.update.revokes(own) {
                tracing::error!(
                    "this machine was removed from the group: no member accepts its links any more"
                );
            }
        }
        Ok(())
    }

    /// Keeps the membership and the state directory synchronised: saves updates from peers, and applies those of the command
    /// line. `authority` follows `ca.key` in that directory. While this machine holds it, it removes members that have left, and
    /// signs a new update when another machine with the key missed a revocation. Never returns.
    pub async fn follow(self: Arc<Self>, state: StateDir, authority: watch::Sender<Option<Authority>>) {
        let (mut changes, mut removal) = (self.changes(), self.removal.subscribe());
        let mut ticks = tokio::time::interval(POLL_INTERVAL);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen =
            Seen { key: state.stamp(CA_KEY).filter(|_| authority.borrow().is_some()), group: None };
        let (mut warned, mut watch) = (false, Watch::new(state.clone()));
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                changed = removal.changed() => if changed.is_err() { return },
                _ = ticks.tick() => {
                    if !watch.may_have_changed(Instant::now()) && !warned && !self.has_more_to_do() {
                        continue;
                    }
                }
            }
            changes.mark_unchanged();
            removal.mark_unchanged();
            let (membership, state, authority) = (self.clone(), state.clone(), authority.clone());
            let step = blocking::run_with_state(move || {
                let key = state.stamp(CA_KEY);
                let done = match key == seen.key {
                    _ if membership.is_removed() => {
                        let_go(&authority);
                        Ok(())
                    }
                    true => Ok(()),
                    false => hold(&authority, &state),
                };
                let held = authority.borrow().clone();
                let (group, synchronised) = membership.synchronise(&state, held.as_ref(), seen.group);
                (Seen { key, group }, done.and(synchronised))
            });
            match step.await {
                Ok((now, Ok(()))) => (seen, warned) = (now, false),
                Ok((_, Err(error))) if !warned => {
                    warned = true;
                    let reason = with_causes(&error);
                    tracing::warn!(
                        reason,
                        "the group update is in force, but not synchronised with the state directory"
                    );
                }
                Ok((_, Err(_))) | Err(_) => {}
            }
        }
    }

    /// Whether there is something to synchronise that shows in no file and no new update: members that have left, or
    /// revocations that only an older update had.
    fn has_more_to_do(&self) -> bool {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        !self.departures().borrow().is_empty()
            || !known.revocations.is_subset(self.group.borrow().update.revoked())
    }

    /// Synchronises once. `seen` is the file at the last time; returns the file now.
    fn synchronise(
        &self,
        state: &StateDir,
        authority: Option<&Authority>,
        seen: Option<Stamp>,
    ) -> (Option<Stamp>, Result<(), GroupError>) {
        let stamp = state.stamp(GROUP);
        let done = (|| {
            if stamp != seen
                && let Some(saved) = Group::load(state)?
                && self.apply(saved.update.sealed()).is_err()
            {
                tracing::error!("the state directory holds another group now: restart this node");
            }
            if let Some(authority) = authority {
                // What it signs must follow the update in force.
                group::save_update(state, &self.group())?;
                self.remove_departed(authority)?;
                let (known, need_new_key) = {
                    let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                    known.need_new_key &= !known.revocations.is_subset(self.group().update.revoked());
                    (known.revocations.clone(), known.need_new_key)
                };
                if let Some(update) = authority.merge_revocations(&known, need_new_key)? {
                    tracing::warn!(
                        "another machine with the group's key missed a removal: it is signed again"
                    );
                    // Cannot fail: this machine has just signed it.
                    let _ = self.apply(update.sealed());
                }
            }
            self.group.send_if_modified(|group| match group.without_expired_keys(clock::now()) {
                Some(changed) => {
                    *group = Arc::new(changed);
                    true
                }
                None => false,
            });
            group::save_update(state, &self.group())?;
            self.save_removal(state)?;
            self.departures.save()
        })();
        // A file that was just saved differs from `stamp`, so it is read once more and found unchanged.
        (stamp, done)
    }
}

impl Membership {
    fn save_removal(&self, state: &StateDir) -> Result<(), GroupError> {
        let removal = self.removal.borrow().clone();
        if let Some(Removal { crl, is_saved: false }) = removal {
            removal::save(state, &crl)?;
            self.removal.send_replace(Some(Removal { crl, is_saved: true }));
        }
        Ok(())
    }
}

/// The files of the state directory, as they were at the last synchronisation.
#[derive(Clone, Copy)]
struct Seen {
    key: Option<Stamp>,
    group: Option<Stamp>,
}

/// Gives up the authority on a machine that was removed: no member would accept what it signs.
fn let_go(authority: &watch::Sender<Option<Authority>>) {
    if authority.send_replace(None).is_some() {
        tracing::error!(
            "this machine was removed from the group: it admits and removes nobody any more, although it still holds the group's key"
        );
    }
}

/// Loads the authority again after `ca.key` was written or removed.
fn hold(authority: &watch::Sender<Option<Authority>>, state: &StateDir) -> Result<(), GroupError> {
    let now = Authority::load(state)?;
    let held = now.is_some();
    if authority.send_replace(now).is_some() != held {
        match held {
            true => tracing::info!("this machine holds the group's key now: it admits and removes members"),
            false => tracing::info!("this machine does not hold the group's key any more"),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Uses;
    use crate::authority::tests::new;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt as _;
    use tokio::time::timeout;

    const DEADLINE: Duration = Duration::from_secs(30);
    const LAPTOP: NodeId = NodeId([7; 16]);

    /// The authority's own machine and another member's, in one.
    struct Lab {
        _directory: tempfile::TempDir,
        state: StateDir,
        authority: Authority,
        membership: Arc<Membership>,
    }

    fn lab() -> Lab {
        let (directory, state, authority, group) = new();
        Lab { _directory: directory, state, authority, membership: Membership::new(group) }
    }

    impl Lab {
        fn saved(&self) -> Group {
            Group::load(&self.state).unwrap().unwrap()
        }
    }

    #[test]
    fn a_newer_update_applies_at_once_and_older_or_forged_ones_change_nothing() {
        let Lab { membership, authority, state, _directory } = lab();
        let start = membership.group();
        authority.revoke(&LAPTOP.to_string()).unwrap();
        let first = Group::load(&state).unwrap().unwrap().update;
        authority.rotate().unwrap();
        let second = Group::load(&state).unwrap().unwrap().update;

        membership.apply(second.sealed()).unwrap();
        assert!(membership.revokes(LAPTOP));
        assert_eq!((membership.version(), membership.group().update.epoch()), (second.version(), 2));
        let [retired] = membership.group().retired.clone().try_into().unwrap();
        assert_eq!((retired.epoch, retired.key()), (0, start.update.discovery_key()));

        let (_other_directory, _, other, _) = new();
        for _ in 0..3 {
            other.rotate().unwrap();
        }
        let foreign = Group::load(&other_state(&_other_directory)).unwrap().unwrap().update;
        assert_eq!(membership.apply(foreign.sealed()), Err(UpdateError::Forged));
        for old in [&start.update, &first] {
            membership.apply(old.sealed()).unwrap();
        }
        assert_eq!(membership.version(), second.version());
    }

    fn other_state(directory: &tempfile::TempDir) -> StateDir {
        StateDir::open(directory.path().join("state")).unwrap()
    }

    #[tokio::test]
    async fn waiting_for_a_revocation_ends_even_when_it_came_before() {
        let lab = lab();
        let waiting = tokio::spawn({
            let membership = lab.membership.clone();
            async move { membership.until_revoked(LAPTOP).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        lab.authority.revoke(&LAPTOP.to_string()).unwrap();
        lab.membership.apply(lab.saved().update.sealed()).unwrap();
        waiting.await.unwrap();
        lab.membership.until_revoked(LAPTOP).await;
    }

    #[tokio::test]
    async fn changes_of_the_command_line_are_applied_and_updates_of_peers_are_saved() {
        let lab = lab();
        let following =
            tokio::spawn(lab.membership.clone().follow(lab.state.clone(), watch::Sender::new(None)));
        let mut changes = lab.membership.changes();
        lab.authority.revoke(&LAPTOP.to_string()).unwrap();
        let heard = changes.wait_for(|group| group.update.revokes(LAPTOP));
        drop(timeout(DEADLINE, heard).await.expect("it reads the file").unwrap());
        following.abort();

        // Another member's machine, which gets the update over a link.
        let (_home, state) = empty();
        group::remember_membership(&state, &Group { retired: vec![], ..start(&lab) }).unwrap();
        let membership = Membership::new(Group::load(&state).unwrap().unwrap());
        let following = tokio::spawn(membership.clone().follow(state.clone(), watch::Sender::new(None)));
        membership.apply(lab.saved().update.sealed()).unwrap();
        let saved = async {
            while Group::load(&state).unwrap().unwrap().update != lab.saved().update {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, saved).await.expect("it saves the update");
        assert!(Group::load(&state).unwrap().unwrap().retired.len() == 1);
        following.abort();
    }

    fn empty() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        (directory, state)
    }

    /// The group in its first epoch.
    fn start(lab: &Lab) -> Group {
        let group = lab.membership.group();
        let update = GroupUpdate::sign(&lab.authority_key(), 0, [1; 32], BTreeSet::new()).unwrap();
        Group { update, ..Group::clone(&group) }
    }

    impl Lab {
        fn authority_key(&self) -> rcgen::KeyPair {
            let key = self.state.read("ca.key").unwrap().unwrap();
            rcgen::KeyPair::from_pem(std::str::from_utf8(&key).unwrap()).unwrap()
        }
    }

    #[test]
    fn an_update_that_cannot_be_saved_applies_all_the_same_and_is_saved_later() {
        let lab = lab();
        let (_home, state) = empty();
        group::remember_membership(&state, &start(&lab)).unwrap();
        let membership = Membership::new(Group::load(&state).unwrap().unwrap());
        lab.authority.revoke(&LAPTOP.to_string()).unwrap();
        membership.apply(lab.saved().update.sealed()).unwrap();
        // A directory in place of the file fails for every user that runs the test.
        let file = state.file("crl.pem");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(membership.synchronise(&state, None, None).1.is_err());
        assert!(membership.revokes(LAPTOP));
        assert_eq!(Group::load(&state).unwrap().unwrap().update.epoch(), 0);
        fs::remove_dir(&file).unwrap();
        membership.synchronise(&state, None, None).1.unwrap();
        assert_eq!(Group::load(&state).unwrap().unwrap().update.epoch(), 1);
        assert_eq!(fs::metadata(&file).unwrap().permissions(), Permissions::from_mode(0o100_600));
    }

    #[test]
    fn a_retired_key_is_valid_for_a_day_and_a_clock_that_is_set_back_does_not_extend_it() {
        let lab = lab();
        let group = lab.membership.group();
        lab.authority.rotate().unwrap();
        let (update, at) = (lab.saved().update, Duration::from_secs(2_000_000_000));
        let after = group.with_update(update, at);
        let day = Duration::from_secs(24 * 3600);
        assert!(after.without_expired_keys(at + day - Duration::from_secs(1)).is_none());
        assert!(after.without_expired_keys(at + day).unwrap().retired.is_empty());
        assert!(after.without_expired_keys(at - Duration::from_secs(1)).unwrap().retired.is_empty());
    }

    /// Another member, which can leave.
    fn leaver(lab: &Lab, name: &str) -> Group {
        let (_home, state) = empty();
        let name = crate::name::WantedName::Chosen(name.into());
        crate::authority::import(&state, &lab.authority.export().unwrap(), &name).unwrap().group
    }

    #[test]
    fn a_member_that_left_is_removed_by_the_authority_and_its_codes_stay_open() {
        let lab = lab();
        let name = crate::name::WantedName::Chosen("third".into());
        let leaver = leaver(&lab, "second");
        let open = lab.authority.invite(crate::certificate::Role::Client, Uses::Any, None, None).unwrap();

        let resignation = Resignation::sign(&leaver).unwrap();
        let note = || lab.membership.note_departures(vec![resignation.clone()]);
        assert_eq!((note(), note()), (Noting::Noted, Noting::Noted));
        assert_eq!(lab.membership.departures().borrow().len(), 1);
        lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
        assert!(lab.membership.revokes(leaver.node.id) && lab.saved().update.epoch() == 1);
        assert!(lab.membership.departures().borrow().is_empty());
        assert!(note() == Noting::Noted && lab.membership.departures().borrow().is_empty());
        lab.authority.admit(&open.invite, &crate::authority::tests::key(), &name).unwrap();

        let (_elsewhere, _, _, stranger) = new();
        let forged = Resignation::sign(&stranger).unwrap();
        assert_eq!(lab.membership.note_departures(vec![forged]), Noting::Forged);
    }

    #[tokio::test]
    async fn a_key_that_is_imported_beside_a_running_node_removes_those_who_left_without_a_restart() {
        let lab = lab();
        let leaver = leaver(&lab, "laptop");
        let (_home, state) = empty();
        group::remember_membership(&state, &lab.membership.group()).unwrap();
        let node = Membership::of_node(Group::load(&state).unwrap().unwrap(), &state);
        let (holder, mut held) = watch::channel(None);
        let following = tokio::spawn(node.clone().follow(state.clone(), holder));
        assert_eq!(node.note_departures(vec![Resignation::sign(&leaver).unwrap()]), Noting::Noted);
        let name = crate::name::WantedName::Chosen("spare".into());
        crate::authority::import(&state, &lab.authority.export().unwrap(), &name).unwrap();
        let mut changes = node.changes();
        let removed = changes.wait_for(|group| group.update.revokes(leaver.node.id));
        drop(timeout(DEADLINE, removed).await.expect("the node removes the member that left").unwrap());
        // The key was moved to another machine.
        fs::remove_file(state.file(CA_KEY)).unwrap();
        let gone = held.wait_for(Option::is_none);
        drop(timeout(DEADLINE, gone).await.expect("the node notices").unwrap());
        following.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_restart_forgets_no_departure_and_the_removal_ends_it() {
        let lab = lab();
        let leaver = leaver(&lab, "laptop");
        let id = leaver.node.id;
        // A gateway that does not hold the key.
        let (_home, state) = empty();
        group::remember_membership(&state, &lab.membership.group()).unwrap();
        let start = || Membership::of_node(Group::load(&state).unwrap().unwrap(), &state);
        let gateway = start();
        assert_eq!(gateway.note_departures(vec![Resignation::sign(&leaver).unwrap()]), Noting::Noted);
        let again = start();
        assert!(gateway.revokes(id) && again.revokes(id), "its old key is accepted");
        timeout(DEADLINE, again.until_revoked(id)).await.expect("its links are closed");

        // The authority hears of it from that gateway.
        let told: Vec<_> = again.departures().borrow().values().cloned().collect();
        lab.membership.note_departures(told);
        lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
        again.apply(lab.saved().update.sealed()).unwrap();
        again.synchronise(&state, None, None).1.unwrap();
        assert!(again.revokes(id) && again.departures().borrow().is_empty());
        assert!(state.read("departures.json").unwrap().is_none());
    }

    #[test]
    fn a_departure_that_cannot_be_saved_is_in_force_but_not_called_noted() {
        let lab = lab();
        let leaver = leaver(&lab, "laptop");
        let (_home, state) = empty();
        group::remember_membership(&state, &lab.membership.group()).unwrap();
        let membership = Membership::of_node(Group::load(&state).unwrap().unwrap(), &state);
        fs::create_dir(state.file("departures.json")).unwrap();
        let resignation = Resignation::sign(&leaver).unwrap();
        assert_eq!(membership.note_departures(vec![resignation.clone()]), Noting::Unsaved);
        assert!(membership.revokes(leaver.node.id));
        assert!(membership.synchronise(&state, None, None).1.is_err());
        fs::remove_dir(state.file("departures.json")).unwrap();
        membership.synchronise(&state, None, None).1.unwrap();
        assert_eq!(membership.note_departures(vec![resignation]), Noting::Noted);
    }

    #[test]
    fn a_member_that_left_may_join_again_under_its_name_before_it_is_removed() {
        let lab = lab();
        let name = crate::name::WantedName::Chosen("laptop".into());
        let (_home, state) = empty();
        let leaver = crate::authority::import(&state, &lab.authority.export().unwrap(), &name).unwrap().group;
        let back = Authority::load(&state).unwrap().unwrap().export().unwrap();
        crate::authority::import(&lab.state, &back, &name).unwrap();
        let membership = Membership::of_node(lab.saved(), &lab.state);
        let open = lab.authority.invite(crate::certificate::Role::Client, Uses::Any, None, None).unwrap();
        let join = || lab.authority.admit(&open.invite, &crate::authority::tests::key(), &name);
        assert!(join().is_err(), "the name is that of a member");
        assert_eq!(membership.note_departures(vec![Resignation::sign(&leaver).unwrap()]), Noting::Noted);
        assert_eq!(join().unwrap().0.membership.node_name, "laptop");
        assert!(join().is_err(), "the name is taken now");
    }

    #[test]
    fn the_word_of_an_earlier_membership_does_not_remove_the_machine_that_joined_again() {
        let lab = lab();
        let old = leaver(&lab, "laptop");
        let word = Resignation::sign(&old).unwrap();
        lab.membership.note_departures(vec![word.clone()]);
        lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
        let new = leaver(&lab, "laptop");
        assert_eq!(lab.membership.note_departures(vec![word]), Noting::Noted);
        assert!(lab.membership.revokes(old.node.id) && !lab.membership.revokes(new.node.id));
        assert!(lab.membership.departures().borrow().is_empty());
    }

    #[test]
    fn members_that_join_and_leave_in_turn_replace_no_discovery_key() {
        let lab = lab();
        let start = lab.membership.group();
        for number in 0..10 {
            let leaver = leaver(&lab, &format!("m{number}"));
            lab.membership.note_departures(vec![Resignation::sign(&leaver).unwrap()]);
            *lab.membership.removed_at.lock().unwrap() = None;
            lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
            assert!(lab.membership.group().update.revokes(leaver.node.id));
        }
        let group = lab.membership.group();
        assert_eq!((group.update.epoch(), group.retired.len()), (10, 0));
        assert_eq!(group.update.discovery_key(), start.update.discovery_key());
        lab.authority.revoke(&LAPTOP.to_string()).unwrap();
        let after = lab.saved();
        assert_ne!(after.update.discovery_key(), start.update.discovery_key());
        assert_eq!(after.retired[0].key(), start.update.discovery_key());
    }

    #[test]
    fn two_authorities_that_heard_of_different_departures_keep_the_discovery_key() {
        let lab = lab();
        let start = lab.membership.group();
        let key = *start.update.discovery_key();
        let sign = |epoch, key, who: [u8; 16]| {
            GroupUpdate::sign(&lab.authority_key(), epoch, key, BTreeSet::from([NodeId(who)])).unwrap()
        };
        for number in [1, 2] {
            lab.membership.apply(sign(1, key, [number; 16]).sealed()).unwrap();
        }
        lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
        let merged = lab.membership.group();
        assert_eq!((merged.update.epoch(), merged.update.revoked().len()), (2, 2));
        assert_eq!(merged.update.discovery_key(), &key);
        // A member that another authority revoked knows the key in force, so the key is replaced.
        lab.membership.apply(sign(1, [9; 32], [3; 16]).sealed()).unwrap();
        lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
        let merged = lab.membership.group();
        assert_eq!((merged.update.epoch(), merged.update.revoked().len()), (3, 3));
        assert_ne!(merged.update.discovery_key(), &key);
    }

    /// It went on to admit machines that no other member accepts.
    #[tokio::test]
    async fn an_authority_that_was_removed_signs_nothing_once_that_is_proved_and_not_before() {
        let lab = lab();
        let own = lab.membership.group().node.id;
        let node = Membership::of_node(lab.saved(), &lab.state);
        let (holder, mut held) = watch::channel(Authority::load(&lab.state).unwrap());
        let following = tokio::spawn(node.clone().follow(lab.state.clone(), holder));
        let sign = |key: &rcgen::KeyPair, who| {
            let update = GroupUpdate::sign(key, 7, [5; 32], BTreeSet::from([who])).unwrap();
            update.crl().to_vec()
        };
        let stranger = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).unwrap();
        let (key, mut damaged) = (lab.authority_key(), sign(&lab.authority_key(), own));
        *damaged.last_mut().unwrap() ^= 1;
        for crl in [sign(&stranger, own), sign(&key, LAPTOP), damaged, Vec::new(), vec![0x30; 100]] {
            assert!(!node.note_removal(&crl) && !node.is_removed());
        }
        assert!(held.borrow().is_some());
        assert!(node.note_removal(&sign(&key, own)) && node.is_removed());
        let gone = held.wait_for(Option::is_none);
        drop(timeout(DEADLINE, gone).await.expect("it lets the key go").unwrap());
        let saved = async {
            while lab.state.read("removal.crl").unwrap().is_none() {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, saved).await.expect("it saves the proof");
        following.abort();
        // A restart does not forget it, and another membership has nothing to do with it.
        assert!(Membership::of_node(lab.saved(), &lab.state).is_removed());
        let another = leaver(&lab, "another");
        assert!(!Membership::of_node(another, &lab.state).is_removed());
    }

    #[test]
    fn an_authority_signs_again_when_another_one_missed_a_revocation() {
        let lab = lab();
        let (mine, theirs) = (LAPTOP, NodeId([8; 16]));
        // Both signed epoch 1 without knowing of each other.
        let other = GroupUpdate::sign(&lab.authority_key(), 1, [2; 32], BTreeSet::from([theirs])).unwrap();
        lab.authority.revoke(&mine.to_string()).unwrap();
        lab.membership.apply(lab.saved().update.sealed()).unwrap();
        lab.membership.apply(other.sealed()).unwrap();
        lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
        let update = lab.saved().update;
        assert_eq!((update.epoch(), update.revokes(mine), update.revokes(theirs)), (2, true, true));
        assert_eq!(lab.membership.version(), update.version());
        lab.membership.synchronise(&lab.state, Some(&lab.authority), None).1.unwrap();
        assert_eq!(lab.saved().update.epoch(), 2, "it signed once only");
    }
}
