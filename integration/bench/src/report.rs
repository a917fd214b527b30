//! The results: Markdown for people, JSON with every round for programs.

use crate::measures::measure::{Figure, Metric};
use crate::network::Facts;
use crate::options::Options;
use crate::peers::ceiling;
use crate::peers::peer::Peer;
use crate::statistics::median;
use anyhow::{Context, Error, Result};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

/// Collects figures while the run goes on.
pub(crate) struct Report {
    facts: Value,
    peers: Vec<(String, &'static str)>,
    skipped: Vec<(String, String, &'static str)>,
    sections: Vec<Section>,
    failures: Vec<String>,
}

/// One measure.
struct Section {
    name: &'static str,
    title: &'static str,
    metrics: Vec<Metric>,
    /// By peer and metric: the value of each round in which there was one.
    values: BTreeMap<(String, String), BTreeMap<u8, f64>>,
}

impl Report {
    pub(crate) fn new(options: &Options, facts: &Facts) -> Self {
        let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
        let processor = read("/proc/cpuinfo");
        let processor = processor
            .lines()
            .find(|line| line.starts_with("model name"))
            .and_then(|line| line.split_once(": "));
        let facts = json!({
            "kernel": read("/proc/sys/kernel/osrelease").trim(),
            "processors": std::thread::available_parallelism().map_or(0, usize::from),
            "processor": processor.map(|(_, model)| model),
            "congestion_control": facts.congestion_control,
            "tcp_rmem": facts.tcp_rmem,
            "tcp_wmem": facts.tcp_wmem,
            "rounds": options.rounds,
            "window_ms": options.window().as_secs_f64() * 1000.0,
        });
        Self { facts, peers: Vec::new(), skipped: Vec::new(), sections: Vec::new(), failures: Vec::new() }
    }

    pub(crate) fn takes_part(&mut self, peer: &dyn Peer) {
        self.peers.push((peer.name().to_owned(), peer.about().what));
    }

    pub(crate) fn skipped(&mut self, peer: &str, reason: &str, install: &'static str) {
        self.skipped.push((peer.to_owned(), reason.to_owned(), install));
    }

    /// Adds the figures of one measure of one peer in one round, and the error when it is incomplete.
    pub(crate) fn add(
        &mut self,
        (name, title): (&'static str, &'static str),
        peer: &str,
        round: u8,
        figures: Vec<Figure>,
        failed: Option<Error>,
    ) {
        if let Some(error) = failed {
            eprintln!("  failed: {error:#}");
            self.failures.push(format!("{name}, {peer}, round {round}: {error:#}"));
        }
        let section = match self.sections.iter().position(|section| section.name == name) {
            Some(known) => &mut self.sections[known],
            None => {
                self.sections.push(Section { name, title, metrics: Vec::new(), values: BTreeMap::new() });
                self.sections.last_mut().expect("it was just pushed")
            }
        };
        for Figure { metric, value } in figures {
            section.values.entry((peer.to_owned(), metric.name.clone())).or_default().insert(round, value);
            if !section.metrics.contains(&metric) {
                section.metrics.push(metric);
            }
        }
    }

    /// Prints the tables.
    pub(crate) fn print(&self) {
        let fact = |name: &str| self.facts[name].to_string().trim_matches('"').to_owned();
        println!(
            "Linux {}, {} processors, {}, tcp_rmem {}, tcp_wmem {}; medians of {} rounds, taken in turns; in parentheses the \
             median of the rounds' ratios to the ceiling.\n",
            fact("kernel"),
            fact("processors"),
            fact("congestion_control"),
            fact("tcp_rmem"),
            fact("tcp_wmem"),
            fact("rounds"),
        );
        println!("| peer | what it is |\n| --- | --- |");
        for (peer, what) in &self.peers {
            println!("| {peer} | {what} |");
        }
        for (peer, reason, install) in &self.skipped {
            let install =
                if install.is_empty() { String::new() } else { format!("; install with `{install}`") };
            println!("| {peer} | skipped: {reason}{install} |");
        }
        for section in &self.sections {
            section.print(&self.peers);
        }
        for failure in &self.failures {
            println!("\nFailed: {failure}");
        }
    }

    /// Writes the JSON.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let sections: Vec<_> = self.sections.iter().map(|section| section.json(&self.peers)).collect();
        let skipped: Vec<_> =
            self.skipped.iter().map(|(peer, reason, _)| json!({"peer": peer, "reason": reason})).collect();
        let all =
            json!({"facts": self.facts, "measures": sections, "skipped": skipped, "failures": self.failures});
        let text = serde_json::to_string_pretty(&all)?;
        fs::write(path, text + "\n").with_context(|| format!("{} cannot be written", path.display()))
    }
}

impl Section {
    fn print(&self, peers: &[(String, &'static str)]) {
        println!("\n### {}\n", self.title);
        let heads = self.metrics.iter().map(|metric| match metric.unit {
            "" => format!(" {} |", metric.name),
            unit => format!(" {}, {unit} |", metric.name),
        });
        println!("| peer |{}\n| --- |{}", heads.collect::<String>(), " ---: |".repeat(self.metrics.len()));
        for (peer, _) in peers {
            let cells: Vec<_> = self.metrics.iter().map(|metric| self.cell(peer, metric)).collect();
            if cells.iter().any(|cell| !cell.is_empty()) {
                println!("| {peer} | {} |", cells.join(" | "));
            }
        }
    }

    fn cell(&self, peer: &str, metric: &Metric) -> String {
        let Some(middle) = self.values_of(peer, metric).and_then(|rounds| median(rounds.values().copied()))
        else {
            return String::new();
        };
        let ratio = self.ratio(peer, metric).map(|ratio| format!(" ({ratio:.2})")).unwrap_or_default();
        format!("{middle:.*}{ratio}", metric.digits)
    }

    fn values_of(&self, peer: &str, metric: &Metric) -> Option<&BTreeMap<u8, f64>> {
        self.values.get(&(peer.to_owned(), metric.name.clone()))
    }

    /// The median of the rounds' quotients by the ceiling's figure of the same round.
    fn ratio(&self, peer: &str, metric: &Metric) -> Option<f64> {
        if peer == ceiling::NAME || !metric.compared {
            return None;
        }
        let ceiling = self.values_of(ceiling::NAME, metric)?;
        let own = self.values_of(peer, metric)?;
        median(own.iter().filter_map(|(round, value)| Some(value / ceiling.get(round)?)))
    }

    fn json(&self, peers: &[(String, &'static str)]) -> Value {
        let mut figures = Vec::new();
        for metric in &self.metrics {
            for (peer, _) in peers {
                let Some(rounds) = self.values_of(peer, metric) else { continue };
                figures.push(json!({
                    "metric": metric.name,
                    "unit": metric.unit,
                    "peer": peer,
                    "median": median(rounds.values().copied()),
                    "ratio_to_ceiling": self.ratio(peer, metric),
                    "rounds": rounds.values().collect::<Vec<_>>(),
                }));
            }
        }
        json!({"name": self.name, "title": self.title, "figures": figures})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report() -> Report {
        let parts = (Value::Null, Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let (facts, peers, skipped, sections, failures) = parts;
        Report { facts, peers, skipped, sections, failures }
    }

    #[test]
    fn ratios_are_of_the_same_round() {
        let metric = || Metric::new("rate", "GB/s", 2);
        let mut report = report();
        // The machine's speed varies: the quotient of the medians would be 1.
        let rounds = [(ceiling::NAME, [1.0, 4.0, 2.0]), ("a", [0.5, 2.0, 3.0])];
        for (peer, values) in rounds {
            for (round, value) in (1..).zip(values) {
                report.add(
                    ("down", "Downloads"),
                    peer,
                    round,
                    vec![Figure { metric: metric(), value }],
                    None,
                );
            }
        }
        assert_eq!(report.sections[0].cell("a", &metric()), "2.00 (0.50)");
        assert_eq!(report.sections[0].cell(ceiling::NAME, &metric()), "2.00");
    }

    #[test]
    fn a_failed_round_is_told_and_does_not_count() {
        let metric = || Metric::new("rate", "GB/s", 2);
        let mut report = report();
        for peer in [ceiling::NAME, "a"] {
            report.add(("down", "Downloads"), peer, 1, vec![Figure { metric: metric(), value: 4.0 }], None);
        }
        report.add(
            ("down", "Downloads"),
            ceiling::NAME,
            2,
            vec![Figure { metric: metric(), value: 9.0 }],
            None,
        );
        report.add(("down", "Downloads"), "a", 2, Vec::new(), Some(anyhow::anyhow!("it broke")));
        assert_eq!(report.sections[0].cell("a", &metric()), "4.00 (1.00)");
        assert_eq!(report.failures, ["down, a, round 2: it broke"]);
        assert_eq!(report.sections[0].cell("b", &metric()), "");
    }
}
