//! Making and joining a group: the files, and every refusal.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use nix::sys::signal::Signal;

use crate::machine::{Machine, Output, text};

fn mode(path: &Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o7777
}

fn files(directory: &Path) -> Vec<(String, u32)> {
    let entries = fs::read_dir(directory).unwrap().map(Result::unwrap);
    let mut files: Vec<_> =
        entries.map(|entry| (entry.file_name().into_string().unwrap(), mode(&entry.path()))).collect();
    files.sort();
    files
}

#[test]
fn init_makes_private_files_and_prints_the_command_for_the_others() {
    let machine = Machine::new();
    let output = machine.laneway(["init", "--group", "office", "--name", "first"]).success();
    assert!(output.stdout.contains("Created the group 'office'; this machine is 'first'."), "{output}");
    assert!(output.stdout.contains(&format!("    laneway join {}\n", output.code())), "{output}");
    assert_eq!(output.stderr, "");
    assert_eq!(mode(&machine.state()), 0o700);
    let files = files(&machine.state());
    assert!(files.iter().any(|(name, _)| name == "ca.key"), "{files:?}");
    assert!(files.iter().all(|(_, mode)| *mode == 0o600), "{files:?}");
}

/// A user without a home could not create one.
#[test]
fn commands_that_find_no_state_directory_make_none() {
    let machine = Machine::new();
    for command in [
        &["discover"][..],
        &["members"],
        &["invite"],
        &["revoke", "x"],
        &["drain"],
        &["leave", "--yes"],
        &["speedtest"],
        &["cache", "ls"],
        &["ca", "export", "file"],
        &["doctor"],
        &["status"],
    ] {
        let output = machine.laneway(command);
        assert!(!machine.state().exists(), "{command:?}: {output}");
    }
}

#[test]
fn a_machine_in_no_group_gets_a_hint_how_to_join() {
    let machine = Machine::new();
    for command in ["up", "discover"] {
        let what = format!("error: this machine is in no group: {} holds none", text(&machine.state()));
        machine.laneway([command]).failed(2, &[&what, "hint: run 'laneway init' on the first machine"]);
    }
}

#[test]
fn a_second_group_is_refused_by_init_and_by_join_in_the_same_words() {
    let (machine, _) = Machine::with_group();
    let (_, code) = Machine::with_group();
    let before = fs::read(machine.state().join("group.json")).unwrap();
    let kept = format!("stop laneway and move {} away, but keep it", text(&machine.state()));
    for command in [&["init", "--group", "other"][..], &["join", &code]] {
        let output = machine.laneway(command);
        output.failed(
            2,
            &["error: this machine is already in the group \"lan\"", "hint: 'laneway invite --state "],
        );
        assert!(output.stderr.contains(&kept), "{output}");
    }
    assert_eq!(fs::read(machine.state().join("group.json")).unwrap(), before);
}

