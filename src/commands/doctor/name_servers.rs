//! The name servers of a gateway, which resolves the names that its clients ask for.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::rr::{Name, RecordType};
use ipnet::IpNet;

use super::filtering::{self, Filter};
use super::machine::Node;
use super::remedies::{SHOW_RULES, uplink_up};
use super::report::{Finding, Layer, Verdict};
use crate::config::{Config, RoleSetting};
use crate::dns::conf::{Conf, PORT, absolute};
use crate::dns::hosts::Hosts;
use crate::dns::servers::code_of;
use crate::gateway::access::Access;
use crate::net;
use crate::sys::{neighbour, tools};
use crate::telemetry::snapshot::RulesSeen;
use crate::wire::dns::{Query, ResponseCode, word};
use crate::wire::target::{Host, Target};

/// How long to wait for a name server, which is asked twice in that time.
const LIMIT: Duration = Duration::from_secs(4);
/// The stub of systemd-resolved (systemd-resolved.service(8)).
const RESOLVED: [&str; 2] = ["127.0.0.53", "127.0.0.54"];

/// What this gateway resolves names for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Need {
    /// Its rules allow destinations by their names: this one, if it is known.
    Names(Option<String>),
    /// Its rules allow networks, whose hosts may have names.
    Networks,
    /// It reaches its servers without a name server; its rules allow all other destinations, too.
    Others,
}

/// What is found of the name servers.
pub(super) struct Names {
    /// The finding.
    pub(super) finding: Finding,
    /// One of them, if they are all behind a router and nothing has come back from any: that may be the fault of the way there.
    far: Option<IpAddr>,
    /// What is in the way is known.
    is_explained: bool,
}

impl Names {
    /// What to do where nothing else tells whether the way out or the name servers are at fault: the way comes first.
    pub(super) fn hint(&self) -> Option<String> {
        let hint = self.finding.hint.clone()?;
        Some(match self.far.filter(|_| !self.is_explained).map(|ip| uplink_up(&ip.to_string())) {
            Some(uplink) if uplink != hint => format!("{uplink}. If other hosts behind it answer: {hint}"),
            _ => hint,
        })
    }

    /// The finding, in view of that about the way out: without a way out no name server beyond it answers, and with one the name
    /// servers themselves are at fault.
    pub(super) fn beside(self, way_out: Option<Verdict>) -> Finding {
        let hint = self.hint();
        match (way_out, self.far) {
            (Some(Verdict::Wrong), Some(_)) => {
                let what = format!("{}: that follows from the way out", self.finding.what);
                Finding { why: self.finding.why, ..Finding::skipped(Layer::NameServers, what) }
            }
            (Some(_), _) | (_, None) => self.finding,
            (None, Some(_)) => Finding { hint, ..self.finding },
        }
    }
}

/// How one name server does.
type Answer = (SocketAddr, io::Result<ResponseCode>);

