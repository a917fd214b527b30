//! A gateway of the group that accepts links, answers pings and carries nothing, as a process of its own: this test program
//! with other arguments.

use super::Host;
use super::group::{START, state};
use super::process::Process;
use super::rogue::{BROADCAST, Forger, PORT, announce};
use laneway::link::tls;
use std::env;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;

/// The first argument of such a process; the state directory, the address on the LAN and the manner follow.
const MODE: &str = "lying-gateway";

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const ACK: u8 = 1;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

/// What it does with each request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It says that the server has refused the connection.
    Refuses,
    /// It accepts, and resets the stream at once.
    Resets,
    /// It accepts, and drops what it gets.
    Drops,
    /// It never answers.
    Ignores,
    /// It accepts, and sends noise.
    Garbles,
    /// Each of the others in turn.
    Alternates,
}

impl Manner {
    pub(crate) const ALL: [Self; 6] =
        [Self::Refuses, Self::Resets, Self::Drops, Self::Ignores, Self::Garbles, Self::Alternates];
}

/// Starts a lying gateway on this host, which is a member.
pub(crate) fn start(host: &Host, manner: Manner) -> Process {
    let mut command = host.command(env::current_exe().unwrap().to_str().unwrap());
    command.arg(MODE).arg(state(host)).arg(host.address().to_string()).arg(format!("{manner:?}"));
    let mut process = host.spawn(command);
    process.wait_for_line("listening", START);
    process
}

/// How many requests it has got.
pub(crate) fn asked(process: &Process) -> usize {
    process.log().matches("asked").count()
}

/// Runs a lying gateway if the arguments say so, until it is killed.
pub(crate) fn run() -> Option<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [mode, state, address, manner] = &arguments[..] else { return None };
    if mode != MODE {
        return None;
    }
    let manner = Manner::ALL.into_iter().find(|one| format!("{one:?}") == *manner)?;
    let own = SocketAddr::new(address.parse().ok()?, PORT);
    let forger = Forger::load(state);
    let config = tls::link_server(&forger.group).unwrap();
    let broadcaster = UdpSocket::bind(own).unwrap();
    broadcaster.set_broadcast(true).unwrap();
    broadcaster.set_ttl(255).unwrap();
    announce(forger, own, broadcaster, UdpSocket::bind((BROADCAST, PORT)).unwrap());
    let listener = TcpListener::bind(own).unwrap();
    say("listening");
    for stream in listener.incoming() {
        let (mut stream, config) = (stream.unwrap(), Arc::clone(&config));
        thread::spawn(move || {
            let mut connection = rustls::ServerConnection::new(config).unwrap();
            // Serving ends with the link.
            let _ = serve(&mut rustls::Stream::new(&mut connection, &mut stream), manner);
        });
    }
    Some(ExitCode::SUCCESS)
}

/// Prints a line at once.
pub(super) fn say(word: &str) {
    let mut output = io::stdout().lock();
    writeln!(output, "{word}").and_then(|()| output.flush()).unwrap();
}

/// Serves one link: HTTP/2 by hand (RFC 9113 §4).
fn serve(link: &mut (impl Read + Write), manner: Manner) -> io::Result<()> {
    link.read_exact(&mut [0; 24])?;
    // SETTINGS_ENABLE_CONNECT_PROTOCOL (RFC 8441 §3), set.
    link.write_all(&frame(SETTINGS, 0, 0, &[0, 8, 0, 0, 0, 1]))?;
    let mut turns = Manner::ALL[..5].iter().cycle();
    loop {
        let mut head = [0; 9];
        link.read_exact(&mut head)?;
        let [a, b, c, kind, flags, stream @ ..] = head;
        let mut payload = vec![0; u32::from_be_bytes([0, a, b, c]) as usize];
        link.read_exact(&mut payload)?;
        let answer = match (kind, flags) {
            (SETTINGS, 0) => frame(SETTINGS, ACK, 0, &[]),
            (PING, 0) => frame(PING, ACK, 0, &payload),
            // POST is a group update.
            (HEADERS, _) if payload[0] != 0x83 => {
                say("asked");
                let stream = u32::from_be_bytes(stream);
                match manner {
                    Manner::Alternates => answer(*turns.next().unwrap(), stream),
                    manner => answer(manner, stream),
                }
            }
            _ => continue,
        };
        link.write_all(&answer)?;
    }
}

fn answer(manner: Manner, stream: u32) -> Vec<u8> {
    let accepted = frame(HEADERS, END_HEADERS, stream, &[0x88]);
    match manner {
        Manner::Refuses => {
            let reason = "laneway; error=x; kind=refused; side=server; details=\"no\"";
            let length = u8::try_from(reason.len()).unwrap();
            let block = [b"\x08\x03502\x00\x0cproxy-status", &[length][..], reason.as_bytes()].concat();
            frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
        }
        Manner::Resets => [accepted, frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())].concat(),
        Manner::Drops => accepted,
        Manner::Ignores | Manner::Alternates => Vec::new(),
        Manner::Garbles => {
            let noise = super::origin::noise(u64::from(stream), 4096);
            [accepted, frame(DATA, END_STREAM, stream, &noise)].concat()
        }
    }
}

/// A frame of HTTP/2.
pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}
