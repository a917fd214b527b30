//! `laneway drain` takes a gateway out of service without a failed request, and `laneway leave` a machine out of its group.

use super::curl::{BIG, HTTP};
use crate::lab::group::{START, laneway, state, up};
use crate::lab::load::Load;
use crate::lab::origin::{big, sha256};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};
use laneway::telemetry::snapshot::Snapshot;
use nix::sys::signal::Signal;

pub(super) const CASES: &[Case] = &[
    (
        "maintenance::a_drained_gateway_fails_no_request_and_serves_again_when_told",
        a_drained_gateway_fails_no_request_and_serves_again_when_told,
    ),
    (
        "maintenance::a_download_through_a_gateway_that_is_drained_arrives_whole",
        a_download_through_a_gateway_that_is_drained_arrives_whole,
    ),
    (
        "maintenance::the_only_gateway_says_why_it_serves_nobody_and_stays_so_after_a_restart",
        the_only_gateway_says_why_it_serves_nobody_and_stays_so_after_a_restart,
    ),
    (
        "maintenance::apps_are_told_of_all_gateways_that_are_drained_or_dead",
        apps_are_told_of_all_gateways_that_are_drained_or_dead,
    ),
    (
        "maintenance::a_machine_that_leaves_is_listed_as_left_and_its_old_keys_are_refused",
        a_machine_that_leaves_is_listed_as_left_and_its_old_keys_are_refused,
    ),
    (
        "maintenance::a_gateway_that_leaves_drains_and_another_passes_on_that_it_left",
        a_gateway_that_leaves_drains_and_another_passes_on_that_it_left,
    ),
    (
        "maintenance::a_departure_outlasts_the_restart_of_the_only_gateway_that_heard_it",
        a_departure_outlasts_the_restart_of_the_only_gateway_that_heard_it,
    ),
    (
        "maintenance::members_that_leave_one_right_after_the_other_are_all_told",
        members_that_leave_one_right_after_the_other_are_all_told,
    ),
    (
        "maintenance::members_shows_when_each_was_seen_and_with_which_version",
        members_shows_when_each_was_seen_and_with_which_version,
    ),
];

fn status(host: &Host) -> Snapshot {
    serde_json::from_str(&laneway(host, &["status", "--json"]).success().text()).unwrap()
}

fn a_drained_gateway_fails_no_request_and_serves_again_when_told(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let (first, second) = (&fleet.gateways[serving], &fleet.gateways[1 - serving]);
    let load = Load::start(&fleet.client, 60);
    load.wait_for_new(60);
    let said = laneway(&first.host, &["drain", "--wait", "30s"]).success().text();
    assert!(said.contains("until 'laneway drain --undo'"), "{said}");
    load.wait_for_service_by(second.outside(), 60);
    let seen = status(&first.host);
    assert!(seen.node.in_maintenance && seen.node.state.as_deref() == Some("withdrawn"), "{:?}", seen.node);
    assert!(seen.node.goes_direct, "its own apps go out as before");
    let text = laneway(&first.host, &["status"]).success().text();
    assert!(text.contains("in maintenance ('laneway drain --undo' ends it)"), "{text}");

    laneway(&first.host, &["drain", "--undo"]).success();
    wait_until("the gateway to stand by", || status(&first.host).node.state.as_deref() == Some("standby"));
    laneway(&second.host, &["drain"]).success();
    load.wait_for_service_by(first.outside(), 60);
    let report = load.stop();
    report.no_failure();
}

