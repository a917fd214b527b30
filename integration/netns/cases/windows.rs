//! Windows and Linux in one group: the Windows program is run by Wine.

use super::curl::{BIG, DIALECTS};
use crate::lab::group::{START, forget_gateways, init, laneway, links, state, up};
use crate::lab::load::Load;
use crate::lab::origin::{big, sha256};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until, wine};
use nix::sys::signal::Signal;
use std::path::Path;
use std::time::Duration;

/// These trials need a Windows program, so they run only when it was built.
pub(super) const CASES: &[Case] = &[
    (
        "windows::a_windows_client_downloads_through_a_linux_gateway",
        a_windows_client_downloads_through_a_linux_gateway,
    ),
    (
        "windows::a_linux_client_downloads_through_a_windows_gateway",
        a_linux_client_downloads_through_a_windows_gateway,
    ),
    ("windows::a_killed_windows_gateway_fails_no_request", a_killed_windows_gateway_fails_no_request),
    ("windows::the_demo_runs_on_windows", the_demo_runs_on_windows),
    ("windows::the_service_drains_before_it_stops", the_service_drains_before_it_stops),
    (
        "windows::the_proxy_settings_of_windows_are_set_and_restored",
        the_proxy_settings_of_windows_are_set_and_restored,
    ),
    (
        "windows::state_is_kept_in_a_path_with_blanks_and_umlauts",
        state_is_kept_in_a_path_with_blanks_and_umlauts,
    ),
    ("windows::what_windows_lacks_is_refused_at_once", what_windows_lacks_is_refused_at_once),
];

/// New requests per second.
const RATE: u32 = 40;
/// The whole demo, on a machine that does other things besides.
const DEMO: Duration = Duration::from_secs(120);

/// Downloads the big file at the client `c1` through the gateway `g1`, in each dialect, and then runs `then`. `on_windows`
/// is one of the two. Only its broadcast can find the gateway.
fn downloads_with_windows_at(lab: &Lab, on_windows: &str, then: impl FnOnce(&Host, &Host)) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _wine = wine::install(if on_windows == c1.name { &c1 } else { &g1 });
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    forget_gateways(&c1);
    let _node = group.client(&c1, &[]);
    for dialect in DIALECTS {
        let download = c1.curl(&[dialect, &[BIG]].concat()).success();
        assert_eq!(sha256(&download.stdout), big().sha256, "{dialect:?}");
    }
    then(&c1, &g1);
}

fn a_windows_client_downloads_through_a_linux_gateway(lab: &Lab) {
    downloads_with_windows_at(lab, "c1", |c1, _| {
        let status = laneway(c1, &["status"]).success().text();
        assert!(status.contains("g1"), "{status}");
        let doctor = laneway(c1, &["doctor", "--server", "10.88.0.100:80"]).success().text();
        assert!(doctor.contains("request") && !doctor.contains("wrong"), "{doctor}");
        let found = laneway(c1, &["discover"]).success().text();
        assert!(found.contains("g1"), "{found}");
    });
}

fn a_linux_client_downloads_through_a_windows_gateway(lab: &Lab) {
    downloads_with_windows_at(lab, "g1", |_, g1| names_the_firewall_rule_that_is_missing(g1));
}

/// The firewall of Windows, as far as its settings go: Wine filters nothing.
fn names_the_firewall_rule_that_is_missing(g1: &Host) {
    let doctor = laneway(g1, &["doctor", "--server", "10.88.0.100:80"]).success().text();
    assert!(!doctor.contains("wrong"), "{doctor}");

    let policy = r"HKLM\SYSTEM\CurrentControlSet\Services\SharedAccess\Parameters\FirewallPolicy";
    let set = |key: &str, value: &[&str]| {
        let key = format!(r"{policy}\{key}");
        g1.output(wine::command(g1, &[&["reg", "add", &key, "/f"], value].concat())).success();
    };
    set("StandardProfile", &["/v", "EnableFirewall", "/t", "REG_DWORD", "/d", "1"]);
    let doctor = laneway(g1, &["doctor", "--server", "10.88.0.100:80"]);
    assert!(
        doctor.code() == 1 && doctor.text().contains("netsh advfirewall firewall add rule name=laneway"),
        "{doctor}"
    );
    let rule = r"v2.31|Action=Allow|Active=TRUE|Dir=In|App=C:\laneway.exe|Name=laneway|";
    set("FirewallRules", &["/v", "{7420}", "/d", rule]);
    let doctor = laneway(g1, &["doctor", "--server", "10.88.0.100:80"]).success().text();
    assert!(doctor.contains("has the rule 'laneway'"), "{doctor}");
}

fn a_killed_windows_gateway_fails_no_request(lab: &Lab) {
    let _web = lab.web(who);
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _wine = wine::install(&g1);
    let mut group = lab.group(&[&g1, &c1, &g2], &[]);
    let _client = group.client(&c1, &[]);
    let load = Load::start(&c1, RATE);
    load.wait_for_service_by(g1.addresses()[1], 20);
    let _other = group.gateway(&g2, &[]);
    wait_until("the client to have a link to each gateway", || links(&c1) == 2);
    group.gateway.signal(Signal::SIGKILL);
    group.gateway.wait(START);
    load.wait_for_service_by(g2.addresses()[1], 40);
    load.stop().no_failure();
}

fn the_demo_runs_on_windows(lab: &Lab) {
    let c1 = lab.client("c1");
    let _wine = wine::install(&c1);
    let demo = c1.spawn(c1.laneway(&["demo", "--size", "32M"])).finish(DEMO).success();
    let said = demo.text();
    assert_eq!(said.matches("SHA-256 is right").count(), 3, "{said}");
    assert!(said.contains("is killed") && said.contains("first new request after the kill"), "{said}");
}

