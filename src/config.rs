//! The options of `laneway up`: the sources of their values, and the checks that span several options.
//!
//! Each part of the node declares its own options once, with their types, bounds and defaults; the flags and the
//! `LANEWAY_*` variables are derived from that. Values in the configuration file become flags of those options that
//! neither a flag nor a variable sets (see `config/file.rs`). A flag overrides a variable, a variable overrides the file, and
//! the file overrides the default.

mod file;
pub mod proxies;

use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, CommandFactory as _, Parser, ValueEnum};

use crate::failure::printable;
use crate::peers::options::changed;
use crate::problem::Problem;
use crate::size::{Size, seconds};
use crate::sys::machine::share_of_memory;
use crate::sys::paths;
use crate::sys::state::{StateDir, quoted, read_regular};
use crate::telemetry::log::{self, Format};
use crate::{gateway, local, peers, transparent, usage};

/// The default port of the local proxy.
pub const PROXY_PORT: u16 = 1080;
/// The minimum memory that a node can work with, in bytes: a few tunnels, and a full window for one of them.
const MIN_MEMORY: Size = Size(4 << 20);

/// Maximum size of the configuration file in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What this node may be.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum RoleSetting {
    /// A gateway while it reaches a configured server, else a client.
    #[default]
    Auto,
    /// Never a gateway.
    Client,
    /// A gateway; for any destination if no server is configured.
    Gateway,
}

impl RoleSetting {
    /// The word for it on the command line.
    pub fn word(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Client => "client",
            Self::Gateway => "gateway",
        }
    }
}

/// The options of the node as a whole.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Node")]
#[group(skip)]
pub struct NodeOptions {
    /// What this node may be [default: auto, a gateway while it reaches a --server]
    #[arg(long, env = "LANEWAY_ROLE", value_enum, default_value = "auto", hide_default_value = true)]
    pub role: RoleSetting,
    /// How long open connections have to finish after a request to stop, in seconds
    #[arg(long, env = "LANEWAY_DRAIN", value_name = "SECS", value_parser = seconds, default_value = "30")]
    pub drain: Duration,
    /// Maximum memory that connections may hold, like 512M [default: a quarter of the memory of the machine or
    /// control group]
    #[arg(long, env = "LANEWAY_MEMORY_LIMIT", value_name = "BYTES", value_parser = memory)]
    pub memory_limit: Option<Size>,
    /// Number of threads that serve links [default: one per core]
    #[arg(long, env = "LANEWAY_THREADS", value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub threads: Option<u16>,
    /// What to log: error, warn, info, debug, trace, or tracing directives
    #[arg(long, env = "LANEWAY_LOG", value_name = "LEVEL", default_value = "info")]
    pub log: String,
    /// Format of log lines
    #[arg(long, env = "LANEWAY_LOG_FORMAT", value_enum, default_value = "text")]
    pub log_format: Format,
}

impl NodeOptions {
    /// The maximum number of bytes that connections may hold in memory.
    pub fn memory_limit(&self) -> u64 {
        self.memory_limit.map_or_else(share_of_memory, |limit| limit.0)
    }

    /// The number of threads that serve links.
    pub fn threads(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get);
        self.threads.map_or_else(cores, usize::from)
    }

    /// Checks the log filter, which is used at the next start only.
    ///
    /// # Errors
    /// A usage problem.
    fn check(&self) -> Result<(), Problem> {
        log::check(&self.log).map_err(|error| {
            Problem::usage(format!("'{}' is not a log level: {error}", printable(&self.log)))
                .hint("use error, warn, info, debug or trace")
        })
    }

    /// The drain timeout of `new`, which a running node takes, and the options that differ and take effect at the next
    /// start only.
    fn reload(&self, new: &Self) -> (Duration, Vec<&'static str>) {
        let Self { role, drain, memory_limit, threads, log, log_format } = new;
        let later = changed([
            ("role", self.role != *role),
            ("memory-limit", self.memory_limit != *memory_limit),
            ("threads", self.threads != *threads),
            ("log", self.log != *log),
            ("log-format", self.log_format != *log_format),
        ]);
        (*drain, later)
    }
}

