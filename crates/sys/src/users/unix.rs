use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Uid, User};

pub(super) fn id_of(name: &str) -> Option<u32> {
    User::from_name(name).ok()?.map(|user| user.uid.as_raw())
}

pub(super) fn own() -> Option<u32> {
    Some(Uid::effective().as_raw())
}

pub(super) fn owner_of(path: &Path) -> Option<u32> {
    path.metadata().ok().map(|found| found.uid())
}

pub(super) fn name_of(user: u32) -> Option<String> {
    Some(User::from_uid(user.into()).ok()??.name)
}
