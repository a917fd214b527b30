//! Files relative to an open directory. Nothing in the directory is followed: another user may own it, and root must not be
//! led out of it.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::{File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, fchown};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags, OFlag, openat, readlinkat, renameat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat, mkdirat};
use nix::unistd::{Uid, UnlinkatFlags, fsync, unlinkat};

use super::error::{StateError, io_error, quoted};

/// Maximum number of symbolic links in a path, as Linux has it.
const MAX_LINKS: usize = 40;

/// A directory that is only passed through. Search permission is enough for it.
#[cfg(any(target_os = "linux", target_os = "android"))]
const PASS: OFlag = OFlag::O_PATH.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const PASS: OFlag =
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_NOFOLLOW).union(OFlag::O_CLOEXEC);

/// How an existing file is opened: never through a link, and without waiting for the writer of a FIFO.
const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NOFOLLOW).union(OFlag::O_NONBLOCK).union(OFlag::O_CLOEXEC);

/// How a file is created: it must not exist, not even as a link.
const CREATE: OFlag = OFlag::O_WRONLY
    .union(OFlag::O_CREAT)
    .union(OFlag::O_EXCL)
    .union(OFlag::O_NOFOLLOW)
    .union(OFlag::O_CLOEXEC);

/// Identifies a version of a file without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(pub(super) u64, i64, i64);

/// An open directory.
pub(super) struct Directory {
    path: PathBuf,
    file: File,
    /// The user and group that own it, if this process is root and they are not.
    other_owner: Option<(u32, u32)>,
    /// Its permission bits.
    mode: u32,
}

impl Directory {
    /// Opens a directory. With `create`, what is missing of its path is created (mode 0700).
    pub(super) fn open(path: &Path, create: bool) -> Result<Self, StateError> {
        let here = walk(path, create).map_err(|error| match error {
            Errno::ENOTDIR => StateError::NotADirectory { path: path.to_owned() },
            Errno::ELOOP => StateError::Link { path: path.to_owned() },
            error => io_error(if create { "create" } else { "open" }, path)(error.into()),
        })?;
        let failed = || io_error("open", path);
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let opened = openat(&here, ".", flags, Mode::empty()).map_err(|error| failed()(error.into()))?;
        let file = File::from(opened);
        let metadata = file.metadata().map_err(failed())?;
        let is_other = Uid::effective().is_root() && metadata.uid() != 0;
        let other_owner = is_other.then(|| (metadata.uid(), metadata.gid()));
        Ok(Self { path: path.to_owned(), file, other_owner, mode: metadata.mode() & 0o777 })
    }

    /// Refuses a directory that group or others have access to.
    pub(super) fn refuse_if_open_to_others(&self) -> Result<(), StateError> {
        refuse_if_open(&self.path, self.mode, "700")
    }

    /// Opens an existing regular file to read or to lock it. `None` if it does not exist.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<File>, StateError> {
        let path = || self.path.join(name);
        let file = match openat(&self.file, name, READ, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(Errno::ENOENT) => return Ok(None),
            Err(Errno::ELOOP) => return Err(StateError::Link { path: path() }),
            Err(error) => return Err(io_error("open", &path())(error.into())),
        };
        let metadata = file.metadata().map_err(io_error("read", &path()))?;
        if !metadata.is_file() {
            return Err(StateError::NotAFile { path: path() });
        }
        // A hard link to a file of somebody else.
        if self.other_owner.is_some_and(|(user, _)| user != metadata.uid()) {
            return Err(StateError::OtherOwner { path: path(), directory: self.path.clone() });
        }
        Ok(Some(file))
    }

    /// Creates a file (mode 0600) that belongs to the directory's owner. `None` if it exists.
    pub(super) fn create(&self, name: &str) -> io::Result<Option<File>> {
        let file = match openat(&self.file, name, CREATE, Mode::S_IRUSR | Mode::S_IWUSR) {
            Ok(file) => File::from(file),
            Err(Errno::EEXIST) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        if let Some((user, group)) = self.other_owner {
            fchown(&file, Some(user), Some(group))?;
        }
        Ok(Some(file))
    }

    /// Replaces whatever has this name by a file with this content, atomically and durably.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (temporary, mut file) = loop {
            let temporary = format!(".new-{:016x}", RandomState::new().hash_one(name));
            if let Some(file) = self.create(&temporary)? {
                break (temporary, file);
            }
        };
        let written = file.write_all(bytes).and_then(|()| sync(&file));
        let renamed = written.and_then(|()| Ok(renameat(&self.file, temporary.as_str(), &self.file, name)?));
        if let Err(error) = renamed {
            let _ = unlinkat(&self.file, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            return Err(error);
        }
        // The rename is durable only after the directory is synced.
        sync(&self.file)
    }

    /// Removes a file or a link if it exists.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match unlinkat(&self.file, name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// The stamp of a file; `None` if it does not exist.
    pub(super) fn stamp(&self, name: &str) -> Option<Stamp> {
        let file = fstatat(&self.file, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        Some(Stamp(file.st_ino, file.st_mtime, file.st_mtime_nsec))
    }
}

