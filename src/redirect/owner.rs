//! An `nft` process that owns the table. The kernel removes the table when the process ends, and nobody else can change
//! it: not even `nft flush ruleset` of a firewall that is loaded again. The process ends when its standard input does, so
//! the rules last exactly as long as the node, however it ends.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::thread::Builder;
use std::time::{Duration, Instant};

use super::error::RedirectError;
use super::program::{command, complaint, not_started};
use crate::sys::process::in_own_group;

const PROGRAM: &str = "nft";
/// The deadline for one change. It takes a few milliseconds.
const DEADLINE: Duration = Duration::from_secs(5);
/// How long the process may take to end.
pub(super) const END: Duration = Duration::from_secs(2);
/// Interval between two looks at whether it has ended.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// The process.
#[derive(Debug)]
pub(super) struct Owner {
    child: Child,
    /// `None` while it ends.
    input: Option<ChildStdin>,
    /// The lines of its error output.
    errors: Receiver<String>,
    /// The number of changes so far.
    changes: u64,
}

impl Owner {
    /// Starts the process, which owns nothing yet.
    pub(super) fn start() -> Result<Self, RedirectError> {
        let mut nft = command(PROGRAM);
        // It would keep a history of the commands in the home directory. In a process group of its own, a Ctrl-C for the
        // node does not end it before the node has drained.
        nft.arg("-i").env("HOME", "/dev/null");
        in_own_group(&mut nft);
        nft.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = nft.spawn().map_err(|error| not_started(PROGRAM, error))?;
        let (send, errors) = channel();
        let (input, stderr) = (child.stdin.take(), child.stderr.take());
        let owner = Self { child, input, errors, changes: 0 };
        if let Some(stderr) = stderr {
            let read = move || {
                let lines = BufReader::new(stderr).lines().map_while(Result::ok);
                // Ends with the process, or when nobody reads any more.
                lines.map(|line| send.send(line)).take_while(Result::is_ok).for_each(drop);
            };
            Builder::new().name("nft".to_owned()).spawn(read).map_err(|error| not_started(PROGRAM, error))?;
        }
        Ok(owner)
    }

    /// Applies a text of one line, wholly or not at all.
    pub(super) fn apply(&mut self, text: &str) -> Result<(), RedirectError> {
        self.changes += 1;
        // nft says nothing on success, so a missing table is listed next: the complaint about it repeats its name, and follows
        // the complaints about the text.
        let end = format!("laneway-{}", self.changes);
        let ended = |error| RedirectError::Io(PROGRAM, error);
        let input = self.input.as_mut().ok_or_else(|| ended(std::io::ErrorKind::BrokenPipe.into()))?;
        write!(input, "{text}\nlist table inet {end}\n").and_then(|()| input.flush()).map_err(ended)?;
        let (mut errors, until) = (Vec::new(), Instant::now() + DEADLINE);
        loop {
            match self.errors.recv_timeout(until.saturating_duration_since(Instant::now())) {
                Ok(line) if line.contains(&format!("list table inet {end}")) => break,
                Ok(line) => errors.push(line),
                Err(RecvTimeoutError::Timeout) => return Err(ended(std::io::ErrorKind::TimedOut.into())),
                Err(RecvTimeoutError::Disconnected) => {
                    errors.push("it does not take commands from its input".into());
                    return Err(complaint(PROGRAM, &errors.join("\n")));
                }
            }
        }
        // The last complaint is the one about the missing table.
        let mut said = errors.iter().filter(|line| line.contains("Error: "));
        match (said.next(), said.next()) {
            (Some(first), Some(_)) => Err(complaint(PROGRAM, first)),
            _ => Ok(()),
        }
    }

    /// Whether the process has ended, and its table with it.
    pub(super) fn has_ended(&mut self) -> bool {
        !matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Owner {
    fn drop(&mut self) {
        drop(self.input.take());
        let until = Instant::now() + END;
        while !self.has_ended() && Instant::now() < until {
            std::thread::sleep(POLL);
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
