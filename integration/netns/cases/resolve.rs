//! The gateway resolves names as its machine's C library does, which `getent ahosts` shows.

use std::collections::BTreeSet;
use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hickory_proto::op::ResponseCode;
use laneway::gateway::dns::Resolver;
use laneway::wire::target::Host as TargetHost;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::lab::group::Group;
use crate::lab::odd_names::{Habit, longest_name};
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};

pub(super) const CASES: &[Case] = &[
    (
        "resolve::every_name_has_the_addresses_that_the_c_library_finds",
        every_name_has_the_addresses_that_the_c_library_finds,
    ),
    (
        "resolve::a_name_server_that_drops_ipv6_questions_delays_no_connection",
        a_name_server_that_drops_ipv6_questions_delays_no_connection,
    ),
    ("resolve::a_failure_says_what_the_name_servers_did", a_failure_says_what_the_name_servers_did),
    (
        "resolve::a_local_zone_whose_server_knows_no_edns_is_answered",
        a_local_zone_whose_server_knows_no_edns_is_answered,
    ),
];

/// The name servers, at 10.88.0.101 and so on.
const HABITS: [Habit; 13] = [
    Habit::Usual,
    Habit::DropsAaaa,
    Habit::CodeForAaaa(ResponseCode::ServFail),
    Habit::CodeForAaaa(ResponseCode::NXDomain),
    Habit::CodeForEdns(ResponseCode::FormErr),
    Habit::CodeForEdns(ResponseCode::NotImp),
    Habit::Code(ResponseCode::Refused),
    Habit::Lame,
    Habit::Silent,
    Habit::DropsEdns,
    Habit::BrokenAdditionals,
    Habit::Code(ResponseCode::ServFail),
    Habit::CutsRecords,
];

const HOSTS: &str = "127.0.0.1 localhost g1\n::1 localhost ip6-localhost\n\
    10.88.0.50 Printer printer.lab # the one upstairs\n10.88.0.51\tprinter\n2001:db8::50 printer\n\
    10.88.0.52 only_four\n2001:db8::53 only-six six.lab\n::ffff:10.88.0.54 mapped\n\
    bad-line\n10.88.0.256 wrong\n10.88.0.55\n";

const FEW: &[&str] = &["web.lab", "web", "four.lab", "short", "none.lab", "printer", "many.lab"];

/// A name server, a line of nsswitch.conf with an action, and names.
const ACTIONS: [(u8, Option<&str>, &[&str]); 8] = [
    (101, Some("hosts: dns [NOTFOUND=return] files\n"), FEW),
    (101, Some("hosts: files [ notfound = Return ] dns\n"), FEW),
    (101, Some("hosts: dns [!UNAVAIL=return] files\n"), FEW),
    (112, Some("hosts: dns [!UNAVAIL=return] files\n"), &["printer.lab", "six.lab"]),
    (112, Some("hosts: dns [UNAVAIL=return] files\n"), &["printer.lab", "six.lab"]),
    (107, Some("hosts: dns [!NOTFOUND=return] files\n"), &["printer.lab"]),
    (109, Some("hosts: dns [UNAVAIL=return] files\n"), &["printer.lab"]),
    (113, None, FEW),
];

/// A directory that becomes /etc.
struct Etc(PathBuf);

impl Etc {
    fn new(lab: &Lab, number: usize, conf: Option<&str>, switch: Option<&str>) -> Self {
        let directory = lab.write("etc", "").with_file_name(format!("etc{number}"));
        fs::create_dir_all(&directory).unwrap();
        let write = |name: &str, text: &str| fs::write(directory.join(name), text).unwrap();
        write("hosts", HOSTS);
        write("host.conf", "multi on\n");
        conf.iter().for_each(|text| write("resolv.conf", text));
        switch.iter().for_each(|text| write("nsswitch.conf", text));
        Self(directory)
    }

    /// What the C library finds.
    fn getent(&self, host: &Host, names: &[String]) -> Vec<BTreeSet<IpAddr>> {
        let script = r#"mount --bind "$0" /etc && for name; do getent ahosts -- "$name"; echo; done; true"#;
        let mut getent = host.command("sh");
        getent.args(["-c", script]).arg(&self.0).args(names);
        let text = host.spawn(getent).finish(Duration::from_secs(300)).success().text();
        let blocks = text.split_inclusive('\n').fold(vec![BTreeSet::new()], |mut blocks, line| {
            match line.split_whitespace().next() {
                Some(ip) => {
                    blocks.last_mut().unwrap().insert(ip.parse::<IpAddr>().unwrap().to_canonical());
                }
                None => blocks.push(BTreeSet::new()),
            }
            blocks
        });
        blocks[..names.len()].to_vec()
    }

