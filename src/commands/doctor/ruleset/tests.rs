use super::*;

const SERVICES: &str = "# names\nssh 22/tcp\nhttp\t80/tcp www # web\nlaneway 7420/udp\nlane-way 7430/tcp\n";

fn read(rules: &str) -> Ruleset {
    Ruleset::parse(rules, SERVICES)
}

/// The chains that drop the first packet to a gateway's TCP port 7420.
fn tcp(rules: &str) -> Option<String> {
    let (rules, packet) = (read(rules), packet());
    let dropped = rules.stops(&packet).map(|stop| stop.chain.to_owned());
    assert!(dropped.is_none() || !rules.admits(&packet), "it cannot be both");
    dropped
}

fn packet() -> Packet<'static> {
    Packet {
        direction: Direction::In,
        protocol: "tcp",
        from_port: None,
        to_port: Some(7420),
        interface: "eth1",
        from: "10.77.0.21/24".parse().unwrap(),
        to: "10.77.0.21/32".parse().unwrap(),
        is_broadcast: false,
        is_answer: false,
    }
}

/// A table with these rules in its chain of incoming packets.
fn input(policy: &str, rules: &str) -> String {
    format!(
        "table inet t {{\n\tset s {{\n\t\ttype inet_service\n\t\telements = {{ 22, 80,\n\t\t\t     7420 }}\n\t}}\n\n\tchain x \
         {{\n\t\ttcp dport 7420 accept\n\t\treturn\n\t}}\n\n\tchain input {{\n\t\ttype filter hook input priority filter; \
         policy {policy};\n\t\t{rules}\n\t}}\n}}\n"
    )
}

#[test]
fn what_is_dropped_for_certain_is_told() {
    for (policy, rules) in [
        ("accept", "tcp dport 7420 drop"),
        ("accept", "tcp dport { 80, 7000-8000 } counter packets 3 bytes 180 reject with tcp reset"),
        ("accept", "tcp dport @s drop"),
        ("accept", "iifname \"eth*\" ip saddr 10.0.0.0/8 drop"),
        ("accept", "tcp dport != 22 log prefix \"no , drop {\" level info drop"),
        ("accept", "tcp dport vmap { 22 : accept, 7420 : drop }"),
        ("accept", "udp dport 7420 accept\n\t\tmeta l4proto tcp drop"),
        ("drop", ""),
        ("drop", "ct state established,related accept\n\t\tiif \"lo\" accept\n\t\ttcp dport 22 accept"),
        ("drop", "ct state vmap { invalid : drop, established : accept }\n\t\tudp dport 7420 accept"),
        ("drop", "ip saddr 192.168.0.0/16 accept\n\t\tip6 saddr fe80::/10 accept\n\t\tudp dport 7420 jump x"),
        ("drop", "icmp type echo-request accept\n\t\tfib daddr type broadcast accept"),
        ("drop", "tcp dport 7420 ct state != new accept"),
        ("drop", "ct status dnat accept"),
    ] {
        assert_eq!(tcp(&input(policy, rules)).as_deref(), Some("inet t input"), "{policy}: {rules}");
    }
}

#[test]
fn what_passes_or_is_uncertain_is_not_told() {
    for (policy, rules) in [
        ("accept", ""),
        ("accept", "udp dport 7420 drop\n\t\tiifname \"eth0\" drop\n\t\tip saddr 10.1.0.0/16 drop"),
        ("drop", "tcp dport 7420 accept"),
        ("drop", "jump x"),
        ("drop", "goto x"),
        ("drop", "tcp dport { 22, 7420 } ct state new limit rate 25/second accept"),
        ("drop", "ip saddr 10.77.0.16/30 accept"),
        ("drop", "meta mark 0x00000001 accept"),
        ("drop", "xt match \"multiport\" accept"),
        ("accept", "tcp flags & (fin | syn) == syn drop"),
        ("drop", "jump unknown"),
    ] {
        assert_eq!(tcp(&input(policy, rules)), None, "{policy}: {rules}");
    }
    for (policy, rules, admits) in [
        ("accept", "", true),
        ("drop", "tcp dport 7420 accept", true),
        ("drop", "ct state invalid drop\n\t\tlimit rate 3/minute accept\n\t\tjump x", true),
        ("drop", "tcp dport 7420 limit rate 25/second accept", false),
        ("accept", "meta mark 0x00000001 drop", false),
    ] {
        assert_eq!(read(&input(policy, rules)).admits(&packet()), admits, "{policy}: {rules}");
    }
    let forward = input("drop", "").replace("hook input", "hook forward");
    assert_eq!(tcp(&forward), None);
    assert_eq!(tcp(&input("drop", "").replace("inet t", "ip6 t")), None);
}

