//! The address of an upstream proxy, as `--upstream` takes it. It holds a password, which no message may repeat.

use std::fmt;
use std::str::FromStr;

use crate::wire::target::{Target, TargetError, configured};

/// An upstream proxy. It is shown without its login.
#[derive(Clone, PartialEq, Eq)]
pub struct UpstreamProxy {
    pub(super) dialect: Dialect,
    /// Where it listens.
    pub(super) address: Target,
    pub(super) login: Option<Login>,
}

/// The protocol that an upstream proxy speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Dialect {
    Http,
    Socks5,
}

/// The credentials that the gateway sends to an upstream proxy. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub(super) struct Login {
    pub(super) user: String,
    pub(super) password: String,
}

/// Why a text is not an upstream proxy. It does not repeat the text, which may hold a password.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProxyError {
    /// Another scheme, or none.
    #[error("a proxy is written http://[USER:PASSWORD@]HOST:PORT or socks5://[USER:PASSWORD@]HOST:PORT")]
    Form,
    /// More than the proxy's address.
    #[error("nothing but '/' may follow HOST:PORT")]
    Path,
    /// A login that cannot be sent.
    #[error(
        "a login is USER:PASSWORD, each of 1 to 255 bytes; '%', ',', ':', '/', '?', '#' and '@' in it are written %25, %2C, %3A, %2F, %3F, %23 and %40; USER has no ':'"
    )]
    Login,
    /// Not HOST:PORT.
    #[error(transparent)]
    Address(#[from] TargetError),
}

impl FromStr for UpstreamProxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.split_once("://").ok_or(ProxyError::Form)?;
        let dialect = match scheme.to_ascii_lowercase().as_str() {
            "http" => Dialect::Http,
            "socks5" | "socks5h" => Dialect::Socks5,
            _ => return Err(ProxyError::Form),
        };
        let (login, address) = match rest.rsplit_once('@') {
            Some((login, address)) => (Some(Login::parse(login).ok_or(ProxyError::Login)?), address),
            None => (None, rest),
        };
        let address = address.strip_suffix('/').unwrap_or(address);
        if address.contains(['/', '?', '#']) {
            return Err(ProxyError::Path);
        }
        Ok(Self { dialect, address: configured(address)?, login })
    }
}

impl Login {
    fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':')?;
        let (user, password) = (percent_decode(user)?, percent_decode(password)?);
        let fits = |part: &str| (1..=255).contains(&part.len()) && !part.contains(char::is_control);
        (fits(&user) && fits(&password) && !user.contains(':')).then_some(Self { user, password })
    }
}

/// Decodes percent-encoding (RFC 3986 §2.1). `None` when a character that must be encoded in a login is not.
fn percent_decode(text: &str) -> Option<String> {
    let (mut decoded, mut rest) = (Vec::new(), text.bytes());
    while let Some(byte) = rest.next() {
        decoded.push(match byte {
            b'%' => {
                let mut digit = || char::from(rest.next()?).to_digit(16);
                u8::try_from(digit()? * 16 + digit()?).ok()?
            }
            b':' | b'/' | b'?' | b'#' | b'@' => return None,
            byte => byte,
        });
    }
    String::from_utf8(decoded).ok()
}

impl fmt::Display for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.dialect {
            Dialect::Http => "http",
            Dialect::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.address)
    }
}

impl fmt::Debug for UpstreamProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if self.login.is_some() { f.write_str(" with a login") } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_proxy_is_parsed_and_its_login_never_shown() {
        for (text, shown) in [
            ("http://10.0.0.1:3128", "http://10.0.0.1:3128"),
            ("HTTP://me:secret@Proxy.corp:8080/", "http://proxy.corp:8080"),
            ("socks5h://me:s%3Acret%25@[2001:db8::1]:1080", "socks5://[2001:db8::1]:1080"),
        ] {
            let proxy: UpstreamProxy = text.parse().unwrap();
            assert_eq!(proxy.to_string(), shown);
            let all = format!("{proxy} {proxy:?} {:?}", vec![proxy.clone()]);
            assert!(!all.contains("cret") && !all.contains("me"), "{all}");
        }
        for text in [
            "10.0.0.1:3128",
            "https://10.0.0.1:3128",
            "http://10.0.0.1",
            "http://10.0.0.1:3128/path",
            "http://me@10.0.0.1:3128",
            "http://me:@10.0.0.1:3128",
            "http://me:se:cret@10.0.0.1:3128",
            "http://me:%0d%0aX@10.0.0.1:3128",
            "http://me:%zz@10.0.0.1:3128",
        ] {
            let error = text.parse::<UpstreamProxy>().unwrap_err().to_string();
            assert!(!error.contains("cret"), "{error}");
        }
    }

    /// As a person would have to write it.
    fn encoded(text: &str) -> String {
        text.bytes().map(|byte| format!("%{byte:02x}")).collect()
    }

    proptest! {
        #[test]
        fn any_text_is_a_proxy_or_an_error_and_a_shown_proxy_parses_again(
            scheme in prop::sample::select(vec!["http", "socks5", "https", ""]), rest in "[a-z0-9:/@.%?#\\[\\]é-]{0,30}",
        ) {
            if let Ok(proxy) = format!("{scheme}://{rest}").parse::<UpstreamProxy>() {
                let shown: UpstreamProxy = proxy.to_string().parse().unwrap();
                prop_assert_eq!((&shown.address, shown.dialect), (&proxy.address, proxy.dialect));
                prop_assert!(shown.login.is_none());
            }
        }

        #[test]
        fn an_encoded_login_is_decoded(user in "[^:\\pC]{1,60}", password in "[^\\pC]{1,60}") {
            let proxy: UpstreamProxy =
                format!("http://{}:{}@h:1", encoded(&user), encoded(&password)).parse().unwrap();
            let is_meant = proxy.login == Some(Login { user, password });
            prop_assert!(is_meant);
        }
    }
}
