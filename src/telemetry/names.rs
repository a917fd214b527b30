//! What other nodes are called.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use crate::wire::id::NodeId;

/// How many names are known.
const MOST_NAMES: usize = 4096;

/// The names of nodes by their ids, as their certificates have them: of those that this node has, or had, a link with.
#[derive(Debug, Default)]
pub struct Names(Mutex<HashMap<NodeId, String>>);

impl Names {
    /// Notes what a node is called.
    pub fn learn(&self, id: NodeId, name: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&id).is_some_and(|old| old == name) {
            return;
        }
        if known.len() >= MOST_NAMES {
            // They are learnt again by the next link.
            known.clear();
        }
        known.insert(id, name.to_owned());
    }

    /// What a node is called, if that is known.
    pub fn known(&self, id: NodeId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// What to call a node: by its name, else by the first digits of its id.
    pub fn of(&self, id: NodeId) -> String {
        self.known(id).unwrap_or_else(|| id.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_not_known_by_name_is_called_by_id_and_the_table_is_bounded() {
        let names = Names::default();
        let id = |number: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId(id)
        };
        assert_eq!(names.of(id(1)), id(1).short());
        for number in 0..=MOST_NAMES {
            names.learn(id(number), "mill-7");
        }
        assert_eq!(names.of(id(MOST_NAMES)), "mill-7");
        assert_eq!(names.0.lock().unwrap().len(), 1);
    }
}
