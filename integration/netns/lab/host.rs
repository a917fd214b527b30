//! One machine of the lab: a network namespace with its own /etc/hosts and /etc/resolv.conf.

use super::prefix;
use super::process::{Output, Process};
use super::programs;
use super::wait::PATIENCE;
use nix::sched::{CloneFlags, setns};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};

/// A machine of the lab.
pub(crate) struct Host {
    pub(crate) name: String,
    /// The name of its network namespace, as `ip netns` knows it.
    namespace: String,
    /// Its addresses, the LAN's first.
    addresses: Vec<Ipv4Addr>,
    directory: PathBuf,
    /// The number of programs that were started here.
    started: AtomicUsize,
    /// Environment variables for `laneway` on this host.
    environment: Mutex<Vec<(String, String)>>,
    /// The control group that `laneway` starts in.
    confinement: Mutex<Option<PathBuf>>,
    /// The Windows program that is run in place of `laneway`.
    windows: Mutex<Option<PathBuf>>,
    /// The words that are run in place of `laneway`: a program of another system.
    other: Mutex<Vec<String>>,
}

impl Host {
    pub(super) fn new(name: &str, namespace: &str, addresses: Vec<Ipv4Addr>, directory: PathBuf) -> Host {
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("hosts"), format!("127.0.0.1 localhost {name}\n::1 localhost\n")).unwrap();
        let resolver = if addresses.len() > 1 { "nameserver 10.88.0.100\n" } else { "# no name server\n" };
        fs::write(directory.join("resolv.conf"), resolver).unwrap();
        Host {
            name: name.into(),
            namespace: namespace.into(),
            addresses,
            directory,
            started: AtomicUsize::new(0),
            environment: Mutex::default(),
            confinement: Mutex::default(),
            windows: Mutex::default(),
            other: Mutex::default(),
        }
    }

    /// Its address on the LAN; the server's is on the outside network.
    pub(crate) fn address(&self) -> Ipv4Addr {
        self.addresses[0]
    }

    /// Its addresses, the LAN's first.
    pub(crate) fn addresses(&self) -> &[Ipv4Addr] {
        &self.addresses
    }

    /// The directory of this host.
    pub(crate) fn directory(&self) -> &PathBuf {
        &self.directory
    }

    /// Adds a line to its /etc/hosts.
    pub(crate) fn knows(&self, name: &str, address: impl Into<IpAddr>) {
        let mut hosts = OpenOptions::new().append(true).open(self.directory.join("hosts")).unwrap();
        writeln!(hosts, "{} {name}", address.into()).unwrap();
    }

    /// A command that runs `program` on this host.
    ///
    /// Each step executes the next one, so the child's id is the program's own. The program is killed when the thread that
    /// starts it ends, so that even a killed test run leaves nothing behind; [`Host::inside`] must not start one.
    pub(crate) fn command(&self, program: &str) -> Command {
        let script = r#"mount --bind "$0/hosts" /etc/hosts && mount --bind "$0/resolv.conf" /etc/resolv.conf &&
            exec setpriv --pdeathsig KILL -- "$@""#;
        let mut command = Command::new(programs::find("nsenter").unwrap());
        command.arg(format!("--net=/run/netns/{}", self.namespace));
        command.args(["unshare", "--mount", "sh", "-c", script]).arg(&self.directory).arg(program);

        // No proxy variable of the machine that runs the trials may reach a program.
        command
            .env_clear()
            .env("PATH", programs::path())
            .env("HOME", &self.directory)
            .env("LC_ALL", "C.UTF-8");
        command.envs(
            std::env::vars().filter(|(name, _)| name.starts_with("RUST_") || name.starts_with("LLVM_")),
        );
        command
    }

    /// A command that runs `laneway` on this host.
    pub(crate) fn laneway(&self, arguments: &[&str]) -> Command {
        if let Some(program) = &*self.windows.lock().unwrap() {
            let mut command = self.command("wine");
            command.arg(program).args(arguments.iter().map(|argument| prefix::path(argument)));
            command
                .envs(prefix::variables(&self.directory))
                .envs(self.environment.lock().unwrap().iter().cloned());
            return command;
        }
        let other = self.other.lock().unwrap();
        let (program, words) = match other.split_first() {
            Some((program, words)) => (program.as_str(), words),
            None => (env!("CARGO_BIN_EXE_laneway"), &[][..]),
        };
        let mut command = match &*self.confinement.lock().unwrap() {
            None => self.command(program),
            Some(group) => {
                let mut command = self.command("sh");
                command
                    .args(["-c", r#"echo $$ >"$0" && exec "$@""#])
                    .arg(group.join("cgroup.procs"))
                    .arg(program);
                command
            }
        };
        command.args(words).args(arguments).envs(self.environment.lock().unwrap().iter().cloned());
        command
    }

    /// Sets a variable for every `laneway` that is started here from now on.
    pub(crate) fn set(&self, name: &str, value: &str) {
        self.environment.lock().unwrap().push((name.into(), value.into()));
    }

    /// Runs this Windows program by Wine in place of every `laneway` here from now on.
    pub(super) fn run_windows(&self, program: PathBuf) {
        *self.windows.lock().unwrap() = Some(program);
    }

    /// Runs these words, a program and its first arguments, in place of every `laneway` here from now on.
    pub(crate) fn run_other(&self, words: &[&str]) {
        *self.other.lock().unwrap() = words.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts every `laneway` here in this control group from now on.
    pub(crate) fn confine(&self, group: PathBuf) {
        *self.confinement.lock().unwrap() = Some(group);
    }

    /// Starts a command of this host that runs until it is stopped.
    pub(crate) fn spawn(&self, command: Command) -> Process {
        let number = self.started.fetch_add(1, Ordering::Relaxed);
        Process::start(command, &format!("{}.{number}", self.name), &self.directory.join(format!("{number}")))
    }

    /// Runs a command of this host to its end.
    pub(crate) fn output(&self, command: Command) -> Output {
        self.spawn(command).finish(PATIENCE)
    }

    /// Runs `curl` on this host, without a progress meter.
    pub(crate) fn curl(&self, arguments: &[&str]) -> Output {
        let mut command = self.command("curl");
        command.args(["--silent", "--show-error", "--max-time", "25"]).args(arguments);
        self.output(command)
    }

    /// Calls `f` on a thread that is on this host's network. Sockets that it makes stay on it.
    pub(crate) fn inside<T: Send>(&self, f: impl FnOnce() -> T + Send) -> T {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        let thread_inside = move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        };
        thread::scope(|scope| scope.spawn(thread_inside).join()).unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// Starts a thread on this host's network, which like [`Host::inside`] must start no program.
    pub(crate) fn thread<T: Send + 'static>(&self, f: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
        let namespace = File::open(format!("/run/netns/{}", self.namespace)).unwrap();
        thread::spawn(move || {
            setns(namespace, CloneFlags::CLONE_NEWNET).unwrap();
            f()
        })
    }

    /// Runs `ip` with these words on this host.
    pub(crate) fn ip(&self, words: &str) {
        let mut ip = self.command("ip");
        ip.args(words.split(' '));
        self.output(ip).success();
    }

    /// Makes the LAN 10.77.0.0/16 for this host, so that it hears [`super::Lab::crowd`].
    pub(crate) fn widen(&self) {
        self.ip(&format!("address del {}/24 dev lan", self.address()));
        self.ip(&format!("address add {}/16 broadcast + dev lan", self.address()));
    }

    /// The bytes that it has sent on the LAN.
    pub(crate) fn sent(&self) -> u64 {
        let mut ip = self.command("ip");
        ip.args(["-json", "-stats", "link", "show", "dev", "lan"]);
        let seen: serde_json::Value = serde_json::from_str(&self.output(ip).success().text()).unwrap();
        seen[0]["stats64"]["tx"]["bytes"].as_u64().unwrap()
    }

    /// Limits what it sends on the LAN to this rate, as `tc` writes it.
    pub(crate) fn limit(&self, rate: &str) {
        let mut tc = self.command("tc");
        // A smaller burst than a whole segment of 64 KiB would make the kernel cut each into packets, which a network card does.
        tc.args(format!("qdisc add dev lan root tbf rate {rate} burst 1mbit latency 100ms").split(' '));
        self.output(tc).success();
    }

    /// Replaces the rules of `nft` for incoming packets. Packets that no rule drops are accepted.
    pub(crate) fn filter(&self, rules: &str) {
        self.rules("trial", "input", rules);
    }

    /// As [`Host::filter`], for outgoing packets.
    pub(crate) fn swallow(&self, rules: &str) {
        self.rules("lost", "output", rules);
    }

    fn rules(&self, table: &str, hook: &str, rules: &str) {
        let file = self.directory.join("rules.nft");
        let chain = format!("type filter hook {hook} priority filter; policy accept;");
        let new = format!("table inet {table} {{\nchain {hook} {{\n{chain}\n{rules}\n}}\n}}\n");
        fs::write(&file, format!("table inet {table}\ndelete table inet {table}\n{new}")).unwrap();
        let mut nft = self.command("nft");
        nft.arg("-f").arg(file);
        self.output(nft).success();
    }

    /// Disables TIME-WAIT (RFC 9293 §3.6.1), so that the ports of closed connections can be used again at once.
    pub(crate) fn forgets_connections(&self) {
        let set = |name: &str, value: &str| fs::write(format!("/proc/sys/net/ipv4/{name}"), value);
        self.inside(|| {
            set("tcp_max_tw_buckets", "0").and_then(|()| set("ip_local_port_range", "1024 65535")).unwrap();
        });
    }

    /// Connects from this host; reads and writes time out.
    pub(crate) fn connect(&self, to: impl Into<SocketAddr>) -> io::Result<TcpStream> {
        let to = to.into();
        let stream = self.inside(|| TcpStream::connect_timeout(&to, PATIENCE))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(stream)
    }
}
