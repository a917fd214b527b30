//! The members that have said that they leave, until the authority has removed them. A running node keeps them in its state
//! directory, so that a restart forgets none.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::watch;

use super::error::GroupError;
use super::files::{DEPARTURES, read_json, write_json};
use super::group::Group;
use super::leaving::Resignation;
use laneway_sys::state::StateDir;
use laneway_wire::failure::with_causes;
use laneway_wire::id::NodeId;

/// The members that have said that they leave, with what they signed.
pub type Departed = BTreeMap<NodeId, Resignation>;

/// Maximum number of departures that wait for the authority. Only members can sign one, and each only its own. With at most
/// 600 bytes each, the file stays below 1 MB.
const MAX_DEPARTURES: usize = 1024;

/// The outcome of resignations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Noting {
    /// They are in force here, and a restart does not forget them.
    Noted,
    /// One has no room, or the file cannot be written. Those with room are in force until this node restarts.
    Unsaved,
    /// One was not signed by the member itself. Nothing has changed.
    Forged,
}

/// The departures that this node knows.
#[derive(Debug, Default)]
pub(super) struct Departures {
    all: watch::Sender<Arc<Departed>>,
    file: Mutex<File>,
}

/// Where departures are saved, and what is saved there.
#[derive(Debug, Default)]
struct File {
    /// `None` for a command, whose process ends soon.
    state: Option<StateDir>,
    saved: Arc<Departed>,
}

/// The members that have said that they leave, as a running node has saved it.
pub fn saved(state: &StateDir, group: &Group) -> BTreeSet<NodeId> {
    let all: Vec<Resignation> = read_json(state, DEPARTURES).ok().flatten().unwrap_or_default();
    let all = all.into_iter().take(MAX_DEPARTURES);
    all.filter_map(|resignation| resignation.verify(group.id, &group.ca_key)).collect()
}

impl Departures {
    /// Those that were saved and still concern this group. A file that cannot be used is logged and ignored: it must not keep
    /// the node from starting.
    pub(super) fn load(state: &StateDir, group: &Group) -> Self {
        let all: Vec<Resignation> = match read_json(state, DEPARTURES) {
            Ok(all) => all.unwrap_or_default(),
            Err(error) => {
                let reason = with_causes(&error);
                tracing::warn!(reason, "the members that said that they leave are forgotten");
                Vec::new()
            }
        };
        let verified = all.into_iter().take(MAX_DEPARTURES).filter_map(|resignation| {
            let id = resignation.verify(group.id, &group.ca_key)?;
            (!group.update.revokes(id)).then_some((id, resignation))
        });
        let all: Arc<Departed> = Arc::new(verified.collect());
        let file = File { state: Some(state.clone()), saved: all.clone() };
        Self { all: watch::Sender::new(all), file: Mutex::new(file) }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Arc<Departed>> {
        self.all.subscribe()
    }

    pub(super) fn contains(&self, id: NodeId) -> bool {
        self.all.borrow().contains_key(&id)
    }

    /// Notes members that leave. They are saved first, so that whoever reacts to the change can rely on it.
    pub(super) fn note(&self, resignations: Vec<Resignation>, group: &Group) -> Noting {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let mut all = Departed::clone(&self.all.borrow());
        let (before, mut has_room) = (all.len(), true);
        for resignation in resignations {
            let is_known = |id| group.update.revokes(id) || all.contains_key(&id);
            if resignation.claimed().is_some_and(is_known) {
                continue;
            }
            let Some(id) = resignation.verify(group.id, &group.ca_key) else { return Noting::Forged };
            match all.len() < MAX_DEPARTURES {
                true => drop(all.insert(id, resignation)),
                false => has_room = false,
            }
        }
        let all = match all.len() > before {
            true => Arc::new(all),
            false => self.all.borrow().clone(),
        };
        let is_saved = file.save(&all).is_ok();
        if all.len() > before {
            self.all.send_replace(all);
        }
        if has_room && is_saved { Noting::Noted } else { Noting::Unsaved }
    }

    /// Forgets the members that the authority has removed. The file follows with [`Self::save`].
    pub(super) fn forget(&self, is_removed: impl Fn(NodeId) -> bool) {
        let _file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        self.all.send_if_modified(|all| {
            let any = all.keys().any(|id| is_removed(*id));
            if any {
                Arc::make_mut(all).retain(|id, _| !is_removed(*id));
            }
            any
        });
    }

    /// Saves the departures, unless they are saved already.
    pub(super) fn save(&self) -> Result<(), GroupError> {
        let mut file = self.file.lock().unwrap_or_else(PoisonError::into_inner);
        let all = self.all.borrow().clone();
        file.save(&all)
    }
}

impl File {
    fn save(&mut self, all: &Arc<Departed>) -> Result<(), GroupError> {
        let Some(state) = &self.state else { return Ok(()) };
        if self.saved == *all {
            return Ok(());
        }
        match all.is_empty() {
            true => state.remove(DEPARTURES)?,
            false => write_json(state, DEPARTURES, &all.values().collect::<Vec<_>>())?,
        }
        self.saved = all.clone();
        Ok(())
    }
}
