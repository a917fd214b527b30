//! Progress of long steps: a bar or a spinner on a terminal; nothing elsewhere, where printed lines say the same.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// Interval between two frames of a spinner.
const FRAME: Duration = Duration::from_millis(100);

/// Whether colours are wanted on standard output: it is a terminal, and NO_COLOR is not set.
pub(crate) fn is_coloured() -> bool {
    std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}

/// Whether bars are visible at all.
pub(crate) fn is_shown() -> bool {
    std::io::stderr().is_terminal()
}

/// A bar of `size` bytes.
pub(crate) fn bytes(name: &str, size: u64) -> ProgressBar {
    styled(ProgressBar::new(size), "{bytes}/{total_bytes} {bytes_per_sec} {eta}")
        .with_message(name.to_owned())
}

/// A bar of the length `time`, in milliseconds; its prefix is shown behind it.
pub(crate) fn time(name: &str, time: Duration) -> ProgressBar {
    let millis = u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    styled(ProgressBar::new(millis), "{prefix}").with_message(name.to_owned())
}

/// A spinner with `text`; it disappears when it is dropped.
pub(crate) fn waiting(text: impl Into<String>) -> Waiting {
    let spinner = shown(ProgressBar::new_spinner());
    spinner.set_style(style("  {spinner} {msg}"));
    spinner.set_message(text.into());
    spinner.enable_steady_tick(FRAME);
    Waiting(spinner)
}

/// See [`waiting`].
pub(crate) struct Waiting(ProgressBar);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.finish_and_clear();
    }
}

fn styled(bar: ProgressBar, facts: &str) -> ProgressBar {
    let colours = if std::env::var_os("NO_COLOR").is_some() { "{bar:40}" } else { "{bar:40.cyan/blue}" };
    shown(bar).with_style(style(&format!("  {{msg:<10}} {colours} {facts}")))
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

fn shown(bar: ProgressBar) -> ProgressBar {
    if !is_shown() {
        bar.set_draw_target(ProgressDrawTarget::hidden());
    }
    bar
}