/// Whether the name servers of the gateway on this machine answer. `None` where its clients need none.
pub(super) async fn check(
    config: &Config,
    node: Option<&Node>,
    filter: Option<&Filter<'_>>,
) -> Option<Names> {
    // A proxy of --upstream resolves the names.
    if !config.gateway.upstream.is_empty() && config.gateway.upstream_except.is_empty() {
        return None;
    }
    let (rules, servers) = match node {
        Some(node) => (
            node.seen.rules.clone()?,
            node.seen.servers.iter().filter_map(|server| server.parse().ok()).collect(),
        ),
        None => {
            let gateway = &config.gateway;
            (Access::new(&gateway.server, &gateway.allow, &gateway.deny).seen(), gateway.server.clone())
        }
    };
    let need = need(&rules, &servers, &Hosts::system())?;
    let mut conf = Conf::system();
    let is_default = !conf.is_configured;
    conf.servers.retain(|server| !config.dns.dns.contains(server));
    let name = match &need {
        Need::Names(Some(name)) => Some(name.as_str()),
        _ => None,
    };
    let asked = name.and_then(|name| conf.candidates(name).into_iter().next());
    let protocol = if conf.tcp { "tcp" } else { "udp" };
    let answers = conf.servers.iter().map(async |server| {
        let query = question(*server, asked.clone());
        let answer = code_of(*server, &query, conf.tcp, LIMIT).await;
        // What this machine's own firewall answers says nothing about the server.
        let is_stopped = || filter.is_some_and(|filter| filter.of_destination(protocol, *server).is_some());
        let answer = match answer {
            Err(_) if is_stopped() => Err(io::ErrorKind::PermissionDenied.into()),
            answer => answer,
        };
        (*server, answer)
    });
    let answers = join_all(answers).await;
    let finding = judge(&answers, name, is_default);
    let failed = answers.iter().filter(|(_, answer)| answer.is_err()).map(|(server, _)| *server);
    let failed: Vec<_> = failed.collect();
    let known = finding.hint.clone();
    let finding = filtering::explain(finding, filter, protocol, &failed).await;
    let is_explained = finding.hint != known;
    let far = far(&answers).filter(|_| finding.verdict == Verdict::Wrong);
    let finding = match (need, finding.verdict) {
        (Need::Networks, Verdict::Wrong) => {
            let what = format!("{}; that does no harm while all clients name addresses", finding.what);
            Finding { verdict: Verdict::Skipped, what, ..finding }
        }
        (Need::Others, Verdict::Wrong) if is_default => {
            let what = "no name server is configured: that does no harm while all clients name addresses, or names of this machine's \
                        /etc/hosts, such as the servers of this gateway";
            Finding { verdict: Verdict::Skipped, what: what.into(), why: Vec::new(), ..finding }
        }
        // Whether it reaches its servers, and so is a gateway at all, shows when its node runs.
        (_, Verdict::Wrong) if node.is_none() && config.node.role == RoleSetting::Auto => {
            let what =
                "if this machine is a gateway, it cannot resolve names for its clients, or not at once";
            Finding { verdict: Verdict::Skipped, what: what.into(), ..finding }
        }
        _ => finding,
    };
    let far = far.filter(|_| finding.verdict == Verdict::Wrong);
    Some(Names { finding, far, is_explained })
}

/// The first name server, if all of them are behind a router, or behind none that is known, and none has sent anything.
fn far(answers: &[Answer]) -> Option<IpAddr> {
    use io::ErrorKind::{HostUnreachable, NetworkUnreachable, TimedOut};
    let is_far = |(server, answer): &Answer| {
        let is_silent = answer
            .as_ref()
            .is_err_and(|error| matches!(error.kind(), TimedOut | HostUnreachable | NetworkUnreachable));
        let is_near = neighbour::next_hop(*server).is_some_and(|hop| hop.address == net::plain(*server).ip());
        is_silent && !is_near && !server.ip().is_loopback()
    };
    answers.first().filter(|_| answers.iter().all(is_far)).map(|(server, _)| server.ip())
}

/// What is asked: the name that is needed, else what every server knows by itself (RFC 6303 §4.2). One on this machine asks
/// another one, and only a question that it has to pass on tells whether that works.
fn question(server: SocketAddr, name: Option<Name>) -> Query {
    match name {
        Some(name) => Query::for_addresses(name, RecordType::A, true),
        None if server.ip().is_loopback() => Query::for_addresses(Name::root(), RecordType::NS, true),
        None => {
            let name = absolute("1.0.0.127.in-addr.arpa").unwrap_or_else(Name::root);
            Query::for_addresses(name, RecordType::PTR, true)
        }
    }
}

