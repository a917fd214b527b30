//! The join code: one line that a person carries to a new machine.
//!
//! It pins the authority's key, so that the new machine cannot be lured into another group, and contains a secret, so that
//! the authority admits nobody else. Whoever has the code can join while the invite is open.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use aws_lc_rs::{hkdf, hmac};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::certificate::group_id;
use laneway_wire::id::GroupId;

/// Bytes of version, key, invite, secret and expiry. With the checksum they are 69, exactly 92 characters of base64.
const BODY: usize = 1 + 32 + 8 + 16 + 8;
const LENGTH: usize = BODY + 4;
const VERSION: u8 = 1;
const PREFIX: &str = "lw1.";

/// The content of a join code.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinCode {
    /// The group to join. It is derived from `ca_key` and not part of the text.
    pub group: GroupId,
    /// The raw Ed25519 public key of the group's authority. It is no longer than a hash of it would be, and all that
    /// verification needs.
    pub ca_key: [u8; 32],
    /// The invite's id.
    pub invite: [u8; 8],
    /// The secret that proves the invitation. Never sent.
    pub secret: [u8; 16],
    /// When the invite expires, in seconds since 1970; 0 for never.
    pub expires: u64,
}

/// Why a text is not a join code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodeError {
    /// It does not start like a code.
    #[error("this is not a join code")]
    NotACode,
    /// It starts like a code, but is incomplete or altered.
    #[error("this join code was cut off or mistyped")]
    Damaged,
    /// It has a later format.
    #[error("this join code was made by a newer laneway")]
    Newer,
}

impl CodeError {
    /// What to do about it.
    pub fn hint(self) -> Option<String> {
        Some(match self {
            Self::NotACode => {
                format!("a code starts with {PREFIX}: 'laneway init' or 'laneway invite' prints it")
            }
            Self::Damaged => "copy the whole line that 'laneway init' or 'laneway invite' printed; capital and small letters differ"
                .into(),
            Self::Newer => "update laneway on this machine".into(),
        })
    }
}

impl JoinCode {
    /// The code for an invite of the authority with this key.
    pub fn new(ca_key: [u8; 32], invite: [u8; 8], secret: [u8; 16], expires: u64) -> Self {
        Self { group: group_id(&ca_key), ca_key, invite, secret, expires }
    }

    /// Whether the invite has expired at `now`, a time since 1970. For a joiner this is only a hint, since its clock may be
    /// wrong: the authority decides.
    pub fn expired(&self, now: Duration) -> bool {
        expired(self.expires, now)
    }

    /// The key of the discovery datagrams with which a joiner finds the authority.
    pub fn discovery_key(&self) -> [u8; 32] {
        discovery_key(&self.secret)
    }
}

impl fmt::Display for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::with_capacity(LENGTH);
        bytes.push(VERSION);
        bytes.extend(self.ca_key);
        bytes.extend(self.invite);
        bytes.extend(self.secret);
        bytes.extend(self.expires.to_be_bytes());
        bytes.extend(crc32fast::hash(&bytes).to_be_bytes());
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinCode {
    type Err = CodeError;

    /// Parses a code as people paste it: after the words `laneway join`, before a comment, in quotation marks or brackets, broken
    /// into lines or quoted by a mail program (`>`, and `=` at the ends of lines). The checksum refuses what was changed.
    fn from_str(text: &str) -> Result<Self, CodeError> {
        let before_comment = text.split('#').next().unwrap_or_default();
        let Some((_, rest)) = before_comment.split_once(PREFIX) else {
            let mut words = before_comment.split_whitespace();
            return Err(match words.find(|word| word.starts_with("lw")) {
                Some(word) if is_later_prefix(word) => CodeError::Newer,
                _ if before_comment.to_ascii_lowercase().contains(PREFIX) => CodeError::Damaged,
                _ => CodeError::NotACode,
            });
        };
        let is_part = |c: &char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
        let encoded: String = rest.chars().filter(is_part).collect();
        let bytes = URL_SAFE_NO_PAD.decode(encoded).ok().ok_or(CodeError::Damaged)?;
        let (body, checksum) = bytes.split_last_chunk::<4>().ok_or(CodeError::Damaged)?;
        if crc32fast::hash(body).to_be_bytes() != *checksum {
            return Err(CodeError::Damaged);
        }
        if body.first().is_some_and(|version| *version > VERSION) {
            return Err(CodeError::Newer);
        }
        parse_body(body).ok_or(CodeError::Damaged)
    }
}

