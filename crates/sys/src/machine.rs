//! The memory, the network cards and the processors of this machine.

#[cfg(target_os = "linux")]
mod linux;
#[cfg(target_os = "macos")]
mod macos;
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
mod other;
mod processor_time;
#[cfg(windows)]
mod windows;

#[cfg(target_os = "linux")]
use self::linux as system;
#[cfg(target_os = "macos")]
use self::macos as system;
#[cfg(not(any(target_os = "linux", target_os = "macos", windows)))]
use self::other as system;
pub use self::processor_time::ProcessorTime;
#[cfg(windows)]
use self::windows as system;

/// The assumed memory of a machine that does not report it, in bytes.
const ASSUMED: u64 = 1 << 30;

/// A quarter of the memory that this process may use, in bytes: of the machine's, or of the smallest limit of its control
/// groups.
pub fn share_of_memory() -> u64 {
    system::memory().unwrap_or(ASSUMED) / 4
}

/// The highest speed that an interface reports, in Mbit/s. Virtual interfaces report none or a made-up one.
pub fn fastest_interface() -> Option<u32> {
    system::fastest_interface()
}

/// What the processors have done so far. `None` where the system does not tell.
pub fn processor_time() -> Option<ProcessorTime> {
    system::processor_time()
}
