//! How `join` finds the machines that admit, and asks them. Whoever has the same code can answer in place of the one that made
//! it, so nobody's failure is final while another one may admit.

use std::fmt::Display;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use rustls_pki_types::ServerName;
use tokio::io::AsyncWriteExt;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_rustls::TlsConnector;

use super::doctor::firewall::{Firewall, open_commands_elsewhere};
use crate::link::tls::{self, words};
use crate::mark;
use crate::net::{self, Segments};
use crate::own_network;
use crate::peers::options::PORT;
use crate::peers::signer::{self, MAX_OFFERS};
use crate::problem::Problem;
use crate::sys::neighbour;
use crate::sys::state::StateDir;
use crate::trust::authority::InviteError;
use crate::trust::code::JoinCode;
use crate::trust::group::{self, Group};
use crate::trust::join::{self, EXPORTER_LABEL, JoinError};
use crate::trust::name::WantedName;
use crate::wire::target::Target;

/// The deadline of each step of the connection to the signer.
const CONNECT_DEADLINE: Duration = Duration::from_secs(10);
/// The deadline of all attempts together.
const DEADLINE: Duration = Duration::from_secs(45);
/// How long one machine is asked alone before the next one is asked beside it (RFC 8305 §5). A machine that is busy takes some
/// hundred milliseconds for a handshake, and its other addresses need not be asked, too.
const STAGGER: Duration = Duration::from_millis(500);
/// How long others are still asked after a refusal. The one that refused may be any gateway of the group.
const GRACE: Duration = Duration::from_secs(1);

/// Where the machine is that admits.
#[derive(Clone, Copy)]
pub(super) enum Way<'a> {
    /// At this address.
    Named(&'a Target),
    /// Wherever discovery finds it.
    Lan {
        /// The UDP port of discovery.
        port: u16,
        /// The interfaces or local addresses to query on; all if there are none.
        only: &'a [String],
    },
}

/// Why a machine did not admit this one.
struct Declined {
    problem: Problem,
    /// What it answered, if it did.
    refusal: Option<InviteError>,
}

impl From<Problem> for Declined {
    fn from(problem: Problem) -> Self {
        Self { problem, refusal: None }
    }
}

/// Joins the group of `code`. Returns who has admitted this machine.
///
/// # Errors
/// When no machine that can admit is found, or none admits.
pub(super) async fn join(
    way: Way<'_>,
    code: &JoinCode,
    name: &WantedName,
    state: &StateDir,
) -> Result<(SocketAddr, Group), Problem> {
    let (found, offers) = mpsc::channel(MAX_OFFERS);
    let hint = match way {
        Way::Named(_) => {
            "use a code that was made on the machine at that address: 'laneway invite' there makes one, and 'laneway up' has \
             to run there"
        }
        Way::Lan { .. } => "'laneway up' has to run on the machine that made the code",
    };
    let searching = async move {
        match find(way, code, found).await {
            Ok(()) => std::future::pending().await,
            Err(problem) => problem,
        }
    };
    let ask = |signer| Box::pin(enrol(signer, hint, code, name, state));
    let declined = tokio::select! {
        biased;
        problem = searching => return Err(problem),
        asked = first_that_admits(offers, ask) => match asked {
            Ok(admitted) => return Ok(admitted),
            Err(declined) => declined,
        },
    };
    if declined.iter().filter_map(|(_, one)| one.refusal.as_ref()).any(InviteError::is_final) {
        group::forget_attempt(state)?;
    }
    Err(match way {
        Way::Named(_) => summary(declined, None),
        Way::Lan { port, .. } if declined.is_empty() => nobody_admits(port),
        Way::Lan { .. } => summary(declined, Some(ANOTHER)),
    })
}

/// What to do when somebody else answers for the machine that made the code.
const ANOTHER: &str =
    "if another machine answered in place of the one that made the code, add --gateway HOST:PORT of that one";

/// One error for all that did not admit this machine. `also` is what else to do when no refusal says it.
fn summary(mut declined: Vec<(SocketAddr, Declined)>, also: Option<&str>) -> Problem {
    let with = |problem: Problem| match also {
        Some(also) => problem.also(also),
        None => problem,
    };
    if let [_] = declined[..]
        && let Some((_, one)) = declined.pop()
    {
        return if one.refusal.is_some() { one.problem } else { with(one.problem) };
    }
    // A refusal says what to do better than a connection that fails.
    declined.sort_by_key(|(_, one)| one.refusal.is_none());
    let all = Problem::new("none of the machines that answered admits this one");
    let all = declined.into_iter().fold(all, |all, (address, one)| {
        let is_refusal = one.refusal.is_some();
        let (what, why, hint) = one.problem.parts();
        let text = [vec![what], why].concat().join(": ");
        let line = Problem::new(match text.contains(&address.to_string()) {
            _ if is_refusal => format!("{address} answers: {text}"),
            true => text,
            false => format!("{address}: {text}"),
        });
        all.after(match hint {
            Some(hint) => line.hint(hint),
            None => line,
        })
    });
    with(all)
}

