//! What is made for Prometheus uses only metrics that `/metrics` has.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::machine::Machine;

const DASHBOARD: &str = "packaging/grafana/laneway.json";
const ALERTS: &str = "packaging/prometheus/laneway.rules.yml";

fn packaged(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(name)
}

/// `/metrics` of a gateway that has just started.
fn metrics() -> String {
    let (machine, _) = Machine::with_group();
    let mut node = machine.start("127.0.0.54", &["--role", "gateway"]);
    let mut stream = TcpStream::connect(node.address("local proxy")).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    body.to_owned()
}

#[test]
fn the_dashboard_and_the_alerts_ask_for_metrics_that_there_are() {
    let metrics = metrics();
    let there_are: BTreeSet<_> =
        metrics.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next()).collect();
    for file in [DASHBOARD, ALERTS] {
        let text = std::fs::read_to_string(packaged(file)).unwrap();
        let part_of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let asked: BTreeSet<_> =
            text.split(|c| !part_of_name(c)).filter(|word| word.starts_with("laneway_")).collect();
        let missing: Vec<_> = asked.difference(&there_are).collect();
        assert!(asked.len() > 5 && missing.is_empty(), "{file} asks for {missing:?}, of {there_are:?}");
    }
}

#[test]
fn promtool_finds_nothing_wrong_with_the_metrics_the_alerts_and_the_dashboard() {
    if Command::new("promtool").arg("--version").output().is_err() {
        // Printed past the test runner, which hides the output of passing tests.
        let _ =
            writeln!(std::io::stderr(), "\nskipped: promtool is not installed: nothing was checked by it");
        return;
    }
    promtool(&["check", "metrics"], &metrics());
    promtool(&["check", "rules", packaged(ALERTS).to_str().unwrap()], "");

    // The queries of the dashboard, as rules of their own.
    let text = std::fs::read_to_string(packaged(DASHBOARD)).unwrap();
    let mut queries = Vec::new();
    collect(&serde_json::from_str(&text).unwrap(), &mut queries);
    assert!(queries.len() > 5, "{queries:?}");
    let mut rules = "groups:\n- name: dashboard\n  rules:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        let query = query.replace("$__rate_interval", "5m").replace("$node", ".*");
        let quoted = serde_json::to_string(&query).unwrap();
        let _ = writeln!(rules, "  - record: q{number}\n    expr: {quoted}");
    }
    let file = tempfile::NamedTempFile::with_suffix(".yml").unwrap();
    std::fs::write(file.path(), rules).unwrap();
    promtool(&["check", "rules", file.path().to_str().unwrap()], "");
}

#[track_caller]
fn promtool(arguments: &[&str], input: &str) {
    let mut command = Command::new("promtool");
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    let said =
        [output.stdout, output.stderr].map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).concat();
    assert!(output.status.success(), "promtool {arguments:?}: {said}");
}

/// Every `expr` in it.
fn collect(json: &serde_json::Value, queries: &mut Vec<String>) {
    match json {
        serde_json::Value::Object(fields) => {
            queries.extend(fields.get("expr").and_then(|query| query.as_str()).map(str::to_owned));
            fields.values().for_each(|value| collect(value, queries));
        }
        serde_json::Value::Array(values) => values.iter().for_each(|value| collect(value, queries)),
        _ => {}
    }
}
