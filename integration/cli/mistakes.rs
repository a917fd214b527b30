//! What somebody types wrongly: each error says what is wrong, why, and what was probably meant.

use std::process::{Command, Stdio};

use nix::sys::signal::Signal;

use crate::machine::{Machine, Output};

/// The three lines of every error.
#[track_caller]
fn explained(output: &Output, what: &str, why: &str, hint: &str) {
    assert_eq!(output.code, Some(2), "{output}");
    let mut lines = output.stderr.lines();
    for (start, words) in [("error: ", what), ("caused by: ", why), ("hint: ", hint)] {
        let line = lines.next().unwrap_or_default();
        assert!(line.starts_with(start) && line.contains(words), "no {words:?} in {line:?}: {output}");
    }
}

#[test]
fn a_mistyped_command_or_option_is_answered_with_the_one_that_was_meant() {
    let invalid = "the command line is not valid";
    for (line, why, hint) in [
        ("upp", "there is no command 'upp'", "did you mean 'up'? 'laneway --help' lists the commands"),
        ("stauts", "there is no command 'stauts'", "did you mean 'status'?"),
        ("frobnicate", "there is no command 'frobnicate'", "'laneway --help' lists the commands"),
        ("ca exprot f", "there is no command 'exprot'", "did you mean 'export'?"),
        ("up --servre 10.0.0.5:80", "there is no option '--servre'", "did you mean '--server'?"),
        ("up -server 10.0.0.5:80", "there is no option '-server'", "did you mean '--server'?"),
        ("up server 10.0.0.5:80", "'server' is one argument too many", "did you mean '--server'?"),
        (
            "up --connect_timeout 5",
            "there is no option '--connect_timeout'",
            "did you mean '--connect-timeout'?",
        ),
        ("status --server 10.0.0.5:80", "there is no option '--server'", "it is an option of 'laneway up'"),
        ("--server 10.0.0.5:80", "there is no option '--server'", "it is an option of 'laneway up'"),
        ("invite --uses=2 --uses=3", "--uses is given twice", "'laneway invite --help'"),
        ("env --docker --unset", "--docker and --unset exclude each other", "'laneway env --help'"),
        ("join", "<CODE> is missing", "'laneway join --help'"),
        ("cache", "one of ls, rm, verify is missing", "'laneway cache --help' lists the commands"),
    ] {
        let output = Machine::new().laneway(line.split(' '));
        explained(&output, invalid, why, hint);
    }
}

#[test]
fn a_wrong_value_is_answered_with_the_form_that_the_option_takes() {
    for (line, what, why, hint) in [
        ("up --hold 10x", "--hold does not take '10x'", "'10x' is not a time", "--hold 10s"),
        ("up --drain 25h", "--drain does not take '25h'", "not a time from 0 to 86400", "--drain 30s"),
        (
            "up --policy strongst",
            "--policy",
            "one of strongest, least-busy, random, round-robin is expected; did you mean 'strongest'?",
            "--policy strongest",
        ),
        ("up --role gatway", "--role", "did you mean 'gateway'?", "--role gateway"),
        ("up --link 7420", "--link", "not an address and a port", "--link 0.0.0.0:7420"),
        ("up --proxy 1080", "--proxy", "neither ADDR:PORT", "--proxy 127.0.0.1:1080"),
        ("up --dns 127.0.0.1", "--dns", "not an address and a port", "--dns 127.0.0.1:53"),
        ("up --server 10.0.0.5", "--server", "HOST:PORT", "--server 10.0.0.5:80"),
        ("up --server http://10.0.0.5/", "--server", "without http://", "--server 10.0.0.5:80"),
        (
            "up --server https://10.0.0.1:3128",
            "--server",
            "without http://",
            "the proxy on the way to it with --upstream http://HOST:PORT",
        ),
        ("up --server fe80::1:80", "--server", "in brackets", "write it like --server [fe80::1]:80"),
        ("up --server 2001:db8::", "--server", "in brackets", "write it like --server [2001:db8::]:PORT"),
        ("up --gateway fd00::1:7420", "--gateway", "in brackets", "write it like --gateway [fd00::1]:7420"),
        (
            "up --gateway 10.0.0.5:port",
            "--gateway",
            "not a number from 1 to 65535",
            "--gateway 10.0.0.1:7420",
        ),
        (
            "up --transparent-only 10.0.0.0/33",
            "--transparent-only",
            "not a network",
            "--transparent-only 10.0.0.0/8",
        ),
        ("up --active two", "--active", "not a whole number", "--active 2"),
        ("up --active 0", "--active", "0 is not from 1", "--active 2"),
        (
            "up --discovery-port 70000",
            "--discovery-port",
            "70000 is not from 0 to 65535",
            "--discovery-port 7420",
        ),
        ("up --weight half", "--weight", "not a whole number of percent", "--weight 50"),
        (
            "up --client-rate 10Mbit",
            "--client-rate",
            "'10Mbit' is not a number of bytes",
            "--client-rate 10M",
        ),
        ("up --memory-limit 1M", "--memory-limit", "less than 4M", "--memory-limit 512M"),
        ("up --probe ftp://x", "--probe", "only http:// URLs", "--probe http://10.0.0.5/health"),
        (
            "up --upstream proxy:3128",
            "--upstream does not take this value",
            "a proxy is written",
            "--upstream http://10.0.0.1:3128",
        ),
        ("up --dns-local lan", "--dns-local", "is not SUFFIX=SERVER", "--dns-local lan=192.168.1.1"),
        ("up --proxy-mode 999", "--proxy-mode", "octal", "--proxy-mode 660"),
        ("up --hold", "--hold lacks its value", "it is written --hold <", "--hold 10s"),
        ("invite --ttl 24", "--ttl does not take '24'", "'24' lacks a unit", "--ttl 24h"),
        ("invite --ttl soon", "--ttl", "or never", "--ttl 24h"),
        ("invite --uses many", "--uses", "a number of at least 1, or any", "--uses any"),
        ("status --proxy 1080", "--proxy", "not an address and a port", "--proxy 127.0.0.1:1080"),
        (
            "invite --ttl forever",
            "--ttl",
            "a number with a unit, like 500ms, 10s, 2m, 24h or 7d, or never",
            "--ttl 24h",
        ),
        ("discover --wait 2m", "--wait does not take '2m'", "not a time from 0.1 to 60 seconds", "--wait 2s"),
        ("speedtest --seconds 2h", "--seconds", "not a time from 1 to 60", "--seconds 3s"),
        ("demo --size 5T", "--size", "not from 1M to 64G", "--size 256M"),
    ] {
        explained(&Machine::new().laneway(line.split(' ')), what, why, hint);
    }
}

