//! The names that ports have: older versions of nft print them in place of numbers.

use std::collections::BTreeMap;

/// The ports of services by their names.
#[derive(Debug, Default)]
pub(super) struct Services(BTreeMap<String, u16>);

impl Services {
    /// Reads /etc/services (services(5)): lines of `NAME PORT/PROTOCOL ALIAS…`, with comments.
    pub(super) fn read(text: &str) -> Self {
        let mut ports = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            let Some(name) = words.next() else { continue };
            let port = words.next().and_then(|word| word.split_once('/')?.0.parse().ok());
            let Some(port) = port else { continue };
            for name in std::iter::once(name).chain(words) {
                ports.entry(name.to_owned()).or_insert(port);
            }
        }
        Self(ports)
    }

    /// The first and the last port of `PORT` or `FIRST-LAST`, where names may stand for numbers; `None` for an unknown name.
    pub(super) fn ports(&self, value: &str) -> Option<(u16, u16)> {
        let read = |word: &str| self.0.get(word).copied().or_else(|| word.parse().ok());
        if let Some(port) = read(value) {
            return Some((port, port));
        }
        // Some names have a hyphen in them.
        value.match_indices('-').find_map(|(at, _)| Some((read(&value[..at])?, read(&value[at + 1..])?)))
    }
}
