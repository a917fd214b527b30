use std::process::{Command, Stdio};

use super::processor_time::ProcessorTime;

/// What sysctl(8) says, which is asked once, when the node starts.
pub(super) fn memory() -> Option<u64> {
    let output = Command::new("/usr/sbin/sysctl").args(["-n", "hw.memsize"]).stdin(Stdio::null()).output();
    String::from_utf8(output.ok()?.stdout).ok()?.trim().parse().ok()
}

pub(super) fn fastest_interface() -> Option<u32> {
    None
}

pub(super) fn processor_time() -> Option<ProcessorTime> {
    None
}