#[test]
fn a_state_directory_that_others_can_read_is_refused_with_a_hint() {
    let (machine, _) = Machine::with_group();
    let state = machine.state();
    fs::set_permissions(&state, fs::Permissions::from_mode(0o755)).unwrap();
    let what = format!("error: {} is open to other users (mode 755)", text(&state));
    let hint = format!("hint: chmod 700 {}", text(&state));
    for command in [&["up"][..], &["init"], &["invite"], &["members"], &["discover"]] {
        let output = machine.laneway(command);
        output.failed(2, &[&what]);
        assert!(output.stderr.lines().any(|line| line == hint), "{output}");
    }

    fs::set_permissions(&state, fs::Permissions::from_mode(0o700)).unwrap();
    let key = state.join("node.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o644)).unwrap();
    let what = format!("error: {} is open to other users (mode 644)", text(&key));
    machine.laneway(["up"]).failed(2, &[&what, &format!("hint: chmod 600 {}", text(&key))]);
}

#[test]
fn root_that_invites_in_a_users_directory_changes_no_file_that_a_link_there_names() {
    if !nix::unistd::Uid::effective().is_root() {
        eprintln!("skipped: only root can use the directory of another user");
        return;
    }
    let (machine, _) = Machine::with_group();
    let (state, victim) = (machine.state(), machine.path("victim"));
    let give = |path: &Path| std::os::unix::fs::lchown(path, Some(4711), Some(4711)).unwrap();
    fs::read_dir(&state).unwrap().for_each(|entry| give(&entry.unwrap().path()));
    give(&state);
    machine.laneway(["invite"]).success();
    fs::write(&victim, "precious").unwrap();
    let before = fs::metadata(&victim).unwrap();
    let commands = [&["invite"][..], &["members"], &["rotate"], &["revoke", "first"]];
    for (name, _) in files(&state) {
        let (file, aside) = (state.join(&name), state.join("aside"));
        fs::rename(&file, &aside).unwrap();
        for is_symbolic in [true, false] {
            if is_symbolic {
                std::os::unix::fs::symlink(&victim, &file).unwrap();
                give(&file);
            } else {
                fs::hard_link(&victim, &file).unwrap();
            }
            // crl.pem is only written; every other file is read by one of these commands.
            let outcomes = commands.map(|command| machine.laneway(command));
            let refused = outcomes.iter().filter(|output| output.code != Some(0)).count();
            assert!(refused > 0 || name == "crl.pem", "{name}");
            let after = fs::metadata(&victim).unwrap();
            assert_eq!(fs::read(&victim).unwrap(), b"precious", "{name}");
            assert_eq!((after.uid(), after.mode()), (before.uid(), before.mode()), "{name}");
            fs::remove_file(&file).unwrap();
        }
        fs::rename(&aside, &file).unwrap();
    }
    // What root has written meanwhile is the user's, so that the service still starts.
    for (name, _) in files(&state) {
        assert_eq!(fs::metadata(state.join(&name)).unwrap().uid(), 4711, "{name}");
    }
}

#[test]
fn a_state_directory_that_is_a_file_is_refused() {
    let machine = Machine::new();
    fs::write(machine.state(), "").unwrap();
    let what = format!("error: {} is not a directory", text(&machine.state()));
    machine.laneway(["init"]).failed(2, &[&what, "hint: name another directory with --state DIR"]);
}

#[test]
fn a_damaged_or_missing_file_is_named_with_what_to_do() {
    let (machine, _) = Machine::with_group();
    let certificate = machine.state().join("node.pem");
    let hint = format!("hint: restore it, or move {} away", text(&machine.state()));
    fs::write(&certificate, "nonsense").unwrap();
    let what = format!("error: {} cannot be used", text(&certificate));
    machine.laneway(["up"]).failed(2, &[&what, "caused by: it is not valid PEM text", &hint]);
    fs::remove_file(&certificate).unwrap();
    machine.laneway(["up"]).failed(2, &[&format!("error: {} is missing", text(&certificate)), &hint]);
}

#[test]
fn an_invalid_code_is_refused_before_anything_is_sent() {
    let (_, code) = Machine::with_group();
    let machine = Machine::new();
    let whole = "hint: copy the whole line that 'laneway init' or 'laneway invite' printed";
    let cut = "error: this join code was cut off or mistyped";
    machine.laneway(["join", &code[..code.len() - 1]]).failed(2, &[cut, whole]);
    machine.laneway(["join", &code[..20]]).failed(2, &[cut, whole]);
    machine
        .laneway(["join", "hello"])
        .failed(2, &["error: this is not a join code", "hint: a code starts with lw1."]);
    let newer = code.replacen("lw1.", "lw2.", 1);
    let expected = ["error: this join code was made by a newer laneway", "hint: update laneway"];
    machine.laneway(["join", &newer]).failed(2, &expected);
    assert_eq!(files(&machine.state()), []);
}

#[test]
fn only_the_machine_that_made_the_group_invites_and_lists() {
    let machine = Machine::new();
    for command in [&["invite"][..], &["members"], &["revoke", "x"], &["rotate"], &["ca", "export", "/x"]] {
        let what = format!("error: this machine is in no group: {} holds none", text(&machine.state()));
        machine.laneway(command).failed(2, &[&what, "hint: run 'laneway init' on the first machine"]);
    }
}

#[test]
fn a_machine_joins_through_the_link_port_and_a_used_code_is_refused_with_a_hint() {
    let (first, _) = Machine::with_group();
    let mut node = first.start("127.0.0.21", &[]);
    let link = node.address("links");
    let code = first.laneway(["invite", "--client-only"]).success().code();

    let second = Machine::new();
    // As people paste it, with the words before the code.
    let output =
        second.laneway(["join", "laneway", "join", &code, "--gateway", &link, "--name", "kiosk"]).success();
    let said = "Joined the group 'lan' as 'kiosk': it is a client only, and never a gateway.";
    assert!(output.stdout.contains(said), "{output}");
    assert_eq!(mode(&second.state()), 0o700);
    let joined = files(&second.state());
    assert!(joined.iter().all(|(name, mode)| *mode == 0o600 && name != "ca.key"), "{joined:?}");
    node.wait_for("member admitted");

    let members = first.laneway(["members", "--offline"]).success().stdout;
    let names: Vec<_> = members.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["NAME", "first", "kiosk"]);

    let third = Machine::new();
    let refused = third.laneway(["join", &code, "--gateway", &link]);
    refused.failed(
        1,
        &[
            "error: this join code has been used up",
            "hint: run 'laneway invite' on the machine with the group's key",
        ],
    );
    assert_eq!(files(&third.state()), []);

    let output = second.laneway(["up", "--role", "gateway"]);
    output.failed(
        2,
        &[
            "error: this node was admitted as a client only",
            "hint: leave out --role gateway; or run 'laneway leave' here",
        ],
    );
}

