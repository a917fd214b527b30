//! Nobody but a gateway itself changes what others think of it: not a member without the gateway's key, not a removed
//! member, and not a stranger who recorded what the gateway said.

use super::curl::{BIG, HTTP};
use crate::lab::group::{START, enrol, laneway, state, up};
use crate::lab::origin::{big, sha256};
use crate::lab::rogue::{BROADCAST, Forger, Recorder, advert, socket, spoofing};
use crate::lab::{Case, Host, Lab, wait_until};
use laneway::telemetry::snapshot::{GatewaySeen, Snapshot};
use laneway::wire::datagram::{Advert, Sequence, Standing, State};
use laneway::wire::id::NodeId;
use nix::sys::signal::Signal;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    (
        "takeover::a_client_only_and_a_removed_member_cannot_take_the_role_from_the_active_gateway",
        a_client_only_and_a_removed_member_cannot_take_the_role_from_the_active_gateway,
    ),
    (
        "takeover::a_member_cannot_silence_a_gateway_by_a_beacon_in_its_name",
        a_member_cannot_silence_a_gateway_by_a_beacon_in_its_name,
    ),
    (
        "takeover::a_recording_from_before_a_restart_does_not_make_the_gateway_seem_to_drain",
        a_recording_from_before_a_restart_does_not_make_the_gateway_seem_to_drain,
    ),
    (
        "takeover::a_recording_of_a_gateway_that_is_gone_does_not_hold_the_role",
        a_recording_of_a_gateway_that_is_gone_does_not_hold_the_role,
    ),
    (
        "takeover::a_gateway_whose_state_was_restored_from_a_backup_is_heard_again",
        a_gateway_whose_state_was_restored_from_a_backup_is_heard_again,
    ),
];

/// The datagrams that a host has dropped for this reason.
fn dropped(seen: &Snapshot, reason: &str) -> u64 {
    let of = |counted: &&laneway::telemetry::snapshot::Counted| counted.what == reason;
    seen.discovery_dropped.iter().find(of).map_or(0, |counted| counted.count)
}

fn status(host: &Host) -> Snapshot {
    let output = laneway(host, &["status", "--json"]).success();
    serde_json::from_str(&output.text()).unwrap_or_else(|error| panic!("{error}: {output}"))
}

/// The states in which a host sees the gateways: the IPv4 address of each known gateway, whichever of its
/// addresses the link goes to, with its state.
fn states(seen: &Snapshot) -> Vec<(String, String)> {
    let of = |gateway: &GatewaySeen| {
        let mut addresses = [&gateway.address].into_iter().chain(&gateway.other_addresses);
        let v4 = addresses.find(|address| !address.starts_with('['));
        (v4.unwrap_or(&gateway.address).clone(), gateway.state.clone())
    };
    seen.gateways.iter().map(of).collect()
}

fn only(address: &str, state: &str) -> Vec<(String, String)> {
    vec![(format!("{address}:7420"), state.to_owned())]
}

fn downloads(client: &Host) {
    let download = client.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
}

/// The claims that win every comparison.
fn winning(state: State, interval: u16) -> Advert {
    let standing = Standing { active: 1, interval, claim: u32::MAX, round: u32::MAX, ..Standing::default() };
    Advert { state, standing, ..advert(7420) }
}

