//! The disks of the node: whether its state, its cache and its pieces can be written.

use std::fs;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use super::machine::RESTART;
use super::report::{Finding, Layer};
use crate::commands::ask;
use crate::gateway::options::CACHE;
use crate::problem::Problem;
use crate::sharing;
use crate::sys::files::{self, Space};
use crate::sys::state::quoted;
use crate::sys::{tools, users};
use crate::telemetry::report::{bytes, few};
use crate::telemetry::snapshot::{Snapshot, UnusedDirectory};

/// The free space, in bytes, and the number of files below which a disk counts as full: the state alone is rewritten in pieces of
/// some hundred kilobytes.
const MIN_FREE: u64 = 1 << 20;
const MIN_FILES: u64 = 16;
/// Maximum number of files whose owner is checked.
const MAX_FILES: usize = 256;
/// How long a disk may take to answer.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// What to do about one that does not.
const UNANSWERED: &str = "'mount' shows the disk or the file server, and 'dmesg' says what is wrong with it; one that was frozen, as for a \
     backup, goes on after 'fsfreeze --unfreeze MOUNTPOINT'. Then the node goes on by itself";

/// What depends on a directory.
struct StateFolder {
    directory: PathBuf,
    /// What it is called.
    what: &'static str,
    /// What happens where nothing can be written to it.
    effect: &'static str,
}

/// The directories of the node whose state is in `state`.
fn places(state: &Path) -> [StateFolder; 3] {
    [
        StateFolder {
            directory: state.to_owned(),
            what: "the state directory",
            effect: "members, removals and the gateways that were used are not remembered",
        },
        StateFolder {
            directory: state.join(CACHE),
            what: "the cache",
            effect: "no response is stored any more",
        },
        StateFolder {
            directory: state.join(sharing::DIRECTORY),
            what: "the store of downloads for other members",
            effect: "no download is kept for them any more",
        },
    ]
}

/// Checks the directories of the node whose state is in `state`, and who owns them. `running` is where the node listens that runs
/// with them.
pub(super) fn check(state: &Path, running: Option<&[SocketAddr]>) -> Vec<Finding> {
    let mut devices = Vec::new();
    let mut found = Vec::new();
    for place in &places(state) {
        let directory = place.directory.clone();
        let Some(space) = within(PATIENCE, move || files::space(&directory)) else {
            // Nothing else in it could be looked at.
            return vec![unanswered(place)];
        };
        // Where there is none, or the system does not tell, nothing can be said.
        let Ok(space) = space else { continue };
        if !devices.contains(&space.device) {
            devices.push(space.device);
            found.extend(of_space(place, &space));
        }
    }
    found.extend(of_owners(state, running));
    if let Some(space) = files::space(state).ok().filter(|_| found.is_empty()) {
        let what = format!("{} has {} free", quoted(state), bytes(space.free));
        found.push(Finding::ok(Layer::Storage, what));
    }
    found
}

/// The findings about disks that take nothing from the node that runs here, although they may be looked at, as when they are
/// frozen.
pub(super) fn of_node(seen: &Snapshot) -> Vec<Finding> {
    let [_, cache, peers] = places(Path::new(&seen.node.directory));
    let stores = [(cache, seen.cache_store), (peers, seen.peers.store)];
    let hung = stores.iter().filter(|(_, store)| store.is_some_and(|store| store.is_hung));
    let hung = hung.map(|(place, _)| unanswered(place));
    hung.chain(seen.unused.iter().map(|unused| of_unused(unused, Path::new(&seen.node.directory)))).collect()
}

/// The finding about a directory below `state` that the node that runs here cannot use.
fn of_unused(unused: &UnusedDirectory, state: &Path) -> Finding {
    let UnusedDirectory { what, directory, reason, until_restart } = unused;
    let effect = places(state).into_iter().find(|place| place.directory == state.join(what));
    let effect = effect.map_or("nothing is stored in it", |place| place.effect);
    let hint = match (remedy(&state.join(what), state), until_restart) {
        (Some(remedy), true) => format!("{remedy}; then {RESTART}"),
        (Some(remedy), false) => format!("{remedy}; then the node uses it again by itself"),
        (None, true) => RESTART.to_owned(),
        (None, false) => {
            "the next file shows whether it can be used again: the node tries with each".to_owned()
        }
    };
    Finding::wrong(Layer::Storage, format!("nothing can be stored in {directory}: {reason}"))
        .because(effect)
        .hint(hint)
}

