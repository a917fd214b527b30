//! A removed member loses access at once, and the update reaches all other members.

use super::curl::{BIG, HTTP};
use crate::lab::dialect::{connect, get};
use crate::lab::group::{START, discover, enrol, forget_gateways, laneway, state, up};
use crate::lab::origin::{big, sha256};
use crate::lab::{Case, Host, Lab, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::net::Ipv4Addr;

pub(super) const CASES: &[Case] = &[
    (
        "revocation::a_revoked_client_is_cut_off_in_the_middle_of_a_download",
        a_revoked_client_is_cut_off_in_the_middle_of_a_download,
    ),
    (
        "revocation::a_member_that_takes_all_it_can_leaves_others_their_share_and_is_cut_when_it_is_removed",
        a_member_that_takes_all_it_can_leaves_others_their_share_and_is_cut_when_it_is_removed,
    ),
    ("revocation::clients_leave_a_revoked_gateway", clients_leave_a_revoked_gateway),
    (
        "revocation::a_running_client_is_served_by_a_gateway_that_was_revoked_and_joined_again_at_its_address",
        |lab| serves_again_at_its_address(lab, Ends::Revoked),
    ),
    (
        "revocation::a_running_client_is_served_by_a_gateway_that_left_and_joined_again_at_its_address",
        |lab| serves_again_at_its_address(lab, Ends::Left),
    ),
    (
        "revocation::a_running_client_is_served_by_a_gateway_that_lost_its_state_and_joined_again_at_its_address",
        |lab| serves_again_at_its_address(lab, Ends::LostItsState),
    ),
    ("revocation::a_gateway_without_clients_gets_the_update", a_gateway_without_clients_gets_the_update),
    (
        "revocation::a_node_that_was_off_gets_the_update_when_it_returns",
        a_node_that_was_off_gets_the_update_when_it_returns,
    ),
    ("revocation::the_authority_moves_to_another_machine", the_authority_moves_to_another_machine),
    ("revocation::a_removed_gateway_learns_it_and_says_so", a_removed_gateway_learns_it_and_says_so),
    (
        "revocation::a_machine_with_the_groups_key_that_was_removed_is_told_so_and_can_return",
        a_machine_with_the_groups_key_that_was_removed_is_told_so_and_can_return,
    ),
];

fn downloads(client: &Host) {
    let download = client.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
}

fn a_revoked_client_is_cut_off_in_the_middle_of_a_download(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &c2], &[]);
    let mut out = group.client(&c1, &["--hold", "1"]);
    let mut other = group.client(&c2, &[]);

    let mut curl = c1.command("curl");
    curl.args(["--silent", "--limit-rate", "4M", "--max-time", "60"]).args(HTTP).arg(BIG);
    let download = c1.spawn(curl);
    wait_until("the download to run", || download.printed() > 1 << 20);
    let said = laneway(&g1, &["revoke", "c1"]).success().text();
    assert!(said.contains("Removed: c1"), "{said}");
    let cut = download.finish(START);
    assert!(!cut.status.success(), "it looks complete: {} bytes", cut.stdout.len());
    assert!(cut.stdout.len() < 64 << 20);

    let refused =
        c1.curl(&[&HTTP as &[&str], &["--output", "/dev/null", "--write-out", "%{http_code}", BIG]].concat());
    assert_eq!(refused.text(), "503", "{refused}");
    out.wait_for_line("this machine was removed from the group", START);
    other.wait_for_line("group update applied removed=1", START);
    downloads(&c2);
    let members = laneway(&g1, &["members"]).success().text();
    let row = members.lines().find(|line| line.starts_with("c1 ")).unwrap();
    assert!(row.ends_with("removed"), "{members}");
    assert!(discover(&c2).success().text().contains("10.77.0.21"));
}

/// It took all descriptors: others got nothing, and the gateway could not read that it was removed.
fn a_member_that_takes_all_it_can_leaves_others_their_share_and_is_cut_when_it_is_removed(lab: &Lab) {
    const DESCRIPTORS: usize = 256;
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let limit = format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}");
    g1.run_other(&["prlimit", &limit, env!("CARGO_BIN_EXE_laneway")]);
    let group = lab.group(&[&g1, &c1, &c2], &[]);
    let mut out = group.client(&c1, &["--hold", "1"]);
    let _other = group.client(&c2, &["--hold", "1"]);

    // The gateway's own apps do the same, and strangers.
    let silent: Vec<_> = (0..DESCRIPTORS)
        .flat_map(|_| [g1.connect((Ipv4Addr::LOCALHOST, 1080)), c2.connect((g1.address(), 7420))])
        .collect();
    // A download that is stored takes two descriptors of the gateway, and more while its server is dialled.
    let downloads_of = |number| get(&c1, "10.88.0.100", &format!("/big?{number}"));
    let tunnel = |_| connect(&c1, "10.88.0.100:80");
    let opened: Vec<_> = (0..DESCRIPTORS / 2).map(downloads_of).chain((0..DESCRIPTORS).map(tunnel)).collect();
    let held = opened.iter().filter(|(_, head)| head.status == 200).count();
    assert!((DESCRIPTORS / 4..DESCRIPTORS / 2).contains(&held), "{held}");

    downloads(&c2);
    downloads(&g1);
    laneway(&g1, &["status"]).success();
    laneway(&g1, &["revoke", "c1"]).success();
    out.wait_for_line("this machine was removed from the group", START);
    drop((silent, opened));
    assert!(group.gateway.log().contains("one client gets fewer connections than --client-tunnels"));
}

