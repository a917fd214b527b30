use super::location::MAX_FILE;
use super::*;
use crate::wire::target::Target;

fn parse(text: &str) -> Result<Config, Problem> {
    Config::of_text(text)
}

#[test]
fn the_file_takes_what_the_flags_take() {
    let config = parse(
        "role = 'gateway'\nserver = ['10.0.0.5:80']\nallow = ['*.corp:443']\nhold = 2.5\nproxy = '127.0.0.1:1'\n",
    )
    .unwrap();
    assert_eq!(config.node.role, RoleSetting::Gateway);
    assert_eq!(config.gateway.server[0].to_string(), "10.0.0.5:80");
    assert_eq!(config.gateway.allow[0].to_string(), "*.corp:443");
    assert_eq!(config.local.hold, Duration::from_millis(2500));
    assert_eq!(config.local.proxy, ["127.0.0.1:1".parse().unwrap()]);
}

#[test]
fn the_file_has_the_bounds_that_the_flags_have() {
    for (text, good) in [
        ("active = 1", true),
        ("active = 0", false),
        ("threads = 1024", true),
        ("threads = 0", false),
        ("threads = 1025", false),
        ("rotate = 0.5", false),
        ("hold = 86401", false),
        ("drain = nan", false),
    ] {
        assert_eq!(parse(text).is_ok(), good, "{text}");
    }
}

#[test]
fn the_file_has_a_table_of_fronts() {
    let config = parse(
        "hold = 1\n[fronts]\npypi = 'https://pypi.example/simple'\napt.debian = 'https://deb.example/debian'\n",
    );
    let keys: Vec<_> = config.unwrap().local.front.iter().map(|front| front.key()).collect();
    assert_eq!(keys, ["pypi", "apt/debian"]);
    for (text, want) in [
        ("[fronts]\ngem = 'https://h/'", "the kinds of fronts are"),
        ("[fronts]\npypi = 1", "line 2, column 8"),
        ("[fronts]\npypi = 'h'", "the URL of a registry is"),
        ("[fronts]\napt = 'https://h/'", "apt needs a name"),
        ("front = ['pypi=https://a/', 'pypi=https://b/']", "two fronts for pypi"),
    ] {
        let problem = parse(text).unwrap_err().to_string();
        assert!(problem.contains(want), "{problem}");
    }
}

#[test]
fn a_flag_comes_before_the_file() {
    let typed = matches(&["--hold=1".into(), "--server=a:1,b:2".into()]).unwrap();
    let text = "hold = 2\ndrain = 3\nserver = ['c:3']\ndns-open-to-lan = true\ndns = '127.0.0.1:53'";
    let config = Config::of(&typed, text, Path::new("laneway.toml")).unwrap();
    let second = Duration::from_secs(1);
    assert_eq!((config.local.hold, config.node.drain), (second, 3 * second));
    assert_eq!((config.gateway.server.len(), config.dns.dns.len()), (2, 1));
    assert!(config.dns.dns_open_to_lan);
}

#[test]
fn what_needs_a_restart_is_named_and_what_does_not_is_not() {
    let old = parse("").unwrap();
    let named = |text| old.reload(&parse(text).unwrap()).1;
    assert!(named("").is_empty());
    assert!(named("drain = 1\ncommand-timeout = 1\nhold = 1\npolicy = 'random'\nallow = '*.a'").is_empty());
    assert_eq!(
        named("log-format = 'json'\nlink = '127.0.0.1:1'\nlan = ['eth0']\nthreads = 1"),
        ["threads", "log-format", "lan", "link"]
    );
    assert_eq!(named("server = 'a:1'"), ["server"]);
    let redirected = "transparent = '127.0.0.1:1'\ntransparent-rules = true\ntransparent-names = true";
    assert_eq!(
        named(&format!("{redirected}\ndns = '127.0.0.1:53'\ndns-local = 'a=192.0.2.1'")),
        ["transparent", "dns"]
    );
}