#[test]
fn a_wrong_value_of_a_variable_names_the_variable() {
    let machine = Machine::new();
    let output = Output::of(machine.command(["up"]).env("LANEWAY_HOLD", "10x"));
    explained(
        &output,
        "LANEWAY_HOLD (--hold) does not take '10x'",
        "is not a time",
        "write it like LANEWAY_HOLD=10s, or unset it",
    );
    let output = Output::of(machine.command(["discover"]).env("LANEWAY_DISCOVERY_PORT", "many"));
    explained(
        &output,
        "LANEWAY_DISCOVERY_PORT (--discovery-port)",
        "not a whole number",
        "LANEWAY_DISCOVERY_PORT=7420",
    );
    // What is typed comes before the variable, so it is at fault.
    let output = Output::of(machine.command(["up", "--hold=5y"]).env("LANEWAY_HOLD", "10x"));
    explained(&output, "--hold does not take '5y'", "is not a time", "--hold 10s");
}

#[test]
fn a_mistyped_variable_is_refused_by_every_command_and_others_of_the_prefix_are_named_in_the_log() {
    let (machine, _) = Machine::with_group();
    for command in ["up", "status", "doctor"] {
        let output = Output::of(machine.command([command]).env("LANEWAY_SERVRE", "10.0.0.5:80"));
        let why = "there is no variable LANEWAY_SERVRE";
        explained(
            &output,
            "the environment is not valid",
            why,
            "did you mean LANEWAY_SERVER? Otherwise unset LANEWAY_SERVRE",
        );
    }
    let mut command = machine.up("127.0.0.41", &["--proxy", "127.0.0.41:0"]);
    command.env("LANEWAY_PORT_1080_TCP", "tcp://10.0.0.1:1080").env("LANEWAY_OLD_http_proxy", "n");
    let mut node = crate::machine::Node::start(&mut command);
    let line = node.wait_for("these variables set no option and are ignored");
    assert!(line.contains("LANEWAY_PORT_1080_TCP") && !line.contains("SAVED"), "{line}");
}

