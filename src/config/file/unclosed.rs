//! What a file opens and does not close. A parser of TOML finds that only where the rest makes no sense, which may be many lines
//! below.

use std::ops::Range;

/// Something that is opened and not closed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unclosed<'a> {
    /// Where it is opened.
    pub(super) span: Range<usize>,
    /// The key whose value it is in; none for the name of a table.
    pub(super) key: Option<&'a str>,
    /// What it is.
    pub(super) what: &'static str,
    /// The character that is missing.
    pub(super) missing: char,
}

/// The first list, string or name of a table in the text that is not closed. `None` in doubt: a text with strings of several
/// lines.
pub(super) fn first(text: &str) -> Option<Unclosed<'_>> {
    if text.contains("\"\"\"") || text.contains("'''") {
        return None;
    }
    let mut list: Option<Unclosed<'_>> = None;
    let (mut depth, mut tables, mut start) = (0_usize, 0_usize, 0);
    for line in text.split_inclusive('\n') {
        let bare = line.trim();
        if depth > 0 && (is_header(bare) || tables == 0 && key_of(bare).is_some()) {
            return list;
        }
        let key = if depth == 0 { key_of(bare) } else { None };
        if depth == 0 && bare.starts_with('[') {
            // Several names in quotes are for the parser.
            if !bare.contains(']') {
                let at = start + line.find('[').unwrap_or_default();
                return Some(Unclosed {
                    span: at..at + 1,
                    key: None,
                    what: "the name of the table",
                    missing: ']',
                });
            }
        } else {
            let mut rest = line.char_indices();
            while let Some((at, c)) = rest.next() {
                let span = start + at..start + at + 1;
                match c {
                    '#' => break,
                    '"' | '\'' => {
                        let mut escaped = false;
                        let is_end = |(_, next): (usize, char)| {
                            let ends = next == c && !escaped;
                            escaped = c == '"' && next == '\\' && !escaped;
                            ends
                        };
                        if !rest.any(is_end) {
                            let key = key.or_else(|| list.as_ref().and_then(|list| list.key));
                            return Some(Unclosed { span, key, what: "the string", missing: c });
                        }
                    }
                    '[' => {
                        depth += 1;
                        let new = Unclosed { span, key, what: "the list", missing: ']' };
                        list.get_or_insert(new);
                    }
                    ']' => {
                        depth = depth.saturating_sub(1);
                        if depth == 0 {
                            list = None;
                        }
                    }
                    '{' => tables += 1,
                    '}' => tables = tables.saturating_sub(1),
                    _ => {}
                }
            }
        }
        start += line.len();
    }
    list
}

/// The key that a line without blanks around it sets.
fn key_of(line: &str) -> Option<&str> {
    let (key, _) = line.split_once('=')?;
    let key = key.trim();
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    (!key.is_empty() && key.chars().all(is_bare)).then_some(key)
}

/// Whether a line without blanks around it begins a table, and is not a list in a list.
fn is_header(line: &str) -> bool {
    let name = line.split('#').next().and_then(|line| line.trim().strip_prefix('[')?.strip_suffix(']'));
    let is_bare = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    name.is_some_and(|name| name.starts_with(|c: char| c.is_ascii_alphabetic()) && name.chars().all(is_bare))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_not_closed_is_found_where_it_is_opened() {
        for (text, at, key, missing) in [
            ("server = ['a:1'", 9, Some("server"), ']'),
            ("server = ['a:1'\nhold = 1", 9, Some("server"), ']'),
            ("server = [\n  'a:1', # one\n  'b:1',\n\n[fronts]\npypi = 'x'", 9, Some("server"), ']'),
            ("hold = 1\nserver = ['a:1]", 19, Some("server"), '\''),
            ("server = [\n 'a:1,\n]", 12, Some("server"), '\''),
            ("role = \"auto\nhold = 1", 7, Some("role"), '"'),
            (r#"role = "au\"to"#, 7, Some("role"), '"'),
            ("hold = 1\n[fronts\npypi = 'x'", 9, None, ']'),
            ("deny = [['a', 'b']", 7, Some("deny"), ']'),
        ] {
            let found = first(text).unwrap_or_else(|| panic!("nothing in {text:?}"));
            assert_eq!((found.span.start, found.key, found.missing), (at, key, missing), "{text:?}");
        }
    }

    #[test]
    fn what_is_closed_is_not_found() {
        for text in [
            "",
            "server = [ # [\n  'a:1', \"b]\",\n]\nhold = 1 # it's\n",
            r#"upstream = "http://a:\"b@c:1" # \"#,
            "front = ['pypi=https://h/x']\n[fronts]\napt = { debian = 'https://h/' }",
            "[[fronts]]\n['fronts'.apt]\n",
            "x = [{ a = 1 },\n { b = 2 }]",
            "deny = [\n ['a'],\n]",
            "x = '''\nit's\n'''",
            "x = []]",
        ] {
            assert_eq!(first(text), None, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read(text in "[\\[\\]'\"#={}\\\\a\n é]{0,60}") {
            if let Some(found) = first(&text) {
                prop_assert!(text.get(found.span).is_some_and(|opened| !opened.is_empty()));
            }
        }
    }
}
