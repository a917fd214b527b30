//! A network for one trial: two switches, the hosts between them and the programs on the hosts.
//!
//! ```text
//!   c1 10.77.0.11 ─┐                    ┌─ g1 ─┐
//!   c2 10.77.0.12 ─┼─ LAN 10.77.0.0/24 ─┤      ├─ outside 10.88.0.0/24 ─ s1 10.88.0.100
//!   …              ┘                    └─ g2 ─┘
//! ```
//!
//! A client has no default route and no host forwards packets, so all traffic to s1 goes through a program on a gateway. Each
//! lab has its own namespaces, so trials can use the same addresses at the same time. Dropping a lab removes all of it.

pub(crate) mod dialect;
pub(crate) mod files;
pub(crate) mod fleet;
pub(crate) mod group;
pub(crate) mod host;
pub(crate) mod isolate;
pub(crate) mod load;
pub(crate) mod lying_gateway;
pub(crate) mod lying_member;
pub(crate) mod nameserver;
pub(crate) mod odd_names;
pub(crate) mod origin;
mod prefix;
pub(crate) mod process;
pub(crate) mod programs;
pub(crate) mod receiver;
mod relay;
pub(crate) mod rogue;
pub(crate) mod site;
pub(crate) mod upstream;
pub(crate) mod wait;
pub(crate) mod web;
pub(crate) mod wine;

pub(crate) use host::Host;
pub(crate) use wait::wait_until;

use std::fs;
use std::io::Write;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A trial: its name, which says what must hold, and the code that panics where it does not.
pub(crate) type Case = (&'static str, fn(&Lab));

/// The network of one trial.
pub(crate) struct Lab {
    /// What the names of this lab's namespaces begin with.
    prefix: String,
    directory: PathBuf,
    /// The server, s1: on the outside network only.
    pub(crate) server: Host,
}

/// A switch: a bridge in a namespace of its own.
#[derive(Clone, Copy)]
enum Switch {
    Lan,
    Outside,
}

impl Switch {
    /// The name of the switch, and of a host's interface that is plugged into it.
    fn name(self) -> &'static str {
        match self {
            Switch::Lan => "lan",
            Switch::Outside => "out",
        }
    }

    fn address(self, host: u8) -> Ipv4Addr {
        match self {
            Switch::Lan => Ipv4Addr::new(10, 77, 0, host),
            Switch::Outside => Ipv4Addr::new(10, 88, 0, host),
        }
    }
}

impl Lab {
    /// Two switches and the server.
    pub(crate) fn new() -> Lab {
        static LABS: AtomicUsize = AtomicUsize::new(1);
        let prefix = format!("t{}", LABS.fetch_add(1, Ordering::Relaxed));
        let directory = PathBuf::from(isolate::WORK).join(&prefix);

        ip(&[], &format!("netns add {prefix}-lan\nnetns add {prefix}-out\n"));
        for switch in [Switch::Lan, Switch::Outside] {
            let namespace = format!("{prefix}-{}", switch.name());
            ip(&["-n", &namespace], "link add bridge type bridge\nlink set bridge up\n");
        }
        let server = plug_in(&prefix, &directory, "s1", 100, &[Switch::Outside]);
        Lab { prefix, directory, server }
    }

    /// A host on the LAN only, 10.77.0.1N for the name `cN`. It has no default route and knows no name server.
    pub(crate) fn client(&self, name: &str) -> Host {
        self.add(name, 'c', 10, &[Switch::Lan])
    }

    /// A host on both networks, 10.77.0.2N and 10.88.0.2N for the name `gN`. Its name server is on s1 (see [`receiver`]).
    pub(crate) fn gateway(&self, name: &str) -> Host {
        self.add(name, 'g', 20, &[Switch::Lan, Switch::Outside])
    }

    fn add(&self, name: &str, kind: char, base: u8, switches: &[Switch]) -> Host {
        let number: u8 = name.strip_prefix(kind).and_then(|n| n.parse().ok()).expect("c1 … c9 or g1 … g9");
        assert!((1..=9).contains(&number), "there is no address for a host {name}");
        plug_in(&self.prefix, &self.directory, name, base + number, switches)
    }

    /// Adds `count` hosts on the LAN, from 10.77.1.1 on, with the prefix 10.77.0.0/16. See [`Host::widen`].
    pub(crate) fn crowd(&self, count: usize) -> Vec<Host> {
        let member = |index: usize| {
            let (name, namespace) = (format!("m{index}"), format!("{}-m{index}", self.prefix));
            let part = |number: usize| u8::try_from(number).expect("below 250");
            let address = Ipv4Addr::new(10, 77, part(1 + index / 200), part(1 + index % 200));
            let lan = format!("{}-lan", self.prefix);
            ip(
                &[],
                &format!(
                    "netns add {namespace}\nlink add name {name} netns {lan} type veth peer name lan netns {namespace}\n"
                ),
            );
            ip(&["-n", &lan], &format!("link set {name} master bridge up\n"));
            let leg =
                format!("link set lo up\naddress add {address}/16 broadcast + dev lan\nlink set lan up\n");
            ip(&["-n", &namespace], &leg);
            Host::new(&name, &namespace, vec![address], self.directory.join(&name))
        };
        (0..count).map(member).collect()
    }

