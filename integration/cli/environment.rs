//! `laneway env`, `laneway run` and `laneway apt-proxy`: the variables that software gets, as real shells read them.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::machine::{Machine, Output};

/// A shell, its arguments before the code, and the options of `laneway env` for it.
type Shell = (&'static str, &'static [&'static str], &'static [&'static str]);

const SHELLS: [Shell; 8] = [
    ("sh", &["-euc"], &[]),
    ("dash", &["-euc"], &[]),
    ("bash", &["-euc"], &[]),
    ("zsh", &["-fuc"], &[]),
    ("fish", &["--no-config", "-c"], &["--shell", "fish"]),
    ("tcsh", &["-fec"], &["--shell", "csh"]),
    ("bsd-csh", &["-fec"], &["--shell", "csh"]),
    ("pwsh", &["-NoProfile", "-Command"], &["--shell", "powershell"]),
];

/// The exceptions that `laneway env` adds.
const OWN: &str = "localhost,127.0.0.1,::1";

/// The variables that a shell has, sorted, after it has evaluated `code` with the variables `before`; `None` when the
/// shell is not installed. Without those that shells make themselves.
fn variables(shell: &Shell, before: &[(&str, &str)], code: &[&str]) -> Option<Vec<String>> {
    let (program, arguments, _) = shell;
    let show = if *program == "pwsh" { "Get-ChildItem Env: | % { $_.Name + '=' + $_.Value }" } else { "env" };
    let mut command = Command::new(program);
    command.args(*arguments).arg([code, &[show]].concat().join("\n")).stdin(Stdio::null());
    command.env_clear().env("PATH", std::env::var("PATH").unwrap()).env("HOME", "/nonexistent");
    command.envs(before.iter().copied());
    let output = match command.output() {
        Ok(output) => output,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("{program} is not installed: skipped");
            return None;
        }
        Err(error) => panic!("{program}: {error}"),
    };
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
    let shown = String::from_utf8(output.stdout).unwrap();
    let interesting =
        |line: &&str| line.to_lowercase().contains("proxy") && !line.starts_with("LANEWAY_OLD_");
    let mut lines: Vec<_> = shown.lines().filter(interesting).map(str::to_owned).collect();
    lines.sort_unstable();
    Some(lines)
}

fn code(machine: &Machine, shell: &Shell, options: &[&str]) -> String {
    let arguments = [&["env", "--no-check", "--proxy", "127.0.0.1:3128"], shell.2, options].concat();
    machine.laneway(arguments).success().stdout
}

#[test]
fn a_shell_gets_the_variables() {
    let machine = Machine::new();
    for shell in SHELLS {
        let set = code(&machine, &shell, &["--socks"]);
        let Some(shown) = variables(&shell, &[], &[&set]) else { continue };
        let mut expected: Vec<_> = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"]
            .map(|name| format!("{name}=http://127.0.0.1:3128"))
            .into();
        expected.extend(["all_proxy", "ALL_PROXY"].map(|name| format!("{name}=socks5h://127.0.0.1:3128")));
        expected.extend(["no_proxy", "NO_PROXY"].map(|name| format!("{name}={OWN}")));
        expected.push("NODE_USE_ENV_PROXY=1".into());
        expected.sort_unstable();
        assert_eq!(shown, expected, "{}", shell.0);
        assert!(!code(&machine, &shell, &[]).contains("ALL_PROXY"), "SOCKS only when it is asked for");
    }
}

#[test]
fn the_users_own_variables_are_kept_and_come_back() {
    let machine = Machine::new();
    let theirs: &[&[(&str, &str)]] = &[
        &[],
        &[("no_proxy", "intranet.example,10.0.0.0/8"), ("NO_PROXY", "other.example")],
        &[("NO_PROXY", "intranet.example")],
        &[("no_proxy", "")],
        &[("no_proxy", "*.example, it's $HOME \\ \"x\"")],
        &[("no_proxy", "*")],
        &[("no_proxy", "intranet.example"), ("NO_PROXY", "*")],
        &[
            ("http_proxy", "http://user:pass@proxy.example:8080"),
            ("ALL_PROXY", "socks5://proxy.example"),
            ("ftp_proxy", "http://ftp.example"),
            ("rsync_proxy", "rsync.example:80"),
            ("npm_config_proxy", "http://npm.example"),
            ("npm_config_noproxy", "npm.example"),
        ],
    ];
    for shell in SHELLS {
        let (set, unset) = (code(&machine, &shell, &["--socks"]), code(&machine, &shell, &["--unset"]));
        for before in theirs {
            let show = |code: &[&str]| variables(&shell, before, code);
            let Some(untouched) = show(&[]) else { break };
            for undone in [&[&set, &unset][..], &[&set, &set, &unset], &[&unset], &[&set, &unset, &unset]] {
                let undone: Vec<_> = undone.iter().map(|code| code.as_str()).collect();
                assert_eq!(show(&undone).unwrap(), untouched, "{} {before:?}", shell.0);
            }
            let once = show(&[&set]).unwrap();
            assert_eq!(show(&[&set, &set]).unwrap(), once, "{} {before:?}", shell.0);
            let value_of =
                |name: &str| before.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
            for (name, other) in [("no_proxy", "NO_PROXY"), ("NO_PROXY", "no_proxy")] {
                let own = value_of(name).filter(|value| !value.is_empty()).or(value_of(other)).unwrap_or("");
                let expected = match own {
                    // With other entries it would mean nothing to curl, git and Python.
                    "*" => format!("{name}=*"),
                    "" => format!("{name}={OWN}"),
                    _ => format!("{name}={own},{OWN}"),
                };
                assert!(once.contains(&expected), "{}: no {expected} in {once:?}", shell.0);
            }
            for kept in ["ftp_proxy", "rsync_proxy", "npm_config_proxy", "npm_config_noproxy"] {
                let line = |all: &[String]| all.iter().find(|line| line.starts_with(kept)).cloned();
                assert_eq!(line(&once), line(&untouched), "{}", shell.0);
            }
        }
    }
}

#[test]
fn a_command_keeps_the_users_exceptions_from_the_proxy() {
    for (before, expected) in [
        (
            &[("no_proxy", "a.example"), ("NO_PROXY", "b.example,127.0.0.1")][..],
            ["a.example,localhost,127.0.0.1,::1", "b.example,127.0.0.1,localhost,::1"],
        ),
        (&[("NO_PROXY", "a.example")], ["a.example,localhost,127.0.0.1,::1"; 2]),
        (&[("no_proxy", "*")], ["*"; 2]),
        (&[("no_proxy", "")], [OWN; 2]),
        (&[], [OWN; 2]),
    ] {
        let mut command =
            run(&["--", "sh", "-c", r#"echo "$no_proxy"; echo "$NO_PROXY"; echo "$ALL_PROXY""#]);
        command
            .stdin(Stdio::null())
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .env("ALL_PROXY", "socks5://other")
            .envs(before.iter().copied());
        let output = Output::of(&mut command);
        assert_eq!(
            output.stdout,
            format!("{}\n{}\nsocks5://other\n", expected[0], expected[1]),
            "{before:?}"
        );
        let warns = before.iter().any(|(_, value)| *value == "*");
        assert_eq!(output.stderr.contains("warning: no_proxy is '*'"), warns, "{}", output.stderr);
    }
}

#[test]
fn the_address_is_that_of_the_configuration_or_of_the_hosts_name_for_containers() {
    let machine = Machine::new();
    let said = |arguments: &[&str]| machine.laneway(arguments).success().stdout;
    let set = ["env", "--no-check"];
    assert!(said(&set).contains("http_proxy='http://127.0.0.1:1080'"));
    machine.configure("proxy = '127.0.0.1:3129'");
    assert!(said(&set).contains("http_proxy='http://127.0.0.1:3129'"));
    machine.configure("proxy = '0.0.0.0:3130'\nproxy-open-to-lan = true");
    assert!(said(&set).contains("http_proxy='http://127.0.0.1:3130'"), "where it is reached from here");
}

#[test]
fn containers_get_options_that_reach_the_node_and_a_warning_where_it_listens_on_loopback_only() {
    let machine = Machine::new();
    let env = |configuration: &str, more: &[&str]| {
        machine.configure(configuration);
        machine.laneway([&["env", "--docker", "--no-check"], more].concat()).success()
    };
    let loopback = env("proxy = '127.0.0.1:3129'", &[]);
    let line = &loopback.stdout;
    assert!(line.starts_with("--network host --env http_proxy=http://127.0.0.1:3129 "), "{loopback}");
    assert_eq!(line.lines().count(), 1, "it is put into a command line");
    for words in [
        "warning: the node listens on 127.0.0.1:3129 only",
        "caused by: a container's loopback is its own",
        "    laneway up --proxy 127.0.0.1:3129,172.",
        "    docker run $(laneway env --docker --proxy 172.",
    ] {
        assert!(loopback.stderr.lines().any(|said| said.starts_with(words)), "no {words:?} in {loopback}");
    }
    let bridge = env("proxy = ['127.0.0.1:3129', '172.17.0.1:3130']\nproxy-open-to-lan = true", &["--socks"]);
    assert!(bridge.stdout.starts_with("--env http_proxy=http://172.17.0.1:3130 "), "{bridge}");
    assert!(bridge.stdout.contains("--env ALL_PROXY=socks5h://172.17.0.1:3130"), "{bridge}");
    assert!(!bridge.stderr.contains("on a bridge"), "{bridge}");
    let every = env("proxy = '0.0.0.0:3130'\nproxy-open-to-lan = true", &[]);
    let start =
        "--add-host=host.docker.internal:host-gateway --env http_proxy=http://host.docker.internal:3130 ";
    assert!(every.stdout.starts_with(start) && !every.stderr.contains("on a bridge"), "{every}");
    let named = env("", &["--proxy", "172.17.0.1:1080"]);
    assert!(named.stdout.starts_with("--env http_proxy=http://172.17.0.1:1080 "), "{named}");
}

/// `laneway run` with a proxy that need not answer.
fn run(command: &[&str]) -> Command {
    let mut run = Command::new(env!("CARGO_BIN_EXE_laneway"));
    run.args(["run", "--no-check", "--proxy", "127.0.0.1:3128"]).args(command);
    run
}

#[test]
fn a_command_gets_the_variables_and_its_exit_code_is_passed_on() {
    let machine = Machine::new();
    let mut command = run(&["--", "sh", "-c", "echo $http_proxy $1; exit 7", "sh", "--json"]);
    let output = Output::of(command.env("HOME", machine.state()).stdin(Stdio::null()));
    assert_eq!(output.stdout, "http://127.0.0.1:3128 --json\n", "{output}");
    assert_eq!(output.code, Some(7));
    let output = Output::of(&mut run(&["no-such-program"]));
    output.failed(127, &["error: 'no-such-program' cannot be run", "caused by: "]);
    let output = Output::of(&mut run(&["/"]));
    output.failed(126, &["error: '/' cannot be run", "caused by: "]);
}

#[test]
fn a_signal_reaches_the_command_itself() {
    use std::os::unix::process::ExitStatusExt;
    let mut command = run(&["--", "sh", "-c", "echo ready; exec sleep 600"]);
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut ready = [0; 6];
    std::io::Read::read_exact(child.stdout.as_mut().unwrap(), &mut ready).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGTERM)
        .unwrap();
    assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGTERM as i32));
}

#[test]
fn commands_find_the_node_of_their_state_directory_wherever_it_listens() {
    let (machine, _) = Machine::with_group();
    machine.configure("proxy = '127.0.0.1:3129'");
    let mut node = machine.start("127.0.0.45", &["--role", "gateway"]);
    let proxy = node.address("local proxy");
    let said = |arguments: &[&str]| machine.laneway(arguments).success();
    assert!(said(&["status"]).stdout.contains(&format!("proxy {proxy} ")));
    let env = said(&["env"]);
    assert!(env.stdout.contains(&format!("http_proxy='http://{proxy}'")) && env.stderr.is_empty(), "{env}");
    assert_eq!(said(&["apt-proxy", "http://deb.example/"]).stdout, format!("http://{proxy}\n"));
    said(&["drain"]);
    let mut run = Command::new(env!("CARGO_BIN_EXE_laneway"));
    run.args(["run", "--state"]).arg(machine.state()).args(["--", "sh", "-c", "echo $http_proxy"]);
    assert_eq!(Output::of(&mut run).success().stdout, format!("http://{proxy}\n"));
    // The addresses of a node that has ended do not count.
    node.signal(Signal::SIGKILL);
    node.wait();
    let nobody = ["error: no node answers on 127.0.0.1:3129", "hint: start it with "];
    for words in [&["env"][..], &["env", "--socks"], &["env", "--docker"], &["env", "--system", "on"]] {
        let env = machine.laneway(words);
        env.failed(1, &nobody);
        assert!(env.stderr.contains("add --no-check"), "{env}");
    }
    assert!(said(&["env", "--no-check"]).stdout.contains("http_proxy='http://127.0.0.1:3129'"));
    assert!(said(&["env", "--unset"]).stdout.contains("unset http_proxy"));
}

/// Software got 407 there, and nothing had said why.
#[test]
fn software_is_pointed_to_a_port_with_logins_by_a_login_and_otherwise_the_user_is_told() {
    let (machine, _) = Machine::with_group();
    let options = ["--role", "gateway", "--proxy-login", "ann:secret", "--front", "npm=https://npm.example/"];
    let mut node = machine.start("127.0.0.52", &options);
    let proxy = node.address("local proxy");
    let (with_login, without) = (format!("http://ann:secret@{proxy}"), format!("http://{proxy}"));
    let warning = format!("warning: the local proxy on {proxy} asks for a login, and none was named");
    let hint = format!("--proxy http://NAME:PASSWORD@{proxy}, or the same in LANEWAY_PROXY");
    for (words, shown) in [
        (&["env"][..], format!("http_proxy='{without}'")),
        (&["env", "--docker"], format!("http_proxy={without} ")),
        (&["apt-proxy"], "DIRECT".to_owned()),
    ] {
        let said = machine.laneway(words).success();
        assert!(said.stdout.contains(&shown), "{said}");
        assert!(said.stderr.contains(&warning) && said.stderr.contains(&hint), "{said}");
        let named = machine.laneway([words, &["--proxy", &with_login]].concat()).success();
        let shown = shown.replace(&without, &with_login).replace("DIRECT", &with_login);
        assert!(named.stdout.contains(&shown) && !named.stderr.contains("login"), "{named}");
    }
    let run = |options: &[&str]| {
        let mut run = Command::new(env!("CARGO_BIN_EXE_laneway"));
        run.args(["run", "--state"]).arg(machine.state()).args(options);
        run.args(["--", "sh", "-c", "echo $http_proxy"]);
        run
    };
    let said = Output::of(&mut run(&[])).success();
    assert!(said.stdout == format!("{without}\n") && said.stderr.contains(&warning), "{said}");
    let said = Output::of(run(&[]).env("LANEWAY_PROXY", &with_login)).success();
    assert_eq!((said.stdout, said.stderr), (format!("{with_login}\n"), String::new()));
    machine.laneway(["env", "--fronts"]).failed(
        1,
        &[
            &format!("error: the fronts of the node on {proxy} serve nobody"),
            "caused by: its local proxy asks",
            "hint: ",
        ],
    );
    let diagnosis = machine.laneway(["doctor"]);
    assert!(diagnosis.stdout.contains("the fronts of this node serve nobody"), "{diagnosis}");
    // A command that needs none takes it, and no password is shown that was not to be printed.
    machine.laneway(["status", "--proxy", &with_login]).success();
    let help = Output::of(machine.command(["env", "--help"]).env("LANEWAY_PROXY", &with_login)).success();
    assert!(help.stdout.contains("LANEWAY_PROXY") && !help.stdout.contains("secret"), "{help}");
    let refused = machine.laneway(["env", "--proxy", "http://ann:secret@localhost"]);
    refused.failed(2, &["error: --proxy does not take this value", "caused by: not an address and a port"]);
    assert!(!refused.stderr.contains("secret"), "{refused}");
}

#[test]
fn a_password_reaches_each_shell_as_a_url_has_it() {
    let machine = Machine::new();
    let login = ["--proxy", "http://ann:it's 100%, $HOME!@127.0.0.1:3128"];
    let expected = "http_proxy=http://ann:it%27s%20100%25%2C%20%24HOME%21@127.0.0.1:3128";
    for shell in SHELLS {
        let set = machine.laneway([&["env", "--no-check"], &login[..], shell.2].concat()).success().stdout;
        let Some(shown) = variables(&shell, &[], &[&set]) else { continue };
        assert!(shown.iter().any(|line| line == expected), "{}: {shown:?}", shell.0);
    }
    let batch =
        machine.laneway([&["env", "--no-check", "--shell", "cmd"], &login[..]].concat()).success().stdout;
    assert!(batch.contains("=http://ann:it%%27s%%20100%%25%%2C%%20%%24HOME%%21@127.0.0.1:3128\""), "{batch}");
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
        // A shell that loads the script would run it.
        assert!(!script.contains('`') && !script.contains("$(laneway"), "{shell}: {script}");
        assert!(
            script.contains(if shell == "bash" { "sh fish csh" } else { "sh, bash, zsh, dash" }),
            "{shell}"
        );
    }
    let page = machine.laneway(["man"]).success().stdout;
    assert!(page.contains(".TH laneway 1") && page.contains(".SH SUBCOMMANDS"), "{page}");
    assert!(machine.laneway(["man", "up"]).success().stdout.contains("\\-\\-server"));
    for page in ["laneway", "laneway-drain", "laneway-ca-export"] {
        let path = machine.path("pages");
        machine.laneway(["man", "--out", path.to_str().unwrap()]).success();
        let text = std::fs::read_to_string(path.join(format!("{page}.1"))).unwrap();
        for section in [".SH EXAMPLES", ".SH FILES"] {
            assert!(text.contains(section), "no {section} in {page}");
        }
        assert!(text.contains("/var/lib/laneway"), "{page}");
        let title = format!(".TH {page} 1 \" \" \"laneway {}\"", env!("CARGO_PKG_VERSION"));
        assert!(text.contains(&title), "no {title}");
    }
    machine.laneway(["man", "upp"]).failed(2, &["caused by: there is no command 'upp'", "hint: "]);
    let pages = machine.path("man");
    machine.laneway(["man", "--out", pages.to_str().unwrap()]).success();
    for name in ["laneway.1", "laneway-up.1", "laneway-status.1"] {
        assert!(pages.join(name).exists(), "{name}");
    }
}
