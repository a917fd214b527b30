//! The configuration file. It takes exactly what the flags take, because its values become flags: each key is the name of
//! an option, each value is read by that option's own parser, and an error names the line and column.

mod unclosed;

use std::any::TypeId;
use std::ffi::OsString;
use std::fmt;
use std::ops::Range;
use std::path::PathBuf;

use clap::builder::Arg;
use clap::{ArgAction, Command};
use toml::de::{DeTable, DeValue};

use self::unclosed::Unclosed;
use crate::failure::printable;
use crate::fronts::kind::{KINDS, Kind};
use crate::usage::{self, takes_many};

/// What is wrong with a configuration file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Fault {
    /// Line and column, from 1.
    place: (usize, usize),
    /// What is wrong. The parsers of secrets do not repeat them.
    what: String,
    /// The right form, as a line of the file.
    form: Option<String>,
    /// What to do, where no other form helps.
    advice: Option<String>,
}

impl Fault {
    /// What to do about it.
    pub(super) fn hint(&self) -> String {
        let form = || self.form.as_ref().map(|form| format!("write it like  {form}; "));
        let advice = self.advice.as_ref().map(|advice| format!("{advice}; "));
        let first = advice.or_else(form).unwrap_or_default();
        format!("{first}'laneway up --help' lists the options, which the file names without the dashes")
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (line, column) = self.place;
        write!(f, "line {line}, column {column}: {}", self.what)
    }
}

/// The options whose values may hold a password.
const SECRETS: [&str; 2] = ["proxy-login", "upstream"];

/// The table of fronts.
const FRONTS: &str = "fronts";

/// The ids of the options that a file sets, each with the flags that set it.
pub(super) type Settings = Vec<(String, Vec<OsString>)>;

/// Reads a file for the options of `command`.
///
/// # Errors
/// The first [`Fault`].
pub(super) fn settings(text: &str, command: &Command) -> Result<Settings, Fault> {
    let fault = |span: Range<usize>, what: String| Fault {
        place: place(text, span.start),
        what,
        form: None,
        advice: None,
    };
    let table = DeTable::parse(text).map_err(|error| {
        if let Some(Unclosed { span, key, what, missing }) = unclosed::first(text) {
            let arg = key.and_then(|key| command.get_arguments().find(|arg| arg.get_long() == Some(key)));
            let form = arg.and_then(|arg| form(arg, key?));
            let subject = key.map_or_else(String::new, |key| format!("{}: ", printable(key)));
            let what = format!("{subject}{what} that begins here has no end: {missing} is missing");
            return Fault { form, ..fault(span, what) };
        }
        let span = error.span().unwrap_or_default();
        if let Some((what, form)) = without_equals(text, span.start, command) {
            return Fault { form: Some(form), ..fault(span, what) };
        }
        let form = repeated(text, span.clone(), command).or_else(|| unquoted(text, span.start, command));
        let what = match (error.message(), text.get(span.clone()).and_then(|key| first_line_of(text, key))) {
            ("duplicate key", Some(line)) => format!("duplicate key: line {line} sets it as well"),
            (message, _) => plain(message, text.get(span.start..).unwrap_or_default()),
        };
        Fault { form, ..fault(span, what) }
    })?;
    let mut keys: Vec<_> = table.get_ref().iter().collect();
    keys.sort_by_key(|(key, _)| key.span().start);
    let mut settings = Vec::new();
    for (key, value) in keys {
        let name = key.get_ref().as_ref();
        if let (FRONTS, DeValue::Table(table)) = (name, value.get_ref()) {
            settings.push(("front".to_owned(), of_fronts(table, command, &fault)?));
            continue;
        }
        if matches!(value.get_ref(), DeValue::Table(_)) {
            let name = printable(name);
            let what = format!("'{name}' is not a table: the only one is [{FRONTS}]");
            let advice =
                format!("write the options above all tables, each as NAME = VALUE, without [{name}]");
            return Err(Fault { advice: Some(advice), ..fault(key.span(), what) });
        }
        let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
            let advice = elsewhere(name);
            return Err(Fault { advice, ..fault(key.span(), unknown(name, command)) });
        };
        let values = match value.get_ref() {
            DeValue::Array(values) if takes_many(arg) => values.iter().collect(),
            _ => vec![value],
        };
        let mut flags = Vec::new();
        for value in values {
            let setting = flag(arg, name, value.get_ref()).and_then(|flag| check(flag, name, command));
            flags.extend(setting.map_err(|what| Fault {
                form: form(arg, name),
                ..fault(value.span(), format!("{name}: {what}"))
            })?);
        }
        settings.push((arg.get_id().to_string(), flags));
    }
    Ok(settings)
}

