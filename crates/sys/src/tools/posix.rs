//! The commands that Linux and macOS share.

pub(super) const KILL: &str = "kill -9";

pub(super) fn stop(process: &str) -> Option<String> {
    Some(format!("kill {process}"))
}

pub(super) fn space_of(directory: &str) -> String {
    format!("df -h {directory}")
}

pub(super) fn files_of(directory: &str) -> String {
    format!("df -i {directory}")
}

pub(super) fn ask_for(name: &str, server: &str) -> String {
    format!("dig @{server} {name}")
}