/// Asks those that are found, the next one as soon as one has failed, or beside it when its answer takes long. Returns the first
/// that admits, or why none does.
async fn first_that_admits<A, T>(
    mut offers: mpsc::Receiver<SocketAddr>,
    ask: impl Fn(SocketAddr) -> A,
) -> Result<(SocketAddr, T), Vec<(SocketAddr, Declined)>>
where
    A: Future<Output = Result<T, Declined>>,
{
    let start = Instant::now();
    let (mut next, mut closing) = (start, start + DEADLINE);
    let (mut is_open, mut asked, mut declined) = (true, FuturesUnordered::new(), Vec::new());
    let mut late = pin!(sleep_until(start + DEADLINE));
    let mut pending = Vec::new();
    while is_open || !asked.is_empty() {
        let next_offer = async {
            sleep_until(next).await;
            offers.recv().await
        };
        tokio::select! {
            biased;
            Some((at, outcome)) = asked.next() => {
                pending.retain(|one| *one != at);
                let outcome: Result<T, Declined> = outcome;
                match outcome {
                    Ok(admitted) => return Ok((at, admitted)),
                    Err(one) => {
                        next = Instant::now();
                        if one.refusal.is_some() {
                            closing = closing.min(next + GRACE);
                        }
                        declined.push((at, one));
                    }
                }
            }
            () = late.as_mut() => break,
            () = sleep_until(closing), if is_open => is_open = false,
            offer = next_offer, if is_open => match offer {
                Some(at) => {
                    let asking = ask(at);
                    asked.push(async move { (at, asking.await) });
                    pending.push(at);
                    next = Instant::now() + STAGGER;
                }
                None => is_open = false,
            },
        }
    }
    let silent = |at: SocketAddr| (at, unanswered(at, io::Error::from(io::ErrorKind::TimedOut)).into());
    declined.extend(pending.into_iter().map(silent));
    Err(declined)
}

fn unanswered(signer: impl Display, error: io::Error) -> Problem {
    Problem::new(format!("cannot join at {signer}")).because(error)
}

/// Sends the addresses of the machines that admit: the one that was named, else those that discovery finds.
async fn find(way: Way<'_>, code: &JoinCode, found: mpsc::Sender<SocketAddr>) -> Result<(), Problem> {
    let (port, only) = match way {
        Way::Named(named) => {
            let signer = resolve(named).await?;
            // It is asked while there is nobody else.
            let _ = found.try_send(signer);
            return Ok(());
        }
        Way::Lan { port, only } => (port, only),
    };
    let key = code.discovery_key();
    let mut own_port = port;
    loop {
        match signer::find_signers((code.group, code.invite), &key, (port, own_port), only, &found).await {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse && own_port != 0 => own_port = 0,
            Err(error) => {
                if let Some(own) = own_network::fault(&[]) {
                    return Err(cut_off(own));
                }
                return Err(Problem::new("discovery queries cannot be sent").because(error).hint(
                    "bring a network interface up, or give the address of the group's first machine: --gateway HOST:PORT",
                ));
            }
        }
    }
}

async fn resolve(named: &Target) -> Result<SocketAddr, Problem> {
    let unresolved = |error: io::Error| {
        Problem::new(format!("cannot resolve {named}"))
            .because(error)
            .hint("write the name as the name servers of this machine know it, or an address")
    };
    let found = net::lookup(&named.to_string()).await.map_err(unresolved)?;
    found.first().copied().ok_or_else(|| unresolved(io::ErrorKind::NotFound.into()))
}

/// The error when this machine itself is why nobody was asked.
fn cut_off(own: String) -> Problem {
    Problem::new("no machine was asked to accept this code")
        .after(Problem::new(own))
        .hint("connect this machine to the LAN, and run the same command again")
}

/// The error when no machine answered the query with a join code.
fn nobody_admits(port: u16) -> Problem {
    if let Some(own) = own_network::fault(&[]) {
        return cut_off(own);
    }
    let problem = Problem::new("no machine on this LAN accepts this code").after(Problem::new(
        "the machine that made it is off, a firewall or a router is in between, the two have different prefixes of the LAN, or the group's key \
         was moved to another machine",
    ));
    let elsewhere = format!(
        "on the machine that made the code, run 'laneway up' and 'laneway doctor'; 'laneway invite' on the machine with the key makes a \
         new one. Behind a router, add --gateway HOST:{PORT}"
    );
    match Firewall::detect() {
        Some(firewall) => {
            let (name, open) = (firewall.name(), firewall.open_command(port, "udp"));
            problem.hint(format!("'{open}' here, if {name} drops the answer. Otherwise {elsewhere}"))
        }
        None => problem.hint(elsewhere),
    }
}

