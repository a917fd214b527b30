use std::path::Path;

pub(super) fn id_of(_: &str) -> Option<u32> {
    None
}

pub(super) fn own() -> Option<u32> {
    None
}

pub(super) fn owner_of(_: &Path) -> Option<u32> {
    None
}

pub(super) fn name_of(_: u32) -> Option<String> {
    None
}