/// What waits for a restart must not open or close a gateway meanwhile.
#[test]
fn whether_there_are_servers_at_all_changes_at_the_next_start_only() {
    let servers = |old: &str, new: &str| {
        let (live, later) = parse(old).unwrap().reload(&parse(new).unwrap());
        let servers: Vec<_> = live.gateway.servers.iter().map(ToString::to_string).collect();
        let other: Target = "other.example:1".parse().unwrap();
        let is_open = live.gateway.access.judge_name(&other).is_ok();
        (servers, is_open, later.contains(&"server"))
    };
    let (none, one, other) = ("", "server = 'a.example:1'", "server = 'b.example:1'");
    let named = |name: &str| vec![name.to_owned()];
    assert_eq!(servers(none, none), (vec![], true, false));
    assert_eq!(servers(one, other), (named("b.example:1"), false, false));
    assert_eq!(servers(one, none), (named("a.example:1"), false, true));
    assert_eq!(servers(none, one), (vec![], true, true));
}

#[test]
fn certificates_that_are_missing_concern_gateways() {
    let problems =
        |text: &str| parse(&format!("front-ca = '/nowhere/ca.pem'\n{text}")).unwrap().unusable_files();
    assert!(problems("").is_empty() && problems("role = 'client'\nserver = 'a:1'").is_empty());
    for text in ["role = 'gateway'", "server = 'a:1'"] {
        let said: Vec<_> = problems(text).iter().map(ToString::to_string).collect();
        assert!(said.len() == 1 && said[0].contains("--front-ca /nowhere/ca.pem cannot be used"), "{said:?}");
        assert!(said[0].contains("caused by: ") && said[0].contains("hint: put the file there"), "{said:?}");
    }
}

#[test]
fn a_file_that_never_ends_or_waits_for_a_writer_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let fifo = directory.path().join("laneway.toml");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
    for path in [Path::new("/dev/zero"), &fifo, directory.path()] {
        let problem = Config::of_flags(&[], Some(path)).unwrap_err().to_string();
        let why = if path.is_dir() { "it is a directory" } else { "not a regular file" };
        assert!(problem.contains(&format!("caused by: {why}")), "{problem}");
    }
    let large = directory.path().join("large.toml");
    std::fs::write(&large, vec![b'#'; usize::try_from(MAX_FILE).unwrap() + 1]).unwrap();
    assert!(Config::of_flags(&[], Some(&large)).unwrap_err().to_string().contains("more than"));
}

#[test]
fn what_is_wrong_with_a_login_is_said_without_it() {
    let problem = parse("hold = 1\nproxy-login = 'SECRET'").unwrap_err().to_string();
    assert!(problem.contains("line 2, column 15: proxy-login: a login is"), "{problem}");
    assert!(!problem.contains("SECRET"), "{problem}");
    let problem = parse("\"\\u001b[31mX\" = 1").unwrap_err().to_string();
    assert!(!problem.contains('\u{1b}'), "{problem}");
}

#[test]
fn a_key_that_is_no_option_is_refused_with_the_one_that_is_near() {
    let problem = parse("hold = 1\nrolle = 'gateway'").unwrap_err().to_string();
    assert!(problem.contains("line 2, column 1") && problem.contains("did you mean 'role'"), "{problem}");
    for text in [
        "config = 'x'",
        "state = 'x'",
        "help = true",
        "version = true",
        "hold = [1]",
        "pac-direct = 1",
        "log = 5",
    ] {
        assert!(parse(text).is_err(), "{text}");
    }
    assert!(parse("pac-direct = false\nproxy-mode = 660\nserver = []\nactive = 0x2").is_ok());
}

#[test]
fn a_bad_file_is_refused_with_its_line_and_column() {
    for (text, place) in [
        ("rolle = 'gateway'", "line 1, column 1"),
        ("hold = 1\nserver = ['10.0.0.5']", "line 2, column 11"),
        ("hold = ", "line 1, column 8"),
    ] {
        let problem = parse(text).unwrap_err().to_string();
        assert!(problem.contains(place), "{problem}");
        assert!(problem.contains("laneway.toml"), "{problem}");
    }
    assert!(parse("hold = -1").is_err());
}