    /// Gives the line from the server to a gateway this rate, as `tc` writes it.
    pub(crate) fn narrow(&self, gateway: &str, rate: &str) {
        let output = Command::new(programs::find("tc").unwrap())
            .args(["-n", &format!("{}-out", self.prefix), "qdisc", "add", "dev", gateway, "root", "tbf"])
            .args(["rate", rate, "burst", "32kbit", "latency", "100ms"])
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    }

    /// How many bytes have crossed the line from the server to a gateway.
    pub(crate) fn crossed(&self, gateway: &str) -> u64 {
        let output = Command::new(programs::find("ip").unwrap())
            .args(["-n", &format!("{}-out", self.prefix), "-s", "-j", "link", "show", "dev", gateway])
            .output()
            .unwrap();
        let shown: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        shown[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
    }

    /// Takes the cable of this host out of the LAN's switch, or puts it back.
    pub(crate) fn plug(&self, host: &str, is_in: bool) {
        let state = if is_in { "up" } else { "down" };
        ip(&["-n", &self.lan()], &format!("link set {host} {state}\n"));
    }

    /// The namespace of the LAN's switch.
    fn lan(&self) -> String {
        format!("{}-lan", self.prefix)
    }

    /// A file of this lab, for a configuration or an upload.
    pub(crate) fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, content).unwrap();
        path
    }
}

/// Adds a host's namespace, a cable to each switch, its addresses and its own /etc files.
fn plug_in(prefix: &str, directory: &std::path::Path, name: &str, number: u8, switches: &[Switch]) -> Host {
    let namespace = format!("{prefix}-{name}");
    let mut cables = format!("netns add {namespace}\n");
    for switch in switches.iter().map(|switch| switch.name()) {
        cables += &format!(
            "link add name {name} netns {prefix}-{switch} type veth peer name {switch} netns {namespace}\n"
        );
    }
    ip(&[], &cables);

    let addresses = switches.iter().map(|switch| switch.address(number)).collect();
    let host = Host::new(name, &namespace, addresses, directory.join(name));
    host.inside(|| {
        let mut sysctls = vec![
            ("ipv4/ip_forward", "0"),
            // Independent of this machine's default: the most common one, else the one that every kernel has.
            ("ipv4/tcp_congestion_control", "reno"),
            ("ipv4/tcp_congestion_control", "cubic"),
        ];
        // Link-local addresses are usable at once.
        let dad: Vec<_> = switches.iter().map(|s| format!("ipv6/conf/{}/accept_dad", s.name())).collect();
        sysctls.extend(dad.iter().map(|name| (name.as_str(), "0")));
        for (name, value) in sysctls {
            // Not writable everywhere; only the speed depends on it.
            let _ = fs::write(format!("/proc/sys/net/{name}"), value);
        }
    });
    let mut legs = "link set lo up\n".to_owned();
    for switch in switches {
        let interface = switch.name();
        legs += &format!("address add {}/24 broadcast + dev {interface}\n", switch.address(number));
        legs += &format!("link set {interface} up\n");
        ip(&["-n", &format!("{prefix}-{interface}")], &format!("link set {name} master bridge up\n"));
    }
    ip(&["-n", &namespace], &legs);
    // On a busy machine the kernel takes its time to say so.
    wait_until("the cables of a host to have a carrier", || {
        let shown = Command::new(programs::find("ip").unwrap())
            .args(["-n", &namespace, "-o", "link"])
            .output()
            .unwrap();
        String::from_utf8_lossy(&shown.stdout).matches(" state UP ").count() == switches.len()
    });
    host
}

impl Drop for Lab {
    fn drop(&mut self) {
        let ours = format!("{}-", self.prefix);
        let namespaces = fs::read_dir("/run/netns").unwrap().map(|entry| entry.unwrap().file_name());
        let batch: String = namespaces
            .filter_map(|name| name.into_string().ok())
            .filter(|name| name.starts_with(&ours))
            .map(|name| format!("netns delete {name}\n"))
            .collect();
        ip(&[], &batch);
        let _ = fs::remove_dir_all(&self.directory);
    }
}

/// Runs one `ip` with a batch of commands; a command that fails fails the trial.
fn ip(options: &[&str], batch: &str) {
    let mut child = Command::new(programs::find("ip").unwrap())
        .args(options)
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(batch.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    if !output.status.success() {
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        // A second panic while a trial fails would hide why it does.
        if std::thread::panicking() {
            eprintln!("ip {options:?} with\n{batch}: {complaint}");
        } else {
            panic!("ip {options:?} with\n{batch}: {complaint}");
        }
    }
}
