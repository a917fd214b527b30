//! The gateways of earlier runs: asked first, by unicast, which also passes firewalls that broadcasts do not.

use std::net::SocketAddr;

use laneway_sys::state::StateDir;

const FILE: &str = "gateways.json";
/// How many are kept.
const MOST: usize = 16;

/// The remembered gateways, the last used first. An unreadable file is as good as none.
pub fn load(state: &StateDir) -> Vec<SocketAddr> {
    let bytes = state.read(FILE).ok().flatten().unwrap_or_default();
    let mut gateways: Vec<SocketAddr> = serde_json::from_slice(&bytes).unwrap_or_default();
    gateways.truncate(MOST);
    gateways
}

/// Remembers `gateway` as the last used. A disk that is full or read-only is a warning.
pub fn add(state: &StateDir, gateway: SocketAddr) {
    let mut gateways = load(state);
    if gateways.first() == Some(&gateway) {
        return;
    }
    gateways.retain(|other| *other != gateway);
    gateways.insert(0, gateway);
    gateways.truncate(MOST);
    let bytes = serde_json::to_vec(&gateways).unwrap_or_default();
    if let Err(error) = state.write(FILE, &bytes) {
        tracing::warn!(%error, "the gateway is not remembered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_used_comes_first_once_and_damage_is_forgotten() {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let address = |n: u16| SocketAddr::from(([10, 0, 0, 1], n));
        for n in (1..=20).chain([5]) {
            add(&state, address(n));
        }
        let loaded = load(&state);
        assert_eq!((loaded.len(), loaded[0], loaded[1]), (MOST, address(5), address(20)));
        state.write(FILE, b"[not json").unwrap();
        assert_eq!(load(&state), []);
    }
}
