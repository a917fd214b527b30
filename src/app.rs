//! `laneway up`: loads what this machine is in its group, builds the node, runs its parts and drains it.

mod bound;
mod state_thread;
mod thread;
mod workers;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::control;
use crate::failure::printable;
use crate::live::{Live, Reread};
use crate::local::port::Port;
use crate::net;
use crate::problem::Problem;
use crate::service::Manager;
use crate::shared::Shared;
use crate::sys::port_holder::{self, Program, Protocol};
use crate::sys::service::registration::{self, Status};
use crate::sys::signals::{Request, Signals};
use crate::sys::state::{StateDir, quoted};
use crate::sys::tools;
use bound::{BoundNode, Member};
use state_thread::StateThread;

/// How long a stopping candidate keeps announcing that it stops, so that it is sent more than once.
const FAREWELL: Duration = Duration::from_millis(150);

/// How long a stopping node waits until it has saved which members it has seen.
const SAVING: Duration = Duration::from_secs(5);

/// The deadline for removing the rules of transparent mode, which takes some milliseconds.
const RULES: Duration = Duration::from_secs(10);

/// Runs a node until it is told to stop and has drained. SIGHUP calls `reread`.
///
/// # Errors
/// When it cannot start, or when one of its parts ends unexpectedly.
pub async fn up(mut config: Config, state: StateDir, reread: Box<Reread>) -> Result<(), Problem> {
    net::raise_open_files();
    // Installed first, so that a signal during startup also stops the node in an orderly way.
    let mut signals =
        Signals::new().map_err(|error| Problem::new("signals cannot be handled").because(error))?;
    let manager = Arc::new(Manager::from_environment());
    let inherited = inherit_ports(&mut config)?;
    let member = Member::load(&config, &state)?;
    // Held until the end. The system releases it with the process, however that ends.
    let _mark = control::mark_running(&state)?.ok_or_else(|| second_node(&state))?;

    let is_inherited = inherited.is_some();
    let mut node = BoundNode::build(&config, &state, member, inherited).await?;
    node.log_addresses(&config.peers.lan);
    node.note_proxies(&state);
    let rules = node.install_rules(&config.transparent)?;

    let shared = node.shared.clone();
    let sightings = node.gateway.facts();
    let (client, gateway, peering) = (node.client.running(), node.gateway.running(), node.peering.running());
    shared.activity.set_maintenance(control::is_in_maintenance(&state));
    let leave = CancellationToken::new();
    let mut live =
        Live { manager: manager.clone(), config, reread, is_inherited, client, rules, gateway, peering };
    let (parts, group, workers) = node.parts(&state, manager.clone())?;
    let control = ("control", control::follow(state.clone(), shared.clone(), leave.clone()).boxed());
    let (state_thread, followed) = StateThread::start(vec![group, control])?;
    let mut running = JoinSet::new();
    for (name, part) in parts.into_iter().chain([followed]) {
        running.spawn(async move {
            part.await;
            name
        });
    }
    let group = shared.membership.group();
    let (node, id) = (group.node.name.as_str(), group.node.id.short());
    tracing::info!(node, id, group = group.name, "ready");
    manager.ready(&format!("{node} of group {}", group.name));

    let ended = tokio::select! {
        ended = supervise(&mut running, &mut signals, &mut live) => ended,
        () = leave.cancelled() => Ok(()),
    };
    if ended.is_ok() {
        drain(&shared, &mut signals, &live).await;
        if sightings.link.is_some() {
            let saved = timeout(SAVING, sightings.served.save(&state, &shared.directory));
            if saved.await.is_err() {
                tracing::warn!(
                    "the state directory does not answer: the members that were seen are not saved"
                );
            }
        }
    }
    // Also after a failure, or new connections would be redirected to nobody.
    shared.drain.cancel();
    if timeout(RULES, live.rules.removed()).await.is_err() {
        tracing::error!(
            "the rules of transparent mode may still be installed: 'laneway transparent down' removes them"
        );
    }
    tokio::select! {
        () = live.peering.uplink.demote() => {}
        () = signals.stop() => tracing::warn!("stopped before the command of --on-demote has ended: another signal came"),
    }
    state_thread.stop().await;
    ended?;
    workers.stop();
    Ok(())
}