#[test]
fn times_and_sizes_have_units_in_the_file_in_variables_and_on_the_command_line() {
    use laneway::config::Config;
    use std::time::Duration;
    for (text, millis) in
        [("10", 10_000), ("'10s'", 10_000), ("'500ms'", 500), ("'2m'", 120_000), ("2.5", 2500)]
    {
        for name in ["hold", "drain", "connect-timeout", "command-timeout"] {
            let config = Config::of_text(&format!("{name} = {text}")).unwrap();
            let taken = match name {
                "hold" => config.local.hold,
                "drain" => config.node.drain,
                "connect-timeout" => config.gateway.connect_timeout,
                _ => config.peers.command_timeout,
            };
            assert_eq!(taken, Duration::from_millis(millis), "{name} = {text}");
        }
    }
    let config = Config::of_text(
        "rotate = '2h'\nprobe-interval = '1m'\nmemory-limit = '1.5G'\nclient-rate = '10MB'\nweight = '50%'",
    );
    let config = config.unwrap();
    assert_eq!((config.peers.rotate, config.peers.weight), (Duration::from_secs(7200), 50));
    assert_eq!(config.gateway.probe_interval, Some(Duration::from_secs(60)));
    assert_eq!(
        (config.node.memory_limit.unwrap().0, config.gateway.client_rate.unwrap().0),
        (3 << 29, 10 << 20)
    );
    let flags = ["--hold=1m30s".into(), "--drain=500ms".into()];
    let machine = Machine::new();
    let config = Config::of_flags(&flags, Some(&machine.configure(""))).unwrap();
    assert_eq!((config.local.hold, config.node.drain), (Duration::from_secs(90), Duration::from_millis(500)));
}

#[test]
fn a_mistake_in_the_file_is_answered_with_the_right_line() {
    let machine = Machine::new();
    for (content, why, hint) in [
        (
            "servre = ['10.0.0.5:80']",
            "there is no option 'servre'; did you mean 'server'?",
            "lists the options",
        ),
        ("connect_timeout = 5", "did you mean 'connect-timeout'?", "lists the options"),
        ("LANEWAY_HOLD = 5", "did you mean 'hold'?", "lists the options"),
        ("state = '/x'", "the file does not set 'state': use --state or LANEWAY_STATE", "lists the options"),
        ("hold = '10x'", "hold: '10x' is not a time", "write it like  hold = \"10s\""),
        ("hold = 20s", "line 1, column 8: hold: put the value in quotes", "write it like  hold = \"20s\""),
        ("role = gateway # all", "line 1, column 8", "write it like  role = \"gateway\""),
        (
            "server = 10.0.0.5:80",
            "server: put the value in quotes",
            "write it like  server = [\"10.0.0.5:80\"]",
        ),
        ("policy = 'strongst'", "did you mean 'strongest'?", "policy = \"strongest\""),
        ("server = '10.0.0.5'", "HOST:PORT", "server = [\"10.0.0.5:80\"]"),
        ("pac-direct = 'yes'", "true or false is expected", "pac-direct = true"),
        ("memory-limit = '10Mbit'", "is not a number of bytes", "memory-limit = \"512M\""),
        ("[fronts]\npipy = 'https://h/'", "did you mean 'pypi'?", "lists the options"),
        ("active = 'two'", "not a whole number", "active = 2"),
        (
            "server = '10.0.0.5:80'\nhold = 1\nserver = ['10.0.0.6:80', '10.0.0.7:80']",
            "line 3, column 1: duplicate key",
            "server = [\"10.0.0.5:80\", \"10.0.0.6:80\", \"10.0.0.7:80\"]; ",
        ),
        ("hold = 1\nhold = 2", "line 2, column 1: duplicate key", "hold = \"10s\"  on one line only; "),
        ("hold = 1\nhold = 2", "line 1 sets it as well", "hold = \"10s\""),
        (
            "[fronts]\npypi = 'https://h/'\nserver = '10.0.0.5:80'",
            "line 3, column 1: 'server' stands below [fronts]",
            "move the line of 'server' above [fronts]",
        ),
        ("[fronts.apt]\ndebian = 'https://h/'\nhold = 3", "'hold' stands below", "move the line of 'hold'"),
        ("[fronts]\nserver = ['10.0.0.5:80']", "'server' stands below [fronts]", "move the line of 'server'"),
        (
            "[node]\nhold = 3",
            "'node' is not a table",
            "above all tables, each as NAME = VALUE, without [node]",
        ),
        ("[gateway]\nserver = '10.0.0.5:80'", "'gateway' is not a table", "without [gateway]"),
        ("pypi = 'https://h/'", "there is no option 'pypi'", "below a line [fronts]"),
        ("[[fronts]]\npypi = 'https://h/'", "'fronts' is no option but a table", "in single brackets"),
        (
            "hold = 3\nserver = ['10.0.0.5:80'\nrole = 'gateway'",
            "line 2, column 10: server: the list that begins here has no end: ] is missing",
            "server = [\"10.0.0.5:80\"]",
        ),
        (
            "server = [\n '10.0.0.5:80,\n]",
            "line 2, column 2: server: the string",
            "server = [\"10.0.0.5:80\"]",
        ),
        ("role = \"gateway", "line 1, column 8: role: the string", "role = \"gateway\""),
        (
            "hold = 3\n[fronts\npypi = 'https://h/'",
            "line 2, column 1: the name of the table",
            "lists the options",
        ),
        ("hold = 3\nrole 'gateway'", "line 2, column", "role = \"gateway\""),
        ("role: gateway", "role: = is missing between the option and its value", "role = \"gateway\""),
        ("server [\"10.0.0.5:80\"]", "server: = is missing", "server = [\"10.0.0.5:80\"]"),
        ("hold = true", "a string or a number is expected", "hold = \"10s\""),
        ("server = 80", "a string, or a list of strings, is expected", "server = [\"10.0.0.5:80\"]"),
        ("server = [80]", "a string, or a list of strings, is expected", "server = [\"10.0.0.5:80\"]"),
        ("server = [10.0.0.5:80]", "line 1, column", "server = [\"10.0.0.5:80\"]"),
        ("server = '10.0.0.5:80', '10.0.0.6:80'", "line 1, column", "server = [\"10.0.0.5:80\"]"),
        ("no-cache = yes", "line 1, column", "no-cache = true"),
        ("no-cache = True", "it is written true or false, in lower case", "no-cache = true"),
        ("role = \u{201c}gateway\u{201d}", "typographic quotation marks", "role = \"gateway\""),
        ("server = ['a:1' 'b:1']", "a comma is missing between two elements", "server = [\"10.0.0.5:80\"]"),
        ("server == 'a:1'", "one = too many", "server = [\"10.0.0.5:80\"]"),
        ("hold = 1 role = 'auto'", "the line has to end here", "hold = \"10s\""),
        ("= 'a:1'", "the name of the option is missing", "lists the options"),
    ] {
        machine.configure(content);
        explained(&machine.laneway(["up"]), "the configuration ", why, hint);
    }
}