fn apps_are_told_of_all_gateways_that_are_drained_or_dead(lab: &Lab) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &[], &["--hold", "1"]);
    fleet.serving();
    fleet.gateways.iter().for_each(|gateway| drop(laneway(&gateway.host, &["drain"]).success()));
    // The status says that before any app has asked: a link to a gateway that serves nobody is no way out.
    let told =
        |name: &str| format!("gateway {name} is in maintenance ('laneway drain --undo' there ends it)");
    wait_until("the status to tell that both are drained", || {
        let text = laneway(&fleet.client, &["status"]).success().text();
        let line = text.lines().nth(1).unwrap_or_default();
        assert!(!line.contains("cannot connect"), "an address that only gateways reach: {text}");
        line.contains("no gateway: ") && line.contains(&told("g1")) && line.contains(&told("g2"))
    });
    assert!(status(&fleet.client).gateways.iter().all(|gateway| !gateway.is_used));
    let said = |client: &Host| client.curl(&[&HTTP[..], &["http://10.88.0.100/"]].concat()).text();
    let drained =
        |name: &str| format!("gateway {name} is in maintenance ('laneway drain --undo' there ends it)");
    wait_until("apps to be told that both are drained", || {
        let text = said(&fleet.client);
        text.contains(&drained("g1")) && text.contains(&drained("g2"))
    });
    assert!(!fleet.node.log().contains("no way out"), "{}", fleet.node.log());
    fleet.kill(0);
    wait_until("apps to be told that one is dead", || {
        let text = said(&fleet.client);
        assert!(text.contains(&drained("g2")), "{text}");
        text.contains("gateway g1 refuses connections: ") && !text.contains(&drained("g1"))
    });
    fleet.kill(1);
    wait_until("apps to be told that both are dead", || {
        let text = said(&fleet.client);
        ["gateway g1 refuses connections: ", "gateway g2 refuses connections: "]
            .iter()
            .all(|dead| text.contains(dead))
    });
}

fn a_download_through_a_gateway_that_is_drained_arrives_whole(lab: &Lab) {
    let _origin = lab.origin();
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let _client = group.client(&c1, &[]);
    let mut curl = c1.command("curl");
    // Through a tunnel, which cannot be resumed.
    curl.args(["--silent", "--limit-rate", "8M", "--max-time", "60", "--proxytunnel"]).args(HTTP).arg(BIG);
    let download = c1.spawn(curl);
    wait_until("the download to run", || download.printed() > 1 << 20);
    let _second = group.gateway(&g2, &[]);
    let said = laneway(&g1, &["drain"]).success().text();
    assert!(said.contains("1 of their connections is open"), "{said}");
    // New connections go to the other gateway while the download goes on here.
    wait_until("the other gateway to be in use", || {
        let seen = status(&c1);
        seen.gateways.iter().any(|gateway| gateway.is_used && gateway.name.as_deref() == Some("g2"))
    });
    assert_eq!(status(&g1).served.open, 1);
    assert_eq!(status(&g1).node.state.as_deref(), Some("draining"));
    let whole = download.finish(START * 6).success();
    assert_eq!(sha256(&whole.stdout), big().sha256);
}

fn the_only_gateway_says_why_it_serves_nobody_and_stays_so_after_a_restart(lab: &Lab) {
    let _origin = lab.origin();
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let mut group = lab.group(&[&g1, &c1], &[]);
    let _client = group.client(&c1, &["--hold", "2"]);
    let output = laneway(&g1, &["drain"]).success();
    assert!(output.stderr.contains("warning: no other gateway is ready to serve"), "{output}");
    let ask = || {
        c1.curl(&[&HTTP as &[&str], &["--output", "/dev/null", "--write-out", "%{http_code}", BIG]].concat())
    };
    wait_until("requests to be refused", || ask().text() == "503");

    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    // Without `--role gateway` the node is a gateway because it reaches the server.
    let _again = up(&g1, &["--server", "10.88.0.100:80"]);
    let seen = status(&g1);
    assert!(seen.node.in_maintenance, "{:?}", seen.node);
    wait_until("its own apps to go out as before", || status(&g1).node.goes_direct);
    let own = [&HTTP[..], &["--output", "/dev/null", "--write-out", "%{http_code}", BIG]].concat();
    assert_eq!(g1.curl(&own).text(), "200");
    wait_until("the client's status to say why nobody serves it", || {
        laneway(&c1, &["status"]).text().contains("no gateway: gateway g1 is in maintenance")
    });
    wait_until("the client to know why", || {
        let page = c1.curl(&[&HTTP as &[&str], &["http://10.88.0.100/"]].concat()).text();
        page.contains("in maintenance")
    });
    laneway(&g1, &["drain", "--undo"]).success();
    wait_until("the gateway to serve again", || ask().text() == "200");
}

/// The row of this member in `laneway members --json`.
fn member(authority: &Host, name: &str) -> serde_json::Value {
    let list: Vec<serde_json::Value> =
        serde_json::from_str(&laneway(authority, &["members", "--json"]).success().text()).unwrap();
    let row = list.iter().find(|row| row["name"] == name).cloned();
    row.unwrap_or_else(|| panic!("no {name} in {list:?}"))
}