#[test]
fn a_line_that_is_no_toml_is_corrected_in_plain_words() {
    for (text, what, line) in [
        ("server = 10.0.0.5:80", "server: put the value in quotes", "server = [\"10.0.0.5:80\"]"),
        ("hold = 10s", "hold: put the value in quotes", "hold = \"10s\""),
        ("hold = 1\nserver = [a:1, b:2]", "line 2", "server = [\"a:1\", \"b:2\"]"),
        ("role = \u{201c}client\u{201d}", "typographic quotation marks", "role = \"client\""),
        ("server = [\u{201c}a:1\u{201d}]", "typographic quotation marks", "server = [\"a:1\"]"),
        ("[fronts]\npypi = https://h/", "pypi: put the value in quotes", "pypi = \"https://h/\""),
        ("upstream = http://u:secret@h:1", "quotation marks", "upstream = [\"http://10.0.0.1:3128\"]"),
        ("hold = 1e", "neither a number nor a text", "hold = \"10s\""),
        ("hold = 010", "hold: put the value in quotes", "hold = \"010\""),
        ("hold =\u{a0}1", "a special space", "hold = \"1\""),
        ("[front]\npypi = 'https://h/'", "did you mean [fronts]?", "[fronts]"),
        ("[Fronts]\npypi = 'https://h/'", "did you mean [fronts]?", "[fronts]"),
        ("[[fronts]]\npypi = 'https://h/'", "no option but a table", "[fronts]"),
        ("hold.x = 1", "hold: ", "hold = \"10s\""),
    ] {
        let problem = parse(text).unwrap_err().to_string();
        assert!(problem.contains(what) && problem.contains(&format!("  {line}")), "{text}: {problem}");
        assert!(!problem.contains("secret") && !problem.contains("expected nothing"), "{problem}");
    }
    let deep = format!("server = {}{}", "[".repeat(200), "]".repeat(200));
    for (text, what) in [
        ("hold = 1\u{1b}[31m", "a control character, U+001B, ESC"),
        ("# a\u{1b}\nhold = 1", "line 1, column 4: there is a control character"),
        ("hold = 1\rrole = 'client'\n", "a carriage return alone"),
        (&deep, "too many brackets"),
        ("hold = 99999999999999999999", "the number is too large"),
        ("role = \"gate\\way\"", "single quotes"),
    ] {
        let problem = parse(text).unwrap_err().to_string();
        assert!(problem.contains(what), "{text}: {problem}");
        assert!(problem.chars().all(|c| !c.is_control() || c == '\n'), "{problem:?}");
    }
}

#[test]
fn what_is_wrong_with_an_upstream_proxy_is_said_without_its_password() {
    let problem = parse("upstream = ['http://me:secret@proxy']").unwrap_err().to_string();
    assert!(problem.contains("upstream: ") && !problem.contains("secret"), "{problem}");
    let config = parse("upstream = ['http://me:secret@proxy:80', 'socks5://10.0.0.1:1080']").unwrap();
    assert_eq!(config.gateway.upstream.len(), 2);
    assert!(!format!("{config:?}").contains("secret"));
}

#[test]
fn the_name_server_is_not_opened_to_others_by_accident() {
    for (text, hint) in [
        ("dns = ['192.0.2.1:53']", "--dns-open-to-lan"),
        ("dns = ['0.0.0.0:53']\ndns-open-to-lan = true", "name each address"),
        ("dns-local = ['lan=10.0.0.1']", "--dns 127.0.0.1:53"),
    ] {
        let problem = parse(text).unwrap_err().to_string();
        assert!(problem.contains(hint), "{problem}");
    }
    let open = "dns = ['127.0.0.1:53', '192.0.2.1:53']\ndns-open-to-lan = true\ndns-local = ['lan=10.0.0.1']";
    assert_eq!(parse(open).unwrap().dns.dns.len(), 2);
}

#[test]
fn the_proxy_is_not_opened_to_others_by_accident() {
    assert!(parse("proxy = '0.0.0.0:1080'").unwrap_err().to_string().contains("--proxy-open-to-lan"));
    assert!(parse("proxy = '0.0.0.0:1080'\nproxy-open-to-lan = true").is_ok());
    assert!(parse("proxy = '0.0.0.0:1080'\nproxy-login = ['ann:secret']").is_ok());
    assert!(parse("proxy = ['[::1]:1080', '[::]:1080']").is_err());
    let config = parse("proxy = ['[::1]:1', 'unix:/run/x.sock']\nproxy-mode = '660'").unwrap();
    assert_eq!((config.local.proxy.len(), config.local.proxy_mode.0), (2, 0o660));
    let problem = parse("hold = 1\nproxy = 'x'").unwrap_err().to_string();
    assert!(problem.contains("line 2, column 9") && problem.contains("unix:/PATH"), "{problem}");
}
