use std::path::Path;

use super::processor_time::ProcessorTime;

pub(super) fn memory() -> Option<u64> {
    allowed(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

pub(super) fn fastest_interface() -> Option<u32> {
    let interfaces = std::fs::read_dir("/sys/class/net").ok()?;
    let speed = |entry: std::fs::DirEntry| std::fs::read_to_string(entry.path().join("speed")).ok();
    let speeds = interfaces.flatten().filter_map(speed);
    speeds.filter_map(|text| text.trim().parse().ok()).filter(|speed| *speed > 0).max()
}

pub(super) fn processor_time() -> Option<ProcessorTime> {
    read_times(&std::fs::read_to_string("/proc/stat").ok()?)
}

/// Parses the first line of `/proc/stat` (proc(5)): user, nice, system, idle, iowait, irq, softirq, steal.
fn read_times(stat: &str) -> Option<ProcessorTime> {
    let ticks = stat.lines().next()?.strip_prefix("cpu ")?.split_whitespace().take(8);
    let ticks: Vec<u64> = ticks.map(str::parse).collect::<Result<_, _>>().ok()?;
    let idle = ticks.get(3)?.saturating_add(*ticks.get(4)?);
    let all = ticks.iter().fold(0, |all: u64, ticks| all.saturating_add(*ticks));
    Some(ProcessorTime { busy: all.saturating_sub(idle), all })
}

/// The memory of the machine or the smallest limit of the control groups, where the file systems of the kernel are.
fn allowed(proc: &Path, groups: &Path) -> Option<u64> {
    let machine = std::fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| total(&text));
    let group = std::fs::read_to_string(proc.join("self/cgroup")).ok();
    let group = group.and_then(|text| group_limit(&text, groups));
    [machine, group].into_iter().flatten().min()
}

/// `MemTotal` of /proc/meminfo, in bytes.
fn total(meminfo: &str) -> Option<u64> {
    let line = meminfo.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// The smallest limit of the control groups that /proc/self/cgroup names: of version 2, or of the memory controller
/// of version 1, and of every group above.
fn group_limit(cgroup: &str, root: &Path) -> Option<u64> {
    let limits = cgroup.lines().filter_map(|line| {
        let (hierarchy, path) = line.split_once(':')?.1.split_once(':')?;
        let (root, file) = match hierarchy {
            "" => (root.to_owned(), "memory.max"),
            controllers if controllers.split(',').any(|name| name == "memory") => {
                (root.join("memory"), "memory.limit_in_bytes")
            }
            _ => return None,
        };
        let group = root.join(path.trim_start_matches('/'));
        let above = group.ancestors().take_while(|group| group.starts_with(&root));
        let limit = |group: &Path| std::fs::read_to_string(group.join(file)).ok()?.trim().parse().ok();
        above.filter_map(limit).min()
    });
    limits.min()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_memory_is_read() {
        assert_eq!(total("MemFree: 1 kB\nMemTotal:       24576 kB\n"), Some(24576 * 1024));
        assert_eq!(total("nonsense"), None);
    }

    #[test]
    fn memory_is_what_the_process_may_use() {
        let root = tempfile::tempdir().unwrap();
        let (proc, groups) = (root.path().join("proc"), root.path().join("groups"));
        let write = |path: std::path::PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(allowed(&proc, &groups), None, "nothing is known");
        write(proc.join("meminfo"), "MemTotal: 4096 kB\n");
        assert_eq!(allowed(&proc, &groups), Some(4096 * 1024));
        write(proc.join("self/cgroup"), "0::/a\n");
        write(groups.join("a/memory.max"), "max\n");
        assert_eq!(allowed(&proc, &groups), Some(4096 * 1024), "the group has no limit");
        write(groups.join("a/memory.max"), "8000\n");
        assert_eq!(allowed(&proc, &groups), Some(8000), "the limit of the group is smaller");
        write(groups.join("a/memory.max"), "80000000\n");
        assert_eq!(allowed(&proc, &groups), Some(4096 * 1024), "the machine is smaller");
        // The machine that runs this reports its memory.
        let reported = total(&std::fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        assert!(memory().unwrap() <= reported);
    }

    #[test]
    fn the_smallest_limit_of_the_control_groups_counts() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let file = root.path().join(path);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        };
        write("a/memory.max", "1000\n");
        write("a/b/memory.max", "max\n");
        write("memory/c/memory.limit_in_bytes", "500\n");
        assert_eq!(group_limit("0::/a/b\n", root.path()), Some(1000));
        assert_eq!(group_limit("0::/\n", root.path()), None);
        assert_eq!(group_limit("5:cpu,memory:/c/d\n1:name=x:/\n0::/a\n", root.path()), Some(500));
        assert_eq!(group_limit("nonsense", root.path()), None);
    }

    #[test]
    fn processor_time_is_read_from_the_kernels_own_count() {
        let before = read_times("cpu  100 0 100 700 100 0 0 0 0 0\ncpu0 1 2\n").unwrap();
        let after = read_times("cpu  150 0 125 775 100 0 0 0 0 0\n").unwrap();
        assert_eq!(after.busy_since(before), 500);
        assert_eq!(before.busy_since(after), 0);
        for garbage in ["", "cpu", "cpu  1 2", "cpu  a b c d e", "intr 1 2 3 4 5"] {
            assert!(read_times(garbage).is_none());
        }
    }
}