/// Enrols this machine at the signer. `hint` is what to do when it cannot be reached or admits nobody.
async fn enrol(
    signer: SocketAddr,
    hint: &str,
    code: &JoinCode,
    name: &WantedName,
    state: &StateDir,
) -> Result<Group, Declined> {
    let failed =
        |error: io::Error| Problem::new(format!("cannot join at {signer}")).because(error).hint(hint);
    let unconnected = |error: io::Error| match own_network::fault(&[signer]) {
        Some(own) => cut_off(own),
        None => failed(neighbour::in_words(signer, error)),
    };
    let timed_out = || {
        let port = signer.port();
        let error = neighbour::in_words(signer, io::ErrorKind::TimedOut.into());
        // Nobody is there, so that no firewall is to blame.
        if error.get_ref().is_some() {
            return failed(error);
        }
        Problem::new(format!("cannot join at {signer}")).because(error).hint(format!(
            "a firewall may drop TCP port {port}; on {}: {}",
            signer.ip(),
            open_commands_elsewhere(port, "tcp")
        ))
    };
    // The exchange is short, and small segments pass on paths that drop large ones.
    let socket = timeout(CONNECT_DEADLINE, mark::connect_with(signer, Segments::Small)).await;
    let socket = socket.map_err(|_gone: tokio::time::error::Elapsed| timed_out())?.map_err(unconnected)?;
    let connector = TlsConnector::from(tls::join_client(code));
    let host: ServerName<'static> = tls::server_name(None);
    let stream = timeout(CONNECT_DEADLINE, connector.connect(host, socket)).await;
    let refused = |error: io::Error| {
        failed(match words::is_not_offered(&error) {
            true => io::Error::other(
                "no machine is admitted there: the node does not hold the group's key, or it is another program",
            ),
            false => words::put_in_words(&error),
        })
    };
    let mut stream = stream.map_err(|_gone: tokio::time::error::Elapsed| timed_out())?.map_err(refused)?;
    let exporter = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None);
    let exporter = exporter.map_err(|error| failed(io::Error::other(error)))?;
    let key = join::JoinKey::saved_in(state).map_err(Problem::from)?;
    let group = join::request(&mut stream, &exporter, code, name, key).await.map_err(|error| Declined {
        refusal: match &error {
            JoinError::Refused(refusal) => Some(refusal.clone()),
            _ => None,
        },
        problem: error.into(),
    })?;
    // The membership is complete, so an error in closing does not matter.
    let _ = timeout(CONNECT_DEADLINE, stream.shutdown()).await;
    Ok(group)
}

#[cfg(test)]
mod tests {
    use super::*;

    const REFUSES: u16 = 1;
    const SILENT: u16 = 2;
    const ADMITS: u16 = 3;

    async fn ask(at: SocketAddr) -> Result<&'static str, Declined> {
        match at.port() {
            REFUSES => Err(Declined {
                problem: Problem::new("this join code has been used up"),
                refusal: Some(InviteError::UsedUp),
            }),
            SILENT => std::future::pending().await,
            _ => Ok("admitted"),
        }
    }

    /// Those that are found at once; a search for more goes on as long as the sender is there.
    fn found(ports: &[u16]) -> (mpsc::Sender<SocketAddr>, mpsc::Receiver<SocketAddr>) {
        let (found, offers) = mpsc::channel(MAX_OFFERS);
        ports.iter().for_each(|port| found.try_send(SocketAddr::from(([192, 0, 2, 1], *port))).unwrap());
        (found, offers)
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_admits_is_asked_although_others_refuse_or_say_nothing() {
        for before in [&[REFUSES][..], &[SILENT], &[REFUSES, SILENT], &[SILENT, REFUSES], &[SILENT; 63]] {
            let (_search, offers) = found(&[before, &[ADMITS]].concat());
            let admitted = first_that_admits(offers, ask).await.ok();
            assert_eq!(
                admitted.map(|(at, said)| (at.port(), said)),
                Some((ADMITS, "admitted")),
                "{before:?}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_refusal_that_nobody_contradicts_ends_a_join_soon_and_silence_at_the_deadline() {
        for (port, after) in [(REFUSES, GRACE), (SILENT, DEADLINE)] {
            let ((_search, offers), start) = (found(&[port]), Instant::now());
            let declined = first_that_admits(offers, ask).await.err().unwrap();
            let tried: Vec<_> = declined.iter().map(|(at, _)| at.port()).collect();
            assert_eq!((tried, start.elapsed().as_secs()), (vec![port], after.as_secs()));
        }
    }

    #[test]
    fn the_error_names_each_address_once() {
        let at = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let refused = Declined {
            problem: Problem::new("this join code has been used up").hint("make another one"),
            refusal: Some(InviteError::UsedUp),
        };
        let declined = vec![
            (at(1), unanswered(at(1), io::ErrorKind::TimedOut.into()).into()),
            (at(2), Problem::new("the connection failed while joining").into()),
            (at(3), refused),
        ];
        let shown = summary(declined, Some("or that")).to_string();
        let lines = [
            "error: none of the machines that answered admits this one",
            "caused by: 192.0.2.1:3 answers: this join code has been used up",
            "caused by: cannot join at 192.0.2.1:1: timed out",
            "caused by: 192.0.2.1:2: the connection failed while joining",
            "hint: make another one; or that",
        ];
        assert_eq!(shown, lines.join("\n"));
    }
}
