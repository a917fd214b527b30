//! The text of the systemd unit. The unit of the package is the only source.

use std::path::Path;

use super::definition::Service;

/// The unit of the package.
const UNIT: &str = include_str!("../../../../../packaging/systemd/laneway.service");
/// The lines of the unit that name the program and the files.
const PROGRAM: &str = "ExecStart=/usr/bin/laneway up";
const FILES: &str = "Environment=LANEWAY_STATE=%S/laneway LANEWAY_CONFIG=/etc/laneway/laneway.toml";
const GROUP: &str = "ConditionPathExists=%S/laneway/group.json";

/// The directives that the systemd of a user, which has no privileges, takes as they are.
const OF_USERS: [&str; 16] = [
    "Description",
    "Documentation",
    "ConditionPathExists",
    "StartLimitIntervalSec",
    "StartLimitBurst",
    "Type",
    "ExecStart",
    "ExecReload",
    "Environment",
    "Restart",
    "RestartSec",
    "RestartPreventExitStatus",
    "WatchdogSec",
    "KillMode",
    "UMask",
    "WantedBy",
];

/// The unit for the machine. The state is where the unit of the package has it.
pub(super) fn of_machine(service: &Service) -> String {
    let file = service.configuration.as_deref();
    let file = file.map(|file| format!(" {}", word(&format!("LANEWAY_CONFIG={}", file.display()))));
    UNIT.replace(PROGRAM, &format!("ExecStart={} up", program(&service.program)))
        .replace(FILES, &format!("Environment=LANEWAY_STATE=%S/laneway{}", file.unwrap_or_default()))
}

/// The unit for the systemd of one user: what needs privileges is left out.
pub(super) fn of_user(service: &Service) -> String {
    let state = service.state.display();
    let mut files = format!("Environment={}", word(&format!("LANEWAY_STATE={state}")));
    if let Some(file) = &service.configuration {
        files += &format!(" {}", word(&format!("LANEWAY_CONFIG={}", file.display())));
    }
    let mut text = String::new();
    for line in UNIT.lines() {
        let line = match line {
            PROGRAM => format!("ExecStart={} up", program(&service.program)),
            FILES => files.clone(),
            GROUP => format!("ConditionPathExists={}", specifiers(&format!("{state}/group.json"))),
            "WantedBy=multi-user.target" => "WantedBy=default.target".into(),
            other => other.to_owned(),
        };
        let directive = line.split_once('=').map(|(directive, _)| directive);
        if line.starts_with('[') {
            text += if text.is_empty() { "" } else { "\n" };
        } else if !directive.is_some_and(|directive| OF_USERS.contains(&directive)) {
            continue;
        }
        text += &line;
        text.push('\n');
    }
    text
}

/// The program of a unit's text, as a word of `ExecStart=`; `None` if there is none.
pub(super) fn program_of(unit: &str) -> Option<&str> {
    let line = unit.lines().find_map(|line| line.strip_prefix("ExecStart="))?;
    Some(line.strip_suffix(" up").unwrap_or(line))
}

/// The program as the first word of a command line (systemd.service(5)), in which a dollar is not a variable.
fn program(path: &Path) -> String {
    word(&path.display().to_string().replace('$', "$$"))
}

/// One quoted word (systemd.syntax(7)).
fn word(text: &str) -> String {
    let plain = |c: char| c.is_alphanumeric() || "/._-+:@,=$".contains(c);
    let text = specifiers(text);
    match text.chars().all(|c| plain(c) || c == '%') {
        true => text,
        false => format!("\"{}\"", text.replace('\\', r"\\").replace('"', "\\\"")),
    }
}

/// The text with its percent signs doubled: a single one begins a specifier (systemd.unit(5)).
fn specifiers(text: &str) -> String {
    text.replace('%', "%%")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(program: &str, state: &str, configuration: Option<&str>) -> Service {
        let configuration = configuration.map(Into::into);
        Service { program: program.into(), state: state.into(), configuration }
    }

    #[test]
    fn the_unit_of_the_machine_is_the_one_of_the_package_with_another_program() {
        let packaged = service("/usr/bin/laneway", "/var/lib/laneway", Some("/etc/laneway/laneway.toml"));
        assert_eq!(of_machine(&packaged), UNIT);
        let own = of_machine(&service("/opt/my tools/lane$way", "/var/lib/laneway", None));
        assert!(own.contains("\nExecStart=\"/opt/my tools/lane$$way\" up\n"), "{own}");
        assert!(own.contains("\nEnvironment=LANEWAY_STATE=%S/laneway\n"), "{own}");
        assert_eq!(own.lines().count(), UNIT.lines().count());
        assert_eq!(program_of(&own), Some("\"/opt/my tools/lane$$way\""));
    }

    #[test]
    fn the_unit_of_a_user_has_nothing_that_needs_privileges() {
        let text = of_user(&service("/home/jörg/bin/laneway", "/home/jörg/100% own/laneway", Some("/a b")));
        assert!(text.starts_with("[Unit]\n") && text.contains("\n\n[Service]\nType=notify\n"), "{text}");
        assert!(text.contains("\nExecStart=/home/jörg/bin/laneway up\n"), "{text}");
        let files = "\nEnvironment=\"LANEWAY_STATE=/home/jörg/100%% own/laneway\" \"LANEWAY_CONFIG=/a b\"\n";
        assert!(text.contains(files), "{text}");
        assert!(text.contains("\nConditionPathExists=/home/jörg/100%% own/laneway/group.json\n"), "{text}");
        assert!(text.ends_with("\n[Install]\nWantedBy=default.target\n"), "{text}");
        for refused in ["DynamicUser", "Capabilit", "Protect", "Private", "network.target", "EnvironmentFile"]
        {
            assert!(!text.contains(refused), "{refused}: {text}");
        }
    }

    #[test]
    fn the_unit_of_the_package_has_the_lines_that_are_replaced() {
        for line in [PROGRAM, FILES, GROUP, "WantedBy=multi-user.target"] {
            assert_eq!(UNIT.lines().filter(|found| *found == line).count(), 1, "{line}");
        }
    }
}
