//! A long line between two network namespaces: a bottleneck of a given rate, a queue before it, and a delay.
//!
//! Two TUN devices whose packets this process carries from one to the other, since not every kernel has netem. Each direction
//! alone: a packet leaves the bottleneck when the one before it has left and its own bytes have passed at the line's rate, and
//! arrives half a round trip later. The queue holds one bandwidth-delay product; what comes when it is full is dropped. The MTU
//! is 1,500 bytes, and as with most network cards the kernel hands over and takes several segments of a connection at once.

use crate::network::{CONGESTION_CONTROL, Namespace, ip};
use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{gettid, read, write};
use std::fs;
use std::net::Ipv4Addr;
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, Receiver, RecvTimeoutError, Sender};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};
use tun_rs::{DeviceBuilder, SyncDevice};

/// The client's end and the gateway's.
const ENDS: [Ipv4Addr; 2] = [Ipv4Addr::new(10, 99, 0, 1), Ipv4Addr::new(10, 99, 0, 2)];
const MTU: usize = 1500;
/// A packet as the kernel passes it: `struct virtio_net_hdr`, then up to 64 KiB.
const OFFLOAD_HEADER: usize = 10;
const PACKET: usize = OFFLOAD_HEADER + 65_536;
/// The length of the kernel's queue before this process, large enough never to be full.
const KERNEL_QUEUE: u32 = 20_000;
/// Interval at which the threads check whether to stop.
const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// The properties of a line.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Kind {
    pub(crate) round_trip: Duration,
    /// Megabits (10^6) a second, each way.
    pub(crate) megabits: u32,
    /// What `tcp_rmem` and `tcp_wmem` permit at most at both ends, in bytes; the kernel's defaults if not given.
    pub(crate) buffers: Option<u32>,
}

impl Kind {
    /// How long these bytes take through the bottleneck.
    fn takes(self, bytes: usize) -> Duration {
        // Mbit/s is bits per microsecond.
        Duration::from_nanos(bytes as u64 * 8 * 1000 / u64::from(self.megabits))
    }
}

/// A line that works until it is dropped.
pub(crate) struct Line {
    pub(crate) client: Namespace,
    pub(crate) gateway: Namespace,
    pub(crate) gateway_address: Ipv4Addr,
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Line {
    /// Makes two namespaces and the line between them.
    pub(crate) fn new(kind: Kind) -> Result<Self> {
        let (client, gateway) = (Namespace::new()?, Namespace::new()?);
        let near = Arc::new(end(&client, ENDS[0], kind)?);
        let far = Arc::new(end(&gateway, ENDS[1], kind)?);
        let stop = Arc::new(AtomicBool::new(false));
        let mut threads = Vec::new();
        for (from, to) in [(&near, &far), (&far, &near)] {
            let (enter, leave) = mpsc::channel();
            let (from, to) = (from.clone(), to.clone());
            let (stop_reading, stop_writing) = (stop.clone(), stop.clone());
            threads.push(thread::spawn(move || {
                hurry();
                take_in(&from, kind, &enter, &stop_reading);
            }));
            threads.push(thread::spawn(move || {
                hurry();
                let_out(&to, &leave, &stop_writing);
            }));
        }
        Ok(Self { client, gateway, gateway_address: ENDS[1], stop, threads })
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            let _ = thread.join();
        }
    }
}

/// One end: a device with an address, and the buffer limits.
fn end(namespace: &Namespace, address: Ipv4Addr, kind: Kind) -> Result<SyncDevice> {
    namespace.inside(|| {
        if let Some(most) = kind.buffers {
            fs::write("/proc/sys/net/ipv4/tcp_rmem", format!("4096 131072 {most}"))?;
            fs::write("/proc/sys/net/ipv4/tcp_wmem", format!("4096 16384 {most}"))?;
        }
        let device = DeviceBuilder::new()
            .name("line")
            .with(|device| {
                device.offload(true).tx_queue_len(KERNEL_QUEUE);
            })
            .build_sync()
            .context("a TUN device cannot be made")?;
        device.set_nonblocking(true)?;
        let network = Ipv4Addr::from_bits(address.to_bits() & !3);
        ip(&format!(
            "address add {address}/30 dev line\nlink set line mtu {MTU} up\n\
             route replace {network}/30 dev line proto kernel scope link src {address} congctl {CONGESTION_CONTROL}\n"
        ))?;
        Ok(device)
    })
}

