//! What resolv.conf(5) says, read as the C library reads it: lines that it does not understand are passed over, and
//! without any name server the one on this machine is asked.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

use hickory_proto::rr::Name;

use crate::net;
use crate::sys::resolver;
use crate::wire::target::Host;

/// The port of name servers.
pub const PORT: u16 = 53;
/// Maximum number of name servers that are asked (MAXNS).
const MOST_SERVERS: usize = 3;
/// Upper bounds of the options (RES_MAXNDOTS, RES_MAXRETRANS, RES_MAXRETRY).
const MOST_DOTS: usize = 15;
const LONGEST_TIMEOUT: u64 = 30;
const MOST_ATTEMPTS: u32 = 5;
/// The configuration of a stub resolver.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Conf {
    /// The name servers, in the order in which they are asked.
    pub servers: Vec<SocketAddr>,
    /// Whether the file names them: without any, this machine is asked.
    pub is_configured: bool,
    /// The domains that are appended to a name.
    pub search: Vec<String>,
    /// A name with at least this many dots is asked as it is before domains are appended.
    pub ndots: usize,
    /// A name without a dot is not asked as it is.
    pub no_tld_query: bool,
    /// How long to wait for each server; `None` where the file states nothing.
    pub timeout: Option<Duration>,
    /// Number of times that each server is asked.
    pub attempts: u32,
    /// Whether each question begins with another server.
    pub rotate: bool,
    /// Whether all questions go by TCP.
    pub tcp: bool,
    /// Whether questions have an EDNS record.
    pub edns: bool,
    /// Whether the two questions for one name are asked one after the other.
    pub one_at_a_time: bool,
    /// Whether names have no IPv6 addresses.
    pub no_ipv6: bool,
}

impl Default for Conf {
    fn default() -> Self {
        Self {
            servers: Vec::new(),
            is_configured: false,
            search: Vec::new(),
            ndots: 1,
            no_tld_query: false,
            timeout: None,
            attempts: 2,
            rotate: false,
            tcp: false,
            edns: false,
            one_at_a_time: false,
            no_ipv6: false,
        }
    }
}

impl Conf {
    /// The configuration in `text`, the content of the file, on a machine with this host name. `variable` is a variable of
    /// the environment: LOCALDOMAIN replaces the domains, RES_OPTIONS adds options.
    pub fn read(text: &[u8], host_name: &str, variable: impl Fn(&str) -> Option<String>) -> Self {
        let (mut conf, mut search) = (Self::default(), None);
        // Not by `lines`: to the C library a carriage return is a part of the last word.
        for line in String::from_utf8_lossy(text).split('\n') {
            let Some((keyword, value)) = line.split_once([' ', '\t']) else { continue };
            let mut words = value.split([' ', '\t']).filter(|word| !word.is_empty());
            match keyword {
                "nameserver" => conf.servers.extend(words.next().and_then(server)),
                "domain" => search = words.next().map(|domain| vec![domain.to_owned()]).or(search),
                "search" => {
                    search = Some(words.map(str::to_owned).collect())
                        .filter(|all: &Vec<_>| !all.is_empty())
                        .or(search)
                }
                "options" => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        conf.servers.truncate(MOST_SERVERS);
        conf.is_configured = !conf.servers.is_empty();
        if conf.servers.is_empty() {
            conf.servers.push(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), PORT));
        }
        let own_domain = || host_name.split_once('.').map(|(_, domain)| vec![domain.to_owned()]);
        let replaced = variable("LOCALDOMAIN").map(|all| all.split_whitespace().map(str::to_owned).collect());
        conf.search = replaced.or(search).or_else(own_domain).unwrap_or_default();
        let more = variable("RES_OPTIONS").unwrap_or_default();
        more.split_whitespace().for_each(|word| conf.option(word));
        conf
    }

    /// The configuration of this machine. A file that does not exist is an empty one.
    pub fn system() -> Self {
        let text = resolver::name_servers();
        Self::read(&text, &net::host_name(), |name| std::env::var(name).ok())
    }

    fn option(&mut self, word: &str) {
        let number = |text: &str| {
            let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
            text[..digits].parse::<u64>().unwrap_or(0)
        };
        match word.split_once(':') {
            Some(("ndots", value)) => {
                self.ndots = usize::try_from(number(value)).unwrap_or(MOST_DOTS).min(MOST_DOTS)
            }
            Some(("timeout", value)) => {
                self.timeout = Some(Duration::from_secs(number(value).clamp(1, LONGEST_TIMEOUT)))
            }
            Some(("attempts", value)) => {
                self.attempts = u32::try_from(number(value)).unwrap_or(MOST_ATTEMPTS).clamp(1, MOST_ATTEMPTS);
            }
            Some(_) => {}
            None => match word {
                "rotate" => self.rotate = true,
                "use-vc" => self.tcp = true,
                "edns0" => self.edns = true,
                "single-request" | "single-request-reopen" => self.one_at_a_time = true,
                "no-aaaa" => self.no_ipv6 = true,
                "no-tld-query" | "no_tld_query" => self.no_tld_query = true,
                _ => {}
            },
        }
    }

    /// The names to ask for `name`, in this order: only itself if it ends with a dot. What cannot be a name is left out.
    pub fn candidates(&self, name: &str) -> Vec<Name> {
        if let Some(name) = name.strip_suffix('.') {
            return absolute(name).into_iter().collect();
        }
        let dots = name.matches('.').count();
        let mut texts: Vec<String> = Vec::new();
        if dots >= self.ndots {
            texts.push(name.to_owned());
        }
        for domain in &self.search {
            match domain.trim_matches('.') {
                "" => texts.push(name.to_owned()),
                domain => texts.push(format!("{name}.{domain}")),
            }
        }
        if dots > 0 || !self.no_tld_query {
            texts.push(name.to_owned());
        }
        let mut names = Vec::new();
        for name in texts.iter().filter_map(|text| absolute(text)) {
            if !names.contains(&name) {
                names.push(name);
            }
        }
        names
    }
}