/// What a gateway with these rules and servers resolves names for; `None` for nothing.
fn need(rules: &RulesSeen, servers: &[Target], hosts: &Hosts) -> Option<Need> {
    let is_known = |name: &str| hosts.find(name).is_some();
    let mut names = servers.iter().filter_map(|server| match &server.host {
        Host::Name(name) if !is_known(name) => Some(name.clone()),
        _ => None,
    });
    if let Some(name) = names.next() {
        return Some(Need::Names(Some(name)));
    }
    let hosts: Vec<&str> = rules.allowed.iter().map(|rule| host_of(rule)).collect();
    let is_address = |host: &&str| host.parse::<IpAddr>().is_ok() || host.parse::<IpNet>().is_ok();
    let is_name = |host: &&str| *host != "*" && !is_address(host) && !is_known(host);
    if hosts.iter().any(is_name) {
        return Some(Need::Names(None));
    }
    if rules.allows_any || hosts.contains(&"*") {
        return Some(if servers.is_empty() { Need::Names(None) } else { Need::Others });
    }
    hosts.iter().any(|host| host.parse::<IpNet>().is_ok()).then_some(Need::Networks)
}

/// The host, pattern or network of a rule: what stands before its ports.
fn host_of(rule: &str) -> &str {
    match rule.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => rule.split(':').next().unwrap_or(rule),
    }
}

/// The finding of these answers to the question for `name`, or for something that every server knows. `is_default` tells that no
/// server is configured, so that the C library, and the gateway, ask this machine.
fn judge(answers: &[Answer], name: Option<&str>, is_default: bool) -> Finding {
    const NONE: &str = "this gateway cannot resolve names for its clients";
    let works = |(_, answer): &Answer| match (answer, name) {
        (Ok(code), Some(_)) => matches!(*code, ResponseCode::NoError | ResponseCode::NXDomain),
        (Ok(_), None) => true,
        (Err(_), _) => false,
    };
    let reasons = answers.iter().filter(|answer| !works(answer)).map(|answer| reason(answer, name));
    let reasons: Vec<String> = reasons.collect();
    // Where nothing runs on this machine, there is nothing to be tested.
    let is_absent = |(server, answer): &Answer| {
        let refuses = |error: &io::Error| error.kind() == io::ErrorKind::ConnectionRefused;
        server.ip().is_loopback() && answer.as_ref().is_err_and(refuses)
    };
    let mut useless = answers.iter().filter(|answer| !works(answer));
    let tested = useless.find(|answer| !is_absent(answer) || RESOLVED.contains(&&*shown(answer.0)));
    let tested = tested.map(|(server, _)| *server);
    let is_kept = |(_, answer): &Answer| {
        answer.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::PermissionDenied)
    };
    let is_cut_off = |(_, answer): &Answer| {
        let kinds = [io::ErrorKind::NetworkUnreachable, io::ErrorKind::HostUnreachable];
        answer.as_ref().is_err_and(|error| kinds.contains(&error.kind()))
    };
    let hint = || match answers.first() {
        _ if answers.iter().any(is_kept) => SHOW_RULES.into(),
        // There is no way to any of them: they may be the right ones.
        Some((first, _)) if answers.iter().all(is_cut_off) => uplink_up(&first.ip().to_string()),
        _ => hint(tested, name),
    };
    match answers.iter().position(works) {
        None if answers.is_empty() => Finding::wrong(Layer::NameServers, NONE)
            .because("its only name server is this node itself, which --dns names")
            .hint(hint()),
        None => {
            let finding = Finding::wrong(Layer::NameServers, NONE);
            let finding = match is_default {
                true => finding.because("no name server is configured, and none runs on this machine"),
                false => finding,
            };
            reasons.into_iter().fold(finding, Finding::because).hint(hint())
        }
        // The first one is asked first.
        Some(1..) => {
            let what =
                "names take longer than they have to: another name server is asked before one that answers";
            reasons.into_iter().fold(Finding::wrong(Layer::NameServers, what), Finding::because).hint(hint())
        }
        Some(0) => {
            let answering = answers.iter().filter(|answer| works(answer)).map(|(server, _)| shown(*server));
            let answering: Vec<_> = answering.collect();
            let verb = if answering.len() == 1 { "answers" } else { "answer" };
            let mut what = format!("{} {verb}", answering.join(", "));
            for reason in reasons {
                what = format!("{what}; {reason}");
            }
            Finding::ok(Layer::NameServers, what)
        }
    }
}

