//! The local name server answers as the gateway's name servers do, also when a gateway dies.

use super::curl::HTTP;
use crate::lab::host::Host;
use crate::lab::origin::{big, sha256};
use crate::lab::web::who;
use crate::lab::{Case, Lab, wait_until};
use nix::sys::signal::Signal;
use std::fs;
use std::time::{Duration, Instant};

pub(super) const CASES: &[Case] = &[
    (
        "names::every_record_type_is_answered_as_by_the_name_server",
        every_record_type_is_answered_as_by_the_name_server,
    ),
    ("names::a_truncated_answer_is_queried_again_by_tcp", a_truncated_answer_is_queried_again_by_tcp),
    ("names::answers_are_cached_for_their_ttl", answers_are_cached_for_their_ttl),
    (
        "names::cached_answers_of_many_strings_take_no_more_memory_than_others",
        cached_answers_of_many_strings_take_no_more_memory_than_others,
    ),
    ("names::a_name_that_the_rules_refuse_is_not_queried", a_name_that_the_rules_refuse_is_not_queried),
    ("names::the_names_of_a_local_zone_stay_local", the_names_of_a_local_zone_stay_local),
    ("names::a_query_outlives_its_gateway", a_query_outlives_its_gateway),
    (
        "names::a_name_that_one_gateway_does_not_know_is_asked_for_at_the_other_one",
        a_name_that_one_gateway_does_not_know_is_asked_for_at_the_other_one,
    ),
    ("names::a_gateway_answers_its_own_software", a_gateway_answers_its_own_software),
    (
        "names::without_a_gateway_the_answer_is_servfail_in_time",
        without_a_gateway_the_answer_is_servfail_in_time,
    ),
    (
        "names::software_that_resolves_names_itself_reaches_the_server",
        software_that_resolves_names_itself_reaches_the_server,
    ),
];

/// The names that the gateway resolves, and the client's local name server.
const OPEN: [&str; 2] = ["--allow", "10.0.0.0/8"];
const DNS: [&str; 2] = ["--dns", "127.0.0.1:53"];

/// The output of `dig` on this host.
fn dig(host: &Host, words: &str) -> String {
    let mut dig = host.command("dig");
    dig.args(["@127.0.0.1", "+tries=1", "+timeout=8"]).args(words.split(' '));
    host.output(dig).text()
}

fn status(text: &str) -> &str {
    let after = text.split_once("status: ").unwrap_or_else(|| panic!("no answer: {text}")).1;
    after.split_once(',').expect("a status").0
}

fn every_record_type_is_answered_as_by_the_name_server(lab: &Lab) {
    let _names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &OPEN, &DNS);
    let c1 = &fleet.client;
    for transport in ["+notcp", "+tcp"] {
        for (question, answer) in [
            ("web.lab A", "10.88.0.100"),
            ("WEB.lab AAAA", "2001:db8::100"),
            ("lab MX", "10 mail.lab."),
            ("lab TXT", "\"of the lab\""),
            ("lab NS", "ns.lab."),
            ("_http._tcp.lab SRV", "1 2 80 web.lab."),
            ("web.lab TYPE65", "1 . alpn=\"h2\""),
            ("odd.lab TYPE65280", "\\# 4 01020304"),
            ("www.lab CNAME", "web.lab."),
            ("www.lab A", "web.lab.\n10.88.0.100"),
            ("-x 10.88.0.100", "web.lab."),
            ("web.lab ANY +notcp", "\"RFC8482\" \"\""),
        ] {
            let found = dig(c1, &format!("+short {transport} {question}"));
            assert_eq!(found.trim(), answer, "{question} {transport}");
        }
        let tlsa = dig(c1, &format!("+short {transport} _443._tcp.web.lab TLSA"));
        assert!(tlsa.starts_with("3 1 1 0123456789ABCDEF"), "{tlsa}");
        for (question, code, has_soa) in [
            ("none.lab A", "NXDOMAIN", true),
            ("mail.lab AAAA", "NOERROR", true),
            ("version.bind TXT CH", "REFUSED", false),
            ("web.lab AXFR", "REFUSED", false),
            ("+opcode=status web.lab A", "NOTIMP", false),
            ("+edns=1 +noednsneg web.lab A", "BADVERS", false),
        ] {
            // dig requests zone transfers in its own way.
            if question.contains("AXFR") {
                assert!(dig(c1, question).contains("Transfer failed"), "{question}");
                continue;
            }
            let found = dig(c1, &format!("{transport} {question}"));
            assert_eq!(status(&found), code, "{question}: {found}");
            assert_eq!(found.contains("\tSOA\t"), has_soa, "{question}: {found}");
        }
    }
    assert_eq!(dig(c1, "+short localhost A").trim(), "127.0.0.1", "the client itself");
}

