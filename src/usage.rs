//! What is wrong with a command line, a variable or a value of the configuration file: in the form of every other problem,
//! with what was probably meant.

use std::error::Error as _;
use std::ffi::OsString;
use std::net::Ipv6Addr;
use std::path::Path;

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, ArgAction, Command};

use crate::failure::printable;
use crate::problem::Problem;

/// The prefix of the variables that set options.
const PREFIX: &str = "LANEWAY_";
/// Variables with that prefix that set no option: those of `laneway env`, and those that `--on-promote` finds.
const OTHER_VARIABLES: [&str; 2] = ["LANEWAY_NODE", "LANEWAY_UPLINK_STATE"];
const SAVED: &str = "LANEWAY_OLD_";

/// An example of a value for each option whose values have a form.
const EXAMPLES: [(&str, &str); 43] = [
    ("role", "gateway"),
    ("drain", "30s"),
    ("memory-limit", "512M"),
    ("threads", "2"),
    ("log", "info"),
    ("log-format", "json"),
    ("proxy", "127.0.0.1:1080"),
    ("proxy-mode", "660"),
    ("proxy-login", "NAME:PASSWORD"),
    ("front", "pypi=https://pypi.example/simple/"),
    ("hold", "10s"),
    ("transparent", "127.0.0.1:1081"),
    ("transparent-only", "10.0.0.0/8"),
    ("transparent-except", "10.77.0.0/16"),
    ("dns", "127.0.0.1:53"),
    ("dns-local", "lan=192.168.1.1"),
    ("discovery-port", "7420"),
    ("gateway", "10.0.0.1:7420"),
    ("active", "2"),
    ("weight", "50"),
    ("policy", "strongest"),
    ("rotate", "1h"),
    ("command-timeout", "10s"),
    ("link", "0.0.0.0:7420"),
    ("server", "10.0.0.5:80"),
    ("allow", "*.example.org:443"),
    ("cache-size", "10G"),
    ("peer-cache", "4G"),
    ("deny", "10.0.0.0/8"),
    ("upstream", "http://10.0.0.1:3128"),
    ("upstream-except", "10.0.0.0/8"),
    ("connect-timeout", "10s"),
    ("probe", "http://10.0.0.5/health"),
    ("probe-expect", "204"),
    ("probe-interval", "30s"),
    ("client-tunnels", "1000"),
    ("client-opens", "100"),
    ("client-rate", "10M"),
    ("ttl", "24h"),
    ("uses", "any"),
    ("wait", "2s"),
    ("seconds", "3s"),
    ("size", "256M"),
];

/// The example for an option of this name.
pub(crate) fn example(long: &str) -> Option<&'static str> {
    EXAMPLES.iter().find(|(name, _)| *name == long).map(|(_, example)| *example)
}

/// Whether clap's result is not a mistake but something to print, such as a help text.
pub fn is_help(error: &clap::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
    )
}

/// What is wrong with a command line, or with a variable that stands in for a flag. `arguments` are those after the
/// program's name.
pub fn problem(error: &clap::Error, command: &Command, arguments: &[OsString]) -> Problem {
    let at = NamedCommand::of(command, arguments);
    let named = text_of(error, ContextKind::InvalidArg);
    let help = format!("'{} --help' describes it", at.path);
    match error.kind() {
        ErrorKind::InvalidSubcommand => {
            let word = text_of(error, ContextKind::InvalidSubcommand).unwrap_or_default();
            no_command(&word, at.command, &at.lists_commands())
        }
        ErrorKind::UnknownArgument => {
            let word = named.unwrap_or_default();
            let (why, near) = at.unknown(&word, arguments);
            invalid(why, near, &format!("'{} --help' lists the options", at.path))
        }
        ErrorKind::MissingSubcommand => {
            let names = at.command.get_subcommands().filter(|known| !known.is_hide_set());
            let names: Vec<_> = names.map(Command::get_name).collect();
            match names.is_empty() {
                // A word that looks like one is the value of an option.
                true => invalid("the command is missing".into(), None, "'laneway --help' lists the commands"),
                false => {
                    invalid(format!("one of {} is missing", names.join(", ")), None, &at.lists_commands())
                }
            }
        }
        ErrorKind::MissingRequiredArgument => {
            let missing = named.unwrap_or_default();
            invalid(format!("{} is missing", missing.trim_end_matches("...")), None, &help)
        }
        ErrorKind::ArgumentConflict => {
            let other = text_of(error, ContextKind::PriorArg).unwrap_or_default();
            let (one, other) = (bare(&named.unwrap_or_default()), bare(&other));
            let why = match one == other {
                true => format!("{one} is given twice"),
                false => format!("{one} and {other} exclude each other"),
            };
            invalid(why, None, &help)
        }
        _ => value(error, &at, arguments),
    }
}

