//! Logs: `tracing` events to standard error, as lines or as JSON.

use std::io::{self, Write};

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;

/// The format of log lines.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// Text for people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// Writes each event as one line, whatever text from a peer it contains: characters that would break the line, or
/// control a terminal, become question marks. Colours stay, because the formatter writes some itself.
struct OneLine<W>(W);

impl<W: Write> Write for OneLine<W> {
    /// `event` is one whole event, with its line end.
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        let (line, end) = event.strip_suffix(b"\n").map_or((event, &b""[..]), |line| (line, b"\n"));
        if line.iter().any(u8::is_ascii_control) {
            self.0.write_all(&[&clean(line), end].concat())?;
        } else {
            self.0.write_all(event)?;
        }
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn clean(mut line: &[u8]) -> Vec<u8> {
    let mut cleaned = Vec::with_capacity(line.len());
    while let Some(byte) = line.first() {
        let taken = match colour(line) {
            0 => {
                let breaks = byte.is_ascii_control() && *byte != b'\t';
                cleaned.push(if breaks { b'?' } else { *byte });
                1
            }
            length => {
                cleaned.extend_from_slice(&line[..length]);
                length
            }
        };
        line = &line[taken..];
    }
    cleaned
}

/// The length of the colour sequence (SGR, ECMA-48 §8.3.117) that `text` begins with; 0 if there is none.
fn colour(text: &[u8]) -> usize {
    let Some(parameters) = text.strip_prefix(b"\x1b[") else { return 0 };
    let length = parameters.iter().take_while(|byte| byte.is_ascii_digit() || **byte == b';').count();
    if parameters.get(length) == Some(&b'm') { length + 3 } else { 0 }
}

/// Why logging cannot be started.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The filter is neither a level nor a list of directives.
    #[error(transparent)]
    Filter(#[from] tracing_subscriber::filter::ParseError),
    /// Logging has been started before.
    #[error("logging is already set up")]
    Started(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Checks a filter without using it.
///
/// # Errors
/// [`LogError::Filter`].
pub fn check(filter: &str) -> Result<(), LogError> {
    EnvFilter::try_new(filter)?;
    Ok(())
}

/// Starts logging. `filter` is a level (`error`, `warn`, `info`, `debug`, `trace`) or `tracing` directives.
///
/// # Errors
/// [`LogError`].
pub fn start(filter: &str, format: Format) -> Result<(), LogError> {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_new(filter)?;
    let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| OneLine(std::io::stderr()))
        .with_target(false)
        .with_ansi(colour);
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(LogError::Started)
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct CapturedLog(Arc<Mutex<Vec<u8>>>);

    impl Write for CapturedLog {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn an_event_is_one_line_whatever_a_peer_sends() {
        let said = "a\r\nINFO stopped\x07\0 \u{1b}[2J\u{1b}]0;b\u{7f}\u{85}\u{2028}c";
        for json in [false, true] {
            let captured = CapturedLog::default();
            let writer = captured.clone();
            let builder =
                tracing_subscriber::fmt().with_writer(move || OneLine(writer.clone())).with_ansi(false);
            let log = || {
                tracing::info!(shown = %said, debugged = ?said, text = said, "{said}");
                tracing::info!(error = %io::Error::other(said), "second");
            };
            if json {
                tracing::subscriber::with_default(builder.json().flatten_event(true).finish(), log);
            } else {
                tracing::subscriber::with_default(builder.finish(), log);
            }
            let text = String::from_utf8(captured.0.lock().unwrap().clone()).unwrap();
            let lines: Vec<_> = text.split_inclusive('\n').collect();
            assert_eq!(lines.len(), 2, "{text:?}");
            assert!(lines.iter().all(|line| line.ends_with('\n')), "{text:?}");
            let others = |c: char| c != '\n' && c.is_ascii_control();
            assert!(!text.contains(others), "{text:?}");
        }
    }

    #[test]
    fn only_colours_are_left_of_terminal_sequences() {
        assert_eq!(clean(b"\x1b[1;31mred\x1b[0m\ttab"), b"\x1b[1;31mred\x1b[0m\ttab");
        assert_eq!(clean(b"\x1b[2J\x1b]0;title\x07\x1b[31\x1b"), b"?[2J?]0;title??[31?");
    }
}
