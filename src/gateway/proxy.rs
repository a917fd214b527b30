//! The gateway's own way out where that is another proxy: HTTP CONNECT or SOCKS5.
//!
//! That proxy resolves the names, so this gateway cannot judge the addresses behind them; [`super::egress`] says what
//! it judges instead. Nothing is read beyond the proxy's answer: what follows it belongs to the tunnel.

mod connect;
mod socks;

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use serde::Deserialize;
use tokio::net::TcpStream;
use tokio::time::{Instant, timeout_at};

use crate::failure::{Failure, Kind, Side};
use crate::net;
use crate::wire::target::Target;

/// A proxy as it was written, and not yet read: what complains of it must not repeat the password in it.
#[derive(Clone, Deserialize)]
#[serde(transparent)]
pub struct Written(String);

/// A proxy to leave by. It is shown without its login.
#[derive(Clone, PartialEq, Eq)]
pub struct Proxy {
    dialect: Dialect,
    /// Where it listens.
    pub at: Target,
    login: Option<Login>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Dialect {
    Http,
    Socks5,
}

/// What the proxy knows this gateway by. Never shown.
#[derive(Clone, PartialEq, Eq)]
struct Login {
    user: String,
    password: String,
}

/// What is no proxy. The text is not repeated: it may hold a password.
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
    At(#[from] crate::wire::target::TargetError),
}

/// Why a connection by way of a proxy does not stand.
enum Refusal {
    /// The proxy wants another login, or one at all.
    Login,
    /// It broke off, or does not speak as it should.
    Broken(String),
    /// It says what became of the destination.
    Destination(Kind),
}

impl Proxy {
    /// Lets the proxy connect to `target`, over `stream`, which leads to the proxy. `limit` ends at `until`. That the
    /// login is not taken is logged once until it is, which `complained` remembers.
    ///
    /// # Errors
    /// What the proxy says of the destination has [`Side::Server`]; what is wrong with the proxy, [`Side::Gateway`].
    pub(super) async fn connect(
        &self,
        stream: TcpStream,
        target: &Target,
        until: Instant,
        limit: Duration,
        complained: &AtomicBool,
    ) -> Result<TcpStream, Failure> {
        let login = self.login.as_ref();
        let asked = async {
            match self.dialect {
                Dialect::Http => connect::ask(&stream, target, login).await,
                Dialect::Socks5 => socks::ask(&stream, target, login).await,
            }
        };
        let refusal = match timeout_at(until, asked).await {
            Ok(Ok(())) => {
                complained.store(false, Relaxed);
                return Ok(stream);
            }
            Ok(Err(refusal)) => refusal,
            Err(_) => {
                let sentence =
                    format!("{target} was not connected to by {self} within {} s", limit.as_secs());
                return Err(Failure::new(Kind::ConnectTimeout, Side::Server, sentence));
            }
        };
        Err(match refusal {
            Refusal::Login => {
                let hint = "give it as --upstream with USER:PASSWORD@ in front of the host";
                if !complained.swap(true, Relaxed) {
                    tracing::warn!(proxy = %self, hint, "the upstream proxy does not take this gateway's login");
                }
                let sentence = format!(
                    "the gateway's upstream proxy {self} does not take its login: on the gateway, {hint}"
                );
                Failure::new(Kind::UpstreamLogin, Side::Gateway, sentence)
            }
            Refusal::Broken(why) => {
                let sentence = format!("the gateway's upstream proxy {self} does not answer as one: {why}");
                Failure::new(Kind::BadResponse, Side::Gateway, sentence)
            }
            Refusal::Destination(kind) => {
                let what = match kind {
                    Kind::NameForbidden => "is refused",
                    Kind::NameNotFound => "is not found",
                    Kind::Refused => "refused the connection, says",
                    Kind::ConnectTimeout => "did not answer, says",
                    _ => "cannot be connected to",
                };
                let by = if what.ends_with("says") { "" } else { " by" };
                let side = if kind == Kind::NameForbidden { Side::Gateway } else { Side::Server };
                Failure::new(kind, side, format!("{target} {what}{by} the gateway's upstream proxy {self}"))
            }
        })
    }
}

impl FromStr for Proxy {
    type Err = ProxyError;

    fn from_str(text: &str) -> Result<Self, ProxyError> {
        let (scheme, rest) = text.split_once("://").ok_or(ProxyError::Form)?;
        let dialect = match scheme.to_ascii_lowercase().as_str() {
            "http" => Dialect::Http,
            "socks5" | "socks5h" => Dialect::Socks5,
            _ => return Err(ProxyError::Form),
        };
        let (login, at) = match rest.rsplit_once('@') {
            Some((login, at)) => (Some(Login::parse(login).ok_or(ProxyError::Login)?), at),
            None => (None, rest),
        };
        let at = at.strip_suffix('/').unwrap_or(at);
        if at.contains(['/', '?', '#']) {
            return Err(ProxyError::Path);
        }
        Ok(Self { dialect, at: at.parse()?, login })
    }
}

impl Login {
    fn parse(text: &str) -> Option<Self> {
        let (user, password) = text.split_once(':')?;
        let (user, password) = (decode(user)?, decode(password)?);
        let fits = |part: &str| (1..=255).contains(&part.len()) && !part.contains(char::is_control);
        (fits(&user) && fits(&password) && !user.contains(':')).then_some(Self { user, password })
    }
}

/// Percent-encoding undone (RFC 3986 §2.1); what may not stand in a login unencoded is refused.
fn decode(text: &str) -> Option<String> {
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

impl Written {
    /// Reads it.
    ///
    /// # Errors
    /// [`ProxyError`], which does not repeat it.
    pub fn read(&self) -> Result<Proxy, ProxyError> {
        self.0.parse()
    }
}

impl FromStr for Written {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.into()))
    }
}

impl fmt::Debug for Written {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a proxy")
    }
}

impl fmt::Display for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = match self.dialect {
            Dialect::Http => "http",
            Dialect::Socks5 => "socks5",
        };
        write!(f, "{scheme}://{}", self.at)
    }
}

impl fmt::Debug for Proxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")?;
        if self.login.is_some() { f.write_str(" with a login") } else { Ok(()) }
    }
}

impl From<io::Error> for Refusal {
    fn from(error: io::Error) -> Self {
        Self::Broken(error.to_string())
    }
}

/// Reads exactly as many bytes as `buffer` holds.
async fn read_exact(stream: &TcpStream, buffer: &mut [u8]) -> io::Result<()> {
    let mut filled = 0;
    while filled < buffer.len() {
        stream.readable().await?;
        match stream.try_read(&mut buffer[filled..]) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

async fn write(stream: &TcpStream, bytes: &[u8]) -> io::Result<()> {
    net::write_all(stream, bytes).await
}

#[cfg(test)]
mod tests;