/// The problem of a word that names none of the subcommands of `command`.
pub(crate) fn no_command(word: &str, command: &Command, otherwise: &str) -> Problem {
    let names = command.get_subcommands().filter(|known| !known.is_hide_set());
    let near = nearest(word, names.map(Command::get_name));
    invalid(format!("there is no command '{}'", printable(word)), meant(near), otherwise)
}

/// Why an option does not take its value.
pub(crate) fn reason(error: &clap::Error) -> Option<String> {
    if let Some(source) = error.source() {
        return Some(plain(&source.to_string()));
    }
    if let Some(ContextValue::String(why)) = error.get(ContextKind::Custom) {
        return Some(why.clone());
    }
    match error.get(ContextKind::ValidValue) {
        Some(ContextValue::Strings(valid)) if !valid.is_empty() => {
            let given = text_of(error, ContextKind::InvalidValue).unwrap_or_default();
            let near = nearest(&given, valid.iter().map(String::as_str));
            let near = near.map(|near| format!("; did you mean '{near}'?")).unwrap_or_default();
            Some(format!("one of {} is expected{near}", valid.join(", ")))
        }
        _ => None,
    }
}

/// The first variable that looks like one of an option but is none, with the one that was probably meant; and those of the same
/// prefix that resemble none.
pub fn unknown_variables(command: &Command) -> Result<Vec<String>, Problem> {
    let known: Vec<String> = variables(command);
    let mut others = Vec::new();
    for (name, _) in std::env::vars_os() {
        let Some(name) = name.to_str().filter(|name| name.starts_with(PREFIX)) else { continue };
        if known.iter().any(|known| known == name)
            || OTHER_VARIABLES.contains(&name)
            || name.starts_with(SAVED)
        {
            continue;
        }
        let bare = |name: &str| name[PREFIX.len()..].to_owned();
        let names: Vec<_> = known.iter().map(|known| bare(known)).collect();
        let Some(near) = nearest(&bare(name), names.iter().map(String::as_str)) else {
            others.push(printable(name));
            continue;
        };
        let problem = Problem::usage("the environment is not valid");
        return Err(problem
            .after(Problem::usage(format!("there is no variable {}", printable(name))))
            .hint(format!("did you mean {PREFIX}{near}? Otherwise unset {}", printable(name))));
    }
    Ok(others)
}

/// The candidate that `word` is most like, if it is one typing mistake away, or two in a longer word, or has the same letters.
pub(crate) fn nearest<'a>(word: &str, candidates: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let norm = |text: &str| text.to_ascii_lowercase().replace('_', "-");
    let word = norm(word);
    let most = match word.chars().count() {
        0..=2 => 0,
        3..=5 => 1,
        _ => 2,
    };
    let sorted = |text: &str| {
        let mut letters: Vec<_> = text.chars().collect();
        letters.sort_unstable();
        letters
    };
    let ranked = candidates.map(|candidate| {
        let named = norm(candidate);
        let distance = match sorted(&named) == sorted(&word) && most > 0 {
            true => distance(&word, &named).min(1),
            false => distance(&word, &named),
        };
        (distance, candidate)
    });
    ranked
        .filter(|(distance, _)| *distance <= most)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, near)| near)
}

/// The number of characters to insert, remove, replace or swap with their neighbour (optimal string alignment).
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    if a.len().abs_diff(b.len()) > 2 || a.len() > 64 {
        return usize::MAX;
    }
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut least = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    least = least.min(rows[i - 2][j - 2] + 1);
                }
                least
            };
        }
    }
    rows[a.len()][b.len()]
}

/// The command that the arguments name.
struct NamedCommand<'a> {
    command: &'a Command,
    root: &'a Command,
    path: String,
}

impl<'a> NamedCommand<'a> {
    fn of(root: &'a Command, arguments: &[OsString]) -> Self {
        let mut place = Self { command: root, root, path: "laneway".into() };
        for word in arguments.iter().filter_map(|word| word.to_str()) {
            let Some(next) = place.command.find_subcommand(word) else { continue };
            place.path = format!("{} {word}", place.path);
            place.command = next;
        }
        place
    }

    fn lists_commands(&self) -> String {
        format!("'{} --help' lists the commands", self.path)
    }