/// Gives the calling thread priority over all others, where permitted: a real line does not wait for the hosts' processors.
fn hurry() {
    let mut change = Command::new("chrt");
    change.args(["--fifo", "--pid", "1", &gettid().to_string()]).stdout(Stdio::null()).stderr(Stdio::null());
    // Without it, the line is only less exact.
    let _ = change.status();
}

/// When a packet arrives at the other end, and the packet.
type Underway = (Instant, Vec<u8>);

/// The number of bytes of a packet after it is cut into segments, each with headers of its own.
fn on_the_wire(packet: &[u8]) -> usize {
    let field = |at| usize::from(u16::from_ne_bytes([packet[at], packet[at + 1]]));
    // `hdr_len` and `gso_size`; the latter is 0 for a single segment.
    let (headers, segment) = (field(2), field(4));
    let whole = packet.len() - OFFLOAD_HEADER;
    let segments = whole.saturating_sub(headers).checked_div(segment).map_or(1, |full| full + 1);
    whole + (segments - 1) * headers
}

/// Takes packets from a device into the bottleneck's queue.
fn take_in(device: &SyncDevice, kind: Kind, line: &Sender<Underway>, stop: &AtomicBool) {
    let mut bottleneck_free = Instant::now();
    let mut packet = vec![0; PACKET];
    while !stop.load(Ordering::Relaxed) {
        match read(device.as_fd(), &mut packet) {
            Ok(..=OFFLOAD_HEADER) => {}
            Ok(length) => {
                let now = Instant::now();
                let begins = bottleneck_free.max(now);
                if begins - now > kind.round_trip {
                    continue;
                }
                bottleneck_free = begins + kind.takes(on_the_wire(&packet[..length]));
                let arrives = bottleneck_free + kind.round_trip / 2;
                if line.send((arrives, packet[..length].to_vec())).is_err() {
                    return;
                }
            }
            Err(Errno::EAGAIN) => {
                let mut readable = [PollFd::new(device.as_fd(), PollFlags::POLLIN)];
                let _ =
                    poll(&mut readable, PollTimeout::try_from(POLL_INTERVAL).unwrap_or(PollTimeout::ZERO));
            }
            Err(_) => return,
        }
    }
}

/// Delivers packets at the other end when they are due.
fn let_out(device: &SyncDevice, line: &Receiver<Underway>, stop: &AtomicBool) {
    while !stop.load(Ordering::Relaxed) {
        match line.recv_timeout(POLL_INTERVAL) {
            Ok((arrives, packet)) => {
                let early = arrives.saturating_duration_since(Instant::now());
                if !early.is_zero() {
                    thread::sleep(early);
                }
                // A packet that the kernel does not accept is lost, as with any device.
                let _ = write(device.as_fd(), &packet);
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_have_headers_of_their_own() {
        let mut packet = vec![0; OFFLOAD_HEADER + 52 + 3 * 1448 - 8];
        assert_eq!(on_the_wire(&packet), 52 + 3 * 1448 - 8);
        packet[2..4].copy_from_slice(&52_u16.to_ne_bytes());
        packet[4..6].copy_from_slice(&1448_u16.to_ne_bytes());
        assert_eq!(on_the_wire(&packet), 3 * 52 + 3 * 1448 - 8);
    }

    #[test]
    fn the_bottleneck_takes_its_time() {
        let kind = Kind { round_trip: Duration::ZERO, megabits: 100, buffers: None };
        assert_eq!(kind.takes(1250), Duration::from_micros(100));
        assert_eq!(Kind { megabits: 1000, ..kind }.takes(125_000_000), Duration::from_secs(1));
    }
}