fn a_truncated_answer_is_queried_again_by_tcp(lab: &Lab) {
    let _names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &OPEN, &DNS);
    let c1 = &fleet.client;
    for (question, truncated) in [
        ("+noedns many.lab A", true),
        ("+bufsize=512 many.lab A", true),
        ("+bufsize=1232 many.lab A", false),
        ("+bufsize=65535 huge.lab A", true),
    ] {
        let found = dig(c1, &format!("+ignore {question}"));
        assert_eq!(found.contains(" tc"), truncated, "{question}: {found}");
        let whole = dig(c1, &format!("+short {question}"));
        let count = if question.contains("many") { 40 } else { 600 };
        assert_eq!(whole.lines().count(), count, "{question}");
    }
}

fn answers_are_cached_for_their_ttl(lab: &Lab) {
    let names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &OPEN, &DNS);
    let c1 = &fleet.client;
    let before = names.asked("web.lab", "A");
    for name in ["web.lab", "WeB.LaB", "web.lab"] {
        let found = dig(c1, name);
        assert!(found.contains(&format!(";{name}.")), "as it was spelt: {found}");
        assert_eq!(status(&dig(c1, "none.lab A")), "NXDOMAIN");
    }
    // The gateway's probes query only for addresses.
    assert_eq!((names.asked("web.lab", "A") - before, names.asked("none.lab", "A")), (1, 1));

    // Its TTL is 5 s: after that it is queried again, and no answer has a longer TTL.
    let ttl = |text: &str| -> u64 {
        let line =
            text.lines().find(|line| line.starts_with("brief.lab.")).unwrap_or_else(|| panic!("{text}"));
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    let begun = Instant::now();
    while names.asked("brief.lab", "A") < 2 {
        assert!(ttl(&dig(c1, "brief.lab A")) <= 5);
        assert!(begun.elapsed() < Duration::from_secs(30), "it is kept for ever");
    }
}

/// Seventy answers of 40 KB each took 50 MiB for as long as they were cached.
fn cached_answers_of_many_strings_take_no_more_memory_than_others(lab: &Lab) {
    let _names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &OPEN, &DNS);
    let memory = || -> usize {
        let status = fs::read_to_string(format!("/proc/{}/status", fleet.node.id())).unwrap();
        let memory = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
        memory.trim().trim_end_matches(" kB").parse().unwrap()
    };
    let ask = |name: &str| {
        let answer = dig(&fleet.client, &format!("+tcp +short {name}.strings.lab TXT"));
        assert_eq!(answer.matches("\"x\"").count(), 20_000);
    };
    ask("first");
    let before = memory();
    (0..70).for_each(|number| ask(&format!("n{number}")));
    let more = memory().saturating_sub(before);
    assert!(more < 20 << 10, "{more} KiB");
}

fn a_name_that_the_rules_refuse_is_not_queried(lab: &Lab) {
    let names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet_with(1, &["--allow", "10.0.0.0/8", "--deny", "*.secret.lab,secret.lab"], &DNS);
    let c1 = &fleet.client;
    for name in ["secret.lab", "data.of.secret.lab", "_dns._udp.SECRET.lab"] {
        let found = dig(c1, name);
        assert_eq!(status(&found), "REFUSED", "{found}");
        assert!(found.contains("EDE: 18"), "the reason is told: {found}");
        assert_eq!(names.asked(name, "A"), 0);
    }
    assert_eq!(dig(c1, "+short web.lab").trim(), "10.88.0.100");
}

