//! Machines beside this one that are gone, and firewalls that answer in their place: the doctor and the status tell one from the
//! other.

use super::ailments::follow;
use super::doctor::{diagnose, healthy};
use crate::lab::group::{init, laneway, up};
use crate::lab::{Case, Lab, wait_until};

pub(super) const CASES: &[Case] = &[
    ("neighbours::a_gateway_whose_machine_is_gone", a_gateway_whose_machine_is_gone),
    ("neighbours::a_router_that_is_gone", a_router_that_is_gone),
    ("neighbours::firewalls_that_reject_are_not_said_to_drop", firewalls_that_reject_are_not_said_to_drop),
    ("neighbours::a_vpn_that_takes_what_is_for_the_lan", a_vpn_that_takes_what_is_for_the_lan),
    ("neighbours::an_interface_that_is_switched_off", an_interface_that_is_switched_off),
    ("neighbours::a_wrong_prefix", a_wrong_prefix),
    ("neighbours::a_way_that_large_packets_do_not_pass", a_way_that_large_packets_do_not_pass),
];

fn a_gateway_whose_machine_is_gone(lab: &Lab) {
    let (_origin, g1, c1, group) = healthy(lab);
    let _node = group.client(&c1, &[]);
    g1.ip("link set lan down");
    for entry in [
        // Otherwise it believes for some seconds that it knows who has the address.
        "neigh flush dev lan",
        "neigh replace 10.77.0.21 lladdr 02:00:00:00:00:01 nud stale dev lan",
    ] {
        c1.ip(entry);
        let diagnosis = diagnose(&c1, &[]);
        let said = diagnosis.said("link");
        assert!(
            said.contains("nobody answers at 10.77.0.21 on lan: that machine is off"),
            "{}",
            diagnosis.text
        );
        assert!(!said.contains("firewall"), "{said}");
        let test = "ip neigh show to 10.77.0.21";
        assert!(said.contains(&format!("'{test}'")), "{said}");
        follow(&c1, &format!("{test} | grep -q 'FAILED\\|INCOMPLETE'"));
    }
    wait_until("the status to say so", || {
        laneway(&c1, &["status"]).text().contains("nobody answers at this address: the machine is off")
    });
}

fn a_router_that_is_gone(lab: &Lab) {
    let g1 = lab.gateway("g1");
    init(&g1);
    g1.ip("route add default via 10.88.0.1");
    let _node = up(&g1, &["--role", "gateway", "--server", "10.99.0.1:80"]);
    let diagnosis = diagnose(&g1, &[]);
    let said = diagnosis.said("gateway");
    assert!(said.contains("nobody answers at 10.88.0.1 on out, the router on the way"), "{}", diagnosis.text);
    assert!(diagnosis.hint("gateway").contains("'ip route get 10.99.0.1'"), "{said}");
}

fn firewalls_that_reject_are_not_said_to_drop(lab: &Lab) {
    let (_origin, g1, c1, _group) = healthy(lab);
    // As firewalld does. The system says that there is no route then.
    g1.filter("tcp dport 7420 reject with icmpx type admin-prohibited");
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames(
        "link",
        &["clock", "gateway", "request"],
        &[
            "a firewall on g1, or between it and this machine, rejects TCP port 7420",
            "on g1: 'ufw allow 7420/tcp'",
        ],
    );
    // On the gateway's own machine, in either direction.
    let diagnosis = diagnose(&g1, &[]);
    let said = diagnosis.said("firewall");
    assert!(
        said.contains("the firewall of this machine rejects incoming packets to TCP port 7420"),
        "{said}"
    );
    g1.filter("");
    g1.swallow("tcp dport 80 reject with tcp reset");
    wait_until("the gateway to withdraw", || {
        laneway(&g1, &["status", "--json"]).text().contains("\"reach\":\"unreachable\"")
    });
    let diagnosis = diagnose(&g1, &[]);
    let said = diagnosis.said("gateway");
    assert!(said.contains("rejects outgoing packets to TCP port 80"), "{}", diagnosis.text);

    // Its own firewall's answer says nothing about a name server.
    let g2 = lab.gateway("g2");
    g2.set("LANEWAY_PROBE", "none");
    init(&g2);
    let _node = up(&g2, &["--role", "gateway"]);
    g2.swallow("udp dport 53 reject");
    let diagnosis = diagnose(&g2, &[]);
    let said = diagnosis.said("name servers");
    assert!(said.contains("rejects outgoing packets to UDP port 53"), "{}", diagnosis.text);
    assert!(!said.contains("no name server runs there") && !said.contains("drops"), "{said}");
}

fn a_way_that_large_packets_do_not_pass(lab: &Lab) {
    let (_origin, g1, c1, _group) = healthy(lab);
    for host in [&c1, &g1] {
        // Packets are counted as a wire would carry them.
        host.ip("link set lan gso_max_segs 1");
        host.filter("iif lan meta length > 1280 drop");
    }
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames(
        "link",
        &[],
        &["large packets do not pass between this machine and g1", "ping -M do", "dev lan mtu"],
    );
    for host in [&c1, &g1] {
        host.filter("");
    }
    assert!(diagnose(&c1, &[]).faults().is_empty());
}

fn a_vpn_that_takes_what_is_for_the_lan(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    // Otherwise there would be a link by IPv6.
    c1.ip("-6 address flush dev lan");
    c1.ip("link add name tun0 type veth peer name far0");
    c1.ip("address add 10.9.0.2/32 dev tun0");
    for end in ["tun0", "far0"] {
        c1.ip(&format!("link set {end} addrgenmode none"));
        c1.ip(&format!("link set {end} up"));
    }
    c1.ip("route add 10.77.0.0/25 dev tun0");
    let diagnosis = diagnose(&c1, &[]);
    for layer in ["discovery", "link"] {
        let said = diagnosis.said(layer);
        let why = "packets to 10.77.0.21 leave by tun0, and not by lan";
        assert!(said.contains(why) && !said.contains("firewall"), "{}", diagnosis.text);
        assert!(diagnosis.hint(layer).contains("take 10.77.0.0/24 out of what the VPN carries"), "{said}");
    }
    follow(&c1, "ip route get 10.77.0.21 | grep -q 'dev tun0'");
    c1.ip("route delete 10.77.0.0/25 dev tun0");
    assert!(diagnose(&c1, &[]).faults().is_empty());
}

fn an_interface_that_is_switched_off(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    c1.ip("link set lan down");
    let diagnosis = diagnose(&c1, &[]);
    let said = diagnosis.said("interfaces");
    assert!(
        said.contains("lan has 10.77.0.11/24, and is switched off or not connected"),
        "{}",
        diagnosis.text
    );
    let command = diagnosis.hint("interfaces").split('\'').nth(1).unwrap();
    follow(&c1, command);
    assert!(diagnose(&c1, &[]).faults().is_empty());
}

fn a_wrong_prefix(lab: &Lab) {
    let (_origin, _g1, c1, _group) = healthy(lab);
    c1.widen();
    let diagnosis = diagnose(&c1, &[]);
    diagnosis.blames(
        "discovery",
        &[],
        &[
            "answers unicast but not broadcast",
            "its prefix of this LAN is another one than here, where that is 10.77.0.0/16",
        ],
    );
}