impl fmt::Debug for JoinCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinCode")
            .field("group", &self.group)
            .field("expires", &self.expires)
            .finish_non_exhaustive()
    }
}

/// Parses what the checksum covers.
fn parse_body(body: &[u8]) -> Option<JoinCode> {
    let (version, rest) = body.split_first()?;
    let (ca_key, rest) = rest.split_first_chunk()?;
    let (invite, rest) = rest.split_first_chunk()?;
    let (secret, rest) = rest.split_first_chunk()?;
    let (expires, rest) = rest.split_first_chunk()?;
    (*version == VERSION && rest.is_empty())
        .then(|| JoinCode::new(*ca_key, *invite, *secret, u64::from_be_bytes(*expires)))
}

/// Whether the code starts with `lw`, a later version number, and a dot.
fn is_later_prefix(code: &str) -> bool {
    code.strip_prefix("lw")
        .and_then(|rest| rest.split_once('.'))
        .and_then(|(version, _)| version.parse::<u32>().ok())
        .is_some_and(|version| version > u32::from(VERSION))
}

/// Whether `expires` (seconds since 1970, 0 for never) has passed.
pub(super) fn expired(expires: u64, now: Duration) -> bool {
    expires != 0 && now.as_secs() >= expires
}

/// The HMAC key that proves knowledge of the secret in the join protocol.
pub(super) fn proof_key(secret: &[u8; 16]) -> hmac::Key {
    hmac::Key::new(hmac::HMAC_SHA256, &derive(secret, b"proof"))
}

/// The key that authenticates join queries and join offers.
pub(super) fn discovery_key(secret: &[u8; 16]) -> [u8; 32] {
    derive(secret, b"discovery")
}

