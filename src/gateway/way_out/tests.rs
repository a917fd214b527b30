use super::*;

const ME: NodeId = NodeId([1; 16]);
const YOU: NodeId = NodeId([2; 16]);

fn target(port: u16) -> Target {
    format!("10.0.0.5:{port}").parse().unwrap()
}

fn host(host: u8) -> Target {
    format!("10.0.{host}.5:80").parse().unwrap()
}

fn answered(port: u16) -> Seen {
    Seen::Answered(target(port), Speech::Http)
}

fn silent(number: u8, speech: Speech, is_acknowledged: bool) -> Seen {
    Seen::Silent { target: host(number), speech, is_acknowledged }
}

fn failed(port: u16) -> Seen {
    Seen::Failed { target: target(port), no_route: false }
}

fn around(others: Others) -> Around {
    Around { others, busy: BTreeSet::new(), is_named: false }
}

const SERVES: Others = Others::CouldServe;

impl WayOut {
    /// All that were asked for connections have failed.
    fn none_is_reached(&mut self, others: Others, now: Instant) {
        let failed = self.asked(false);
        self.concluded(None, &failed, false, &around(others), now);
    }

    /// All that were asked for data have failed.
    fn none_gives_data(&mut self, others: Others, now: Instant) {
        let failed = self.asked(true);
        self.concluded(None, &failed, true, &around(others), now);
    }

    fn gives_data(&mut self, now: Instant) {
        self.concluded(Some(&Answer::Data(target(1))), &[], true, &around(SERVES), now);
    }

    fn asked(&self, for_data: bool) -> Vec<Target> {
        self.questions(for_data).into_iter().map(|(target, _)| target).collect()
    }
}

/// A way out over which one member's destinations answer on two hosts.
fn used(now: Instant) -> WayOut {
    let mut way = WayOut::new();
    for target in [host(1), host(2)] {
        way.note(Seen::Connected(target.clone()), ME, now);
        way.note(Seen::Answered(target, Speech::Http), ME, now);
    }
    way
}

#[test]
fn one_destination_that_is_down_costs_nothing_while_another_answers() {
    let (mut way, mut now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(target(1)), ME, now);
    way.note(answered(1), ME, now);
    assert_eq!(way.reach(), Reach::Reachable);
    assert!(!way.note(failed(2), ME, now), "one failure");
    assert!(!way.note(failed(2), ME, now), "at the same moment");
    now += FAILURE_WINDOW;
    assert!(way.note(failed(2), ME, now));
    assert_eq!(way.asked(false), [target(1)], "a destination that failed is no witness");
    way.concluded(Some(&Answer::Connection(target(1))), &[], false, &around(SERVES), now);
    assert_eq!(way.reach(), Reach::Reachable);
    assert!(!way.note(failed(2), ME, now + FAILURE_WINDOW), "counting starts again");
}

#[test]
fn when_the_witnesses_fail_too_the_way_out_is_lost_until_one_is_reached() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(target(1)), ME, now);
    way.note(Seen::Connected(target(2)), ME, now);
    let no_route = Seen::Failed { target: target(1), no_route: true };
    assert!(way.note(no_route, ME, now), "no route is certain");
    way.none_is_reached(Others::None, now);
    assert_eq!(way.reach(), Reach::Unreachable);
    way.concluded(Some(&Answer::Connection(target(2))), &[], false, &around(Others::None), now);
    assert_eq!(way.reach(), Reach::Unknown, "reached, but nothing has answered yet");
    way.note(answered(1), ME, now);
    assert_eq!(way.reach(), Reach::Reachable);
}

#[test]
fn a_slow_destination_has_those_asked_that_answered_before_and_not_too_often() {
    let (mut way, mut now) = (WayOut::new(), Instant::now());
    let slow = || Seen::Slow(target(2));
    assert!(!way.note(slow(), ME, now), "nothing has answered before that could tell");
    way.note(Seen::Connected(target(1)), ME, now);
    assert!(way.note(slow(), ME, now));
    assert_eq!(way.asked(false), [target(1)]);
    way.concluded(Some(&Answer::Connection(target(1))), &[], false, &around(SERVES), now);
    now += SLOW_INTERVAL / 2;
    assert!(!way.note(slow(), ME, now));
    now += SLOW_INTERVAL / 2;
    assert!(way.note(slow(), ME, now));
    way.none_is_reached(SERVES, now);
    assert_eq!(way.reach(), Reach::Unreachable);
    assert!(!way.note(slow(), ME, now + SLOW_INTERVAL), "they are asked all the time now");
}

