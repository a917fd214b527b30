//! The text of the launchd property list (macOS, launchd.plist(5)).

use std::path::Path;

use super::definition::{NAME, Service};

/// Seconds that launchd waits after SIGTERM before it kills: the drain and the last steps of a node.
const EXIT_SECONDS: u32 = 60;

/// The property list of a service that logs to `log`.
pub(super) fn text(service: &Service, log: &Path) -> String {
    let mut variables = vec![("LANEWAY_STATE", service.state.as_path())];
    variables.extend(service.configuration.as_deref().map(|file| ("LANEWAY_CONFIG", file)));
    let variables: String = variables
        .into_iter()
        .map(|(name, value)| {
            format!("        <key>{name}</key>\n        <string>{}</string>\n", escaped(value))
        })
        .collect();
    // KeepAlive: launchd restarts a node that failed, and leaves alone one that was stopped.
    format!(
        r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE plist PUBLIC "-//Apple//DTD PLIST 1.0//EN" "http://www.apple.com/DTDs/PropertyList-1.0.dtd">
<plist version="1.0">
<dict>
    <key>Label</key>
    <string>{NAME}</string>
    <key>ProgramArguments</key>
    <array>
        <string>{program}</string>
        <string>up</string>
    </array>
    <key>EnvironmentVariables</key>
    <dict>
{variables}    </dict>
    <key>RunAtLoad</key>
    <true/>
    <key>KeepAlive</key>
    <dict>
        <key>SuccessfulExit</key>
        <false/>
    </dict>
    <key>ExitTimeOut</key>
    <integer>{EXIT_SECONDS}</integer>
    <key>ProcessType</key>
    <string>Interactive</string>
    <key>Umask</key>
    <integer>63</integer>
    <key>StandardErrorPath</key>
    <string>{log}</string>
</dict>
</plist>
"#,
        program = escaped(&service.program),
        log = escaped(log),
    )
}

fn escaped(path: &Path) -> String {
    path.to_string_lossy().replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_escaped_in_the_property_list() {
        let service = Service {
            program: "/Users/a & b/laneway".into(),
            state: "/Users/a & b/<state>".into(),
            configuration: None,
        };
        let text = text(&service, Path::new("/Users/a & b/Library/Logs/laneway.log"));
        assert!(
            text.contains("<string>/Users/a &amp; b/laneway</string>\n        <string>up</string>"),
            "{text}"
        );
        assert!(text.contains("<string>/Users/a &amp; b/&lt;state&gt;</string>"), "{text}");
        assert!(!text.contains("LANEWAY_CONFIG"), "{text}");
    }
}