#[test]
fn a_failed_join_says_where_it_was_tried() {
    let (_, code) = Machine::with_group();
    let machine = Machine::new();
    let gone = std::net::TcpListener::bind("127.0.0.22:0").unwrap().local_addr().unwrap().to_string();
    let output = machine.laneway(["join", &code, "--gateway", &gone]);
    output.failed(
        1,
        &[
            &format!("error: cannot join at {gone}"),
            "caused by: Connection refused",
            "hint: use a code that was made on the machine at that address",
        ],
    );
}

#[test]
fn a_removed_machine_is_listed_as_removed_and_its_codes_are_revoked() {
    let (first, code) = Machine::with_group();
    let mut node = first.start("127.0.0.23", &[]);
    let link = node.address("links");
    let second = Machine::new();
    second.laneway(["join", &code, "--gateway", &link, "--name", "kiosk"]).success();
    let output = first.laneway(["revoke", "kiosk"]).success();
    assert!(output.stdout.starts_with("Removed: kiosk ("), "{output}");
    assert!(output.stdout.contains("The open join code is closed"), "{output}");
    node.wait_for("group update applied removed=1");
    let members = first.laneway(["members", "--offline"]).success().stdout;
    let removed: Vec<_> = members.lines().map(|line| line.ends_with("removed")).collect();
    assert_eq!(removed, [false, false, true], "{members}");

    let third = Machine::new();
    third.laneway(["join", &code, "--gateway", &link]).failed(
        1,
        &["error: this join code was closed when a machine was removed", "hint: run 'laneway invite'"],
    );
    let lan = ["--lan", "127.0.0.23"];
    first
        .laneway([&["revoke", "kiosk"][..], &lan].concat())
        .failed(2, &["error: kiosk (", "hint: a machine that still works"]);
    first
        .laneway([&["revoke", "nobody"][..], &lan].concat())
        .failed(2, &["error: no member is called \"nobody\"", "hint: 'laneway members' lists"]);
    first.laneway(["revoke", "first"]).failed(2, &["error: this machine cannot remove itself", "hint: "]);
}

