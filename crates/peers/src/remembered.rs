//! The gateways of earlier runs. They are queried first, by unicast, which passes firewalls that drop broadcasts.

use std::net::SocketAddr;

use laneway_limits::limited;
use laneway_limits::lines::NOBODY;
use laneway_sys::state::StateDir;
use laneway_wire::failure::with_causes;

/// The file in the state directory.
pub const FILE: &str = "gateways.json";
/// Maximum number of gateways that are remembered.
const MAX_GATEWAYS: usize = 16;

/// The remembered gateways, the last used first. An unreadable file counts as empty.
pub fn load(state: &StateDir) -> Vec<SocketAddr> {
    let bytes = state.read(FILE).ok().flatten().unwrap_or_default();
    let mut gateways: Vec<SocketAddr> = serde_json::from_slice(&bytes).unwrap_or_default();
    gateways.truncate(MAX_GATEWAYS);
    gateways
}

/// Remembers `gateway` as the last used. A full or read-only disk is only logged.
pub fn add(state: &StateDir, gateway: SocketAddr) {
    let mut gateways = load(state);
    if gateways.first() == Some(&gateway) {
        return;
    }
    gateways.retain(|other| *other != gateway);
    gateways.insert(0, gateway);
    gateways.truncate(MAX_GATEWAYS);
    let bytes = serde_json::to_vec(&gateways).unwrap_or_default();
    if let Err(error) = state.write(FILE, &bytes) {
        limited!(warn, NOBODY, error = with_causes(&error), "the gateway is not remembered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_gateway_comes_first_and_a_damaged_file_counts_as_empty() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let address = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        for n in (1..=20).chain([5]) {
            add(&state, address(n));
        }
        let loaded = load(&state);
        assert_eq!((loaded.len(), loaded[0], loaded[1]), (MAX_GATEWAYS, address(5), address(20)));
        state.write(FILE, b"[not json").unwrap();
        assert_eq!(load(&state), []);
    }
}