fn a_machine_that_leaves_is_listed_as_left_and_its_old_keys_are_refused(lab: &Lab) {
    let _origin = lab.origin();
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let group = lab.group(&[&g1, &c1, &c2], &[]);
    let mut node = group.client(&c1, &[]);
    let mut other = group.client(&c2, &[]);
    let kept = c1.directory().join("kept");
    let copied = std::process::Command::new("cp").arg("-a").arg(state(&c1)).arg(&kept).status().unwrap();
    assert!(copied.success());

    // There is nothing to drain on a client, which the command says.
    let said = laneway(&c1, &["drain"]).success().text();
    assert!(said.contains("This machine is not a gateway now, so nothing changes"), "{said}");
    laneway(&c1, &["drain", "--undo"]).success();
    let asked = laneway(&c1, &["leave"]);
    assert_eq!(asked.code(), 2, "{asked}");
    assert!(asked.stderr.contains("hint: laneway leave --yes"), "{asked}");
    let said = laneway(&c1, &["leave", "--yes"]).success().text();
    assert!(said.contains("This machine has left the group 'lan'") && said.contains("Told: g1."), "{said}");
    // The node has ended in good order, and nothing of the membership is left.
    assert_eq!(node.wait(START).code(), Some(0));
    assert!(!state(&c1).exists(), "nothing is left of the membership");
    other.wait_for_line("group update applied removed=1", START);
    let row = member(&g1, "c1");
    assert_eq!((row["state"].as_str(), row["left"].is_u64()), (Some("left"), true), "{row}");
    let text = laneway(&g1, &["members"]).success().text();
    let line = text.lines().find(|line| line.starts_with("c1 ")).unwrap();
    assert!(line.ends_with("left") && !line.contains(" now "), "{text}");

    // Somebody kept a copy of its keys.
    std::fs::rename(&kept, state(&c1)).unwrap();
    let mut node = up(&c1, &["--hold", "2"]);
    node.wait_for_line("removed from the group", START);
    let refused =
        c1.curl(&[&HTTP as &[&str], &["--output", "/dev/null", "--write-out", "%{http_code}", BIG]].concat());
    assert_eq!(refused.text(), "503", "{refused}");
}

fn a_gateway_that_leaves_drains_and_another_passes_on_that_it_left(lab: &Lab) {
    let _origin = lab.origin();
    // The signer is a client here: it learns of the departure over its link to the gateway that stays.
    let (c1, c2, g1, g2) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"), lab.gateway("g2"));
    let code = crate::lab::group::init(&c1);
    let mut signer = up(&c1, &[]);
    for host in [&g1, &g2, &c2] {
        crate::lab::group::join(host, &code);
    }
    let options = ["--role", "gateway", "--server", "10.88.0.100:80"];
    let mut first = up(&g1, &options);
    signer.wait_for_line("link up", START);
    let mut client = up(&c2, &[]);
    client.wait_for_line("link up", START);
    let mut curl = c2.command("curl");
    curl.args(["--silent", "--limit-rate", "16M", "--max-time", "60", "--proxytunnel"]).args(HTTP).arg(BIG);
    let download = c2.spawn(curl);
    wait_until("the download to run", || download.printed() > 1 << 20);
    let _second = up(&g2, &options);
    let said = laneway(&g1, &["leave", "--yes"]).success().text();
    assert!(said.contains("Told: g2."), "{said}");
    assert_eq!(first.wait(START).code(), Some(0));
    let whole = download.finish(START * 6).success();
    assert_eq!(sha256(&whole.stdout), big().sha256);
    signer.wait_for_line("members that left are removed", START);
    wait_until("the member to be listed as left", || {
        laneway(&c1, &["members", "--offline"])
            .success()
            .text()
            .lines()
            .any(|line| line.starts_with("g1 ") && line.ends_with("left"))
    });
}