fn a_client_only_and_a_removed_member_cannot_take_the_role_from_the_active_gateway(lab: &Lab) {
    let (c1, c2, c3, g1) = (lab.client("c1"), lab.client("c2"), lab.client("c3"), lab.gateway("g1"));
    let _origin = lab.origin();
    let demoted = g1.directory().join("demoted");
    let on_demote = format!("touch {}", demoted.display());
    let mut group = lab.group(&[&g1, &c1, &c3], &["--on-demote", &on_demote]);
    let node = group.client(&c1, &[]);
    enrol(&c2, &g1, &["--client-only"]);
    group.gateway.wait_for_line("this node's state state=\"active\"", START);
    let (client, removed) = (Forger::of(&c2), Forger::of(&c3));
    laneway(&g1, &["revoke", "c3"]).success();
    wait_until("both to know of the removal", || {
        let logs = [group.gateway.log(), node.log()];
        logs.iter().all(|log| log.contains("group update applied"))
    });

    let recorded = Recorder::start(&c2, &g1).next();
    let victim = group_id(&g1);
    for (host, forger, reasons) in
        [(&c2, &client, ["role", "signature"]), (&c3, &removed, ["revoked", "signature"])]
    {
        let (before, own) = ([status(&g1), status(&c1)], SocketAddr::from((host.address(), 7420)));
        let socket = socket(host, host.address(), 255);
        let impostor = forger.impostor(&g1, &recorded);
        for counter in 1..=10 {
            let sequence = Sequence { boot: u64::MAX, counter };
            // In its own name, in an invented one, in the victim's, and there with the victim's own statement.
            for (signer, sender) in [
                (&*forger.group.signer, forger.group.node.id),
                (&*forger.group.signer, NodeId([9; 16])),
                (&*forger.group.signer, victim),
                (&impostor, victim),
            ] {
                for state in [State::Active, State::Withdrawn] {
                    let beacon = forger.announce(signer, sender, sequence, winning(state, 1000), own);
                    socket.send_to(&beacon, (BROADCAST, 7420)).unwrap();
                }
                // Silence that would be noticed only after minutes.
                let beacon = forger.announce(signer, sender, sequence, winning(State::Active, u16::MAX), own);
                socket.send_to(&beacon, (BROADCAST, 7420)).unwrap();
            }
        }
        let [at_gateway, at_client] = before;
        wait_until("the client to refuse the forgeries", || {
            let seen = status(&c1);
            reasons.iter().all(|reason| dropped(&seen, reason) > dropped(&at_client, reason))
        });
        wait_until("the gateway to refuse the forgeries", || {
            dropped(&status(&g1), reasons[0]) > dropped(&at_gateway, reasons[0])
        });
    }
    // The victim stays active to itself and to everybody, even after all announcements have expired.
    let end = Instant::now() + Duration::from_secs(4);
    while Instant::now() < end {
        assert_eq!(states(&status(&c1)), only("10.77.0.21", "active"));
        assert_eq!(status(&g1).node.state.as_deref(), Some("active"));
        assert_eq!(states(&status(&g1)), []);
    }
    assert!(!demoted.exists(), "--on-demote ran");
    let log = group.gateway.log();
    let (_, since) = log.split_once("this node's state state=\"active\"").expect("it became active");
    assert!(!since.contains("this node's state"), "{log}");
    assert!(since.contains("announcement refused"), "the administrator is not told: {log}");
    downloads(&c1);
}

/// The id of the member on this host.
fn group_id(host: &Host) -> NodeId {
    Forger::of(host).group.node.id
}

fn a_member_cannot_silence_a_gateway_by_a_beacon_in_its_name(lab: &Lab) {
    let (c1, c2, g1) = (lab.client("c1"), lab.client("c2"), lab.gateway("g1"));
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1, &c2], &[]);
    let _node = group.client(&c1, &[]);
    wait_until("the gateway to be active", || states(&status(&c1)) == only("10.77.0.21", "active"));

    // c2 may be a gateway itself, and sends from the victim's own address.
    let (forger, victim) = (Forger::of(&c2), group_id(&g1));
    let recorded = Recorder::start(&c2, &g1).next();
    let boot = u64::from_be_bytes(recorded[120..128].try_into().unwrap());
    let impostor = forger.impostor(&g1, &recorded);
    for from in [g1.address(), c2.address()] {
        let socket = spoofing(&c2, from);
        let from = SocketAddr::from((from, 7420));
        for boot in [boot, u64::MAX] {
            for (signer, state) in [(&*forger.group.signer, State::Active), (&impostor, State::Withdrawn)] {
                let sequence = Sequence { boot, counter: u64::MAX };
                let beacon = forger.announce(signer, victim, sequence, winning(state, 1000), from);
                socket.send_to(&beacon, (BROADCAST, 7420)).unwrap();
            }
        }
    }
    wait_until("the forgeries to be refused", || {
        let seen = status(&c1);
        dropped(&seen, "signature") >= 4 && dropped(&seen, "statement") >= 4
    });
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        let seen = status(&c1);
        assert_eq!(states(&seen), only("10.77.0.21", "active"));
        assert!(seen.gateways[0].heard_ago.is_some_and(|ago| ago < 3.5), "its beacons are ignored");
    }
    downloads(&c1);
}

/// Repeats a recording from the gateway's own address until it is told to end, from the beginning each time.
fn replay(
    stranger: &Host,
    gateway: &Host,
    recording: Vec<[u8; 512]>,
    ended: Arc<AtomicBool>,
) -> thread::JoinHandle<()> {
    let socket = spoofing(stranger, gateway.address());
    thread::spawn(move || {
        while !ended.load(Relaxed) {
            for beacon in &recording {
                let _ = socket.send_to(beacon, (BROADCAST, 7420));
                thread::sleep(Duration::from_millis(20));
            }
        }
    })
}