/// The flags of the table of fronts: `KIND = "URL"`, and for apt a table of names.
fn of_fronts(
    table: &DeTable<'_>,
    command: &Command,
    fault: &dyn Fn(Range<usize>, String) -> Fault,
) -> Result<Vec<OsString>, Fault> {
    let (mut entries, mut flags) = (Vec::new(), Vec::new());
    for (kind, value) in table {
        match value.get_ref() {
            DeValue::Table(names) => {
                entries.extend(names.iter().map(|(name, value)| {
                    (format!("{}/{}", kind.get_ref(), name.get_ref()), name.span(), value)
                }))
            }
            _ => entries.push((kind.get_ref().to_string(), kind.span(), value)),
        }
    }
    entries.sort_by_key(|(_, span, _)| span.start);
    for (key, span, value) in entries {
        let name = key.rsplit('/').next().unwrap_or_default();
        if Kind::of(name).is_none() && command.get_arguments().any(|arg| arg.get_long() == Some(name)) {
            let is_front =
                matches!(value.get_ref(), DeValue::String(url) if url.contains("://") && key != name);
            if !is_front {
                let what = format!("'{name}' stands below [{FRONTS}], and so belongs to that table");
                let advice = format!(
                    "move the line of '{name}' above [{FRONTS}]: options come before the first table"
                );
                return Err(Fault { advice: Some(advice), ..fault(span, what) });
            }
        }
        let DeValue::String(url) = value.get_ref() else {
            return Err(fault(
                value.span(),
                format!("fronts: {}: a URL in quotes is expected", printable(&key)),
            ));
        };
        let flag = OsString::from(format!("--front={key}={url}"));
        let checked = check(Some(flag), "front", command);
        flags.extend(checked.map_err(|what| {
            let kind = key.split(['/', '.']).next().unwrap_or_default();
            let near =
                usage::nearest(kind, KINDS.iter().map(|kind| kind.word())).filter(|near| *near != kind);
            let near = near.map_or_else(String::new, |near| format!("; did you mean '{near}'?"));
            fault(span, format!("fronts: {}: {what}{near}", printable(&key)))
        })?);
    }
    Ok(flags)
}

/// The texts that the file gives for this option, also if other lines are not valid.
pub(super) fn texts(text: &str, name: &str) -> Vec<String> {
    let (table, _) = DeTable::parse_recoverable(text);
    let text = |value: &DeValue<'_>| match value {
        DeValue::String(text) => Some(text.to_string()),
        _ => None,
    };
    match table.get_ref().get(name).map(|value| value.get_ref()) {
        Some(DeValue::Array(values)) => values.iter().filter_map(|value| text(value.get_ref())).collect(),
        value => value.and_then(text).into_iter().collect(),
    }
}

/// The flag for one value; none for a switch that is off.
fn flag(arg: &Arg, name: &str, value: &DeValue<'_>) -> Result<Option<OsString>, String> {
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let text = match value {
        DeValue::Boolean(on) if is_switch => return Ok(on.then(|| format!("--{name}").into())),
        _ if is_switch => return Err("true or false is expected".into()),
        DeValue::String(text) => text.to_string(),
        _ if takes_many(arg) => return Err("a string, or a list of strings, is expected".into()),
        _ if takes_text(arg) => return Err("a string is expected".into()),
        DeValue::Integer(number) => i64::from_str_radix(number.as_str(), number.radix())
            .map_err(|error| error.to_string())?
            .to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        _ => return Err("a string or a number is expected".into()),
    };
    Ok(Some(format!("--{name}={text}").into()))
}

/// Has the option's own parser read the flag.
fn check(flag: Option<OsString>, name: &str, command: &Command) -> Result<Option<OsString>, String> {
    let Some(flag) = flag else { return Ok(None) };
    match command.clone().try_get_matches_from([&flag]) {
        Ok(_) => Ok(Some(flag)),
        Err(error) => Err(reason(&error, name)),
    }
}

/// The reason why clap refuses a value, without the command's usage.
fn reason(error: &clap::Error, name: &str) -> String {
    usage::reason(error).unwrap_or_else(|| format!("--{name} does not take this value"))
}

/// A line of the file that sets this option.
fn form(arg: &Arg, name: &str) -> Option<String> {
    if matches!(arg.get_action(), ArgAction::SetTrue) {
        return Some(format!("{name} = true"));
    }
    let example = usage::example(name)?;
    let value = match example.parse::<u64>() {
        Ok(number) => number.to_string(),
        Err(_) if takes_many(arg) => format!("[\"{example}\"]"),
        Err(_) => format!("\"{example}\""),
    };
    Some(format!("{name} = {value}"))
}

