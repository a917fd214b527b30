//! What is wrong with a file that is not TOML, in the words of somebody who does not know TOML, and the right form of the line.

use std::ffi::OsString;
use std::fmt;
use std::ops::Range;

use clap::builder::Arg;
use clap::{ArgAction, Command};
use toml::de::{DeTable, DeValue};

use super::unclosed::{self, Unclosed};
use crate::failure::printable;
use crate::usage::{self, takes_many};

/// What is wrong with a configuration file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::config) struct Fault {
    /// Line and column, from 1.
    pub(super) place: (usize, usize),
    /// What is wrong. The parsers of secrets do not repeat them.
    pub(super) what: String,
    /// The right form, as a line of the file.
    pub(super) form: Option<String>,
    /// What to do, where no other form helps.
    pub(super) advice: Option<String>,
}

impl Fault {
    /// A fault at this offset of the text.
    pub(super) fn at(text: &str, at: usize, what: String) -> Self {
        Self { place: place(text, at), what, form: None, advice: None }
    }

    /// What to do about it.
    pub(in crate::config) fn hint(&self) -> String {
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

/// Quotation marks that word processors make of plain ones.
const TYPOGRAPHIC: [char; 7] =
    ['\u{201c}', '\u{201d}', '\u{201e}', '\u{2018}', '\u{2019}', '\u{ab}', '\u{bb}'];
/// What the parser calls numbers, and parts of them.
const NUMBERS: [&str; 6] = ["number", "float", "date-time", "mantissa", "fraction", "exponent"];

/// What is wrong with a text in which the parser finds a fault at `span`, which `message` describes.
pub(super) fn fault(text: &str, message: &str, span: Range<usize>, command: &Command) -> Fault {
    if let Some((at, what, advice)) = forbidden(text) {
        return Fault { advice: Some(advice), ..Fault::at(text, at, what) };
    }
    if let Some(Unclosed { span, key, what, missing }) = unclosed::first(text) {
        let arg = key.and_then(|key| command.get_arguments().find(|arg| arg.get_long() == Some(key)));
        let form = arg.and_then(|arg| form(arg, key?));
        let subject = key.map_or_else(String::new, |key| format!("{}: ", printable(key)));
        let what = format!("{subject}{what} that begins here has no end: {missing} is missing");
        return Fault { form, ..Fault::at(text, span.start, what) };
    }
    let at = span.start;
    if let Some((what, form)) = without_equals(text, at, command) {
        return Fault { form: Some(form), ..Fault::at(text, at, what) };
    }
    if let Some(line) = text.get(span.clone()).and_then(|key| first_line_of(text, key))
        && message == "duplicate key"
    {
        let form = repeated(text, span, command);
        return Fault { form, ..Fault::at(text, at, format!("duplicate key: line {line} sets it as well")) };
    }
    let quoted = in_quotes(text, at, command);
    let what = match (unusual(text, at), &quoted) {
        (Some(what), _) => what.to_owned(),
        (None, Some((name, _))) => format!("{name}: put the value in quotes"),
        (None, None) => plain(message, text.get(at..).unwrap_or_default()),
    };
    let form = quoted.map(|(_, form)| form).or_else(|| example(text, at, command));
    Fault { form, ..Fault::at(text, at, what) }
}

/// The texts that the file gives for this option, also if other lines are not valid.
pub(in crate::config) fn texts(text: &str, name: &str) -> Vec<String> {
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

/// Has the option's own parser read the flag.
pub(super) fn check(
    flag: Option<OsString>,
    name: &str,
    command: &Command,
) -> Result<Option<OsString>, String> {
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
pub(super) fn form(arg: &Arg, name: &str) -> Option<String> {
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

/// The line at this place, where it begins, and its name and value, if it has the form NAME = VALUE.
fn line_at(text: &str, at: usize) -> Option<(&str, &str)> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let (name, value) = text.get(start..)?.lines().next()?.split_once('=')?;
    Some((name.trim(), value.split('#').next()?.trim()))
}

/// The right form of a line whose value does not stand in plain quotation marks, if the option takes the value so. Values that
/// may hold a password are not repeated.
fn in_quotes(text: &str, at: usize, command: &Command) -> Option<(String, String)> {
    let (name, value) = line_at(text, at)?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || ".:/-*_~?&%+".contains(c);
    let inside = value.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    let bare = |value: &str| {
        let bare =
            value.trim().trim_matches(|c| TYPOGRAPHIC.contains(&c) || c == '"' || c == '\'').to_owned();
        (!bare.is_empty() && bare.chars().all(is_plain)).then_some(bare)
    };
    let values: Option<Vec<_>> = inside.unwrap_or(value).split(',').map(bare).collect();
    let values =
        values.filter(|values| !SECRETS.contains(&name) && (inside.is_some() || values.len() == 1))?;
    let Some(arg) = command.get_arguments().find(|arg| arg.get_long() == Some(name)) else {
        // A line of the table of fronts.
        let flag = OsString::from(format!("--front={}={}", name.replace('.', "/"), values[0]));
        check(Some(flag), "front", command).ok()?;
        return Some((name.to_owned(), format!("{name} = \"{}\"", values[0])));
    };
    let is_taken = |value: &String| check(Some(format!("--{name}={value}").into()), name, command).is_ok();
    if matches!(arg.get_action(), ArgAction::SetTrue) || !values.iter().all(is_taken) {
        return None;
    }
    let all = format!("\"{}\"", values.join("\", \""));
    Some((
        name.to_owned(),
        if takes_many(arg) { format!("{name} = [{all}]") } else { format!("{name} = {all}") },
    ))
}

/// A line of the file that sets the option of the line at this place.
fn example(text: &str, at: usize, command: &Command) -> Option<String> {
    let (name, _) = line_at(text, at)?;
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name))?;
    form(arg, name)
}

/// The first character that TOML allows nowhere, or lone carriage return: its offset, what is wrong with it, and what to do.
fn forbidden(text: &str) -> Option<(usize, String, String)> {
    let (at, c) = text.char_indices().find(|&(at, c)| match c {
        '\t' | '\n' => false,
        '\r' => !text[at..].starts_with("\r\n"),
        c => c.is_control(),
    })?;
    Some(match c {
        '\r' => (
            at,
            "the line ends with a carriage return alone".to_owned(),
            "save the file with the line ends of Unix or of Windows".to_owned(),
        ),
        c => {
            let code = format!("U+{:04X}", u32::from(c));
            let name = if c == '\u{1b}' { format!("{code}, ESC") } else { code };
            (
                at,
                format!("there is a control character, {name}"),
                "remove that character, or write the line anew".to_owned(),
            )
        }
    })
}

/// What is unusual in the line at this offset: typographic quotation marks, or a space that is not plain.
fn unusual(text: &str, at: usize) -> Option<&'static str> {
    let start = text.get(..at)?.rfind('\n').map_or(0, |end| end + 1);
    let line = text.get(start..)?.lines().next()?;
    if line.contains(TYPOGRAPHIC) {
        return Some("there are typographic quotation marks: a text stands between plain ones, \" or '");
    }
    line.contains(|c: char| c.is_whitespace() && !c.is_ascii())
        .then_some("there is a special space, such as a no-break space: write a plain one")
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
        "string values must be quoted" | "missing opening quote" => {
            "a text has to stand in quotation marks, and a number consists of digits"
        }
        "missing value" | "missing value for key" => "the value is missing",
        "unexpected key or value" | "unexpected content" => {
            "the line has to end here: each option stands on a line of its own"
        }
        "missing comma between array elements" => "a comma is missing between two elements of the list",
        "extra comma in array" => "there is one comma too many in the list",
        "extra `=`" | "unexpected `=` in array" => "there is one = too many",
        "unquoted keys cannot be empty" => "the name of the option is missing before the =",
        "invalid unquoted key" | "invalid key" => "the name of an option has letters, digits and - only",
        "invalid key-value pair" | "invalid table" => "each line is written NAME = VALUE",
        "key with no value" => "a = and a value are missing",
        "invalid boolean" => "it is written true or false, in lower case",
        "unexpected leading zero" => "a number does not begin with 0",
        "missing escaped value" | "too few unicode value digits" | "invalid value" => {
            "after a \\ only certain letters may follow: write the text between single quotes, ', where \\ means itself"
        }
        "recursion limit" | "cannot recurse further; max recursion depth met" => {
            "there are too many brackets inside each other"
        }
        "unclosed array table" | "unclosed table" | "missing table open" => {
            "the name of a table stands in brackets"
        }
        "duplicate key" => "the same name stands here twice",
        _ if first.starts_with("invalid ") && NUMBERS.iter().any(|kind| first.contains(kind)) => {
            "this is neither a number nor a text in quotation marks"
        }
        "`_` may only go between digits" | "redundant numeric sign" | "unexpected sign" => {
            "this is no number"
        }
        other => return format!("this is no valid TOML ({})", other.replace('`', "'")),
    };
    sentence.into()
}

/// The number of the first line that sets this key.
fn first_line_of(text: &str, key: &str) -> Option<usize> {
    let is_it = |line: &str| line.split_once('=').is_some_and(|(name, _)| name.trim() == key);
    text.lines().position(is_it).map(|at| at + 1)
}

/// Line and column of a place in the text, from 1.
fn place(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line = before.rfind('\n').map_or(0, |end| end + 1);
    (before.matches('\n').count() + 1, before[line..].chars().count() + 1)
}
