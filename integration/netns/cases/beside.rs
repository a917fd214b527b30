//! Commands beside a node whose state is not where they look by default: another user's, or in another directory.

use super::doctor::healthy;
use crate::lab::group::{START, laneway, state};
use crate::lab::process::Output;
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab};
use std::fs::{self, File, Permissions};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt as _, chown, fchown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

pub(super) const CASES: &[Case] = &[
    (
        "beside::an_ordinary_user_is_told_of_roots_node_and_makes_no_second_group",
        an_ordinary_user_is_told_of_roots_node_and_makes_no_second_group,
    ),
    (
        "beside::commands_find_the_state_of_the_node_that_their_user_runs",
        commands_find_the_state_of_the_node_that_their_user_runs,
    ),
    (
        "beside::root_is_told_of_a_users_node_and_does_not_follow_it",
        root_is_told_of_a_users_node_and_does_not_follow_it,
    ),
    (
        "beside::software_is_pointed_to_no_program_of_another_user",
        software_is_pointed_to_no_program_of_another_user,
    ),
    (
        "beside::an_ordinary_user_is_told_that_root_may_be_in_a_group",
        an_ordinary_user_is_told_that_root_may_be_in_a_group,
    ),
];

/// The id of the user `nobody` and of its group.
const NOBODY: u32 = 65_534;
/// The id of another user.
const MALLORY: u32 = 4711;

/// A program of [`MALLORY`] that gives every request the same answer.
struct Forger {
    address: SocketAddr,
    is_over: Arc<AtomicBool>,
    thread: JoinHandle<()>,
}

/// Whether other users exist here; in a user namespace there is only root.
fn has_users() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap();
    let has = map.split_whitespace().nth(2).is_some_and(|count| count != "1");
    if !has {
        eprintln!("skipped: there is only one user");
    }
    has
}

/// A command on a machine whose /var/lib has these directories, private to these users, and nothing else. `user` is another
/// user than root.
fn command(host: &Host, libraries: &[(&str, u32)], user: Option<u32>, arguments: &[&str]) -> Command {
    let make = |(name, owner): &(&str, u32)| format!(" && install -d -m 700 -o {owner} /var/lib/{name}");
    let directories: String = libraries.iter().map(make).collect();
    let script = format!("mount -t tmpfs -o mode=755 none /var/lib{directories} && exec \"$@\"");
    let mut command = host.command("sh");
    command.args(["-c", &script, "sh"]);
    if let Some(user) = user {
        command.args(["setpriv", "--clear-groups", &format!("--reuid={user}"), &format!("--regid={user}")]);
        command.env("HOME", home(host, user));
    }
    command.arg(env!("CARGO_BIN_EXE_laneway")).args(arguments);
    command
}

fn home(host: &Host, user: u32) -> PathBuf {
    let home = host.directory().join(format!("home-{user}"));
    if !home.exists() {
        fs::create_dir(&home).unwrap();
        chown(&home, Some(user), Some(user)).unwrap();
    }
    home
}

fn run(host: &Host, libraries: &[(&str, u32)], user: Option<u32>, arguments: &[&str]) -> Output {
    host.output(command(host, libraries, user, arguments))
}

