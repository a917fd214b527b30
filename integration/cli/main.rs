//! The real `laneway` binary on one machine: its output, exit codes and files.
//!
//! Nothing here needs a network: nodes run on loopback addresses and on ports that the system picks.
//! `LANEWAY_UPDATE_SNAPSHOTS=1 cargo test --test cli` rewrites the help texts in `help/`.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic and speak")]

mod configuration;
mod demo;
mod desktop;
mod environment;
mod help;
mod hung;
mod joining;
mod loops;
mod machine;
mod membership;
mod metrics;
mod mistakes;
mod node;
mod proxy;
mod service;
mod status;
mod top;
