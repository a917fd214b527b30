//! The doctor's findings, layer by layer, and how they are shown.

use std::fmt::Write as _;

use serde::Serialize;

use crate::commands::{progress, say};
use crate::problem::{Problem, harmless};

/// The layers in the order of their checks: each depends on those before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Layer {
    Configuration,
    Group,
    Storage,
    Interfaces,
    Ports,
    Node,
    Firewall,
    #[serde(rename = "way out")]
    WayOut,
    #[serde(rename = "name servers")]
    NameServers,
    Discovery,
    Link,
    Clock,
    Gateway,
    Request,
    Environment,
}

/// The result of one check.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verdict {
    /// As it should be.
    Ok,
    /// It cannot work like this.
    Wrong,
    /// Not checked: an earlier layer is wrong, or it does not concern this machine.
    Skipped,
}

/// One result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) layer: Layer,
    pub(super) verdict: Verdict,
    /// What was found.
    pub(super) what: String,
    /// The causes, each of the one before it.
    pub(super) why: Vec<String>,
    /// The command that fixes it.
    pub(super) hint: Option<String>,
}

/// The findings so far. As text they are printed while they are added.
#[derive(Debug)]
pub(super) struct Diagnosis {
    json: bool,
    report: Report,
}

/// The form of the JSON output.
#[derive(Debug, Default, Serialize)]
struct Report {
    /// Nothing is wrong.
    ok: bool,
    findings: Vec<Finding>,
}

impl Layer {
    /// The layer's name in the text output.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Configuration => "configuration",
            Self::Group => "group",
            Self::Storage => "storage",
            Self::Interfaces => "interfaces",
            Self::Ports => "ports",
            Self::Node => "node",
            Self::Firewall => "firewall",
            Self::WayOut => "way out",
            Self::NameServers => "name servers",
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

    /// A finding from the problem that another command would report.
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

    /// The lines of the text output.
    pub(super) fn text(&self, coloured: bool) -> String {
        let (word, colour) = match self.verdict {
            Verdict::Ok => ("ok", "32"),
            Verdict::Wrong => ("wrong", "1;31"),
            Verdict::Skipped => ("skipped", "2"),
        };
        let mark = format!("{word:<8}");
        let mark = if coloured { format!("\x1b[{colour}m{mark}\x1b[0m") } else { mark };
        let mut text = format!("{mark} {:<14} {}", self.layer.word(), harmless(&self.what));
        for why in &self.why {
            let _ = write!(text, "\n         caused by: {}", harmless(why));
        }
        if let Some(hint) = &self.hint {
            let _ = write!(text, "\n         hint: {}", harmless(hint));
        }
        text
    }
}

impl Diagnosis {
    /// Without findings; `json` suppresses the text output.
    pub(super) fn new(json: bool) -> Self {
        Self { json, report: Report::default() }
    }

    /// Adds a finding.
    pub(super) fn add(&mut self, finding: Finding) {
        if !self.json {
            say(finding.text(progress::is_coloured()));
        }
        self.report.findings.push(finding);
    }

    /// Adds findings.
    pub(super) fn extend(&mut self, findings: Vec<Finding>) {
        findings.into_iter().for_each(|finding| self.add(finding));
    }

    /// Notes that these layers were not checked.
    pub(super) fn skip(&mut self, layers: &[Layer], why: &str) {
        layers.iter().for_each(|layer| self.add(Finding::skipped(*layer, why)));
    }

    /// Concludes the report. Returns the layers in which something is wrong, in order.
    pub(super) fn finish(&mut self) -> Vec<&'static str> {
        let wrong = self.wrong();
        self.report.ok = wrong.is_empty();
        wrong
    }

    /// The report as one line of JSON.
    pub(super) fn json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.report)
    }

    fn wrong(&self) -> Vec<&'static str> {
        let wrong = self.report.findings.iter().filter(|finding| finding.verdict == Verdict::Wrong);
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
        let hostile = Finding::ok(Layer::Storage, "/a\x1b[2J").because("\u{9b}1m").hint("\x07");
        assert!(!hostile.text(false).contains(|c: char| c.is_control() && c != '\n'));
    }
}
