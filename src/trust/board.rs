//! What this node knows of its group now, shared by all its parts.
//!
//! News come from a peer over a link, or from the command line through the state directory. They are verified, put in
//! force, and then saved. A node never goes back to older ones.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::MissedTickBehavior;

use super::authority::Authority;
use super::clock;
use super::group::{self, GROUP, Group, GroupError};
use super::news::{NewsError, Sealed, Version};
use super::state::{Stamp, StateDir};
use crate::wire::id::NodeId;

/// Between two looks at the state directory, which the command line changes.
const LOOK: Duration = Duration::from_secs(1);

/// The group as this node knows it.
#[derive(Debug)]
pub struct Board {
    group: watch::Sender<Arc<Group>>,
    /// Revocations that some news knew of.
    told: Mutex<BTreeSet<NodeId>>,
}

impl Board {
    /// With what this node knows at its start.
    pub fn new(group: Group) -> Arc<Self> {
        let told = Mutex::new(group.news.revoked().clone());
        Arc::new(Self { group: watch::Sender::new(Arc::new(group)), told })
    }

    /// The group now.
    pub fn group(&self) -> Arc<Group> {
        self.group.borrow().clone()
    }

    /// The group, and its changes.
    pub fn changes(&self) -> watch::Receiver<Arc<Group>> {
        self.group.subscribe()
    }

    /// Which news this node has.
    pub fn version(&self) -> Version {
        self.group.borrow().news.version()
    }

    /// Whether the authority has put this node out.
    pub fn revokes(&self, id: NodeId) -> bool {
        self.group.borrow().news.revokes(id)
    }

    /// Waits until the authority has put this node out.
    pub async fn until_revoked(&self, id: NodeId) {
        let mut changes = self.changes();
        if changes.wait_for(|group| group.news.revokes(id)).await.is_err() {
            std::future::pending().await
        }
    }

    /// Puts news in force that the authority signed and that are newer than what is known; others change nothing.
    ///
    /// # Errors
    /// [`NewsError`], when they are neither known nor the authority's.
    pub fn hear(&self, sealed: &Sealed) -> Result<(), NewsError> {
        let group = self.group();
        if sealed.version() == group.news.version() {
            return Ok(());
        }
        let news = sealed.clone().open(&group.ca_key)?;
        self.told.lock().unwrap_or_else(PoisonError::into_inner).extend(news.revoked());
        let epoch = news.epoch();
        let changed = self.group.send_if_modified(|group| {
            let newer = news.version() > group.news.version();
            if newer {
                *group = Arc::new(group.with_news(news, clock::now()));
            }
            newer
        });
        if changed {
            let own = group.node.id;
            tracing::info!(epoch, "the group's news");
            if self.revokes(own) && !group.news.revokes(own) {
                tracing::error!("this machine was removed from the group: nobody links with it any more");
            }
        }
        Ok(())
    }

    /// Keeps board and state directory in step, for ever: saves what was heard, and hears what the command line did.
    /// An `authority` signs anew when another machine that holds its key too did not know of a revocation.
    pub async fn follow(self: Arc<Self>, state: StateDir, authority: Option<Authority>) {
        let mut changes = self.changes();
        let mut ticks = tokio::time::interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut seen = None;
        let mut complained = false;
        loop {
            tokio::select! {
                changed = changes.changed() => if changed.is_err() { return },
                _ = ticks.tick() => {}
            }
            changes.mark_unchanged();
            let (board, state, authority) = (self.clone(), state.clone(), authority.clone());
            let step = tokio::task::spawn_blocking(move || board.step(&state, authority.as_ref(), seen));
            match step.await {
                Ok((stamp, Ok(()))) => (seen, complained) = (stamp, false),
                Ok((_, Err(error))) if !complained => {
                    complained = true;
                    let reason = format!("{:#}", anyhow::Error::new(error));
                    tracing::warn!(
                        reason,
                        "the group's news are in force, but not in step with the state directory"
                    );
                }
                Ok((_, Err(_))) | Err(_) => {}
            }
        }
    }

