//! How much memory the machine has.

use std::path::Path;

/// The assumed memory of a machine that does not report it, in bytes.
const ASSUMED: u64 = 1 << 30;

/// A quarter of the memory that this process may use, in bytes: of the machine's, or of the smallest limit of its control
/// groups.
pub fn share_of_machine() -> u64 {
    share(Path::new("/proc"), Path::new("/sys/fs/cgroup"))
}

/// The same, where the file systems of the kernel are.
fn share(proc: &Path, groups: &Path) -> u64 {
    let machine = std::fs::read_to_string(proc.join("meminfo")).ok().and_then(|text| total(&text));
    let group = std::fs::read_to_string(proc.join("self/cgroup")).ok();
    let group = group.and_then(|text| group_limit(&text, groups));
    [machine, group].into_iter().flatten().min().unwrap_or(ASSUMED) / 4
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
    fn the_share_is_a_quarter_of_what_the_process_may_use() {
        let root = tempfile::tempdir().unwrap();
        let (proc, groups) = (root.path().join("proc"), root.path().join("groups"));
        let write = |path: std::path::PathBuf, text: &str| {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        assert_eq!(share(&proc, &groups), ASSUMED / 4, "nothing is known");
        write(proc.join("meminfo"), "MemTotal: 4096 kB\n");
        assert_eq!(share(&proc, &groups), 1024 * 1024);
        write(proc.join("self/cgroup"), "0::/a\n");
        write(groups.join("a/memory.max"), "max\n");
        assert_eq!(share(&proc, &groups), 1024 * 1024, "the group has no limit");
        write(groups.join("a/memory.max"), "8000\n");
        assert_eq!(share(&proc, &groups), 2000, "the limit of the group is smaller");
        write(groups.join("a/memory.max"), "80000000\n");
        assert_eq!(share(&proc, &groups), 1024 * 1024, "the machine is smaller");
        // The machine that runs this reports its memory.
        let reported = total(&std::fs::read_to_string("/proc/meminfo").unwrap()).unwrap();
        assert!(share_of_machine() <= reported / 4);
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
}
