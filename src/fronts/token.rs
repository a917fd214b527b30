//! Anonymous tokens of OCI registries: many give public images only to those who first ask for a token, which anybody gets.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::url::Url;

/// The life of a token whose answer names none (the specification of the token endpoint).
const DEFAULT_LIFE: Duration = Duration::from_secs(60);
/// How much earlier a token is renewed.
const RESERVE: Duration = Duration::from_secs(10);
/// The longest life that is believed.
const LONGEST_LIFE: Duration = Duration::from_secs(3600);
/// Maximum number of tokens.
const MOST: usize = 256;
/// The longest token, in bytes.
const LONGEST: usize = 16 * 1024;

/// A demand for a token (RFC 6750 §3).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Challenge {
    /// Where the token is asked for.
    pub realm: Url,
    /// With these parameters.
    pub query: Vec<(&'static str, String)>,
}

/// The tokens that are valid, by what they are for.
#[derive(Debug, Default)]
pub struct Tokens(Mutex<HashMap<String, (String, Instant)>>);

impl Challenge {
    /// Reads the value of a WWW-Authenticate field.
    #[must_use]
    pub fn parse(value: &[u8]) -> Option<Self> {
        let value = str::from_utf8(value).ok()?;
        let (scheme, rest) = value.split_once(' ')?;
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let parameter = |name: &str| {
            parameters(rest)
                .into_iter()
                .find_map(|(found, value)| found.eq_ignore_ascii_case(name).then_some(value))
        };
        let realm = Url::parse(&parameter("realm")?)?;
        let query = ["service", "scope"].into_iter().filter_map(|name| Some((name, parameter(name)?)));
        Some(Self { realm, query: query.collect() })
    }

    /// Where the token is.
    #[must_use]
    pub fn url(&self) -> Url {
        let mut path = self.realm.path.clone();
        for (name, value) in &self.query {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(&format!("{name}={}", encoded(value)));
        }
        Url { path, ..self.realm.clone() }
    }
}

/// The parameters `name="value"`, separated by commas.
fn parameters(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let name = name.trim_matches([' ', ',', '\t']).to_owned();
        let (value, next) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        found.push((name, value.trim().to_owned()));
        rest = next;
    }
    found
}

fn encoded(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~:/,@".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

impl Tokens {
    /// The token for this.
    #[must_use]
    pub fn get(&self, what: &str) -> Option<String> {
        let tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(what).filter(|(_, until)| Instant::now() < *until).map(|(token, _)| token.clone())
    }

    /// Forgets the token for this.
    pub fn forget(&self, what: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(what);
    }

    /// Reads the answer with a token for this, and returns it.
    pub fn take(&self, what: &str, answer: &[u8]) -> Option<String> {
        let answer: serde_json::Value = serde_json::from_slice(answer).ok()?;
        let token = answer.get("token").or_else(|| answer.get("access_token"))?.as_str()?;
        if token.is_empty() || token.len() > LONGEST || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let life = answer.get("expires_in").and_then(serde_json::Value::as_u64).map(Duration::from_secs);
        let life = life.unwrap_or(DEFAULT_LIFE).min(LONGEST_LIFE).saturating_sub(RESERVE);
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        tokens.retain(|_, (_, until)| now < *until);
        if tokens.len() < MOST {
            tokens.insert(what.to_owned(), (token.to_owned(), now + life));
        }
        Some(token.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_challenge_says_where_the_token_is() {
        let challenge = Challenge::parse(
            b"Bearer realm=\"https://auth.example/token\",service=\"images.example\",scope=\"repository:a/b:pull\"",
        );
        let url = "https://auth.example/token?service=images.example&scope=repository:a/b:pull";
        assert_eq!(challenge.unwrap().url().to_string(), url);
        for value in
            ["Basic realm=\"x\"", "Bearer", "Bearer realm=\"x\"", "Bearer service=\"x\"", "Bearer realm="]
        {
            assert_eq!(Challenge::parse(value.as_bytes()), None, "{value}");
        }
    }

    #[test]
    fn a_token_is_kept_for_its_life() {
        let tokens = Tokens::default();
        assert_eq!(tokens.take("a", br#"{"token":"t","expires_in":300}"#).as_deref(), Some("t"));
        assert_eq!(tokens.take("b", br#"{"access_token":"u","expires_in":1}"#).as_deref(), Some("u"));
        assert_eq!((tokens.get("a").as_deref(), tokens.get("b")), (Some("t"), None));
        for answer in [&b"{}"[..], b"x", br#"{"token":""}"#, br#"{"token":"a b"}"#] {
            assert_eq!(tokens.take("c", answer), None);
        }
    }
}