#[test]
fn a_single_witness_convinces_only_if_it_has_answered_and_another_gateway_could_serve() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(target(1)), ME, now);
    way.note(failed(1), ME, now);
    assert!(way.note(failed(1), ME, now + FAILURE_WINDOW));
    assert_eq!(way.asked(false), [target(1)]);
    way.none_is_reached(Others::None, now);
    assert_eq!(way.reach(), Reach::Unknown);
    way.none_is_reached(SERVES, now);
    assert_eq!(way.reach(), Reach::Unreachable);
}

#[test]
fn one_host_that_never_answered_says_nothing_unless_other_gateways_have_lost_their_way_out() {
    let (mut way, mut now) = (WayOut::new(), Instant::now());
    for port in 1..10 {
        way.note(failed(port), ME, now);
        now += FAILURE_WINDOW;
        way.none_is_reached(SERVES, now);
        assert_eq!(way.reach(), Reach::Unknown);
    }
    assert!(way.is_suspicious(now));
    way.none_is_reached(Others::HaveLost, now);
    assert_eq!(way.reach(), Reach::Unreachable);
    let mut way = WayOut::new();
    way.note(failed(1), ME, now);
    way.note(Seen::Failed { target: host(1), no_route: false }, ME, now);
    way.none_is_reached(SERVES, now);
    assert_eq!(way.reach(), Reach::Unreachable, "two hosts");
}

#[test]
fn what_one_member_does_not_reach_is_not_all_that_counts_while_others_use_the_gateway() {
    let now = Instant::now();
    let mut way = used(now);
    way.note(Seen::Connected(target(1)), YOU, now);
    let others = [host(1), host(2)];
    assert!(way.note(Seen::Failed { target: host(1), no_route: true }, ME, now));
    way.concluded(None, &others, false, &around(SERVES), now);
    assert_eq!(
        way.reach(),
        Reach::Reachable,
        "the destination of the other one was not asked, or refused by a rule"
    );
    way.none_is_reached(SERVES, now);
    assert_eq!(way.reach(), Reach::Unreachable, "nor is that reached");
    // The other one has only a request open.
    let mut way = used(now);
    way.note(Seen::Failed { target: host(1), no_route: true }, ME, now);
    let busy = Around { busy: [YOU].into(), ..around(SERVES) };
    way.concluded(None, &others, false, &busy, now);
    assert_eq!(way.reach(), Reach::Reachable);
}

#[test]
fn no_member_displaces_the_destinations_of_others() {
    let now = Instant::now();
    let mut way = used(now);
    for number in 1..100 {
        way.note(Seen::Connected(host(number)), YOU, now);
    }
    assert_eq!(way.asked(false), [host(99), host(98), host(2), host(1)]);
    for number in 1..100 {
        let member = NodeId([number; 16]);
        way.note(Seen::Connected(target(number.into())), member, now);
    }
    assert_eq!(way.asked(false).len(), MAX_KEPT);
}

#[test]
fn a_server_on_the_clients_own_network_is_no_witness() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(target(1)), ME, now);
    way.note(Seen::AnsweredInside(target(1)), ME, now);
    way.note(Seen::Connected(target(1)), ME, now);
    assert_eq!((way.reach(), way.asked(false)), (Reach::Unknown, vec![]));
}