/// The options of `laneway up`, by the part of the node that they are for.
#[derive(Clone, Debug, clap::Args)]
#[group(skip)]
pub struct Config {
    /// The configuration file, if there is one.
    #[arg(skip)]
    file: Option<PathBuf>,
    /// The node as a whole.
    #[command(flatten)]
    pub node: NodeOptions,
    /// The local port.
    #[command(flatten)]
    pub local: local::options::Options,
    /// Transparent mode.
    #[command(flatten)]
    pub transparent: transparent::Options,
    /// The local name server.
    #[command(flatten)]
    pub dns: local::dns::options::Options,
    /// Discovery and selection.
    #[command(flatten)]
    pub peers: peers::options::Options,
    /// The gateway.
    #[command(flatten)]
    pub gateway: gateway::options::Options,
}

/// What a running node takes from new options.
pub struct Live {
    /// How long open connections may finish after a request to stop.
    pub drain: Duration,
    /// What changes at the local port.
    pub local: local::options::Live,
    /// What changes in transparent mode.
    pub transparent: transparent::Live,
    /// What changes at the local name server.
    pub dns: local::dns::options::Live,
    /// What changes at the gateway.
    pub gateway: gateway::options::Live,
    /// What changes in the selection and at the uplink.
    pub peers: peers::options::Live,
}

/// The same options without the rest of the command line.
#[derive(Debug, Parser)]
#[command(no_binary_name = true, disable_help_flag = true)]
struct Standalone {
    #[command(flatten)]
    config: Config,
}

impl Config {
    /// The options from the command line and the environment, completed by the configuration file: the given one,
    /// otherwise the user's or the system's if it exists.
    ///
    /// # Errors
    /// A usage problem, with the file, line and column where they are known.
    pub fn load(typed: &ArgMatches, file: Option<&Path>) -> Result<Self, Problem> {
        let Some((path, text)) = read(file)? else { return Self::of(typed, "", Path::new("")) };
        Self::of(typed, &text, &path)
    }

    /// The options from these flags, the environment, and the configuration file.
    ///
    /// # Errors
    /// A usage problem.
    pub fn of_flags(flags: &[OsString], file: Option<&Path>) -> Result<Self, Problem> {
        Self::load(&matches(flags)?, file)
    }

    /// The options from these flags and the environment alone.
    ///
    /// # Errors
    /// A usage problem.
    pub fn without_file(flags: &[OsString]) -> Result<Self, Problem> {
        Self::of(&matches(flags)?, "", Path::new("laneway.toml"))
    }

    /// The options from a configuration file with this content and from the environment.
    ///
    /// # Errors
    /// A usage problem.
    pub fn of_text(text: &str) -> Result<Self, Problem> {
        Self::of(&matches(&[])?, text, Path::new("laneway.toml"))
    }

    fn of(typed: &ArgMatches, text: &str, path: &Path) -> Result<Self, Problem> {
        let command = Standalone::command();
        let mut flags = Vec::new();
        for arg in command.get_arguments() {
            if is_set(typed, arg) {
                flags.extend(flags_of(typed, arg));
            }
        }
        let from_file = file::settings(text, &command).map_err(|fault| {
            let hint = fault.hint();
            Problem::usage(format!("the configuration {} is not valid", quoted(path)))
                .after(Problem::usage(fault.to_string()))
                .hint(hint)
        })?;
        for (id, more) in from_file {
            let arg = command.get_arguments().find(|arg| arg.get_id() == id.as_str());
            if arg.is_some_and(|arg| !is_set(typed, arg)) {
                flags.extend(more);
            }
        }
        let parsed = Standalone::try_parse_from(&flags);
        let mut config = parsed.map_err(|error| usage(&error, &flags))?.config;
        config.file = Some(path.to_owned()).filter(|path| !path.as_os_str().is_empty());
        config.local.read_logins()?;
        config.check()?;
        Ok(config)
    }

