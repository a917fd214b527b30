//! The state directory: the few small files that must outlive the process.
//!
//! Only its owner has access, and its files are replaced atomically. Files that root writes into another user's
//! directory belong to that user, so that a service that does not run as root can read what `laneway invite` wrote as
//! root.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{
    DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown,
};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use nix::unistd::Uid;

/// Why the state directory cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Other users of the machine have access.
    #[error("{} is open to other users (mode {mode:03o})", path.display())]
    TooOpen {
        /// The directory or file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
        /// The required bits, as an argument of `chmod`.
        wanted: &'static str,
    },
    /// The path is not a directory.
    #[error("{} is not a directory", path.display())]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// There is no home directory to keep it in.
    #[error("neither XDG_STATE_HOME nor HOME names an absolute path to keep state in")]
    NoHome,
    /// An operation failed.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// The operation.
        action: &'static str,
        /// The file or directory.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    /// A hint for the user on how to fix it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::TooOpen { path, wanted, .. } => Some(format!("chmod {wanted} {}", quoted(path))),
            Self::NotADirectory { .. } => Some("name another directory with --state DIR".into()),
            Self::NoHome => Some("name a directory with --state DIR".into()),
            Self::Io { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("run this as the directory's owner, or name another directory with --state DIR".into())
            }
            Self::Io { .. } => None,
        }
    }
}

/// The state directory. It exists and is private.
#[derive(Clone, Debug)]
pub struct StateDir {
    path: PathBuf,
    /// The user and group that own the directory, if root uses the directory of another user.
    owner: Option<(u32, u32)>,
}

/// Identifies a version of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp(u64, i64, i64);

/// The lock that the command line and the daemon hold while they read, modify and write files.
#[derive(Debug)]
#[must_use = "the lock is released when this is dropped"]
pub struct StateLock(#[expect(dead_code, reason = "held for its Drop")] Flock<File>);

impl StateDir {
    /// Opens the directory; creates it (mode 0700) if it is missing.
    ///
    /// # Errors
    /// When it cannot be created, or when group or others have access.
    pub fn open(path: impl Into<PathBuf>) -> Result<Self, StateError> {
        let path = path.into();
        let created = DirBuilder::new().recursive(true).mode(0o700).create(&path);
        let metadata = match (created, fs::metadata(&path)) {
            (_, Ok(metadata)) => metadata,
            (Err(source), _) | (Ok(()), Err(source)) => return Err(io_error("create", &path)(source)),
        };
        if !metadata.is_dir() {
            return Err(StateError::NotADirectory { path });
        }
        refuse_if_open(&path, metadata.permissions().mode(), "700")?;
        let others = Uid::effective().is_root() && metadata.uid() != 0;
        Ok(Self { path, owner: others.then(|| (metadata.uid(), metadata.gid())) })
    }

    /// The default state directory: `/var/lib/laneway` for root, otherwise `$XDG_STATE_HOME/laneway` or
    /// `~/.local/state/laneway`.
    ///
    /// # Errors
    /// When a user other than root has no home directory.
    pub fn default_path() -> Result<PathBuf, StateError> {
        default_path_for(Uid::effective().is_root(), |name| std::env::var_os(name).map(PathBuf::from))
    }

    /// The path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
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
        let secret = path.extension().is_none_or(|extension| extension != "pem");
        match read(&path, secret) {
            Err(StateError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(None),
            read => read.map(Some),
        }
    }

    /// A stamp that differs for each version of a file, because files are replaced and never modified. `None` if the
    /// file does not exist.
    pub fn stamp(&self, name: &str) -> Option<Stamp> {
        let file = fs::metadata(self.file(name)).ok()?;
        Some(Stamp(file.ino(), file.mtime(), file.mtime_nsec()))
    }

    /// Replaces a file (mode 0600) atomically: a crash leaves either the old or the new content.
    ///
    /// # Errors
    /// When the disk is full or read-only; the old file is then unchanged.
    pub fn write(&self, name: &str, bytes: &[u8]) -> Result<(), StateError> {
        let path = self.file(name);
        let failed = || io_error("write", &path);
        let mut file = tempfile::Builder::new()
            .prefix(".new-")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(&self.path)
            .map_err(failed())?;
        file.write_all(bytes).map_err(failed())?;
        self.set_owner(file.as_file()).map_err(failed())?;
        file.as_file().sync_all().map_err(failed())?;
        file.persist(&path).map_err(|error| failed()(error.error))?;
        // The rename is durable only after the directory is synced.
        File::open(&self.path).and_then(|directory| directory.sync_all()).map_err(failed())
    }

    /// Removes a file if it exists.
    ///
    /// # Errors
    /// When it cannot be removed.
    pub fn remove(&self, name: &str) -> Result<(), StateError> {
        let path = self.file(name);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(io_error("remove", &path)(error)),
            _ => Ok(()),
        }
    }

    /// Waits for the lock. Not reentrant: locking it again while holding it deadlocks.
    ///
    /// # Errors
    /// When the lock file cannot be created or locked.
    pub fn lock(&self) -> Result<StateLock, StateError> {
        let path = self.file("lock");
        let mut options = OpenOptions::new();
        options.write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(&path).map_err(io_error("open", &path))?;
        self.set_owner(&file).map_err(io_error("change the owner of", &path))?;
        Flock::lock(file, FlockArg::LockExclusive)
            .map(StateLock)
            .map_err(|(_, errno)| io_error("lock", &path)(errno.into()))
    }

    /// Makes the directory's owner the owner of a new file.
    fn set_owner(&self, file: &File) -> io::Result<()> {
        self.owner.map_or(Ok(()), |(user, group)| fchown(file, Some(user), Some(group)))
    }
}