#[test]
fn a_running_node_applies_a_new_discovery_key_without_a_restart() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.24", &[]);
    machine.laneway(["rotate"]).success();
    node.wait_for("group update applied removed=0");
}

#[test]
fn an_export_is_private_and_never_replaces_a_file() {
    let (first, _) = Machine::with_group();
    let file = first.path("authority");
    let output = first.laneway(["ca", "export", text(&file)]).success();
    assert!(output.stdout.contains("WHOEVER HAS THIS FILE IS THE GROUP'S AUTHORITY"), "{output}");
    assert_eq!(mode(&file), 0o600);
    let before = fs::read(&file).unwrap();
    let what = format!("error: cannot write {}", text(&file));
    first
        .laneway(["ca", "export", text(&file)])
        .failed(1, &[&what, "caused by: File exists", "hint: name a file that does not exist yet"]);
    assert_eq!(fs::read(&file).unwrap(), before);
    for what in ["export", "import"] {
        let lines = ["error: the group's key is exported and imported by a file only", "hint: name a file"];
        first.laneway(["ca", what, "-"]).failed(1, &lines);
    }
}

#[test]
fn the_authority_is_imported_by_an_empty_machine_and_refused_by_another_group() {
    let (first, _) = Machine::with_group();
    let file = first.path("authority");
    first.laneway(["ca", "export", text(&file)]).success();
    let second = Machine::new();
    let output = second.laneway(["ca", "import", text(&file), "--name", "spare"]).success();
    assert!(output.stdout.contains("This machine is now 'spare' in the group 'lan'"), "{output}");
    assert_eq!(output.stderr, "");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = Machine::new().laneway(["ca", "import", text(&file)]).success();
    let shown = text(&file);
    let warning =
        format!("warning: {shown} is open to other users (mode 644), and it contains the group's key");
    assert_eq!(output.stderr, format!("{warning}\nhint: chmod 600 {shown}\n"));
    assert!(files(&second.state()).iter().all(|(_, mode)| *mode == 0o600));
    second.laneway(["invite"]).success();

    // Its key is guarded like any other.
    let key = second.state().join("ca.key");
    fs::set_permissions(&key, fs::Permissions::from_mode(0o640)).unwrap();
    let what = format!("error: {} is open to other users (mode 640)", text(&key));
    for command in [&["up"][..], &["invite"], &["revoke", "x"]] {
        second.laneway(command).failed(2, &[&what, &format!("hint: chmod 600 {}", text(&key))]);
    }

    let (other, _) = Machine::with_group();
    let what = "error: the file belongs to the group \"lan\", and this machine is in another group, \"lan\"";
    other.laneway(["ca", "import", text(&file)]).failed(2, &[what, "hint: import it on a member"]);
    fs::write(&file, "nonsense").unwrap();
    second
        .laneway(["ca", "import", text(&file)])
        .failed(2, &["error: the file was not written by 'laneway ca export'"]);
}

#[test]
fn guesses_slow_nobody_who_has_the_code_and_lock_nothing() {
    let (first, _) = Machine::with_group();
    let mut node = first.start("127.0.0.25", &[]);
    let link = node.address("links");
    let code = first.laneway(["invite"]).success().code();
    let guess = with_another_secret(&code);
    let wrong = ["error: the proof of this join code is wrong", "hint: copy the line again"];
    std::thread::scope(|scope| {
        for _ in 0..12 {
            scope.spawn(|| {
                let guesser = Machine::new();
                guesser.laneway(["join", &guess, "--gateway", &link]).failed(1, &wrong);
                assert_eq!(files(&guesser.state()), []);
            });
        }
    });
    // From the same address that has guessed, and with the code that was guessed at.
    let output = Machine::new().laneway(["join", &code, "--gateway", &link]).success();
    assert!(output.stdout.contains("Joined the group 'lan'"), "{output}");
}