/// The problem of a node that must not start, because another one runs with the same directory: both would be the same member.
fn second_node(state: &StateDir) -> Problem {
    let addresses = control::running_proxies(state.path()).unwrap_or_default();
    let program = addresses.iter().find_map(|address| port_holder::find(Protocol::Tcp, *address));
    let process = program.as_ref().map(|program| format!("process {}", program.process));
    let proxies = control::running_endpoints(state).join(", ");
    let proxies = (!proxies.is_empty()).then(|| format!("local proxy {}", printable(&proxies)));
    let known: Vec<_> = process.into_iter().chain(proxies).collect();
    let known = if known.is_empty() { String::new() } else { format!(" ({})", known.join(", ")) };
    let directory = quoted(state.path());
    let problem = Problem::new(format!("a node runs here already, with the directory {directory}{known}"))
        .after(Problem::new(
            "two nodes with the keys of one member would take each other's place in the group",
        ));
    // Neither answers such a node, nor does Ctrl-C reach it.
    if let Some(Program { process, is_stopped: true, .. }) = program {
        return problem.hint(format!(
            "it is stopped, as by Ctrl-Z: 'fg' in its terminal lets it go on, or 'kill -CONT {process}'"
        ));
    }
    let process = program.map(|program| program.process);
    let is_service = match registration::status() {
        Ok(Status::Running { process: Some(service) }) => {
            process.as_ref().is_none_or(|process| *process == service.to_string())
        }
        Ok(Status::Running { process: None }) => true,
        _ => false,
    };
    let stop = match (is_service, process.as_deref().and_then(tools::stop)) {
        (true, _) => format!(
            "'laneway service stop' stops it, and '{}' has it read its configuration again",
            tools::RELOAD
        ),
        (false, Some(command)) => format!("it ends with Ctrl-C in its terminal, or by '{command}'"),
        (false, None) => {
            "it ends with Ctrl-C in its terminal, and if it is stopping already, with its last connections (--drain)".to_owned()
        }
    };
    problem.hint(format!(
        "'laneway status' shows it; {stop}. A second node on this machine is a member of its own, with a directory and ports of its \
         own: 'laneway join CODE --state OTHER'"
    ))
}

/// Takes the ports of the local proxy that the service manager passes, if it passes any, in place of the configured ones.
fn inherit_ports(config: &mut Config) -> Result<Option<Vec<Port>>, Problem> {
    let ports = Port::inherited().map_err(|error| {
        Problem::new("the sockets that the service manager passes cannot be used").because(error)
    })?;
    if ports.is_empty() {
        return Ok(None);
    }
    config.local.proxy = ports.iter().map(|port| port.endpoint.clone()).collect();
    config.check()?;
    Ok(Some(ports))
}

/// Waits for a request to stop, and reloads the configuration on request. A part that ends by itself is an error.
async fn supervise(
    parts: &mut JoinSet<&'static str>,
    signals: &mut Signals,
    live: &mut Live,
) -> Result<(), Problem> {
    loop {
        tokio::select! {
            action = signals.next() => match action {
                Request::Stop => return Ok(()),
                Request::Reload => live.reload(),
            },
            Some(ended) = parts.join_next() => {
                return Err(match ended {
                    Ok(part) => Problem::new(format!("{part} ended on its own")),
                    Err(error) => Problem::new("a part of the node failed").because(error),
                });
            }
        }
    }
}

/// Lets open connections finish, within the drain timeout.
async fn drain(shared: &Shared, signals: &mut Signals, live: &Live) {
    let limit = live.config.node.drain;
    live.manager.stopping(limit);
    shared.activity.drain();
    shared.drain.cancel();
    let connections = &shared.tasks;
    connections.close();
    let open = connections.len();
    tracing::info!(open, seconds = limit.as_secs_f32(), "stopping: open connections may finish");
    // Even with no open connections, wait long enough for a candidate's last announcement to reach the others.
    let farewell = if shared.announced.borrow().is_some() { FAREWELL } else { Duration::ZERO };
    let finish = async { tokio::join!(connections.wait(), tokio::time::sleep(farewell)) };
    tokio::select! {
        finished = timeout(limit.max(farewell), finish) => if finished.is_err() {
            tracing::warn!(open = connections.len(), "stopped: the drain timeout is over");
        },
        () = signals.stop() => tracing::warn!(open = connections.len(), "stopped: another signal came"),
    }
    tracing::info!("stopped");
}
