//! What goes wrong in the hands of an administrator: the error or the doctor says what to do, and doing exactly that helps.

use super::ailments::{follow, once_well, status, stop};
use super::doctor::{diagnose, healthy};
use crate::lab::group::{START, init, join, laneway, state, up};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};
use nix::mount::{MsFlags, mount, umount};
use std::collections::BTreeMap;
use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::thread;

pub(super) const CASES: &[Case] = &[
    ("hints::an_address_that_is_no_gateway", an_address_that_is_no_gateway),
    ("hints::a_server_with_a_wrong_port_or_name", a_server_with_a_wrong_port_or_name),
    ("hints::a_removed_machine_that_had_imported_the_key", a_removed_machine_that_had_imported_the_key),
    ("hints::a_code_of_a_machine_that_has_no_key_any_more", a_code_of_a_machine_that_has_no_key_any_more),
    (
        "hints::another_program_has_the_port_of_the_local_proxy",
        another_program_has_the_port_of_the_local_proxy,
    ),
    ("hints::a_link_address_that_this_machine_does_not_have", a_link_address_that_this_machine_does_not_have),
    ("hints::a_second_node_on_one_machine", a_second_node_on_one_machine),
    (
        "hints::ipv6_that_does_not_work_is_no_fault_beside_ipv4",
        ipv6_that_does_not_work_is_no_fault_beside_ipv4,
    ),
    ("hints::a_disk_without_space", a_disk_without_space),
    ("hints::a_full_disk_on_the_only_gateway", a_full_disk_on_the_only_gateway),
    (
        "hints::software_is_pointed_to_nothing_but_this_machines_node",
        software_is_pointed_to_nothing_but_this_machines_node,
    ),
    ("hints::status_shows_why_connections_failed", status_shows_why_connections_failed),
];

/// The part of a text after the first `word`, up to one of the `ends`.
fn after<'a>(text: &'a str, word: &str, ends: &[char]) -> &'a str {
    let start = text.find(word).unwrap_or_else(|| panic!("no {word:?} in {text}")) + word.len();
    text[start..].split(ends).next().unwrap()
}

fn an_address_that_is_no_gateway(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let g2 = lab.gateway("g2");
    // Nothing runs there.
    let named = ["--gateway", "10.77.0.22:7420"];
    let diagnosis = diagnose(&c1, &named);
    diagnosis.blames(
        "link",
        &[],
        &["10.77.0.22:7420", "refused", "no node runs there", "'laneway up --server"],
    );
    // A client runs there, which keeps pieces of downloads for others at the same port.
    join(&g2, &group.code);
    let client = up(&g2, &[]);
    let diagnosis = diagnose(&c1, &named);
    diagnosis.blames(
        "link",
        &[],
        &["10.77.0.22:7420 accepts no links: it is not a gateway", "'laneway up --server"],
    );
    let mut node = group.up(&c1, &["--gateway", "10.77.0.22:7420", "--lan", "127.0.0.1"]);
    node.wait_for_line("it is not a gateway", START);
    assert!(laneway(&c1, &["status"]).text().contains("it is not a gateway"));
    stop(client);
    let _gateway = up(&g2, &["--server", "10.88.0.100:80"]);
    node.wait_for_line("link up", START);
    stop(node);
    let _node = group.client(&c1, &named);
    wait_until("all to be well", || diagnose(&c1, &named).code == 0);
}

fn a_server_with_a_wrong_port_or_name(lab: &Lab) {
    let _origin = lab.origin();
    let g1 = lab.gateway("g1");
    init(&g1);
    let node = up(&g1, &["--server", "10.88.0.100:81"]);
    let diagnosis = diagnose(&g1, &[]);
    let hint = diagnosis.hint("discovery");
    assert!(diagnosis.said("discovery").contains("refused"), "{}", diagnosis.text);
    assert!(hint.contains("correct this machine's --server") && hint.contains("listen on port 81"), "{hint}");
    stop(node);
    let node = up(&g1, &["--server", "nosuch.lab:80"]);
    let diagnosis = diagnose(&g1, &[]);
    let hint = diagnosis.hint("discovery");
    assert!(hint.contains("'getent hosts nosuch.lab'") && !hint.contains("uplink"), "{hint}");
    stop(node);
    let _node = up(&g1, &["--server", "10.88.0.100:80"]);
    once_well(&g1);
}

