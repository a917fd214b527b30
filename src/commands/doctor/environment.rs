//! Settings of this machine that make software bypass the node.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use ipnet::IpNet;
use serde_json::Value;

use super::program::output_of;
use super::report::{Finding, Layer};
use crate::sys::state::quoted;
use crate::wire::target::{Host, Target, without_dot};

/// The variables in which software looks for its proxy.
const PROXY: [&str; 6] = ["http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"];
/// The variables in which software looks for exceptions.
const EXCEPT: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// The command that points a shell at the node.
const SET: &str = "eval \"$(laneway env)\"";

/// Where settings are read from.
pub(super) struct Settings {
    /// The environment variables of this process, inherited from the shell.
    pub(super) variables: Vec<(OsString, OsString)>,
    /// The user's home directory.
    pub(super) home: Option<PathBuf>,
    /// The directory of the system's configuration, `/etc`.
    pub(super) etc: PathBuf,
}

impl Settings {
    /// The settings that apply to this process.
    pub(super) fn of_this_process() -> Self {
        let home = std::env::var_os("HOME").map(PathBuf::from);
        Self { variables: std::env::vars_os().collect(), home, etc: "/etc".into() }
    }

    fn variable(&self, name: &str) -> Option<String> {
        let found = self.variables.iter().find(|(known, _)| known == name)?;
        Some(found.1.to_string_lossy().into_owned()).filter(|value| !value.is_empty())
    }

    /// Every setting that names another proxy than one of `proxies`, or an exception that covers one of `servers`.
    pub(super) fn bypasses(&self, proxies: &[SocketAddr], servers: &[Target]) -> Vec<Finding> {
        let mut found = self.other_proxies(proxies);
        found.extend(self.exceptions(servers));
        found.extend(self.docker(proxies));
        found.extend(apt(proxies));
        if found.is_empty() {
            let set: Vec<_> = PROXY.into_iter().filter(|name| self.variable(name).is_some()).collect();
            found.push(Finding::ok(
                Layer::Environment,
                match set.is_empty() {
                    true => format!("no proxy is set; '{SET}' points a shell at the node"),
                    false => format!("{} point to the node", set.join(", ")),
                },
            ));
        }
        found
    }

    fn other_proxies(&self, proxies: &[SocketAddr]) -> Vec<Finding> {
        let set = PROXY.into_iter().filter_map(|name| Some((name, self.variable(name)?)));
        let elsewhere = set.filter(|(_, value)| !points_to(value, proxies));
        let wrong = elsewhere.map(|(name, value)| {
            let value = without_password(&value);
            Finding::wrong(Layer::Environment, format!("{name} is {value}, which is not the node on this machine"))
                .hint(format!("{SET}; find where it is set: 'grep -rn {name} ~/.profile ~/.bashrc /etc/environment /etc/profile.d'"))
        });
        wrong.collect()
    }

    fn exceptions(&self, servers: &[Target]) -> Vec<Finding> {
        let mut found = Vec::new();
        for name in EXCEPT {
            let Some(value) = self.variable(name) else { continue };
            for server in servers {
                if let Some(entry) = value.split([',', ' ']).find(|entry| excludes(entry, server)) {
                    let what = format!("{name} excludes {server} from the proxy by its entry '{entry}'");
                    found.push(
                        Finding::wrong(Layer::Environment, what)
                            .because("software connects to that server directly, and cannot reach it")
                            .hint(format!("export {name}='{}'", without(&value, server))),
                    );
                }
            }
        }
        found
    }

