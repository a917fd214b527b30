//! The resources that a process uses.

use std::fs;
use std::time::Duration;

/// Open descriptors, resident memory and processor time of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Usage {
    pub(super) descriptors: usize,
    /// In KiB.
    pub(super) memory: usize,
    pub(super) processor: Duration,
}

impl Usage {
    /// The usage of the process with this id.
    ///
    /// # Panics
    /// When it has ended.
    pub(super) fn of(id: u32) -> Usage {
        let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        // After the name, which may hold spaces: utime and stime are the 12th and 13th (proc(5)), in ticks of 10 ms.
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace();
        let ticks: u64 = fields.skip(11).take(2).map(|ticks| ticks.parse::<u64>().unwrap()).sum();
        Usage {
            descriptors: fs::read_dir(format!("/proc/{id}/fd")).unwrap().count(),
            memory: memory.trim().trim_end_matches(" kB").parse().unwrap(),
            processor: Duration::from_millis(ticks * 10),
        }
    }
}
