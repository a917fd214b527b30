//! Where the files of a store are.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use laneway_sys::files;

use crate::stored::{MAX_METADATA, Stored};

/// How many directories the files are spread over.
const FOLDERS: u64 = 64;

/// The largest id: new ones follow it.
const MAX_ID: u64 = u64::MAX / 2;

/// The kind of a file that contains a whole small response: the length of its metadata, the metadata, and the body.
pub(super) const SMALL: &str = "small";
/// The size of the length field, in bytes.
const PREFIX: usize = size_of::<u32>();

/// The metadata of the response `id`.
///
/// # Errors
/// The system's; [`io::ErrorKind::InvalidData`] when it is damaged.
pub(crate) fn read_head(directory: &Path, id: u64) -> io::Result<Stored> {
    let damaged = || io::Error::from(io::ErrorKind::InvalidData);
    match files::open(&path(directory, id, "head")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = files::open(&path(directory, id, SMALL))?;
            let head = read(&file, PREFIX as u64, small_head(&file)?)?;
            let stored = Stored::decode(&head).ok_or_else(damaged)?;
            // After a loss of power it may be shorter.
            if is_whole(&file, &stored)? { Ok(stored) } else { Err(damaged()) }
        }
        opened => {
            let file = opened?;
            Stored::decode(&read(&file, 0, file.metadata()?.len())?).ok_or_else(damaged)
        }
    }
}

/// The file that contains the body of the response `id`, and the offset at which that begins.
pub(super) fn open_body(directory: &Path, id: u64) -> io::Result<(File, u64)> {
    match files::open(&path(directory, id, "body")) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let file = files::open(&path(directory, id, SMALL))?;
            let head = small_head(&file)?;
            Ok((file, PREFIX as u64 + head))
        }
        opened => Ok((opened?, 0)),
    }
}

/// The body of the response `id`, without a check, if all of that is in one file.
pub(super) fn read_small(directory: &Path, id: u64) -> io::Result<Option<Vec<u8>>> {
    let file = match files::open(&path(directory, id, SMALL)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    let start = PREFIX as u64 + small_head(&file)?;
    let length = file.metadata()?.len().checked_sub(start).ok_or(io::ErrorKind::InvalidData)?;
    read(&file, start, length).map(Some)
}

/// The bytes of a file that contains a whole response.
pub(super) fn small(stored: &Stored, body: &[u8]) -> Vec<u8> {
    let head = stored.encode();
    let length = u32::try_from(head.len()).unwrap_or(u32::MAX);
    [&length.to_be_bytes()[..], &head, body].concat()
}

/// The length of the metadata in a file that contains a whole response.
fn small_head(file: &File) -> io::Result<u64> {
    let mut prefix = [0; PREFIX];
    files::read_exact_at(file, &mut prefix, 0)?;
    Ok(u64::from(u32::from_be_bytes(prefix)))
}

fn is_whole(file: &File, stored: &Stored) -> io::Result<bool> {
    let body = file.metadata()?.len().checked_sub(PREFIX as u64 + small_head(file)?);
    Ok(body == Some(stored.total) && stored.is_complete())
}

fn read(file: &File, start: u64, length: u64) -> io::Result<Vec<u8>> {
    let length = usize::try_from(length).ok().filter(|length| *length <= MAX_METADATA);
    let mut bytes = vec![0; length.ok_or(io::ErrorKind::InvalidData)?];
    files::read_exact_at(file, &mut bytes, start)?;
    Ok(bytes)
}

/// Makes the directories that the files are spread over.
pub(super) fn make_folders(directory: &Path) -> io::Result<()> {
    (0..FOLDERS).try_for_each(|folder| files::private_directory(&directory.join(format!("{folder:02x}"))))
}

/// Removes all files of the response `id`.
pub(crate) fn remove_files(directory: &Path, id: u64) -> io::Result<()> {
    let removed = ["head", "body", SMALL, "new"].map(|kind| std::fs::remove_file(path(directory, id, kind)));
    let is_wrong = |error: &io::Error| error.kind() != io::ErrorKind::NotFound;
    removed.into_iter().find_map(|removed| removed.err().filter(is_wrong)).map_or(Ok(()), Err)
}

/// Whether there is metadata of the response `id`.
pub(crate) fn exists(directory: &Path, id: u64) -> bool {
    ["head", SMALL].iter().any(|kind| path(directory, id, kind).exists())
}

/// The file of one kind of the response `id`.
pub(super) fn path(directory: &Path, id: u64, kind: &str) -> PathBuf {
    directory.join(format!("{:02x}/{id:016x}.{kind}", id % FOLDERS))
}

/// The ids of all files in the store, and whether each has metadata. Other files are ignored.
pub(crate) fn ids(directory: &Path) -> impl Iterator<Item = (u64, bool)> {
    let files = (0..FOLDERS).filter_map(move |folder| {
        let files = std::fs::read_dir(directory.join(format!("{folder:02x}"))).ok()?;
        Some(files.map(move |file| (folder, file)))
    });
    files.flatten().filter_map(|(folder, file)| {
        let name = file.ok()?.file_name();
        let (name, kind) = name.to_str()?.split_once('.')?;
        let id = u64::from_str_radix(name, 16).ok()?;
        let is_ours = format!("{id:016x}") == name && id % FOLDERS == folder && id <= MAX_ID;
        is_ours.then(|| (id, ["head", SMALL].contains(&kind)))
    })
}
