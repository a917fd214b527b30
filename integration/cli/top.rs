//! `laneway top` in a terminal of its own: however it ends, the terminal is as it was.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::process::{Child, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use nix::pty::{Winsize, openpty};
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, Termios, tcgetattr};
use nix::unistd::Pid;

use crate::machine::Machine;

/// The terminal switches to its other screen, and back (xterm, DEC private mode 1049).
const ENTER: &str = "\x1b[?1049h";
const LEAVE: &str = "\x1b[?1049l";
/// The cursor is hidden, and shown (DEC private mode 25).
const HIDE: &str = "\x1b[?25l";
const SHOW: &str = "\x1b[?25h";
/// Reached only by a test that fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// A terminal with a program in it.
struct Terminal {
    keyboard: File,
    program: Child,
    shown: Receiver<Vec<u8>>,
    text: String,
    /// The other end of the terminal, for its settings.
    line: OwnedFd,
    before: Termios,
}

impl Terminal {
    fn start(machine: &Machine, proxy: &str) -> Self {
        let size = Winsize { ws_row: 30, ws_col: 100, ws_xpixel: 0, ws_ypixel: 0 };
        let pair = openpty(Some(&size), None).unwrap();
        let before = tcgetattr(&pair.slave).unwrap();
        let mut command = machine.command(["top", "--proxy", proxy]);
        command.env("TERM", "xterm-256color");
        for end in 0..3 {
            let line = Stdio::from(pair.slave.try_clone().unwrap());
            match end {
                0 => command.stdin(line),
                1 => command.stdout(line),
                _ => command.stderr(line),
            };
        }
        let program = command.spawn().unwrap();
        let mut screen = File::from(pair.master.try_clone().unwrap());
        let (told, shown) = channel();
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = screen.read(&mut buffer) {
                if told.send(buffer[..count].to_vec()).is_err() {
                    return;
                }
            }
        });
        Self { keyboard: pair.master.into(), program, shown, text: String::new(), line: pair.slave, before }
    }

    #[track_caller]
    fn wait_for(&mut self, words: &str) {
        while !self.text.contains(words) {
            self.read(words);
        }
    }

    /// Waits until the hidden cursor is shown again.
    #[track_caller]
    fn wait_for_cursor(&mut self) {
        while self.text.rfind(SHOW) <= self.text.rfind(HIDE) {
            self.read("cursor");
        }
    }

    #[track_caller]
    fn read(&mut self, wanted: &str) {
        let shown = self.shown.recv_timeout(DEADLINE);
        let shown = shown.unwrap_or_else(|_| panic!("no {wanted:?} in {:?}", self.text));
        self.text.push_str(&String::from_utf8_lossy(&shown));
    }

    /// Whether keys come one by one and are not shown.
    fn is_raw(&self) -> bool {
        let flags = tcgetattr(&self.line).unwrap().local_flags;
        !flags.intersects(LocalFlags::ICANON | LocalFlags::ECHO)
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.program.kill();
        let _ = self.program.wait();
    }
}

#[test]
fn top_leaves_the_terminal_as_it_was_however_it_is_ended() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.42", &["--role", "gateway"]);
    let proxy = node.address("local proxy");
    let ends: [(&str, Option<&[u8]>); 4] =
        [("q", Some(b"q")), ("escape", Some(b"\x1b")), ("control-c", Some(b"\x03")), ("SIGTERM", None)];
    for (name, keys) in ends {
        let mut terminal = Terminal::start(&machine, &proxy);
        terminal.wait_for(ENTER);
        terminal.wait_for("first");
        assert!(terminal.is_raw(), "{name}: it has no keys of its own");
        match keys {
            Some(keys) => terminal.keyboard.write_all(keys).unwrap(),
            None => kill(Pid::from_raw(terminal.program.id().try_into().unwrap()), Signal::SIGTERM).unwrap(),
        }
        terminal.wait_for(LEAVE);
        let status = terminal.program.wait().unwrap();
        assert_eq!(status.code(), Some(0), "{name}");
        assert_eq!(tcgetattr(&terminal.line).unwrap(), terminal.before, "{name}: the terminal is another");
        terminal.wait_for_cursor();
    }
}