    /// The file in which an option is changed for good.
    pub fn file_to_change(&self) -> PathBuf {
        self.file.clone().unwrap_or_else(file_to_change)
    }

    /// Checks that involve more than one option.
    ///
    /// # Errors
    /// A usage problem.
    pub fn check(&self) -> Result<(), Problem> {
        self.local.check()?;
        self.transparent.check(self.local.proxy_open_to_lan)?;
        self.dns.check()?;
        self.node.check()?;
        self.gateway.check()?;
        for command in [&self.peers.on_promote, &self.peers.on_demote].into_iter().flatten() {
            if command.contains('\0') {
                return Err(Problem::usage("--on-promote and --on-demote cannot contain a NUL character"));
            }
        }
        Ok(())
    }

    /// What is wrong with files of a gateway that it starts without.
    pub fn unusable_files(&self) -> Vec<Problem> {
        let is_gateway = match self.node.role {
            RoleSetting::Client => false,
            RoleSetting::Gateway => true,
            RoleSetting::Auto => !self.gateway.server.is_empty(),
        };
        let files = self.gateway.front_ca.iter().filter(|_| is_gateway);
        files.filter_map(|file| gateway::tls::roots(file).err()).collect()
    }

    /// What a running node takes from `new`, and the options that differ and take effect at the next start only.
    pub fn reload(&self, new: &Self) -> (Live, Vec<&'static str>) {
        let Self { file: _, node, local, transparent, dns, peers, gateway } = self;
        let (drain, node) = node.reload(&new.node);
        let (local, local_later) = local.reload(&new.local);
        let (peers, peers_later) = peers.reload(&new.peers);
        let (gateway, gateway_later) = gateway.reload(&new.gateway);
        let (transparent, transparent_later) = transparent.reload(&new.transparent);
        let (dns, dns_later) = dns.reload(&new.dns);
        let later = [node, local_later, transparent_later, dns_later, peers_later, gateway_later].concat();
        (Live { drain, local, transparent, dns, gateway, peers }, later)
    }
}

fn matches(flags: &[OsString]) -> Result<ArgMatches, Problem> {
    Standalone::command().try_get_matches_from(flags).map_err(|error| usage(&error, flags))
}

fn usage(error: &clap::Error, flags: &[OsString]) -> Problem {
    usage::problem(error, &Standalone::command(), flags)
}

/// Whether a flag or a variable sets this option.
fn is_set(typed: &ArgMatches, arg: &Arg) -> bool {
    let source = typed.value_source(arg.get_id().as_str());
    matches!(source, Some(ValueSource::CommandLine | ValueSource::EnvVariable))
}

/// The flags that set this option to its current values.
fn flags_of(typed: &ArgMatches, arg: &Arg) -> Vec<OsString> {
    let (id, long) = (arg.get_id().as_str(), arg.get_long().unwrap_or_default());
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return if typed.get_flag(id) { vec![format!("--{long}").into()] } else { Vec::new() };
    }
    let values = typed.get_raw(id).into_iter().flatten();
    values.map(|value| flag(long, value)).collect()
}

fn flag(long: &str, value: &OsStr) -> OsString {
    let mut flag = OsString::from(format!("--{long}="));
    flag.push(value);
    flag
}

fn memory(text: &str) -> Result<Size, String> {
    match text.parse::<Size>() {
        Ok(size) if size >= MIN_MEMORY => Ok(size),
        Ok(_) => Err(format!("less than {MIN_MEMORY}")),
        Err(error) => Err(error.to_string()),
    }
}

