//! The configuration file: its values are within the bounds of the flags.

use std::time::Duration;

use laneway::config::{Config, Typed};
use laneway::local::endpoint::Endpoint;

/// `data` is a file.
pub fn run(data: &[u8]) {
    let Ok(text) = str::from_utf8(data) else { return };
    let Ok(typed) = toml::from_str::<Typed>(text) else { return };
    let open = typed.proxy_open_to_lan;
    let Ok(config) = Config::of(typed) else { return };
    let day = Duration::from_secs(86_400);
    for wait in [config.hold, config.drain, config.connect_timeout, config.command_timeout] {
        assert!(wait <= day);
    }
    assert!((Duration::from_secs(1)..=365 * day).contains(&config.rotate));
    assert!((1..=usize::from(u16::MAX)).contains(&config.active));
    assert!((1..=1024).contains(&config.threads) || config.threads == cores());
    assert!(open || !config.logins.is_empty() || config.proxy.iter().all(Endpoint::is_of_this_machine));
    assert!(!config.proxy.is_empty() && config.proxy_mode <= 0o777);
    for target in config.gateways.iter().chain(&config.servers) {
        assert_eq!(target.to_string().parse().as_ref(), Ok(target));
    }
    for rule in config.allow.iter().chain(&config.deny) {
        assert_eq!(rule.to_string().parse().as_ref(), Ok(rule));
    }
}

fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}
