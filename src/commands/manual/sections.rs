//! What the manual pages have beyond the options: examples, and the files that the program uses.

use std::fmt::Write as _;

/// Examples of a command: what for, and the command line.
type Examples = &'static [(&'static str, &'static str)];

/// The examples of each page.
const EXAMPLES: [(&str, Examples); 30] = [
    (
        "laneway",
        &[
            (
                "Create a group on the first machine, which reaches the server, and start its node:",
                "laneway init && laneway up --server 10.0.0.5:80",
            ),
            ("On every other machine:", "laneway join CODE && laneway up"),
            ("Use it:", "curl -x http://127.0.0.1:1080 http://10.0.0.5/"),
        ],
    ),
    (
        "laneway-up",
        &[
            (
                "A gateway to one server, or a client while the server is not reached:",
                "laneway up --server 10.0.0.5:80",
            ),
            ("A gateway for any destination:", "laneway up --role gateway"),
            (
                "A last resort, such as a metered line:",
                "laneway up --role gateway --weight 0 --probe-interval 10m",
            ),
            (
                "A client behind a router, which discovery does not cross:",
                "laneway up --gateway 10.0.0.1:7420",
            ),
        ],
    ),
    ("laneway-status", &[("All facts, for a script:", "laneway status --json | jq .node.state")]),
    ("laneway-top", &[("Until q:", "laneway top")]),
    (
        "laneway-env",
        &[
            ("For this shell, and back:", "eval \"$(laneway env)\"; eval \"$(laneway env --unset)\""),
            ("For a container:", "docker run $(laneway env --docker) IMAGE"),
            ("For the desktop, and back:", "laneway env --system on; laneway env --system off"),
        ],
    ),
    (
        "laneway-run",
        &[
            ("One command:", "laneway run -- npm install"),
            ("A program that does not support proxies (Linux):", "laneway run --all -- ./program"),
        ],
    ),
    (
        "laneway-apt-proxy",
        &[(
            "In /etc/apt/apt.conf.d/30laneway:",
            "Acquire::http::Proxy-Auto-Detect \"/usr/lib/laneway/apt-proxy\";",
        )],
    ),
    (
        "laneway-init",
        &[("With a name for display, and a code for a week:", "laneway init --group office --ttl 7d")],
    ),
    (
        "laneway-invite",
        &[
            ("For any number of machines, for two days:", "laneway invite --uses any --ttl 2d"),
            ("For one machine that must never be a gateway:", "laneway invite --client-only"),
        ],
    ),
    (
        "laneway-join",
        &[
            ("From a file, so that no list of processes shows the code:", "laneway join - <code"),
            ("Behind a router:", "laneway join CODE --gateway 10.0.0.1:7420"),
        ],
    ),
    (
        "laneway-members",
        &[(
            "Members that no gateway has seen for 30 days:",
            "laneway members --json | jq -r '.[] | select(.state == \"member\" and .last_seen < now - 2592000) | .name'",
        )],
    ),
    (
        "laneway-service",
        &[("Started at boot, as root or as an administrator of Windows:", "laneway service install")],
    ),
    (
        "laneway-service-install",
        &[("With a configuration of its own:", "laneway service install --config /etc/laneway/office.toml")],
    ),
    ("laneway-leave", &[("Without a question, for a script:", "laneway leave --yes")]),
    ("laneway-revoke", &[("Two machines at once:", "laneway revoke kiosk-3 kiosk-4")]),
    ("laneway-rotate", &[("After the key may have become known:", "laneway rotate")]),
    (
        "laneway-drain",
        &[(
            "Maintenance of a gateway:",
            "laneway drain --wait 10m && apt-get upgrade && laneway drain --undo",
        )],
    ),
    (
        "laneway-cache",
        &[
            ("What was saved, by URL:", "laneway cache ls"),
            ("Everything of one server:", "laneway cache rm //deb.example"),
        ],
    ),
    (
        "laneway-cache-ls",
        &[
            ("All packages:", "laneway cache ls '*.deb'"),
            (
                "The ten that saved most:",
                "laneway cache ls --json | jq -r 'sort_by(-.saved)[:10][] | \"\\(.saved) \\(.members) \\(.url)\"'",
            ),
        ],
    ),
    ("laneway-cache-rm", &[("All indexes of apt:", "laneway cache rm '*/InRelease'")]),
    ("laneway-cache-verify", &[("For a script:", "laneway cache verify --json")]),
    (
        "laneway-ca",
        &[(
            "A backup, and its restoration on another machine:",
            "laneway ca export FILE; laneway ca import FILE",
        )],
    ),
    (
        "laneway-ca-export",
        &[(
            "Encrypted for two administrators:",
            "laneway ca export FILE && age -r KEY1 -r KEY2 -o FILE.age FILE && shred -u FILE",
        )],
    ),
    ("laneway-ca-import", &[("On a machine that is in no group:", "laneway ca import FILE --name spare")]),
    (
        "laneway-transparent",
        &[(
            "For a node that cannot install the rules itself:",
            "laneway transparent up --to 1081 --user laneway",
        )],
    ),
    ("laneway-discover", &[("With more time for answers:", "laneway discover --wait 5s")]),
    ("laneway-doctor", &[("For a script:", "laneway doctor --json")]),
    (
        "laneway-speedtest",
        &[("One gateway, 10 seconds each way:", "laneway speedtest --gateway 10.0.0.1:7420 --seconds 10")],
    ),
    ("laneway-demo", &[("With a small file, and left running to try:", "laneway demo --size 16M --keep")]),
    (
        "laneway-completions",
        &[(
            "For bash, for all users:",
            "laneway completions bash >/usr/share/bash-completion/completions/laneway",
        )],
    ),
];

