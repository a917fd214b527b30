//! A group of nodes that trust each other, made as a user does: `init` once, `join` on every other machine.

use super::process::{Output, Process};
use super::{Host, Lab};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Deadline for a node to bind everything, and for a client's first link to come up.
pub(crate) const START: Duration = Duration::from_secs(10);

/// A group whose first member is running.
pub(crate) struct Group {
    members: Vec<String>,
    /// The join code.
    pub(crate) code: String,
    /// The node that created the group.
    pub(crate) gateway: Process,
}

impl Lab {
    /// Makes a group on the first of `hosts`, starts a gateway to s1 there with these additional `options`, and lets the others
    /// join it over the LAN.
    pub(crate) fn group(&self, hosts: &[&Host], options: &[&str]) -> Group {
        let (first, others) = hosts.split_first().expect("a group has a member");
        let code = init(first);
        let gateway = up(first, &[&["--role", "gateway", "--server", "10.88.0.100:80"], options].concat());
        others.iter().for_each(|host| join(host, &code));
        Group { code, members: hosts.iter().map(|host| host.name.clone()).collect(), gateway }
    }
}

impl Group {
    /// Starts a member and waits until it has bound everything.
    pub(crate) fn up(&self, host: &Host, options: &[&str]) -> Process {
        assert!(self.members.contains(&host.name), "{} is not a member", host.name);
        up(host, options)
    }

    /// Starts a member as a client and waits until its link to a gateway is up.
    pub(crate) fn client(&self, host: &Host, options: &[&str]) -> Process {
        let mut process = self.up(host, options);
        process.wait_for_line("link up", START);
        process
    }

    /// Starts a member as another gateway to s1.
    pub(crate) fn gateway(&self, host: &Host, options: &[&str]) -> Process {
        self.up(host, &[&["--role", "gateway", "--server", "10.88.0.100:80"], options].concat())
    }
}

/// Makes a group on this host; returns the code that others join with.
pub(crate) fn init(host: &Host) -> String {
    let output =
        host.output(host.laneway(&["init", "--state", text(&state(host)), "--name", &host.name])).success();
    let code = output.text().split_whitespace().find(|word| word.starts_with("lw1.")).map(str::to_owned);
    code.unwrap_or_else(|| panic!("no code to join with: {output}"))
}

/// Lets this host join the group of this code.
pub(crate) fn join(host: &Host, code: &str) {
    laneway(host, &["join", code, "--name", &host.name]).success();
}

/// Starts the node of this host with the state directory that `init` or `join` made.
pub(crate) fn up(host: &Host, options: &[&str]) -> Process {
    let directory = state(host);
    let mut process = host.spawn(host.laneway(&[&["up", "--state", text(&directory)], options].concat()));
    process.wait_for_line("ready", START);
    process
}

/// Runs `laneway discover` on this host.
pub(crate) fn discover(host: &Host) -> Output {
    laneway(host, &["discover"])
}

/// Runs a command of `laneway` on this host to its end.
pub(crate) fn laneway(host: &Host, arguments: &[&str]) -> Output {
    let directory = state(host);
    host.output(host.laneway(&[arguments, &["--state", text(&directory)]].concat()))
}

/// Lets a host join over the LAN with a code of its own.
pub(crate) fn enrol(host: &Host, authority: &Host, options: &[&str]) {
    let said = laneway(authority, &[&["invite"], options].concat()).success();
    let text = said.text();
    let code = text.split_whitespace().find(|word| word.starts_with("lw1."));
    join(host, code.unwrap_or_else(|| panic!("no code to join with: {said}")));
}

/// Removes the gateways that a host remembers, so that it has to ask on the LAN.
pub(crate) fn forget_gateways(host: &Host) {
    let _ = std::fs::remove_file(state(host).join("gateways.json"));
}

/// The number of the host's links, as `ss` shows them.
pub(crate) fn links(host: &Host) -> usize {
    let mut ss = host.command("ss");
    ss.args(["-H", "-t", "-n", "state", "established", "dport = :7420"]);
    host.output(ss).success().text().lines().count()
}

/// The state directory of this host.
pub(crate) fn state(host: &Host) -> PathBuf {
    host.directory().join("state")
}

fn text(path: &Path) -> &str {
    path.to_str().expect("the lab's paths are ASCII")
}