#[test]
fn a_login_without_quotes_is_not_repeated() {
    let machine = Machine::new();
    machine.configure("proxy-login = ann:secret");
    let output = machine.laneway(["up"]);
    explained(&output, "the configuration ", "line 1, column", "lists the options");
    assert!(!output.stderr.contains("secret"), "{output}");
}

#[test]
fn an_option_that_would_be_ignored_is_refused() {
    let machine = Machine::new();
    for option in ["--transparent-only=10.0.0.0/8", "--transparent-except-private"] {
        let output = machine.laneway(["up", "--transparent", "127.0.0.1:0", option]);
        let name = option.split('=').next().unwrap();
        let what = format!("error: {name} does nothing without --transparent-rules");
        output.failed(2, &[&what, "hint: add --transparent-rules"]);
    }
    let (machine, _) = Machine::with_group();
    for uses in ["2", "any"] {
        let output = machine.laneway(["invite", "--client-only", "--name", "kiosk", "--uses", uses]);
        output.failed(2, &["error: --name kiosk is one machine's name", "hint: leave out --uses"]);
    }
    machine.laneway(["invite", "--name", "kiosk"]).success();
}

#[test]
fn an_interface_that_does_not_exist_is_named_with_those_that_do() {
    let (machine, code) = Machine::with_group();
    for command in [&["discover"][..], &["speedtest"], &["join", &code]] {
        let machine = if command[0] == "join" { &Machine::new() } else { &machine };
        let output = machine.laneway([command, &["--lan", "nosuch0"]].concat());
        explained(&output, "--lan does not take 'nosuch0'", "no such interface or address", "it has ");
        assert!(output.stderr.contains("lo (127.0.0.1"), "{output}");
    }
    let mut node = machine.start("127.0.0.42", &["--lan", "nosuch0"]);
    let line = node.wait_for("--lan names an interface or address that does not exist");
    assert!(line.contains("lan=\"nosuch0\"") || line.contains("lan=nosuch0"), "{line}");
    assert!(line.contains("lo (127.0.0.1"), "{line}");
}

#[test]
fn a_second_init_on_the_first_machine_advises_invite() {
    let (machine, _) = Machine::with_group();
    let output = machine.laneway(["init"]);
    output.failed(
        2,
        &["error: this machine is already in the group \"lan\"", "hint: 'laneway invite --state "],
    );
}

#[test]
fn a_demo_that_was_kept_shows_the_page_and_ends_well_on_ctrl_c() {
    let machine = Machine::new();
    let mut command = machine.command(["demo", "--size", "1M", "--keep"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let said = std::io::BufReader::new(child.stdout.take().unwrap());
    let mut page = None;
    for line in std::io::BufRead::lines(said).map_while(Result::ok) {
        page = line.split_once("the client's page: ").map(|(_, url)| url.to_owned()).or(page);
        if line.contains("laneway up --server HOST:PORT") {
            break;
        }
    }
    let page = page.expect("it names the page");
    let fetched = Command::new("curl").args(["-fsS", &page]).output().unwrap();
    assert!(String::from_utf8_lossy(&fetched.stdout).contains("linked to gateway"), "{fetched:?}");
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child.id().try_into().unwrap()), Signal::SIGINT)
        .unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
}
