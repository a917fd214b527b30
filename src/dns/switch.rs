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

/// A source in the line, and whether the ones after it are asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// The source.
    pub service: Service,
    /// They are not if this one says that it does not know the name (`[NOTFOUND=return]`).
    pub ends_if_unknown: bool,
    /// They are not if this one fails or does not answer (`[UNAVAIL=return]`).
    pub ends_if_unavailable: bool,
}

/// The sources in the order in which they are asked, each with its actions.
pub fn read(text: &[u8]) -> Vec<Source> {
    let text = String::from_utf8_lossy(text);
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    let Some(line) = lines.filter_map(|line| line.trim_start().strip_prefix("hosts:")).next_back() else {
        return vec![Source::of("files"), Source::of("dns")];
    };
    let (mut sources, mut rest) = (Vec::new(), line);
    loop {
        let (before, after) = rest.split_once('[').unwrap_or((rest, ""));
        sources.extend(before.split_whitespace().map(Source::of));
        if after.is_empty() {
            return sources;
        }
        let (actions, after) = after.split_once(']').unwrap_or((after, ""));
        if let Some(source) = sources.last_mut() {
            source.take(actions);
        }
        rest = after;
    }
}

/// The sources of this machine. Without a file: the hosts file, then name servers.
pub fn system() -> Vec<Source> {
    read(&crate::sys::resolver::switch())
}

impl Source {
    fn of(word: &str) -> Self {
        let service = match word {
            "files" => Service::Files,
            "dns" => Service::Dns,
            other => Service::Other(other.to_owned()),
        };
        Self { service, ends_if_unknown: false, ends_if_unavailable: false }
    }

    /// Reads actions like `NOTFOUND=return !UNAVAIL = continue`. With `!` an action is that of all other results.
    fn take(&mut self, actions: &str) {
        let spaced = actions.replace('=', " = ");
        let words: Vec<_> = spaced.split_whitespace().collect();
        for action in words.chunks_exact(3) {
            let ends = action[2].eq_ignore_ascii_case("return");
            let (is_negated, result) =
                action[0].strip_prefix('!').map_or((false, action[0]), |result| (true, result));
            for (name, flag) in
                [("NOTFOUND", &mut self.ends_if_unknown), ("UNAVAIL", &mut self.ends_if_unavailable)]
            {
                if name.eq_ignore_ascii_case(result) != is_negated {
                    *flag = ends;
                }
            }
        }
    }
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
    fn the_sources_are_read_with_the_actions_that_end_the_search() {
        let words = |text: &str| {
            let word = |source: Source| {
                let word = match source.service {
                    Service::Files => "F".to_owned(),
                    Service::Dns => "D".to_owned(),
                    Service::Other(other) => other,
                };
                let mark = |is_set, mark: &'static str| if is_set { mark } else { "" };
                word + mark(source.ends_if_unknown, "?") + mark(source.ends_if_unavailable, "!")
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
                "F mdns4_minimal? D mymachines",
            ),
            (
                "hosts: files myhostname resolve [!UNAVAIL=return TRYAGAIN=continue] dns",
                "F myhostname resolve? D",
            ),
            ("hosts: files", "F"),
            ("hosts: files [broken", "F"),
            ("hosts: files [NOTFOUND=return] dns", "F? D"),
            ("hosts: dns [ notfound = RETURN ] files", "D? F"),
            ("hosts: dns [!UNAVAIL=return]files", "D? F"),
            ("hosts: dns [!SUCCESS=return NOTFOUND=continue] files [UNAVAIL=return", "D! F!"),
            ("hosts: dns [TRYAGAIN=return SUCCESS=return] [NOTFOUND=return] files", "D? F"),
            ("hosts: [NOTFOUND=return] dns [NOTFOUND=", "D"),
        ] {
            assert_eq!(words(text), expected, "{text:?}");
        }
        drop(read(b"hosts: \xff [\n hosts:]["));
        let mdns = Source::of("mdns4_minimal").service;
        assert!(mdns.has_precedence("printer.local") && !mdns.has_precedence("printer.lab"));
        assert!(!Source::of("myhostname").service.has_precedence("printer.local"));
    }
}
