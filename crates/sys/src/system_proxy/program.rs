use std::process::{Command, Stdio};

use super::setting::ProxyError;

/// What a program prints. An error has what it printed on standard error.
pub(super) fn output(program: &str, arguments: &[&str]) -> Result<String, ProxyError> {
    let refused = |why: String| ProxyError::Refused {
        what: format!("'{program} {}' failed", arguments.join(" ")),
        why: why.trim().to_owned(),
    };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.map_err(|error| refused(error.to_string()))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match output.status.success() {
        true => Ok(text(&output.stdout)),
        false => Err(refused([text(&output.stderr), text(&output.stdout)].concat())),
    }
}
