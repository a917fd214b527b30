//! The desktops of Linux and its kin.

use std::net::SocketAddr;

use super::program::output;
use super::setting::{ProxyError, Setting};

/// The store of GNOME, Cinnamon, Budgie and others.
const GNOME: &str = "org.gnome.system.proxy";
/// The stores below it, with their keys.
const GNOME_KEYS: [(&str, &[&str]); 5] = [
    (GNOME, &["autoconfig-url", "ignore-hosts", "mode"]),
    ("org.gnome.system.proxy.http", &["host", "port", "use-authentication"]),
    ("org.gnome.system.proxy.https", &["host", "port"]),
    ("org.gnome.system.proxy.ftp", &["host", "port"]),
    ("org.gnome.system.proxy.socks", &["host", "port"]),
];
/// The file of KDE Plasma, and the group in it.
const KDE: &str = "kioslaverc";
const KDE_GROUP: &str = "Proxy Settings";
const KDE_KEYS: [&str; 7] =
    ["Proxy Config Script", "httpProxy", "httpsProxy", "ftpProxy", "socksProxy", "NoProxyFor", "ProxyType"];
/// The versions of KDE's programs, the newest first.
const KDE_VERSIONS: [&str; 2] = ["6", "5"];

/// What to do when the settings cannot be changed.
pub(super) const REFUSED: &str =
    "run it as the user of the desktop, in a terminal of its session, and not by sudo or ssh";

pub(super) fn name_of(store: &str) -> &'static str {
    if store == KDE { "KDE Plasma" } else { "GNOME" }
}

fn setting(store: &str, key: &str, value: Option<&str>) -> Setting {
    Setting { store: store.into(), key: key.into(), value: value.map(Into::into) }
}

/// Whether the program can be run.
fn exists(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}

fn kde_program(verb: &str) -> Option<String> {
    KDE_VERSIONS.iter().map(|version| format!("k{verb}config{version}")).find(|name| exists(name))
}

pub(super) fn current() -> Result<Vec<Setting>, ProxyError> {
    let mut found = Vec::new();
    // A machine may have the program without any desktop's settings.
    if exists("gsettings") && output("gsettings", &["list-schemas"])?.lines().any(|schema| schema == GNOME) {
        for (store, keys) in GNOME_KEYS {
            for key in keys {
                let value = output("gsettings", &["get", store, key])?;
                found.push(setting(store, key, Some(value.trim_end())));
            }
        }
    }
    if let (Some(read), Some(_)) = (kde_program("read"), kde_program("write")) {
        for key in KDE_KEYS {
            let value = output(&read, &["--file", KDE, "--group", KDE_GROUP, "--key", key])?;
            let value = value.trim_end_matches('\n');
            found.push(setting(KDE, key, Some(value).filter(|value| !value.is_empty())));
        }
    }
    Ok(found)
}

pub(super) fn through(proxy: SocketAddr, current: &[Setting]) -> Vec<Setting> {
    let (host, port) = (proxy.ip().to_string(), proxy.port().to_string());
    let quoted = format!("'{host}'");
    let of_kde = |scheme: &str| match proxy {
        SocketAddr::V4(_) => format!("{scheme}://{host} {port}"),
        SocketAddr::V6(_) => format!("{scheme}://[{host}] {port}"),
    };
    let (web, socks) = (of_kde("http"), of_kde("socks"));
    let wanted = |one: &Setting| {
        let value = match (&*one.store, &*one.key) {
            (GNOME, "mode") => "'manual'",
            (GNOME, "ignore-hosts") => "['localhost', '127.0.0.0/8', '::1']",
            (GNOME, _) => "''",
            // FTP has no proxy of its own: software falls back to SOCKS.
            ("org.gnome.system.proxy.ftp", "host") => "''",
            ("org.gnome.system.proxy.ftp", _) => "0",
            (_, "use-authentication") => "false",
            (_, "host") => &quoted,
            (_, "port") => &port,
            (_, "ProxyType") => "1",
            (_, "NoProxyFor") => "localhost,127.0.0.0/8,::1",
            (_, "socksProxy") => &socks,
            (_, "httpProxy" | "httpsProxy") => &web,
            _ => return Setting { value: None, ..one.clone() },
        };
        Setting { value: Some(value.into()), ..one.clone() }
    };
    current.iter().map(wanted).collect()
}

pub(super) fn apply(settings: &[Setting]) -> Result<(), ProxyError> {
    for Setting { store, key, value } in settings.iter().filter(|setting| setting.store != KDE) {
        match value {
            Some(value) => output("gsettings", &["set", store, key, value])?,
            None => output("gsettings", &["reset", store, key])?,
        };
        // Without a running session the program keeps nothing, and says nothing.
        let kept = output("gsettings", &["get", store, key])?;
        if value.as_ref().is_some_and(|value| value != kept.trim_end()) {
            return Err(ProxyError::Refused {
                what: format!("GNOME does not keep the setting {store} {key}"),
                why: format!(
                    "it is {} after it was set to {}",
                    kept.trim_end(),
                    value.as_deref().unwrap_or_default()
                ),
            });
        }
    }
    apply_to_kde(settings)
}

fn apply_to_kde(settings: &[Setting]) -> Result<(), ProxyError> {
    let of_kde: Vec<_> = settings.iter().filter(|setting| setting.store == KDE).collect();
    let (Some(write), false) = (kde_program("write"), of_kde.is_empty()) else { return Ok(()) };
    for Setting { key, value, .. } in of_kde {
        let place = ["--file", KDE, "--group", KDE_GROUP, "--key", key];
        let value = value.as_deref().map_or(["--delete", ""], |value| ["--", value]);
        output(&write, &[&place[..], &value].concat())?;
    }
    // Programs that run read the file again at this signal. Without a session there are none.
    let _ = output(
        "dbus-send",
        &["--type=signal", "/KIO/Scheduler", "org.kde.KIO.Scheduler.reparseSlaveConfiguration", "string:"],
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_of_both_desktops_name_the_proxy_in_their_own_syntax() {
        let keys =
            GNOME_KEYS.iter().flat_map(|(store, keys)| keys.iter().map(|key| setting(store, key, None)));
        let current: Vec<_> = keys.chain(KDE_KEYS.iter().map(|key| setting(KDE, key, Some("x")))).collect();
        let wanted = through("127.0.0.1:1080".parse().unwrap(), &current);
        let value = |store: &str, key: &str| {
            let found = wanted.iter().find(|one| one.store == store && one.key == key);
            found.unwrap().value.clone().unwrap_or_else(|| "unset".into())
        };
        assert_eq!(value(GNOME, "mode"), "'manual'");
        assert_eq!(value("org.gnome.system.proxy.https", "host"), "'127.0.0.1'");
        assert_eq!(value("org.gnome.system.proxy.socks", "port"), "1080");
        assert_eq!(value("org.gnome.system.proxy.ftp", "host"), "''");
        assert_eq!(value(KDE, "httpsProxy"), "http://127.0.0.1 1080");
        assert_eq!(value(KDE, "Proxy Config Script"), "unset");
        let wanted = through("[::1]:1080".parse().unwrap(), &current);
        assert!(wanted.iter().any(|one| one.value.as_deref() == Some("http://[::1] 1080")));
    }
}
