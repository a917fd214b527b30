//! Measures laneway beside other programs that carry connections through a second process: `scripts/bench.sh` runs it.
//!
//! The process that the user starts only makes namespaces and waits ([`isolate`]); the process inside them is the bench. It
//! makes the networks ([`network`]), starts the [`peers`], and lets the [`load`] generator act on them, one [`measures`] entry
//! after the other and one peer after the other, round by round. The [`report`] is Markdown and JSON.

mod accounting;
mod bench;
mod isolate;
mod line;
mod load;
mod measures;
mod network;
mod options;
mod peers;
mod process;
mod relay;
mod report;
mod statistics;

use anyhow::Result;
use clap::Parser;
use options::Options;
use std::process::ExitCode;

fn main() -> ExitCode {
    run().unwrap_or_else(|error| {
        eprintln!("error: {error}");
        for cause in error.chain().skip(1) {
            eprintln!("caused by: {cause}");
        }
        ExitCode::FAILURE
    })
}

fn run() -> Result<ExitCode> {
    if std::env::args().nth(1).as_deref() == Some(relay::ROLE) {
        return relay::main().map(|()| ExitCode::SUCCESS);
    }
    let options = Options::parse();
    if options.list {
        bench::list(&options);
        return Ok(ExitCode::SUCCESS);
    }
    if !options.inside {
        return isolate::run_inside(options.limit());
    }
    isolate::settle(options.keep.as_deref())?;
    bench::run(&options)?;
    Ok(ExitCode::SUCCESS)
}