    /// One look; `seen` is the file as it was at the last one.
    fn step(
        &self,
        state: &StateDir,
        authority: Option<&Authority>,
        seen: Option<Stamp>,
    ) -> (Option<Stamp>, Result<(), GroupError>) {
        let stamp = state.stamp(GROUP);
        let done = (|| {
            if stamp != seen
                && let Some(saved) = Group::load(state)?
                && self.hear(saved.news.sealed()).is_err()
            {
                tracing::error!("the state directory holds another group now: restart this node");
            }
            if let Some(authority) = authority {
                let told = self.told.lock().unwrap_or_else(PoisonError::into_inner).clone();
                if let Some(news) = authority.make_up_for(&told)? {
                    tracing::warn!(
                        epoch = news.epoch(),
                        "signed again: another authority did not know of all revocations"
                    );
                    // Its own signature.
                    let _ = self.hear(news.sealed());
                }
            }
            self.group.send_if_modified(|group| match group.without_retired(clock::now()) {
                Some(changed) => {
                    *group = Arc::new(changed);
                    true
                }
                None => false,
            });
            group::save_news(state, &self.group())
        })();
        // What was saved just now is looked at once more, and found to be known.
        (stamp, done)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::tests::new;
    use crate::trust::news::News;
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
        board: Arc<Board>,
    }

    fn lab() -> Lab {
        let (directory, state, authority, group) = new();
        Lab { _directory: directory, state, authority, board: Board::new(group) }
    }

    impl Lab {
        fn saved(&self) -> Group {
            Group::load(&self.state).unwrap().unwrap()
        }
    }

    #[test]
    fn newer_news_are_in_force_at_once_and_older_or_forged_ones_change_nothing() {
        let Lab { board, authority, state, _directory } = lab();
        let start = board.group();
        authority.revoke(&LAPTOP.to_string()).unwrap();
        let first = Group::load(&state).unwrap().unwrap().news;
        authority.rotate().unwrap();
        let second = Group::load(&state).unwrap().unwrap().news;

        board.hear(second.sealed()).unwrap();
        assert!(board.revokes(LAPTOP));
        assert_eq!((board.version(), board.group().news.epoch()), (second.version(), 2));
        let [retired] = board.group().retired.clone().try_into().unwrap();
        assert_eq!((retired.epoch, retired.key()), (0, start.news.discovery_key()));

        let (_other_directory, _, other, _) = new();
        for _ in 0..3 {
            other.rotate().unwrap();
        }
        let foreign = Group::load(&other_state(&_other_directory)).unwrap().unwrap().news;
        assert_eq!(board.hear(foreign.sealed()), Err(NewsError::Forged));
        for old in [&start.news, &first] {
            board.hear(old.sealed()).unwrap();
        }
        assert_eq!(board.version(), second.version());
    }

    fn other_state(directory: &tempfile::TempDir) -> StateDir {
        StateDir::open(directory.path().join("state")).unwrap()
    }

    #[tokio::test]
    async fn who_waits_for_a_revocation_is_told_even_when_it_was_there_before() {
        let lab = lab();
        let waiting = tokio::spawn({
            let board = lab.board.clone();
            async move { board.until_revoked(LAPTOP).await }
        });
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        lab.authority.revoke(&LAPTOP.to_string()).unwrap();
        lab.board.hear(lab.saved().news.sealed()).unwrap();
        waiting.await.unwrap();
        lab.board.until_revoked(LAPTOP).await;
    }

    #[tokio::test]
    async fn what_the_command_line_changed_is_heard_and_what_was_heard_is_saved() {
        let lab = lab();
        let following = tokio::spawn(lab.board.clone().follow(lab.state.clone(), None));
        let mut changes = lab.board.changes();
        lab.authority.revoke(&LAPTOP.to_string()).unwrap();
        let heard = changes.wait_for(|group| group.news.revokes(LAPTOP));
        drop(timeout(DEADLINE, heard).await.expect("it looks at the file").unwrap());
        following.abort();

        // Another member's machine, where the news come from a link.
        let (_home, state) = empty();
        group::remember_membership(&state, &Group { retired: vec![], ..start(&lab) }).unwrap();
        let board = Board::new(Group::load(&state).unwrap().unwrap());
        let following = tokio::spawn(board.clone().follow(state.clone(), None));
        board.hear(lab.saved().news.sealed()).unwrap();
        let saved = async {
            while Group::load(&state).unwrap().unwrap().news != lab.saved().news {
                tokio::task::yield_now().await;
            }
        };
        timeout(DEADLINE, saved).await.expect("it saves what it hears");
        assert!(Group::load(&state).unwrap().unwrap().retired.len() == 1);
        following.abort();
    }