/// The command that makes a directory usable for the owner of `state`, if its name, owner or mode are why it is not.
fn remedy(directory: &Path, state: &Path) -> Option<String> {
    let shown = quoted(directory);
    let about = match fs::symlink_metadata(directory) {
        Ok(about) => about,
        Err(error) => {
            return (error.kind() != io::ErrorKind::NotFound)
                .then(|| format!("'ls -ld {shown}' shows why: {error}"));
        }
    };
    if !about.is_dir() {
        return Some(format!("something else has its name: mv {shown} {shown}.old"));
    }
    let owner = users::owner_of(state)?;
    if users::owner_of(directory).is_some_and(|other| other != owner) {
        return Some(give(&shown, &users::name_of(owner)));
    }
    let tight = format!("chmod u=rwx,go= {shown}");
    if !files::is_for_owner_alone(directory).unwrap_or(true) {
        return Some(tight);
    }
    let space = files::space(directory).ok()?;
    let place = StateFolder { directory: directory.to_owned(), what: "it", effect: "" };
    of_space(&place, &space)?.hint
}

/// The finding about a disk that does not answer.
fn unanswered(place: &StateFolder) -> Finding {
    let StateFolder { directory, what, effect } = place;
    let what = format!("{what} is on a disk that does not answer: {}", quoted(directory));
    Finding::wrong(Layer::Storage, what).because(*effect).hint(UNANSWERED)
}

/// The problem of a state directory that does not answer.
pub(super) fn unanswered_state(directory: &Path) -> Problem {
    let within = PATIENCE.as_secs();
    let what = format!("the state directory {} does not answer within {within} s", quoted(directory));
    Problem::new(what).hint(UNANSWERED)
}

/// The result of `work`, which reads from a disk. `None` when it takes longer than `patience`; then a thread goes on waiting for
/// it.
pub(super) fn within<T: Send + 'static>(
    patience: Duration,
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    let (give, got) = mpsc::channel();
    std::thread::spawn(move || give.send(work()));
    got.recv_timeout(patience).ok()
}

/// The fault of a disk, if it has one.
fn of_space(place: &StateFolder, space: &Space) -> Option<Finding> {
    let StateFolder { directory, what, effect } = place;
    let shown = quoted(directory);
    let (fault, hint) = if space.is_read_only {
        let hint = format!(
            "'{}' shows the mount point, and 'mount -o remount,rw MOUNTPOINT' makes the disk writable; where the system itself made it \
             read-only, 'dmesg' says why",
            tools::space_of(&shown)
        );
        (format!("{what} is on a disk that is read-only: {shown}"), hint)
    } else if space.free < MIN_FREE {
        let hint = format!(
            "free some space: '{}' shows the disk, 'du -xsh {shown}' what is used here",
            tools::space_of(&shown)
        );
        (format!("the disk of {what} is full: {shown} has {} bytes free", space.free), hint)
    } else if let Some(files) = space.files.filter(|files| *files < MIN_FILES) {
        let hint = format!(
            "remove files that nobody needs, usually a directory with very many small ones: '{}' shows the disk, 'du --inodes -xd1 / | \
             sort -n' where they are",
            tools::files_of(&shown)
        );
        let count = if files == 1 { "1 more file".to_owned() } else { format!("{files} more files") };
        (format!("the disk of {what} has no inodes left: {shown} has room for {count}"), hint)
    } else {
        return None;
    };
    Some(Finding::wrong(Layer::Storage, fault).because(*effect).hint(hint))
}

