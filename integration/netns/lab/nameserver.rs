//! A name server on s1: unbound, with a zone of its own.

use super::process::Process;
use super::{Lab, wait_until};

/// The zone. The TTL of negative answers is 7 s, that of others 60 s.
const ZONE: &str = r#"
$ORIGIN lab.
$TTL 60
@        IN SOA  ns.lab. admin.lab. 1 3600 600 86400 7
@        IN NS   ns.lab.
@        IN MX   10 mail.lab.
@        IN TXT  "of the lab"
ns       IN A    10.88.0.100
web      IN A    10.88.0.100
web      IN AAAA 2001:db8::100
mail     IN A    10.88.0.100
www      IN CNAME web
web      IN HTTPS 1 . alpn=h2
_http._tcp IN SRV 1 2 80 web.lab.
_443._tcp.web IN TLSA 3 1 1 0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef
odd      IN TYPE65280 \# 4 01020304
brief    5 IN A  10.88.0.100
secret   IN A    10.88.0.99
"#;

const REVERSE: &str = r#"
$ORIGIN 0.88.10.in-addr.arpa.
@        60 IN SOA ns.lab. admin.lab. 1 3600 600 86400 7
@        60 IN NS  ns.lab.
100      60 IN PTR web.lab.
"#;

/// The name server; dropping it stops it.
pub(crate) struct NameServer(Process);

impl Lab {
    /// Starts the name server on s1, which every gateway asks. It answers when this returns.
    pub(crate) fn name_server(&self) -> NameServer {
        // A name with more addresses than fit into a datagram of 512 bytes, and one with more than fit into any datagram.
        let many = |name: &str, count: u16| -> String {
            (0..count).map(|n| format!("{name} IN A 10.99.{}.{}\n", n / 250, 1 + n % 250)).collect()
        };
        // Decoded, each string of these takes many times as much memory as it has bytes.
        let strings = format!("*.strings IN TXT {}\n", "x ".repeat(20_000));
        let zone =
            self.write("lab.zone", format!("{ZONE}{}{}{strings}", many("many", 40), many("huge", 600)));
        let reverse = self.write("reverse.zone", REVERSE);
        let of = |name: &str, file: &std::path::Path| {
            format!(
                "auth-zone:\n name: \"{name}\"\n zonefile: \"{}\"\n for-downstream: yes\n for-upstream: no\n",
                file.display()
            )
        };
        let server = "server:\n interface: 10.88.0.100\n access-control: 10.88.0.0/24 allow\n username: \"\"\n \
            chroot: \"\"\n pidfile: \"\"\n directory: \"\"\n do-daemonize: no\n use-syslog: no\n verbosity: 2\n \
            log-queries: yes\n module-config: \"iterator\"\n minimal-responses: no\n \
            local-zone: 10.in-addr.arpa. nodefault\n";
        let zones = [of("lab.", &zone), of("0.88.10.in-addr.arpa.", &reverse)].concat();
        let file =
            self.write("unbound.conf", format!("{server}remote-control:\n control-enable: no\n{zones}"));
        let mut command = self.server.command("unbound");
        command.arg("-d").arg("-c").arg(file);
        let process = self.server.spawn(command);
        wait_until("the name server to answer", || {
            let mut dig = self.server.command("dig");
            dig.args(["@10.88.0.100", "+short", "+tries=1", "+timeout=1", "web.lab", "A"]);
            self.server.output(dig).text().trim() == "10.88.0.100"
        });
        NameServer(process)
    }
}

impl NameServer {
    /// The number of queries for this name and type.
    pub(crate) fn asked(&self, name: &str, kind: &str) -> usize {
        let question = format!(" {name}. {kind} IN");
        self.0.log().lines().filter(|line| line.contains("info:") && line.ends_with(&question)).count()
    }
}