    /// The proxies of Docker's daemon, which fetches images, and of its containers, which have a loopback of their own.
    fn docker(&self, proxies: &[SocketAddr]) -> Vec<Finding> {
        let mut found = Vec::new();
        let units = self.etc.join("systemd/system/docker.service.d");
        let units = std::fs::read_dir(units).into_iter().flatten().flatten().map(|entry| entry.path());
        for path in units {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            found.extend(unit_proxies(&text).into_iter().filter(|value| !points_to(value, proxies)).map(
                |value| {
                    elsewhere(
                        "Docker's daemon",
                        &value,
                        &path,
                        "systemctl daemon-reload && systemctl restart docker",
                    )
                },
            ));
        }
        let daemon = self.etc.join("docker/daemon.json");
        for value in json_proxies(&daemon, &["/proxies"], &["http-proxy", "https-proxy"]) {
            if !points_to(&value, proxies) {
                found.push(elsewhere("Docker's daemon", &value, &daemon, "systemctl restart docker"));
            }
        }
        let Some(client) = self.home.as_ref().map(|home| home.join(".docker/config.json")) else {
            return found;
        };
        for value in json_proxies(&client, &["/proxies/default"], &["httpProxy", "httpsProxy"]) {
            if host_of(&value).parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
                || host_of(&value) == "localhost"
            {
                let what = format!(
                    "containers get {} as their proxy, which is the loopback of the container itself",
                    without_password(&value)
                );
                found.push(
                    Finding::wrong(Layer::Environment, what)
                        .because(format!("set in {}", quoted(&client)))
                        .hint("remove it there, and use 'docker run $(laneway env --docker) …'"),
                );
            }
        }
        found
    }
}

/// The proxies in apt's configuration, as apt reports it.
fn apt(proxies: &[SocketAddr]) -> Vec<Finding> {
    let dump =
        output_of("apt-config", &["dump", "--format", "%f %v%n", "Acquire::http::Proxy"]).unwrap_or_default();
    apt_proxies(&dump)
        .into_iter()
        .filter(|(_, value)| !points_to(value, proxies))
        .map(|(name, value)| {
            let value = without_password(&value);
            let what = match value.as_str() {
                "DIRECT" => format!("apt uses no proxy: {name} is DIRECT"),
                _ => format!("apt uses {value} ({name}), which is not the node on this machine"),
            };
            Finding::wrong(Layer::Environment, what)
                .hint("'grep -rn Proxy /etc/apt/apt.conf*' finds the line; use 'laneway apt-proxy' instead")
        })
        .collect()
}

fn elsewhere(who: &str, value: &str, path: &Path, then: &str) -> Finding {
    let value = without_password(value);
    Finding::wrong(Layer::Environment, format!("{who} uses {value}, which is not the node on this machine"))
        .because(format!("set in {}", quoted(path)))
        .hint(format!("change it there, then '{then}'"))
}

/// The entries of a list of exceptions that do not cover this server.
fn without(list: &str, server: &Target) -> String {
    let entries = list.split([',', ' ']).map(str::trim).filter(|entry| !entry.is_empty());
    let kept: String = entries.filter(|entry| !excludes(entry, server)).collect::<Vec<_>>().join(",");
    // The text goes to a terminal, between quotation marks.
    kept.chars().filter(|c| !c.is_control() && *c != '\'').collect()
}

/// Whether a proxy's address, as software is configured with it, is one of the node's.
fn points_to(value: &str, proxies: &[SocketAddr]) -> bool {
    let host = host_of(value);
    let port = authority(value).rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
    proxies.iter().any(|proxy| {
        let is_host = match host.parse::<IpAddr>() {
            Ok(ip) => ip == proxy.ip() || ip.is_loopback() && proxy.ip().is_loopback(),
            Err(_) => host == "localhost" && proxy.ip().is_loopback(),
        };
        is_host && port == Some(proxy.port())
    })
}

/// `HOST:PORT` of a URL, with or without a scheme, a login and a path.
fn authority(url: &str) -> &str {
    let rest = url.split_once("://").map_or(url, |(_, rest)| rest);
    let rest = rest.split(['/', '?']).next().unwrap_or_default();
    rest.rsplit_once('@').map_or(rest, |(_, rest)| rest)
}

fn host_of(url: &str) -> String {
    let authority = authority(url);
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    host.to_ascii_lowercase()
}