/// The configuration file and its content: the named one, otherwise the user's or the system's if it exists.
///
/// # Errors
/// When it cannot be read.
fn read(named: Option<&Path>) -> Result<Option<(PathBuf, String)>, Problem> {
    let found = || paths::configuration_files().into_iter().find(|path| is_there(path));
    let Some(path) = named.map(Path::to_owned).or_else(found) else { return Ok(None) };
    let bytes = read_regular(&path, MAX_FILE).map_err(|error| {
        Problem::usage(format!("cannot read the configuration {}", quoted(&path)))
            .because(error)
            .hint("--config FILE, or LANEWAY_CONFIG, names another file")
    })?;
    let text = String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        Problem::usage(format!("the configuration {} is not valid", quoted(&path)))
            .after(Problem::usage(format!("line {line}: a character there is not in UTF-8")))
            .hint("save the file as UTF-8")
    })?;
    Ok(Some((path, text)))
}

/// The configuration file of this user: the one that `LANEWAY_CONFIG` names, else the one that is found, else the one that would
/// be.
pub fn file_to_change() -> PathBuf {
    let named = std::env::var_os("LANEWAY_CONFIG").filter(|name| !name.is_empty()).map(PathBuf::from);
    let files = paths::configuration_files();
    let found = || files.iter().find(|path| is_there(path));
    let preferred = || if paths::is_administrator() { files.last() } else { files.first() };
    let file = named.or_else(|| found().or_else(preferred).cloned());
    file.unwrap_or_else(|| PathBuf::from("laneway.toml"))
}

/// Whether there is a file, as far as this user can tell. A home directory that the user may not search has none for that user:
/// services and apt run with the HOME of whoever started them. A file that is found but cannot be read is an error.
fn is_there(path: &Path) -> bool {
    const NONE: [ErrorKind; 3] = [ErrorKind::NotFound, ErrorKind::NotADirectory, ErrorKind::PermissionDenied];
    path.symlink_metadata().map_or_else(|error| !NONE.contains(&error.kind()), |_| true)
}

/// The given state directory, or the default one.
///
/// # Errors
/// When it cannot be used.
pub fn state_directory(named: Option<&Path>) -> Result<StateDir, Problem> {
    let path = match named {
        Some(path) => path.to_owned(),
        None => StateDir::default_path()?,
    };
    Ok(StateDir::open(path)?)
}

#[cfg(test)]
mod tests {
    use super::*;

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
        assert!(
            named("drain = 1\ncommand-timeout = 1\nhold = 1\npolicy = 'random'\nallow = '*.a'").is_empty()
        );
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

    #[test]
    fn certificates_that_are_missing_concern_gateways() {
        let problems =
            |text: &str| parse(&format!("front-ca = '/nowhere/ca.pem'\n{text}")).unwrap().unusable_files();
        assert!(problems("").is_empty() && problems("role = 'client'\nserver = 'a:1'").is_empty());
        for text in ["role = 'gateway'", "server = 'a:1'"] {
            let said: Vec<_> = problems(text).iter().map(ToString::to_string).collect();
            assert!(
                said.len() == 1 && said[0].contains("--front-ca /nowhere/ca.pem cannot be used"),
                "{said:?}"
            );
            assert!(
                said[0].contains("caused by: ") && said[0].contains("hint: put the file there"),
                "{said:?}"
            );
        }
    }

    #[test]
    fn a_home_that_is_no_directory_has_no_configuration() {
        assert!(!is_there(Path::new("/dev/null/.config/laneway/laneway.toml")));
        assert!(is_there(Path::new("/dev/null")));
    }

    #[test]
    fn a_file_that_never_ends_or_waits_for_a_writer_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let fifo = directory.path().join("laneway.toml");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRUSR).unwrap();
        for path in [Path::new("/dev/zero"), &fifo, directory.path()] {
            let problem = Config::of_flags(&[], Some(path)).unwrap_err().to_string();
            assert!(problem.contains("caused by: not a regular file"), "{problem}");
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
        let open =
            "dns = ['127.0.0.1:53', '192.0.2.1:53']\ndns-open-to-lan = true\ndns-local = ['lan=10.0.0.1']";
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
}
