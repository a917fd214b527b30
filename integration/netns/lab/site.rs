//! The servers for real clients on s1: nginx over HTTP and HTTPS with package repositories, git behind it, and sshd.

use super::process::Process;
use super::programs::python;
use super::{Lab, isolate, programs, wait_until};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::time::Duration;

/// The name of s1, which gateways can resolve and clients cannot.
pub(crate) const NAME: &str = "packages.lab";

/// Deadline for making the content, which takes seconds.
const MAKE: Duration = Duration::from_secs(300);
const START: Duration = Duration::from_secs(30);

/// The servers; dropping this stops them.
pub(crate) struct Site {
    _servers: Vec<Process>,
    log: PathBuf,
}

/// Where the scripts of the clients are.
pub(crate) fn scripts() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/netns/programs/clients")
}

/// The directory of the content, made once in a run.
fn content(lab: &Lab) -> &'static Path {
    static CONTENT: OnceLock<PathBuf> = OnceLock::new();
    CONTENT.get_or_init(|| {
        let top = Path::new(isolate::WORK).join("site");
        let mut make = lab.server.command("sh");
        make.arg(scripts().join("site.sh")).arg(&top).arg(NAME).env("PYTHON", python());
        lab.server.spawn(make).finish(MAKE).success();
        top
    })
}

/// The certificate of the authority that signed the server's.
pub(crate) fn authority() -> PathBuf {
    Path::new(isolate::WORK).join("site/tls/ca.pem")
}

impl Lab {
    /// Starts nginx, and behind it git-http-backend where fcgiwrap is installed. They listen when this returns.
    pub(crate) fn site(&self) -> Site {
        let (top, directory) = (content(self), self.server.directory());
        let socket = directory.join("git.sock");
        let mut servers = Vec::new();
        if programs::find("fcgiwrap").is_some() {
            let mut wrap = self.server.command("fcgiwrap");
            wrap.arg("-s").arg(format!("unix:{}", socket.display()));
            servers.push(self.server.spawn(wrap));
            wait_until("git's socket", || socket.exists());
        }

        let temporary: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|kind| format!("{kind}_temp_path {}/{kind};\n", directory.display()))
            .concat();
        let configuration = format!(
            "daemon off;\nmaster_process off;\nuser root root;\npid {0}/nginx.pid;\nerror_log stderr notice;\n\
             events {{}}\nhttp {{\naccess_log {0}/access.log;\n{temporary}types {{ text/html html; text/javascript js; }}\n\
             server {{\nlisten 10.88.0.100:80;\nlisten 10.88.0.100:443 ssl;\nserver_name {NAME};\nroot {1}/www;\n\
             ssl_certificate {1}/tls/server.pem;\nssl_certificate_key {1}/tls/server.key;\n\
             location = /v2/ {{ return 200; }}\nlocation /v2/ {{ types {{}} default_type application/vnd.oci.image.manifest.v1+json; }}\n\
             location /git/ {{\nclient_max_body_size 0;\nfastcgi_pass unix:{2};\n\
             fastcgi_param SCRIPT_FILENAME {3}/git-http-backend;\nfastcgi_param GIT_PROJECT_ROOT {1};\n\
             fastcgi_param GIT_HTTP_EXPORT_ALL 1;\nfastcgi_param PATH_INFO $uri;\nfastcgi_param QUERY_STRING $query_string;\n\
             fastcgi_param REQUEST_METHOD $request_method;\nfastcgi_param CONTENT_TYPE $content_type;\n\
             fastcgi_param CONTENT_LENGTH $content_length;\nfastcgi_param REMOTE_ADDR $remote_addr;\n\
             fastcgi_param SERVER_PROTOCOL $server_protocol;\n}}\n}}\n}}\n",
            directory.display(),
            top.display(),
            socket.display(),
            git_programs(),
        );
        let file = self.write("site.conf", configuration);
        let mut nginx = self.server.command("nginx");
        nginx.arg("-p").arg(directory).args(["-e", "stderr", "-c"]).arg(file);
        let mut nginx = self.server.spawn(nginx);
        nginx.wait_for_line("getrlimit", START);
        servers.push(nginx);
        Site { _servers: servers, log: directory.join("access.log") }
    }

    /// Starts sshd, which lets root in with the key at the returned path.
    pub(crate) fn sshd(&self) -> (Process, PathBuf) {
        let key = |name: &str| {
            let path = self.server.directory().join(name);
            let mut make = self.server.command("ssh-keygen");
            make.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(&path);
            self.server.output(make).success();
            path
        };
        let (host, user) = (key("host_key"), key("user_key"));
        fs::create_dir_all("/run/sshd").unwrap();
        let configuration = format!(
            "ListenAddress 10.88.0.100:22\nHostKey {}\nAuthorizedKeysFile {}.pub\nPidFile none\nUsePAM no\nStrictModes no\n\
             PermitRootLogin prohibit-password\nPasswordAuthentication no\n",
            host.display(),
            user.display()
        );
        let file = self.write("sshd.conf", configuration);
        // sshd executes itself for each connection, and so needs its full path.
        let mut sshd =
            self.server.command(programs::find("sshd").expect("it was looked for").to_str().unwrap());
        sshd.args(["-D", "-e", "-f"]).arg(file);
        let sshd = self.server.spawn(sshd);
        wait_until("sshd", || self.server.connect(([10, 88, 0, 100], 22)).is_ok());
        (sshd, user)
    }
}

impl Site {
    /// nginx's access log: the source and the request line of each request.
    pub(crate) fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }
}

fn git_programs() -> String {
    let output = Command::new("git").arg("--exec-path").output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default()
}
