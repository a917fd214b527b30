//! A node's metrics, status and events match what happens on the network.

use super::curl::{BIG, HTTP};
use crate::lab::fleet::Fleet;
use crate::lab::group::laneway;
use crate::lab::web::who;
use crate::lab::{Case, Lab, wait_until};
use laneway::telemetry::journal::Happening;
use laneway::telemetry::snapshot::Snapshot;

pub(super) const CASES: &[Case] = &[
    ("page::metrics_and_status_follow_the_traffic", metrics_and_status_follow_the_traffic),
    ("page::the_events_show_a_failover", the_events_show_a_failover),
];

const MIB_64: u64 = 64 << 20;

fn metrics_and_status_follow_the_traffic(lab: &Lab) {
    let _origin = lab.origin();
    let fleet = lab.fleet(2, &[]);
    let metric = |name: &str| {
        let page = fleet.client.curl(&["http://127.0.0.1:1080/metrics"]).success().text();
        let line = page.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        let line = line.unwrap_or_else(|| panic!("no {name} in\n{page}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    let received = r#"laneway_received_bytes_total{of="apps"}"#;
    assert_eq!(metric(received), 0.0);
    // Both may be active for a moment at the start.
    wait_until("one active gateway and one standby", || {
        let count = |state: &str| metric(&format!("laneway_gateways{{state=\"{state}\"}}"));
        (count("active"), count("standby")) == (1.0, 1.0)
    });

    fleet.client.curl(&[&HTTP[..], &["--output", "/dev/null", BIG]].concat()).success();
    assert_eq!(metric(received), MIB_64 as f64, "the body, and not what it is framed in");
    assert!(metric(r#"laneway_discovery_datagrams_total{type="beacon",direction="heard"}"#) > 0.0);

    let seen = snapshot(&fleet);
    assert_eq!(seen.links.iter().map(|link| link.state.as_str()).collect::<Vec<_>>(), ["active", "standby"]);
    assert!(seen.links[0].received >= MIB_64 && seen.links[0].round_trip.is_some(), "{:?}", seen.links);
    let used: Vec<_> = seen.gateways.iter().filter(|gateway| gateway.is_used).collect();
    assert_eq!(used.len(), 1);
    assert_eq!((used[0].state.as_str(), used[0].reach.as_deref()), ("active", Some("reachable")));
    assert_eq!(seen.gateways.len(), 2, "each once, on whatever networks: {:?}", seen.gateways);
    assert_eq!(used[0].address, seen.links[0].address);
    assert_eq!(seen.apps.destinations[0].target, "10.88.0.100:80");

    let table = laneway(&fleet.client, &["status"]).success().text();
    let line = format!(">  {}", used[0].name.as_ref().unwrap());
    assert!(table.contains(&line) && table.contains("10.88.0.100:80"), "{table}");

    // The gateway counts the traffic under the client's name.
    let addresses = || [&used[0].address].into_iter().chain(&used[0].other_addresses);
    let gateway = fleet
        .gateways
        .iter()
        .find(|gateway| addresses().any(|address| address.starts_with(&gateway.host.address().to_string())));
    let output = laneway(&gateway.unwrap().host, &["status", "--json"]).success();
    let carried: Snapshot = serde_json::from_str(&output.text()).unwrap();
    assert!(carried.served.received >= MIB_64 && carried.node.goes_direct, "{carried:?}");
    assert_eq!((carried.clients_in_all, carried.clients[0].id.as_str()), (1, seen.node.id.as_str()));
}

fn the_events_show_a_failover(lab: &Lab) {
    let _web = lab.web(who);
    let mut fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let before = snapshot(&fleet);
    let first = before.links[0].name.clone();
    for (what, about) in [(Happening::Query, ""), (Happening::LinkUp, first.as_str())] {
        let told = before.events.iter().any(|event| event.what == what && event.who == about);
        assert!(told, "{what:?} in {:#?}", before.events);
    }
    fleet.kill(serving);
    wait_until("the standby to be in use", || {
        snapshot(&fleet)
            .gateways
            .first()
            .is_some_and(|gateway| gateway.is_used && gateway.name.as_ref() != Some(&first))
    });
    let other = before.links[1].name.clone();
    wait_until("the events of it", || {
        let events = snapshot(&fleet).events;
        let place = |what, who: &str| events.iter().position(|event| event.what == what && event.who == who);
        let (lost, used) = (place(Happening::LinkLost, &first), place(Happening::InUse, &other));
        lost.is_some() && lost < used && place(Happening::Promoted, &other).is_some()
    });
}

fn snapshot(fleet: &Fleet) -> Snapshot {
    let answer = fleet.client.curl(&["http://127.0.0.1:1080/status.json"]).success();
    serde_json::from_str(&answer.text()).unwrap()
}
