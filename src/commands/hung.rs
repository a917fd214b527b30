//! A node that runs and does not answer: which process it is, and how it goes on.

use std::net::SocketAddr;
use std::time::Duration;

use crate::control;
use crate::failure::printable;
use crate::problem::Problem;
use crate::sys::port_holder::{self, Program, Protocol};
use crate::sys::service::registration::NAME;
use crate::sys::state::{StateDir, quoted};
use crate::sys::users::{self, Whose};
use crate::sys::{paths, process, tools};

/// The problem of a command whose connection to this address is accepted, and gets no answer within `time`. `None` when the
/// program is known not to be a node.
pub(super) fn at(address: SocketAddr, time: Duration) -> Option<Problem> {
    let program = port_holder::find(Protocol::Tcp, address);
    let who = match &program {
        Some(program) if program.name == NAME => {
            format!("the node on {address} (process {})", program.process)
        }
        Some(_) => return None,
        None => format!("what listens on {address}{}", owner(address)),
    };
    let what = format!("{who} accepts connections but does not answer within {} s", time.as_secs());
    let problem = Problem::new(what);
    Some(match &program {
        Some(program) => match crowded(program) {
            Some((why, hint)) => problem.after(Problem::new(why)).hint(hint),
            None => problem.hint(revive(Some(program))),
        },
        None => problem.hint(format!("if it is a node, {}", revive(None))),
    })
}

/// That a node has used up nearly all files or connections that the system permits it, and what to do.
pub(super) fn crowded(program: &Program) -> Option<(String, String)> {
    let (open, limit) = process::open_files(&program.process)?;
    let is_crowded = !program.is_stopped && open.saturating_mul(10) >= limit.saturating_mul(9);
    is_crowded.then(|| {
        (
            format!("it has {open} files and connections open, and the system permits it {limit}"),
            "start it again with a higher limit: 'systemctl edit laneway' with the lines [Service] and LimitNOFILE=524288 if it is the \
             service, else 'ulimit -n 524288' as root in the shell that starts it"
                .into(),
        )
    })
}

/// The problem of a command whose request the node of this directory has not followed within `time`. The hint ends with `then`.
pub(super) fn with(state: &StateDir, time: Duration, then: &str) -> Problem {
    let proxies = control::running_proxies(state.path()).unwrap_or_default();
    let find = |address: &SocketAddr| port_holder::find(Protocol::Tcp, *address);
    let program = proxies.iter().find_map(find).filter(|program| program.name == NAME);
    let process =
        program.as_ref().map(|program| format!(" (process {})", program.process)).unwrap_or_default();
    let directory = quoted(state.path());
    let what = format!(
        "the node with the directory {directory}{process} does not follow within {} s",
        time.as_secs()
    );
    Problem::new(what).hint(format!("{}{then}", revive(program.as_ref())))
}

/// Whose program it is, where it is another user's.
fn owner(address: SocketAddr) -> String {
    let name = match users::whose(address) {
        Whose::Machine => users::who_listens(address).map(users::name_of),
        Whose::Other(name) => Some(name),
        _ => None,
    };
    name.map_or_else(String::new, |name| format!(", a program of the user {},", printable(&name)))
}

/// How to revive a node that does not answer.
fn revive(program: Option<&Program>) -> String {
    let sudo = if paths::is_administrator() { "" } else { "sudo " };
    let restart = tools::RESTART;
    match program {
        Some(Program { process, is_stopped: true, .. }) => {
            format!(
                "it is stopped, as by Ctrl-Z: 'fg' in its terminal lets it go on, or 'kill -CONT {process}'"
            )
        }
        Some(Program { process, .. }) => format!(
            "its log may say why; start it again: '{sudo}{restart}' if it is the service, else '{} {process}' and the command that started it",
            tools::KILL
        ),
        None => format!(
            "its log may say why; start it again: '{sudo}{restart}' if it is the service, else end its process and run the \
             command that started it"
        ),
    }
}