#[test]
fn a_code_is_read_from_standard_input() {
    let (first, _) = Machine::with_group();
    let mut node = first.start("127.0.0.26", &[]);
    let link = node.address("links");
    let printed = first.laneway(["invite"]).success().stdout;
    assert!(printed.contains("\n# The code is good for one machine, for 24 hours.\n"), "{printed}");
    let second = Machine::new();
    let line = second.path("line");
    fs::write(&line, printed).unwrap();
    let mut command = second.command(["join", "-", "--gateway", &link, "--name", "kiosk"]);
    let output = Output::of(command.stdin(fs::File::open(&line).unwrap())).success();
    assert!(output.stdout.contains("Joined the group 'lan' as 'kiosk'"), "{output}");

    let third = Machine::new();
    third.laneway(["join", "-"]).failed(2, &["error: this is not a join code"]);
}

#[test]
fn a_name_of_another_member_is_refused_with_what_to_do_and_a_host_name_gets_a_number() {
    let (first, code) = Machine::with_group();
    let mut node = first.start("127.0.0.27", &[]);
    let link = node.address("links");
    let refused = Machine::new().laneway(["join", &code, "--gateway", &link, "--name", "First"]);
    refused.failed(
        1,
        &["error: the name First is taken by the member", "hint: choose another name with --name"],
    );
    assert!(refused.stderr.contains("run 'laneway revoke "), "{refused}");
    let refused = Machine::new().laneway(["join", &code, "--gateway", &link, "--name", "a b"]);
    refused.failed(1, &["error: a machine's name has 1 to 48 letters", "hint: choose a name with --name"]);
    Machine::new().laneway(["init", "--name", "a b"]).failed(2, &["error: a machine's name has 1 to 48"]);
    first.laneway(["invite", "--name", "first"]).failed(2, &["error: the name first is taken by the member"]);

    let second = Machine::new();
    second.laneway(["join", &code, "--gateway", &link]).success();
    let third = Machine::new().laneway(["join", &code, "--gateway", &link]).success();
    assert!(third.stdout.contains("Another member already has the name '"), "{third}");
}

#[test]
fn init_says_for_how_many_machines_and_for_how_long_the_code_is_good() {
    let output = Machine::new().laneway(["init", "--ttl", "2d"]).success();
    assert!(output.stdout.contains("The code is good for any number of machines, for 2 days."), "{output}");
    let (first, _) = Machine::with_group();
    let output = first.laneway(["invite", "--client-only", "--uses", "3", "--ttl", "never"]).success();
    let said = "# The code is good for 3 machines, as a client only, until a member is removed.";
    assert!(output.stdout.contains(said), "{output}");
    let output = first.laneway(["invite", "--name", "kiosk"]).success();
    let said = "# The code is good for one machine, under the name 'kiosk', for 24 hours.";
    assert!(output.stdout.contains(said), "{output}");
}

/// The same code with another secret in it, and the right checksum.
fn with_another_secret(code: &str) -> String {
    use laneway::trust::code::JoinCode;
    let code: JoinCode = code.parse().unwrap();
    JoinCode { secret: [0; 16], ..code }.to_string()
}