fn an_ordinary_user_is_told_of_roots_node_and_makes_no_second_group(lab: &Lab) {
    if !has_users() {
        return;
    }
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    let node = group.client(&c1, &[]);
    let nobody = |arguments: &[&str]| run(&c1, &[], Some(NOBODY), arguments);
    let said = "a node of the user root runs here, 'c1' of the group 'lan'";

    // Commands that need no keys work: the node's own view, and a request through it.
    let doctor = nobody(&["doctor", "--server", "10.88.0.100:80"]).success();
    let directory = state(&c1);
    let hint = |name: &str| format!("sudo laneway {name} --state {}", directory.display());
    assert!(
        doctor.text().contains(said) && doctor.text().contains(&hint("doctor --server 10.88.0.100:80")),
        "{doctor}"
    );
    assert!(doctor.text().contains("10.88.0.100:80 through the node"), "{doctor}");
    nobody(&["status"]).success();
    nobody(&["env"]).success();
    for arguments in [&["discover"][..], &["speedtest"], &["members"], &["invite"], &["leave"]] {
        let refused = nobody(arguments);
        assert!(!refused.status.success() && refused.stderr.contains(said), "{refused}");
        assert!(refused.stderr.contains(&hint(arguments[0])), "{refused}");
        assert!(!refused.stderr.contains("laneway init"), "{refused}");
    }
    // Whether this user has a home or not: nothing is to be written there.
    for home in [Some("/nonexistent"), Some("/proc"), None] {
        for arguments in [&["discover"][..], &["members"]] {
            let mut without = command(&c1, &[], Some(NOBODY), arguments);
            without.env_remove("HOME").envs(home.map(|home| ("HOME", home)));
            let refused = c1.output(without);
            assert!(refused.code() == 2 && refused.stderr.contains(said), "{home:?}: {refused}");
            assert!(refused.stderr.contains(&hint(arguments[0])), "{home:?}: {refused}");
        }
    }
    for arguments in [&["init"][..], &["join", &group.code], &["ca", "import", "/dev/null"], &["up"]] {
        let refused = nobody(arguments);
        assert!(refused.code() == 2 && refused.stderr.contains(said), "{refused}");
        let hint = match arguments[0] {
            "ca" => format!("'{}' is for that one", hint("ca import /dev/null")),
            _ => "'laneway run -- CMD' uses it".to_owned(),
        };
        assert!(refused.stderr.contains(&hint), "{refused}");
    }
    // The whole command, with its options.
    for arguments in [&["leave", "--yes"][..], &["cache", "ls"]] {
        let refused = nobody(arguments);
        assert!(refused.stderr.contains(&hint(&arguments.join(" "))), "{refused}");
    }
    let own = home(&c1, NOBODY).join(".local/state/laneway");
    assert!(!own.join("group.json").exists());
    // A user who means it names the directory.
    nobody(&["init", "--state", own.to_str().unwrap()]).success();

    // A node with another local port is seen by the port of discovery.
    drop(node);
    let _node = group.client(&c1, &["--proxy", "127.0.0.1:1090"]);
    let unanswered = nobody(&["status"]);
    assert!(unanswered.stderr.contains("a program of the user root has the UDP port 7420"), "{unanswered}");
    let doctor = nobody(&["doctor"]);
    let own =
        "a second node beside it needs ports of its own: 'laneway up --proxy 127.0.0.1:1081 --lan 127.0.0.1";
    for words in
        ["used by a program of the user root", "hint: if that is a node, name its local port with", own]
    {
        assert!(doctor.code() == 1 && doctor.text().contains(words), "{words}: {doctor}");
    }
}

fn commands_find_the_state_of_the_node_that_their_user_runs(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _web = lab.web(who);
    let group = lab.group(&[&g1, &c1], &[]);
    let _node = group.client(&c1, &[]);
    run(&c1, &[], None, &["doctor", "--server", "10.88.0.100:80"]).success();
    run(&c1, &[], None, &["discover"]).success();
    let members = run(&g1, &[], None, &["members"]).success();
    assert!(members.text().contains("c1"), "{members}");
    let refused = run(&c1, &[], None, &["init"]);
    assert!(refused.code() == 2 && refused.stderr.contains("a node of the user root runs here"), "{refused}");
    // A directory that is named is the one that is used.
    let other = c1.directory().join("other");
    let refused = run(&c1, &[], None, &["discover", "--state", other.to_str().unwrap()]);
    assert!(refused.stderr.contains("this machine is in no group: "), "{refused}");
}

fn root_is_told_of_a_users_node_and_does_not_follow_it(lab: &Lab) {
    if !has_users() {
        return;
    }
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&g1], &[]);
    run(&c1, &[], Some(NOBODY), &["join", &group.code, "--name", "c1"]).success();
    let mut node = c1.spawn(command(&c1, &[], Some(NOBODY), &["up"]));
    node.wait_for_line("link up", START);
    // The node's user needs no option.
    run(&c1, &[], Some(NOBODY), &["discover"]).success();
    let directory = home(&c1, NOBODY).join(".local/state/laneway");
    let refused = run(&c1, &[], None, &["discover"]);
    for words in [
        "a node of the user nobody runs here, 'c1'",
        &format!("run 'laneway discover --state {}'", directory.display()),
    ] {
        assert!(refused.stderr.contains(words), "{words}: {refused}");
    }
    run(&c1, &[], None, &["discover", "--state", directory.to_str().unwrap()]).success();
    let refused = run(&c1, &[], None, &["init"]);
    assert!(refused.code() == 2 && refused.stderr.contains("a node of the user nobody"), "{refused}");
    assert!(node.is_running());
}

impl Forger {
    fn start(host: &Host, address: &str, answer: String) -> Self {
        let listener = host.inside(|| TcpListener::bind(address)).unwrap();
        // As if that user had opened it.
        fchown(&listener, Some(MALLORY), None).unwrap();
        let (is_over, address) = (Arc::new(AtomicBool::new(false)), listener.local_addr().unwrap());
        let ends = is_over.clone();
        let thread = std::thread::spawn(move || {
            for socket in listener.incoming() {
                if ends.load(Ordering::Relaxed) {
                    return;
                }
                let mut socket = socket.unwrap();
                let _ = socket.read(&mut [0; 1024]);
                let _ = socket.write_all(answer.as_bytes());
            }
        });
        Self { address, is_over, thread }
    }

    fn end(self, host: &Host) {
        self.is_over.store(true, Ordering::Relaxed);
        let address = self.address;
        drop(host.inside(move || TcpStream::connect(address)));
        self.thread.join().unwrap();
    }
}

