//! Which candidates are active. Pure: no I/O, no clock; the same input gives the same answer on every node.

use crate::wire::id::NodeId;

/// How much stronger, in percent, a challenger must be than one that is active already. Capacities are
/// measured, so two equal machines differ by some percent at each start.
const HYSTERESIS: u64 = 30;

/// One candidate, as selection sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its id; the smaller one wins between equals.
    pub id: NodeId,
    /// Measured capacity in Mbit/s.
    pub capacity: u32,
    /// Declared weight in percent.
    pub weight: u16,
    /// It says that it is active now.
    pub incumbent: bool,
}

impl Candidate {
    fn strength(&self) -> u64 {
        let bonus = if self.incumbent { 100 + HYSTERESIS } else { 100 };
        u64::from(self.capacity) * u64::from(self.weight) * bonus
    }
}

/// The candidates in rank order, strongest first. The first `active` of them are to be active.
pub fn rank(mut candidates: Vec<Candidate>) -> Vec<NodeId> {
    candidates.sort_by_key(|candidate| (std::cmp::Reverse(candidate.strength()), candidate.id));
    candidates.into_iter().map(|candidate| candidate.id).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn candidate(id: u8, capacity: u32, incumbent: bool) -> Candidate {
        Candidate { id: NodeId([id; 16]), capacity, weight: 100, incumbent }
    }

    #[test]
    fn the_strongest_leads_and_equals_are_told_apart_by_id() {
        let ranked = rank(vec![candidate(3, 10, false), candidate(2, 90, false), candidate(1, 10, false)]);
        assert_eq!(ranked, [NodeId([2; 16]), NodeId([1; 16]), NodeId([3; 16])]);
    }

    #[test]
    fn a_slightly_stronger_challenger_does_not_unseat_the_incumbent() {
        assert_eq!(rank(vec![candidate(1, 120, false), candidate(2, 100, true)])[0], NodeId([2; 16]));
        assert_eq!(rank(vec![candidate(1, 140, false), candidate(2, 100, true)])[0], NodeId([1; 16]));
    }

    proptest! {
        #[test]
        fn every_node_ranks_alike_whatever_it_heard_first(
            seeds in proptest::collection::vec((any::<u8>(), any::<u32>(), any::<bool>()), 0..20),
            turn in 0_usize..20,
        ) {
            let mut candidates: Vec<_> = seeds.into_iter().map(|(id, c, i)| candidate(id, c, i)).collect();
            candidates.dedup_by_key(|candidate| candidate.id);
            let ranked = rank(candidates.clone());
            let middle = turn.min(candidates.len());
            candidates.rotate_left(middle);
            prop_assert_eq!(rank(candidates), ranked);
        }
    }
}