#[test]
fn a_lost_way_out_stays_lost_until_the_opposite_is_proved_whatever_the_time() {
    let (mut now, mut way) = (Instant::now(), WayOut::new());
    way.note(Seen::Connected(target(1)), ME, now);
    way.note(Seen::Failed { target: target(1), no_route: true }, ME, now);
    way.none_is_reached(Others::None, now);
    for _ in 0..1000 {
        now += WINDOW;
        way.none_is_reached(Others::None, now);
        assert_eq!(way.reach(), Reach::Unreachable);
        assert_eq!(way.asked(false), [target(1)], "it goes on asking it");
    }
    assert_eq!(way.lost_for(now), Some(WINDOW * 1000));
    // What answered before has gone for good, and somebody asks for something else.
    assert!(way.note(Seen::Connected(host(7)), YOU, now));
    assert_eq!((way.reach(), way.asked(false)), (Reach::Unreachable, vec![host(7), target(1)]));
    way.concluded(Some(&Answer::Connection(host(7))), &[], false, &around(Others::None), now);
    assert_eq!((way.reach(), way.lost_for(now)), (Reach::Unknown, None));
}

#[test]
fn one_slow_server_is_no_reason_to_doubt_and_several_are_one_to_ask() {
    let (mut way, mut now) = (WayOut::new(), Instant::now());
    way.note(answered(1), ME, now);
    for _ in 0..10 {
        assert!(!way.note(silent(1, Speech::Http, true), ME, now));
        now += SILENT_INTERVAL;
    }
    assert!(way.note(silent(2, Speech::Tls, true), ME, now), "two hosts");
    assert_eq!(way.asked(true).len(), 3, "and the one that answered before");
    assert!(!way.note(silent(1, Speech::Http, true), ME, now), "they have just been asked");
    // The servers were slow, and nothing else.
    way.gives_data(now);
    assert_eq!((way.reach(), way.is_mute()), (Reach::Reachable, false));
}

#[test]
fn servers_that_are_slow_all_the_time_cost_less_and_less() {
    let (mut way, start) = (WayOut::new(), Instant::now());
    let mut asked = Vec::new();
    for second in 0..3600 {
        let now = start + Duration::from_secs(second);
        if [1, 2].map(|number| way.note(silent(number, Speech::Http, true), ME, now)).contains(&true) {
            asked.push(second);
            way.gives_data(now);
        }
    }
    assert_eq!(asked, [0, 6, 18, 42, 90, 186, 378, 762, 1530, 2298, 3066]);
    let later = start + Duration::from_secs(3600);
    assert!(way.note(silent(3, Speech::Http, false), ME, later), "that is no slow one");
}

#[test]
fn servers_that_nobody_can_ask_for_data_prove_nothing_by_waiting() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(target(1)), ME, now);
    way.note(silent(1, Speech::Other, true), ME, now);
    assert!(way.note(silent(2, Speech::Other, true), ME, now));
    assert_eq!(way.questions(true), []);
    way.none_gives_data(SERVES, now);
    assert_eq!(way.reach(), Reach::Unknown);
}

#[test]
fn silent_servers_of_one_member_cost_no_gateway_that_others_use() {
    let now = Instant::now();
    for is_acknowledged in [true, false] {
        let mut way = used(now);
        way.note(Seen::Connected(target(1)), YOU, now);
        way.note(Seen::Answered(target(1), Speech::Http), YOU, now);
        for number in [1, 2] {
            way.note(silent(number, Speech::Http, is_acknowledged), ME, now);
        }
        // The other one waits for a slow server, which does not answer another question in time either.
        way.note(Seen::Silent { target: target(1), speech: Speech::Http, is_acknowledged: true }, YOU, now);
        way.none_gives_data(SERVES, now);
        assert_eq!(way.reach(), Reach::Reachable, "{is_acknowledged}");
    }
}

#[test]
fn a_box_that_acknowledges_everything_is_noticed_by_destinations_that_nobody_waits_for() {
    let now = Instant::now();
    let mut way = used(now);
    way.note(Seen::Answered(target(1), Speech::Http), YOU, now);
    for number in [3, 4] {
        way.note(silent(number, Speech::Http, true), ME, now);
    }
    assert_eq!(way.asked(true)[0], target(1), "that of another member first");
    way.none_gives_data(SERVES, now);
    assert_eq!((way.reach(), way.is_mute()), (Reach::Unreachable, true));
}

#[test]
fn servers_that_never_answered_and_acknowledge_everything_prove_nothing() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    for number in [1, 2] {
        way.note(Seen::Connected(host(number)), ME, now);
        way.note(silent(number, Speech::Http, true), ME, now);
    }
    way.none_gives_data(SERVES, now);
    assert_eq!(way.reach(), Reach::Unknown);
}

