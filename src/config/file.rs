//! The configuration file. It takes exactly what the flags take, because its values become flags: each key is the name of
//! an option, each value is read by that option's own parser, and an error names the line and column.

mod syntax;
mod unclosed;

use std::any::TypeId;
use std::ffi::OsString;
use std::ops::Range;
use std::path::PathBuf;

use clap::builder::Arg;
use clap::{ArgAction, Command};
use toml::de::{DeTable, DeValue};

pub(super) use self::syntax::texts;
use self::syntax::{Fault, check, form};
use crate::failure::printable;
use crate::fronts::kind::{KINDS, Kind};
use crate::usage::{self, takes_many};

/// The table of fronts.
const FRONTS: &str = "fronts";

/// The ids of the options that a file sets, each with the flags that set it.
pub(super) type Settings = Vec<(String, Vec<OsString>)>;

/// Reads a file for the options of `command`.
///
/// # Errors
/// The first [`Fault`].
pub(super) fn settings(text: &str, command: &Command) -> Result<Settings, Fault> {
    let fault = |span: Range<usize>, what: String| Fault::at(text, span.start, what);
    let table = DeTable::parse(text)
        .map_err(|error| syntax::fault(text, error.message(), error.span().unwrap_or_default(), command))?;
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
            let is_header =
                text.get(..key.span().start).is_some_and(|before| before.trim_end().ends_with('['));
            let (what, advice) = no_table(name, is_header, command);
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

/// What is wrong with a table other than that of fronts, or with a table as the value of an option, and what to do.
fn no_table(name: &str, is_header: bool, command: &Command) -> (String, String) {
    let shown = printable(name);
    let arg = command.get_arguments().find(|arg| arg.get_long() == Some(name));
    match (arg.and_then(|arg| form(arg, name)), is_header) {
        (Some(form), false) => (
            format!("{shown}: a table in braces, or a name with a dot, is no value of it"),
            format!("write it like  {form}"),
        ),
        _ if usage::nearest(&name.to_ascii_lowercase(), [FRONTS].into_iter()).is_some() => (
            format!("there is no table [{shown}]; did you mean [{FRONTS}]?"),
            format!("write it as  [{FRONTS}]  and the registries below it, each as KIND = \"URL\""),
        ),
        _ => (
            format!("'{shown}' is not a table: the only one is [{FRONTS}]"),
            format!("write the options above all tables, each as NAME = VALUE, without [{shown}]"),
        ),
    }
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
            .map_err(|_too_large| "the number is too large")?
            .to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        _ => return Err("a string or a number is expected".into()),
    };
    Ok(Some(format!("--{name}={text}").into()))
}

/// Where a key belongs that is not an option.
fn elsewhere(name: &str) -> Option<String> {
    if name == FRONTS {
        return Some(format!(
            "write  [{FRONTS}]  on a line of its own, in single brackets, and the registries below it"
        ));
    }
    Kind::of(name).map(|kind| {
        let kind = kind.word();
        format!("move the line of '{kind}' below a line [{FRONTS}], at the end of the file")
    })
}

fn unknown(name: &str, command: &Command) -> String {
    if name == FRONTS {
        return format!("'{FRONTS}' is no option but a table");
    }
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