fn the_names_of_a_local_zone_stay_local(lab: &Lab) {
    let names = lab.name_server();
    let _web = lab.web(who);
    let c2 = lab.client("c2");
    // A name server on the LAN, which clients can query without a gateway.
    let mut dnsmasq = c2.command("dnsmasq");
    dnsmasq.args([
        "--keep-in-foreground",
        "--conf-file=/dev/null",
        "--no-resolv",
        "--no-hosts",
        "--user=root",
    ]);
    dnsmasq.args(["--listen-address=10.77.0.12", "--bind-interfaces", "--port=5300", "--local=/home.lab/"]);
    dnsmasq.args(["--host-record=printer.home.lab,10.77.0.50", "--txt-record=home.lab,here"]);
    // More than fits into its UDP answer. In the foreground, because in debug mode it serves a single TCP connection.
    let long = ["x".repeat(200), "y".repeat(200), "z".repeat(200), "end".to_owned()].join(",");
    dnsmasq.args(["--edns-packet-max=512", &format!("--txt-record=long.home.lab,{long}")]);
    let _dnsmasq = c2.spawn(dnsmasq);
    let options = [&DNS[..], &["--dns-local", "lab.example=10.77.0.99,home.lab=10.77.0.12:5300"]].concat();
    let fleet = lab.fleet_with(1, &OPEN, &options);
    let c1 = &fleet.client;
    wait_until("the local zone to be answered", || dig(c1, "+short printer.home.lab").trim() == "10.77.0.50");
    assert_eq!(dig(c1, "+short +tcp home.lab TXT").trim(), "\"here\"");
    assert!(
        dig(c1, "+short +tcp long.home.lab TXT").trim().ends_with("\"end\""),
        "it is not asked again by TCP"
    );
    assert_eq!(status(&dig(c1, "none.home.lab")), "NXDOMAIN");
    assert_eq!(names.asked("printer.home.lab", "A") + names.asked("none.home.lab", "A"), 0);
    assert_eq!(dig(c1, "+short web.lab").trim(), "10.88.0.100", "the others are asked at the gateway");
}

/// The name server is slow and the gateway is killed meanwhile: the query is answered without a repetition.
fn a_query_outlives_its_gateway(lab: &Lab) {
    let _names = lab.name_server();
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(2, &OPEN, &DNS);
    let serving = fleet.serving();
    // The queries of the serving gateway do not arrive.
    let deaf = format!("ip saddr {} udp dport 53 drop", fleet.gateways[serving].outside());
    lab.server.filter(&deaf);
    let questions: Vec<_> = ["+notcp", "+tcp"]
        .map(|transport| {
            let mut dig = fleet.client.command("dig");
            let name = format!("{}.lab", if transport == "+tcp" { "mail" } else { "web" });
            dig.args(["@127.0.0.1", "+short", "+tries=1", "+timeout=8", transport, &name]);
            fleet.client.spawn(dig)
        })
        .into();
    wait_until("the questions to be asked at the gateway", || {
        let mut nft = lab.server.command("nft");
        nft.args(["list", "ruleset"]);
        sent_to_name_server(&fleet.gateways[serving].host) >= 2 && lab.server.output(nft).status.success()
    });
    fleet.kill(serving);
    for question in questions {
        let output = question.finish(Duration::from_secs(10)).success();
        assert_eq!(output.text().trim(), "10.88.0.100", "{output}");
    }
    // The next queries: a hung gateway does not delay them either.
    assert_eq!(dig(&fleet.client, "+short many.lab").lines().count(), 40);
    lab.server.filter("");
    fleet.start(serving);
    let mut attempt = 0;
    // After the killed gateway returns, the role may change once more: then the other gateway hangs, and no question meets it.
    wait_until("a question to move on before its link is given up", || {
        attempt += 1;
        fleet.wait_for_links();
        let serving = fleet.serving();
        fleet.gateways[serving].signal(Signal::SIGSTOP);
        for name in ["MX", "TXT"].map(|kind| format!("new{attempt}.lab {kind}")) {
            assert!(!dig(&fleet.client, &format!("+short {name}")).starts_with(';'), "{name}");
        }
        fleet.gateways[serving].signal(Signal::SIGCONT);
        fleet.node.log().contains("no answer: the question moves on")
    });
}

fn a_gateway_answers_its_own_software(lab: &Lab) {
    let names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet(1, &[&OPEN[..], &DNS, &["--deny", "secret.lab"]].concat());
    let g1 = &fleet.gateways[0].host;
    let before = names.asked("web.lab", "A");
    for transport in ["+notcp", "+tcp"] {
        assert_eq!(dig(g1, &format!("+short {transport} web.lab")).trim(), "10.88.0.100");
        assert_eq!(dig(g1, &format!("+short {transport} huge.lab")).lines().count(), 600);
        assert_eq!(status(&dig(g1, &format!("{transport} none.lab"))), "NXDOMAIN");
    }
    assert_eq!(names.asked("web.lab", "A") - before, 1);
    // Its access rules do not apply to its own software, which could query the name server itself.
    assert_eq!(dig(g1, "+short secret.lab").trim(), "10.88.0.99");
}