/// The URL without its login, for display.
fn without_password(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").map_or(("", url), |(scheme, rest)| (scheme, rest));
    let shown = rest.rsplit_once('@').map_or_else(|| rest.to_owned(), |(_, rest)| format!("…@{rest}"));
    let shown = if scheme.is_empty() { shown } else { format!("{scheme}://{shown}") };
    // The text goes to a terminal.
    shown.chars().filter(|c| !c.is_control()).take(200).collect()
}

/// Whether an entry of no_proxy excludes this server from the proxy in some software: dialects differ, and the widest
/// one counts.
fn excludes(entry: &str, server: &Target) -> bool {
    let entry = entry.trim().to_ascii_lowercase();
    if entry.is_empty() {
        return false;
    }
    if entry == "*" {
        return true;
    }
    // A port, unless it is an IPv6 address.
    let (entry, port) = match entry.rsplit_once(':') {
        Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
            (host.to_owned(), port.parse::<u16>().ok())
        }
        _ => (entry, None),
    };
    if port.is_some_and(|port| port != server.port) {
        return false;
    }
    let entry = entry.trim_matches(['[', ']']);
    match &server.host {
        Host::Address(ip) => {
            let is_same = entry.parse::<IpAddr>().is_ok_and(|other| other == *ip);
            // Some software compares the text from its end, or from its beginning up to a dot.
            let text = ip.to_string();
            let is_part = entry.starts_with('.') && text.ends_with(entry)
                || entry.ends_with('.') && text.starts_with(entry);
            is_same || is_part || entry.parse::<IpNet>().is_ok_and(|net| net.contains(ip))
        }
        Host::Name(name) => {
            let suffix = without_dot(entry.trim_start_matches('*').trim_start_matches('.'));
            let name = without_dot(name);
            !suffix.is_empty() && (name == suffix || name.ends_with(&format!(".{suffix}")))
        }
    }
}

/// The proxies in the `Environment=` lines of a unit (systemd.exec(5)).
fn unit_proxies(text: &str) -> Vec<String> {
    let lines = text.lines().filter_map(|line| line.trim().strip_prefix("Environment="));
    let words = lines.flat_map(str::split_whitespace).map(|word| word.trim_matches(['"', '\'']));
    let set = words.filter_map(|word| word.split_once('='));
    set.filter(|(name, _)| PROXY.contains(name)).map(|(_, value)| value.to_owned()).collect()
}

fn json_proxies(path: &Path, at: &[&str], names: &[&str]) -> Vec<String> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let Ok(json) = serde_json::from_str::<Value>(&text) else { return Vec::new() };
    let objects = at.iter().filter_map(|at| json.pointer(at));
    let values = objects.flat_map(|object| names.iter().filter_map(|name| object[*name].as_str()));
    values.filter(|value| !value.is_empty()).map(str::to_owned).collect()
}

