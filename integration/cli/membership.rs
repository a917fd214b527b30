//! Making a group and entering one: the files, and every way in which it is refused.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::machine::{Machine, text};

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
fn init_leaves_files_for_their_owner_alone_and_prints_the_line_for_the_others() {
    let machine = Machine::new();
    let output = machine.laneway(["init", "--group", "office", "--name", "first"]).success();
    assert!(output.stdout.contains("The group 'office' is made; this machine is 'first'."), "{output}");
    assert!(output.stdout.contains(&format!("    laneway join {}\n", output.code())), "{output}");
    assert_eq!(output.stderr, "");
    assert_eq!(mode(&machine.state()), 0o700);
    let files = files(&machine.state());
    assert!(files.iter().any(|(name, _)| name == "ca.key"), "{files:?}");
    assert!(files.iter().all(|(_, mode)| *mode == 0o600), "{files:?}");
}

#[test]
fn a_machine_in_no_group_is_told_how_to_get_into_one() {
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
    let hint = format!("hint: to leave it, stop laneway and move {} away", text(&machine.state()));
    for command in [&["init", "--group", "other"][..], &["join", &code]] {
        machine.laneway(command).failed(2, &["error: this machine is already in the group \"lan\"", &hint]);
    }
    assert_eq!(fs::read(machine.state().join("group.json")).unwrap(), before);
}

#[test]
fn a_state_directory_that_others_can_read_is_refused_with_the_command_that_helps() {
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
    machine.laneway(["up"]).failed(1, &[&what, "caused by: it is not the PEM text it should be", &hint]);
    fs::remove_file(&certificate).unwrap();
    machine.laneway(["up"]).failed(1, &[&format!("error: {} is missing", text(&certificate)), &hint]);
}

#[test]
fn a_code_that_is_none_is_refused_before_anything_is_sent() {
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
    for command in ["invite", "members"] {
        let what = format!("error: {} does not hold a group's authority", text(&machine.state()));
        machine
            .laneway([command])
            .failed(2, &[&what, "hint: do this on the machine where 'laneway init' was done"]);
    }
}

#[test]
fn a_machine_joins_by_the_link_port_and_a_used_up_code_is_refused_with_the_way_to_a_new_one() {
    let (first, _) = Machine::with_group();
    let mut node = first.start("127.0.0.21", &[]);
    let link = node.address("links");
    let code = first.laneway(["invite", "--client-only"]).success().code();

    let second = Machine::new();
    // As people paste it, with the words before the code.
    let output =
        second.laneway(["join", "laneway", "join", &code, "--gateway", &link, "--name", "kiosk"]).success();
    assert!(output.stdout.contains("Joined the group 'lan' as 'kiosk', a client."), "{output}");
    assert_eq!(mode(&second.state()), 0o700);
    let joined = files(&second.state());
    assert!(joined.iter().all(|(name, mode)| *mode == 0o600 && name != "ca.key"), "{joined:?}");
    node.wait_for("member admitted");

    let members = first.laneway(["members"]).success().stdout;
    let names: Vec<_> = members.lines().filter_map(|line| line.split_whitespace().next()).collect();
    assert_eq!(names, ["NAME", "first", "kiosk"]);

    let third = Machine::new();
    let refused = third.laneway(["join", &code, "--gateway", &link]);
    refused.failed(
        1,
        &["error: this join code has been used up", "hint: run 'laneway invite' on the machine that"],
    );
    assert_eq!(files(&third.state()), []);

    let output = second.laneway(["up", "--role", "gateway"]);
    output.failed(2, &["error: this node was admitted as a client only", "hint: join again with a code"]);
}

#[test]
fn nobody_to_join_at_says_where_it_was_tried() {
    let (_, code) = Machine::with_group();
    let machine = Machine::new();
    let gone = std::net::TcpListener::bind("127.0.0.22:0").unwrap().local_addr().unwrap().to_string();
    let output = machine.laneway(["join", &code, "--gateway", &gone]);
    output.failed(
        1,
        &[
            &format!("error: cannot join at {gone}"),
            "caused by: Connection refused",
            "hint: is this the machine",
        ],
    );
}
