//! `laneway demo`: the whole system on loopback addresses, run with this binary and shown on the terminal.

use std::cell::RefCell;
use std::error::Error;

use indicatif::ProgressBar;
use laneway_demo::Report;

use super::progress::{self, Waiting};
use super::say;
use crate::problem::Problem;
use crate::size::{Size, SizeError};

/// `laneway demo`
#[derive(Debug, clap::Args)]
pub struct Demo {
    /// The size of the file that is downloaded, like 256M; a number without a unit is in MiB
    #[arg(long, value_name = "SIZE", default_value = "256M", value_parser = file_size)]
    size: Size,
    /// Leave everything running until Ctrl-C, and print a command to try
    #[arg(long)]
    keep: bool,
}

fn file_size(text: &str) -> Result<Size, String> {
    let bare = text.parse::<u64>().ok().and_then(|mebibytes| mebibytes.checked_mul(1 << 20));
    let size = bare.map_or_else(|| text.parse(), |size| Ok(Size(size)));
    match size.map_err(|error: SizeError| error.to_string())? {
        Size(size) if (1 << 20..=1 << 36).contains(&size) => Ok(Size(size)),
        _ => Err("not from 1M to 64G".into()),
    }
}

impl Demo {
    /// Runs it.
    ///
    /// # Errors
    /// The step that failed, and why.
    pub async fn run(self) -> Result<(), Problem> {
        let executable = std::env::current_exe()
            .map_err(|error| Problem::new("the demo cannot find its own program").because(error))?;
        let demo = laneway_demo::Demo { executable, size: self.size.0, keep: self.keep };
        let screen = RefCell::<Screen>::default();
        let report = |report: Report<'_>| show(&mut screen.borrow_mut(), report);
        tokio::select! {
            result = demo.run(&report) => result.map_err(Problem::from),
            _ = tokio::signal::ctrl_c() => match screen.borrow().is_over {
                true => Ok(()),
                false => Err(Problem::new("the demo was interrupted")),
            },
        }
    }
}

impl From<laneway_demo::Error> for Problem {
    fn from(error: laneway_demo::Error) -> Self {
        let problem = Self::new(error.to_string());
        match error.source() {
            Some(source) => problem.because(source),
            None => problem,
        }
    }
}

/// What moves on the terminal.
#[derive(Default)]
struct Screen {
    waiting: Option<Waiting>,
    download: Option<ProgressBar>,
    /// Nothing is left to show.
    is_over: bool,
}

fn show(screen: &mut Screen, report: Report<'_>) {
    screen.waiting = None;
    match report {
        Report::Title(text) => say(format_args!("\n{text}")),
        Report::Step(text) => say(format_args!("  {text}")),
        Report::Waiting(text) => screen.waiting = Some(progress::waiting(text)),
        Report::Download { name, size } => {
            if !progress::is_shown() {
                say(format_args!("  {name}: downloading {size} bytes …"));
            }
            screen.download = Some(progress::bytes(name, size));
        }
        Report::Downloaded(bytes) => screen.download.iter().for_each(|bar| bar.set_position(bytes)),
        Report::Kept => screen.is_over = true,
        Report::DownloadEnd => screen.download.take().iter().for_each(ProgressBar::finish_and_clear),
    }
}