/// Names and values of `apt-config dump`.
fn apt_proxies(dump: &str) -> Vec<(String, String)> {
    let pairs = dump.lines().filter_map(|line| line.split_once(' '));
    let set = pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned()));
    set.filter(|(_, value)| !value.is_empty()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node() -> [SocketAddr; 1] {
        ["127.0.0.1:1080".parse().unwrap()]
    }

    fn target(text: &str) -> Target {
        text.parse().unwrap()
    }

    #[test]
    fn the_nodes_address_is_told_from_other_proxies() {
        for here in
            ["http://127.0.0.1:1080", "http://localhost:1080/", "127.0.0.1:1080", "socks5h://a:b@[::1]:1080"]
        {
            assert!(points_to(here, &node()), "{here}");
        }
        for elsewhere in
            ["http://127.0.0.1:3128", "http://10.0.0.1:1080", "http://proxy", "", "http://127.0.0.1"]
        {
            assert!(!points_to(elsewhere, &node()), "{elsewhere}");
        }
    }

    #[test]
    fn an_exception_excludes_a_server_in_any_dialect() {
        for (entry, server) in [
            ("*", "a.corp:80"),
            ("corp", "a.corp:80"),
            (".corp", "a.corp:80"),
            ("*.corp", "a.corp:80"),
            ("A.corp:80", "a.corp:80"),
            ("a.corp.", "a.corp:80"),
            ("corp", "a.corp.:80"),
            ("10.0.0.0/8", "10.0.0.5:80"),
            ("10.0.0.5", "10.0.0.5:80"),
            ("10.", "10.0.0.5:80"),
            ("fd00::/8", "[fd00::1]:80"),
            ("[fd00::1]:80", "[fd00::1]:80"),
        ] {
            assert!(excludes(entry, &target(server)), "{entry} {server}");
        }
        for (entry, server) in [
            ("", "a.corp:80"),
            ("orp", "a.corp:80"),
            ("a.corp:443", "a.corp:80"),
            ("localhost", "10.0.0.5:80"),
            ("127.0.0.1", "10.0.0.5:80"),
            ("::1", "10.0.0.5:80"),
            ("10.0.0.50", "10.0.0.5:80"),
            ("192.168.0.0/16", "10.0.0.5:80"),
        ] {
            assert!(!excludes(entry, &target(server)), "{entry} {server}");
        }
    }

    #[test]
    fn the_other_exceptions_are_kept() {
        let server = target("10.0.0.5:80");
        for (list, kept) in [
            ("localhost, 10.0.0.0/8,.corp", "localhost,.corp"),
            ("10.0.0.5", ""),
            ("a.corp 10.0.0.5:80 it's", "a.corp,its"),
        ] {
            assert_eq!(without(list, &server), kept, "{list}");
        }
    }

    #[test]
    fn bypasses_in_variables_and_docker_are_found_and_passwords_are_not_shown() {
        let directory = tempfile::tempdir().unwrap();
        let (home, etc) = (directory.path().join("home"), directory.path().join("etc"));
        for (path, text) in [
            (
                home.join(".docker/config.json"),
                r#"{"proxies":{"default":{"httpProxy":"http://127.0.0.1:1080"}}}"#,
            ),
            (etc.join("docker/daemon.json"), r#"{"proxies":{"http-proxy":"http://127.0.0.1:1080"}}"#),
            (
                etc.join("systemd/system/docker.service.d/proxy.conf"),
                "[Service]\nEnvironment=\"HTTP_PROXY=http://me:secret@10.0.0.1:3128\" \"NO_PROXY=x\"\n",
            ),
        ] {
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let set = |name: &str, value: &str| (OsString::from(name), OsString::from(value));
        let settings = Settings {
            variables: vec![
                set("http_proxy", "http://127.0.0.1:1080"),
                set("HTTPS_PROXY", "http://me:secret@proxy.corp:3128"),
                set("no_proxy", "localhost,10.0.0.0/8"),
            ],
            home: Some(home),
            etc,
        };
        let mut found = settings.other_proxies(&node());
        found.extend(settings.exceptions(&[target("10.0.0.5:80"), target("192.0.2.1:80")]));
        found.extend(settings.docker(&node()));
        let lines: Vec<_> = found.iter().map(|finding| finding.text(false)).collect();
        assert_eq!(found.len(), 4, "{lines:#?}");
        assert!(lines[0].contains("HTTPS_PROXY is http://…@proxy.corp:3128"), "{lines:#?}");
        assert!(
            lines[1].contains("no_proxy excludes 10.0.0.5:80") && lines[1].contains("'10.0.0.0/8'"),
            "{lines:#?}"
        );
        assert!(lines[2].contains("Docker's daemon uses http://…@10.0.0.1:3128"), "{lines:#?}");
        assert!(lines[3].contains("loopback of the container"), "{lines:#?}");
        assert!(!lines.concat().contains("secret"));
    }

    #[test]
    fn the_output_of_apt_config_is_parsed() {
        let dump = "Acquire::http::Proxy http://10.0.0.1:3128\nAcquire::http::Proxy::deb.corp DIRECT\nAcquire::http::Proxy \n";
        let expected =
            [("Acquire::http::Proxy", "http://10.0.0.1:3128"), ("Acquire::http::Proxy::deb.corp", "DIRECT")];
        assert_eq!(apt_proxies(dump), expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }
}
