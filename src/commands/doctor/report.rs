//! What the doctor finds, layer by layer, and how it is shown.

use std::fmt::Write as _;

use serde::Serialize;

use crate::problem::Problem;

/// The layers, in the order in which one rests on another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Layer {
    Configuration,
    Group,
    Interfaces,
    Ports,
    Discovery,
    Link,
    Clock,
    Gateway,
    Request,
    Environment,
}

/// What is thought of one thing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It cannot work so.
    Wrong,
    /// Not looked at: something before it is wrong, or it does not concern this machine.
    Skipped,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) layer: Layer,
    pub(super) verdict: Verdict,
    /// What is so.
    pub(super) what: String,
    /// Why.
    pub(super) why: Vec<String>,
    /// The command that fixes it.
    pub(super) hint: Option<String>,
}

/// All that was found so far.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// Nothing is wrong.
    pub(super) ok: bool,
    pub(super) findings: Vec<Finding>,
}

impl Layer {
    /// The word for people.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Group => "group",
            Self::Interfaces => "interfaces",
            Self::Ports => "ports",
            Self::Discovery => "discovery",
            Self::Link => "link",
            Self::Clock => "clock",
            Self::Gateway => "gateway",
            Self::Request => "request",
            Self::Environment => "environment",
        }
    }
}

impl Finding {
    pub(super) fn ok(layer: Layer, what: impl Into<String>) -> Self {
        Self { layer, verdict: Verdict::Ok, what: what.into(), why: Vec::new(), hint: None }
    }

    pub(super) fn wrong(layer: Layer, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Wrong, ..Self::ok(layer, what) }
    }

    pub(super) fn skipped(layer: Layer, what: impl Into<String>) -> Self {
        Self { verdict: Verdict::Skipped, ..Self::ok(layer, what) }
    }

    /// What another command would have said of it.
    pub(super) fn problem(layer: Layer, problem: Problem) -> Self {
        let (what, why, hint) = problem.parts();
        Self { why, hint, ..Self::wrong(layer, what) }
    }

    #[must_use]
    pub(super) fn because(mut self, why: impl Into<String>) -> Self {
        self.why.push(why.into());
        self
    }

    #[must_use]
    pub(super) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The lines for people.
    pub(super) fn text(&self, coloured: bool) -> String {
        let (word, colour) = match self.verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Wrong => ("wrong", "1;31"),
            Verdict::Skipped => ("skipped", "2"),
        };
        let mark = format!("{word:<8}");
        let mark = if coloured { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark };
        let mut text = format!("{mark} {:<14} {}", self.layer.word(), self.what);
        for why in &self.why {
            let _ = write!(text, "\n         caused by: {why}");
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n         hint: {hint}");
        }
        text
    }
}

impl Report {
    /// The layers in which something is wrong, in order.
    pub(super) fn wrong(&self) -> Vec<&'static str> {
        let wrong = self.findings.iter().filter(|finding| finding.verdict == Verdict::Wrong);
        let mut layers: Vec<_> = wrong.map(|finding| finding.layer).collect();
        layers.dedup();
        layers.into_iter().map(Layer::word).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_reads_like_an_error_and_is_coloured_only_when_asked() {
        let finding = Finding::wrong(Layer::Ports, "taken").because("by sleep").hint("kill 7");
        let expected = "wrong    ports          taken\n         caused by: by sleep\n         hint: kill 7";
        assert_eq!(finding.text(false), expected);
        assert!(finding.text(true).starts_with("\x1b[1;31mwrong   \x1b[0m ports"));
    }
}