#[test]
fn a_name_server_outweighs_the_silence_of_one_members_servers() {
    let now = Instant::now();
    for (is_named, reach) in [(true, Reach::Reachable), (false, Reach::Unreachable)] {
        let mut way = used(now);
        way.note(silent(1, Speech::Http, false), ME, now);
        let failed = way.asked(true);
        way.concluded(None, &failed, true, &Around { is_named, ..around(SERVES) }, now);
        assert_eq!(way.reach(), reach);
    }
}

#[test]
fn a_way_out_that_carries_nothing_but_handshakes_is_lost_and_only_data_brings_it_back() {
    let now = Instant::now();
    let mut way = used(now);
    assert!(way.note(silent(3, Speech::Other, false), ME, now), "nothing is acknowledged");
    way.none_gives_data(Others::None, now);
    assert_eq!((way.reach(), way.is_mute()), (Reach::Unreachable, true));
    assert!(way.note(Seen::Connected(target(2)), ME, now), "a reason to ask");
    way.note(Seen::Named, ME, now);
    way.concluded(None, &[], true, &around(Others::None), now + WINDOW * 100);
    assert_eq!(way.reach(), Reach::Unreachable, "connections, name servers and time prove nothing");
    let questions = way.questions(true);
    assert!(questions.contains(&(host(3), Ask::Acknowledgement)), "all that it did not do: {questions:?}");
    assert!(questions.contains(&(host(1), Ask::Data(Speech::Http))));
    assert!(questions.contains(&(target(2), Ask::Data(Speech::Other))));
    way.gives_data(now);
    assert_eq!((way.reach(), way.is_mute()), (Reach::Reachable, false));
}

#[test]
fn one_machine_that_acknowledges_nothing_is_enough_only_if_another_gateway_could_serve() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(target(1)), ME, now);
    assert!(way.note(silent(1, Speech::Http, false), ME, now));
    way.none_gives_data(Others::None, now);
    assert_eq!(way.reach(), Reach::Unknown);
    way.none_gives_data(SERVES, now);
    assert_eq!(way.reach(), Reach::Unreachable);
}

#[test]
fn a_server_that_several_members_use_tells_for_all_of_them() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(host(1)), YOU, now);
    way.note(Seen::Answered(host(1), Speech::Http), YOU, now);
    way.note(silent(1, Speech::Http, false), ME, now);
    way.none_gives_data(Others::None, now);
    assert_eq!(way.reach(), Reach::Reachable, "it may be down");
    way.none_gives_data(SERVES, now);
    assert_eq!(way.reach(), Reach::Unreachable);
}

#[test]
fn a_destination_of_an_unknown_protocol_tells_whether_anything_is_acknowledged() {
    let (mut way, now) = (WayOut::new(), Instant::now());
    way.note(Seen::Connected(host(1)), YOU, now);
    way.note(Seen::Answered(host(1), Speech::Other), YOU, now);
    way.note(silent(2, Speech::Http, true), ME, now);
    assert_eq!(way.asked(true), [host(2)]);
    way.note(silent(2, Speech::Http, false), ME, now);
    assert_eq!(way.questions(true)[0], (host(1), Ask::Acknowledgement));
    way.none_gives_data(SERVES, now);
    assert_eq!(way.reach(), Reach::Unreachable);
}

#[test]
fn an_answer_that_is_reported_late_is_asked_for_once_more() {
    let now = Instant::now();
    let mut way = used(now);
    way.note(silent(1, Speech::Other, false), ME, now);
    way.none_gives_data(SERVES, now);
    for (port, speech, ask) in
        [(1, Speech::Http, Ask::Data(Speech::Http)), (2, Speech::Other, Ask::Acknowledgement)]
    {
        assert!(way.note(Seen::Answered(target(port), speech), YOU, now));
        assert_eq!(way.reach(), Reach::Unreachable);
        assert_eq!(way.questions(true)[0], (target(port), ask));
    }
    way.gives_data(now);
    assert_eq!(way.reach(), Reach::Reachable);
}
