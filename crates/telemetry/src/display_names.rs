//! The names of other nodes, for display.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

use laneway_wire::id::NodeId;

/// Maximum number of names in the table.
const MAX_NAMES: usize = 4096;

/// Names by node id, as in the certificates of nodes with which this node has had a link, or as the others announce them.
/// The authority vouches for both.
#[derive(Debug, Default)]
pub struct DisplayNames(Mutex<HashMap<NodeId, String>>);

impl DisplayNames {
    /// Adds the name of a node.
    pub fn learn(&self, id: NodeId, name: &str) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.get(&id).is_some_and(|old| old == name) {
            return;
        }
        if known.len() >= MAX_NAMES {
            // The next links and announcements fill it again.
            known.clear();
        }
        known.insert(id, name.to_owned());
    }

    /// Adds the name that a node announces, which may be cut, unless its name is known.
    pub fn learn_announced(&self, id: NodeId, name: &str) {
        if self.known(id).is_none() {
            self.learn(id, name);
        }
    }

    /// The name of a node, if it is known.
    pub fn known(&self, id: NodeId) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }

    /// The name of a node, or the first digits of its id.
    pub fn of(&self, id: NodeId) -> String {
        self.known(id).unwrap_or_else(|| id.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_node_is_shown_by_its_id_and_the_table_is_bounded() {
        let names = DisplayNames::default();
        let id = |number: usize| {
            let mut id = [0; 16];
            id[..8].copy_from_slice(&number.to_be_bytes());
            NodeId(id)
        };
        assert_eq!(names.of(id(1)), id(1).short());
        for number in 0..=MAX_NAMES {
            names.learn(id(number), "mill-7");
        }
        assert_eq!(names.of(id(MAX_NAMES)), "mill-7");
        assert_eq!(names.0.lock().unwrap().len(), 1);
    }
}
