//! Unix: modes, and offsets without a seek.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use nix::fcntl::OFlag;
use nix::sys::statvfs::{FsFlags, statvfs};
use nix::unistd::Uid;

use super::space::Space;

pub(super) fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o700).create(path)
}

pub(super) fn is_private(path: &Path) -> io::Result<bool> {
    let found = path.symlink_metadata()?;
    Ok(found.is_dir() && found.uid() == Uid::effective().as_raw() && found.mode() & 0o077 == 0)
}

pub(super) fn is_for_owner_alone(path: &Path) -> io::Result<bool> {
    Ok(path.symlink_metadata()?.mode() & 0o777 == 0o700)
}

/// Whether it belongs to neither this user nor root.
pub(super) fn is_of_another_user(path: &Path) -> io::Result<bool> {
    let above = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let owner = above.metadata()?.uid();
    Ok(owner != 0 && owner != Uid::effective().as_raw())
}

pub(super) fn create(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

pub(super) fn open(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).custom_flags(flags.bits()).open(path)
}

pub(super) fn open_to_write(path: &Path) -> io::Result<File> {
    let flags = OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits()).open(path)
}

pub(super) fn read_exact_at(file: &File, buffer: &mut [u8], offset: u64) -> io::Result<()> {
    file.read_exact_at(buffer, offset)
}

pub(super) fn write_all_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    file.write_all_at(bytes, offset)
}

#[allow(clippy::useless_conversion, reason = "the types differ between systems")]
pub(super) fn space(path: &Path) -> io::Result<Space> {
    let found = statvfs(path)?;
    let (all, left) = (u64::from(found.files()), u64::from(found.files_available()));
    Ok(Space {
        device: path.metadata()?.dev(),
        free: free_space(path)?,
        files: (all > 0).then_some(left),
        is_read_only: found.flags().contains(FsFlags::ST_RDONLY),
    })
}

#[allow(clippy::useless_conversion, reason = "the types differ between systems")]
pub(super) fn free_space(path: &Path) -> io::Result<u64> {
    let found = statvfs(path)?;
    Ok(u64::from(found.blocks_available()).saturating_mul(u64::from(found.fragment_size())))
}
