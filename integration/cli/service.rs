//! A node under a service manager: what it reports (`sd_notify(3)`), and what it leaves to others.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::machine::{Machine, Node};

/// Longer than any node takes. Reached only by a test that fails.
const DEADLINE: Duration = Duration::from_secs(60);

/// The service manager: the socket in the node's environment.
struct Manager(UnixDatagram);

impl Manager {
    fn of(machine: &Machine) -> Self {
        let socket = UnixDatagram::bind(machine.path("notify")).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        Self(socket)
    }

    /// Starts a node under this manager with these additional variables.
    fn start(&self, machine: &Machine, address: &str, variables: &[(&str, &str)]) -> Node {
        let mut command = machine.up(address, &["--proxy", &format!("{address}:0"), "--drain", "7"]);
        command.env("NOTIFY_SOCKET", machine.path("notify")).envs(variables.iter().copied());
        Node::start(&mut command)
    }

    /// The next message, without those of the watchdog.
    fn next(&self) -> String {
        loop {
            let message = self.any();
            if message != "WATCHDOG=1" {
                return message;
            }
        }
    }

    fn any(&self) -> String {
        let mut buffer = [0; 512];
        let length = self.0.recv(&mut buffer).unwrap();
        String::from_utf8(buffer[..length].to_vec()).unwrap()
    }
}

#[test]
fn the_service_manager_hears_of_start_reload_and_stop() {
    let (machine, _) = Machine::with_group();
    let file = machine.configure("");
    let manager = Manager::of(&machine);
    let node = manager.start(&machine, "127.0.0.51", &[]);
    assert!(manager.next().starts_with("READY=1\nSTATUS=first of group "));

    let reload = |text: &str| {
        std::fs::write(&file, text).unwrap();
        node.signal(Signal::SIGHUP);
        let reloading = manager.next();
        // Since the machine was started: what tells this reload from an earlier one.
        let (what, micros) = reloading.split_once("\nMONOTONIC_USEC=").unwrap();
        assert_eq!(what, "RELOADING=1");
        let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
        let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
        let ahead = Duration::from_micros(micros.parse().unwrap()).as_secs_f64() - uptime;
        assert!((-DEADLINE.as_secs_f64()..=1.0).contains(&ahead), "{ahead} s ahead of the clock");
        manager.next()
    };
    assert_eq!(reload("hold = 3\n"), "READY=1\nSTATUS=configuration reloaded");
    assert!(reload("hold = 'long'\n").starts_with("READY=1\nSTATUS=configuration refused"));

    node.signal(Signal::SIGTERM);
    // The 7 s of --drain, and what comes after.
    assert_eq!(manager.next(), "STOPPING=1\nSTATUS=stopping\nEXTEND_TIMEOUT_USEC=22000000");
}

#[test]
fn the_watchdog_is_fed_while_all_threads_get_on() {
    let (machine, _) = Machine::with_group();
    let manager = Manager::of(&machine);
    let node = manager.start(&machine, "127.0.0.52", &[("WATCHDOG_USEC", "30000")]);
    let messages: Vec<_> = (0..10).map(|_| manager.any()).collect();
    assert!(messages.iter().filter(|message| *message == "WATCHDOG=1").count() >= 8, "{messages:?}");
    drop(node);
}

#[test]
fn the_watchdog_of_another_process_is_left_to_it() {
    let (machine, _) = Machine::with_group();
    let manager = Manager::of(&machine);
    let mut node = manager.start(&machine, "127.0.0.53", &[("WATCHDOG_USEC", "1000"), ("WATCHDOG_PID", "1")]);
    node.signal(Signal::SIGTERM);
    node.wait();
    assert!(manager.any().starts_with("READY=1\n"));
    assert!(manager.any().starts_with("STOPPING=1\n"));
}
