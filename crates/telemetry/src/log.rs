//! Logs: `tracing` events to standard error, as lines or as JSON.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use clap::ValueEnum;
use serde::Deserialize;
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::{FormatTime as _, SystemTime};

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
    /// The log file cannot be opened.
    #[error("the log file cannot be opened")]
    File(#[source] io::Error),
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

/// Size of a log file, in bytes, at which a new one begins. With the one before it a log has at most twice as many.
const MAX_LOG_FILE: u64 = 8 << 20;

/// A log file of bounded size. The one before it has the same name with `.old` behind it.
struct LogFile {
    path: PathBuf,
    file: File,
    size: u64,
    limit: u64,
}

impl LogFile {
    fn open(path: &Path, limit: u64) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let size = file.metadata()?.len();
        Ok(Self { path: path.to_owned(), file, size, limit })
    }

    fn write_line(&mut self, line: &[u8]) -> io::Result<()> {
        if self.size > 0 && self.size + line.len() as u64 > self.limit {
            let mut old = self.path.clone().into_os_string();
            old.push(".old");
            // A file that cannot be renamed goes on.
            let _ = std::fs::rename(&self.path, old);
            *self = Self::open(&self.path, self.limit)?;
        }
        self.file.write_all(line)?;
        self.size += line.len() as u64;
        Ok(())
    }
}

/// The end of a log file for one event.
struct Appending(Arc<Mutex<LogFile>>);

impl Write for Appending {
    fn write(&mut self, event: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).write_line(event)?;
        Ok(event.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Adds text to the end of a log file, outside of the log: what a service has to say before and after its log.
///
/// # Errors
/// The operating system's error.
pub fn append(path: &Path, text: &str) -> io::Result<()> {
    LogFile::open(path, MAX_LOG_FILE)?.write_line(format!("{text}\n").as_bytes())
}

/// Has panics written to a log file as well: a service has no standard error. The file is opened for each panic, because a
/// panic may hold the lock of the log.
pub fn write_panics_to(path: &Path) {
    let (path, before) = (path.to_owned(), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |panic| {
        let thread = std::thread::current();
        let mut time = String::new();
        // Without the time it still says what has happened.
        let _ = SystemTime.format_time(&mut Writer::new(&mut time));
        let line = format!("{time} ERROR thread '{}' {panic}", thread.name().unwrap_or("?"));
        let _ = append(&path, &line);
        before(panic);
    }));
}

/// Starts logging to a file, like [`start`]. When it has reached 8 MiB, a new one begins, and one old one is kept.
///
/// # Errors
/// [`LogError`].
pub fn start_in_file(filter: &str, format: Format, path: &Path) -> Result<(), LogError> {
    let filter = EnvFilter::try_new(filter)?;
    let file = LogFile::open(path, MAX_LOG_FILE).map_err(LogError::File)?;
    let file = Arc::new(Mutex::new(file));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(move || OneLine(Appending(file.clone())))
        .with_target(false)
        .with_ansi(false);
    let started = match format {
        Format::Text => builder.try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    started.map_err(LogError::Started)
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
    use super::*;

    #[test]
    fn a_log_file_never_has_more_than_twice_its_limit() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("laneway.log");
        let mut log = LogFile::open(&path, 100).unwrap();
        for number in 0..50 {
            log.write_line(format!("line {number:04}\n").as_bytes()).unwrap();
        }
        drop(log);
        let old = std::fs::read_to_string(directory.path().join("laneway.log.old")).unwrap();
        let new = std::fs::read_to_string(&path).unwrap();
        assert!(old.len() <= 100 && new.len() <= 100, "{} {}", old.len(), new.len());
        assert_eq!(format!("{old}{new}").lines().last(), Some("line 0049"));
        LogFile::open(&path, 100).unwrap().write_line(&[b'x'; 200]).unwrap();
        assert_eq!(std::fs::metadata(&path).unwrap().len(), 200, "a line is never split");
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 2);
    }

    #[test]
    fn a_panic_is_in_the_log_file_of_a_service() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("laneway.log");
        write_panics_to(&path);
        let ended =
            std::thread::Builder::new().name("links".into()).spawn(|| panic!("the {} failed", "test"));
        let ended = ended.unwrap().join();
        drop(std::panic::take_hook());
        assert!(ended.is_err());
        let text = std::fs::read_to_string(&path).unwrap();
        // Other tests of this process may panic meanwhile.
        assert!(
            text.contains(" ERROR thread 'links' panicked at ") && text.contains("the test failed"),
            "{text}"
        );
    }

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
