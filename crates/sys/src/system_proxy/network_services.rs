//! The network services of macOS. Written after networksetup(8); only the reading of its output has been run.

use std::net::SocketAddr;

use super::program::output;
use super::setting::{ProxyError, Setting};

const PROGRAM: &str = "networksetup";
/// The kinds of proxy, as they are in the names of the options.
const KINDS: [&str; 3] = ["webproxy", "securewebproxy", "socksfirewallproxy"];
const BYPASS: &str = "proxybypassdomains";
const SCRIPT: &str = "autoproxyurl";
/// What needs no proxy: this machine, and the names and addresses that only this LAN knows.
const DIRECT: &str = "localhost 127.0.0.1 ::1 *.local 169.254/16";

/// What to do when the settings cannot be changed.
pub(super) const REFUSED: &str =
    "if it wants an administrator: 'sudo laneway env --system on', and later 'sudo laneway env --system off'";

pub(super) fn name_of(_: &str) -> &'static str {
    "macOS"
}

/// The names of the network services in the output of `-listallnetworkservices`: after a first line of explanation, and
/// without those that are switched off, which begin with a star.
fn services(text: &str) -> impl Iterator<Item = &str> {
    text.lines().skip(1).filter(|line| !line.is_empty() && !line.starts_with('*'))
}

/// The value of a line `name: value`.
fn field<'a>(text: &'a str, name: &str) -> &'a str {
    let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    found.unwrap_or_default().trim()
}

/// A proxy in one line: `Yes 127.0.0.1 1080`.
fn proxy(text: &str) -> String {
    [field(text, "Enabled"), field(text, "Server"), field(text, "Port")].join(" ")
}

pub(super) fn current() -> Result<Vec<Setting>, ProxyError> {
    let list = output(PROGRAM, &["-listallnetworkservices"])?;
    let mut found = Vec::new();
    for service in services(&list) {
        let mut add = |key: &str, value: String| {
            found.push(Setting { store: service.into(), key: key.into(), value: Some(value) });
        };
        for kind in KINDS {
            add(kind, proxy(&output(PROGRAM, &[&format!("-get{kind}"), service])?));
        }
        let script = output(PROGRAM, &[&format!("-get{SCRIPT}"), service])?;
        add(SCRIPT, format!("{} {}", field(&script, "Enabled"), field(&script, "URL")));
        let domains = output(PROGRAM, &[&format!("-get{BYPASS}"), service])?;
        // One a line, or a sentence where there are none.
        let domains = if domains.starts_with("There aren't any") { String::new() } else { domains };
        add(BYPASS, domains.split_whitespace().collect::<Vec<_>>().join(" "));
    }
    Ok(found)
}

pub(super) fn through(proxy: SocketAddr, current: &[Setting]) -> Vec<Setting> {
    let wanted = |one: &Setting| {
        let value = match &*one.key {
            BYPASS => DIRECT.into(),
            // The URL stays, and does nothing.
            SCRIPT => match one.value.as_deref().unwrap_or_default().split_once(' ') {
                Some((_, url)) => format!("No {url}"),
                None => "No (null)".into(),
            },
            _ => format!("Yes {} {}", proxy.ip(), proxy.port()),
        };
        Setting { value: Some(value), ..one.clone() }
    };
    current.iter().map(wanted).collect()
}

pub(super) fn apply(settings: &[Setting]) -> Result<(), ProxyError> {
    for setting in settings {
        for command in commands(setting) {
            let words: Vec<_> = command.iter().map(String::as_str).collect();
            output(PROGRAM, &words)?;
        }
    }
    Ok(())
}

/// The command lines that apply a setting.
fn commands(Setting { store, key, value }: &Setting) -> Vec<Vec<String>> {
    let value = value.as_deref().unwrap_or_default();
    let set = |words: &[&str]| -> Vec<String> {
        [&format!("-set{key}"), store.as_str()]
            .into_iter()
            .chain(words.iter().copied())
            .map(Into::into)
            .collect()
    };
    let state = |is_on: bool| -> Vec<String> {
        vec![format!("-set{key}state"), store.clone(), if is_on { "on" } else { "off" }.into()]
    };
    let words: Vec<_> = value.split(' ').collect();
    match (&**key, &*words) {
        // The program takes this word for an empty list.
        (BYPASS, [""]) => vec![set(&["Empty"])],
        (BYPASS, domains) => vec![set(domains)],
        (SCRIPT, ["Yes", url]) => vec![set(&[url]), state(true)],
        (_, [enabled, server, port]) if !server.is_empty() => {
            // Setting a server switches the proxy on.
            vec![set(&[server, port]), state(*enabled == "Yes")]
        }
        _ => vec![state(false)],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_networksetup_prints_is_read_and_set_again() {
        let list = "An asterisk (*) denotes that a network service is disabled.\nWi-Fi\n*USB LAN\nThunderbolt Bridge\n";
        assert_eq!(services(list).collect::<Vec<_>>(), ["Wi-Fi", "Thunderbolt Bridge"]);
        let text = "Enabled: Yes\nServer: proxy.example\nPort: 3128\nAuthenticated Proxy Enabled: 0\n";
        let setting = |key: &str, value: &str| Setting {
            store: "Wi-Fi".into(),
            key: key.into(),
            value: Some(value.into()),
        };
        let before = setting("webproxy", &proxy(text));
        assert_eq!(
            commands(&before),
            [
                vec!["-setwebproxy", "Wi-Fi", "proxy.example", "3128"],
                vec!["-setwebproxystate", "Wi-Fi", "on"]
            ]
        );
        let none = setting("webproxy", &proxy("Enabled: No\nServer: \nPort: 0\n"));
        assert_eq!(commands(&none), [["-setwebproxystate", "Wi-Fi", "off"]]);
        assert_eq!(commands(&setting(BYPASS, "")), [["-setproxybypassdomains", "Wi-Fi", "Empty"]]);
        assert_eq!(
            commands(&setting(SCRIPT, "Yes http://a/p.pac")),
            [
                vec!["-setautoproxyurl", "Wi-Fi", "http://a/p.pac"],
                vec!["-setautoproxyurlstate", "Wi-Fi", "on"]
            ]
        );
        let found = [none, setting(SCRIPT, "Yes http://a/p.pac"), setting(SCRIPT, "No (null)")];
        let on = through("127.0.0.1:1080".parse().unwrap(), &found);
        assert_eq!(commands(&on[0])[0], ["-setwebproxy", "Wi-Fi", "127.0.0.1", "1080"]);
        // What is read afterwards must be what was set, or nothing would be restored.
        assert_eq!(on[1].value.as_deref(), Some("No http://a/p.pac"));
        assert_eq!(commands(&on[1]), [["-setautoproxyurlstate", "Wi-Fi", "off"]]);
        assert_eq!(on[2].value.as_deref(), Some("No (null)"));
    }
}
