//! One group of Windows (Wine), Linux on arm64 (qemu) and static Linux.

use super::curl::{BIG, HTTP};
use crate::lab::group::{START, laneway, links};
use crate::lab::load::Load;
use crate::lab::origin::{big, sha256};
use crate::lab::process::Process;
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, programs, wait_until, wine};
use laneway::telemetry::snapshot::Snapshot;
use nix::sys::signal::Signal;
use std::os::unix::fs::symlink;
use std::{env, fs};

pub(crate) const CASES: &[Case] = &[
    ("systems::they_transfer_the_same_bytes", they_transfer_the_same_bytes),
    ("systems::they_elect_fail_over_and_revoke", they_elect_fail_over_and_revoke),
];

/// The variables with the paths of the programs.
const ARM64: &str = "LANEWAY_ARM64_PROGRAM";
const STATIC: &str = "LANEWAY_STATIC_PROGRAM";
/// New requests per second.
const RATE: u32 = 20;

/// What these trials need and is missing.
pub(crate) fn lacking() -> Option<String> {
    let unset = [ARM64, STATIC].into_iter().find(|name| env::var_os(name).is_none());
    let qemu = programs::find("qemu-aarch64").is_none().then_some("`qemu-aarch64`");
    let ours =
        unset.or(qemu).map(|what| format!("{what} is missing: scripts/systems-test.sh runs these trials"));
    ours.or_else(wine::lacking)
}

/// The client c1 has the static program, and the gateways g1 and g2 those of Windows and of arm64.
fn hosts(lab: &Lab) -> (Host, Host, Host, wine::Wine) {
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let wine = wine::install(&g1);
    let (arm64, musl) = (env::var(ARM64).unwrap(), env::var(STATIC).unwrap());
    // qemu looks for every file below this directory first, and may make files there: it is one of this trial.
    let root = g2.directory().join("arm64");
    fs::create_dir_all(&root).unwrap();
    symlink("/usr/aarch64-linux-gnu/lib", root.join("lib")).unwrap();
    g2.run_other(&["qemu-aarch64", "-L", root.to_str().unwrap(), &arm64]);
    c1.run_other(&[&musl]);
    (c1, g1, g2, wine)
}

fn they_transfer_the_same_bytes(lab: &Lab) {
    let (c1, g1, g2, _wine) = hosts(lab);
    let _origin = lab.origin();
    let mut group = lab.group(&[&g1, &c1, &g2], &[]);
    let _client = group.client(&c1, &[]);
    let _other = group.gateway(&g2, &[]);
    wait_until("the client to have a link to each gateway", || links(&c1) == 2);
    downloads(&c1);
    kill(&mut group.gateway);
    downloads(&c1);
}

fn downloads(client: &Host) {
    let download = client.curl(&[&HTTP as &[&str], &[BIG]].concat()).success();
    assert_eq!(sha256(&download.stdout), big().sha256);
}

fn they_elect_fail_over_and_revoke(lab: &Lab) {
    let _web = lab.web(who);
    let (c1, g1, g2, _wine) = hosts(lab);
    let mut group = lab.group(&[&g2, &c1, &g1], &[]);
    let _client = group.client(&c1, &[]);
    let load = Load::start(&c1, RATE);
    load.wait_for_service_by(g2.addresses()[1], 20);
    let other = group.gateway(&g1, &[]);
    wait_until("the gateway on arm64 to answer a query", || has_offered(&g2));
    wait_until("one of two to be active", || states(&c1) == ["active", "standby"]);
    wait_until("the client to have a link to each gateway", || links(&c1) == 2);
    kill(&mut group.gateway);
    load.wait_for_service_by(g1.addresses()[1], 20);
    load.stop().no_failure();

    // The authority, on arm64, removes the gateway on Windows, and the client on static Linux leaves it.
    let again = group.gateway(&g2, &[]);
    wait_until("the client to have a link to each gateway", || links(&c1) == 2);
    let said = laneway(&g2, &["revoke", "g1"]).success().text();
    assert!(said.contains("Removed: g1"), "{said}");
    wait_until("the client to leave the removed gateway", || links(&c1) == 1);
    let answer = c1.curl(&[&HTTP as &[&str], &["http://10.88.0.100/"]].concat()).success().text();
    assert!(answer.contains(&g2.addresses()[1].to_string()), "{answer}");
    drop((other, again));
}

fn kill(node: &mut Process) {
    node.signal(Signal::SIGKILL);
    node.wait(START);
}

fn status(host: &Host) -> Option<Snapshot> {
    serde_json::from_str(&laneway(host, &["status", "--json"]).text()).ok()
}

/// Whether this gateway has answered a query of discovery.
fn has_offered(gateway: &Host) -> bool {
    let sent = status(gateway).into_iter().flat_map(|seen| seen.datagrams);
    sent.into_iter().any(|sent| sent.what == "offer" && sent.side == "sent" && sent.count > 0)
}

/// The states of the gateways that the client hears, sorted.
fn states(client: &Host) -> Vec<String> {
    let mut states: Vec<_> = status(client).map(|seen| seen.gateways).unwrap_or_default();
    states.sort_by(|one, other| one.state.cmp(&other.state));
    states.into_iter().map(|gateway| gateway.state.to_string()).collect()
}