/// The files of every command.
const FILES: [(&str, &str); 11] = [
    (
        "/etc/laneway/laneway.toml, ~/.config/laneway/laneway.toml",
        "The options of 'laneway up'; the user's file comes first.",
    ),
    ("/etc/laneway/environment", "Variables of the service, for passwords; mode 600."),
    (
        "/var/lib/laneway, ~/.local/state/laneway",
        "The state directory of root and of the service, and of other users; mode 700. --state DIR names another one.",
    ),
    ("node.key, node.pem, ca.pem, group.json, crl.pem", "In the state directory: this machine's membership."),
    (
        "ca.key, members.json, invites.json, exported",
        "The group's key, members and codes, on the machine that created the group.",
    ),
    (
        "gateways.json, boot, seen.json",
        "The gateways that were used, the number of starts, and the members that were seen.",
    ),
    (
        "departures.json",
        "The members that have said that they leave, until the machine with the group's key has removed them.",
    ),
    (
        "removal.crl",
        "The revocation list by which this machine knows that it was removed from the group, if it was.",
    ),
    (
        "maintenance, leaving, cache-remove, cache-uses, cache-asked, running, proxies",
        "What 'laneway drain', 'laneway leave' and 'laneway cache' ask of the node, the lock of the node that runs, and where its \
         local proxy listens.",
    ),
    ("system-proxy.json", "The proxy settings of the desktop before 'laneway env --system on'."),
    (
        "cache, peer-cache",
        "The responses that a gateway stores, and the files that a node keeps for other members; may be deleted while the node does not run.",
    ),
];

/// The commands that use none of these files.
const WITHOUT_FILES: [&str; 3] = ["laneway-demo", "laneway-completions", "laneway-man"];

/// The sections of the page `name`, in roff (man(7)).
pub(super) fn of(name: &str) -> String {
    let mut text = String::new();
    if let Some((_, examples)) = EXAMPLES.iter().find(|(page, _)| *page == name) {
        text.push_str(".SH EXAMPLES\n");
        for (what, line) in *examples {
            let _ = write!(text, "{}\n.PP\n.RS 4\n.nf\n{}\n.fi\n.RE\n.PP\n", escaped(what), escaped(line));
        }
    }
    if !WITHOUT_FILES.contains(&name) {
        text.push_str(".SH FILES\n");
        for (file, what) in FILES {
            let _ = write!(text, ".TP\n{}\n{}\n", escaped(file), escaped(what));
        }
    }
    text
}

/// Text without what roff would read as a request or an escape, and with hyphens that can be copied.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-").replace('~', "\\(ti").replace('\'', "\\(aq");
    if text.starts_with('.') { format!("\\&{text}") } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn every_example_is_of_a_page_that_exists_and_is_a_valid_command_line() {
        let mut command = crate::cli::Cli::command();
        command.build();
        for (page, examples) in EXAMPLES {
            let mut at = &command;
            for word in page
                .split('-')
                .skip(1)
                .collect::<Vec<_>>()
                .join(" ")
                .replace("apt proxy", "apt-proxy")
                .split(' ')
            {
                if !word.is_empty() {
                    at = at.find_subcommand(word).unwrap_or_else(|| panic!("no page {page}"));
                }
            }
            assert!(!at.is_hide_set(), "{page}");
            for (_, line) in examples {
                let own = line.split([';', '|', '&', '<', '>', '"', '(', ')']).map(str::trim);
                for part in own.filter(|part| part.starts_with("laneway ")) {
                    let part = part.replace("CODE", "lw1.x").replace(" --json '", "");
                    let words: Vec<_> = part.split_whitespace().collect();
                    let parsed = crate::cli::Cli::command().try_get_matches_from(&words);
                    assert!(parsed.is_ok(), "{page}: {part}: {parsed:?}");
                }
            }
        }
    }
}
