//! The machine that packets to an address are handed to, and whether it answers for its own address (ARP, RFC 826; neighbour
//! discovery, RFC 4861 §7.3.2).

mod hop;
#[cfg(target_os = "linux")]
mod linux;
#[cfg(not(target_os = "linux"))]
mod other;

use std::io;
use std::net::SocketAddr;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(not(target_os = "linux"))]
use self::other as system;
use crate::net;

pub use self::hop::{Hop, Presence};

/// Where packets to `to` go first. `None` without a route, for this machine itself, and where the system does not tell.
pub fn next_hop(to: SocketAddr) -> Option<Hop> {
    system::next_hop(to)
}

/// What the system knows of the machine at `hop`. `None` where it has sent nothing there lately, and where it does not tell.
pub fn presence(hop: Hop) -> Option<Presence> {
    system::presence(hop)
}

/// How [`in_words`] and [`silence`] begin what they say of a machine that is not there.
pub const ABSENT: &str = "nobody answers at this address";

/// What [`silence`] says of a router after its address.
pub const ROUTER_IS_THERE: &str = ", the router on the way, has answered lately";

/// Why nothing comes back from `to`, as far as the neighbour table tells. For an address that has been silent for a second at
/// least: machines answer for their addresses within milliseconds.
pub fn silence(to: SocketAddr) -> Option<String> {
    let hop = next_hop(to)?;
    silence_in_words(hop, hop.address == net::plain(to).ip(), presence(hop)?)
}

fn silence_in_words(hop: Hop, is_direct: bool, presence: Presence) -> Option<String> {
    match presence {
        Presence::Absent | Presence::Unanswered => {
            words(io::ErrorKind::HostUnreachable, hop, is_direct, Some(presence))
        }
        // Within the last minute: the system asks again after 15 to 45 s (RFC 4861 §6.3.2).
        Presence::Here if !is_direct => {
            Some(format!("no answer in time, although {}{ROUTER_IS_THERE}", hop.address))
        }
        Presence::Here | Presence::Doubted => None,
    }
}

/// Adds what the neighbour table knows about the machine at `to` to a connection error. The system's own "no route" and "timed
/// out" do not say whether a machine is there at all.
pub fn in_words(to: SocketAddr, error: io::Error) -> io::Error {
    let kind = error.kind();
    if !matches!(kind, io::ErrorKind::HostUnreachable | io::ErrorKind::TimedOut) {
        return error;
    }
    let Some(hop) = next_hop(to) else { return error };
    match words(kind, hop, hop.address == net::plain(to).ip(), presence(hop)) {
        Some(words) => io::Error::new(kind, words),
        None => error,
    }
}

fn words(kind: io::ErrorKind, hop: Hop, is_direct: bool, presence: Option<Presence>) -> Option<String> {
    let presence = presence?;
    let says_unreachable = kind == io::ErrorKind::HostUnreachable;
    // When nobody has answered, the error is told; the next packet has the system ask again.
    let is_absent = presence == Presence::Absent || presence == Presence::Unanswered && says_unreachable;
    match (is_absent, is_direct) {
        (true, true) => {
            Some(format!("{ABSENT}: the machine is off or not connected, or has another address now"))
        }
        (true, false) => Some(format!("nobody answers at {}, the router on the way", hop.address)),
        (false, true) if says_unreachable && presence == Presence::Here => {
            Some("a firewall there, or on the way, rejects the connection".into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_is_explained_where_the_system_knows_why() {
        let hop = Hop { address: "10.77.0.1".parse().unwrap(), interface: 2 };
        let said = |is_direct, presence| silence_in_words(hop, is_direct, presence).unwrap_or_default();
        for presence in [Presence::Absent, Presence::Unanswered] {
            assert!(said(true, presence).starts_with(ABSENT), "{presence:?}");
            assert!(said(false, presence).starts_with("nobody answers at 10.77.0.1"), "{presence:?}");
        }
        assert!(said(false, Presence::Here).contains("although 10.77.0.1, the router on the way"));
        assert_eq!((said(true, Presence::Here), said(false, Presence::Doubted)), Default::default());
    }

    #[test]
    fn an_error_tells_whether_anybody_is_there_where_that_is_known() {
        use io::ErrorKind::{ConnectionRefused, HostUnreachable, TimedOut};
        let hop = Hop { address: "10.77.0.1".parse().unwrap(), interface: 2 };
        let words = |kind, is_direct, presence| words(kind, hop, is_direct, presence).unwrap_or_default();
        for kind in [HostUnreachable, TimedOut] {
            assert!(words(kind, true, Some(Presence::Absent)).starts_with("nobody answers at this address"));
            assert!(words(kind, false, Some(Presence::Absent)).starts_with("nobody answers at 10.77.0.1"));
            assert_eq!(words(kind, false, Some(Presence::Here)), "");
            assert_eq!(words(kind, true, None), "");
        }
        assert!(words(HostUnreachable, true, Some(Presence::Here)).starts_with("a firewall there"));
        assert_eq!(words(TimedOut, true, Some(Presence::Here)), "", "it may have gone a moment ago");
        let unanswered = Some(Presence::Unanswered);
        assert!(words(HostUnreachable, true, unanswered).starts_with("nobody answers at this address"));
        assert_eq!(words(TimedOut, true, unanswered), "", "it was asked a moment ago");
        for kind in [ConnectionRefused, TimedOut] {
            let error = in_words("127.0.0.1:1".parse().unwrap(), kind.into());
            assert_eq!(error.to_string(), io::Error::from(kind).to_string());
        }
    }
}
