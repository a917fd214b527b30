//! The state directory: the few small files that must outlive the process.
//!
//! Only its owner has access, and its files are replaced atomically. Files that root writes into another user's
//! directory belong to that user, so that a service that does not run as root can read what `laneway invite` wrote as
//! root. That user must not lead root to other files, so nothing in the directory is followed.

mod error;
#[cfg(unix)]
mod unix;
mod watch;
#[cfg(windows)]
mod windows;

use std::fs::{File, TryLockError};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use self::error::io_error;
pub use self::error::{StateError, quoted};
#[cfg(unix)]
use self::unix as system;
pub use self::watch::Watch;
#[cfg(windows)]
use self::windows as system;
use crate::paths;

/// Identifies a version of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(system::Stamp);

/// Maximum size of a file in the state directory that is read, in bytes.
const MAX_FILE: u64 = 64 * 1024 * 1024;

/// The state directory. It existed and was private when it was opened.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
}

/// The lock that the command line and the daemon hold while they read, modify and write files.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct StateLock(#[expect(dead_code, reason = "closing it releases the lock")] File);

impl StateDir {
    /// Opens the directory; creates it, private, if it is missing.
    ///
    /// # Errors
    /// When it cannot be created, or when other users have access.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        system::Directory::open(&path, true)?.refuse_if_open_to_others()?;
        Ok(Self { path })
    }

    /// Opens the directory for a use that does not need it to exist: a missing one is not created, and counts as empty.
    ///
    /// # Errors
    /// When it cannot be opened, or when other users have access.
    pub fn existing(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let directory = Self { path: path.into() };
        if let Some(opened) = directory.if_it_exists()? {
            opened.refuse_if_open_to_others()?;
        }
        Ok(directory)
    }

    /// The default state directory ([`paths::state`]).
    ///
    /// # Errors
    /// When a user has no home directory.
    pub fn default_path() -> Result<PathBuf, StateError> {
        paths::state().ok_or(StateError::NoHome)
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The option that a command needs for this directory, with a space before it; empty for the default one.
    pub fn option(&self) -> String {
        match Self::default_path() {
            Ok(default) if default == self.path => String::new(),
            _ => format!(" --state {}", quoted(&self.path)),
        }
    }

    /// The path of a file in the directory.
    pub fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// The content of a file, or `None` if it does not exist.
    ///
    /// # Errors
    /// When it cannot be read, or when a file that may contain a secret (any but `*.pem`) is accessible to other users.
    pub fn read(&self, name: &str) -> Result<Option<Vec<u8>>, StateError> {
        let path = self.file(name);
        let Some(directory) = self.if_it_exists()? else { return Ok(None) };
        let Some(file) = directory.open_file(name)? else { return Ok(None) };
        if path.extension().is_none_or(|extension| extension != "pem") {
            system::refuse_if_open_to_others(&path, &file)?;
        }
        let mut bytes = Vec::new();
        let read = file.take(MAX_FILE + 1).read_to_end(&mut bytes).map_err(io_error("read", &path))?;
        match u64::try_from(read) {
            Ok(read) if read <= MAX_FILE => Ok(Some(bytes)),
            _ => Err(io_error("read", &path)(io::ErrorKind::FileTooLarge.into())),
        }
    }

    /// A stamp that differs for each version of a file, because files are replaced and never modified. `None` if the
    /// file does not exist.
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        self.if_it_exists().ok()??.stamp(name).map(Stamp)
    }

    /// Replaces a file (mode 0600) atomically: a crash leaves either the old or the new content.
    ///
    /// # Errors
    /// When the disk is full or read-only; the old file is then unchanged.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        system::Directory::open(&self.path, false)?
            .replace(name, bytes)
            .map_err(io_error("write", &self.file(name)))
    }

    /// Removes a file if it exists.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        match self.if_it_exists()? {
            Some(directory) => directory.remove(name).map_err(io_error("remove", &self.file(name))),
            None => Ok(()),
        }
    }

    /// Removes the directory if there is nothing in it but the file of the lock. One that cannot be removed, such as a mount
    /// point, stays.
    ///
    /// # Errors
    /// When it cannot be locked or read, or the file cannot be removed.
    pub fn remove_if_empty(&self) -> Result<(), StateError> {
        let lock = self.lock()?;
        let read = || std::fs::read_dir(&self.path)?.collect::<io::Result<Vec<_>>>();
        let entries = read().map_err(io_error("read", &self.path))?;
        if entries.iter().all(|entry| entry.file_name() == LOCK) {
            self.remove(LOCK)?;
            drop(lock);
            let _ = std::fs::remove_dir(&self.path);
        }
        Ok(())
    }

    /// Waits for the lock. Not reentrant: locking it again while holding it deadlocks.
    ///
    /// # Errors
    /// When the lock file cannot be created or locked.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let file = self.open_or_create(LOCK)?;
        file.lock().map_err(io_error("lock", &self.file(LOCK)))?;
        Ok(StateLock(file))
    }

    /// Locks the file `name`, which is created if it is missing; `None` while another process holds that lock.
    ///
    /// # Errors
    /// When the file cannot be created or locked.
    pub fn try_lock(&self, name: &str) -> Result<Option<StateLock>, StateError> {
        let file = self.open_or_create(name)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(StateLock(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(io_error("lock", &self.file(name))(error)),
        }
    }

    fn open_or_create(&self, name: &str) -> Result<File, StateError> {
        let path = self.file(name);
        let directory = system::Directory::open(&self.path, false)?;
        let mut attempts = 0;
        loop {
            attempts += 1;
            match directory.open_file(name) {
                Ok(Some(file)) => return Ok(file),
                Ok(None) => {
                    let created = directory.create(name).map_err(io_error("create", &path))?;
                    if let Some(file) = created {
                        return Ok(file);
                    }
                }
                // Another process of root has just created it, and gives it to the directory's owner next.
                Err(StateError::OtherOwner { .. }) if attempts < OWNER_ATTEMPTS => {
                    std::thread::sleep(OWNER_INTERVAL);
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// The directory, or `None` when it was moved away.
    fn if_it_exists(&self) -> Result<Option<system::Directory>, StateError> {
        match system::Directory::open(&self.path, false) {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            opened => opened.map(Some),
        }
    }
}

/// The file that is locked.
const LOCK: &str = "lock";
/// How often a lock file that belongs to root is checked again, until it must belong to the directory's owner.
const OWNER_ATTEMPTS: u32 = 50;
/// The time between two checks.
const OWNER_INTERVAL: Duration = Duration::from_millis(10);

/// Reads a file that contains a secret, in any directory.
///
/// # Errors
/// When it cannot be read, or when it is accessible to other users.
pub fn read_private(path: &Path) -> Result<Vec<u8>, StateError> {
    let mut file = system::open_regular(path).map_err(io_error("open", path))?;
    system::refuse_if_open_to_others(path, &file)?;
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(bytes)
}

/// Why a file that contains a secret is no secret on this machine: other users have access to it.
pub fn exposed(path: &Path) -> Option<StateError> {
    let file = system::open_regular(path).ok()?;
    let refused = system::refuse_if_open_to_others(path, &file).err();
    refused.filter(|error| matches!(error, StateError::TooOpen { .. }))
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`], [`io::ErrorKind::InvalidInput`] for anything but a regular file, otherwise the
/// operating system's error.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    system::open_regular(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Creates a file that only its owner can read and write.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when there is one, otherwise the operating system's error.
pub fn create_private(path: &Path) -> io::Result<File> {
    system::create_private(path)
}

#[cfg(test)]
#[cfg(unix)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::sync::atomic::{AtomicU32, Ordering};

    use nix::unistd::Uid;

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn the_directory_and_its_files_are_private_from_the_start() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("a/b")).unwrap();
        state.write("node.key", b"secret").unwrap();
        state.write("ca.pem", b"public").unwrap();
        assert_eq!(mode(state.path()), 0o700);
        assert_eq!(mode(&state.file("node.key")), 0o600);
        assert_eq!(mode(&state.file("ca.pem")), 0o600);
        assert_eq!(state.read("node.key").unwrap().as_deref(), Some(&b"secret"[..]));
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 2, "no temporary file is left");
    }

    #[test]
    fn what_root_writes_into_a_users_directory_is_that_users() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: only root writes for others");
            return;
        }
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o700)).unwrap();
        std::os::unix::fs::chown(parent.path(), Some(4711), Some(4712)).unwrap();
        let state = StateDir::open(parent.path()).unwrap();
        let _lock = state.lock().unwrap();
        state.write("invites.json", b"[]").unwrap();
        for name in ["lock", "invites.json"] {
            let file = fs::metadata(state.file(name)).unwrap();
            assert_eq!((file.uid(), file.gid()), (4711, 4712), "{name}");
        }
    }

    /// Every file that a state directory may contain.
    const NAMES: [&str; 21] = [
        "lock",
        "ca.key",
        "ca.pem",
        "node.key",
        "node.pem",
        "join.key",
        "group.json",
        "crl.pem",
        "members.json",
        "invites.json",
        "gateways.json",
        "boot",
        "running",
        "proxies",
        "maintenance",
        "leaving",
        "asked",
        "asker",
        "exported",
        "imported",
        "seen.json",
    ];

    /// A file outside of the state directory that another user leads root to, by a link of each kind.
    struct Victim {
        parent: tempfile::TempDir,
        state: StateDir,
    }

    impl Victim {
        fn new() -> Self {
            let parent = tempfile::tempdir().unwrap();
            let state = StateDir::open(parent.path().join("state")).unwrap();
            fs::write(parent.path().join("victim"), b"precious").unwrap();
            fs::set_permissions(parent.path().join("victim"), Permissions::from_mode(0o600)).unwrap();
            if Uid::effective().is_root() {
                std::os::unix::fs::chown(state.path(), Some(4711), Some(4712)).unwrap();
            }
            Self { parent, state }
        }

        fn file(&self) -> PathBuf {
            self.parent.path().join("victim")
        }

        fn assert_untouched(&self, name: &str) {
            let file = fs::metadata(self.file()).unwrap();
            assert_eq!(fs::read(self.file()).unwrap(), b"precious", "{name}");
            assert_eq!((file.uid(), mode(&self.file())), (Uid::effective().as_raw(), 0o600), "{name}");
        }
    }

    #[test]
    fn a_symbolic_link_in_a_state_directory_is_never_followed() {
        for name in NAMES {
            let victim = Victim::new();
            let link = victim.state.file(name);
            std::os::unix::fs::symlink(victim.file(), &link).unwrap();
            let error = victim.state.read(name).unwrap_err();
            assert!(matches!(&error, StateError::Link { path } if *path == link), "{name}: {error:?}");
            assert!(error.hint().is_some());
            if name == LOCK {
                let error = victim.state.lock().unwrap_err();
                assert!(matches!(&error, StateError::Link { path } if *path == link), "{error:?}");
            }
            victim.assert_untouched(name);
            let target = fs::metadata(victim.file()).unwrap().ino();
            assert_ne!(victim.state.stamp(name).map(|stamp| stamp.0.0), Some(target), "{name}");
            // The link is replaced, and what it named stays.
            victim.state.write(name, b"new").unwrap();
            assert!(!fs::symlink_metadata(&link).unwrap().is_symlink(), "{name}");
            assert_eq!(victim.state.read(name).unwrap().as_deref(), Some(&b"new"[..]), "{name}");
            victim.assert_untouched(name);
            fs::remove_file(&link).unwrap();
            std::os::unix::fs::symlink(victim.file(), &link).unwrap();
            victim.state.remove(name).unwrap();
            victim.assert_untouched(name);
        }
    }

    #[test]
    fn a_lock_that_is_a_link_to_nothing_creates_nothing() {
        let victim = Victim::new();
        let nothing = victim.parent.path().join("nothing");
        std::os::unix::fs::symlink(&nothing, victim.state.file(LOCK)).unwrap();
        assert!(matches!(victim.state.lock(), Err(StateError::Link { .. })));
        assert!(!nothing.exists());
    }

    #[test]
    fn a_hard_link_in_a_users_directory_leads_root_to_no_file_of_another_user() {
        if !Uid::effective().is_root() {
            eprintln!("skipped: only root may use the directory of another user");
            return;
        }
        for name in NAMES {
            let victim = Victim::new();
            fs::hard_link(victim.file(), victim.state.file(name)).unwrap();
            let error = victim.state.read(name).unwrap_err();
            assert!(matches!(&error, StateError::OtherOwner { .. }), "{name}: {error:?}");
            assert!(error.hint().unwrap().contains("sudo -u"), "{error}");
            if name == LOCK {
                assert!(matches!(victim.state.lock(), Err(StateError::OtherOwner { .. })));
            }
            victim.assert_untouched(name);
            victim.state.write(name, b"new").unwrap();
            victim.assert_untouched(name);
            assert_eq!(fs::metadata(victim.state.file(name)).unwrap().uid(), 4711, "{name}");
        }
    }

    #[test]
    fn a_directory_or_a_fifo_in_the_place_of_a_file_is_refused_and_nothing_waits_for_it() {
        for name in NAMES {
            let victim = Victim::new();
            let path = victim.state.file(name);
            fs::create_dir(&path).unwrap();
            assert!(matches!(victim.state.read(name), Err(StateError::NotAFile { .. })), "{name}");
            assert!(victim.state.write(name, b"x").is_err() && path.is_dir(), "{name}");
            fs::remove_dir(&path).unwrap();
            nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRUSR).unwrap();
            assert!(matches!(victim.state.read(name), Err(StateError::NotAFile { .. })), "{name}");
        }
        let victim = Victim::new();
        nix::unistd::mkfifo(&victim.state.file(LOCK), nix::sys::stat::Mode::S_IRUSR).unwrap();
        assert!(matches!(victim.state.lock(), Err(StateError::NotAFile { .. })));
    }

    #[test]
    fn root_follows_no_link_of_another_user_to_a_state_directory() {
        let parent = tempfile::tempdir().unwrap();
        let (real, link) = (parent.path().join("real"), parent.path().join("link"));
        StateDir::open(&real).unwrap().write("group.json", b"{}").unwrap();
        std::os::unix::fs::symlink("real", &link).unwrap();
        // A link of this user is fine, also in the middle of the path.
        assert!(StateDir::open(&link).unwrap().read("group.json").unwrap().is_some());
        StateDir::open(link.join("inner/most")).unwrap().write("x", b"").unwrap();
        assert!(real.join("inner/most/x").exists());
        if !Uid::effective().is_root() {
            eprintln!("skipped: only root can make a link of another user");
            return;
        }
        std::os::unix::fs::lchown(&link, Some(4711), Some(4711)).unwrap();
        for path in [link.clone(), link.join("inner/most"), link.join("new")] {
            let error = StateDir::open(&path).unwrap_err();
            assert!(matches!(error, StateError::Link { .. }), "{error:?}");
        }
        assert!(!real.join("new").exists());
        // In a directory that belongs to another user, even root's own link may have been moved there by that user.
        std::os::unix::fs::lchown(&link, Some(0), Some(0)).unwrap();
        std::os::unix::fs::chown(parent.path(), Some(4711), Some(4711)).unwrap();
        assert!(matches!(StateDir::open(&link), Err(StateError::Link { .. })));
    }

    #[test]
    fn an_empty_path_is_not_the_working_directory() {
        assert!(matches!(StateDir::open(""), Err(StateError::Io { .. })));
    }

    #[test]
    fn links_that_form_a_circle_are_refused() {
        let parent = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("circle", parent.path().join("circle")).unwrap();
        assert!(matches!(StateDir::open(parent.path().join("circle/x")), Err(StateError::Link { .. })));
    }

    #[test]
    fn a_write_that_fails_leaves_no_file_behind() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("state")).unwrap();
        fs::create_dir(state.file("group.json")).unwrap();
        state.write("group.json", b"x").unwrap_err();
        assert_eq!(fs::read_dir(state.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_missing_file_is_none() {
        let parent = tempfile::tempdir().unwrap();
        assert_eq!(StateDir::open(parent.path().join("state")).unwrap().read("group.json").unwrap(), None);
    }

    #[test]
    fn a_directory_open_to_others_is_refused_with_the_command_that_helps() {
        let parent = tempfile::tempdir().unwrap();
        fs::set_permissions(parent.path(), Permissions::from_mode(0o750)).unwrap();
        let error = StateDir::open(parent.path()).unwrap_err();
        assert!(error.to_string().ends_with("(mode 750)"), "{error}");
        assert_eq!(error.hint().unwrap(), format!("chmod 700 {}", parent.path().display()));
    }

    #[test]
    fn a_key_open_to_others_is_refused_and_a_certificate_is_not() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("state")).unwrap();
        for name in ["node.key", "node.pem"] {
            state.write(name, b"x").unwrap();
            fs::set_permissions(state.file(name), Permissions::from_mode(0o644)).unwrap();
        }
        let hint = state.read("node.key").unwrap_err().hint();
        assert_eq!(hint.unwrap(), format!("chmod 600 {}", state.file("node.key").display()));
        assert!(state.read("node.pem").unwrap().is_some());
    }

    #[test]
    fn a_hint_can_be_pasted_into_a_shell() {
        assert_eq!(quoted(Path::new("/var/lib/laneway")), "/var/lib/laneway");
        assert_eq!(quoted(Path::new("/home/a b/it's")), r"'/home/a b/it'\''s'");
    }

    #[test]
    fn a_file_in_the_way_is_named() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("file");
        fs::write(&path, b"").unwrap();
        assert!(matches!(StateDir::open(path), Err(StateError::NotADirectory { .. })));
    }

    #[test]
    fn the_lock_excludes_others_in_the_same_process() {
        let parent = tempfile::tempdir().unwrap();
        let state = StateDir::open(parent.path().join("state")).unwrap();
        let inside = AtomicU32::new(0);
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    let _lock = state.lock().unwrap();
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    inside.fetch_sub(1, Ordering::SeqCst);
                });
            }
        });
    }
}