#[test]
fn the_only_copy_of_the_groups_key_is_not_deleted_by_accident() {
    let (machine, _) = Machine::with_group();
    let leave = |more: &[&str]| machine.laneway([&["leave", "--yes", "--lan", "127.0.0.43"], more].concat());
    leave(&[]).failed(
        2,
        &[
            "error: this machine holds the only copy of the group's key",
            "caused by: without it nobody can admit",
            "hint: 'laneway ca export FILE' here",
        ],
    );
    machine.laneway(["ca", "export", text(&machine.path("backup"))]).success();
    // Exported, but there is nobody to tell of the departure.
    leave(&[]).failed(
        1,
        &["error: no gateway of the group can be told", "hint: start one, or name it with --gateway"],
    );
    assert!(machine.state().join("ca.key").exists() && !machine.state().join("leaving").exists());
    let output = leave(&["--force"]).success();
    assert!(output.stdout.contains("Nobody was told: run 'laneway revoke first'"), "{output}");
    assert!(!machine.state().exists(), "nothing is left of the membership");
    machine.laneway(["leave", "--yes"]).failed(2, &["error: this machine is in no group"]);
    // The backup brings the group back.
    let output =
        machine.laneway(["ca", "import", text(&machine.path("backup")), "--name", "again"]).success();
    let option = format!("--state {}", text(&machine.state()));
    for words in [
        format!("'laneway up {option}'"),
        format!("'laneway invite {option}'"),
        format!("'laneway revoke NAME {option}' removes it"),
    ] {
        assert!(output.stdout.contains(&words), "{words}: {output}");
    }
    let output =
        machine.laneway(["ca", "import", text(&machine.path("backup")), "--name", "other"]).success();
    let words = "It keeps its name, and nothing is called 'other'";
    assert!(
        output.stdout.contains("This machine, 'again', now holds") && output.stdout.contains(words),
        "{output}"
    );
    let members = machine.laneway(["members", "--offline"]).success().stdout;
    assert!(members.contains("first ") && members.contains("again "), "{members}");
}

/// Another member, made by an import, so that it holds the group's key.
fn importer(first: &Machine, name: &str) -> Machine {
    let (file, other) = (first.path(name), Machine::new());
    first.laneway(["ca", "export", text(&file)]).success();
    other.laneway(["ca", "import", text(&file), "--name", name]).success();
    // Each has its own list of members: the first machine learns of the other one by its export.
    let back = other.path("back");
    other.laneway(["ca", "export", text(&back)]).success();
    first.laneway(["ca", "import", text(&back)]).success();
    fs::remove_file(other.state().join("exported")).unwrap();
    other
}

#[test]
fn a_machine_that_imported_the_key_is_not_told_that_it_has_the_only_copy() {
    let (first, _) = Machine::with_group();
    let spare = importer(&first, "spare");
    let output = spare.laneway(["leave", "--yes", "--lan", "127.0.0.43"]);
    output.failed(
        2,
        &[
            "error: this machine holds the group's key, which was imported here",
            "caused by: it cannot tell whether the machine that exported the key still has it",
            "hint: if 'laneway members' works on another machine",
        ],
    );
    assert!(!output.stderr.contains("only copy"), "{output}");
}

#[test]
fn revoke_says_that_a_machine_with_the_groups_key_keeps_its_copy() {
    let (first, code) = Machine::with_group();
    let mut node = first.start("127.0.0.45", &[]);
    let (link, kiosk) = (node.address("links"), Machine::new());
    kiosk.laneway(["join", &code, "--gateway", &link, "--name", "kiosk"]).success();
    let said = first.laneway(["revoke", "kiosk"]).success().stdout;
    assert!(!said.contains("key"), "no other machine has had it: {said}");
    let code = first.laneway(["invite"]).success().code();
    Machine::new().laneway(["join", &code, "--gateway", &link, "--name", "desk"]).success();
    let spare = importer(&first, "spare");
    // Which members have imported the key since, nobody knows.
    let said = first.laneway(["revoke", "desk"]).success().stdout;
    let short = "If a removed machine has a copy of the group's key, only a new group keeps it out.";
    assert!(said.ends_with(&format!("{short}\n")) && !said.contains("WARNING"), "{said}");
    let said = first.laneway(["revoke", "spare"]).success().stdout;
    for words in [
        "WARNING: spare had the group's key",
        "does not take its copy",
        "laneway leave --force --yes",
        "epoch",
    ] {
        assert_eq!(said.contains(words), words != "epoch", "{words}: {said}");
    }
    // As the warning says.
    let code = {
        first.laneway(["leave", "--force", "--yes", "--lan", "127.0.0.43"]).success();
        first.laneway(["init"]).success().code()
    };
    spare.laneway(["leave", "--force", "--yes", "--lan", "127.0.0.43"]).success();
    drop(node);
    let link = first.start("127.0.0.46", &[]).address("links");
    assert!(link.starts_with("127.0.0.46"), "{code}");
}