/// The number of sockets on this host that wait for a name server.
fn sent_to_name_server(host: &Host) -> usize {
    let mut ss = host.command("ss");
    ss.args(["-H", "-u", "-n", "-a"]);
    host.output(ss).success().text().lines().filter(|line| !line.contains(":7420")).count()
}

fn without_a_gateway_the_answer_is_servfail_in_time(lab: &Lab) {
    let _names = lab.name_server();
    let _web = lab.web(who);
    let mut fleet = lab.fleet_with(1, &OPEN, &[&DNS[..], &["--hold", "1"]].concat());
    assert_eq!(dig(&fleet.client, "+short web.lab").trim(), "10.88.0.100");
    fleet.kill(0);
    let found = dig(&fleet.client, "mail.lab");
    assert_eq!(status(&found), "SERVFAIL", "{found}");
    assert!(found.contains("EDE: 22"), "{found}");
    assert_eq!(dig(&fleet.client, "+short web.lab").trim(), "10.88.0.100", "it is kept");
    fleet.start(0);
    wait_until("names to be answered again", || {
        dig(&fleet.client, "+short mail.lab").trim() == "10.88.0.100"
    });
}

/// Each gateway has names of its own.
fn a_name_that_one_gateway_does_not_know_is_asked_for_at_the_other_one(lab: &Lab) {
    let _names = lab.name_server();
    let _web = lab.web(who);
    let fleet = lab.fleet_with(2, &OPEN, &DNS);
    let serving = fleet.serving();
    let other = &fleet.gateways[1 - serving];
    // Neither gateway knows the name, and both say so.
    let unknown = fleet.client.curl(&[&HTTP[..], &["http://split.lab/"]].concat()).text();
    assert!(unknown.contains("gateway g1") && unknown.contains("gateway g2"), "{unknown}");
    assert!(unknown.contains("cannot find the name split.lab"), "{unknown}");
    let hosts = other.host.directory().join("hosts");
    let known = format!("{}10.88.0.100 split.lab twin.lab\n", fs::read_to_string(&hosts).unwrap());
    fs::write(hosts, known).unwrap();
    wait_until("the other gateway to know the name", || {
        let text = other.host.curl(&[&HTTP[..], &["http://split.lab/"]].concat()).text();
        text.starts_with(&other.outside().to_string())
    });
    let text = fleet.client.curl(&[&HTTP[..], &["http://split.lab/"]].concat()).success().text();
    assert!(text.starts_with(&other.outside().to_string()), "{text}");
    assert_eq!(dig(&fleet.client, "+short twin.lab A").trim(), "10.88.0.100");
    assert_eq!(status(&dig(&fleet.client, "none.lab A")), "NXDOMAIN");
}

/// The client can resolve the name only through its /etc/resolv.conf.
fn software_that_resolves_names_itself_reaches_the_server(lab: &Lab) {
    let _names = lab.name_server();
    let _origin = lab.origin();
    let fleet = lab.fleet_with(1, &OPEN, &DNS);
    let c1 = &fleet.client;
    let resolver = c1.directory().join("resolv.conf");
    // Without any line the C library queries 127.0.0.1 too.
    fs::write(&resolver, "nameserver 127.0.0.9\noptions attempts:1\n").unwrap();
    let before = c1.curl(&["--socks5", "127.0.0.1:1080", "http://mail.lab/big"]);
    assert_ne!(before.code(), 0, "the name is known without: {before}");
    fs::write(&resolver, "nameserver 127.0.0.1\n").unwrap();
    let mut getent = c1.command("getent");
    getent.args(["ahostsv4", "www.lab"]);
    let found = c1.output(getent).success().text();
    assert!(found.starts_with("10.88.0.100"), "{found}");
    // SOCKS5 with an address that curl resolved itself.
    for dialect in [&["--socks5", "127.0.0.1:1080"][..], &HTTP] {
        let download = c1.curl(&[dialect, &["http://mail.lab/big"]].concat()).success();
        assert_eq!(sha256(&download.stdout), big().sha256, "{dialect:?}");
    }
}
