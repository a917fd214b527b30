//! `laneway top`: what this machine's node sees, live in the terminal.

mod screen;

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use crossterm::event::{Event, EventStream, KeyCode, KeyEventKind, KeyModifiers};
use futures_util::StreamExt;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::ask;
use super::local_port::LocalPort;
use crate::problem::Problem;
use crate::sys::blocking;
use crate::sys::signals::Signals;
use crate::telemetry::snapshot::Snapshot;

/// Interval between two requests to the node.
const POLL_INTERVAL: Duration = Duration::from_secs(1);

/// `laneway top`
#[derive(Debug, clap::Args)]
pub struct Top {
    #[command(flatten)]
    port: LocalPort,
}

impl Top {
    /// Draws until the user quits. `state` is the directory that was named, if any.
    ///
    /// # Errors
    /// When there is no terminal, or when no node runs at the start. If the node stops later, it waits for it.
    pub fn run(self, state: Option<&Path>) -> Result<(), Problem> {
        let proxy = self.port.address(state)?;
        if !std::io::stdout().is_terminal() || !std::io::stdin().is_terminal() {
            return Err(Problem::usage("top needs a terminal")
                .hint("'laneway status' prints the same once, and 'laneway status --json' for programs"));
        }
        let first = ask::snapshot(proxy)?;
        super::block_on(watch(proxy, first))?
    }
}

/// ratatui restores the terminal after a panic, too.
async fn watch(proxy: SocketAddr, first: Snapshot) -> Result<(), Problem> {
    let failed = |error: std::io::Error| Problem::new("the terminal cannot be used").because(error);
    let mut signals = Signals::new().map_err(failed)?;
    let mut terminal = ratatui::try_init().map_err(failed)?;
    let mut keys = EventStream::new();
    let mut tick = interval(POLL_INTERVAL);
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut seen = (first, None);
    // Waits for a node that hangs, while keys still work.
    let mut polls = JoinSet::new();
    let ended = loop {
        if let Err(error) = terminal.draw(|frame| screen::draw(frame, &seen.0, seen.1.as_deref())) {
            break Err(failed(error));
        }
        tokio::select! {
            _ = tick.tick(), if polls.is_empty() => {
                polls.spawn(blocking::run(move || ask::snapshot(proxy)));
            }
            Some(polled) = polls.join_next() => match polled.map_err(std::io::Error::from).flatten() {
                Ok(Ok(snapshot)) => seen = (snapshot, None),
                Ok(Err(_)) => seen.1 = Some(format!("the node on {proxy} does not answer; waiting for it")),
                Err(error) => break Err(Problem::new("the node cannot be polled").because(error)),
            },
            key = keys.next() => match key {
                Some(Ok(key)) if is_quit(&key) => break Ok(()),
                Some(Ok(_)) => {}
                Some(Err(error)) => break Err(failed(error)),
                None => break Ok(()),
            },
            _ = signals.next() => break Ok(()),
        }
    };
    ratatui::restore();
    ended
}

fn is_quit(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let control_c = key.code == KeyCode::Char('c') && key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press && (control_c || matches!(key.code, KeyCode::Char('q') | KeyCode::Esc))
}
