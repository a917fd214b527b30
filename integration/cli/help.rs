//! The output of `--help` and `--version`, and the errors of a wrong command line.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::machine::{Machine, Output};

/// Every command that has a help text, including hidden ones.
const COMMANDS: [&str; 25] = [
    "up",
    "status",
    "top",
    "env",
    "run",
    "apt-proxy",
    "init",
    "invite",
    "join",
    "members",
    "leave",
    "revoke",
    "rotate",
    "ca",
    "cache",
    "transparent",
    "discover",
    "doctor",
    "drain",
    "service",
    "speedtest",
    "demo",
    "completions",
    "man",
    "origin",
];

/// Without environment variables, which the help would print, and at a fixed width.
fn laneway(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_laneway"));
    command.args(arguments).env_clear().env("NO_COLOR", "1").env("COLUMNS", "100").stdin(Stdio::null());
    Output::of(&mut command)
}

/// What a script keeps was incomplete, and the exit code was 0.
#[test]
fn output_that_cannot_be_written_is_an_error_and_a_closed_pipe_is_none() {
    let machine = Machine::new();
    let lines = [
        "error: standard output does not take what was printed",
        "caused by: No space left on device (os error 28)",
        "hint: let it go to a terminal",
    ];
    for arguments in [
        &["--version"][..],
        &["--help"],
        &["up", "--help"],
        &["completions", "bash"],
        &["man"],
        &["env", "--no-check"],
        &["apt-proxy"],
        &["init"],
        &["members", "--offline", "--json"],
    ] {
        let full = std::fs::File::options().write(true).open("/dev/full").unwrap();
        let output = machine.command(arguments).stdout(full).stderr(Stdio::piped()).spawn().unwrap();
        let output = Output::ended(output.wait_with_output().unwrap());
        output.failed(1, &lines);

        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = machine.command(arguments).stdout(writer).stderr(Stdio::piped()).spawn().unwrap();
        let output = Output::ended(output.wait_with_output().unwrap());
        let again = if arguments == ["init"] { (Some(2), true) } else { (Some(0), false) };
        assert_eq!((output.code, !output.stderr.is_empty()), again, "{arguments:?}: {output}");
    }
}

#[track_caller]
fn compare(name: &str, printed: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/cli/help").join(format!("{name}.txt"));
    if std::env::var_os("LANEWAY_UPDATE_SNAPSHOTS").is_some() {
        std::fs::write(&path, printed).unwrap();
    }
    let kept = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        kept == printed,
        "the help of '{name}' has changed; if that is meant, run the tests with LANEWAY_UPDATE_SNAPSHOTS=1\n\
         --- kept\n{kept}\n--- printed\n{printed}"
    );
}

#[test]
fn the_help_of_every_command_is_the_one_that_was_reviewed() {
    compare("laneway", &laneway(&["--help"]).success().stdout);
    for command in COMMANDS {
        compare(command, &laneway(&[command, "--help"]).success().stdout);
    }
    for command in ["ls", "rm", "verify"] {
        compare(&format!("cache-{command}"), &laneway(&["cache", command, "--help"]).success().stdout);
    }
    for command in ["export", "import"] {
        compare(&format!("ca-{command}"), &laneway(&["ca", command, "--help"]).success().stdout);
    }
    for command in ["install", "remove", "start", "stop", "status"] {
        let help = laneway(&["service", command, "--help"]);
        compare(&format!("service-{command}"), &help.success().stdout);
    }
    for command in ["up", "down", "show"] {
        let help = laneway(&["transparent", command, "--help"]);
        compare(&format!("transparent-{command}"), &help.success().stdout);
    }
}

#[test]
fn every_command_that_the_help_lists_has_a_reviewed_help() {
    let help = laneway(&["--help"]).success().stdout;
    let listed =
        help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names: Vec<_> = listed
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert!(names.len() > 5, "{help}");
    for name in names {
        assert!(name == "help" || COMMANDS.contains(&name), "'{name}' has no snapshot");
    }
}

#[test]
fn the_version_is_that_of_the_package() {
    for flag in ["--version", "-V"] {
        assert_eq!(laneway(&[flag]).success().stdout, format!("laneway {}\n", env!("CARGO_PKG_VERSION")));
    }
}

#[test]
fn a_wrong_command_line_is_a_usage_error_on_standard_error() {
    for (arguments, expected) in [
        (&["upp"][..], "upp"),
        (&["up", "--no-such-flag"], "--no-such-flag"),
        (&["up", "--role", "king"], "king"),
        (&["up", "--server", "nowhere"], "nowhere"),
        (&["up", "--hold=-1"], "--hold"),
        (&["up", "--active", "0"], "--active"),
        (&["invite", "--uses", "0"], "any"),
        (&["invite", "--ttl", "soon"], "never"),
        (&["join"], "CODE"),
    ] {
        let output = laneway(arguments);
        assert_eq!(output.code, Some(2), "{arguments:?}: {output}");
        assert_eq!(output.stdout, "", "{arguments:?}");
        assert!(
            output.stderr.contains("error:") && output.stderr.contains(expected),
            "{arguments:?}: {output}"
        );
    }
}

#[test]
fn no_command_shows_the_help() {
    let output = laneway(&[]);
    assert_eq!(output.code, Some(2), "{output}");
    assert!(output.stderr.contains("Usage: laneway") && output.stderr.contains("Commands:"), "{output}");
}
