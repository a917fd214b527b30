use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::adapters::{self, is_placeholder};

/// The name servers, and the modification time of the hosts file.
pub(super) type Version = (Vec<u8>, Option<SystemTime>);

pub(super) fn version() -> Version {
    let modified = std::fs::metadata(hosts_file()).and_then(|metadata| metadata.modified()).ok();
    (name_servers(), modified)
}

pub(super) fn name_servers() -> Vec<u8> {
    let mut text = String::new();
    let adapters = adapters::all().unwrap_or_default();
    for adapter in adapters.into_iter().filter(|adapter| adapter.is_up) {
        for server in adapter.name_servers.iter().filter(|server| !is_placeholder(server)) {
            let _ = match server {
                std::net::SocketAddr::V6(v6) if v6.scope_id() != 0 => {
                    writeln!(text, "nameserver {}%{}", v6.ip(), v6.scope_id())
                }
                _ => writeln!(text, "nameserver {}", server.ip()),
            };
        }
        if !adapter.domain.is_empty() {
            let _ = writeln!(text, "search {}", adapter.domain);
        }
    }
    text.into_bytes()
}

pub(super) fn hosts() -> Vec<u8> {
    std::fs::read(hosts_file()).unwrap_or_default()
}

pub(super) fn switch() -> Vec<u8> {
    Vec::new()
}

fn hosts_file() -> PathBuf {
    let root = std::env::var_os("SystemRoot").unwrap_or_else(|| r"C:\Windows".into());
    PathBuf::from(root).join(r"System32\drivers\etc\hosts")
}