/// HKDF-SHA256 (RFC 5869): the salt names the protocol, the info names the use.
fn derive(secret: &[u8; 16], purpose: &[u8]) -> [u8; 32] {
    let mut key = [0; 32];
    hkdf::Salt::new(hkdf::HKDF_SHA256, b"laneway join 1")
        .extract(secret)
        .expand(&[purpose], hkdf::HKDF_SHA256)
        .and_then(|output| output.fill(&mut key))
        .expect("HKDF-SHA256 can give 32 bytes");
    key
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn code() -> JoinCode {
        JoinCode::new([7; 32], [8; 8], [9; 16], 1_800_000_000)
    }

    #[test]
    fn a_code_survives_copy_and_paste() {
        let text = code().to_string();
        let (start, end) = text.split_at(40);
        for pasted in [
            format!("  {text}\n"),
            format!("laneway join {text}"),
            format!("$ sudo laneway join {text}\r\n"),
            format!("laneway join {start}\n{end}"),
            format!("laneway join {text}\n# The code is good for one machine, for 24 hours.\n"),
            format!("laneway join {start}\r\n    {end}\r\n"),
            format!("> laneway join {start}\n> {end}\n"),
            format!("laneway join {start}=\r\n{end}"),
            format!("Run \u{201c}laneway join {text}\u{201d}."),
            format!("<{text}>"),
            format!("`{text}`"),
            format!("https://{start}\u{200b}{end}"),
        ] {
            assert_eq!(pasted.parse(), Ok(code()), "{pasted}");
        }
    }

    #[test]
    fn other_texts_are_told_apart() {
        let text = code().to_string();
        for not in ["", "hello", "laneway join", "lw", "lwx.", &text[4..]] {
            assert_eq!(not.parse::<JoinCode>(), Err(CodeError::NotACode), "{not}");
        }
        assert_eq!("lw1.".parse::<JoinCode>(), Err(CodeError::Damaged));
        assert_eq!(text.to_uppercase().parse::<JoinCode>(), Err(CodeError::Damaged));
        assert_eq!(text.to_lowercase().parse::<JoinCode>(), Err(CodeError::Damaged));
        assert_eq!(format!("{text} and more").parse::<JoinCode>(), Err(CodeError::Damaged));
        assert_eq!(text.replace("lw1.", "lw2.").parse::<JoinCode>(), Err(CodeError::Newer));
        let mut later = vec![VERSION + 1; 20];
        later.extend(crc32fast::hash(&later).to_be_bytes());
        let later = format!("lw1.{}", URL_SAFE_NO_PAD.encode(later));
        assert_eq!(later.parse::<JoinCode>(), Err(CodeError::Newer));
    }

    #[test]
    fn debug_keeps_the_secret() {
        let printed = format!("{:?}", JoinCode::new([7; 32], [8; 8], [0xee; 16], 0));
        assert!(
            !printed.contains("238") && !printed.contains("ee, ") && !printed.contains("lw1."),
            "{printed}"
        );
    }

    #[test]
    fn the_keys_differ_by_use_and_by_secret() {
        let keys = [derive(&[1; 16], b"proof"), derive(&[1; 16], b"discovery"), derive(&[2; 16], b"proof")];
        assert!(keys[0] != keys[1] && keys[0] != keys[2]);
        assert_eq!(keys[1], JoinCode::new([0; 32], [0; 8], [1; 16], 0).discovery_key());
    }

    #[test]
    fn never_is_never() {
        let at = Duration::from_secs;
        assert!(!JoinCode::new([0; 32], [0; 8], [0; 16], 0).expired(at(u64::MAX)));
        assert!(!code().expired(at(1_799_999_999)));
        assert!(code().expired(at(1_800_000_000)));
    }

    proptest! {
        #[test]
        fn a_code_reads_back_what_it_prints(ca_key: [u8; 32], invite: [u8; 8], secret: [u8; 16], expires: u64) {
            let code = JoinCode::new(ca_key, invite, secret, expires);
            prop_assert_eq!(code.to_string().parse(), Ok(code));
        }

        #[test]
        fn any_text_is_read_or_refused(text: String, tail in "[A-Za-z0-9_-]{0,120}") {
            let _ = text.parse::<JoinCode>();
            let _ = format!("lw1.{text}").parse::<JoinCode>();
            let _ = format!("lw1.{tail}").parse::<JoinCode>();
        }

        #[test]
        fn a_cut_code_is_refused(secret: [u8; 16], keep in 0_usize..96) {
            let text = JoinCode::new([7; 32], [8; 8], secret, 0).to_string();
            prop_assert_eq!(text.len(), 96);
            prop_assert!(text[..keep].parse::<JoinCode>().is_err());
            prop_assert!(text[96 - keep..].parse::<JoinCode>().is_err());
        }

        #[test]
        fn one_changed_character_is_refused(secret: [u8; 16], at in 0_usize..96, to: char) {
            let text = JoinCode::new([7; 32], [8; 8], secret, 0).to_string();
            let mut changed: Vec<char> = text.chars().collect();
            prop_assume!(changed[at] != to);
            changed[at] = to;
            prop_assert!(changed.into_iter().collect::<String>().parse::<JoinCode>().is_err());
        }

        #[test]
        fn one_changed_digit_of_base64_is_refused(secret: [u8; 16], at in 4_usize..96, to in "[A-Za-z0-9_-]") {
            let mut text = JoinCode::new([7; 32], [8; 8], secret, 0).to_string();
            prop_assume!(text[at..=at] != to);
            text.replace_range(at..=at, &to);
            prop_assert_eq!(text.parse::<JoinCode>(), Err(CodeError::Damaged));
        }
    }
}
