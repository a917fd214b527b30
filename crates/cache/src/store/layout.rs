//! Where the files of a store are.

use std::path::{Path, PathBuf};

use laneway_sys::files;

use crate::stored::{MAX_METADATA, Stored};

/// How many directories the files are spread over.
pub(super) const FOLDERS: u64 = 64;

/// The metadata of the response `id`; `None` when it is damaged or missing.
pub(crate) fn read_head(directory: &Path, id: u64) -> Option<Stored> {
    let file = files::open(&path(directory, id, "head")).ok()?;
    let length =
        usize::try_from(file.metadata().ok()?.len()).ok().filter(|length| *length <= MAX_METADATA)?;
    let mut bytes = vec![0; length];
    files::read_exact_at(&file, &mut bytes, 0).ok()?;
    Stored::decode(&bytes)
}

/// Removes all files of the response `id`.
pub(crate) fn remove_files(directory: &Path, id: u64) {
    for kind in ["head", "body", "new"] {
        let _ = std::fs::remove_file(path(directory, id, kind));
    }
}

/// The file of one kind of the response `id`.
pub(crate) fn path(directory: &Path, id: u64, kind: &str) -> PathBuf {
    directory.join(format!("{:02x}/{id:016x}.{kind}", id % FOLDERS))
}

/// The ids of all files in the store, and whether each is a head.
pub(crate) fn ids(directory: &Path) -> impl Iterator<Item = (u64, bool)> {
    let folders =
        (0..FOLDERS).filter_map(|folder| std::fs::read_dir(directory.join(format!("{folder:02x}"))).ok());
    folders.flatten().filter_map(|file| {
        let name = file.ok()?.file_name();
        let (id, kind) = name.to_str()?.split_once('.')?;
        Some((u64::from_str_radix(id, 16).ok()?, kind == "head"))
    })
}
