//! How busy the processors are.

/// The busy time and the total time of all processors since the machine started, in the system's own unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ProcessorTime {
    /// The time in which they ran something.
    pub busy: u64,
    /// All of the time.
    pub all: u64,
}

impl ProcessorTime {
    /// The share of busy time since `before`, in permille.
    pub fn busy_since(self, before: Self) -> u16 {
        let all = self.all.saturating_sub(before.all).max(1);
        let busy = self.busy.saturating_sub(before.busy).min(all);
        u16::try_from(busy.saturating_mul(1000) / all).unwrap_or(1000)
    }
}