/// The one line for an option that the file sets on several, if the key at `span` is that of one. Values that may hold a password
/// are not repeated.
fn repeated(text: &str, span: Range<usize>, command: &Command) -> Option<String> {
    let name = text.get(span)?;
    let is_set = |line: &&str| line.split('=').next().is_some_and(|key| key.trim() == name);
    let lines: Vec<_> = text.lines().filter(is_set).collect();
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    if lines.len() < 2 {
        return None;
    }
    let values: Vec<_> = lines.iter().flat_map(|line| texts(line, name)).collect();
    match takes_many(arg) && !values.is_empty() && !SECRETS.contains(&name) {
        true => Some(format!("{name} = [\"{}\"]", values.join("\", \""))),
        false => form(arg, name).map(|form| format!("{form}  on one line only")),
    }
}

/// The right form of a line that is no TOML: its value in quotes, if the option takes it so.
fn unquoted(text: &str, at: usize, command: &Command) -> Option<String> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let (name, value) = text.get(start..)?.lines().next()?.split_once('=')?;
    let (name, value) = (name.trim(), value.split('#').next()?.trim());
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    // A value that may hold a password is not repeated.
    let is_plain = !SECRETS.contains(&name)
        && !value.is_empty()
        && value.chars().all(|c| c.is_ascii_alphanumeric() || ".:/-*".contains(c));
    let flag = OsString::from(format!("--{name}={value}"));
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    if is_switch || !is_plain || check(Some(flag), name, command).is_err() {
        return form(arg, name);
    }
    Some(if takes_many(arg) { format!("{name} = [\"{value}\"]") } else { format!("{name} = \"{value}\"") })
}

/// What is wrong with a line that gives an option a value without `=`, and the right form.
fn without_equals(text: &str, at: usize, command: &Command) -> Option<(String, String)> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..)?.lines().next()?.split('#').next()?.trim();
    let end = line.find([' ', '\t', ':', '\'', '"', '[']).unwrap_or(line.len());
    let (name, rest) = line.split_at(end);
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    if rest.trim_start().starts_with('=') {
        return None;
    }
    let form = form(arg, name).unwrap_or_else(|| format!("{name} = \"VALUE\""));
    Some((format!("{name}: = is missing between the option and its value"), form))
}

/// The parser's words in those of somebody who does not know TOML. `rest` is the text from the fault on.
fn plain(message: &str, rest: &str) -> String {
    let first = message.lines().next().unwrap_or_default().split(", expected").next().unwrap_or_default();
    let value = rest.lines().next().unwrap_or_default().split('#').next().unwrap_or_default().trim();
    let sentence = match first {
        "string values must be quoted" if value.is_empty() => "the value is missing",
        "string values must be quoted"
            if value.starts_with(['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}']) =>
        {
            "a string begins and ends with the plain quotation mark \" or '"
        }
        "unexpected key or value" => "the line has to end here: each option stands on a line of its own",
        "missing comma between array elements" => "a comma is missing between two elements of the list",
        "extra comma in array" => "there is one comma too many in the list",
        "extra `=`" => "there is one = too many",
        "unquoted keys cannot be empty" => "the name of the option is missing before the =",
        "invalid key-value pair" => "each line is written NAME = VALUE",
        "key with no value" => "a = and a value are missing",
        "invalid boolean" => "it is written true or false, in lower case",
        _ => return message.replace('\n', "; ").replace('`', "'"),
    };
    sentence.into()
}

/// The number of the first line that sets this key.
fn first_line_of(text: &str, key: &str) -> Option<usize> {
    let is_it = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    text.lines().position(is_it).map(|at| at + 1)
}

/// Where a key belongs that is no option.
fn elsewhere(name: &str) -> Option<String> {
    if name == FRONTS {
        return Some(format!(
            "write [{FRONTS}] on a line of its own, in single brackets, and the registries below it"
        ));
    }
    Kind::of(name).map(|kind| {
        let kind = kind.word();
        format!("move the line of '{kind}' below a line [{FRONTS}], at the end of the file")
    })
}

fn unknown(name: &str, command: &Command) -> String {
    if matches!(name, "state" | "config") {
        return format!(
            "the file does not set '{name}': use --{name} or LANEWAY_{}",
            name.to_ascii_uppercase()
        );
    }
    let bare = name.strip_prefix("LANEWAY_").unwrap_or(name).trim_start_matches('-');
    let near = usage::nearest(bare, command.get_arguments().filter_map(Arg::get_long));
    let name = printable(name);
    match near {
        Some(near) => format!("there is no option '{name}'; did you mean '{near}'?"),
        None => format!("there is no option '{name}'"),
    }
}

/// Whether the option takes any text, so that a number is more likely a mistake than meant.
fn takes_text(arg: &Arg) -> bool {
    let read = arg.get_value_parser().type_id();
    read == TypeId::of::<String>() || read == TypeId::of::<PathBuf>()
}

/// Line and column of a place in the text, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
}
