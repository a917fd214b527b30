//! Third-party software, set up as in `docs/clients.md`, on a client that has no route to the server and cannot resolve its
//! name. The script of each is in `programs/clients`.

use crate::lab::group::state;
use crate::lab::programs::python;
use crate::lab::site::{self, NAME, scripts};
use crate::lab::{Case, Host, Lab, programs};
use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    ("clients::curl", |lab| works(lab, "curl")),
    ("clients::wget", |lab| works(lab, "wget")),
    ("clients::apt", |lab| works(lab, "apt")),
    ("clients::pip", |lab| works(lab, "pip")),
    ("clients::git", |lab| works(lab, "git")),
    ("clients::python", |lab| works(lab, "python")),
    ("clients::fronts_apt", |lab| works_by_a_front(lab, "fronts_apt")),
    ("clients::fronts_apt_signed", a_package_that_was_changed_anywhere_is_never_installed),
    ("clients::fronts_pip", |lab| works_by_a_front(lab, "fronts_pip")),
    ("clients::fronts_pip_on_a_gateway", |lab| works_by_a_front_of(lab, "fronts_pip", true)),
];

/// Clients that are large or start slowly: `scripts/real-clients.sh` runs them.
pub(super) const ON_DEMAND: &[Case] = &[
    ("clients::aria2c", |lab| works(lab, "aria2c")),
    ("clients::npm", |lab| works(lab, "npm")),
    ("clients::cargo", |lab| works(lab, "cargo")),
    ("clients::fronts_uv", |lab| works_by_a_front(lab, "fronts_uv")),
    ("clients::fronts_npm", |lab| works_by_a_front(lab, "fronts_npm")),
    ("clients::fronts_cargo", |lab| works_by_a_front(lab, "fronts_cargo")),
    ("clients::fronts_skopeo", |lab| works_by_a_front(lab, "fronts_skopeo")),
    ("clients::node", |lab| works(lab, "node")),
    ("clients::chromium", |lab| works(lab, "chromium")),
    ("clients::ssh", |lab| works(lab, "ssh")),
    ("clients::no_proxy", dialects_of_no_proxy),
];

/// The time limit of one client on a busy machine.
const PATIENCE: Duration = Duration::from_secs(300);

/// What this machine lacks for the trial of this name, if it is one of these.
pub(crate) fn lacking(trial: &str) -> Option<String> {
    let client = trial.strip_prefix("clients::")?;
    let client = client.strip_prefix("fronts_").unwrap_or(client).trim_end_matches("_on_a_gateway");
    let tools: &[&str] = match client {
        "apt" => &["apt-get"],
        "apt_signed" => &["apt-get", "gpg", "gpg-agent"],
        "git" => &["fcgiwrap"],
        "python" | "pip" => &[],
        "ssh" => &["ssh", "sshd", "ssh-keygen", "nc.openbsd"],
        "node" => &["node"],
        "no_proxy" => &["curl", "wget", "aria2c", "apt-get", "fcgiwrap", "node", "npm"],
        other => &[other],
    };
    let served_by = ["nginx", "openssl", "dpkg-deb", "git"];
    let missing = served_by.iter().chain(tools).find(|tool| programs::find(tool).is_none());
    let modules: &[&str] = match client {
        "pip" => &["pip", "venv"],
        "python" | "no_proxy" => &["requests", "httpx", "urllib3"],
        _ => &[],
    };
    let import = |module: &&&str| {
        let import =
            Command::new(python()).args(["-c", &format!("import {module}")]).stderr(Stdio::null()).status();
        !import.is_ok_and(|status| status.success())
    };
    missing
        .map(|tool| format!("`{tool}` is not installed"))
        .or_else(|| {
            modules.iter().find(import).map(|module| format!("{} has no {module}", python().display()))
        })
        .or_else(|| {
            let undici = modules_of_node().join("undici");
            (["node", "no_proxy"].contains(&client) && !undici.is_dir())
                .then(|| format!("{} is missing", undici.display()))
        })
}

/// Where `scripts/real-clients.sh` installs npm's packages.
fn modules_of_node() -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/node/node_modules")
}

/// Runs a client's script on c1, and checks that all requests at the server came from the gateway.
fn works(lab: &Lab, client: &str) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    g1.knows(NAME, lab.server.address());
    let site = lab.site();
    let sshd = (client == "ssh").then(|| lab.sshd());
    let group = lab.group(&[&g1, &c1], &["--allow", NAME]);
    let _node = group.client(&c1, &[]);

    let mut lookup = c1.command("getent");
    lookup.args(["hosts", NAME]);
    let unknown = c1.output(lookup);
    assert_eq!(unknown.code(), 2, "c1 knows the server's name: {unknown}");

    let mut script = script(&c1, client);
    if let Some((_, key)) = &sshd {
        script.env("KEY", key);
    }
    let output = c1.spawn(script).finish(PATIENCE).success();
    output.stderr.lines().chain(output.text().lines()).filter(|line| line.starts_with("note: ")).for_each(
        |note| {
            eprintln!("{client}: {note}");
        },
    );
    if sshd.is_none() {
        let asked = site.log();
        let by_gateway = |line: &str| line.starts_with("10.88.0.21 ");
        assert!(!asked.is_empty() && asked.lines().all(by_gateway), "not by the gateway: {asked}");
    }
}