fn the_service_drains_before_it_stops(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _wine = wine::install(&c1);
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let service = |command: &str| laneway(&c1, &["service", command]);
    let log = || std::fs::read_to_string(state(&c1).join("laneway.log")).unwrap_or_default();
    let status = || {
        let status = service("status");
        assert_eq!(status.code(), 0, "{status}\n{}", log());
        status.text()
    };

    // The account of the service may not enter the directory of a user.
    let users = c1.directory().join("wine/drive_c/users/root");
    let aid = Path::new(&std::env::var_os("LANEWAY_WINDOWS_PROGRAM").unwrap())
        .with_file_name("bcryptprimitives.dll");
    std::fs::copy(std::env::var_os("LANEWAY_WINDOWS_PROGRAM").unwrap(), users.join("laneway.exe")).unwrap();
    std::fs::copy(aid, users.join("bcryptprimitives.dll")).unwrap();
    let private = c1.output(wine::command(&c1, &[r"C:\Users\ROOT\laneway.exe", "service", "install"]));
    assert!(private.code() == 1 && private.stderr.contains(r"C:\Program Files\laneway"), "{private}");

    let absent = service("status");
    assert!(absent.code() == 1 && absent.stderr.contains("'laneway service install'"), "{absent}");
    service("install").success();
    assert!(status().contains("runs"), "the service does not run");
    assert!(service("install").success().text().contains("installed already"));
    let another = laneway(&c1, &["up"]);
    assert!(another.code() != 0 && another.stderr.contains("a node runs here already"), "{another}");
    wait_until("the service to have a link", || links(&c1) == 1);

    // A slow download that is under way when the service is told to stop.
    let mut slow = c1.command("curl");
    let limited =
        ["--silent", "--show-error", "--limit-rate", "24M", "--proxy", "http://127.0.0.1:1080", BIG];
    slow.args(limited);
    let slow = c1.spawn(slow);
    wait_until("the download to begin", || slow.printed() > 1 << 20);
    service("stop").success();
    let download = slow.finish(START).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    assert!(status().contains("does not run"));
    let log = log();
    assert!(log.contains("stopping: open connections may finish") && log.ends_with("stopped\n"), "{log}");

    service("start").success();
    service("remove").success();
    assert!(service("start").stderr.contains("there is no laneway service"));
    drop(group);
}

fn the_proxy_settings_of_windows_are_set_and_restored(lab: &Lab) {
    let c1 = lab.client("c1");
    let _wine = wine::install(&c1);
    let key = r"HKCU\Software\Microsoft\Windows\CurrentVersion\Internet Settings";
    let reg = |arguments: &[&str]| c1.output(wine::command(&c1, &[&["reg"], arguments].concat()));
    let shown = || reg(&["query", key]).success().text();
    reg(&["add", key, "/v", "AutoConfigURL", "/d", "http://proxy.example/p.pac", "/f"]).success();
    let before = shown();

    laneway(&c1, &["env", "--system", "on", "--no-check"]).success();
    let set = shown();
    assert!(set.contains("127.0.0.1:1080") && !set.contains("p.pac"), "{set}");
    laneway(&c1, &["env", "--system", "on", "--no-check", "--proxy", "127.0.0.1:1090"]).success();
    laneway(&c1, &["env", "--system", "off"]).success();
    let (mut expected, mut restored): (Vec<_>, String) = (before.lines().collect(), shown());
    expected.sort_unstable();
    let mut lines: Vec<_> = restored.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines, expected);
    // Nothing is left to restore; what somebody else has set meanwhile stays.
    laneway(&c1, &["env", "--system", "on", "--no-check"]).success();
    reg(&["add", key, "/v", "ProxyServer", "/d", "other.example:8080", "/f"]).success();
    assert!(laneway(&c1, &["env", "--system", "off"]).success().text().contains("changed since"));
    restored = shown();
    assert!(restored.contains("other.example:8080"), "{restored}");
}

fn state_is_kept_in_a_path_with_blanks_and_umlauts(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _wine = wine::install(&c1);
    let _origin = lab.origin();
    let code = init(&g1);
    let _gateway = up(&g1, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    let home = r"C:\users\Jörg Müller (日本)\App Data";
    c1.set("LANEWAY_STATE", home);
    let run = |arguments: &[&str]| c1.output(c1.laneway(arguments));
    run(&["join", &code, "--name", "c1"]).success();
    let mut node = c1.spawn(c1.laneway(&["up"]));
    node.wait_for_line("link up", START);
    let download = c1.curl(&[DIALECTS[0], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
    let second = run(&["up"]);
    assert!(second.stderr.contains("Jörg Müller (日本)"), "{second}");
}

fn what_windows_lacks_is_refused_at_once(lab: &Lab) {
    let c1 = lab.client("c1");
    let _wine = wine::install(&c1);
    for (arguments, why, hint) in [
        (&["transparent", "up"][..], "transparent mode needs Linux", "'laneway run -- CMD'"),
        (
            &["up", "--transparent", "127.0.0.1:1081"],
            "transparent mode needs Linux",
            "'laneway env --system on'",
        ),
        (&["run", "--all", "--", "cmd"], "--all needs Linux", "'laneway run -- CMD'"),
        (&["service", "run"], "has not started this process", "'laneway service start'"),
    ] {
        let refused = laneway(&c1, arguments);
        assert_eq!(refused.code(), 2, "{arguments:?}: {refused}");
        assert!(refused.stderr.contains(why) && refused.stderr.contains(hint), "{arguments:?}: {refused}");
    }
}
