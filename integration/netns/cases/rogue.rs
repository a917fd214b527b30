//! A gateway of the group that wins the selection, answers pings and carries nothing: clients are served by another one.

use crate::lab::lying_gateway::{self, Manner, asked};
use crate::lab::web::who;
use crate::lab::{Case, Lab};

pub(super) const CASES: &[Case] = &[
    ("rogue::what_a_gateway_refuses_is_carried_by_another_one", |lab| serves_nobody(lab, Manner::Refuses, 1)),
    ("rogue::what_a_gateway_resets_is_carried_by_another_one", |lab| serves_nobody(lab, Manner::Resets, 1)),
    ("rogue::what_a_gateway_drops_is_soon_carried_by_another_one", |lab| {
        serves_nobody(lab, Manner::Drops, 2)
    }),
    ("rogue::what_a_gateway_ignores_is_soon_carried_by_another_one", |lab| {
        serves_nobody(lab, Manner::Ignores, 2)
    }),
    ("rogue::what_a_gateway_answers_with_noise_is_carried_by_another_one", |lab| {
        serves_nobody(lab, Manner::Garbles, 1)
    }),
    ("rogue::a_gateway_that_fails_each_time_in_another_way_is_used_last", |lab| {
        serves_nobody(lab, Manner::Alternates, 2)
    }),
];

/// Requests for each kind of request.
const REQUESTS: usize = 5;
/// How often the gateway may be asked for this destination: once by each kind of request, and twice more until it is used last.
const MOST_ASKED: usize = 4;

/// The lying gateway is the active one. Each request has its answer after at most `tries`.
fn serves_nobody(lab: &Lab, manner: Manner, tries: usize) {
    let _web = lab.web(who);
    let (c1, g1, g2) = (lab.client("c1"), lab.gateway("g1"), lab.gateway("g2"));
    let group = lab.group(&[&g1, &c1, &g2], &[]);
    let rogue = lying_gateway::start(&g2, manner);
    let mut client = group.client(&c1, &[]);
    client.wait_for_line("gateway=\"g2\"", crate::lab::group::START);
    crate::lab::wait_until("links to both gateways, the lying one in front", || {
        let log = client.log();
        log.contains("standby link up")
            && log.lines().rfind(|line| line.contains("gateway in use")).map_or_else(
                || log.lines().any(|line| line.contains(" link up") && line.contains("gateway=\"g2\"")),
                |line| line.contains("gateway=\"g2\""),
            )
    });
    let mut most = 0;
    let ways: &[&[&str]] = match manner {
        // What comes through a tunnel is nobody's business, so it cannot be told from noise.
        Manner::Garbles | Manner::Alternates => &[&[]],
        _ => &[&[], &["--proxytunnel"]],
    };
    for way in ways {
        for _ in 0..REQUESTS {
            let request = ["--fail", "--proxy", "http://127.0.0.1:1080", "http://10.88.0.100/who/now"];
            let request = [way, &request[..]].concat();
            let needed = (1..).find(|_| {
                let answer = c1.curl(&request);
                answer.code() == 0 && answer.text().starts_with(&g1.addresses()[1].to_string())
            });
            most = most.max(needed.unwrap());
            assert!(most <= tries, "{manner:?}: no answer after {most} tries");
        }
    }
    let asked = asked(&rogue);
    assert!(asked > 0, "{manner:?}: it was never asked");
    assert!(asked <= MOST_ASKED, "{manner:?}: it was asked {asked} times");
}