fn clients_leave_a_revoked_gateway(lab: &Lab) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let _second = group.gateway(&g2, &[]);
    // Links are identified by IPv4 addresses.
    let mut client = group.client(&c1, &["--lan", "10.77.0.11"]);
    client.wait_for_line("standby link up", START);
    laneway(&g1, &["revoke", "g2"]).success();
    client.wait_for_line("reason=\"the gateway was removed from the group\"", START);
    let links = || {
        let mut ss = c1.command("ss");
        ss.args(["-H", "-t", "-n", "state", "established", "dport = :7420"]);
        c1.output(ss).success().text()
    };
    assert!(links().contains("10.77.0.21:7420") && !links().contains("10.77.0.22:7420"), "{}", links());
    downloads(&c1);
}

/// How a gateway's membership ends before it joins again.
#[derive(PartialEq)]
enum Ends {
    Revoked,
    Left,
    LostItsState,
}

fn serves_again_at_its_address(lab: &Lab, how: Ends) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &g2], &[]);
    let mut second = group.gateway(&g2, &[]);
    // Links are identified by IPv4 addresses.
    let mut client = group.client(&c1, &["--lan", "10.77.0.11"]);
    client.wait_for_line("standby link up", START);
    match how {
        Ends::Revoked => {
            laneway(&g1, &["revoke", "g2"]).success();
            client.wait_for_line("group update applied removed=1", START);
        }
        Ends::Left => drop(laneway(&g2, &["leave", "--yes"]).success()),
        Ends::LostItsState => {}
    }
    if how != Ends::Left {
        second.signal(Signal::SIGTERM);
    }
    second.wait(START);
    if how != Ends::Left {
        fs::remove_dir_all(state(&g2)).unwrap();
    }

    let invited = laneway(&g1, &["invite"]).success().text();
    let code = invited.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap();
    laneway(&g2, &["join", code, "--name", "g2-new"]).success();
    let _again = group.gateway(&g2, &[]);
    let row = || {
        let status = laneway(&c1, &["status", "--json"]).success().text();
        let status: serde_json::Value = serde_json::from_str(&status).unwrap();
        let rows = status["gateways"].as_array().unwrap().clone();
        rows.into_iter().find(|row| row["address"] == "10.77.0.22:7420").unwrap_or_default()
    };
    wait_until("the gateway to be known by its name", || {
        row()["state"] == "standby" && row()["name"] == "g2-new"
    });
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    wait_until("the gateway to be used", || row()["is_used"] == true);
    assert_eq!(row()["name"], "g2-new");
    downloads(&c1);
}

fn a_gateway_without_clients_gets_the_update(lab: &Lab) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let mut second = group.gateway(&g2, &[]);
    laneway(&g1, &["revoke", "c1"]).success();
    second.wait_for_line("group update applied removed=1", START);
    wait_until("the update to be saved", || epoch(&g2) == 1);
    // The removed member gets no answer from either, and the gateway that it remembers refuses it.
    let mut out = group.up(&c1, &[]);
    out.wait_for_line(
        "this machine was removed from the group, as the gateway at 10.77.0.21:7420 proves",
        START,
    );
    assert!(!out.log().contains("gateway heard") && !out.log().contains("link up"));
}

/// The epoch in the state directory of a host.
fn epoch(host: &Host) -> u64 {
    let text = fs::read(state(host).join("group.json")).unwrap();
    let file: serde_json::Value = serde_json::from_slice(&text).unwrap();
    file["news"]["epoch"].as_u64().unwrap()
}

fn a_node_that_was_off_gets_the_update_when_it_returns(lab: &Lab) {
    let (c1, c2, c3, g1) = (lab.client("c1"), lab.client("c2"), lab.client("c3"), lab.gateway("g1"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &c2, &c3], &[]);
    laneway(&g1, &["revoke", "c3"]).success();
    group.gateway.wait_for_line("group update applied removed=1", START);

    // Within a day it finds a gateway with its old key.
    forget_gateways(&c1);
    assert_eq!(epoch(&c1), 0);
    let _first = group.client(&c1, &[]);
    wait_until("the update to be saved", || epoch(&c1) == 1);
    downloads(&c1);
    assert!(discover(&c1).success().text().contains("10.77.0.21"));

    // After that no node on the LAN accepts its queries, but a gateway whose address it knows sends it the update.
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    let file = state(&g1).join("group.json");
    let mut saved: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
    assert_eq!(saved["retired"][0]["epoch"], 0);
    saved["retired"][0]["until"] = 1.into();
    fs::write(&file, saved.to_string()).unwrap();
    let _again = group.gateway(&g1, &[]);
    forget_gateways(&c2);
    assert_eq!(discover(&c2).code(), 1);
    let told = group.client(&c2, &["--gateway", "10.77.0.21:7420"]);
    wait_until("the update to be saved", || epoch(&c2) == 1);
    drop(told);
    forget_gateways(&c2);
    assert!(discover(&c2).success().text().contains("10.77.0.21"));
}

