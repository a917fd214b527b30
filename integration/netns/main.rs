//! The real `laneway` binary in real network namespaces: an isolated LAN, gateways with a second leg, a server behind them.
//!
//! `cargo test --test netns` runs every trial, `cargo test --test netns -- NAME` those whose name contains NAME. It needs
//! Linux with `ip`, `nsenter`, `unshare`, `setpriv`, `curl`, `ss` and `nft`. It uses nginx when installed, and some trials
//! need more programs and Python packages. It runs as root and as a user who may make user namespaces. Everything it makes
//! is in namespaces of its own, and gone when it ends, however it ends. When the kernel refuses or a program is missing,
//! the trials are reported as ignored; for root with `CI=true` they fail.
//!
//! [`lab`] is the network and what runs in it; [`cases`] are the trials, one file for each topic; [`bench`] and
//! [`reliability`] measure, and run only when asked for.

#![allow(clippy::unwrap_used, clippy::print_stderr, reason = "a test may panic and speak")]

mod bench;
mod cases;
mod lab;
mod reliability;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use std::process::ExitCode;

/// The number of concurrent trials. Most of their time they wait for a deadline, so that more than one per core pays.
const PARALLEL_TRIALS: usize = 4;

/// A program that this trial needs and that is not installed.
fn missing(trial: &str) -> Option<String> {
    let needed = cases::NEEDED.iter().filter(|(topic, _)| trial.starts_with(topic));
    let missing = needed.flat_map(|(_, tools)| tools.iter()).find(|tool| lab::programs::find(tool).is_none());
    missing.map(|tool| format!("`{tool}` is not installed"))
}

/// A trial that takes long, and runs only when asked for by name.
fn on_demand(name: String, run: impl FnOnce() + Send + 'static) -> Trial {
    let run = move || {
        run();
        Ok(())
    };
    Trial::test(name, run).with_ignored_flag(true)
}

fn main() -> ExitCode {
    if let Some(code) = lab::lying_gateway::run().or_else(lab::lying_member::run) {
        return code;
    }
    let mut arguments = Arguments::from_args();
    arguments.test_threads.get_or_insert(PARALLEL_TRIALS);

    // Before libtest-mimic starts a thread, because only a single-threaded process can enter a new user namespace.
    let isolated = lab::isolate::enter();
    if let Err(refusal) = &isolated {
        eprintln!("\n*** THE NETWORK NAMESPACE TRIALS DO NOT RUN: {refusal} ***\n");
    }

    let udp_lacks = isolated.is_ok().then(cases::udp::lacking).flatten();
    if let Some(lacking) = &udp_lacks {
        eprintln!("\n*** THE TRIALS OF UDP DO NOT RUN WITHOUT {lacking} ***\n");
    }

    let trial = |name: &'static str, case: fn(&lab::Lab)| {
        let isolated = isolated.clone();
        let of_udp = udp_lacks.clone().filter(|_| name.starts_with("udp::"));
        Trial::ignorable_test(name, move || match isolated {
            Ok(()) => match of_udp
                .or_else(|| cases::clients::lacking(name))
                .or_else(|| cases::links::lacking(name))
                .or_else(|| missing(name))
            {
                None => {
                    case(&lab::Lab::new());
                    Ok(Completion::Completed)
                }
                Some(lacking) if lab::isolate::must_work() => Err(Failed::from(lacking)),
                Some(lacking) => {
                    eprintln!("\n*** {name} DOES NOT RUN: {lacking} ***\n");
                    Ok(Completion::ignored_with(lacking))
                }
            },
            Err(refusal) if refusal.fails => Err(Failed::from(refusal)),
            Err(refusal) => Ok(Completion::ignored_with(refusal)),
        })
    };
    let usual = cases::ALL.iter().flat_map(|topic| topic.iter()).map(|&(name, case)| trial(name, case));
    let asked_for = cases::ON_DEMAND.iter().flat_map(|topic| topic.iter());
    let asked_for = asked_for.map(|&(name, case)| trial(name, case).with_ignored_flag(true));
    let of_windows = cases::WINDOWS.iter().filter(|_| lab::wine::lacking().is_none());
    let of_systems = cases::SYSTEMS.iter().filter(|_| cases::systems::lacking().is_none());
    let of_windows = of_windows.chain(of_systems).map(|&(name, case)| trial(name, case));
    let measured = isolated.is_ok().then(|| on_demand("bench::failover".into(), bench::failover));
    let lines = reliability::LINES.iter().filter(|_| isolated.is_ok()).flat_map(|line| {
        let whole = on_demand(format!("reliability::{}", line.name), || line.in_full());
        let short = line.short.map(|scale| {
            Trial::test(format!("short::{}", line.name), move || {
                line.in_short(scale);
                Ok(())
            })
        });
        [whole].into_iter().chain(short)
    });
    libtest_mimic::run(
        &arguments,
        usual.chain(asked_for).chain(of_windows).chain(measured).chain(lines).collect(),
    )
    .exit_code()
}