fn software_is_pointed_to_no_program_of_another_user(lab: &Lab) {
    if !has_users() {
        return;
    }
    let (_origin, _g1, c1, group) = healthy(lab);
    let _node = group.client(&c1, &["--proxy", "127.0.0.1:1090"]);
    let status = laneway(&c1, &["status", "--json"]).success().text();
    // A directory of that user whose node seems to run at the same address.
    let theirs = c1.directory().join("theirs");
    fs::create_dir(&theirs).unwrap();
    let private = |path: &Path, mode| {
        fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
        chown(path, Some(MALLORY), Some(MALLORY)).unwrap();
    };
    for (name, text) in [("running", ""), ("proxies", "127.0.0.1:1080\n")] {
        fs::write(theirs.join(name), text).unwrap();
        private(&theirs.join(name), 0o600);
    }
    private(&theirs, 0o700);
    let lock = File::open(theirs.join("running")).unwrap();
    lock.lock().unwrap();

    let said = "the program that answers on 127.0.0.1:1080 belongs to the user 4711";
    let start = ["--", "echo", "started"];
    let as_node = format!("HTTP/1.1 200 OK\r\n\r\n{status}");
    let reserved = "this is a proxy; its page is for users of its own machine";
    let as_reserved = format!("HTTP/1.1 403 Forbidden\r\n\r\n{reserved}\n");
    for answer in [as_node, as_reserved] {
        let forger = Forger::start(&c1, "127.0.0.1:1080", answer.clone());
        let nobody = |words: &[&str]| run(&c1, &[], Some(NOBODY), words);
        let root = |words: &[&str]| run(&c1, &[], None, words);
        let theirs = theirs.to_str().unwrap();
        for (refused, code) in [
            (nobody(&[&["run"][..], &start].concat()), 125),
            (nobody(&[&["run", "--proxy", "127.0.0.1:1080"][..], &start].concat()), 125),
            (nobody(&["env"]), 1),
            (nobody(&["env", "--fronts"]), 1),
            (nobody(&["env", "--docker"]), 1),
            (root(&[&["run"][..], &start].concat()), 125),
            (root(&[&["run", "--state", theirs][..], &start].concat()), 125),
        ] {
            assert!(refused.code() == code && refused.stderr.contains(said), "{refused}");
            assert!(refused.stderr.contains("add --no-check") && refused.stdout.is_empty(), "{refused}");
        }
        let apt = root(&["apt-proxy", "http://deb.example/"]).success();
        assert!(apt.text() == "DIRECT\n" && apt.stderr.contains(said), "{apt}");
        let trusted = nobody(&[&["run", "--no-check"][..], &start].concat()).success();
        assert_eq!(trusted.text(), "started\n");
        assert!(nobody(&["env", "--no-check"]).success().text().contains("http://127.0.0.1:1080"));
        if answer.contains("200") {
            let apt = root(&["apt-proxy", "--no-check", "http://deb.example/"]).success();
            assert_eq!(apt.text(), "http://127.0.0.1:1080\n");
            let doctor = nobody(&["doctor"]);
            assert!(doctor.code() == 1 && doctor.text().contains(said), "{doctor}");
        }
        // The owner of the machine's state is the user of the machine's node.
        let words = [&["run"][..], &start].concat();
        run(&c1, &[("laneway", MALLORY)], Some(NOBODY), &words).success();
        forger.end(&c1);
    }
    // Everybody may use root's node.
    let words = [&["run", "--proxy", "127.0.0.1:1090"][..], &start].concat();
    assert_eq!(run(&c1, &[], Some(NOBODY), &words).success().text(), "started\n");
}

fn an_ordinary_user_is_told_that_root_may_be_in_a_group(lab: &Lab) {
    if !has_users() {
        return;
    }
    let c1 = lab.client("c1");
    let nobody = |arguments: &[&str]| run(&c1, &[("laneway", 0)], Some(NOBODY), arguments);
    for arguments in [&["doctor"][..], &["discover"], &["invite"]] {
        let refused = nobody(arguments);
        let said = refused.text() + &refused.stderr;
        assert!(said.contains("root may be in a group on this machine: /var/lib/laneway"), "{refused}");
        assert!(said.contains(&format!("sudo laneway {}", arguments[0])), "{refused}");
    }
    let refused = nobody(&["init"]);
    assert!(refused.code() == 2 && refused.stderr.contains("root may be in a group"), "{refused}");
    let own = home(&c1, NOBODY).join("laneway");
    nobody(&["init", "--state", own.to_str().unwrap()]).success();
    // Where root has no state, a user is not asked anything.
    assert!(run(&c1, &[], Some(NOBODY), &["init"]).success().text().contains("laneway join lw1."));
    assert!(laneway(&c1, &["discover"]).stderr.contains("laneway init"));
}