/// Why this answer is of no use.
fn reason((server, answer): &Answer, name: Option<&str>) -> String {
    let ip = shown(*server);
    match answer {
        Ok(code) => {
            let code = word(*code).to_ascii_uppercase();
            format!("{ip} answers {code} for {}", name.unwrap_or("."))
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            format!("{ip} has not answered within {} s", LIMIT.as_secs())
        }
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            format!("{ip} refuses: no name server runs there")
        }
        Err(error) if error.kind() == io::ErrorKind::InvalidData => {
            format!("{ip} sends something, but no answer to the question: it may be no name server")
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            format!("{ip} cannot be asked: the firewall of this machine does not let the question out")
        }
        Err(error) => match server {
            SocketAddr::V6(v6) if v6.ip().is_unicast_link_local() && v6.scope_id() == 0 => {
                format!(
                    "{ip} is a link-local address, which needs an interface of this machine behind it, as in {ip}%eth0"
                )
            }
            _ => format!("{ip} cannot be asked: {error}"),
        },
    }
}

/// What to do about a server that does not answer.
fn hint(server: Option<SocketAddr>, name: Option<&str>) -> String {
    let Some(server) = server else { return tools::NAME_SERVERS.into() };
    let ip = shown(server);
    if RESOLVED.contains(&ip.as_str()) {
        return "'resolvectl status' shows the name servers that systemd-resolved asks, and 'resolvectl dns INTERFACE ADDRESS' sets \
                one; 'systemctl restart systemd-resolved' starts it again"
            .into();
    }
    let test = tools::ask_for(name.unwrap_or("localhost"), &ip);
    format!("{}; '{test}' tests this one", tools::NAME_SERVERS)
}

