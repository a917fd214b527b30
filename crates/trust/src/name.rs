//! The names of members: what a name may look like, and which names are too alike to be told apart.
//!
//! People remove members by name, so a name must be printable, typeable and unlike any other member's.

use std::collections::HashSet;

use laneway_wire::failure::printable;

/// Maximum length of a name that a machine asks for. A common name has at most 64 characters (RFC 5280 appendix A), and a
/// number may be appended.
const LONGEST: usize = 48;

/// The name that a machine asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WantedName {
    /// A person chose it: it is refused when another member has it.
    Chosen(String),
    /// Derived from the host name: a number is appended when another member has it.
    Suggested(String),
}

impl WantedName {
    /// The chosen name, else one that is derived from the host name.
    pub fn new(chosen: Option<String>, host_name: &str) -> Self {
        chosen.map_or_else(|| Self::Suggested(tidied(host_name)), Self::Chosen)
    }

    /// The name.
    pub fn name(&self) -> &str {
        match self {
            Self::Chosen(name) | Self::Suggested(name) => name,
        }
    }

    /// Whether a person chose it.
    pub fn is_chosen(&self) -> bool {
        matches!(self, Self::Chosen(_))
    }
}

/// Whether a member may have this name: 1 to 48 ASCII letters, digits, `-`, `_` and `.`, of which the first and the last are
/// a letter or a digit. It must not have the 32 hexadecimal digits of an id.
pub fn is_valid(name: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
    let ends = |c: char| c.is_ascii_alphanumeric();
    let looks_like_an_id = name.len() == 32 && name.chars().all(|c| c.is_ascii_hexdigit());
    (1..=LONGEST).contains(&name.len())
        && name.chars().all(inside)
        && name.starts_with(ends)
        && name.ends_with(ends)
        && !looks_like_an_id
}

/// A valid name as close as possible to a host name.
fn tidied(host_name: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || "-_.".contains(c) { c } else { '-' };
    let name: String = host_name.trim().chars().take(LONGEST).map(safe).collect();
    let name = name.trim_matches(['-', '_', '.']);
    if is_valid(name) { name.to_owned() } else { "node".to_owned() }
}

/// Whether two names are the same to a person who reads them: letter case, the kind of separator, and characters that look
/// alike do not distinguish names.
pub(super) fn are_alike(one: &str, other: &str) -> bool {
    skeleton(one) == skeleton(other)
}

/// The names of other members.
pub(super) struct Taken(HashSet<String>);

impl Taken {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>) -> Self {
        Self(names.map(skeleton).collect())
    }

    /// Whether a member has this name or one that looks like it.
    pub(super) fn contains(&self, name: &str) -> bool {
        self.0.contains(&skeleton(name))
    }

    /// The wanted name, with a number appended if it is taken.
    pub(super) fn free_name(&self, wanted: &str) -> String {
        let numbered = (2_u64..).map(|number| format!("{wanted}-{number}"));
        std::iter::once(wanted.to_owned())
            .chain(numbered)
            .find(|name| !self.contains(name))
            .expect("numbers do not run out")
    }
}

/// A name from the network, safe to print.
pub(super) fn shown(name: &str) -> String {
    printable(name).chars().take(2 * LONGEST).collect()
}

/// The same text for names that look alike.
fn skeleton(name: &str) -> String {
    let one = |c: char| match c.to_ascii_lowercase() {
        'i' | '1' => 'l',
        '0' => 'o',
        '_' | '.' => '-',
        c => c,
    };
    let mut text = name.chars().map(one).collect::<String>().replace("rn", "m").replace("vv", "w");
    while text.contains("--") {
        text = text.replace("--", "-");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn control_characters_other_scripts_and_overlong_names_are_not_valid() {
        for good in ["a", "lab-pc.3", "PC_7", "2nd", &"x".repeat(LONGEST), "cafe"] {
            assert!(is_valid(good), "{good}");
        }
        for bad in [
            "",
            "-rf",
            "a-",
            ".hidden",
            "a b",
            "a\n",
            "a\u{1b}[31m",
            "\u{0430}dmin",
            "a\u{202e}b",
            "a/b",
            &"x".repeat(LONGEST + 1),
            &"ab".repeat(16),
        ] {
            assert!(!is_valid(bad), "{bad:?}");
        }
    }

    #[test]
    fn names_that_a_reader_confuses_are_alike_and_numbers_are_not() {
        for (one, other) in
            [("Admin", "adm1n"), ("pool", "poo1"), ("node0", "nodeO"), ("a-b", "a_b"), ("modem", "rnodem")]
        {
            assert!(are_alike(one, other), "{one} {other}");
        }
        for (one, other) in [("pc-1", "pc-2"), ("pc-1", "pc-11"), ("first", "first-2"), ("lab", "lap")] {
            assert!(!are_alike(one, other), "{one} {other}");
        }
    }

    proptest! {
        #[test]
        fn every_host_name_gives_a_valid_name(host_name: String) {
            prop_assert!(is_valid(&tidied(&host_name)));
        }

        #[test]
        fn a_valid_host_name_is_kept(host_name in "[a-z0-9][a-z0-9.-]{0,20}[a-z0-9]") {
            prop_assert_eq!(tidied(&host_name), host_name);
        }
    }
}
