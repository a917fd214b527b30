//! `laneway env --system`: the proxy settings of desktops, whose programs are scripts that keep the settings in files.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use crate::machine::{Machine, Output};

const GSETTINGS: &str = r#"#!/bin/sh
case "$1" in
list-schemas) echo org.gnome.system.proxy ;;
get) cat "$KEPT/gnome.$2.$3" 2>/dev/null || echo "''" ;;
set) echo "$4" >"$KEPT/gnome.$2.$3" ;;
esac
"#;

const KREADCONFIG: &str = r#"#!/bin/sh
cat "$KEPT/kde.$6" 2>/dev/null || true
"#;

const KWRITECONFIG: &str = r#"#!/bin/sh
case "$7" in
--delete) rm -f "$KEPT/kde.$6" ;;
--) echo "$8" >"$KEPT/kde.$6" ;;
esac
"#;

/// A machine with these programs, and nothing else but those of the system.
struct Desktop(Machine);

impl Desktop {
    fn new(programs: &[(&str, &str)]) -> Self {
        let machine = Machine::new();
        for name in ["bin", "kept"] {
            fs::create_dir(machine.path(name)).unwrap();
        }
        for (name, script) in programs {
            let path = machine.path("bin").join(name);
            fs::write(&path, script).unwrap();
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self(machine)
    }

    fn env(&self, arguments: &[&str]) -> Output {
        let mut command = self.0.command([&["env", "--no-check", "--system"], arguments].concat());
        command.env("PATH", format!("{}:/nonexistent", self.0.path("bin").display()));
        command.env("KEPT", self.0.path("kept"));
        // The scripts need the programs of the system, which have no settings of a desktop.
        for tool in ["sh", "cat", "rm", "echo"] {
            let link = self.0.path("bin").join(tool);
            let _ = std::os::unix::fs::symlink(Path::new("/bin").join(tool), link);
        }
        Output::of(&mut command)
    }

    /// All settings that are kept, sorted.
    fn kept(&self) -> Vec<String> {
        let files = fs::read_dir(self.0.path("kept")).unwrap().map(|file| file.unwrap());
        let line = |file: fs::DirEntry| {
            let text = fs::read_to_string(file.path()).unwrap();
            format!("{} {}", file.file_name().to_string_lossy(), text.trim_end())
        };
        let mut lines: Vec<_> = files.map(line).filter(|line| !line.ends_with(" ''")).collect();
        lines.sort();
        lines
    }

    fn keep(&self, name: &str, value: &str) {
        fs::write(self.0.path("kept").join(name), format!("{value}\n")).unwrap();
    }
}

const BOTH: [(&str, &str); 3] =
    [("gsettings", GSETTINGS), ("kreadconfig5", KREADCONFIG), ("kwriteconfig5", KWRITECONFIG)];

#[test]
fn the_settings_of_desktops_are_set_and_restored() {
    let desktop = Desktop::new(&BOTH);
    desktop.keep("gnome.org.gnome.system.proxy.mode", "'auto'");
    desktop.keep("gnome.org.gnome.system.proxy.autoconfig-url", "'http://proxy.example/p.pac'");
    desktop.keep("kde.ProxyType", "2");
    desktop.keep("kde.Proxy Config Script", "http://proxy.example/p.pac");
    let before = desktop.kept();

    let said = desktop.env(&["on"]).success().stdout;
    assert!(said.starts_with("GNOME, KDE Plasma: software uses the proxy 127.0.0.1:1080\n"), "{said}");
    let set = desktop.kept().join("\n");
    for line in [
        "gnome.org.gnome.system.proxy.mode 'manual'",
        "gnome.org.gnome.system.proxy.https.host '127.0.0.1'",
        "kde.httpProxy http://127.0.0.1 1080",
        "kde.ProxyType 1",
    ] {
        assert!(set.contains(line), "{line} is not in\n{set}");
    }
    assert!(!set.contains("proxy.example"), "{set}");

    // With another port, and again: what is restored is what was there before the first.
    desktop.env(&["on", "--proxy", "127.0.0.1:1090"]).success();
    assert!(desktop.kept().join("\n").contains("kde.socksProxy socks://127.0.0.1 1090"));
    desktop.env(&["off"]).success();
    let restored: Vec<_> = desktop.kept().into_iter().filter(|line| !line.contains("port 0")).collect();
    assert_eq!(restored, before);
    assert!(desktop.env(&["off"]).success().stdout.contains("nothing to restore"));
}

#[test]
fn settings_that_somebody_has_changed_meanwhile_stay() {
    let desktop = Desktop::new(&BOTH);
    desktop.env(&["on"]).success();
    desktop.keep("gnome.org.gnome.system.proxy.http.host", "'other.example'");
    let changed = desktop.kept();
    assert!(desktop.env(&["off"]).success().stdout.contains("were changed since"));
    assert_eq!(desktop.kept(), changed);
}

#[test]
fn a_system_without_such_settings_says_what_to_use_instead() {
    let desktop = Desktop::new(&[]);
    desktop.env(&["on"]).failed(
        1,
        &["error: this system has no proxy settings that laneway knows", "hint: for a shell: 'laneway env'"],
    );
}

#[test]
fn settings_that_are_not_kept_are_an_error() {
    let forgetful = GSETTINGS.replace("set) echo \"$4\"", "set) echo \"'none'\"");
    let desktop = Desktop::new(&[("gsettings", &forgetful)]);
    desktop
        .env(&["on"])
        .failed(1, &["error: GNOME does not keep the setting", "hint: run it as the user of the desktop"]);
    assert!(desktop.env(&["off"]).success().stdout.contains("nothing to restore"));
}
