//! A zone with a name server of its own: a name, and all names below it.

use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use hickory_proto::rr::Name;

/// The port of name servers.
const PORT: u16 = 53;

/// `SUFFIX=SERVER` or `SUFFIX=SERVER:PORT`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Zone {
    /// The suffix of all its names.
    pub suffix: Name,
    /// Its name server.
    pub server: SocketAddr,
}

/// The text is not a zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "'{0}' is not SUFFIX=SERVER: write a domain, '=' and the address of its name server, with :PORT if that is not 53"
)]
pub struct ZoneError(String);

impl Zone {
    /// The value of the zone that `name` is in; with several, that of the longest suffix.
    pub fn of<'a, T>(zones: &'a [(Self, T)], name: &Name) -> Option<&'a T> {
        let within = zones.iter().filter(|(zone, _)| zone.suffix.zone_of(name));
        within.max_by_key(|(zone, _)| zone.suffix.num_labels()).map(|(_, value)| value)
    }
}

impl FromStr for Zone {
    type Err = ZoneError;

    fn from_str(text: &str) -> Result<Self, ZoneError> {
        let error = || ZoneError(text.into());
        let (suffix, server) = text.split_once('=').ok_or_else(error)?;
        let suffix = suffix.strip_prefix("*.").unwrap_or(suffix);
        let mut suffix = match suffix {
            "" => return Err(error()),
            suffix => Name::from_ascii(suffix.to_ascii_lowercase()).ok().ok_or_else(error)?,
        };
        suffix.set_fqdn(true);
        let bare = server.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(server);
        let server = match (server.parse::<SocketAddr>(), bare.parse::<IpAddr>()) {
            (Ok(address), _) if address.port() != 0 => address,
            (Err(_), Ok(ip)) => SocketAddr::new(ip, PORT),
            _ => return Err(error()),
        };
        Ok(Self { suffix, server })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn zone(text: &str) -> Zone {
        text.parse().unwrap()
    }

    #[test]
    fn reads_a_suffix_and_a_server() {
        for (text, server) in [
            ("lan=10.0.0.1", "10.0.0.1:53"),
            ("*.Corp.Example.=10.0.0.1:5353", "10.0.0.1:5353"),
            ("lan=fe80::1", "[fe80::1]:53"),
            ("lan=[2001:db8::1]:54", "[2001:db8::1]:54"),
            (".=192.0.2.1", "192.0.2.1:53"),
        ] {
            assert_eq!(zone(text).server, server.parse().unwrap(), "{text}");
        }
        for text in [
            "",
            "lan",
            "lan=",
            "=10.0.0.1",
            "lan=10.0.0.1:0",
            "lan=server",
            "lan=10.0.0.1:x",
            "a..b=10.0.0.1",
        ] {
            assert!(text.parse::<Zone>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_suffix_wins_and_labels_are_whole() {
        let zones = ["corp=10.0.0.1", "eu.corp=10.0.0.2"].map(|text| (zone(text), text));
        let of = |name: &str| Zone::of(&zones, &Name::from_ascii(name).unwrap()).copied();
        assert_eq!(of("host.EU.corp."), Some("eu.corp=10.0.0.2"));
        assert_eq!(of("eu.corp."), Some("eu.corp=10.0.0.2"));
        assert_eq!(of("neu.corp."), Some("corp=10.0.0.1"));
        assert_eq!(of("mycorp."), None);
        assert_eq!(of("example.org."), None);
    }

    proptest! {
        #[test]
        fn any_text_is_a_zone_or_none_and_the_names_in_it_are(
            text in "[a-zA-Z0-9.*_=:\\[\\]é-]{0,30}", suffix in "[a-z]{1,9}(\\.[a-z]{1,9}){0,3}", port in 1_u16..,
        ) {
            let _ = text.parse::<Zone>();
            let _ = format!("{text}=10.0.0.1").parse::<Zone>();
            let zones = [(zone(&format!("{suffix}=10.0.0.1:{port}")), ())];
            prop_assert_eq!(zones[0].0.server.port(), port);
            let within = |name: String| Zone::of(&zones, &Name::from_ascii(name).unwrap()).is_some();
            let (inside, beside) = (within(format!("a.{suffix}.")), within(format!("a{suffix}.")));
            prop_assert!(inside && !beside);
        }
    }
}