/// The finding about a state directory that is not its node's, or with files that are not its owner's.
fn of_owners(state: &Path, running: Option<&[SocketAddr]>) -> Option<Finding> {
    let owner = users::owner_of(state)?;
    let shown = quoted(state);
    let node = running.into_iter().flatten().find_map(|proxy| users::who_listens(ask::reachable(*proxy)));
    let node = node.filter(|node| *node != owner && *node != ROOT);
    if let Some(node) = node {
        let (node, owner) = (users::name_of(node), users::name_of(owner));
        let what =
            format!("the node runs as the user {node}, and its state directory {shown} belongs to {owner}");
        return Some(
            Finding::wrong(Layer::Storage, what)
                .because("the node can neither read nor write its state any more")
                .hint(give(&shown, &node)),
        );
    }
    // Root uses the files of everybody.
    if owner == ROOT {
        return None;
    }
    // Nobody may write to it.
    if fs::metadata(state).is_ok_and(|about| about.permissions().readonly()) {
        let what = format!(
            "the state directory {shown} of the user {} has no permission to write",
            users::name_of(owner)
        );
        return Some(
            Finding::wrong(Layer::Storage, what)
                .because("the node can write nothing to its state, and cannot start again")
                .hint(format!("chmod u+w {shown}")),
        );
    }
    let entries = fs::read_dir(state).ok()?.flatten().take(MAX_FILES);
    let others = entries.filter(|entry| {
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        !is_link && users::owner_of(&entry.path()).is_some_and(|other| other != owner)
    });
    let mut others: Vec<_> =
        others.map(|entry| crate::failure::printable(&entry.file_name().to_string_lossy())).collect();
    others.sort();
    if others.is_empty() {
        return None;
    }
    let owner = users::name_of(owner);
    let verb = if others.len() == 1 { "does" } else { "do" };
    let what = format!(
        "in the state directory {shown} of the user {owner}, {} {verb} not belong to {owner}",
        few(&others)
    );
    Some(
        Finding::wrong(Layer::Storage, what)
            .because(format!("a node of the user {owner} cannot read what belongs to others"))
            .hint(give(&shown, &owner)),
    )
}

/// The command that makes a user the owner of what is in a directory. It follows no links, and leaves out files that have another
/// name elsewhere: anybody who may write to the directory could have put links to files of others there.
fn give(directory: &str, user: &str) -> String {
    format!(r"find {directory} -xdev ! -user {user} \( -type d -o -links 1 \) -exec chown -h {user} '{{}}' +")
}

/// The user id of root.
const ROOT: u32 = 0;

#[cfg(test)]
mod tests {
    use super::super::report::Verdict;
    use super::*;

    fn judged(space: Space) -> Option<Finding> {
        let place = StateFolder {
            directory: "/var/lib/laneway".into(),
            what: "the state directory",
            effect: "nothing is kept",
        };
        of_space(&place, &space)
    }

    #[test]
    fn a_disk_that_takes_nothing_more_is_named_with_its_command() {
        let fine = Space { device: 1, free: 1 << 30, files: Some(1000), is_read_only: false };
        assert_eq!(judged(fine), None);
        assert_eq!(judged(Space { files: None, ..fine }), None, "a file system without a table of inodes");
        for (space, words, command) in [
            (Space { free: 4096, ..fine }, "has 4096 bytes free", "'df -h /var/lib/laneway'"),
            (Space { files: Some(1), ..fine }, "has room for 1 more file", "'df -i /var/lib/laneway'"),
            (Space { is_read_only: true, free: 0, ..fine }, "read-only", "remount,rw"),
        ] {
            let finding = judged(space).unwrap();
            assert_eq!(finding.verdict, Verdict::Wrong);
            assert!(finding.what.contains(words) && finding.what.contains("/var/lib/laneway"), "{finding:?}");
            assert!(finding.hint.as_ref().unwrap().contains(command), "{finding:?}");
        }
    }

