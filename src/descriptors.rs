//! How the descriptors that the system permits this process are shared: neither a member, nor strangers, nor silent apps may take
//! those of the state directory, the commands and the others.

/// Descriptors that always remain, however few there are.
const LEAST_RESERVE: u64 = 64;
/// The part that always remains: for the state directory, the links, the caches and this node's own apps.
const RESERVE_PART: u64 = 8;
/// The part of the rest that handshakes on one kind of port may take.
const HANDSHAKES_PART: u64 = 16;
/// With fewer nothing would work at all.
const LEAST: u64 = 8;

/// Of how many connections of one kind this node takes care at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Descriptors {
    /// Handshakes on the link port, as many on the ports of apps, and as many attempts to connect beside the first of each
    /// tunnel.
    pub handshakes: usize,
    /// Tunnels of all clients together.
    pub tunnels: u32,
}

impl Descriptors {
    /// Every bound is another one's.
    pub const UNLIMITED: Self = Self { handshakes: usize::MAX, tunnels: u32::MAX };

    /// Those of a process that may have this many descriptors; `None` if the system has no such limit.
    pub fn of(limit: Option<u64>) -> Self {
        let Some(limit) = limit else { return Self::UNLIMITED };
        let rest = limit.saturating_sub(reserve(limit));
        let handshakes = rest / HANDSHAKES_PART;
        Self {
            handshakes: usize::try_from(handshakes.max(LEAST)).unwrap_or(usize::MAX),
            tunnels: u32::try_from((rest - 3 * handshakes).max(LEAST)).unwrap_or(u32::MAX),
        }
    }
}

/// The first descriptor that is never for a member's tunnel, which may need more than one: for questions to name servers, and for
/// the file of a cached body.
pub fn first_reserved(limit: u64) -> u64 {
    limit - reserve(limit).min(limit / 4)
}

/// How many always remain.
fn reserve(limit: u64) -> u64 {
    LEAST_RESERVE.max(limit / RESERVE_PART)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_parts_together_leave_a_reserve() {
        for limit in (192..5000).chain([20_000, 524_288, 1 << 20]) {
            let Descriptors { handshakes, tunnels } = Descriptors::of(Some(limit));
            let left = limit - 3 * handshakes as u64 - u64::from(tunnels);
            assert!(left >= 64.max(limit / 8), "{limit}: {left}");
        }
        assert_eq!([64, 256, 20_000].map(first_reserved), [48, 192, 17_500]);
        let large = Descriptors::of(Some(20_000));
        assert_eq!(large, Descriptors { handshakes: 1093, tunnels: 14_221 });
        assert_eq!(Descriptors::of(Some(3)), Descriptors { handshakes: 8, tunnels: 8 });
        assert_eq!(Descriptors::of(None), Descriptors::UNLIMITED);
    }
}
