//! The doctor finds no fault in a machine that is well: not in its role, nor in what changed a moment ago.

use super::ailments::{status, stop};
use super::doctor::{diagnose, healthy};
use crate::lab::group::{START, laneway, state};
use crate::lab::{Case, Host, Lab, wait_until};
use std::fs;

pub(super) const CASES: &[Case] = &[
    ("false_alarms::a_client_that_is_configured_like_a_gateway", a_client_that_is_configured_like_a_gateway),
    ("false_alarms::a_client_with_a_new_address", a_client_with_a_new_address),
    ("false_alarms::keys_that_were_renewed_a_moment_ago", keys_that_were_renewed_a_moment_ago),
];

/// All machines of a group may have the same configuration; those that do not reach its server are clients.
fn a_client_that_is_configured_like_a_gateway(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    c1.set("LANEWAY_SERVER", "10.88.0.100:80");
    c1.set("LANEWAY_ALLOW", "*.lab");
    // The client serves nobody, so nobody needs these packets to pass.
    c1.filter("tcp dport 7420 drop");
    let node = group.client(&c1, &[]);
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
    stop(node);
    let said = diagnose(&c1, &[]).said("name servers");
    assert!(said.is_empty(), "{said}");
}

fn a_client_with_a_new_address(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let node = group.client(&c1, &[]);
    let made = || node.log().matches("link up").count();
    let before = made();
    c1.ip("address flush dev lan");
    c1.ip("address add 10.77.0.99/24 broadcast + dev lan");
    wait_until("a link from the new address", || made() > before);
    // The gateway still has its link to the old address.
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("link");
    assert!(!said.contains("with the same keys"), "{}", diagnosis.text);
}

fn group_file(host: &Host) -> Vec<u8> {
    fs::read(state(host).join("group.json")).unwrap()
}

fn keys_that_were_renewed_a_moment_ago(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let mut node = group.client(&c1, &[]);
    wait_until("the gateway to be active", || status(&g1).node.state.as_deref() == Some("active"));
    let before = group_file(&c1);
    laneway(&g1, &["rotate"]).success();
    node.wait_for_line("group update applied", START);
    // As if the command had read the file before the update.
    wait_until("the update to be saved", || group_file(&c1) != before);
    fs::write(state(&c1).join("group.json"), before).unwrap();
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!(diagnosis.code, 0, "{}", diagnosis.text);
}