/// What a gateway answers to a connection of another machine.
fn answer() -> Packet<'static> {
    let Packet { from, to, .. } = packet();
    Packet {
        direction: Direction::Out,
        from_port: Some(7420),
        to_port: None,
        from: to,
        to: from,
        is_answer: true,
        ..packet()
    }
}

#[test]
fn what_leaves_is_judged_by_its_own_chains_and_source_port() {
    let output = |policy: &str, rules: &str| read(&input(policy, rules).replace("hook input", "hook output"));
    for (policy, rules, drops) in [
        ("accept", "tcp sport 7420 drop", true),
        ("accept", "oif \"eth1\" tcp sport 7000-8000 counter packets 0 bytes 0 reject with tcp reset", true),
        ("accept", "ip saddr 10.77.0.21 meta l4proto tcp drop", true),
        (
            "drop",
            "ct state new accept\n\t\ttcp dport 7420 ct state established accept\n\t\tudp sport 7420 accept",
            false,
        ),
        ("drop", "tcp sport 22 accept", true),
        ("drop", "ct state established,related accept", false),
        ("accept", "tcp dport 7420 drop", false),
        ("accept", "iif \"eth1\" drop", false),
        ("accept", "oif \"eth0\" drop", false),
        ("accept", "meta pkttype host drop", false),
        ("accept", "meta skuid 0 drop", false),
    ] {
        assert_eq!(output(policy, rules).stops(&answer()).is_some(), drops, "{policy}: {rules}");
        assert_eq!(output(policy, rules).stops(&packet()), None, "{policy}: {rules}");
    }
    let rules = read(&input("accept", "oif \"eth1\" drop\n\t\ttcp sport 7420 drop"));
    assert_eq!(rules.stops(&answer()), None, "a chain for what arrives");
    assert_eq!(rules.stops(&packet()), None, "a source port that is not known");
    assert!(rules.stops(&Packet { from_port: Some(7420), ..packet() }).is_some());
}

#[test]
fn ports_may_have_the_names_of_their_services() {
    for (rules, stops) in [
        ("tcp dport laneway drop", true),
        ("tcp dport { http, laneway } drop", true),
        ("tcp dport http-lane-way drop", true),
        ("tcp dport laneway-lane-way drop", true),
        ("tcp dport 7000-lane-way drop", true),
        ("tcp dport { ssh, www } drop", false),
        ("tcp dport lane-way drop", false),
        // It may be any.
        ("tcp dport unknown drop", false),
    ] {
        assert_eq!(tcp(&input("accept", rules)).is_some(), stops, "{rules}");
    }
    assert_eq!(tcp(&input("drop", "tcp dport { ssh, http } accept")).as_deref(), Some("inet t input"));
    assert_eq!(tcp(&input("drop", "tcp dport laneway accept")), None);
    assert_eq!(tcp(&input("drop", "tcp dport unknown accept")), None);
    let to_http = Packet { to_port: Some(80), ..packet() };
    assert!(read(&input("accept", "tcp dport www drop")).stops(&to_http).is_some());
}

#[test]
fn a_rule_that_rejects_is_told_from_one_that_drops() {
    for (policy, rules, rejects) in [
        ("accept", "tcp dport 7420 reject", true),
        ("drop", "meta l4proto tcp reject with tcp reset", true),
        ("accept", "tcp dport 7420 drop\n\t\treject", false),
        ("accept", "tcp dport 7420 limit rate 3/second reject\n\t\tdrop", false),
        ("drop", "udp dport 7420 reject", false),
    ] {
        let rules = read(&input(policy, rules));
        let stop = rules.stops(&packet()).unwrap();
        assert!(stop.rejects == rejects && !rules.admits(&packet()), "{rules:?}");
    }
}

proptest::proptest! {
    #[test]
    fn any_text_is_read(text in "(?s).{0,200}", rules in "[a-z0-9 {},:@!=\"/.-]{0,80}") {
        tcp(&text);
        tcp(&input("drop", &rules));
    }
}
