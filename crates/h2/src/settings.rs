//! The exchange of SETTINGS (RFC 9113 §6.5): what the peer has announced, and what this end has.

use super::frame::{FIRST_WINDOW, MIN_FRAME_SIZE, Settings};
use super::hpack::TABLE_SIZE;
use super::{Config, Reason, Side};

/// How often a peer may change its settings between two answered PINGs: each change is work for every stream.
const MAX_CHANGES: u32 = 100;

/// What the peer has announced.
#[derive(Clone, Copy, Debug)]
pub(super) struct PeerSettings {
    /// The send window of a new stream.
    pub(super) window: u32,
    /// The largest frame that it accepts.
    pub(super) max_frame_size: u32,
    /// How many streams it accepts at a time.
    pub(super) max_concurrent_streams: u32,
    /// Whether it accepts extended CONNECT (RFC 8441).
    pub(super) extended_connect: bool,
    /// The largest HPACK table that this end may use.
    table: u32,
}

/// What the peer's SETTINGS change for the streams.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// By how much every send window grows or shrinks.
    pub(super) window: Option<i64>,
    /// More streams may be allowed.
    pub(super) streams: bool,
}

/// Both directions of the exchange.
#[derive(Debug)]
pub(super) struct SettingsExchange {
    pub(super) peer: PeerSettings,
    /// The peer's first SETTINGS have arrived, and with them its part of the preface.
    is_greeted: bool,
    changes: u32,
    /// The receive window of a new stream that the peer has acknowledged.
    window: u32,
    /// The window that was announced last and is not acknowledged yet.
    announced: Option<u32>,
    /// Whether the next header block has to say that this end uses no HPACK table.
    owes_table_update: bool,
}

impl SettingsExchange {
    /// Before anything was received.
    pub(super) fn new(config: &Config) -> Self {
        let peer = PeerSettings {
            window: FIRST_WINDOW,
            max_frame_size: MIN_FRAME_SIZE,
            max_concurrent_streams: u32::MAX,
            extended_connect: false,
            table: u32::try_from(TABLE_SIZE).unwrap_or(u32::MAX),
        };
        let window = config.stream_window;
        Self {
            peer,
            is_greeted: false,
            changes: 0,
            window,
            announced: Some(window),
            owes_table_update: false,
        }
    }

    /// Whether the peer has begun to speak HTTP/2.
    pub(super) fn is_greeted(&self) -> bool {
        self.is_greeted
    }

    /// The receive window of a new stream.
    pub(super) fn window(&self) -> u32 {
        self.window
    }

    /// Notes that the peer is alive, so that it may change its settings again.
    pub(super) fn forget_changes(&mut self) {
        self.changes = 0;
    }

    /// The SETTINGS that announce `window` for every stream; none while the last ones are not acknowledged, or the peer
    /// has not spoken yet.
    pub(super) fn announce(&mut self, window: u32) -> Option<Settings> {
        if self.announced.is_some() || !self.is_greeted {
            return None;
        }
        self.announced = Some(window);
        Some(Settings { window: Some(window), ..Settings::default() })
    }

    /// Whether the next header block has to say that this end uses no HPACK table; true once each time the peer makes
    /// the table smaller, because the old one may no longer be used (RFC 9113 §4.3.1).
    pub(super) fn take_table_update(&mut self) -> bool {
        std::mem::take(&mut self.owes_table_update)
    }

    /// Takes over the SETTINGS of the peer of this `side`.
    ///
    /// # Errors
    /// When they break the protocol, or come too often.
    pub(super) fn receive(&mut self, side: Side, payload: &[u8]) -> Result<Change, Reason> {
        let settings = Settings::parse(payload)?;
        self.is_greeted = true;
        self.changes += 1;
        if self.changes > MAX_CHANGES {
            return Err(Reason::ENHANCE_YOUR_CALM);
        }
        let peer = &mut self.peer;
        // A server pushes, and is not pushed to (RFC 9113 §6.5.2).
        let wants_push = side == Side::Client && settings.push == Some(true);
        if wants_push || (peer.extended_connect && settings.extended_connect == Some(false)) {
            return Err(Reason::PROTOCOL_ERROR);
        }
        if let Some(table) = settings.table {
            self.owes_table_update |= table < std::mem::replace(&mut peer.table, table);
        }
        peer.max_frame_size = settings.frame.unwrap_or(peer.max_frame_size);
        peer.extended_connect = settings.extended_connect.unwrap_or(peer.extended_connect);
        peer.max_concurrent_streams = settings.streams.unwrap_or(peer.max_concurrent_streams);
        let window = settings.window.map(|window| {
            let before = std::mem::replace(&mut peer.window, window);
            i64::from(window) - i64::from(before)
        });
        Ok(Change { window, streams: settings.streams.is_some() })
    }

    /// Takes the peer's acknowledgement of this end's SETTINGS; returns by how much every receive window changes.
    ///
    /// # Errors
    /// When the acknowledgement has a payload.
    pub(super) fn acknowledged(&mut self, payload: &[u8]) -> Result<Option<i64>, Reason> {
        if !payload.is_empty() {
            return Err(Reason::FRAME_SIZE_ERROR);
        }
        let change = self.announced.take().map(|window| {
            let before = std::mem::replace(&mut self.window, window);
            i64::from(window) - i64::from(before)
        });
        Ok(change)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::config;

    #[test]
    fn a_window_counts_once_it_is_acknowledged_and_one_at_a_time_is_announced() {
        let mut exchange = SettingsExchange::new(&Config { stream_window: 1000, ..config() });
        assert_eq!(exchange.announce(5000), None, "the peer has not spoken");
        exchange.receive(Side::Server, &[]).unwrap();
        assert_eq!(exchange.announce(5000), None, "the first window is not acknowledged");
        assert_eq!(exchange.acknowledged(&[]), Ok(Some(0)));
        assert_eq!(exchange.announce(5000).unwrap().window, Some(5000));
        assert_eq!((exchange.announce(6000), exchange.window()), (None, 1000));
        assert_eq!(exchange.acknowledged(&[]), Ok(Some(4000)));
        assert_eq!((exchange.acknowledged(&[]), exchange.window()), (Ok(None), 5000));
        assert!(exchange.announce(6000).is_some());
    }

    #[test]
    fn the_peer_changes_what_it_names_and_not_too_often() {
        let mut exchange = SettingsExchange::new(&config());
        let change = exchange.receive(Side::Server, &[0, 4, 0, 0, 0, 35, 0, 8, 0, 0, 0, 1]).unwrap();
        assert_eq!(change, Change { window: Some(-65_500), streams: false });
        assert!(exchange.peer.extended_connect && exchange.peer.max_frame_size == MIN_FRAME_SIZE);
        for _ in 1..MAX_CHANGES {
            exchange.receive(Side::Server, &[]).unwrap();
        }
        assert_eq!(exchange.receive(Side::Server, &[]), Err(Reason::ENHANCE_YOUR_CALM));
        exchange.forget_changes();
        assert!(exchange.receive(Side::Server, &[]).is_ok());
    }
}
