//! How names are resolved on a network of its own.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};

const NOTHING: Option<&str> = None;
const CONFIGURATION: &str = "/etc/resolv.conf";
/// Where programs outside wait for questions of the C library: nscd, systemd-resolved, avahi. They would answer from their
/// own network.
const ASKED: [&str; 4] = ["/run/nscd", "/var/run/nscd", "/run/systemd/resolve", "/run/avahi-daemon"];
/// Where the file is made, hidden meanwhile: an ordinary user has no other place that nobody else sees.
const WORKSHOP: &str = "/tmp";

pub(super) fn use_own_server() -> io::Result<()> {
    let file = fs::canonicalize(CONFIGURATION).ok();
    let content = configuration(&fs::read_to_string(CONFIGURATION).unwrap_or_default());
    let hidden: BTreeSet<PathBuf> = ASKED.iter().filter_map(|path| fs::canonicalize(path).ok()).collect();
    for directory in &hidden {
        empty(directory)?;
    }
    // Without the file, the C library asks 127.0.0.1 (resolv.conf(5)).
    let Some(file) = file else { return Ok(()) };
    if hidden.iter().any(|directory| file.starts_with(directory)) {
        file.parent().map_or(Ok(()), fs::create_dir_all)?;
        return fs::write(&file, content);
    }
    empty(Path::new(WORKSHOP))?;
    let made = Path::new(WORKSHOP).join("resolv.conf");
    let bound = fs::write(&made, content)
        .and_then(|()| Ok(mount(Some(&made), &file, NOTHING, MsFlags::MS_BIND, NOTHING)?));
    // The mounted file remains.
    umount2(WORKSHOP, MntFlags::MNT_DETACH)?;
    bound
}

/// Hides what is in a directory.
fn empty(directory: &Path) -> io::Result<()> {
    let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    Ok(mount(Some("tmpfs"), directory, Some("tmpfs"), flags, Some("mode=755,size=64k"))?)
}

/// The configuration `before`, with another name server.
fn configuration(before: &str) -> String {
    let kept = before.lines().filter(|line| {
        let word = line.split_whitespace().next();
        word.is_some_and(|word| matches!(word, "search" | "domain" | "options"))
    });
    let kept: String = kept.map(|line| format!("{line}\n")).collect();
    format!("nameserver 127.0.0.1\n{kept}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_domains_and_options_are_kept_and_name_servers_are_not() {
        let before =
            "# by hand\nnameserver 192.0.2.1\nsearch a.example b.example\n nameserver ::1\noptions edns0\n";
        let after = "nameserver 127.0.0.1\nsearch a.example b.example\noptions edns0\n";
        assert_eq!(configuration(before), after);
    }
}
