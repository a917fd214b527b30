use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::unistd::{Uid, User};

use super::whose::Whose;
use crate::paths;

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

/// Whose a program of `user` is. The machine's node runs as `service`, or as the owner of its state directory, which is in
/// one that only root can write.
pub(super) fn judge(user: u32, service: Option<u32>) -> Whose {
    let owner = || paths::machine_state().and_then(|path| owner_of(&path));
    match user {
        _ if own() == Some(user) => Whose::Own,
        0 => Whose::Machine,
        _ if service == Some(user) || owner() == Some(user) => Whose::Machine,
        _ => Whose::Other(name_of(user).unwrap_or_else(|| user.to_string())),
    }
}