    #[test]
    fn files_of_another_user_than_the_directory_are_named_with_the_command_that_gives_them_back() {
        const OTHER: u32 = 4711;
        if users::own() != Some(ROOT) {
            eprintln!("skipped: only root gives files away");
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let chown = |path: &Path| std::os::unix::fs::chown(path, Some(OTHER), None).unwrap();
        for name in ["node.key", "ca.pem"] {
            fs::write(directory.path().join(name), "").unwrap();
        }
        assert_eq!(of_owners(directory.path(), None), None, "all of root");
        chown(directory.path());
        chown(&directory.path().join("ca.pem"));
        let finding = of_owners(directory.path(), None).unwrap();
        assert!(
            finding.what.contains("node.key does not belong to") && !finding.what.contains("ca.pem"),
            "{finding:?}"
        );
        // The command in the hint gives this file back, and no other one.
        let elsewhere = tempfile::NamedTempFile::new().unwrap();
        let foreign = [directory.path().join("hard"), directory.path().join("soft")];
        fs::hard_link(elsewhere.path(), &foreign[0]).unwrap();
        std::os::unix::fs::symlink(elsewhere.path(), &foreign[1]).unwrap();
        let hint = finding.hint.unwrap();
        assert!(std::process::Command::new("sh").args(["-c", &hint]).status().unwrap().success(), "{hint}");
        assert_eq!(users::owner_of(elsewhere.path()), Some(ROOT));
        foreign.iter().for_each(|path| fs::remove_file(path).unwrap());
        assert_eq!(of_owners(directory.path(), None), None);
        // Nor may its owner write to it always.
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
        fs::set_permissions(directory.path(), mode(0o500)).unwrap();
        let hint = of_owners(directory.path(), None).unwrap().hint.unwrap();
        assert!(std::process::Command::new("sh").args(["-c", &hint]).status().unwrap().success(), "{hint}");
        assert_eq!(of_owners(directory.path(), None), None, "{hint}");
    }

    /// The command waited without end.
    #[test]
    fn a_disk_that_does_not_answer_is_not_waited_for() {
        let (_open, gate) = mpsc::channel::<()>();
        assert!(within(Duration::from_millis(10), move || gate.recv()).is_none());
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
    }

    #[test]
    fn disks_that_take_nothing_from_the_node_are_named() {
        let mut seen = crate::telemetry::snapshot::example();
        seen.node.directory = "/var/lib/laneway".into();
        assert_eq!(of_node(&seen), []);
        let mut store = seen.cache_store.unwrap();
        store.is_hung = true;
        (seen.cache_store, seen.peers.store) = (Some(store), Some(store));
        let found = of_node(&seen);
        for (finding, directory) in found.iter().zip(["cache", "peer-cache"]) {
            assert_eq!((finding.verdict, finding.layer), (Verdict::Wrong, Layer::Storage));
            let end = format!("is on a disk that does not answer: /var/lib/laneway/{directory}");
            assert!(finding.what.ends_with(&end), "{finding:?}");
        }
        assert_eq!(found.len(), 2);
    }

    /// Only the log said so.
    #[test]
    fn a_directory_that_the_node_cannot_use_is_named_with_what_helps() {
        let state = tempfile::tempdir().unwrap();
        let directory = state.path().join(CACHE);
        let mut seen = crate::telemetry::snapshot::example();
        seen.node.directory = state.path().to_str().unwrap().into();
        let mut found = |until_restart: bool| {
            seen.unused = vec![UnusedDirectory {
                what: CACHE.into(),
                directory: quoted(&directory),
                reason: "the reason".into(),
                until_restart,
            }];
            of_node(&seen).pop().unwrap()
        };
        fs::write(&directory, "").unwrap();
        let finding = found(true);
        assert!(finding.what.ends_with("/cache: the reason"), "{finding:?}");
        assert_eq!(finding.why, ["no response is stored any more"]);
        let hint = finding.hint.unwrap();
        let mv = format!("mv {0} {0}.old; then {RESTART}", quoted(&directory));
        assert!(hint.ends_with(&mv), "{hint}");
        fs::remove_file(&directory).unwrap();
        fs::create_dir(&directory).unwrap();
        let mode = <fs::Permissions as std::os::unix::fs::PermissionsExt>::from_mode;
        fs::set_permissions(&directory, mode(0o755)).unwrap();
        let hint = found(false).hint.unwrap();
        assert!(hint.starts_with("chmod u=rwx,go= ") && hint.ends_with("by itself"), "{hint}");
        fs::set_permissions(&directory, mode(0o700)).unwrap();
        assert_eq!(found(true).hint.as_deref(), Some(RESTART));
        assert!(found(false).hint.unwrap().starts_with("the next file "));
    }

    #[test]
    fn a_directory_on_a_disk_with_room_is_well() {
        let directory = tempfile::tempdir().unwrap();
        let found = check(directory.path(), None);
        assert!(found.iter().all(|finding| finding.verdict == Verdict::Ok), "{found:?}");
    }
}