/// Reads a file that contains a secret, in any directory.
///
/// # Errors
/// When it cannot be read, or when it is accessible to other users.
pub fn read_private(path: &Path) -> Result<Vec<u8>, StateError> {
    read(path, true)
}

fn read(path: &Path, secret: bool) -> Result<Vec<u8>, StateError> {
    let mut file = open_regular(path).map_err(io_error("open", path))?;
    if secret {
        let mode = file.metadata().map_err(io_error("read", path))?.permissions().mode();
        refuse_if_open(path, mode, "600")?;
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes).map_err(io_error("read", path))?;
    Ok(bytes)
}

/// The content of a regular file of at most `limit` bytes.
///
/// # Errors
/// [`io::ErrorKind::FileTooLarge`], [`io::ErrorKind::InvalidInput`] for anything but a regular file, otherwise the
/// operating system's error.
pub fn read_regular(path: &Path, limit: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    open_regular(path)?.take(limit + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > limit {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("it has more than {limit} bytes")));
    }
    Ok(bytes)
}

/// Opening a FIFO waits for a writer, and a device may never end: neither may stop a node that reads its files again.
fn open_regular(path: &Path) -> io::Result<File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
    }
    File::open(path)
}

/// Creates a file that only its owner can read and write.
///
/// # Errors
/// [`io::ErrorKind::AlreadyExists`] when there is one, otherwise the operating system's error.
pub fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// A path, quoted as one word of a shell command where necessary.
pub fn quoted(path: &Path) -> String {
    let path = path.display().to_string();
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@%,".contains(c);
    if path.chars().all(plain) { path } else { format!("'{}'", path.replace('\'', r"'\''")) }
}

fn refuse_if_open(path: &Path, mode: u32, wanted: &'static str) -> Result<(), StateError> {
    let mode = mode & 0o777;
    if mode & 0o077 != 0 {
        return Err(StateError::TooOpen { path: path.to_owned(), mode, wanted });
    }
    Ok(())
}

fn default_path_for(root: bool, env: impl Fn(&str) -> Option<PathBuf>) -> Result<PathBuf, StateError> {
    if root {
        return Ok(PathBuf::from("/var/lib/laneway"));
    }
    // The XDG Base Directory Specification says that relative paths are to be ignored.
    let absolute = |name| env(name).filter(|path| path.is_absolute());
    absolute("XDG_STATE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/state")))
        .map(|base| base.join("laneway"))
        .ok_or(StateError::NoHome)
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> StateError {
    let path = path.to_owned();
    move |source| StateError::Io { action, path, source }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

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

    #[test]
    fn the_default_follows_the_user_and_xdg() {
        let env = |state: &'static str, home: &'static str| {
            move |name: &str| Some(PathBuf::from(if name == "HOME" { home } else { state }))
        };
        assert_eq!(default_path_for(true, env("/s", "/h")).unwrap(), Path::new("/var/lib/laneway"));
        assert_eq!(default_path_for(false, env("/s", "/h")).unwrap(), Path::new("/s/laneway"));
        assert_eq!(default_path_for(false, env("s", "/h")).unwrap(), Path::new("/h/.local/state/laneway"));
        assert!(matches!(default_path_for(false, |_| None), Err(StateError::NoHome)));
    }
}
