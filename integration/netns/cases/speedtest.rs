//! `laneway speedtest` measures links to gateways without disturbing the nodes.

use crate::lab::group::laneway;
use crate::lab::{Case, Lab};
use laneway::telemetry::snapshot::Snapshot;
use serde_json::Value;

pub(super) const CASES: &[Case] = &[
    (
        "speedtest::measures_each_gateway_without_traffic_to_a_server",
        measures_each_gateway_without_traffic_to_a_server,
    ),
    ("speedtest::reports_a_gateway_that_cannot_be_measured", reports_a_gateway_that_cannot_be_measured),
];

fn measures_each_gateway_without_traffic_to_a_server(lab: &Lab) {
    let _origin = lab.origin();
    let mut fleet = lab.fleet(2, &[]);
    let text = laneway(&fleet.client, &["speedtest", "--seconds", "1"]).success().text();
    for words in ["10.77.0.21:7420", "10.77.0.22:7420", "round trip", "down", "up", "Mbit/s"] {
        assert!(text.contains(words), "no {words} in {text}");
    }
    // The same without a running node.
    fleet.node.signal(nix::sys::signal::Signal::SIGKILL);
    fleet.node.wait(std::time::Duration::from_secs(10));
    let json = laneway(&fleet.client, &["speedtest", "--seconds", "1", "--json"]).success().text();
    let reports: Vec<Value> = serde_json::from_str(&json).unwrap();
    assert_eq!(reports.len(), 2, "{json}");
    for report in &reports {
        for measure in ["round_trip", "down", "up"] {
            assert!(report[measure].as_f64().is_some_and(|value| value > 0.0), "{measure} in {report}");
        }
        assert_eq!(report["error"], Value::Null);
    }
    for gateway in &fleet.gateways {
        let status = laneway(&gateway.host, &["status", "--json"]).success().text();
        let seen: Snapshot = serde_json::from_str(&status).unwrap();
        assert_eq!((seen.served.opened, seen.served.sent, seen.served.received), (0, 0, 0), "{status}");
    }
}

fn reports_a_gateway_that_cannot_be_measured(lab: &Lab) {
    let _origin = lab.origin();
    let fleet = lab.fleet(2, &[]);
    fleet.gateways[1].host.filter("tcp dport 7420 drop");
    let output = laneway(&fleet.client, &["speedtest", "--seconds", "1"]);
    assert_eq!(output.code(), 1, "{output}");
    let (first, second) =
        output.text().split_once("10.77.0.22:7420").map(|(a, b)| (a.to_owned(), b.to_owned())).unwrap();
    assert!(first.contains("down") && second.contains("failed") && !second.contains("down"), "{output}");
    for line in ["error: 1 of 2 gateways could not be measured", "hint: 'laneway doctor'"] {
        assert!(output.stderr.contains(line), "{output}");
    }
}