/// Runs a client's script on c1, which has fronts of the server's repositories and no proxy in its environment.
fn works_by_a_front(lab: &Lab, client: &str) {
    works_by_a_front_of(lab, client, false);
}

/// As `works_by_a_front`, on the gateway itself if `is_gateway`.
fn works_by_a_front_of(lab: &Lab, client: &str, is_gateway: bool) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    g1.knows(NAME, lab.server.address());
    let site = lab.site();
    let authority = site::authority();
    let fronts = [
        format!("--front=apt/trial=https://{NAME}/debian/"),
        format!("--front=pypi=https://{NAME}/simple/"),
        format!("--front=npm=https://{NAME}/npm/"),
        format!("--front=crates=https://{NAME}/crates/"),
        format!("--front=oci=https://{NAME}/"),
    ];
    let fronts = fronts.each_ref().map(String::as_str);
    let rules = ["--allow", NAME, "--front-ca", authority.to_str().unwrap()];
    let group = lab.group(&[&g1, &c1], &[&rules[..], &fronts].concat());
    let _node = group.client(&c1, &fronts);
    let host = if is_gateway { &g1 } else { &c1 };
    host.spawn(script(host, client)).finish(PATIENCE).success();
    let asked = site.log();
    assert!(asked.lines().all(|line| line.starts_with("10.88.0.21 ")), "not by the gateway: {asked}");
    // Each file crosses the line once, however often it is asked for: after that the server only says that it is still valid.
    let fetched =
        asked.lines().filter(|line| line.contains("\" 200 ")).filter_map(|line| line.split('"').nth(1));
    let is_file = |request: &&str| request.starts_with("GET ") && !request.starts_with("GET /v2/ ");
    let mut files: Vec<_> = fetched.filter(is_file).collect();
    files.sort_unstable();
    let all = files.len();
    files.dedup();
    assert!(all > 0 && all == files.len(), "more than once: {asked}");
}

/// apt checks the signature of the archive, the node each file against what is signed; the disk of the gateway may change, too.
fn a_package_that_was_changed_anywhere_is_never_installed(lab: &Lab) {
    let (c1, g1) = (lab.client("c1"), lab.gateway("g1"));
    g1.knows(NAME, lab.server.address());
    let _site = lab.site();
    let authority = site::authority();
    let front = format!("--front=apt/signed=https://{NAME}/signed/");
    let rules = ["--allow", NAME, "--front-ca", authority.to_str().unwrap()];
    let group = lab.group(&[&g1, &c1], &rules);
    let _node = group.client(&c1, &[&front]);
    let installs = || c1.spawn(script(&c1, "fronts_apt_signed")).finish(PATIENCE);
    installs().success();
    let mut changed = 0;
    let folders = fs::read_dir(state(&g1).join("cache")).unwrap().map(|entry| entry.unwrap().path());
    for file in folders.filter(|path| path.is_dir()).flat_map(|folder| fs::read_dir(folder).unwrap()) {
        let path = file.unwrap().path();
        let mut bytes = fs::read(&path).unwrap();
        if path.extension().is_some_and(|kind| kind == "body" || kind == "small") && !bytes.is_empty() {
            let middle = bytes.len() / 2;
            bytes[middle] ^= 1;
            fs::write(&path, bytes).unwrap();
            changed += 1;
        }
    }
    assert!(changed >= 4, "{changed} files are stored");
    // A file whose change is noticed on the way is cut off, and right when it is asked for again.
    let again = installs();
    if again.code() != 0 {
        installs().success();
    }
}

/// How each client reads `no_proxy` is as `docs/clients.md` says.
fn dialects_of_no_proxy(lab: &Lab) {
    let g1 = lab.gateway("g1");
    g1.knows(NAME, lab.server.address());
    let _site = lab.site();
    let table = g1.spawn(script(&g1, "no_proxy")).finish(PATIENCE).success().text();
    let documented =
        fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/clients.md")).unwrap();
    for line in table.lines() {
        assert!(documented.lines().any(|other| other == line), "docs/clients.md says otherwise:\n{table}");
    }
}

/// The command that runs a script on this host, in an empty directory, with the environment that the scripts use.
fn script(host: &Host, name: &str) -> Command {
    let work = host.directory().join("work");
    fs::create_dir_all(&work).unwrap();
    let mut script = host.command("sh");
    script.arg("-eu").arg(scripts().join(format!("{name}.sh"))).current_dir(work);
    script
        .env("LANEWAY", env!("CARGO_BIN_EXE_laneway"))
        .env("SITE", NAME)
        .env("CA", site::authority())
        .env("PYTHON", python())
        .env("PROGRAMS", scripts())
        .env("MODULES", modules_of_node());
    if let Ok(cargo) = std::env::var("CARGO") {
        script.env("CARGO", cargo);
    }
    script
}