fn a_removed_machine_that_had_imported_the_key(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let key = lab.write("key.laneway", "");
    fs::remove_file(&key).unwrap();
    laneway(&g1, &["ca", "export", key.to_str().unwrap()]).success();
    laneway(&c1, &["ca", "import", key.to_str().unwrap()]).success();
    let _node = group.client(&c1, &[]);
    laneway(&g1, &["revoke", "c1"]).success();
    wait_until("the machine to know", || diagnose(&c1, &[]).text.contains("was removed from the group"));
    let diagnosis = diagnose(&c1, &[]);
    let layer = if diagnosis.said("group").is_empty() { "link" } else { "group" };
    let command = after(diagnosis.hint(layer), "run 'laneway ", &['\'']);
    assert_eq!(command, "leave --yes");
    laneway(&c1, &["leave", "--yes"]).success();
    // Nothing is left that looks like a member's directory.
    assert!(!state(&c1).exists());
    let said = laneway(&g1, &["invite"]).success().text();
    join(&c1, said.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap());
    let _node = group.client(&c1, &[]);
    once_well(&c1);
}

fn a_code_of_a_machine_that_has_no_key_any_more(lab: &Lab) {
    let (_origin, g1, c1, mut group) = healthy(lab);
    let c2 = lab.client("c2");
    let key = g1.directory().join("key.laneway");
    laneway(&g1, &["ca", "export", key.to_str().unwrap()]).success();
    laneway(&c1, &["ca", "import", key.to_str().unwrap()]).success();
    fs::remove_file(state(&g1).join("ca.key")).unwrap();
    group.gateway.wait_for_line("this machine does not hold the group's key any more", START);
    let mut node = group.client(&c1, &[]);
    // Asked by its address, the machine says so itself, not with the name of an alert.
    let named = ["join", &group.code, "--name", "c2", "--gateway", "10.77.0.21:7420"];
    let refused = laneway(&c2, &named);
    let said = "no machine is admitted there: the node does not hold the group's key";
    assert!(refused.stderr.contains(said) && !refused.stderr.contains("alert"), "{refused}");
    let refused = laneway(&c2, &["join", &group.code, "--name", "c2"]);
    let said = "'laneway invite' on the machine with the key makes a new one";
    assert!(refused.code() == 1 && refused.stderr.contains(said), "{refused}");
    let said = laneway(&c1, &["invite"]).success().text();
    join(&c2, said.split_whitespace().find(|word| word.starts_with("lw1.")).unwrap());
    node.wait_for_line("member admitted", START);
}

fn another_program_has_the_port_of_the_local_proxy(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let _taken = c1.inside(|| TcpListener::bind("127.0.0.1:1080")).unwrap();
    let place = c1.directory().join("config/laneway/laneway.toml");
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, "").unwrap();
    c1.set("XDG_CONFIG_HOME", c1.directory().join("config").to_str().unwrap());
    let mut failed = c1.spawn(c1.laneway(&["up", "--state", state(&c1).to_str().unwrap()]));
    failed.wait(START);
    let log = failed.log();
    let other = after(&log, "start the node with --proxy ", &['\n']).to_owned();
    assert_eq!(other, "127.0.0.1:1081");
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!(after(diagnosis.hint("ports"), "'laneway up --proxy ", &['\'']), other);
    let line = after(&log, "To take another port, write  ", &['\n']);
    let (line, file) = line.split_once("  to ").unwrap();
    assert!(diagnosis.hint("ports").contains(&format!("write  {line}  to {}", place.display())));
    assert_eq!(file.split_once(", or").unwrap().0, place.to_str().unwrap());
    // Every command of this machine finds the node that runs with its keys.
    let node = group.client(&c1, &["--proxy", &other]);
    commands_find(&c1, &other);
    stop(node);
    // They also find a node that takes the line from the file, and one on a port that the system picks.
    fs::write(&place, line).unwrap();
    let node = group.client(&c1, &[]);
    commands_find(&c1, &other);
    stop(node);
    let _node = group.client(&c1, &["--proxy", "127.0.0.1:0"]);
    commands_find(&c1, &status(&c1).node.proxy[0]);
}

/// The commands that use the local proxy do so at this address.
fn commands_find(host: &Host, proxy: &str) {
    assert!(laneway(host, &["status"]).success().text().contains(&format!("proxy {proxy} ")));
    assert!(laneway(host, &["env"]).success().text().contains(&format!("http_proxy='http://{proxy}'")));
    let directory = state(host);
    let words =
        ["run", "--state", directory.to_str().unwrap(), "--", "curl", "-fsI", "http://10.88.0.100/big"];
    host.output(host.laneway(&words)).success();
    assert_eq!(laneway(host, &["apt-proxy", "http://deb.example/"]).text(), format!("http://{proxy}\n"));
    once_well(host);
}