    /// What the gateway finds.
    fn laneway(&self, host: &Host, names: &[String]) -> Vec<BTreeSet<IpAddr>> {
        host.inside(|| {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            mount(Some(&self.0), "/etc", None::<&str>, MsFlags::MS_BIND, None::<&str>).unwrap();
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            let resolver = Resolver::system();
            let find = async |name: &String| match TargetHost::parse(name) {
                Ok(TargetHost::Address(ip)) => BTreeSet::from([ip]),
                Ok(TargetHost::Name(name)) => {
                    resolver.resolve(&name).await.unwrap_or_default().into_iter().collect()
                }
                Err(_) => BTreeSet::new(),
            };
            runtime.block_on(futures_util::future::join_all(names.iter().map(find)))
        })
    }
}

fn every_name_has_the_addresses_that_the_c_library_finds(lab: &Lab) {
    lab.odd_name_servers(&HABITS);
    let g1 = lab.gateway("g1");
    let brief = "options timeout:1 attempts:1\n";
    let of = |number: u8| format!("nameserver 10.88.0.{number}\n{brief}");
    let all = [
        "web.lab",
        "WEB.Lab",
        "web.lab.",
        "web",
        "web.",
        "four.lab",
        "six.lab",
        "a_b.lab",
        "_srv.lab",
        "some_host",
        "short",
        "host.sub",
        "host.sub.",
        "dotted",
        "xn--caf-dma.lab",
        "-dash-.lab",
        "empty.lab",
        "www.lab",
        "chain.lab",
        "dangling.lab",
        "127.lab",
        "stray.lab",
        "many.lab",
        "none.lab",
        "none",
        "localhost",
        "g1",
        "printer",
        "PRINTER",
        "printer.lab",
        "only_four",
        "only-six",
        "mapped",
        "wrong",
        "127.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "10.0.0.256",
        "1.2.3.4.5",
    ];
    let mut table: Vec<(Option<String>, Option<&str>, &[&str])> = vec![
        (Some(of(101)), None, &all),
        (Some(format!("search corp.lab lab\n{}", of(101))), None, &all),
        (Some(format!("domain lab\n{}", of(101))), Some("hosts: files dns\n"), &all),
        (Some(format!("search corp.lab\nsearch other.lab lab\n{}options ndots:2\n", of(101))), None, &all),
        (Some(format!("search lab\n{}options ndots:0\n", of(101))), None, FEW),
        (Some(format!("search lab bad..domain corp.lab\n{}", of(101))), None, &["web.lab", "web", "printer"]),
        (Some(format!("{}options no-such-option ndots:x rotate bad:1\n", of(101))), None, FEW),
        (
            Some(format!(
                "; comment\n# comment\n\tnameserver 10.88.0.109\nsearch\tlab\t\nnameserver\t10.88.0.101 trailing\n{brief}"
            )),
            None,
            FEW,
        ),
        (Some(format!("nameserver 10.88.0.101\r\nsearch lab\r\n{brief}")), None, &["web", "printer"]),
        (Some(format!("nameserver 10.88.0.256\nnameserver name\n{}", of(101))), None, FEW),
        // More than three: the fourth is not asked.
        (
            Some(format!(
                "nameserver 10.88.0.107\nnameserver 10.88.0.107\nnameserver 10.88.0.107\n{}",
                of(101)
            )),
            None,
            &["web.lab"],
        ),
        (Some(format!("nameserver 10.88.0.107\nnameserver 10.88.0.108\n{}", of(101))), None, FEW),
        (Some(format!("nameserver 10.88.0.109\n{}", of(101))), None, &["web.lab", "none.lab"]),
        (Some(format!("nameserver 10.88.0.112\n{}", of(101))), None, &["web.lab", "none.lab"]),
        (Some(format!("{}options use-vc\n", of(101))), None, FEW),
        (Some(format!("{}options edns0 trust-ad\n", of(101))), None, FEW),
        (Some(format!("{}options single-request\n", of(101))), None, FEW),
        (Some(of(101)), Some("hosts: files\n"), FEW),
        (Some(of(101)), Some("hosts: dns\n"), &["web.lab", "printer"]),
        (Some(of(101)), Some("hosts: dns [NOTFOUND=continue] files\n"), &["printer.lab", "six.lab"]),
        (Some(of(101)), Some("passwd: files\n"), FEW),
        // None, and the machine's own does not answer.
        (None, None, &["web.lab", "printer", "localhost"]),
        (Some(String::new()), None, &["web.lab", "printer"]),
        (Some(format!("nameserver fe80::1%out\n{brief}")), None, &["web.lab", "printer"]),
        (Some(format!("nameserver fe80::1%nosuch0\n{}", of(101))), None, &["web.lab"]),
    ];
    table.extend(ACTIONS.map(|(number, switch, names)| (Some(of(number)), switch, names)));
    for number in [103, 104, 105, 106, 107, 108, 110, 111, 112] {
        table.push((Some(of(number)), None, &["web.lab", "four.lab", "six.lab", "none.lab"]));
        // The C library does not ask again without EDNS.
        if number != 105 && number != 106 {
            table.push((Some(format!("{}options edns0\n", of(number))), None, &["web.lab"]));
        }
    }
    let mut wrong = String::new();
    for (number, (conf, switch, names)) in table.iter().enumerate() {
        let mut names: Vec<_> = names.iter().map(|name| (*name).to_owned()).collect();
        if number < 4 {
            names.push(longest_name());
        }
        let etc = Etc::new(lab, number, conf.as_deref(), *switch);
        // On a busy machine a name server may take longer than the second that it has. A difference comes again.
        let ask = || (etc.getent(&g1, &names), etc.laneway(&g1, &names));
        let (mut expected, mut found) = ask();
        for _ in 0..2 {
            if expected != found {
                (expected, found) = ask();
            }
        }
        for ((name, expected), found) in names.iter().zip(expected).zip(found) {
            if expected != found {
                wrong += &format!("{conf:?} {switch:?} {name}: getent {expected:?}, laneway {found:?}\n");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// A gateway, with these lines as its /etc/resolv.conf.
fn gateway(lab: &Lab, conf: &str, options: &[&str]) -> (Host, Group) {
    let g1 = lab.gateway("g1");
    fs::write(g1.directory().join("resolv.conf"), conf).unwrap();
    let group = lab.group(&[&g1], &[&["--allow", "10.88.0.0/24"], options].concat());
    (g1, group)
}

/// What a gateway's own software gets through its local port.
fn get(host: &Host, url: &str) -> String {
    let answer = host.curl(&["--proxy", "http://127.0.0.1:1080", "--include", url]);
    answer.success().text()
}

fn a_name_server_that_drops_ipv6_questions_delays_no_connection(lab: &Lab) {
    lab.odd_name_servers(&HABITS);
    let _web = lab.web(who);
    let (g1, _group) = gateway(lab, "nameserver 10.88.0.102\n", &[]);
    for _ in 0..3 {
        let begun = Instant::now();
        let answer = get(&g1, "http://web.lab/who");
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        // The C library and most resolvers take 5 s and more for each connection.
        assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    }
}

fn a_failure_says_what_the_name_servers_did(lab: &Lab) {
    lab.odd_name_servers(&HABITS);
    let _web = lab.web(who);
    let (g1, _group) = gateway(lab, "nameserver 10.88.0.107\n", &[]);
    for (server, status, says) in [
        ("10.88.0.107", "502", "name servers refused to answer for web.lab"),
        ("10.88.0.112", "502", "name servers answered SERVFAIL for web.lab"),
        ("10.88.0.109", "504", "name servers did not answer for web.lab"),
        ("10.88.0.101", "200", "10.88.0.21"),
    ] {
        fs::write(
            g1.directory().join("resolv.conf"),
            format!("nameserver {server}\noptions timeout:1 attempts:1\n"),
        )
        .unwrap();
        wait_until(says, || {
            let answer = get(&g1, "http://web.lab/who");
            answer.starts_with(&format!("HTTP/1.1 {status}")) && answer.contains(says)
        });
    }
    let answer = get(&g1, "http://no_such_name.lab/");
    assert!(
        answer.starts_with("HTTP/1.1 502") && answer.contains("cannot find the name no_such_name.lab"),
        "{answer}"
    );
}

fn a_local_zone_whose_server_knows_no_edns_is_answered(lab: &Lab) {
    lab.odd_name_servers(&HABITS);
    let _web = lab.web(who);
    let zones = "lab=10.88.0.105,notimp=10.88.0.106,dropped=10.88.0.110,lame=10.88.0.108";
    let (g1, _group) =
        gateway(lab, "nameserver 10.88.0.106\n", &["--dns", "127.0.0.1:53", "--dns-local", zones]);
    let dig = |words: &str| {
        let mut dig = g1.command("dig");
        dig.args(["@127.0.0.1", "+tries=1", "+timeout=8"]).args(words.split(' '));
        g1.output(dig).text()
    };
    assert_eq!(dig("+short web.lab").trim(), "10.88.0.100");
    assert_eq!(dig("+short +tcp many.lab").lines().count(), 60);
    for (name, status) in [
        ("none.lab", "NXDOMAIN"),
        ("none.notimp", "NXDOMAIN"),
        ("none.dropped", "NXDOMAIN"),
        ("none.lame", "SERVFAIL"),
    ] {
        let answer = dig(name);
        assert!(answer.contains(&format!("status: {status}")), "{name}: {answer}");
    }
    // The machine's own name server knows no EDNS either.
    assert!(dig("none.example").contains("status: NXDOMAIN"));
}