fn a_departure_outlasts_the_restart_of_the_only_gateway_that_heard_it(lab: &Lab) {
    let _origin = lab.origin();
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let code = crate::lab::group::init(&c1);
    let mut signer = up(&c1, &[]);
    for host in [&g1, &c2] {
        crate::lab::group::join(host, &code);
    }
    // The machine with the group's key is off.
    signer.signal(Signal::SIGTERM);
    signer.wait(START);
    let options = ["--role", "gateway", "--server", "10.88.0.100:80"];
    let mut gateway = up(&g1, &options);
    let kept = c2.directory().join("kept");
    let copied = std::process::Command::new("cp").arg("-a").arg(state(&c2)).arg(&kept).status().unwrap();
    assert!(copied.success());
    let said = laneway(&c2, &["leave", "--yes"]).success().text();
    assert!(said.contains("Told: g1."), "{said}");
    std::fs::rename(&kept, state(&c2)).unwrap();

    let _node = up(&c2, &["--hold", "2"]);
    let ask = || {
        let more: &[&str] = &["--output", "/dev/null", "--write-out", "%{http_code}", "http://10.88.0.100/"];
        c2.curl(&[&HTTP as &[&str], more].concat()).text()
    };
    assert_eq!(ask(), "503", "the gateway that was told accepts the old key");
    gateway.signal(Signal::SIGKILL);
    gateway.wait(START);
    let _again = up(&g1, &options);
    assert_eq!(ask(), "503", "the gateway forgot it in its restart");

    let mut signer = up(&c1, &[]);
    signer.wait_for_line("members that left are removed", START);
    assert_eq!(member(&c1, "c2")["state"].as_str(), Some("left"));
}

fn members_shows_when_each_was_seen_and_with_which_version(lab: &Lab) {
    let _origin = lab.origin();
    let (c1, c2, g1, g2) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"), lab.gateway("g2"));
    let group = lab.group(&[&g1, &c1, &c2, &g2], &[]);
    let _second = group.gateway(&g2, &[]);
    let _client = group.client(&c1, &[]);
    let version = env!("CARGO_PKG_VERSION");
    wait_until("the gateways to have seen the client", || {
        member(&g1, "c1")["version"].as_str() == Some(version)
    });
    for seen in ["g1", "g2", "c1"] {
        let row = member(&g1, seen);
        assert_eq!(
            (row["state"].as_str(), row["version"].as_str()),
            (Some("member"), Some(version)),
            "{row}"
        );
        assert!(row["last_seen"].is_u64() && row["joined"].is_u64(), "{row}");
    }
    // c2 has joined and never run as a node.
    let never = member(&g1, "c2");
    assert!(never["last_seen"].is_null() && never["version"].is_null(), "{never}");
    // What was heard is remembered.
    let text = laneway(&g1, &["members", "--offline"]).success().text();
    let line = text.lines().find(|line| line.starts_with("c1 ")).unwrap();
    assert!(line.contains(&format!(" {version} ")) && line.ends_with("now"), "{text}");
    // Only the authority is answered.
    laneway(&c1, &["members"]);
    assert!(laneway(&c1, &["members"]).stderr.contains("does not hold the key of the group"));
}
/// Each learns of those that left before it while it says that it leaves.
fn members_that_leave_one_right_after_the_other_are_all_told(lab: &Lab) {
    let _origin = lab.origin();
    let (signer, g1) = (lab.client("c1"), lab.gateway("g1"));
    let leaving = ["c2", "c3", "c4", "c5", "c6", "c7"].map(|name| lab.client(name));
    let code = crate::lab::group::init(&signer);
    let _signer = up(&signer, &[]);
    crate::lab::group::join(&g1, &code);
    let _gateway = up(&g1, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    for host in &leaving {
        crate::lab::group::join(host, &code);
    }
    for host in &leaving {
        let kept = host.directory().join("kept");
        let copied = std::process::Command::new("cp").arg("-a").arg(state(host)).arg(&kept).status().unwrap();
        assert!(copied.success());
        let said = laneway(host, &["leave", "--yes"]).success().text();
        assert!(said.contains("Told: g1."), "{}: {said}", host.name);
        // Once more, as after an answer that was lost: the gateway says that it knows, and proves it once the machine with the
        // key has heard of it.
        std::fs::rename(&kept, state(host)).unwrap();
        let said = laneway(host, &["leave", "--yes"]).success().text();
        let answers = ["had been removed from the group", "the group knows it already"];
        assert!(answers.iter().any(|answer| said.contains(answer)), "{}: {said}", host.name);
    }
}