/// The name with exactly these labels, whatever their characters; `None` if one is empty or too long, or if it is too long
/// as a whole.
pub fn absolute(text: &str) -> Option<Name> {
    Name::from_labels(text.split('.').map(str::as_bytes)).ok()
}

/// The address of a name server. Of an IPv6 address the interface may follow after `%`.
fn server(word: &str) -> Option<SocketAddr> {
    if let Ok(Host::Address(ip)) = Host::parse(word) {
        return Some(SocketAddr::new(ip, PORT));
    }
    let (ip, interface) = word.split_once('%')?;
    let scope = interface.parse().ok().or_else(|| net::interface_index(interface)).unwrap_or(0);
    Some(SocketAddrV6::new(ip.parse::<Ipv6Addr>().ok()?, PORT, 0, scope).into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Conf {
        Conf::read(text.as_bytes(), "host.corp.example", |_| None)
    }

    #[test]
    fn servers_are_read_as_the_c_library_reads_them() {
        for (text, servers) in [
            ("", &["127.0.0.1:53"][..]),
            ("# nothing\n; at all\nsearch lab\n", &["127.0.0.1:53"]),
            (
                "nameserver 10.0.0.1\nnameserver\t10.0.0.2 # the second\n nameserver 10.0.0.9\n",
                &["10.0.0.1:53", "10.0.0.2:53"],
            ),
            ("nameserver 10.0.0.1\r\n", &["127.0.0.1:53"]),
            ("nameserver fe80::1%7", &["[fe80::1%7]:53"]),
            ("nameserver fe80::1%nosuch0", &["[fe80::1]:53"]),
            ("nameserver fe80::1%lo", &["[fe80::1%1]:53"]),
            ("nameserver 10.0.0.256\nnameserver name.example\nnameserver 2001:db8::1", &["[2001:db8::1]:53"]),
            (
                "nameserver 10.0.0.1\nnameserver 10.0.0.2\nnameserver 10.0.0.3\nnameserver 10.0.0.4",
                &["10.0.0.1:53", "10.0.0.2:53", "10.0.0.3:53"],
            ),
            ("nameserver", &["127.0.0.1:53"]),
        ] {
            let servers: Vec<SocketAddr> = servers.iter().map(|text| text.parse().unwrap()).collect();
            assert_eq!(read(text).servers, servers, "{text:?}");
            assert_eq!(read(text).is_configured, servers[0].ip() != Ipv4Addr::LOCALHOST, "{text:?}");
        }
    }

    #[test]
    fn the_last_line_of_domains_counts_and_names_are_tried_in_the_order_of_the_c_library() {
        let names = |conf: &str, name: &str| {
            let names = read(conf).candidates(name);
            names.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
        };
        for (conf, name, tried) in [
            ("", "web", "web.corp.example. web."),
            ("domain lab", "web", "web.lab. web."),
            ("search a b\nsearch c d", "web", "web.c. web.d. web."),
            ("search a b\ndomain c", "web", "web.c. web."),
            ("search a b", "web.lab", "web.lab. web.lab.a. web.lab.b."),
            ("search a\noptions ndots:2", "web.lab", "web.lab.a. web.lab."),
            ("search a\noptions ndots:0", "web", "web. web.a."),
            ("search a\noptions no-tld-query", "web", "web.a."),
            ("search . a", "web", "web. web.a."),
            ("search a", "web.", "web."),
            ("search bad..domain a", "web", "web.a. web."),
            ("search\tlab\t ", "_a_b", "_a_b.lab. _a_b."),
        ] {
            assert_eq!(names(conf, name), tried, "{conf:?} {name}");
        }
        let long = format!("search {}", "d".repeat(60));
        let name = ["n".repeat(63), "n".repeat(63), "n".repeat(63), "n".repeat(61)].join(".");
        assert_eq!(
            (name.len(), read(&long).candidates(&name).len()),
            (253, 1),
            "no longer than a name may be"
        );
    }

    #[test]
    fn options_are_read_within_their_bounds_and_others_are_passed_over() {
        let conf = read(
            "options ndots:99 timeout:1 attempts:9 rotate use-vc edns0 single-request\noptions bad bad:1 timeout:x no-aaaa",
        );
        let expected = Conf {
            ndots: 15,
            timeout: Some(Duration::from_secs(1)),
            attempts: 5,
            rotate: true,
            tcp: true,
            edns: true,
            one_at_a_time: true,
            no_ipv6: true,
            ..read("")
        };
        assert_eq!(conf, expected);
        let variable = |name: &str| match name {
            "LOCALDOMAIN" => Some("a b".to_owned()),
            _ => Some("attempts:1".to_owned()),
        };
        let conf = Conf::read(b"search c\noptions attempts:3", "host", variable);
        assert_eq!((conf.search, conf.attempts), (vec!["a".to_owned(), "b".to_owned()], 1));
    }

    proptest! {
        #[test]
        fn any_file_is_a_configuration_with_a_server(
            text in proptest::collection::vec(any::<u8>(), 0..200), name in "[a-z_.-]{0,300}",
        ) {
            let conf = Conf::read(&text, "host", |_| None);
            prop_assert!((1..=3).contains(&conf.servers.len()));
            drop(conf.candidates(&name));
        }
    }
}