fn software_is_pointed_to_nothing_but_this_machines_node(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let run = |directory: &Path, options: &[&str]| {
        let words = [&["run", "--state", directory.to_str().unwrap()], options, &["--", "echo", "started"]];
        c1.output(c1.laneway(&words.concat()))
    };
    let own = state(&c1);
    let refused = run(&own, &[]);
    for words in ["no node answers on 127.0.0.1:1080", "hint: start it with 'laneway up'"] {
        assert!(refused.code() == 125 && refused.stderr.contains(words), "{words}: {refused}");
    }
    assert!(refused.stdout.is_empty(), "{refused}");
    assert_eq!(run(&own, &["--no-check"]).success().text(), "started\n");
    let env = laneway(&c1, &["env"]);
    assert!(env.code() == 1 && env.stdout.is_empty(), "{env}");
    assert!(env.stderr.starts_with("error: no node answers on 127.0.0.1:1080"), "{env}");
    // A shell may be set up before the node starts.
    let env = laneway(&c1, &["env", "--no-check"]).success();
    assert!(env.text().contains("http_proxy='http://127.0.0.1:1080'"), "{env}");

    let listener = c1.inside(|| TcpListener::bind("127.0.0.1:1080")).unwrap();
    let closing = listener.try_clone().unwrap();
    let closed = thread::spawn(move || closing.incoming().take(3).for_each(drop));
    let program = format!("(process {})", std::process::id());
    for refused in [run(&own, &[]), laneway(&c1, &["env"]), laneway(&c1, &["status"])] {
        for words in ["what listens on 127.0.0.1:1080 is not a laneway node", &program, "'laneway up --proxy"]
        {
            assert!(refused.code() != 0 && refused.stderr.contains(words), "{words}: {refused}");
        }
        assert!(refused.stdout.is_empty(), "{refused}");
    }
    closed.join().unwrap();
    drop(listener);

    let _node = group.client(&c1, &[]);
    let other = c1.directory().join("other");
    let words = ["init", "--group", "mine", "--name", "own", "--state", other.to_str().unwrap()];
    c1.output(c1.laneway(&words)).success();
    assert_eq!(run(&own, &[]).success().text(), "started\n");
    let refused = run(&other, &[]);
    for words in
        ["is 'c1' of the group 'lan', and not 'own' of the group 'mine'", "name it: --proxy 127.0.0.1:1080"]
    {
        assert!(refused.code() == 125 && refused.stderr.contains(words), "{words}: {refused}");
    }
    run(&other, &["--proxy", "127.0.0.1:1080"]).success();
}

fn a_link_address_that_this_machine_does_not_have(lab: &Lab) {
    let g1 = lab.gateway("g1");
    init(&g1);
    let directory = state(&g1);
    let options =
        ["up", "--role", "gateway", "--link", "10.9.9.9:7420", "--state", directory.to_str().unwrap()];
    let output = g1.output(g1.laneway(&options));
    assert!(output.code() == 1 && output.stderr.contains("lan (10.77.0.21)"), "{output}");
    assert!(output.stderr.contains("without --link it listens on all of them"), "{output}");
}

fn a_second_node_on_one_machine(lab: &Lab) {
    let _web = lab.web(who);
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let group = lab.group(&[&g1, &c1], &[]);
    let first = group.client(&c1, &[]);
    let second = c1.directory().join("second");
    let directory = second.to_str().unwrap();
    c1.output(c1.laneway(&["join", &group.code, "--name", "second", "--state", directory])).success();
    let mut failed = c1.spawn(c1.laneway(&["up", "--state", directory, "--proxy", "127.0.0.1:1081"]));
    failed.wait(START);
    let log = failed.log();
    let options = after(&log, "takes ports of its own: ", &['.']);
    assert!(options.starts_with("--lan 127"), "{log}");
    let words = after(&log, "takes ports of its own: ", &['\n']).split(". If").next().unwrap();
    let words = words.replace("HOST:7420", "10.77.0.21:7420");
    let words: Vec<_> = words.split(' ').collect();
    let mut node = c1.spawn(c1.laneway(&[&["up", "--state", directory], &words[..]].concat()));
    node.wait_for_line("link up", START);
    for proxy in ["http://127.0.0.1:1080", "http://127.0.0.1:1081"] {
        let said = c1.curl(&["--proxy", proxy, "http://10.88.0.100/"]).success().text();
        assert!(said.contains("10.88.0.21"), "{said}");
    }
    drop(first);
}

fn ipv6_that_does_not_work_is_no_fault_beside_ipv4(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    let rules = "nft 'add table ip6 t; add chain ip6 t out { type filter hook output priority 0; }; add rule ip6 t out udp dport 7420 drop'";
    follow(&c1, rules);
    let diagnosis = diagnose(&c1, &[]);
    assert_eq!(
        (diagnosis.faults().len(), diagnosis.layers("skipped")),
        (0, vec!["discovery"]),
        "{}",
        diagnosis.text
    );
    assert!(diagnosis.text.contains("IPv4 works, which is enough"), "{}", diagnosis.text);
}

