//! Cache-Control (RFC 9111 §5.2): the directives of a request and those of a response.

use laneway_wire::http::Fields;

/// The largest number of seconds that is computed with (RFC 9111 §1.2.2).
pub const MAX_SECONDS: u64 = 1 << 31;

/// One directive, and its argument without quotes.
type Directive = (String, Option<String>);

/// The directives of a message, their names in lower case, in the order received.
#[derive(Debug, Default)]
pub struct CacheControl(Vec<Directive>);

/// The argument of a directive that takes a number of seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seconds {
    /// The directive is not there.
    Absent,
    /// This number of seconds, at most [`MAX_SECONDS`].
    Of(u64),
    /// Not a number, or several that differ: the response counts as stale (RFC 9111 §4.2.1).
    Invalid,
}

impl CacheControl {
    /// Reads the directives of all Cache-Control fields. An argument may be a token or a quoted string, whatever the
    /// directive asks for (RFC 9111 §5.2).
    #[must_use]
    pub fn of(fields: &Fields) -> Self {
        let mut directives = Vec::new();
        for value in fields.all("cache-control") {
            read(&String::from_utf8_lossy(value), &mut directives);
        }
        Self(directives)
    }

    /// Whether there is no directive at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the directive `name` is there, with or without an argument.
    #[must_use]
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(found, _)| found == name)
    }

    /// Whether the directive `name` is there without an argument.
    #[must_use]
    pub fn has_plain(&self, name: &str) -> bool {
        self.0.iter().any(|(found, argument)| found == name && argument.is_none())
    }

    /// The argument of the directive `name` in seconds.
    #[must_use]
    pub fn seconds(&self, name: &str) -> Seconds {
        let mut all = self.0.iter().filter(|(found, _)| found == name).map(|(_, argument)| argument);
        let Some(first) = all.next() else { return Seconds::Absent };
        if all.any(|other| other != first) {
            return Seconds::Invalid;
        }
        first.as_deref().and_then(delta_seconds).map_or(Seconds::Invalid, Seconds::Of)
    }
}

/// Reads `1*DIGIT`; numbers above [`MAX_SECONDS`] count as that (RFC 9111 §1.2.2).
#[must_use]
pub fn delta_seconds(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some(text.parse().unwrap_or(MAX_SECONDS).min(MAX_SECONDS))
}

/// Directives that restrict who may get a response, or require asking the server first: they count even in a malformed part, as
/// after a semicolon or an unterminated quote.
const RESTRICTING: [&str; 3] = ["no-cache", "no-store", "private"];

/// Splits a list of directives. A comma inside of a quoted string separates nothing.
fn read(value: &str, directives: &mut Vec<Directive>) {
    let (mut start, mut quoted, mut escaped) = (0, false, false);
    for (at, byte) in value.bytes().chain([b',']).enumerate() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if quoted => escaped = true,
            b'"' => quoted = !quoted,
            b',' if !quoted || at == value.len() => {
                push(value[start..at].trim(), directives);
                start = at + 1;
            }
            _ => {}
        }
    }
}

fn push(text: &str, directives: &mut Vec<Directive>) {
    let (name, argument) = match text.split_once('=') {
        Some((name, argument)) => (name, Some(unquoted(argument))),
        None => (text, None),
    };
    if !name.is_empty() {
        directives.push((name.to_ascii_lowercase(), argument));
    }
    if !is_well_formed(text) {
        let words = text.split(|letter: char| !is_of_token(letter)).map(str::to_ascii_lowercase);
        directives.extend(words.filter(|word| RESTRICTING.contains(&&**word)).map(|word| (word, None)));
    }
}

/// Whether this is a token, alone or with a token or quoted string as its argument.
fn is_well_formed(text: &str) -> bool {
    let (name, argument) = text.split_once('=').unwrap_or((text, ""));
    let is_token = |text: &str| text.chars().all(is_of_token);
    let is_quoted = argument.len() > 1 && argument.starts_with('"') && argument.ends_with('"');
    is_token(name) && (is_token(argument) || is_quoted)
}

/// Whether this may be a part of a token (RFC 9110 §5.6.2).
fn is_of_token(letter: char) -> bool {
    letter.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(letter)
}

fn unquoted(argument: &str) -> String {
    match argument.strip_prefix('"').and_then(|inner| inner.strip_suffix('"')) {
        Some(inner) => inner.replace('\\', ""),
        None => argument.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(lines: &[&str]) -> CacheControl {
        let mut fields = Fields::default();
        lines.iter().for_each(|line| fields.push("Cache-Control", line.as_bytes()).unwrap());
        CacheControl::of(&fields)
    }

    #[test]
    fn names_are_read_without_regard_to_case_and_arguments_with_or_without_quotes() {
        for line in
            ["max-age=5", "MAX-AGE=5", "max-age=\"5\"", "foo, Max-Age=5", "x=\"a, max-age=9\", max-age=5"]
        {
            assert_eq!(of(&[line]).seconds("max-age"), Seconds::Of(5), "{line}");
        }
        assert_eq!(of(&["no-store", "max-age=5"]).seconds("max-age"), Seconds::Of(5));
        assert!(of(&["no-store", "max-age=5"]).has("no-store"));
        assert!(!of(&["x=\"no-store\""]).has("no-store"));
        assert!(of(&["no-cache=\"set-cookie\""]).has("no-cache"));
        assert!(!of(&["no-cache=\"set-cookie\""]).has_plain("no-cache"));
    }

    /// RFC 9111 §4.2.1: an invalid lifetime makes a response stale; §1.2.2: large numbers do not overflow.
    #[test]
    fn only_one_whole_number_of_seconds_is_valid() {
        for (line, want) in [
            ("max-age=0", Seconds::Of(0)),
            ("max-age=007", Seconds::Of(7)),
            ("max-age=99999999999999999999999", Seconds::Of(MAX_SECONDS)),
            ("max-age=2147483649", Seconds::Of(MAX_SECONDS)),
            ("max-age=5, max-age=5", Seconds::Of(5)),
            ("max-age=5, max-age=6", Seconds::Invalid),
            ("max-age=-5", Seconds::Invalid),
            ("max-age=5.0", Seconds::Invalid),
            ("max-age=", Seconds::Invalid),
            ("max-age", Seconds::Invalid),
            ("max-age= 5", Seconds::Invalid),
            ("max-age='5'", Seconds::Invalid),
            ("max-age =5", Seconds::Absent),
            ("s-maxage=5", Seconds::Absent),
        ] {
            assert_eq!(of(&[line]).seconds("max-age"), want, "{line}");
        }
    }

    /// Restricting directives in malformed lines were ignored, so the response was given to everybody.
    #[test]
    fn what_restricts_counts_in_malformed_lines_too() {
        for line in [
            "max-age=60; private",
            "private; max-age=60",
            "max-age=60 private",
            "ext=\"a, private",
            "ext=\"a\\\", private",
            "private =\"x\"",
            "max-age=60;Private",
        ] {
            assert!(of(&[line]).has("private"), "{line}");
        }
        for line in ["ext=\"a, private, b\"", "private-x", "x=private", "max-age=60, x-private=1"] {
            assert!(!of(&[line]).has("private"), "{line}");
        }
        assert_eq!(of(&["max-age=60; private"]).seconds("max-age"), Seconds::Invalid);
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(text in "[ -~\t\u{80}-\u{ff}]{0,80}") {
            let control = of(&[&text]);
            let _ = (control.seconds("max-age"), control.has("no-store"), control.is_empty());
        }
    }
}