    fn empty() -> (tempfile::TempDir, StateDir) {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        (directory, state)
    }

    /// The group as it was made.
    fn start(lab: &Lab) -> Group {
        let group = lab.board.group();
        let news = News::sign(&lab.authority_key(), 0, [1; 32], BTreeSet::new()).unwrap();
        Group { news, ..Group::clone(&group) }
    }

    impl Lab {
        fn authority_key(&self) -> rcgen::KeyPair {
            let key = self.state.read("ca.key").unwrap().unwrap();
            rcgen::KeyPair::from_pem(std::str::from_utf8(&key).unwrap()).unwrap()
        }
    }

    #[test]
    fn news_that_cannot_be_saved_are_in_force_all_the_same_and_are_saved_later() {
        let lab = lab();
        let (_home, state) = empty();
        group::remember_membership(&state, &start(&lab)).unwrap();
        let board = Board::new(Group::load(&state).unwrap().unwrap());
        lab.authority.revoke(&LAPTOP.to_string()).unwrap();
        board.hear(lab.saved().news.sealed()).unwrap();
        // A directory is in the way of the file, whoever runs the test.
        let file = state.file("crl.pem");
        fs::remove_file(&file).unwrap();
        fs::create_dir(&file).unwrap();
        assert!(board.step(&state, None, None).1.is_err());
        assert!(board.revokes(LAPTOP));
        assert_eq!(Group::load(&state).unwrap().unwrap().news.epoch(), 0);
        fs::remove_dir(&file).unwrap();
        board.step(&state, None, None).1.unwrap();
        assert_eq!(Group::load(&state).unwrap().unwrap().news.epoch(), 1);
        assert_eq!(fs::metadata(&file).unwrap().permissions(), Permissions::from_mode(0o100_600));
    }

    #[test]
    fn a_retired_key_is_good_for_a_day_and_a_clock_that_is_set_back_does_not_make_it_longer() {
        let lab = lab();
        let group = lab.board.group();
        lab.authority.rotate().unwrap();
        let (news, at) = (lab.saved().news, Duration::from_secs(2_000_000_000));
        let after = group.with_news(news, at);
        let day = Duration::from_secs(24 * 3600);
        assert!(after.without_retired(at + day - Duration::from_secs(1)).is_none());
        assert!(after.without_retired(at + day).unwrap().retired.is_empty());
        assert!(after.without_retired(at - Duration::from_secs(1)).unwrap().retired.is_empty());
    }

    #[test]
    fn an_authority_signs_again_when_another_one_lost_a_revocation() {
        let lab = lab();
        let (mine, theirs) = (LAPTOP, NodeId([8; 16]));
        // Both signed epoch 1, and neither knows of the other.
        let other = News::sign(&lab.authority_key(), 1, [2; 32], BTreeSet::from([theirs])).unwrap();
        lab.authority.revoke(&mine.to_string()).unwrap();
        lab.board.hear(lab.saved().news.sealed()).unwrap();
        lab.board.hear(other.sealed()).unwrap();
        lab.board.step(&lab.state, Some(&lab.authority), None).1.unwrap();
        let news = lab.saved().news;
        assert_eq!((news.epoch(), news.revokes(mine), news.revokes(theirs)), (2, true, true));
        assert_eq!(lab.board.version(), news.version());
        lab.board.step(&lab.state, Some(&lab.authority), None).1.unwrap();
        assert_eq!(lab.saved().news.epoch(), 2, "it goes on and on");
    }
}
