//! What apps and status say where no gateway is reached, and why that is: this machine's own cable, or a gateway that has
//! stopped.

use nix::sys::signal::Signal;

use super::curl::HTTP;
use crate::lab::group::{START, init, join, laneway, up};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};

pub(super) const CASES: &[Case] = &[
    ("cut_off::a_machine_whose_cable_is_out_names_its_own_interface", a_machine_whose_cable_is_out),
    ("cut_off::a_machine_that_joins_without_a_cable_is_told_so", a_machine_that_joins_without_a_cable),
    ("cut_off::a_gateway_that_was_stopped_is_said_to_have_stopped", a_gateway_that_was_stopped),
    ("cut_off::a_gateway_that_is_heard_is_not_said_to_be_silent", a_gateway_that_is_heard),
    ("cut_off::a_gateway_that_vanishes_is_said_to_have_been_there", a_gateway_that_vanishes),
    (
        "cut_off::the_machine_that_admitted_a_gateway_is_not_why_there_is_no_other",
        the_machine_that_admitted_a_gateway_is_not_why,
    ),
    ("cut_off::a_gateway_beyond_a_router_says_itself_that_it_has_no_way_out", a_gateway_beyond_a_router),
];

const URL: &str = "http://10.88.0.100/";

fn said(client: &Host) -> String {
    client.curl(&[&HTTP[..], &["--max-time", "30", URL]].concat()).text()
}

fn status(client: &Host) -> String {
    laneway(client, &["status"]).success().text()
}

fn a_machine_whose_cable_is_out(lab: &Lab) {
    let _web = lab.web(who);
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1], &[]);
    let mut node = group.client(&c1, &["--hold", "1"]);
    let served = || said(&c1).starts_with(&g1.addresses()[1].to_string());
    assert!(served());
    let names = |words: &str| {
        let words = format!("this machine itself is cut off: its interface lan {words}");
        wait_until("the status to name the interface", || {
            status(&c1).contains(&format!("no gateway: {words}"))
        });
        let said = said(&c1);
        assert!(said.contains(&words) && !said.contains("gateway g1"), "{said}");
    };
    lab.plug("c1", false);
    names("has no carrier, as when its cable is out");
    lab.plug("c1", true);
    wait_until("requests to succeed again", served);
    c1.ip("link set lan down");
    names("is switched off");
    c1.ip("link set lan up");
    wait_until("requests to succeed again", served);
    // DHCP has given it no address.
    c1.ip("address flush dev lan");
    names("has no address");
    assert!(node.is_running());
}

fn a_machine_that_joins_without_a_cable(lab: &Lab) {
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let group = lab.group(&[&g1], &[]);
    lab.plug("c1", false);
    wait_until("the interface to lose its carrier", || {
        let mut ip = c1.command("ip");
        ip.args(["link", "show", "lan"]);
        c1.output(ip).text().contains("NO-CARRIER")
    });
    let refused = laneway(&c1, &["join", &group.code]).stderr;
    assert!(
        refused.contains("its interface lan has no carrier") && !refused.contains("firewall"),
        "{refused}"
    );
    lab.plug("c1", true);
    join(&c1, &group.code);
}

fn a_gateway_that_was_stopped(lab: &Lab) {
    let _web = lab.web(who);
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let mut group = lab.group(&[&g1, &c1], &["--drain", "0"]);
    let _node = group.client(&c1, &["--hold", "1"]);
    group.gateway.signal(Signal::SIGTERM);
    group.gateway.wait(START);
    let words = [
        "gateway g1 said ",
        " ago that it stops",
        "'laneway up' there, with its --server or --role gateway, starts it",
    ];
    let tells = |text: &str| words.iter().all(|word| text.contains(word)) && !text.contains("refused [");
    wait_until("apps to be told that it has stopped", || tells(&said(&c1)));
    wait_until("the status to tell that it has stopped", || tells(&status(&c1)));
    group.gateway = group.gateway(&g1, &[]);
    wait_until("requests to succeed again", || said(&c1).starts_with(&g1.addresses()[1].to_string()));
    assert!(status(&c1).contains("\nlinked to gateway g1 at "), "{}", status(&c1));
    // Killed, the gateway has announced nothing.
    group.gateway.signal(Signal::SIGKILL);
    wait_until("apps to be told that no node runs there", || {
        said(&c1).contains("gateway g1 refuses connections: no node runs there")
    });
}

/// What the status says of the situation until a dial has failed, and then says why.
fn until_told(client: &Host) -> Vec<String> {
    let mut said = Vec::new();
    wait_until("the status to tell why there is no link", || {
        let text = status(client);
        said.push(text.lines().nth(1).unwrap_or_default().to_owned());
        text.contains("\nno gateway: gateway g1 cannot be connected to: ")
    });
    said
}

fn a_gateway_that_is_heard(lab: &Lab) {
    let _web = lab.web(who);
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1], &[]);
    g1.filter("tcp dport 7420 drop");
    let mut node = group.up(&c1, &[]);
    node.wait_for_line("gateway heard", START);
    for said in until_told(&c1) {
        assert!(!said.contains("has answered yet"), "{said}");
    }
    assert!(!node.log().contains("link up"));
}

fn a_gateway_that_vanishes(lab: &Lab) {
    let _web = lab.web(who);
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1], &[]);
    let _node = group.client(&c1, &[]);
    lab.plug("g1", false);
    let all = until_told(&c1);
    for said in &all {
        assert!(!said.contains("has answered yet"), "{said}");
    }
    let lost = all.iter().find(|said| said.contains("no gateway: the link to gateway g1 was lost "));
    let lost = lost.unwrap_or_else(|| panic!("{all:#?}"));
    assert!(lost.contains("g1 (heard "), "{lost}");
}

fn the_machine_that_admitted_a_gateway_is_not_why(lab: &Lab) {
    let _web = lab.web(who);
    let (g1, c1, c2) = (lab.gateway("g1"), lab.client("c1"), lab.client("c2"));
    let code = init(&c2);
    let _authority = up(&c2, &[]);
    for host in [&g1, &c1] {
        join(host, &code);
    }
    let mut gateway = up(&g1, &["--server", "10.88.0.100:80"]);
    let mut client = up(&c1, &[]);
    client.wait_for_line("link up", START);
    // Neither is it listed for ever.
    for host in [&g1, &c1] {
        assert!(!status(host).contains("10.77.0.12:7420"), "{}", status(host));
    }
    g1.ip("link set out down");
    gateway.wait_for_line("10.77.0.12:7420 accepts no links: it is not a gateway", START);
    let said = status(&g1);
    let other = "withdrawn gateway, no other gateway to 10.88.0.100:80 has answered yet, and this node cannot reach it either";
    assert!(said.contains(other) && !said.contains("10.77.0.12:7420"), "{said}");
}

fn a_gateway_beyond_a_router(lab: &Lab) {
    let _web = lab.web(who);
    let (g1, c1) = (lab.gateway("g1"), lab.client("c1"));
    let group = lab.group(&[&g1, &c1], &[]);
    // As from there, it hears no announcement.
    let _node = group.client(&c1, &["--lan", "127.0.0.1", "--gateway", "10.77.0.21:7420"]);
    assert!(status(&c1).contains("\nlinked to gateway g1 at 10.77.0.21:7420\n"));
    g1.ip("link set out down");
    wait_until("the status to say so before anything is asked for", || {
        status(&c1).contains("\nno gateway: gateway g1 does not reach 10.88.0.100:80")
    });
    g1.ip("link set out up");
    wait_until("the status to say that it has one again", || status(&c1).contains("\nlinked to gateway g1 "));
}