fn the_authority_moves_to_another_machine(lab: &Lab) {
    let (c1, c2, g1, g2) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &g2], &[]);
    let client = group.client(&c1, &["--hold", "1"]);
    let file = g1.directory().join("authority");
    let file = file.to_str().unwrap();
    laneway(&g1, &["ca", "export", file]).success();
    laneway(&g2, &["ca", "import", file]).success();
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    let _second = group.gateway(&g2, &[]);

    enrol(&c2, &g2, &[]);
    let mut newcomer = up(&c2, &[]);
    newcomer.wait_for_line("link up", START);
    downloads(&c2);
    laneway(&g2, &["revoke", "c1"]).success();
    newcomer.wait_for_line("group update applied removed=1", START);
    wait_until("c1 to be cut off", || client.log().contains("removed from the group"));
    let names = laneway(&g2, &["members"]).success().text();
    for name in ["g1 ", "g2 ", "c1 ", "c2 "] {
        assert!(names.lines().any(|line| line.starts_with(name)), "{names}");
    }
}

/// What it signs reaches nobody, so it does not go on as if nothing had happened. There is no link between it
/// and any gateway.
fn a_removed_gateway_learns_it_and_says_so(lab: &Lab) {
    let (g1, g2) = (lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &g2], &[]);
    let mut second = group.gateway(&g2, &[]);
    wait_until("both to hear each other", || {
        let hears = |host: &Host, name| laneway(host, &["status"]).text().contains(name);
        hears(&g1, "g2") && hears(&g2, "g1")
    });
    laneway(&g1, &["revoke", "g2"]).success();
    second.wait_for_line("this machine was removed from the group", START);
    wait_until("its status to say so", || {
        laneway(&g2, &["status"]).text().contains("removed from the group ('laneway doctor' says what to do)")
    });
    let said = laneway(&g2, &["doctor"]);
    assert!(
        said.text().contains("wrong    group          this machine was removed from the group lan"),
        "{said}"
    );
}

fn a_machine_with_the_groups_key_that_was_removed_is_told_so_and_can_return(lab: &Lab) {
    let (c1, c2, g1, g2) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &g2], &[]);
    let file = |name: &str| g1.directory().join(name).to_str().unwrap().to_owned();
    laneway(&g1, &["ca", "export", &file("first")]).success();
    laneway(&g2, &["ca", "import", &file("first")]).success();
    let mut second = group.gateway(&g2, &[]);
    let _client = group.client(&c1, &[]);
    let said = laneway(&g1, &["members"]).success();
    assert!(!said.stderr.contains("removed"), "{said}");
    let invited = laneway(&g1, &["invite"]).success().text();
    let code = invited.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap();
    wait_until("both to hear each other", || {
        discover(&c1).text().contains("10.77.0.22") && laneway(&g1, &["status"]).text().contains("g2")
    });

    laneway(&g2, &["revoke", "g1"]).success();
    second.wait_for_line("group update applied removed=1", START);
    let before = fs::read(state(&g1).join("group.json")).unwrap();
    for command in [&["invite"][..], &["revoke", "c1"], &["rotate"]] {
        let said = laneway(&g1, command);
        assert_eq!(said.code(), 1, "{command:?}: {said}");
        assert!(
            said.stderr.contains("error: this machine was removed from the group 'lan'"),
            "{command:?}: {said}"
        );
    }
    assert_eq!(fs::read(state(&g1).join("group.json")).unwrap(), before, "something was signed");
    // Its node learns of it too, and admits nobody any more.
    group.gateway.wait_for_line("it admits and removes nobody any more", START);
    let said = laneway(&c2, &["join", code]);
    assert!(said.stderr.contains("no machine on this LAN accepts this code"), "{said}");
    let said = laneway(&g1, &["members"]).success();
    assert!(said.stderr.contains("warning: this machine was removed from the group 'lan'"), "{said}");
    assert!(said.text().lines().any(|line| line.starts_with("g2 ")), "{said}");

    // What the hint says, where no other machine has the key.
    laneway(&g1, &["ca", "export", &file("second")]).success();
    laneway(&g1, &["leave", "--yes"]).success();
    group.gateway.wait(START);
    laneway(&g1, &["ca", "import", &file("second")]).success();
    let mut again = up(&g1, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    again.wait_for_line("this node's state state=\"standby\"", START);
    wait_until("it to hear of its removal, as another member", || {
        again.log().contains("group update applied")
    });
    let said = laneway(&g1, &["invite"]).success();
    assert!(said.text().contains("laneway join lw1."), "{said}");
}
