//! `laneway drain` takes a gateway out of service without a failed request, and `laneway leave` a machine out of its group.

use super::curl::{BIG, HTTP};
use crate::lab::group::{START, laneway, up};
use crate::lab::load::Load;
use crate::lab::origin::{big, sha256};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};
use laneway::telemetry::snapshot::Snapshot;
use nix::sys::signal::Signal;

pub(super) const CASES: &[Case] = &[
    (
        "maintenance::a_drained_gateway_fails_no_request_and_serves_again_when_told",
        a_drained_gateway_fails_no_request_and_serves_again_when_told,
    ),
    (
        "maintenance::a_download_through_a_gateway_that_is_drained_arrives_whole",
        a_download_through_a_gateway_that_is_drained_arrives_whole,
    ),
    (
        "maintenance::the_only_gateway_says_why_it_serves_nobody_and_stays_so_after_a_restart",
        the_only_gateway_says_why_it_serves_nobody_and_stays_so_after_a_restart,
    ),
];

fn status(host: &Host) -> Snapshot {
    serde_json::from_str(&laneway(host, &["status", "--json"]).success().text()).unwrap()
}

fn a_drained_gateway_fails_no_request_and_serves_again_when_told(lab: &Lab) {
    let _web = lab.web(who);
    let fleet = lab.fleet(2, &[]);
    let serving = fleet.serving();
    let (first, second) = (&fleet.gateways[serving], &fleet.gateways[1 - serving]);
    let load = Load::start(&fleet.client, 60);
    load.wait_for_new(60);
    let said = laneway(&first.host, &["drain", "--wait", "30s"]).success().text();
    assert!(said.contains("until 'laneway drain --undo'"), "{said}");
    load.wait_for_service_by(second.outside(), 60);
    let seen = status(&first.host);
    assert!(seen.node.in_maintenance && seen.node.state.as_deref() == Some("withdrawn"), "{:?}", seen.node);
    assert!(seen.node.goes_direct, "its own apps go out as before");
    let text = laneway(&first.host, &["status"]).success().text();
    assert!(text.contains("in maintenance ('laneway drain --undo' ends it)"), "{text}");

    laneway(&first.host, &["drain", "--undo"]).success();
    wait_until("the gateway to stand by", || status(&first.host).node.state.as_deref() == Some("standby"));
    laneway(&second.host, &["drain"]).success();
    load.wait_for_service_by(first.outside(), 60);
    let report = load.stop();
    report.no_failure();
}

fn a_download_through_a_gateway_that_is_drained_arrives_whole(lab: &Lab) {
    let _origin = lab.origin();
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let _client = group.client(&c1, &[]);
    let mut curl = c1.command("curl");
    // Through a tunnel, which cannot be resumed.
    curl.args(["--silent", "--limit-rate", "8M", "--max-time", "60", "--proxytunnel"]).args(HTTP).arg(BIG);
    let download = c1.spawn(curl);
    wait_until("the download to run", || download.printed() > 1 << 20);
    let _second = group.gateway(&g2, &[]);
    let said = laneway(&g1, &["drain"]).success().text();
    assert!(said.contains("1 of their connections are open"), "{said}");
    // What is new goes to the other gateway while the download goes on here.
    wait_until("the other gateway to be in use", || {
        let seen = status(&c1);
        seen.gateways.iter().any(|gateway| gateway.is_used && gateway.address.contains("10.77.0.22"))
    });
    assert_eq!(status(&g1).served.open, 1);
    assert_eq!(status(&g1).node.state.as_deref(), Some("draining"));
    let whole = download.finish(START * 6).success();
    assert_eq!(sha256(&whole.stdout), big().sha256);
}

fn the_only_gateway_says_why_it_serves_nobody_and_stays_so_after_a_restart(lab: &Lab) {
    let _origin = lab.origin();
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let mut group = lab.group(&[&g1, &c1], &[]);
    let _client = group.client(&c1, &["--hold", "2"]);
    let output = laneway(&g1, &["drain"]).success();
    assert!(output.stderr.contains("warning: no other gateway is heard"), "{output}");
    let ask = || {
        c1.curl(&[&HTTP as &[&str], &["--output", "/dev/null", "--write-out", "%{http_code}", BIG]].concat())
    };
    wait_until("requests to be refused", || ask().text() == "503");

    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    let _again = up(&g1, &["--role", "gateway", "--server", "10.88.0.100:80"]);
    let seen = status(&g1);
    assert!(seen.node.in_maintenance, "{:?}", seen.node);
    wait_until("the client to know why", || {
        let page = c1.curl(&[&HTTP as &[&str], &["http://10.88.0.100/"]].concat()).text();
        page.contains("in maintenance")
    });
    laneway(&g1, &["drain", "--undo"]).success();
    wait_until("the gateway to serve again", || ask().text() == "200");
}