    fn takes(&self, long: &str) -> bool {
        takes(self.command, long)
    }

    /// Why an argument is not known here, and what was probably meant.
    fn unknown(&self, word: &str, arguments: &[OsString]) -> (String, Option<String>) {
        // Of -server, clap names the first letter only.
        let typed = arguments.iter().filter_map(|typed| typed.to_str());
        let single = typed.filter(|typed| typed.starts_with('-') && !typed.starts_with("--"));
        let whole = single.clone().find(|typed| word.len() == 2 && typed.starts_with(word)).unwrap_or(word);
        let name = whole.trim_start_matches('-').split('=').next().unwrap_or_default();
        if whole.starts_with('-') {
            let why = format!("there is no option '{}'", printable(whole));
            if self.takes(name) {
                return (why, meant(Some(&format!("--{name}"))));
            }
            let own = self.command.get_arguments().filter_map(Arg::get_long);
            if let Some(near) = nearest(name, own) {
                return (why, meant(Some(&format!("--{near}"))));
            }
            let mut others = self.root.get_subcommands().filter(|other| takes(other, name));
            let other =
                others.next().map(|other| format!("it is an option of 'laneway {}'", other.get_name()));
            return (why, other);
        }
        let why = format!("'{}' is one argument too many", printable(whole));
        if !whole.is_empty() && Path::new(whole).exists() {
            let hint = "it is a file: the shell replaces a * by names of files unless it is quoted, as in --allow '*'";
            return (why, Some(hint.to_owned()));
        }
        let option = self.takes(name).then(|| format!("--{name}"));
        (why, meant(option.as_deref()))
    }
}

fn takes(command: &Command, long: &str) -> bool {
    !long.is_empty() && command.get_arguments().any(|arg| arg.get_long() == Some(long))
}

fn invalid(why: String, near: Option<String>, otherwise: &str) -> Problem {
    let hint = match near {
        Some(near) if near.ends_with('?') => format!("{near} {otherwise}"),
        Some(near) => format!("{near}; {otherwise}"),
        None => otherwise.to_owned(),
    };
    Problem::usage("the command line is not valid").after(Problem::usage(why)).hint(hint)
}

fn meant(near: Option<&str>) -> Option<String> {
    near.map(|near| format!("did you mean '{near}'?"))
}

/// What is wrong with the value of an option: of a flag, or of its variable.
fn value(error: &clap::Error, at: &NamedCommand<'_>, arguments: &[OsString]) -> Problem {
    // The parsers of passwords write a message of their own, which does not repeat the value.
    let rendered = error.to_string();
    let secret = rendered.split('\'').nth(1).filter(|_| rendered.contains("invalid value for '"));
    let named = text_of(error, ContextKind::InvalidArg).or(secret.map(str::to_owned)).unwrap_or_default();
    let flag = bare(&named);
    let long = flag.trim_start_matches('-');
    let given = text_of(error, ContextKind::InvalidValue).filter(|given| !given.is_empty());
    let arg = at.command.get_arguments().find(|arg| arg.get_long() == Some(long));
    let is_typed = arguments
        .iter()
        .filter_map(|word| word.to_str())
        .any(|word| word.strip_prefix(&flag).is_some_and(|rest| rest.is_empty() || rest.starts_with('=')));
    let variable =
        arg.and_then(Arg::get_env).and_then(|name| name.to_str()).filter(|_| !is_typed && arg.is_some());
    let variable = variable.filter(|name| std::env::var_os(name).is_some());
    let subject = match variable {
        Some(variable) => format!("{variable} ({flag})"),
        None => flag.clone(),
    };
    let is_missing = given.is_none() && secret.is_none();
    let what = match &given {
        Some(given) => format!("{subject} does not take '{}'", printable(given)),
        None if is_missing => format!("{subject} lacks its value"),
        None => format!("{subject} does not take this value"),
    };
    let why = reason(error).unwrap_or_else(|| match is_missing {
        true => format!("it is written {named}"),
        false => rendered.lines().next().unwrap_or_default().trim_start_matches("error: ").to_owned(),
    });
    let fixed = given.as_deref().and_then(in_brackets);
    let example = fixed.as_deref().or(example(long)).map(|example| match variable {
        Some(variable) => format!("write it like {variable}={example}, or unset it; "),
        // The shell would replace it by names of files.
        None if example.contains('*') => format!("write it like {flag} '{example}'; "),
        None => format!("write it like {flag} {example}; "),
    });
    let is_url = given.as_deref().is_some_and(|given| given.contains("://"));
    let other = match long {
        "server" if is_url && at.path.ends_with(" up") => {
            "name the host and port of the server itself, and the proxy on the way to it with --upstream http://HOST:PORT; "
        }
        _ => "",
    };
    let help = format!("{other}{}'{} --help' describes it", example.unwrap_or_default(), at.path);
    Problem::usage(what).after(Problem::usage(why)).hint(help)
}