/// A name server as resolv.conf(5) has it.
fn shown(server: SocketAddr) -> String {
    let ip = server.ip();
    let scope = match server {
        SocketAddr::V6(v6) => net::interface_name(v6.scope_id()),
        SocketAddr::V4(_) => None,
    };
    match (scope, server.port()) {
        (Some(interface), _) => format!("{ip}%{interface}"),
        (None, PORT) => ip.to_string(),
        (None, _) => server.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allowed: &[&str], allows_any: bool) -> RulesSeen {
        RulesSeen {
            allows_any,
            allowed: allowed.iter().map(|rule| (*rule).to_owned()).collect(),
            denied: vec![],
        }
    }

    #[test]
    fn only_a_gateway_that_serves_names_needs_a_name_server() {
        let hosts = Hosts::read(b"10.0.0.5 web.lab\n");
        let named = |name: &str| Some(Need::Names(Some(name.to_owned())));
        for (servers, allowed, any, expected) in [
            (&["10.0.0.5:80"][..], &["10.0.0.5:80"][..], false, None),
            (&["[fd00::1]:80"], &["[fd00::1]:80"], false, None),
            (&["web.lab:80"], &["web.lab:80"], false, None),
            (&["Web.Lab.:80"], &["web.lab:80"], false, None),
            (&["other.lab:80"], &["other.lab:80"], false, named("other.lab")),
            (&["10.0.0.5:80"], &["10.0.0.5:80", "*.lab:443"], false, Some(Need::Names(None))),
            (&["10.0.0.5:80"], &["10.0.0.5:80", "10.0.0.0/8"], false, Some(Need::Networks)),
            (&["10.0.0.5:80"], &["10.0.0.5:80", "[fd00::/8]:443"], false, Some(Need::Networks)),
            (&[], &[], true, Some(Need::Names(None))),
            (&["10.0.0.5:80", "web.lab:80"], &[], true, Some(Need::Others)),
            (&["10.0.0.5:80"], &["10.0.0.5:80", "*:443"], false, Some(Need::Others)),
            (&[], &["*:443"], false, Some(Need::Names(None))),
            (&["10.0.0.5:80"], &["10.0.0.5:80", "pypi.lab:443"], true, Some(Need::Names(None))),
            (&["other.lab:80"], &[], true, named("other.lab")),
        ] {
            let servers: Vec<Target> = servers.iter().map(|server| server.parse().unwrap()).collect();
            assert_eq!(need(&rules(allowed, any), &servers, &hosts), expected, "{allowed:?}");
        }
    }

    fn judged(
        answers: Vec<(&str, io::Result<ResponseCode>)>,
        name: Option<&str>,
        is_default: bool,
    ) -> Finding {
        let parse = |(server, answer): (&str, _)| (format!("{server}:53").parse().unwrap(), answer);
        judge(&answers.into_iter().map(parse).collect::<Vec<_>>(), name, is_default)
    }

    #[test]
    fn a_dead_name_server_is_named_with_the_time_that_it_was_waited_for_and_a_test() {
        let silent = || Err(io::ErrorKind::TimedOut.into());
        let refused = || Err(io::ErrorKind::ConnectionRefused.into());
        let found = judged(vec![("10.0.0.1", silent()), ("10.0.0.2", refused())], Some("web.lab"), false);
        assert_eq!(found.verdict, Verdict::Wrong);
        let reasons = ["10.0.0.1 has not answered within 4 s", "10.0.0.2 refuses: no name server runs there"];
        assert_eq!(found.why, reasons);
        let hint = found.hint.unwrap();
        assert!(hint.contains("10.0.0.1") && hint.contains("web.lab"), "{hint}");

        let found = judged(vec![("127.0.0.1", refused())], None, true);
        assert!(found.why[0].contains("no name server is configured"), "{found:?}");
        let hint = found.hint.unwrap();
        assert!(!hint.contains("dig") && hint.contains("/etc/resolv.conf"), "nothing runs there: {hint}");
        let cut_off = || Err(io::ErrorKind::NetworkUnreachable.into());
        let found = judged(vec![("10.0.0.1", cut_off()), ("10.0.0.2", cut_off())], None, false);
        let hint = found.hint.unwrap();
        assert!(hint.starts_with("bring the uplink up") && !hint.contains("resolv.conf"), "{hint}");
        let garbled = || Err(io::ErrorKind::InvalidData.into());
        let found = judged(vec![("10.0.0.1", garbled())], None, false);
        assert!(found.why[0].contains("no answer to the question"), "{found:?}");
        assert!(judged(vec![], None, false).why[0].contains("--dns"));
        let found = judged(vec![("127.0.0.53", silent())], None, false);
        assert!(found.hint.unwrap().contains("resolvectl status"));
        let found = judged(vec![("[fe80::1]", Err(io::ErrorKind::InvalidInput.into()))], None, false);
        assert!(found.why[0].contains("fe80::1%eth0"), "{found:?}");
    }

    #[test]
    fn a_server_that_answers_in_place_of_another_counts_and_a_refusal_does_not() {
        let silent = || Err(io::ErrorKind::TimedOut.into());
        let ok = || Ok(ResponseCode::NoError);
        let found = judged(vec![("10.0.0.1", ok()), ("10.0.0.2", silent())], None, false);
        assert_eq!(found.verdict, Verdict::Ok);
        assert_eq!(found.what, "10.0.0.1 answers; 10.0.0.2 has not answered within 4 s");
        let found = judged(vec![("10.0.0.1", silent()), ("10.0.0.2", ok())], None, false);
        assert_eq!((found.verdict, found.why.len()), (Verdict::Wrong, 1));
        let found = judged(vec![("10.0.0.1", Ok(ResponseCode::Refused))], Some("web.lab"), false);
        assert_eq!(found.why, ["10.0.0.1 answers REFUSED for web.lab"]);
        assert_eq!(judged(vec![("10.0.0.1", Ok(ResponseCode::Refused))], None, false).verdict, Verdict::Ok);
        assert_eq!(
            judged(vec![("10.0.0.1", Ok(ResponseCode::NXDomain))], Some("web.lab"), false).verdict,
            Verdict::Ok
        );
    }
}