#[test]
fn a_removed_machine_leaves_although_no_gateway_accepts_it() {
    let (first, _) = Machine::with_group();
    let spare = importer(&first, "spare");
    first.laneway(["revoke", "spare"]).success();
    let file = first.path("again");
    first.laneway(["ca", "export", text(&file)]).success();
    // Now the spare machine knows, and its copy of the key is gone.
    spare.laneway(["ca", "import", text(&file)]).success();
    fs::remove_file(spare.state().join("ca.key")).unwrap();
    let output = spare.laneway(["leave", "--yes", "--lan", "127.0.0.43"]).success();
    assert!(
        output.stdout.contains("had been removed from the group 'lan' before. Its keys are deleted."),
        "{output}"
    );
    assert!(!spare.state().exists(), "nothing is left of the membership");
}

#[test]
fn commands_of_the_authority_name_the_machine_that_can_run_them() {
    let (first, _) = Machine::with_group();
    let member = importer(&first, "member");
    fs::remove_file(member.state().join("ca.key")).unwrap();
    let file = member.path("file");
    for command in
        [&["members"][..], &["invite"], &["revoke", "first"], &["rotate"], &["ca", "export", text(&file)]]
    {
        let output = member.laneway(command);
        output.failed(
            2,
            &[
                "error: this machine does not hold the key of the group 'lan'",
                "hint: run this on the machine where 'laneway init' was run, or on one that imported the key",
            ],
        );
    }
    // With a copy of the key another member can.
    first.laneway(["revoke", "first"]).failed(
        2,
        &[
            "error: this machine cannot remove itself",
            "hint: copy the key: 'laneway ca export FILE' here, 'laneway ca import FILE' on another member",
        ],
    );
    first.laneway(["ca", "export", text(&file)]).success();
    member.laneway(["ca", "import", text(&file)]).success();
    member.laneway(["revoke", "first"]).success();
}

#[test]
fn a_key_that_is_imported_beside_a_running_client_lets_machines_join_there_at_once() {
    let (first, _) = Machine::with_group();
    let member = importer(&first, "member");
    fs::remove_file(member.state().join("ca.key")).unwrap();
    let mut node = member.start("127.0.0.47", &["--role", "client"]);
    let file = first.path("backup");
    first.laneway(["ca", "export", text(&file)]).success();
    member.laneway(["ca", "import", text(&file)]).success();
    node.wait_for("this machine holds the group's key now");
    let line = node.wait_for("listening: machines that join, TCP");
    let link = line.split("address=").nth(1).unwrap().split_whitespace().next().unwrap().to_owned();
    let code = member.laneway(["invite"]).success().code();
    let third = Machine::new();
    third.laneway(["join", &code, "--gateway", &link, "--name", "third"]).success();
}

#[test]
fn drain_without_a_running_node_counts_for_the_next_one() {
    let (machine, _) = Machine::with_group();
    let output = machine.laneway(["drain"]).success();
    assert!(output.stdout.contains("No node runs here. The next one serves no clients"), "{output}");
    let mut node = machine.start("127.0.0.44", &["--role", "gateway"]);
    let proxy = node.address("local proxy");
    let status = machine.laneway(["status", "--proxy", &proxy]).success().stdout;
    assert!(status.contains("in maintenance ('laneway drain --undo' ends it)"), "{status}");
    let output = machine.laneway(["drain", "--undo", "--proxy", &proxy]).success();
    assert_eq!(output.stdout, "This node may be a gateway again.\n");
    node.wait_for("state=\"active\"");
    let again = machine.laneway(["drain", "--undo", "--proxy", &proxy]).success();
    assert_eq!(again.stdout, "This node was not in maintenance.\n");
    Machine::new().laneway(["drain"]).failed(2, &["error: this machine is in no group"]);
}

