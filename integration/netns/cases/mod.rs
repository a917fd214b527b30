//! The trials, one file for each topic. Each gets a lab of its own and proves what it presupposes.

mod associate;
pub(crate) mod clients;
mod discovery;
mod doctor;
mod errors;
pub(crate) mod failover;
mod hostile;
mod isolation;
mod led;
mod lifecycle;
mod names;
mod page;
mod proxy;
mod replay;
mod resume;
mod revocation;
mod speedtest;
mod transfer;
mod transparent;
mod trust;
pub(crate) mod udp;
mod upstream;

use crate::lab::{Lab, isolate};
use std::path::{Path, PathBuf};

/// A trial: its name, which says what must hold, and the code that panics where it does not.
pub(crate) type Case = (&'static str, fn(&Lab));

/// All of them.
pub(crate) const ALL: &[&[Case]] = &[
    isolation::CASES,
    transfer::CASES,
    proxy::CASES,
    transparent::CASES,
    led::CASES,
    discovery::CASES,
    trust::CASES,
    errors::CASES,
    hostile::CASES,
    lifecycle::CASES,
    failover::CASES,
    resume::CASES,
    revocation::CASES,
    replay::CASES,
    associate::CASES,
    udp::CASES,
    names::CASES,
    upstream::CASES,
    page::CASES,
    doctor::CASES,
    speedtest::CASES,
    clients::CASES,
];

/// Those that run only when they are asked for.
pub(crate) const ON_DEMAND: &[&[Case]] = &[clients::ON_DEMAND];

/// What some topics need besides, and how a distribution calls it: without it their trials are ignored.
pub(crate) const NEEDED: &[(&str, &[&str])] = &[
    ("names::", &["unbound", "dnsmasq", "dig"]),
    ("led::questions", &["unbound", "dig"]),
    ("upstream::", &["squid", "danted"]),
    ("doctor::clock", &["faketime"]),
];

/// Where `.ci/run` installs Python's packages, else the machine's own.
pub(crate) fn python() -> PathBuf {
    let ours = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/python/bin/python");
    if ours.is_file() { ours } else { isolate::find("python3").unwrap_or_else(|| "python3".into()) }
}

/// Where the web server is, as an app writes it.
const BIG: &str = "http://10.88.0.100/big";
/// The local proxy, for curl.
const HTTP: [&str; 2] = ["--proxy", "http://127.0.0.1:1080"];
/// The same by CONNECT.
const TUNNEL: [&str; 3] = ["--proxy", "http://127.0.0.1:1080", "--proxytunnel"];
/// The same by SOCKS5; names are resolved behind the proxy.
const SOCKS: [&str; 2] = ["--socks5-hostname", "127.0.0.1:1080"];
/// Every dialect that curl reaches the local proxy by.
const DIALECTS: [&[&str]; 3] = [&HTTP, &TUNNEL, &SOCKS];

/// What curl exits with when it cannot connect.
const CANNOT_CONNECT: i32 = 7;
