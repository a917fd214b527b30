//! Files of a directory that belongs to this process alone, read and written at offsets. No link is followed.

mod space;
#[cfg(unix)]
mod unix;
#[cfg(windows)]
mod windows;

use std::fs::File;
use std::io;
use std::path::Path;

pub use self::space::Space;
#[cfg(unix)]
use unix as system;
#[cfg(windows)]
use windows as system;

/// Creates a directory that only this user may enter, or checks that an existing directory is one. Its files are opened by
/// their paths, so the directory above it must not belong to another user, who could put anything in its place.
///
/// # Errors
/// When it cannot be created, is a link or no directory, or belongs or is open to others, or the one above it does.
pub fn private_directory(path: &Path) -> io::Result<()> {
    if let Some(above) = path.parent()
        && system::is_of_another_user(above)?
    {
        let sentence = format!("{} belongs to another user", above.display());
        return Err(io::Error::new(io::ErrorKind::PermissionDenied, sentence));
    }
    match system::create_directory(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        created => return created,
    }
    if system::is_private(path)? {
        return Ok(());
    }
    let sentence =
        format!("{} is not a directory that belongs to this user alone (mode 0700)", path.display());
    Err(io::Error::new(io::ErrorKind::PermissionDenied, sentence))
}

/// Whether the owner of a directory, and nobody else, may use it (mode 0700). Windows has no such mode: there this is true.
///
/// # Errors
/// The system's.
pub fn is_for_owner_alone(path: &Path) -> io::Result<bool> {
    system::is_for_owner_alone(path)
}

/// Creates a file to read and write (mode 0600); nothing of this name may exist.
///
/// # Errors
/// The system's.
pub fn create(path: &Path) -> io::Result<File> {
    system::create(path)
}

/// Opens an existing regular file to read it.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidInput`] for anything but a regular file.
pub fn open(path: &Path) -> io::Result<File> {
    let file = system::open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Opens an existing regular file to read and write it.
///
/// # Errors
/// Those of [`open`].
pub fn open_to_write(path: &Path) -> io::Result<File> {
    let file = system::open_to_write(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(io::ErrorKind::InvalidInput.into()) }
}

/// Reads exactly as many bytes as `buffer` has, from `offset` on.
///
/// # Errors
/// The system's; [`io::ErrorKind::UnexpectedEof`] when there are fewer.
pub fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    system::read_exact_at(file, buffer, offset)
}

/// Writes all of `bytes` from `offset` on.
///
/// # Errors
/// The system's.
pub fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    system::write_all_at(file, bytes, offset)
}

/// What the file system of `path` can take.
///
/// # Errors
/// The system's; [`io::ErrorKind::Unsupported`] where that is not known.
pub fn space(path: &Path) -> io::Result<Space> {
    system::space(path)
}

/// The bytes that this user may still write on the file system of `path`.
///
/// # Errors
/// The system's.
pub fn free_space(path: &Path) -> io::Result<u64> {
    system::free_space(path)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    #[test]
    fn a_directory_of_others_and_a_link_are_refused() {
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("cache");
        private_directory(&inner).unwrap();
        private_directory(&inner).unwrap();
        std::fs::set_permissions(&inner, PermissionsExt::from_mode(0o750)).unwrap();
        assert!(private_directory(&inner).is_err());
        let link = outer.path().join("link");
        symlink(outer.path(), &link).unwrap();
        assert!(private_directory(&link).is_err());
    }

    #[test]
    fn a_directory_that_another_user_could_replace_is_refused() {
        if !nix::unistd::Uid::effective().is_root() {
            return;
        }
        let outer = tempfile::tempdir().unwrap();
        let inner = outer.path().join("cache");
        private_directory(&inner).unwrap();
        nix::unistd::chown(outer.path(), Some(65534.into()), None).unwrap();
        let refused = private_directory(&inner).unwrap_err();
        assert!(refused.to_string().contains("belongs to another user"), "{refused}");
    }

    #[test]
    fn the_space_of_a_directory_is_known() {
        let outer = tempfile::tempdir().unwrap();
        let space = space(outer.path()).unwrap();
        assert!(space.free > 0 && space.files != Some(0) && !space.is_read_only, "{space:?}");
        assert_eq!(space.device, super::space(&std::env::temp_dir()).unwrap().device);
    }

    #[test]
    fn no_link_is_opened_or_written_through() {
        let outer = tempfile::tempdir().unwrap();
        let (file, link) = (outer.path().join("file"), outer.path().join("link"));
        write_all_at(&create(&file).unwrap(), b"abc", 0).unwrap();
        symlink(&file, &link).unwrap();
        assert!(create(&link).is_err() && open(&link).is_err() && open(outer.path()).is_err());
        assert!(open_to_write(&link).is_err() && open_to_write(&file).is_ok());
        let mut read = [0; 2];
        read_exact_at(&open(&file).unwrap(), &mut read, 1).unwrap();
        assert_eq!(&read, b"bc");
    }
}
