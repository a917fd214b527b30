use nix::unistd::User;

pub(super) fn id_of(name: &str) -> Option<u32> {
    User::from_name(name).ok()?.map(|user| user.uid.as_raw())
}