/// An IPv6 address and a port, with the brackets that are missing. The last number is taken for the port if what is before it is
/// an address.
fn in_brackets(given: &str) -> Option<String> {
    let is_address = |text: &str| text.parse::<Ipv6Addr>().is_ok();
    match given.rsplit_once(':') {
        Some((host, port)) if is_address(host) && port.parse::<u16>().is_ok() => {
            Some(format!("[{host}]:{port}"))
        }
        _ if is_address(given) => Some(format!("[{given}]:PORT")),
        _ => None,
    }
}

/// The option without the name of its value.
fn bare(arg: &str) -> String {
    arg.split([' ', '=']).next().unwrap_or_default().to_owned()
}

fn text_of(error: &clap::Error, kind: ContextKind) -> Option<String> {
    match error.get(kind)? {
        ContextValue::String(text) => Some(text.clone()),
        ContextValue::Strings(all) => Some(all.join(", ")),
        other => Some(other.to_string()),
    }
}

/// The words of the standard library's parsers, in those of the user.
fn plain(why: &str) -> String {
    match why {
        "invalid digit found in string" | "cannot parse integer from empty string" => {
            "not a whole number".into()
        }
        "number too large to fit in target type" => "the number is too large".into(),
        "invalid socket address syntax" => {
            "not an address and a port, like 127.0.0.1:7420 or [::1]:7420; a name is not an address".into()
        }
        "invalid IP address syntax" => "not a network, like 10.0.0.0/8 or fd00::/8".into(),
        why => match why
            .split_once(" is not in ")
            .and_then(|(number, range)| Some((number, range.split_once("..")?)))
        {
            Some((number, (low, high))) => {
                let high = high.trim_start_matches('=');
                let most = if high.is_empty() { " on".into() } else { format!(" to {high}") };
                format!("{number} is not from {low}{most}")
            }
            None => why.to_owned(),
        },
    }
}

/// The variables of all options.
fn variables(command: &Command) -> Vec<String> {
    let own = command.get_arguments().filter_map(|arg| Some(arg.get_env()?.to_str()?.to_owned()));
    own.chain(command.get_subcommands().flat_map(variables)).collect()
}

/// Whether an option takes more than one value.
pub(crate) fn takes_many(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn what_is_one_or_two_slips_away_is_near_and_nothing_else() {
        let options = ["server", "hold", "role", "policy", "proxy", "connect-timeout"];
        for (word, near) in [
            ("servre", Some("server")),
            ("serv", None),
            ("Server", Some("server")),
            ("connect_timeout", Some("connect-timeout")),
            ("rolle", Some("role")),
            ("hodl", Some("hold")),
            ("node", None),
            ("x", None),
            ("", None),
            ("something", None),
        ] {
            assert_eq!(nearest(word, options.into_iter()), near, "{word}");
        }
        assert_eq!(distance("abcd", "badc"), 2);
    }

    #[test]
    fn every_option_of_up_with_a_form_has_an_example_that_it_takes() {
        let command = crate::cli::Cli::command();
        let up = command.find_subcommand("up").unwrap();
        // Any text, any file.
        let free = ["config", "state", "proxy-logins", "front-ca", "lan", "on-promote", "on-demote"];
        for arg in up.get_arguments().filter(|arg| arg.get_action().takes_values()) {
            let long = arg.get_long().unwrap();
            if free.contains(&long) {
                continue;
            }
            let example = example(long).unwrap_or_else(|| panic!("no example for --{long}"));
            let parsed =
                command.clone().try_get_matches_from(["laneway", "up", &format!("--{long}={example}")]);
            assert!(parsed.is_ok(), "--{long}={example}: {parsed:?}");
        }
        for (words, long) in [(&["invite"][..], "ttl"), (&["invite"], "uses"), (&["discover"], "wait")] {
            let example = format!("--{long}={}", example(long).unwrap());
            let line = [&["laneway"], words, &[&example]].concat();
            assert!(command.clone().try_get_matches_from(line).is_ok(), "{example}");
        }
    }
}
