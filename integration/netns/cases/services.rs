//! `laneway service` with systemd, whose `systemctl` is a script that keeps the state of the unit in a file.

use crate::lab::{Case, Lab};

pub(super) const CASES: &[Case] = &[(
    "services::a_systemd_service_is_installed_started_stopped_and_removed",
    a_systemd_service_is_installed_started_stopped_and_removed,
)];

/// Own directories in place of those that the commands write to. `step` prints a title, what a command says and its
/// exit code.
const MACHINE: &str = r#"set -eu
for place in /etc/systemd/system /var/lib /opt /home; do mkdir -p $place; mount -t tmpfs tmpfs $place; done
mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && mkdir /run/systemd/system
mkdir "/opt/my tools" /opt/bin
for program in "/opt/my tools/laneway" /home/laneway; do touch "$program"; mount --bind "$1" "$program"; done
cp "$2" /opt/bin/systemctl && chmod +x /opt/bin/systemctl
export PATH=/opt/bin:$PATH
step() { echo "== $1"; shift; "$@" 2>&1 || echo "code $?"; }
laneway() { "/opt/my tools/laneway" "$@"; }
"#;

const SYSTEMCTL: &str = r#"#!/bin/sh
echo "$*" >>/opt/calls
case "$*" in
"start laneway.service") echo active >/opt/state ;;
"stop laneway.service" | disable*) echo inactive >/opt/state ;;
show*) echo "ActiveState=$(cat /opt/state 2>/dev/null || echo inactive)"; echo Result=success; echo MainPID=4711 ;;
esac
"#;

const STEPS: &str = r#"
step absent laneway service status
step hidden /home/laneway service install
step elsewhere laneway service install --state /opt/state-directory
step installed laneway service install
step unit cat /etc/systemd/system/laneway.service
step groupless laneway service start
laneway init --name first >/dev/null
python3 -c 'import socket, time
s = socket.socket(); s.bind(("127.0.0.1", 1080)); s.listen(); open("/opt/bound", "w"); time.sleep(60)' &
other=$!
until [ -e /opt/bound ]; do sleep 0.01; done
step taken laneway service start
kill $other; wait $other || true
step started laneway service start
step again laneway service install
echo >/opt/other.toml
step other laneway service install --config /opt/other.toml
step status laneway service status
step stopped laneway service stop
step removed laneway service remove
step gone ls /etc/systemd/system
step calls grep -v show /opt/calls
"#;

fn a_systemd_service_is_installed_started_stopped_and_removed(lab: &Lab) {
    let c1 = lab.client("c1");
    let (script, systemctl) =
        (lab.write("steps.sh", format!("{MACHINE}{STEPS}")), lab.write("systemctl", SYSTEMCTL));
    let mut command = c1.command("sh");
    command.arg(script).arg(env!("CARGO_BIN_EXE_laneway")).arg(systemctl);
    let output = c1.output(command).success();
    let text = output.text();
    let said = |step: &str| {
        let start =
            text.split(&format!("== {step}\n")).nth(1).unwrap_or_else(|| panic!("no {step}: {output}"));
        start.split("== ").next().unwrap_or_default().to_owned()
    };
    for (step, words) in [
        ("absent", &["there is no laneway service", "'laneway service install'", "code 1"][..]),
        ("hidden", &["the service cannot run /home/laneway", "/usr/local/bin", "code 1"]),
        ("elsewhere", &["the service keeps its state in /var/lib/laneway", "/opt/state-directory", "code 1"]),
        ("installed", &["installed and enabled: /etc/systemd/system/laneway.service", "'laneway join CODE'"]),
        (
            "unit",
            &["ExecStart=\"/opt/my tools/laneway\" up", "DynamicUser=yes", "WantedBy=multi-user.target"],
        ),
        ("groupless", &["is in no group", "code"]),
        ("taken", &["TCP 127.0.0.1:1080 is in use", "python3 (process", "--proxy 127.0.0.1:1081", "code 1"]),
        ("started", &["the service runs"]),
        ("again", &["the service runs already (process 4711)"]),
        ("other", &["there is a laneway service already", "'laneway service remove'", "code 1"]),
        ("status", &["the service 'laneway' runs (process 4711)"]),
        ("stopped", &["the service is stopped"]),
        ("removed", &["the service is stopped and removed"]),
    ] {
        let said = said(step);
        assert!(words.iter().all(|word| said.contains(word)), "{step}: {said}");
        assert_eq!(
            said.contains("\ncode "),
            words.iter().any(|word| word.starts_with("code")),
            "{step}: {said}"
        );
    }
    assert_eq!(said("gone"), "");
    let calls = said("calls");
    let expected = ["daemon-reload", "enable --quiet laneway.service", "start laneway.service"];
    let found = calls.lines().filter(|call| expected.contains(call)).collect::<Vec<_>>();
    assert_eq!(found[..3], expected, "{calls}");
    assert!(calls.contains("stop laneway.service\ndisable --now --quiet laneway.service\n"), "{calls}");
}
