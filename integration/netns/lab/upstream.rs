//! Third-party proxies on s1: squid for HTTP CONNECT, dante for SOCKS5, both with a login.

use super::process::Process;
use super::{Lab, wait_until};
use std::sync::atomic::{AtomicU32, Ordering};

/// The user of both proxies.
pub(crate) const USER: &str = "gate";
/// Its password: in clear, as a crypt(3) hash, and as written in the URL of a proxy.
pub(crate) const PASSWORD: &str = "pa:ss";
const CRYPTED: &str = "$1$laneway$piZOsHhwbP2TzLC2Jh0aJ1";
pub(crate) const WRITTEN: &str = "gate:pa%3Ass";

/// A name of s1 that only the proxies can resolve.
pub(crate) const NAME: &str = "files.lab";

/// Where the proxies listen.
pub(crate) const SQUID: &str = "10.88.0.100:3128";
pub(crate) const DANTE: &str = "10.88.0.100:1080";

/// The number of squids started so far.
static STARTED: AtomicU32 = AtomicU32::new(0);

impl Lab {
    /// Starts squid, with its user in a file. It listens when this returns.
    pub(crate) fn squid(&self) -> Process {
        self.server.knows(NAME, self.server.address());
        let users = self.write("squid.users", format!("{USER}:{CRYPTED}\n"));
        let configuration = format!(
            "http_port {SQUID}\n\
             auth_param basic program /usr/lib/squid/basic_ncsa_auth {}\n\
             acl members proxy_auth REQUIRED\nacl forbidden port 8089\n\
             http_access deny forbidden\nhttp_access allow members\nhttp_access deny all\n\
             cache deny all\naccess_log none\ndns_nameservers 10.88.0.100\ncache_log /dev/stderr\ncache_store_log none\n\
             pid_filename none\ncoredump_dir /\npinger_enable off\nshutdown_lifetime 0 seconds\n\
             max_filedescriptors 1024\nhosts_file {}\n",
            users.display(),
            self.server.directory().join("hosts").display(),
        );
        let file = self.write("squid.conf", configuration);
        let mut command = self.server.command("squid");
        // Its shared memory has its name, and remains when it is killed.
        let name = format!("laneway{}n{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        command.args(["-N", "-n", &name, "-f"]).arg(file);
        self.proxy(command, SQUID)
    }

    /// Starts dante, which checks system users: it gets its own /etc/passwd and /etc/shadow.
    pub(crate) fn dante(&self) -> Process {
        self.server.knows(NAME, self.server.address());
        let configuration = "logoutput: stderr\nerrorlog: stderr\n\
             internal: 10.88.0.100 port = 1080\nexternal: 10.88.0.100\n\
             socksmethod: username\nclientmethod: none\nuser.privileged: root\nuser.unprivileged: root\n\
             client pass { from: 10.88.0.0/24 to: 0.0.0.0/0 }\n\
             socks block { from: 10.88.0.0/24 to: 0.0.0.0/0 port = 8089 }\n\
             socks pass { from: 10.88.0.0/24 to: 0.0.0.0/0 command: connect }\n";
        let file = self.write("danted.conf", configuration);
        let passwd = "root:x:0:0:root:/:/bin/sh\ngate:x:0:0:gate:/:/bin/sh\n";
        let (passwd, shadow) = (
            self.write("passwd", passwd),
            self.write("shadow", format!("root:*:1::::::\n{USER}:{CRYPTED}:1::::::\n")),
        );
        let mut command = self.server.command("sh");
        let script =
            r#"mount --bind "$0" /etc/passwd && mount --bind "$1" /etc/shadow && shift && exec "$@""#;
        command.arg("-c").arg(script).arg(passwd).arg(shadow);
        command.args(["danted", "-N", "1", "-f"]).arg(file).arg("-p").arg(self.write("danted.pid", ""));
        self.proxy(command, DANTE)
    }

    fn proxy(&self, command: std::process::Command, at: &str) -> Process {
        let process = self.server.spawn(command);
        let at: std::net::SocketAddr = at.parse().unwrap();
        wait_until("the proxy to listen", || self.server.connect(at).is_ok());
        process
    }
}
