//! The link port with HTTP/2 and TLS implementations of others: what a member's files are good for outside laneway.

use super::curl::BIG;
use crate::lab::group::{START, state};
use crate::lab::origin::{big, sha256};
use crate::lab::programs::python;
use crate::lab::{Case, Host, Lab};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub(super) const CASES: &[Case] = &[
    ("links::openssl_reads_the_nodes_key_and_is_accepted_with_it", openssl),
    ("links::nghttp_is_answered_with_and_without_a_table_of_fields", nghttp),
    ("links::h2load_has_all_its_requests_answered", h2load),
    ("links::pythons_h2_downloads_through_a_tunnel", |lab| downloads(lab, "tunnel")),
    ("links::curls_http2_proxy_downloads_through_a_tunnel", |lab| downloads(lab, "curl")),
];

/// The Python packages that this machine lacks for the trial of this name, if it is one of these.
pub(crate) fn lacking(trial: &str) -> Option<String> {
    let module = match trial.strip_prefix("links::")? {
        name if name.starts_with("python") => "h2",
        name if name.starts_with("curl") => "h2, pycurl",
        _ => return None,
    };
    let import = ["-c", &format!("import {module}")];
    let found = Command::new(python()).args(import).stderr(Stdio::null()).status();
    (!found.is_ok_and(|status| status.success())).then(|| format!("{} has no {module}", python().display()))
}

/// A file of the member on this host.
fn file(host: &Host, name: &str) -> String {
    state(host).join(name).to_str().unwrap().to_owned()
}

fn program(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("integration/netns/programs").join(name)
}

fn link_port(gateway: &Host) -> String {
    format!("{}:7420", gateway.address())
}

fn openssl(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _group = lab.group(&[&g1, &c1], &[]);
    for host in [&c1, &g1] {
        let mut command = host.command("openssl");
        command.args(["pkey", "-noout", "-in", &file(host, "node.key")]);
        host.output(command).success();
    }
    let mut command = c1.command("openssl");
    command.args(["s_client", "-connect", &link_port(&g1), "-alpn", "h2", "-verify_return_error"]);
    command.args(["-CAfile", &file(&c1, "ca.pem"), "-cert", &file(&c1, "node.pem")]);
    command.args(["-key", &file(&c1, "node.key"), "-showcerts"]).stdin(Stdio::null());
    let output = c1.output(command).success().text();
    for line in ["ALPN protocol: h2", "Verify return code: 0 (ok)", "TLSv1.3"] {
        assert!(output.contains(line), "no {line:?} in {output}");
    }
}

fn nghttp(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _group = lab.group(&[&g1, &c1], &[]);
    let url = format!("https://{}/laneway/about", link_port(&g1));
    for table in ["4096", "0"] {
        let mut command = c1.command("nghttp");
        command.args(["-v", "-c", table, "-m", "20"]);
        command.arg(format!("--cert={}", file(&c1, "node.pem")));
        command.arg(format!("--key={}", file(&c1, "node.key"))).arg(&url);
        let output = c1.output(command).success().text();
        let answers = output.matches(":status: 200").count();
        assert!(answers == 20 && !output.contains("RST_STREAM"), "{answers} answers: {output}");
        assert!(!output.contains("COMPRESSION_ERROR"), "{output}");
    }
}

fn h2load(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _group = lab.group(&[&g1, &c1], &[]);
    let mut command = c1.command(python().to_str().unwrap());
    command.arg(program("h2_bridge.py")).arg(link_port(&g1)).arg(state(&c1));
    let mut bridge = c1.spawn(command);
    let line = bridge.wait_for_line("listening:", START);
    let port = line.rsplit(' ').next().unwrap();
    let mut command = c1.command("h2load");
    command.args(["-n", "1000", "-c", "4", "-m", "20"]);
    command.arg(format!("http://127.0.0.1:{port}/laneway/about"));
    let output = c1.output(command).success().text();
    assert!(output.contains("1000 succeeded, 0 failed, 0 errored"), "{output}");
}

fn downloads(lab: &Lab, how: &str) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    let _origin = lab.origin();
    let _group = lab.group(&[&g1, &c1], &[]);
    let mut command = c1.command(python().to_str().unwrap());
    command.arg(program("h2_clients.py")).arg(how).arg(link_port(&g1)).arg(state(&c1)).arg(BIG);
    let output = c1.output(command).success();
    assert_eq!(sha256(&output.stdout), big().sha256);
}