#[test]
fn a_member_that_linked_shortly_before_an_orderly_stop_has_been_seen() {
    let (first, code) = Machine::with_group();
    let mut gateway = first.start("127.0.0.56", &["--role", "gateway", "--probe", "none"]);
    let (link, kiosk) = (gateway.address("links"), Machine::new());
    kiosk.laneway(["join", &code, "--gateway", &link, "--name", "kiosk"]).success();
    let mut node = kiosk.start("127.0.0.57", &["--role", "client", "--gateway", &link]);
    node.wait_for("link up");
    gateway.signal(Signal::SIGTERM);
    assert!(gateway.wait().success());
    let listed = first.laneway(["members", "--offline", "--json"]).success().stdout;
    let rows: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let row = rows.as_array().unwrap().iter().find(|row| row["name"] == "kiosk").unwrap();
    assert!(row["last_seen"].is_u64(), "{listed}");
}

#[test]
fn a_machine_that_joined_after_the_backup_is_listed_and_removed_by_its_name() {
    let (first, code) = Machine::with_group();
    let (backup, kiosk, old_id) = {
        let mut node = first.start("127.0.0.58", &["--role", "gateway"]);
        let link = node.address("links");
        let old = Machine::new();
        old.laneway(["join", &code, "--gateway", &link, "--name", "kiosk"]).success();
        let said = first.laneway(["revoke", "kiosk"]).success().stdout;
        let (_, id) = said.split_once("Removed: kiosk (").unwrap();
        let old_id = id[..8].to_owned();
        let backup = first.path("backup");
        first.laneway(["ca", "export", text(&backup)]).success();
        let code = first.laneway(["invite", "--client-only"]).success().code();
        let kiosk = Machine::new();
        kiosk.laneway(["join", &code, "--gateway", &link, "--name", "kiosk"]).success();
        (backup, kiosk, old_id)
    };
    // The first machine is dead.
    let spare = Machine::new();
    spare.laneway(["ca", "import", text(&backup), "--name", "spare"]).success();
    let mut gateway = spare.start("127.0.0.59", &["--role", "gateway"]);
    let link = gateway.address("links");
    let mut node = kiosk.start("127.0.0.60", &["--role", "client", "--gateway", &link]);
    node.wait_for("link up");

    let lan = ["--lan", "127.0.0.59"];
    let of_old = spare.laneway([&["revoke", &old_id][..], &lan].concat());
    of_old.failed(
        2,
        &[
            &format!("error: kiosk ({old_id}) has been removed already"),
            "hint: another machine that is called kiosk is a member: 'laneway revoke ",
        ],
    );
    let listed = spare.laneway([&["members"][..], &lan].concat()).success().stdout;
    let line = listed.lines().find(|line| line.starts_with("kiosk ") && line.ends_with(" unlisted"));
    let id = line.unwrap_or_else(|| panic!("{listed}")).split_whitespace().nth(1).unwrap();
    assert!(id != old_id && listed.contains("'laneway revoke ID' removes it"), "{listed}");
    let removed = spare.laneway([&["revoke", "kiosk"][..], &lan].concat()).success().stdout;
    assert!(removed.starts_with(&format!("Removed: kiosk ({id}")), "{removed}");
    node.wait_for("this machine was removed from the group");
    let again = spare.laneway([&["revoke", id][..], &lan].concat());
    again.failed(2, &[&format!("error: kiosk ({id}) has been removed already")]);
}
