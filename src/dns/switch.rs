//! Where the machine looks up host names: the line `hosts:` of nsswitch.conf(5).

/// One source of host names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Service {
    /// The hosts file.
    Files,
    /// Name servers.
    Dns,
    /// Another one, which only the C library knows: multicast DNS, the machine's own name, a directory.
    Other(String),
}

/// The sources in the order in which they are asked. Actions such as `[NOTFOUND=return]` are passed over.
pub fn read(text: &[u8]) -> Vec<Service> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let Some(line) = lines.filter_map(|line| line.trim_start().strip_prefix("hosts:")).next_back() else {
        return vec![Service::Files, Service::Dns];
    };
    let (mut services, mut rest) = (Vec::new(), line);
    while let Some((before, after)) = rest.split_once('[') {
        services.push(before);
        rest = after.split_once(']').map_or("", |(_, after)| after);
    }
    services.push(rest);
    let words = services.into_iter().flat_map(str::split_whitespace);
    words
        .map(|word| match word {
            "files" => Service::Files,
            "dns" => Service::Dns,
            other => Service::Other(other.to_owned()),
        })
        .collect()
}

/// The sources of this machine. Without a file: the hosts file, then name servers.
pub fn system() -> Vec<Service> {
    read(&crate::sys::resolver::switch())
}

impl Service {
    /// Whether it must be asked before name servers: `.local` belongs to multicast DNS (RFC 6762 §3).
    pub fn has_precedence(&self, name: &str) -> bool {
        let Self::Other(service) = self else { return false };
        service.starts_with("mdns") && (name == "local" || name.ends_with(".local"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sources_are_read_without_their_actions() {
        let words = |text: &str| {
            let word = |service| match service {
                Service::Files => "F".to_owned(),
                Service::Dns => "D".to_owned(),
                Service::Other(other) => other,
            };
            read(text.as_bytes()).into_iter().map(word).collect::<Vec<_>>().join(" ")
        };
        for (text, expected) in [
            ("", "F D"),
            ("passwd: files sss\n", "F D"),
            ("hosts: files dns", "F D"),
            ("hosts:\tdns files # comment\n", "D F"),
            (
                "# hosts: none\n  hosts: files mdns4_minimal [NOTFOUND=return] dns mymachines",
                "F mdns4_minimal D mymachines",
            ),
            (
                "hosts: files myhostname resolve [!UNAVAIL=return TRYAGAIN=continue] dns",
                "F myhostname resolve D",
            ),
            ("hosts: files", "F"),
            ("hosts: files [broken", "F"),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
        drop(read(b"hosts: \xff [\n hosts:]["));
        let mdns = Service::Other("mdns4_minimal".into());
        assert!(mdns.has_precedence("printer.local") && !mdns.has_precedence("printer.lab"));
        assert!(!Service::Other("myhostname".into()).has_precedence("printer.local"));
    }
}
