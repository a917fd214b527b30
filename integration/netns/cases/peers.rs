//! Large files that clients give each other, so that each crosses the gateway's leg about once.

use super::curl::HTTP;
use crate::lab::group::{START, join, laneway, state, up};
use crate::lab::lying_member::{self, Manner, asked};
use crate::lab::origin::sha256;
use crate::lab::process::Process;
use crate::lab::wait::PATIENCE;
use crate::lab::{Case, Host, Lab, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::path::{Path, PathBuf};

pub(super) const CASES: &[Case] = &[
    (
        "peers::six_clients_get_a_file_that_leaves_the_gateway_about_once",
        six_clients_get_a_file_that_leaves_the_gateway_about_once,
    ),
    ("peers::members_without_ipv4_give_each_other_pieces", members_without_ipv4_give_each_other_pieces),
    (
        "peers::a_member_without_ipv4_gives_pieces_to_those_with_it",
        a_member_without_ipv4_gives_pieces_to_those_with_it,
    ),
    (
        "peers::a_file_of_which_the_gateway_had_parts_comes_from_members_as_a_whole",
        a_file_of_which_the_gateway_had_parts_comes_from_members_as_a_whole,
    ),
    (
        "peers::killing_the_member_that_serves_costs_pieces_and_no_download",
        killing_the_member_that_serves_costs_pieces_and_no_download,
    ),
    (
        "peers::what_is_changed_on_the_disk_of_a_member_is_never_delivered",
        what_is_changed_on_the_disk_of_a_member_is_never_delivered,
    ),
    (
        "peers::a_member_that_sends_anything_else_costs_pieces_and_no_download",
        a_member_that_sends_anything_else_costs_pieces_and_no_download,
    ),
    (
        "peers::a_command_lists_checks_and_removes_what_is_kept_for_others",
        a_command_lists_checks_and_removes_what_is_kept_for_others,
    ),
];

const MIB: usize = 1 << 20;

fn download(host: &Host) -> Process {
    download_of(host, 1)
}

fn download_of(host: &Host, number: u64) -> Process {
    let mut curl = host.command("curl");
    curl.args(["--silent", "--show-error", "--no-buffer", "--max-time", "120"]).args(HTTP);
    curl.arg(format!("http://10.88.0.100/f/{number}"));
    host.spawn(curl)
}

/// A gateway with `count` clients, all of which may serve pieces. Its leg on the LAN has this rate.
fn crowd(lab: &Lab, count: usize, rate: &str) -> (Host, Process, Vec<Host>, Vec<Process>) {
    let gateway = lab.gateway("g1");
    gateway.widen();
    let hosts = lab.crowd(count);
    let group = lab.group(&[&gateway], &[]);
    hosts.iter().for_each(|host| join(host, &group.code));
    let mut nodes: Vec<_> = hosts.iter().map(|host| up(host, &["--role", "client"])).collect();
    nodes.iter_mut().for_each(|node| drop(node.wait_for_line("link up", START)));
    gateway.limit(rate);
    (gateway, group.gateway, hosts, nodes)
}

/// The bytes of pieces that this host's apps got from other members.
fn received(host: &Host) -> u64 {
    let text = host.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
    let line = text.lines().find_map(|line| line.strip_prefix("laneway_peer_received_bytes_total "));
    line.unwrap_or_else(|| panic!("no metric: {text}")).parse().unwrap()
}

fn bodies(directory: &Path) -> Vec<PathBuf> {
    let folders =
        fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let files = folders.flat_map(|folder| fs::read_dir(folder).unwrap()).map(|file| file.unwrap().path());
    files.filter(|path| path.extension().is_some_and(|kind| kind == "body")).collect()
}

fn six_clients_get_a_file_that_leaves_the_gateway_about_once(lab: &Lab) {
    const LENGTH: usize = 16 * MIB;
    let files = lab.files(LENGTH);
    let (gateway, _node, hosts, _nodes) = crowd(lab, 6, "100mbit");
    let before = gateway.sent();
    let expected = sha256(&files.content(1));
    let downloads: Vec<_> = hosts.iter().map(download).collect();
    for download in downloads {
        assert_eq!(sha256(&download.finish(PATIENCE * 2).success().stdout), expected);
    }
    let (over_the_leg, length) = (gateway.sent() - before, LENGTH as u64);
    assert!(over_the_leg < 2 * length, "{over_the_leg} bytes left the gateway for one file of {length}");
    let from_members: u64 = hosts.iter().map(received).sum();
    assert!(from_members > 4 * length, "{from_members}");
    assert_eq!(files.asked(1).len(), 1);
    let status = laneway(&hosts[5], &["status"]).success().text();
    assert!(status.contains("came from members of the LAN"), "{status}");
}

/// Pieces at the edges of these parts came from the gateway, for each client once.
fn a_file_of_which_the_gateway_had_parts_comes_from_members_as_a_whole(lab: &Lab) {
    let files = lab.files(8 * MIB);
    let (_gateway, _node, hosts, _nodes) = crowd(lab, 2, "100mbit");
    let content = files.content(1);
    for (from, to) in [(1_500_000, 1_600_000), (5_000_000, 7_000_000)] {
        let range = format!("{from}-{to}");
        let range = [&HTTP[..], &["--range", &range, "http://10.88.0.100/f/1"]].concat();
        let got = hosts[0].curl(&range).success();
        assert_eq!(got.stdout, content[from..=to]);
    }
    for host in &hosts {
        assert_eq!(sha256(&download(host).finish(PATIENCE).success().stdout), sha256(&content));
    }
    assert_eq!(received(&hosts[1]), 8 * MIB as u64);
    assert_eq!(files.sent(), 8 * MIB as u64, "what the gateway had was fetched again");
}

/// The members reach each other and the gateway by link-local addresses.
fn members_without_ipv4_give_each_other_pieces(lab: &Lab) {
    let files = lab.files(8 * MIB);
    let (gateway, clients) = (lab.gateway("g1"), ["c1", "c2"].map(|name| lab.client(name)));
    let group = lab.group(&[&gateway, &clients[0], &clients[1]], &[]);
    clients.iter().for_each(|host| host.ip("-4 address flush dev lan"));
    let mut nodes: Vec<_> = clients.iter().map(|host| up(host, &["--role", "client"])).collect();
    for node in &mut nodes {
        let line = node.wait_for_line("link up", START);
        assert!(line.contains("address=[fe80::"), "{line}");
    }
    let expected = sha256(&files.content(1));
    assert_eq!(sha256(&download(&clients[0]).finish(PATIENCE).success().stdout), expected);
    assert_eq!(sha256(&download(&clients[1]).finish(PATIENCE).success().stdout), expected);
    assert_eq!(received(&clients[1]), 8 * MIB as u64);
    drop(group);
}

/// Members linked by IPv4 reach it by the same interface; it cannot reach them, and gets everything from the gateway.
fn a_member_without_ipv4_gives_pieces_to_those_with_it(lab: &Lab) {
    let files = lab.files(8 * MIB);
    let (gateway, clients) = (lab.gateway("g1"), ["c1", "c2"].map(|name| lab.client(name)));
    let [without, with] = &clients;
    let group = lab.group(&[&gateway, without, with], &[]);
    let own = with.address().to_string();
    without.ip("-4 address flush dev lan");
    let mut nodes = [up(without, &["--role", "client"]), up(with, &["--role", "client", "--lan", &own])];
    for (node, address) in nodes.iter_mut().zip(["address=[fe80::", "address=10."]) {
        let line = node.wait_for_line("link up", START);
        assert!(line.contains(address), "{line}");
    }
    let get = |host: &Host, number: u64| {
        let got = download_of(host, number).finish(PATIENCE).success();
        assert_eq!(sha256(&got.stdout), sha256(&files.content(number)), "{} got {number}", host.name);
    };
    get(without, 1);
    get(with, 1);
    assert_eq!(received(with), 8 * MIB as u64);
    get(with, 2);
    get(without, 2);
    assert_eq!(received(without), 0);
    drop(group);
}

fn killing_the_member_that_serves_costs_pieces_and_no_download(lab: &Lab) {
    let files = lab.files(16 * MIB);
    let (_gateway, _node, hosts, nodes) = crowd(lab, 2, "20mbit");
    let expected = sha256(&files.content(1));
    let first = download(&hosts[0]);
    wait_until("the first client to begin", || first.printed() > MIB as u64);
    let second = download(&hosts[1]);
    wait_until("the second client to get pieces of the first", || received(&hosts[1]) > 0);
    nodes[0].signal(Signal::SIGKILL);
    assert_eq!(sha256(&second.finish(PATIENCE * 2).success().stdout), expected);
}

fn what_is_changed_on_the_disk_of_a_member_is_never_delivered(lab: &Lab) {
    let files = lab.files(8 * MIB);
    let (_gateway, _node, hosts, _nodes) = crowd(lab, 2, "100mbit");
    let expected = sha256(&files.content(1));
    assert_eq!(sha256(&download(&hosts[0]).finish(PATIENCE).success().stdout), expected);
    let kept = state(&hosts[0]).join("peer-cache");
    wait_until("the first client to keep it", || !bodies(&kept).is_empty());
    for body in bodies(&kept) {
        let mut bytes = fs::read(&body).unwrap();
        // In the second and the last piece.
        bytes[MIB + 5] ^= 1;
        bytes[8 * MIB - 1] ^= 1;
        fs::write(&body, bytes).unwrap();
    }
    assert_eq!(sha256(&download(&hosts[1]).finish(PATIENCE).success().stdout), expected);
    assert!(received(&hosts[1]) < 8 * MIB as u64);
    // Nor does the first client use its own.
    assert_eq!(sha256(&download(&hosts[0]).finish(PATIENCE).success().stdout), expected);
}

/// Each client has a liar of its own kind, and a file that this liar is the first to have.
fn a_member_that_sends_anything_else_costs_pieces_and_no_download(lab: &Lab) {
    // The last piece is shorter.
    let files = lab.files(4 * MIB + 300_000);
    let (_gateway, _node, hosts, _nodes) = crowd(lab, 1 + Manner::ALL.len(), "1gbit");
    let (liar, clients) = hosts.split_first().unwrap();
    // One more than there are clients.
    let expected: Vec<_> = (0..).take(hosts.len()).map(|number| sha256(&files.content(number))).collect();
    let get = |host: &Host, number: usize| {
        let got = download_of(host, number as u64).finish(PATIENCE * 2).success();
        assert_eq!(sha256(&got.stdout), expected[number], "{} got {number}", host.name);
    };
    (0..hosts.len()).for_each(|number| get(liar, number));
    let manners: Vec<_> = clients.iter().zip(Manner::ALL).collect();
    let process = lying_member::start(liar, &manners);
    let meets = |number: usize| {
        let (client, manner) = manners[number];
        get(client, number);
        let before = asked(&process, client);
        assert!(before > 0, "{manner:?}: it was never asked");
        assert!(before <= 5, "{manner:?}: it was asked for {before} pieces of 5");
        // The liar is then left alone, even for another file, which nobody needs now. One that says that it has no
        // piece does no harm.
        get(client, number.checked_sub(1).unwrap_or(clients.len()));
        let after = asked(&process, client);
        // Its first requests may be counted late. If it were asked again, there would be as many more.
        assert!(after <= 5 || manner == Manner::Denies, "{manner:?}: it was asked again: {after} pieces");
        let said = client.curl(&["http://127.0.0.1:1080/status.json"]).success().text();
        let is_told = said.contains("was not the piece that it was asked for");
        assert!(is_told || !manner.is_wrong(), "{manner:?}: {said}");
    };
    // A few at a time: all together would keep the machine from everything else.
    for some in (0..clients.len()).collect::<Vec<_>>().chunks(3) {
        std::thread::scope(|scope| some.iter().for_each(|number| drop(scope.spawn(|| meets(*number)))));
    }
}

fn a_command_lists_checks_and_removes_what_is_kept_for_others(lab: &Lab) {
    let files = lab.files(4 * MIB);
    let (_gateway, _node, hosts, _nodes) = crowd(lab, 1, "1gbit");
    let client = &hosts[0];
    for number in [1, 2] {
        let got = download_of(client, number).finish(PATIENCE).success();
        assert_eq!(sha256(&got.stdout), sha256(&files.content(number)));
    }
    let listed = || laneway(client, &["cache", "ls", "--json"]).success().text();
    wait_until("both to be kept", || listed().matches("\"store\":\"peer-cache\"").count() == 2);
    let text = laneway(client, &["cache", "ls", "/f/2"]).success().text();
    assert!(text.contains("KEPT FOR OTHER MEMBERS") && text.contains("1 file, 4.19 MB"), "{text}");
    // What was changed on the disk is found, and removed by the running node.
    let kept = bodies(&state(client).join("peer-cache"));
    let mut bytes = fs::read(&kept[0]).unwrap();
    bytes[MIB + 5] ^= 1;
    fs::write(&kept[0], bytes).unwrap();
    let verified = laneway(client, &["cache", "verify"]);
    assert_eq!(verified.code(), 1, "{verified}");
    let said = verified.text();
    assert!(said.contains("its body was changed") && said.contains("1 response is intact"), "{said}");
    assert_eq!(listed().matches("peer-cache").count(), 1);
    laneway(client, &["cache", "rm", "--all"]).success();
    assert_eq!(laneway(client, &["cache", "ls"]).success().text(), "Nothing is stored.\n");
    let got = download_of(client, 1).finish(PATIENCE).success();
    assert_eq!(sha256(&got.stdout), sha256(&files.content(1)));
}
