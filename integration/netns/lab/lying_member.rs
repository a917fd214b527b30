//! A member that is asked for pieces of bodies and sends anything else, as a process of its own: this test program with other
//! arguments. Beside it an honest node of the same host gets the files, says that it has them, and keeps its link to the
//! gateway; rules of the host redirect that node's requests to this process.

use super::Host;
use super::group::{START, state};
use super::lying_gateway::{
    ACK, DATA, END_HEADERS, END_STREAM, HEADERS, PING, RST_STREAM, SETTINGS, frame, say,
};
use super::origin::noise;
use super::process::Process;
use laneway::cache::pieces;
use laneway::h2::hpack::Decoder;
use laneway::link::tls;
use laneway::sys::state::StateDir;
use laneway::trust::group::Group;
use laneway::wire::sharing::PIECE;
use std::collections::HashMap;
use std::env;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

/// The first argument of such a process; the state directory and the manners follow, each with the address it is for.
const MODE: &str = "lying-member";
/// The port to which requests are led.
const PORT: u16 = 7421;
/// How long each byte takes where the liar is slow.
const SLOW: Duration = Duration::from_millis(200);
/// The longest payload of a frame (RFC 9113 §4.2).
const FRAME: usize = 16 * 1024;

/// What the liar answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// The piece, with one bit flipped.
    Flips,
    /// Another piece of the same length.
    Swaps,
    /// Noise of the right length.
    Garbles,
    /// Nothing, as if that were the piece.
    Empties,
    /// The piece without its last byte.
    Shortens,
    /// The piece and more than that.
    Lengthens,
    /// Bytes without end.
    Floods,
    /// Half of the piece, and a reset.
    Resets,
    /// Half of the piece, and the end of the connection.
    Closes,
    /// A byte now and then.
    Trickles,
    /// Nothing.
    Ignores,
    /// That it does not have it.
    Denies,
    /// Something that is no HTTP/2.
    Breaks,
    /// Each of the others in turn.
    Alternates,
}

impl Manner {
    pub(crate) const ALL: [Self; 14] = [
        Self::Flips,
        Self::Swaps,
        Self::Garbles,
        Self::Empties,
        Self::Shortens,
        Self::Lengthens,
        Self::Floods,
        Self::Resets,
        Self::Closes,
        Self::Trickles,
        Self::Ignores,
        Self::Denies,
        Self::Breaks,
        Self::Alternates,
    ];

    /// Whether what it sends is noticed as wrong, not only as missing.
    pub(crate) fn is_wrong(self) -> bool {
        use Manner::{Alternates, Empties, Flips, Garbles, Lengthens, Shortens, Swaps};
        matches!(self, Alternates | Flips | Swaps | Garbles | Empties | Shortens | Lengthens)
    }
}

/// Starts a lying member on this host, whose node runs. It answers each client in its own manner.
pub(crate) fn start(host: &Host, manners: &[(&Host, Manner)]) -> Process {
    let mut command = host.command(env::current_exe().unwrap().to_str().unwrap());
    command.arg(MODE).arg(state(host));
    command.args(manners.iter().map(|(client, manner)| format!("{}={manner:?}", client.address())));
    let mut process = host.spawn(command);
    process.wait_for_line("listening", START);
    let mut nft = host.command("nft");
    nft.arg(format!(
        "add table ip lying; add chain ip lying in {{ type nat hook prerouting priority dstnat; }}; \
         add rule ip lying in tcp dport 7420 redirect to :{PORT}"
    ));
    host.output(nft).success();
    process
}

/// How many pieces this client has asked it for.
pub(crate) fn asked(process: &Process, client: &Host) -> usize {
    let line = format!("asked by {}", client.address());
    process.log().lines().filter(|other| **other == line).count()
}

/// Runs a lying member if the arguments say so, until it is killed.
pub(crate) fn run() -> Option<ExitCode> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [mode, state, manners @ ..] = &arguments[..] else { return None };
    if mode != MODE {
        return None;
    }
    let manner = |word: &String| {
        let (client, manner) = word.split_once('=')?;
        let manner = Manner::ALL.into_iter().find(|one| format!("{one:?}") == manner)?;
        Some((client.parse::<IpAddr>().ok()?, manner))
    };
    let manners: HashMap<_, _> = manners.iter().filter_map(manner).collect();
    let directory = StateDir::open(state).unwrap();
    let group = Group::load(&directory).unwrap().expect("it has joined");
    let config = tls::link_server(&group).unwrap();
    let pieces = Arc::new(pieces_in(&PathBuf::from(state).join("peer-cache")));
    let listener = TcpListener::bind(("0.0.0.0", PORT)).unwrap();
    say("listening");
    for stream in listener.incoming() {
        let stream = stream.unwrap();
        let client = stream.peer_addr().unwrap().ip();
        let Some(manner) = manners.get(&client).copied() else { continue };
        let (config, pieces) = (Arc::clone(&config), Arc::clone(&pieces));
        thread::spawn(move || {
            let connection = rustls::ServerConnection::new(config).unwrap();
            let tls = rustls::StreamOwned::new(connection, stream);
            // Serving ends with the link.
            let _ = Serving { tls, client, manner, pieces, turn: 0, trickling: Vec::new() }.run();
        });
    }
    Some(ExitCode::SUCCESS)
}

/// One connection.
struct Serving {
    tls: rustls::StreamOwned<rustls::ServerConnection, TcpStream>,
    client: IpAddr,
    manner: Manner,
    /// What the honest node has got, by the hashes.
    pieces: Arc<Vec<(String, Vec<u8>)>>,
    turn: usize,
    /// The streams on which a byte comes now and then.
    trickling: Vec<u32>,
}