/// A directory on a disk of its own that is full.
fn a_disk_without_space(lab: &Lab) {
    let (_origin, g1, _c1, group) = healthy(lab);
    let c2 = lab.client("c2");
    let disk = c2.directory().join("disk");
    fs::create_dir(&disk).unwrap();
    let run = |host: &Host, command: &str| {
        let program = env!("CARGO_BIN_EXE_laneway");
        let script = format!(
            "mount -t tmpfs -o size=64k,mode=700 none '{0}' && mkdir -m 700 '{0}/state' && head -c 1M /dev/zero >'{0}/rest' 2>/dev/null; \
             {program} {command}",
            disk.display()
        );
        let mut shell = host.command("sh");
        shell.args(["-c", &script]);
        host.output(shell)
    };
    let refused = run(&c2, &format!("join {} --name c2 --state '{}/state'", group.code, disk.display()));
    assert!(!refused.status.success() && refused.stderr.contains("hint: free some space"), "{refused}");
    // The first machine does not keep a member that never joined: c2 joins under the same name from elsewhere.
    join(&c2, &group.code);
    assert!(laneway(&g1, &["members", "--offline"]).success().text().contains("c2"));
}

/// What is in the directory, without what a running node or a lock changes by itself.
fn kept(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let own = ["rest", "lock", "seen.json", "gateways.json"];
    let files = fs::read_dir(directory).unwrap().map(Result::unwrap).filter(|file| file.path().is_file());
    let named = files.map(|file| (file.file_name().into_string().unwrap(), file.path()));
    named
        .filter(|(name, _)| !own.contains(&name.as_str()))
        .map(|(name, path)| (name, fs::read(path).unwrap()))
        .collect()
}

fn a_full_disk_on_the_only_gateway(lab: &Lab) {
    let (g1, c1, c2) = (lab.gateway("g1"), lab.client("c1"), lab.client("c2"));
    let directory = state(&g1);
    fs::create_dir(&directory).unwrap();
    let (none, options) = (None::<&str>, Some("size=512k,mode=700"));
    mount(none, &directory, Some("tmpfs"), MsFlags::empty(), options).unwrap();
    let _origin = lab.origin();
    let group = lab.group(&[&g1, &c1], &[]);
    let _node = group.client(&c1, &[]);
    let rest = directory.join("rest");
    let full = fs::write(&rest, vec![0; 1 << 20]).unwrap_err();
    assert_eq!(full.kind(), std::io::ErrorKind::StorageFull);
    let before = kept(&directory);
    let key = directory.join("key");
    for (host, words) in [
        (&g1, &["invite"][..]),
        (&g1, &["rotate"]),
        (&g1, &["revoke", "c1"]),
        (&g1, &["ca", "export", key.to_str().unwrap()]),
        (&c2, &["join", &group.code, "--name", "c2"]),
    ] {
        let refused = laneway(host, words);
        assert_eq!(refused.code(), 1, "{words:?}: {refused}");
        let hints = ["hint: free some space", "such as a full disk; then run this line again"];
        assert!(hints.iter().any(|hint| refused.stderr.contains(hint)), "{words:?}: {refused}");
        assert_eq!(kept(&directory), before, "{words:?}");
    }
    // Everything goes on, and each command works as soon as there is space.
    c1.curl(&["--proxy", "http://127.0.0.1:1080", "--fail", "--head", "http://10.88.0.100/big"]).success();
    fs::remove_file(&rest).unwrap();
    join(&c2, &group.code);
    laneway(&g1, &["rotate"]).success();
    laneway(&g1, &["revoke", "c2"]).success();
    let members = laneway(&g1, &["members", "--offline"]).success().text();
    assert!(members.contains("c1") && members.contains("g1"), "{members}");
    let left = laneway(&g1, &["leave", "--force", "--yes"]).success();
    assert!(left.stderr.contains("warning: no other gateway is ready to serve"), "{left}");
    let said = left.text();
    assert!(said.contains("nobody can admit or remove machines any more"), "{said}");
    drop(group);
    umount(&directory).unwrap();
}

fn status_shows_why_connections_failed(lab: &Lab) {
    let (_origin, _g1, c1, group) = healthy(lab);
    let _node = group.client(&c1, &[]);
    for _ in 0..2 {
        let refused = c1.curl(&["--proxy", "http://127.0.0.1:1080", "https://10.88.0.100:444/"]);
        assert!(refused.stderr.contains("CONNECT tunnel failed"), "{refused}");
    }
    let shown = laneway(&c1, &["status"]).success().text();
    let line = shown.lines().find(|line| line.contains("--allow 10.88.0.100:444"));
    let line = line.unwrap_or_else(|| panic!("no reason in {shown}"));
    assert!(
        line.contains("10.88.0.100:444  ") && line.contains("  2      ") && line.contains("g1"),
        "{shown}"
    );
    assert_eq!(status(&c1).failed[0].count, 2);
}
