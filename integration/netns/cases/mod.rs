//! The trials, one file for each topic. Each gets a lab of its own, and checks its own preconditions.

mod ailments;
mod associate;
mod beside;
mod cache;
pub(crate) mod clients;
mod curl;
mod cut_off;
mod discovery;
mod doctor;
mod errors;
pub(crate) mod failover;
mod false_alarms;
mod hints;
mod hostile;
mod isolation;
mod lifecycle;
pub(crate) mod links;
mod maintenance;
mod mute_uplinks;
mod names;
mod neighbours;
mod page;
mod peers;
mod proxy;
mod redirect;
mod replay;
mod resolve;
mod resume;
mod revocation;
mod rogue;
mod rules;
mod run_all;
mod services;
mod several;
mod sockets;
mod speedtest;
pub(crate) mod systems;
mod takeover;
mod transfer;
mod transparent;
mod trust;
pub(crate) mod udp;
mod unseen;
mod uplinks;
mod upstream;
mod way_out;
mod windows;

use crate::lab::Case;

/// All trials.
pub(crate) const ALL: &[&[Case]] = &[
    isolation::CASES,
    transfer::CASES,
    proxy::CASES,
    transparent::CASES,
    redirect::CASES,
    rules::CASES,
    run_all::CASES,
    discovery::CASES,
    trust::CASES,
    takeover::CASES,
    errors::CASES,
    hostile::CASES,
    lifecycle::CASES,
    services::CASES,
    maintenance::CASES,
    links::CASES,
    failover::CASES,
    resume::CASES,
    cache::CASES,
    several::CASES,
    revocation::CASES,
    rogue::CASES,
    replay::CASES,
    associate::CASES,
    udp::CASES,
    names::CASES,
    resolve::CASES,
    upstream::CASES,
    way_out::CASES,
    cut_off::CASES,
    uplinks::CASES,
    mute_uplinks::CASES,
    page::CASES,
    peers::CASES,
    doctor::CASES,
    false_alarms::CASES,
    ailments::CASES,
    neighbours::CASES,
    hints::CASES,
    unseen::CASES,
    beside::CASES,
    sockets::CASES,
    speedtest::CASES,
    clients::CASES,
];

/// Trials that run only when asked for.
pub(crate) const ON_DEMAND: &[&[Case]] = &[clients::ON_DEMAND];

/// Trials with a Windows program, which exist only when it was built.
pub(crate) const WINDOWS: &[Case] = windows::CASES;

/// Trials with the programs of several systems, which run only when these were built.
pub(crate) const SYSTEMS: &[Case] = systems::CASES;

/// Programs that some topics need in addition; without them their trials are ignored.
pub(crate) const NEEDED: &[(&str, &[&str])] = &[
    ("names::", &["unbound", "dnsmasq", "dig"]),
    ("redirect::the_nodes_own_dns", &["unbound", "dig"]),
    ("resolve::", &["getent", "dig"]),
    ("run_all::connections", &["unbound", "dig", "getent"]),
    ("run_all::datagrams", &["python3"]),
    ("run_all::a_static", &["gcc"]),
    ("services::", &["python3"]),
    ("links::openssl", &["openssl"]),
    ("links::nghttp", &["nghttp"]),
    ("links::h2load", &["h2load"]),
    ("uplinks::names", &["unbound", "dig"]),
    ("unseen::name_servers", &["unbound", "dig"]),
    ("ailments::a_front", &["openssl", "python3"]),
    ("upstream::", &["squid", "danted"]),
    ("doctor::names_a_wrong_clock", &["faketime"]),
];
