//! Why the rules refuse a destination, in a sentence that names the option that decided and the one that would allow it.
//!
//! Members of the group may learn the rule that concerns what they asked for. The other rules are not named.

use super::rule::Rule;

/// Why the rules refuse a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why<'a> {
    /// This rule of `--deny` matches.
    Denied(&'a Rule),
    /// No `--server` and no `--allow` matches, although there are some.
    NotAllowed,
    /// No rule allows the name, which an upstream proxy resolves.
    NotNamed,
    /// A name of the machine itself, which an upstream proxy would resolve.
    LocalName,
    /// Loopback, link-local or another special address that no rule names.
    Special,
    /// The gateway's own address, which no rule names.
    Own,
    /// An address where a gateway accepts links, which no rule names.
    Link,
}

impl Why<'_> {
    /// The sentence about `subject`. `allowing` is the rule that would allow it; `is_open` is set while there are no allowing
    /// rules: the first one closes everything else.
    pub(super) fn sentence(self, subject: &str, allowing: &str, is_open: bool) -> String {
        let all = if is_open { " --allow '*'" } else { "" };
        let fix = format!("add --allow {allowing}{all} there to allow it");
        match self {
            Self::Denied(rule) => {
                format!("{subject} is refused by --deny {rule}: change that rule there to allow it")
            }
            Self::NotAllowed => format!("{subject} is not in --server or --allow: {fix}"),
            Self::NotNamed => {
                format!("{subject} is resolved by --upstream, and no --server or --allow names it: {fix}")
            }
            Self::LocalName => {
                format!("{subject} would be the machine of the --upstream proxy itself, which no rule allows")
            }
            Self::Special => format!(
                "{subject} is a loopback, link-local or other special address, allowed only by a rule that names it: {fix}"
            ),
            Self::Own => {
                format!("{subject} is the gateway's own address, allowed only by a rule for it alone: {fix}")
            }
            Self::Link => format!(
                "{subject} is where a gateway accepts links, allowed only by a rule for that address alone: {fix}"
            ),
        }
    }
}
