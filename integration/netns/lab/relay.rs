//! A cable with delay and reordering. A program carries the frames, because not every kernel has netem.

use super::process::Process;
use super::{Host, Lab};
use std::time::Duration;

/// Carries Ethernet frames between two TAP devices (Linux, Documentation/networking/tuntap.rst), each of them late by
/// MEAN ± JITTER ms, so that frames overtake each other.
const RELAY: &str = r#"
import ctypes, fcntl, heapq, os, random, select, struct, sys, time
lan, near, far, mean, jitter = sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4]), float(sys.argv[5])
random.seed(7)
libc = ctypes.CDLL(None, use_errno=True)

def tap(name):
    fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    fcntl.ioctl(fd, 0x400454CA, struct.pack("16sH22x", name.encode(), 0x0002 | 0x1000))  # TUNSETIFF, TAP without header
    return fd

ends = [tap(near)]
with open("/run/netns/" + lan) as namespace:
    if libc.setns(namespace.fileno(), 0) != 0:
        sys.exit("cannot enter the switch's namespace")
ends.append(tap(far))
print("carrying", flush=True)
late, count = [], 0
while True:
    now = time.monotonic()
    while late and late[0][0] <= now:
        _, _, to, frame = heapq.heappop(late)
        try:
            os.write(to, frame)
        except OSError:
            pass
    wait = max(0.0, late[0][0] - now) if late else 1.0
    for fd in select.select(ends, [], [], wait)[0]:
        for _ in range(64):
            try:
                frame = os.read(fd, 65536)
            except OSError:
                break
            count += 1
            due = time.monotonic() + (mean + random.uniform(-jitter, jitter)) / 1000
            if len(late) < 20000:
                heapq.heappush(late, (due, count, ends[1] if fd == ends[0] else ends[0], frame))
"#;

impl Lab {
    /// Adds an interface on the LAN whose frames are late by `mean` ± `jitter` milliseconds in each direction. To be
    /// called before a node runs on this host.
    pub(crate) fn delay(&self, host: &Host, mean: u32, jitter: u32) -> Process {
        let far = format!("{}-far", host.name);
        host.ip("link delete lan");
        let mut command = host.command("python3");
        command.args(["-c", RELAY, &self.lan(), "lan", &far, &mean.to_string(), &jitter.to_string()]);
        let mut relay = host.spawn(command);
        relay.wait_for_line("carrying", Duration::from_secs(10));
        super::ip(&["-n", &self.lan()], &format!("link set {far} master bridge up\n"));
        host.ip(&format!("address add {}/24 broadcast + dev lan", host.address()));
        host.ip("link set lan up");
        relay
    }
}
