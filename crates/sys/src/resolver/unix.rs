use std::time::SystemTime;

/// The files that configure the resolver.
const FILES: [&str; 3] = ["/etc/resolv.conf", "/etc/hosts", "/etc/nsswitch.conf"];

/// The modification times of [`FILES`]; `None` for one that does not exist.
pub(super) type Version = [Option<SystemTime>; 3];

pub(super) fn version() -> Version {
    FILES.map(|file| std::fs::metadata(file).and_then(|metadata| metadata.modified()).ok())
}

pub(super) fn name_servers() -> Vec<u8> {
    std::fs::read("/etc/resolv.conf").unwrap_or_default()
}

pub(super) fn hosts() -> Vec<u8> {
    std::fs::read("/etc/hosts").unwrap_or_default()
}

pub(super) fn switch() -> Vec<u8> {
    std::fs::read("/etc/nsswitch.conf").unwrap_or_default()
}
