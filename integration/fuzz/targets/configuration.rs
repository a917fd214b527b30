//! The configuration file: its values are within the bounds of the flags.

use std::time::Duration;

use laneway::config::Config;
use laneway::local::endpoint::Endpoint;

/// `data` is a file.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    // A file of logins would be read.
    if text.contains("proxy-logins") {
        return;
    }
    let Ok(config) = Config::of_text(text) else { return };
    let Config { node, local, peers, gateway, .. } = &config;
    let day = Duration::from_secs(86_400);
    for wait in [local.hold, node.drain, gateway.connect_timeout, peers.command_timeout] {
        assert!(wait <= day);
    }
    assert!((Duration::from_secs(1)..=365 * day).contains(&peers.rotate));
    assert!(peers.active >= 1);
    assert!((1..=1024).contains(&node.threads()) || node.threads() == cores());
    assert!(
        local.proxy_open_to_lan
            || !local.proxy_login.is_empty()
            || local.proxy.iter().all(Endpoint::is_of_this_machine)
    );
    assert!(!local.proxy.is_empty() && local.proxy_mode.0 <= 0o777);
    for target in peers.gateway.iter().chain(&gateway.server) {
        assert_eq!(target.to_string().parse().as_ref(), Ok(target));
    }
    for rule in gateway.allow.iter().chain(&gateway.deny) {
        assert_eq!(rule.to_string().parse().as_ref(), Ok(rule));
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