fn a_recording_from_before_a_restart_does_not_make_the_gateway_seem_to_drain(lab: &Lab) {
    let (c1, c2, c3, g1) = (lab.client("c1"), lab.client("c2"), lab.client("c3"), lab.gateway("g1"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &c2], &[]);
    // c3 is in no group. It records how the gateway serves, and how it stops.
    let recorder = Recorder::start(&c3, &g1);
    let mut recording = recorder.until(1);
    recording.push(recorder.next());
    group.gateway.signal(Signal::SIGTERM);
    recording.extend(recorder.until(2));
    group.gateway.wait(START);
    let mut gateway = group.gateway(&g1, &[]);
    gateway.wait_for_line("this node's state state=\"active\"", START);

    let ended = Arc::new(AtomicBool::new(false));
    let replaying = replay(&c3, &g1, recording, ended.clone());
    // Nodes that have never heard of the gateway. One of them could be a gateway, too.
    let mut node = up(&c1, &[]);
    let _other = group.up(&c2, &["--role", "gateway"]);
    node.wait_for_line("link up", START);
    let end = Instant::now() + Duration::from_secs(5);
    while Instant::now() < end {
        for host in [&c1, &c2] {
            let seen = status(host);
            let gateway = seen.gateways.iter().find(|gateway| gateway.address == "10.77.0.21:7420");
            let state = gateway.map(|gateway| gateway.state.as_str());
            assert!(!matches!(state, Some("draining" | "withdrawn")), "{state:?}");
            assert!(host.address() != c1.address() || state != Some("silent"), "{state:?}");
        }
    }
    wait_until("the old run to be refused", || dropped(&status(&c1), "old-run") > 0);
    downloads(&c1);
    ended.store(true, Relaxed);
    replaying.join().unwrap();
}

fn a_recording_of_a_gateway_that_is_gone_does_not_hold_the_role(lab: &Lab) {
    let (c1, c3, g1, g2) = (lab.client("c1"), lab.client("c3"), lab.gateway("g1"), lab.gateway("g2"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &g2], &[]);
    let recorder = Recorder::start(&c3, &g1);
    let mut recording = recorder.until(1);
    while recording.len() < 12 {
        recording.push(recorder.next());
    }
    group.gateway.signal(Signal::SIGKILL);
    group.gateway.wait(START);

    // The other gateway starts while the stranger repeats what the first one said when it was active.
    recording.retain(|beacon| beacon[56] == 1);
    let socket = spoofing(&c3, g1.address());
    let (ready, over) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicBool::new(false)));
    let replaying = {
        let (ready, over) = (ready.clone(), over.clone());
        thread::spawn(move || {
            let send = |beacon: &[u8; 512]| {
                socket.send_to(beacon, (BROADCAST, 7420)).unwrap();
                // More often than a node listens before it takes a vacant role.
                thread::sleep(Duration::from_millis(400));
            };
            // The rest of the recording is for the node, however long that takes to start and hear it.
            while !ready.load(Relaxed) {
                send(&recording[0]);
            }
            recording[1..].iter().for_each(send);
            over.store(true, Relaxed);
        })
    };
    let mut second = group.gateway(&g2, &[]);
    ready.store(true, Relaxed);
    second.wait_for_line("this node's state state=\"active\"", START);
    assert!(!over.load(Relaxed), "it became active only after the recording had ended");
    let _node = group.client(&c1, &[]);
    downloads(&c1);
    replaying.join().unwrap();
}

fn a_gateway_whose_state_was_restored_from_a_backup_is_heard_again(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1], &[]);
    // A number from the future, as a clock that was once far ahead leaves it; the backup has a smaller one.
    let file = state(&g1).join("boot");
    let backup = std::fs::read(&file).unwrap();
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    std::fs::write(&file, format!("{}\n", u64::MAX / 2)).unwrap();
    let mut gateway = group.gateway(&g1, &[]);
    let _node = group.client(&c1, &[]);
    wait_until("the gateway to be active", || states(&status(&c1)) == only("10.77.0.21", "active"));
    gateway.signal(Signal::SIGKILL);
    gateway.wait(START);
    std::fs::write(&file, backup).unwrap();
    let mut gateway = group.gateway(&g1, &[]);
    gateway.wait_for_line("this node's state state=\"active\"", START);
    wait_until("the gateway to be heard again", || {
        let seen = status(&c1);
        let is_fresh = seen.gateways.iter().any(|gateway| gateway.heard_ago.is_some_and(|ago| ago < 0.3));
        is_fresh && states(&seen) == only("10.77.0.21", "active")
    });
    downloads(&c1);
}
