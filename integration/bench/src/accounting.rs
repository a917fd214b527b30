//! What processes use, as the kernel counts it.

use anyhow::{Context, Result};
use nix::unistd::{SysconfVar, sysconf};
use std::collections::BTreeMap;
use std::fs;

/// A process and its descendants.
pub(crate) fn tree(root: u32) -> Vec<u32> {
    let mut children: BTreeMap<u32, Vec<u32>> = BTreeMap::new();
    for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Some(stat) = Stat::read(id) {
            children.entry(stat.parent).or_default().push(id);
        }
    }
    let mut found = vec![root];
    let mut next = 0;
    while next < found.len() {
        found.extend(children.get(&found[next]).into_iter().flatten());
        next += 1;
    }
    found
}

/// Processor seconds that these processes have used so far, with their ended threads and reaped children.
pub(crate) fn processor_seconds(processes: &[u32]) -> f64 {
    let ticks: u64 = processes.iter().filter_map(|&id| Stat::read(id)).map(|stat| stat.ticks).sum();
    let per_second = sysconf(SysconfVar::CLK_TCK).ok().flatten().unwrap_or(100);
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    let seconds = ticks as f64 / per_second as f64;
    seconds
}

/// The proportional set size of these processes, in KiB: their own memory, and their share of what is shared.
pub(crate) fn memory(processes: &[u32]) -> Result<f64> {
    let mut sum = 0.0;
    for id in processes {
        let rollup = fs::read_to_string(format!("/proc/{id}/smaps_rollup"))?;
        let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
        sum += line.trim().trim_end_matches(" kB").parse::<f64>()?;
    }
    Ok(sum)
}

struct Stat {
    parent: u32,
    ticks: u64,
}

impl Stat {
    /// proc_pid_stat(5): ppid is the second field after the name in parentheses, utime, stime, cutime and cstime the
    /// twelfth to the fifteenth.
    fn read(id: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
        let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
        let ticks = fields.get(11..15)?.iter().filter_map(|field| field.parse::<u64>().ok()).sum();
        Some(Self { parent: fields.get(1)?.parse().ok()?, ticks })
    }
}
