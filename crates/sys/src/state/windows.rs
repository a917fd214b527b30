use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, Write as _};
use std::os::windows::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use windows_sys::Win32::Storage::FileSystem::{
    FILE_ATTRIBUTE_REPARSE_POINT, FILE_FLAG_BACKUP_SEMANTICS, FILE_FLAG_OPEN_REPARSE_POINT, FILE_SHARE_READ,
    FILE_SHARE_WRITE,
};

use super::error::{StateError, io_error, quoted};
use crate::security;

/// Identifies a version of a file without reading it: when it was made and written, and its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Stamp(u64, u64, u64);

/// An open directory. While it is open, nobody can rename it or put another one in its place.
pub(super) struct Directory {
    path: PathBuf,
    file: File,
}

impl Directory {
    /// Opens a directory that is not a link. With `create`, what is missing of its path is created, private.
    pub(super) fn open(path: &Path, create: bool) -> Result<Self, StateError> {
        if create {
            create_all(path).map_err(io_error("create", path))?;
        }
        let mut options = OpenOptions::new();
        options.read(true).share_mode(FILE_SHARE_READ | FILE_SHARE_WRITE);
        options.custom_flags(FILE_FLAG_BACKUP_SEMANTICS | FILE_FLAG_OPEN_REPARSE_POINT);
        let file = options.open(path).map_err(io_error("open", path))?;
        let metadata = file.metadata().map_err(io_error("open", path))?;
        if is_link(&metadata) {
            return Err(StateError::Link { path: path.to_owned() });
        }
        if !metadata.is_dir() {
            return Err(StateError::NotADirectory { path: path.to_owned() });
        }
        Ok(Self { path: path.to_owned(), file })
    }

    /// Refuses a directory that other users have access to.
    pub(super) fn refuse_if_open_to_others(&self) -> Result<(), StateError> {
        refuse_if_open(&self.path, &self.file, "(OI)(CI)F")
    }

    /// Opens an existing regular file to read or to lock it. `None` if it does not exist.
    pub(super) fn open_file(&self, name: &str) -> Result<Option<File>, StateError> {
        let path = self.path.join(name);
        let found = match fs::symlink_metadata(&path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        if found.is_dir() && !is_link(&found) {
            return Err(StateError::NotAFile { path });
        }
        // Also a link to a directory is opened itself.
        let flags = FILE_FLAG_OPEN_REPARSE_POINT | FILE_FLAG_BACKUP_SEMANTICS;
        let file = match OpenOptions::new().read(true).custom_flags(flags).open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(io_error("open", &path)(error)),
        };
        let metadata = file.metadata().map_err(io_error("read", &path))?;
        if is_link(&metadata) {
            return Err(StateError::Link { path });
        }
        if !metadata.is_file() {
            return Err(StateError::NotAFile { path });
        }
        Ok(Some(file))
    }

    /// Creates a private file. `None` if it exists.
    pub(super) fn create(&self, name: &str) -> io::Result<Option<File>> {
        match security::create_file(&self.path.join(name)) {
            Ok(file) => Ok(Some(file)),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Replaces whatever has this name by a file with this content, atomically and durably.
    pub(super) fn replace(&self, name: &str, bytes: &[u8]) -> io::Result<()> {
        let (temporary, mut file) = loop {
            let temporary = format!(".new-{:016x}", RandomState::new().hash_one(name));
            if let Some(file) = self.create(&temporary)? {
                break (self.path.join(temporary), file);
            }
        };
        let written = file.write_all(bytes).and_then(|()| file.sync_all());
        drop(file);
        let renamed = written.and_then(|()| fs::rename(&temporary, self.path.join(name)));
        renamed.inspect_err(|_| drop(fs::remove_file(&temporary)))
    }

    /// Removes a file or a link if it exists.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The stamp of a file; `None` if it does not exist.
    pub(super) fn stamp(&self, name: &str) -> Option<Stamp> {
        let file = fs::symlink_metadata(self.path.join(name)).ok()?;
        Some(Stamp(file.creation_time(), file.last_write_time(), file.file_size()))
    }
}

/// Refuses a file that other users have access to.
pub(super) fn refuse_if_open_to_others(path: &Path, file: &File) -> Result<(), StateError> {
    refuse_if_open(path, file, "F")
}

fn refuse_if_open(path: &Path, file: &File, rights: &str) -> Result<(), StateError> {
    let Some(who) = security::stranger(file).map_err(io_error("read the access list of", path))? else {
        return Ok(());
    };
    let own = security::own_sid().map_err(io_error("read the access list of", path))?;
    let mut users = vec![own.as_str(), "S-1-5-18", "S-1-5-32-544"];
    if security::is_elevated() {
        users.push(crate::sddl::SERVICE);
    }
    let grants: Vec<_> = users.into_iter().map(|sid| format!("\"*{sid}:{rights}\"")).collect();
    let grants = grants.join(" ");
    let path_word = quoted(path);
    let fix = format!("icacls {path_word} /reset && icacls {path_word} /inheritance:r /grant:r {grants}");
    Err(StateError::TooOpen { path: path.to_owned(), access: format!("{who} may open it"), fix })
}

/// Opens a regular file.
pub(super) fn open_regular(path: &Path) -> io::Result<File> {
    let file = File::open(path).or_else(|error| match fs::metadata(path) {
        // Windows refuses to open a directory with "access denied".
        Ok(found) if found.is_dir() => Err(io::Error::new(io::ErrorKind::InvalidInput, "it is a directory")),
        _ => Err(error),
    })?;
    match file.metadata()?.is_file() {
        true => Ok(file),
        false => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
    }
}

/// Creates a file to which only this user, the system and the administrators have access.
pub(super) fn create_private(path: &Path) -> io::Result<File> {
    security::create_file(path)
}

/// Creates a directory and those above it that do not exist, all of them private.
fn create_all(path: &Path) -> io::Result<()> {
    if path.as_os_str().is_empty() || fs::metadata(path).is_ok() {
        return Ok(());
    }
    if let Some(above) = path.parent() {
        create_all(above)?;
    }
    match security::create_directory(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}

fn is_link(file: &fs::Metadata) -> bool {
    file.file_attributes() & FILE_ATTRIBUTE_REPARSE_POINT != 0
}