/// Syncs a file or directory. On macOS that is `F_FULLFSYNC`, which network and foreign file systems do not have.
fn sync(file: &File) -> io::Result<()> {
    match file.sync_all() {
        Err(error)
            if cfg!(target_vendor = "apple") && error.raw_os_error() == Some(Errno::ENOTSUP as i32) =>
        {
            Ok(fsync(file)?)
        }
        synced => synced,
    }
}

/// Refuses a file that group or others have access to.
pub(super) fn refuse_if_open_to_others(path: &Path, file: &File) -> Result<(), StateError> {
    let mode = file.metadata().map_err(io_error("read", path))?.permissions().mode();
    refuse_if_open(path, mode, "600")
}

fn refuse_if_open(path: &Path, mode: u32, wanted: &str) -> Result<(), StateError> {
    let mode = mode & 0o777;
    if mode & 0o077 == 0 {
        return Ok(());
    }
    let fix = format!("chmod {wanted} {}", quoted(path));
    Err(StateError::TooOpen { path: path.to_owned(), access: format!("mode {mode:03o}"), fix })
}

/// Opening a FIFO waits for a writer, and a device may never end: neither may stop a node that reads its files again.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(path)?;
    let found = file.metadata()?;
    match found.is_file() {
        true => Ok(file),
        false if found.is_dir() => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a directory")),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Creates a file with mode 0600.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)
}

/// Opens the directory at `path`, one component after the other. A symbolic link in the path is followed only if no other
/// user can have made it.
///
/// # Errors
/// [`Errno::ENOTDIR`] when a component is not a directory, [`Errno::ELOOP`] for a link of another user, or the system's error.
fn walk(path: &Path, create: bool) -> nix::Result<OwnedFd> {
    let start =
        |path: &Path| openat(AT_FDCWD, if path.is_absolute() { "/" } else { "." }, PASS, Mode::empty());
    if path.as_os_str().is_empty() {
        return Err(Errno::ENOENT);
    }
    let mut here = start(path)?;
    let mut rest: VecDeque<OsString> = names(path).collect();
    let mut links = 0;
    while let Some(name) = rest.pop_front() {
        match openat(&here, name.as_os_str(), PASS, Mode::empty()) {
            Ok(next) => here = next,
            Err(Errno::ENOENT) if create => {
                match mkdirat(&here, name.as_os_str(), Mode::S_IRWXU) {
                    Ok(()) | Err(Errno::EEXIST) => {}
                    Err(error) => return Err(error),
                }
                here = openat(&here, name.as_os_str(), PASS, Mode::empty())?;
            }
            Err(Errno::ENOTDIR | Errno::ELOOP) => {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::ELOOP);
                }
                let target = PathBuf::from(target_of(&here, &name)?);
                if target.is_absolute() {
                    here = start(&target)?;
                }
                names(&target).rev().for_each(|name| rest.push_front(name));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(here)
}

/// The components of a path below its start.
fn names(path: &Path) -> impl DoubleEndedIterator<Item = OsString> {
    path.components().filter_map(|component| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        Component::RootDir | Component::CurDir | Component::Prefix(_) => None,
    })
}

/// The target of a link that only root or this user can have made.
fn target_of(here: &OwnedFd, name: &OsStr) -> nix::Result<OsString> {
    let link = fstatat(here, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    if kind(&link) != SFlag::S_IFLNK {
        return Err(Errno::ENOTDIR);
    }
    let directory = fstat(here)?;
    let is_own = |user: u32| user == 0 || user == Uid::effective().as_raw();
    let mode = Mode::from_bits_truncate(directory.st_mode);
    // In a sticky directory such as /tmp nobody can replace the link of another user.
    let anybody_writes = mode.contains(Mode::S_IWOTH) && !mode.contains(Mode::S_ISVTX);
    if !is_own(link.st_uid) || !is_own(directory.st_uid) || anybody_writes {
        return Err(Errno::ELOOP);
    }
    readlinkat(here, name)
}

fn kind(file: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(file.st_mode) & SFlag::S_IFMT
}
