//! `laneway env`, `laneway run` and `laneway apt-proxy`: the variables that software gets, as real shells read them.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::machine::{Machine, Output};

const NAMES: [&str; 7] =
    ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "no_proxy", "NO_PROXY", "NODE_USE_ENV_PROXY"];

/// The variables that a shell has after it has evaluated `laneway env`; `None` when the shell is not installed.
fn shell(program: &str, arguments: &[&str], input: &str) -> Option<String> {
    let mut command = Command::new(program);
    command.args(arguments).arg(input).stdin(Stdio::null()).env("no_proxy", "before");
    match command.output() {
        Ok(output) => Some(String::from_utf8(output.stdout).unwrap()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => panic!("{program}: {error}"),
    }
}

#[test]
fn a_shell_gets_the_variables_and_unsets_them_again() {
    let machine = Machine::new();
    let said = |options: &[&str]| {
        let arguments = [&["env", "--proxy", "127.0.0.1:3128"], options].concat();
        machine.laneway(arguments).success().stdout
    };
    for (program, arguments, options) in [
        ("sh", &["-c"][..], &[][..]),
        ("bash", &["-c"], &[]),
        ("zsh", &["-c"], &[]),
        ("fish", &["--no-config", "-c"], &["--shell", "fish"]),
        ("pwsh", &["-NoProfile", "-Command"], &["--shell", "powershell"]),
    ] {
        let set = said(&[options, &["--socks"]].concat());
        let show =
            if program == "pwsh" { "Get-ChildItem Env: | % { $_.Name + '=' + $_.Value }" } else { "env" };
        let Some(shown) = shell(program, arguments, &format!("{set}\n{show}")) else {
            eprintln!("{program} is not installed: skipped");
            continue;
        };
        for line in [
            "http_proxy=http://127.0.0.1:3128",
            "HTTPS_PROXY=http://127.0.0.1:3128",
            "no_proxy=localhost,127.0.0.1,::1",
            "NODE_USE_ENV_PROXY=1",
            "ALL_PROXY=socks5h://127.0.0.1:3128",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{program}: no {line} in {shown}");
        }
        let unset = said(&[options, &["--unset"]].concat());
        let shown = shell(program, arguments, &format!("{set}\n{unset}\n{show}")).unwrap();
        for name in NAMES.iter().chain(&["ALL_PROXY", "all_proxy"]) {
            let left = shown.lines().find(|line| line.starts_with(&format!("{name}=")));
            assert_eq!(left, None, "{program}");
        }
    }
    assert!(!said(&[]).contains("ALL_PROXY"), "SOCKS only when it is asked for");
}

#[test]
fn the_address_is_that_of_the_configuration_or_of_the_hosts_name_for_containers() {
    let machine = Machine::new();
    let said = |arguments: &[&str]| machine.laneway(arguments).success().stdout;
    assert!(said(&["env"]).contains("http_proxy='http://127.0.0.1:1080'"));
    machine.configure("proxy = '127.0.0.1:3129'");
    assert!(said(&["env"]).contains("http_proxy='http://127.0.0.1:3129'"));
    let docker = said(&["env", "--docker"]);
    assert!(docker.starts_with("--add-host=host.docker.internal:host-gateway --env http_proxy="), "{docker}");
    assert!(docker.contains("HTTPS_PROXY=http://host.docker.internal:3129"), "{docker}");
    machine.configure("proxy = '0.0.0.0:3130'\nproxy-open-to-lan = true");
    assert!(said(&["env"]).contains("http_proxy='http://127.0.0.1:3130'"), "where it is reached from here");
}

#[test]
fn a_command_gets_the_variables_and_its_exit_code_is_passed_on() {
    let machine = Machine::new();
    let mut command = Command::new(env!("CARGO_BIN_EXE_laneway"));
    command.args([
        "run",
        "--proxy",
        "127.0.0.1:3128",
        "--",
        "sh",
        "-c",
        "echo $http_proxy $1; exit 7",
        "sh",
        "--json",
    ]);
    let output = Output::of(command.env("HOME", machine.state()).stdin(Stdio::null()));
    assert_eq!(output.stdout, "http://127.0.0.1:3128 --json\n", "{output}");
    assert_eq!(output.code, Some(7));
    let mut command = Command::new(env!("CARGO_BIN_EXE_laneway"));
    let output = Output::of(command.args(["run", "--proxy", "127.0.0.1:3128", "no-such-program"]));
    output.failed(127, &["error: 'no-such-program' cannot be run", "caused by: "]);
    let mut command = Command::new(env!("CARGO_BIN_EXE_laneway"));
    let output = Output::of(command.args(["run", "--proxy", "127.0.0.1:3128", "/"]));
    output.failed(126, &["error: '/' cannot be run", "caused by: "]);
}

#[test]
fn a_signal_reaches_the_command_itself() {
    use std::os::unix::process::ExitStatusExt;
    let mut command = Command::new(env!("CARGO_BIN_EXE_laneway"));
    command.args(["run", "--proxy", "127.0.0.1:3128", "--", "sh", "-c", "echo ready; exec sleep 600"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM)
        .unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn apt_gets_the_proxy_only_while_a_node_runs() {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.42", &["--role", "gateway"]);
    let proxy = node.address("local proxy");
    let asked = || machine.laneway(["apt-proxy", "--proxy", &proxy, "http://deb.example/"]).success().stdout;
    assert_eq!(asked(), format!("http://{proxy}\n"));
    node.signal(Signal::SIGKILL);
    node.wait();
    assert_eq!(asked(), "DIRECT\n");
}

#[test]
fn completions_are_those_of_the_shell_and_manual_pages_of_every_command() {
    let machine = Machine::new();
    for (shell, word) in
        [("bash", "complete -F"), ("fish", "complete -c laneway"), ("zsh", "#compdef laneway")]
    {
        let script = machine.laneway(["completions", shell]).success().stdout;
        assert!(script.contains(word) && script.contains("apt-proxy"), "{shell}");
    }
    let page = machine.laneway(["man"]).success().stdout;
    assert!(page.contains(".TH laneway 1") && page.contains(".SH SUBCOMMANDS"), "{page}");
    assert!(machine.laneway(["man", "up"]).success().stdout.contains("\\-\\-server"));
    machine.laneway(["man", "upp"]).failed(2, &["error: there is no command 'upp'", "hint: "]);
    let pages = machine.path("man");
    machine.laneway(["man", "--out", pages.to_str().unwrap()]).success();
    for name in ["laneway.1", "laneway-up.1", "laneway-status.1"] {
        assert!(pages.join(name).exists(), "{name}");
    }
}
