//! Windows: a directory has the access list of the one above it, and offsets move the file's position.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::windows::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::space::Space;

/// Opens a reparse point itself, not what it leads to (FILE_FLAG_OPEN_REPARSE_POINT).
const OPEN_REPARSE_POINT: u32 = 0x0020_0000;

pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    std::fs::create_dir(path)
}

/// A directory has the access list of the one above it.
pub(super) fn is_of_another_user(_: &Path) -> io::Result<bool> {
    Ok(false)
}

pub(super) fn is_for_owner_alone(_path: &Path) -> io::Result<bool> {
    Ok(true)
}

pub(super) fn is_private(path: &Path) -> io::Result<bool> {
    Ok(path.symlink_metadata()?.is_dir())
}

pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).open(path)
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).custom_flags(OPEN_REPARSE_POINT).open(path)
}

pub(super) fn open_to_write(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).custom_flags(OPEN_REPARSE_POINT).open(path)
}

pub(super) fn read_exact_at(file: &File, mut buffer: &mut [u8], mut offset: u64) -> io::Result<()> {
    while !buffer.is_empty() {
        let count = file.seek_read(buffer, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        buffer = &mut buffer[count..];
        offset += count as u64;
    }
    Ok(())
}

pub(super) fn write_all_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        let count = file.seek_write(bytes, offset)?;
        if count == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = &bytes[count..];
        offset += count as u64;
    }
    Ok(())
}

pub(super) fn free_space(_path: &Path) -> io::Result<u64> {
    Err(io::ErrorKind::Unsupported.into())
}

pub(super) fn space(_path: &Path) -> io::Result<Space> {
    Err(io::ErrorKind::Unsupported.into())
}