impl Serving {
    /// HTTP/2 by hand (RFC 9113 §4).
    fn run(&mut self) -> io::Result<()> {
        self.tls.read_exact(&mut [0; 24])?;
        self.tls.write_all(&frame(SETTINGS, 0, 0, &[]))?;
        let mut decoder = Decoder::default();
        self.tls.sock.set_read_timeout(Some(SLOW))?;
        let (mut buffer, mut bytes) = (Vec::new(), [0; 4096]);
        loop {
            match self.tls.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => buffer.extend_from_slice(&bytes[..count]),
                Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                }
                Err(error) => return Err(error),
            }
            while let [a, b, c, kind, flags, s, t, u, v, rest @ ..] = &buffer[..] {
                let length = u32::from_be_bytes([0, *a, *b, *c]) as usize;
                let Some(payload) = rest.get(..length) else { break };
                let (kind, flags, stream) = (*kind, *flags, u32::from_be_bytes([*s, *t, *u, *v]));
                let payload = payload.to_vec();
                buffer.drain(..9 + length);
                match (kind, flags & ACK) {
                    (SETTINGS, 0) => self.tls.write_all(&frame(SETTINGS, ACK, 0, &[]))?,
                    (PING, 0) => self.tls.write_all(&frame(PING, ACK, 0, &payload))?,
                    (HEADERS, _) => {
                        let mut path = Vec::new();
                        let take = |name: &[u8], value: &[u8]| {
                            if name == b":path" {
                                path = value.to_vec();
                            }
                        };
                        decoder
                            .decode(&payload, 1 << 16, take)
                            .map_err(|_malformed| io::ErrorKind::InvalidData)?;
                        say(&format!("asked by {}", self.client));
                        self.answer(stream, &String::from_utf8_lossy(&path))?;
                    }
                    _ => {}
                }
            }
            for stream in &self.trickling {
                self.tls.write_all(&frame(DATA, 0, *stream, b"x"))?;
            }
        }
    }

    fn answer(&mut self, stream: u32, path: &str) -> io::Result<()> {
        let hash = path.rsplit('/').next().unwrap_or_default();
        let pieces = Arc::clone(&self.pieces);
        let piece = pieces.iter().find(|(name, _)| name == hash).map(|(_, piece)| piece.clone());
        // The honest node's piece, or else noise.
        let piece = piece.unwrap_or_else(|| noise(1, usize::try_from(PIECE).unwrap()));
        let manner = match self.manner {
            Manner::Alternates => Manner::ALL[self.turn % (Manner::ALL.len() - 1)],
            manner => manner,
        };
        self.turn += 1;
        let half = piece.len() / 2;
        match manner {
            Manner::Flips => {
                let mut flipped = piece;
                let at = (self.turn * 7919 + usize::from(hash.as_bytes()[0])) % flipped.len();
                flipped[at] ^= 1 << (self.turn % 8);
                self.send(stream, &flipped, true)
            }
            Manner::Swaps => {
                let other = pieces.iter().find(|(name, other)| name != hash && other.len() == piece.len());
                self.send(stream, other.map_or(&noise(2, piece.len()), |(_, other)| other), true)
            }
            Manner::Garbles => self.send(stream, &noise(u64::from(stream), piece.len()), true),
            Manner::Empties => self.send(stream, &[], true),
            Manner::Shortens => self.send(stream, &piece[..piece.len() - 1], true),
            Manner::Lengthens => self.send(stream, &[&piece[..], b"x"].concat(), true),
            Manner::Floods => self.send(stream, &piece.repeat(8), false),
            Manner::Resets => {
                self.send(stream, &piece[..half], false)?;
                self.tls.write_all(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()))
            }
            Manner::Closes => {
                self.send(stream, &piece[..half], false)?;
                Err(io::ErrorKind::ConnectionAborted.into())
            }
            Manner::Trickles => {
                self.trickling.push(stream);
                self.send(stream, &[], false)
            }
            Manner::Ignores | Manner::Alternates => Ok(()),
            // Status 404 (RFC 7541, appendix A).
            Manner::Denies => self.tls.write_all(&frame(HEADERS, END_HEADERS | END_STREAM, stream, &[0x8d])),
            Manner::Breaks => self.tls.write_all(&noise(u64::from(stream), 4096)),
        }
    }

    fn send(&mut self, stream: u32, body: &[u8], ends: bool) -> io::Result<()> {
        // Status 200.
        self.tls.write_all(&frame(HEADERS, END_HEADERS, stream, &[0x88]))?;
        for part in body.chunks(FRAME) {
            self.tls.write_all(&frame(DATA, 0, stream, part))?;
        }
        if ends {
            self.tls.write_all(&frame(DATA, END_STREAM, stream, &[]))?;
        }
        Ok(())
    }
}

/// The pieces of all bodies in a store, by their hashes.
fn pieces_in(kept: &Path) -> Vec<(String, Vec<u8>)> {
    let folders = fs::read_dir(kept).into_iter().flatten().flatten().map(|folder| folder.path());
    let files = folders.filter_map(|folder| fs::read_dir(folder).ok()).flatten().flatten();
    let bodies =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|kind| kind == "body"));
    let mut found = Vec::new();
    for body in bodies {
        for piece in fs::read(body).unwrap_or_default().chunks(usize::try_from(PIECE).unwrap()) {
            found.push((pieces::hash(piece).to_string(), piece.to_vec()));
        }
    }
    found
}
