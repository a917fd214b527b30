#![allow(unsafe_code, reason = "the system fills structures of C")]

use windows_sys::Win32::Foundation::FILETIME;
use windows_sys::Win32::System::SystemInformation::{GlobalMemoryStatusEx, MEMORYSTATUSEX};
use windows_sys::Win32::System::Threading::GetSystemTimes;

use super::processor_time::ProcessorTime;
use crate::adapters;

pub(super) fn memory() -> Option<u64> {
    let size = u32::try_from(size_of::<MEMORYSTATUSEX>()).ok()?;
    let mut status = MEMORYSTATUSEX { dwLength: size, ..Default::default() };
    // SAFETY: the structure is writable and says its own size.
    let filled = unsafe { GlobalMemoryStatusEx(&raw mut status) };
    (filled != 0).then_some(status.ullTotalPhys)
}

pub(super) fn fastest_interface() -> Option<u32> {
    let adapters = adapters::all().ok()?.into_iter().filter(|adapter| adapter.is_up && !adapter.is_loopback);
    let speeds = adapters.filter_map(|adapter| u32::try_from(adapter.speed? / 1_000_000).ok());
    speeds.filter(|speed| *speed > 0).max()
}

pub(super) fn processor_time() -> Option<ProcessorTime> {
    let (mut idle, mut kernel, mut user) = (FILETIME::default(), FILETIME::default(), FILETIME::default());
    // SAFETY: the three structures are writable.
    let filled = unsafe { GetSystemTimes(&raw mut idle, &raw mut kernel, &raw mut user) };
    // The time of the kernel includes the idle time.
    let all = ticks(kernel).saturating_add(ticks(user));
    (filled != 0).then(|| ProcessorTime { busy: all.saturating_sub(ticks(idle)), all })
}

fn ticks(time: FILETIME) -> u64 {
    u64::from(time.dwHighDateTime) << 32 | u64::from(time.dwLowDateTime)
}
