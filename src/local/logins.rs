//! The logins of apps, where the local port requires one: SOCKS5 (RFC 1929) and HTTP Basic (RFC 7617).

use std::fmt;
use std::io;
use std::path::Path;
use std::str::FromStr;
use std::sync::{Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use aws_lc_rs::constant_time::verify_slices_are_equal;
use aws_lc_rs::hmac::{HMAC_SHA256, Key, Tag, sign};
use aws_lc_rs::rand::SystemRandom;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::endpoint::LoginSource;
use crate::limited;
use crate::limits::rate::{PerSource, Rate};
use crate::problem::Problem;
use crate::sys::state::{StateError, quoted, read_private};

/// Maximum length of a name and of a password, in bytes (RFC 1929 §2).
const LONGEST: usize = 255;
/// Wrong logins of one source: ten at once, and one more every 6 s.
const WRONG: Rate = Rate::new(10, Duration::from_secs(6));

/// A name and its password, as typed: `NAME:PASSWORD`.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    name: String,
    password: String,
}

/// The text is not a login.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("a login is written NAME:PASSWORD, each of 1 to {LONGEST} bytes")]
pub struct NotALogin;

/// A file of logins that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read, or others can read it.
    #[error(transparent)]
    State(#[from] StateError),
    /// A line is not a login.
    #[error("line {0} is not a login")]
    Line(usize, #[source] NotALogin),
}

/// The accepted logins, and a limit on wrong ones for each source.
pub struct Logins {
    key: Key,
    /// Logins are compared by their MACs, in constant time.
    accepted: RwLock<Vec<Tag>>,
    wrong: Mutex<PerSource<LoginSource>>,
}

impl Login {
    /// Reads the logins in a file: one per line; empty lines and lines that begin with `#` are ignored.
    ///
    /// # Errors
    /// [`FileError`], also when users other than the file's owner can read it.
    pub fn read(path: &Path) -> Result<Vec<Self>, FileError> {
        let text = String::from_utf8_lossy(&read_private(path)?).into_owned();
        let lines = text.lines().enumerate().filter(|(_, line)| !line.is_empty() && !line.starts_with('#'));
        lines.map(|(at, line)| line.parse().map_err(|error| FileError::Line(at + 1, error))).collect()
    }
}

impl Login {
    /// The credentials of HTTP's Basic scheme (RFC 7617 §2).
    pub fn basic(&self) -> String {
        STANDARD.encode(format!("{}:{}", self.name, self.password))
    }
}

impl FromStr for Login {
    type Err = NotALogin;

    fn from_str(text: &str) -> Result<Self, NotALogin> {
        let (name, password) = text.split_once(':').ok_or(NotALogin)?;
        let fits = |part: &str| (1..=LONGEST).contains(&part.len());
        let login = Self { name: name.to_owned(), password: password.to_owned() };
        if fits(name) && fits(password) { Ok(login) } else { Err(NotALogin) }
    }
}

/// Shows the name only.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Login({:?})", self.name)
    }
}

impl Logins {
    /// Accepts `logins`; if there are none, apps need no login.
    ///
    /// # Errors
    /// When the system gives no random numbers.
    pub fn new(logins: &[Login]) -> Result<Self, aws_lc_rs::error::Unspecified> {
        let key = Key::generate(HMAC_SHA256, &SystemRandom::new())?;
        let made = Self { key, accepted: RwLock::default(), wrong: Mutex::new(PerSource::new(WRONG)) };
        made.change(logins);
        Ok(made)
    }

    /// Accepts these logins from now on. Open connections are not affected.
    pub fn change(&self, logins: &[Login]) {
        let tags = logins.iter().map(|login| self.tag(login.name.as_bytes(), login.password.as_bytes()));
        *self.accepted.write().unwrap_or_else(PoisonError::into_inner) = tags.collect();
    }

    /// Whether apps must log in.
    pub fn are_needed(&self) -> bool {
        !self.accepted.read().unwrap_or_else(PoisonError::into_inner).is_empty()
    }

    /// Whether an app of `source` may use the port with this login. After too many wrong logins a source is refused for some
    /// time, whatever it sends: passwords can be guessed. Other users of the same machine are other sources.
    pub fn admit(&self, source: LoginSource, name: &[u8], password: &[u8]) -> bool {
        let mut wrong = self.wrong.lock().unwrap_or_else(PoisonError::into_inner);
        if !wrong.take(source, Instant::now()) {
            return false;
        }
        let tag = self.tag(name, password);
        let accepted = self.accepted.read().unwrap_or_else(PoisonError::into_inner);
        let equal = |other: &Tag| verify_slices_are_equal(other.as_ref(), tag.as_ref()).is_ok();
        // Compared with all of them, so that the time does not depend on which one matches.
        let is_right = accepted.iter().fold(false, |right, other| right | equal(other));
        if is_right {
            wrong.give_back(source);
        } else {
            limited!(warn, source, ?source, "wrong login for the local proxy");
        }
        is_right
    }

    /// As `admit`, for the value of a Proxy-Authorization field (RFC 7617 §2). A missing field is not a wrong login.
    pub fn admit_basic(&self, source: LoginSource, field: Option<&[u8]>) -> bool {
        let Some((name, password)) = field.and_then(basic) else { return false };
        self.admit(source, &name, &password)
    }

    /// The length of the name comes first, so that no two pairs have the same text.
    fn tag(&self, name: &[u8], password: &[u8]) -> Tag {
        sign(&self.key, &[&name.len().to_be_bytes()[..], name, password].concat())
    }
}

/// Name and password from `Basic` and the base64 of `name:password`.
fn basic(field: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let (scheme, text) = field.split_at_checked(6)?;
    if !scheme.eq_ignore_ascii_case(b"basic ") {
        return None;
    }
    let pair = STANDARD.decode(text.trim_ascii()).ok()?;
    let colon = pair.iter().position(|byte| *byte == b':')?;
    Some((pair[..colon].to_vec(), pair[colon + 1..].to_vec()))
}

impl From<FileError> for Problem {
    fn from(error: FileError) -> Self {
        let problem = Self::usage("the logins of --proxy-logins cannot be used");
        match error {
            FileError::State(error) => {
                let hint = match &error {
                    StateError::Io { path, source, .. } if source.kind() == io::ErrorKind::NotFound => {
                        format!(
                            "write the logins there, one NAME:PASSWORD on each line, and 'chmod 600 {}'; or correct --proxy-logins",
                            quoted(path)
                        )
                    }
                    StateError::Io { .. } => "--proxy-logins names a file that this user can read".into(),
                    error => error.hint().unwrap_or_default(),
                };
                problem.because(error).hint(hint)
            }
            error @ FileError::Line(..) => problem
                .because(error)
                .hint("write one NAME:PASSWORD on each line; a line that begins with # is a comment"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const HERE: LoginSource = LoginSource::User(1000);

    fn logins(texts: &[&str]) -> Logins {
        let logins: Vec<Login> = texts.iter().map(|text| text.parse().unwrap()).collect();
        Logins::new(&logins).unwrap()
    }

    #[test]
    fn only_the_whole_of_a_login_is_right() {
        let logins = logins(&["ann:secret", "bob:se:cret"]);
        assert!(logins.are_needed());
        for (name, password, right) in [
            ("ann", "secret", true),
            ("bob", "se:cret", true),
            ("ann", "se:cret", false),
            ("annsecret", "", false),
            ("an", "nsecret", false),
            ("", "", false),
        ] {
            assert_eq!(logins.admit(HERE, name.as_bytes(), password.as_bytes()), right, "{name} {password}");
        }
        assert!(logins.admit_basic(HERE, Some(b"Basic YW5uOnNlY3JldA==")));
        assert!(logins.admit_basic(HERE, Some(b"basic  Ym9iOnNlOmNyZXQ=")));
        for field in
            [&b"Basic YW5uOnNlY3JlVA=="[..], b"Bearer YW5uOnNlY3JldA==", b"Basic YW5u", b"Basic", b""]
        {
            assert!(!logins.admit_basic(HERE, Some(field)), "{}", field.escape_ascii());
        }
        logins.change(&[]);
        assert!(!logins.are_needed());
    }

    #[test]
    fn a_source_that_is_wrong_too_often_is_refused_even_when_it_is_right_and_others_are_not() {
        let logins = logins(&["ann:secret"]);
        let other = LoginSource::User(1001);
        let elsewhere = LoginSource::Network([192, 0, 2, 1].into());
        for _ in 0..100 {
            assert!(logins.admit(other, b"ann", b"secret"), "right logins are not counted");
        }
        for _ in 0..WRONG.burst {
            assert!(!logins.admit(HERE, b"ann", b"guess"));
        }
        assert!(!logins.admit(HERE, b"ann", b"secret"));
        assert!(logins.admit(other, b"ann", b"secret"), "one user locks out another");
        assert!(logins.admit(elsewhere, b"ann", b"secret"));
    }

    #[test]
    fn a_file_is_read_line_by_line_and_only_if_it_is_private() {
        use std::os::unix::fs::PermissionsExt as _;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("logins");
        let write = |text: &str, mode: u32| {
            std::fs::write(&path, text).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).unwrap();
        };
        write("# for the lab\n\nann:secret\nbob:b:c \n", 0o600);
        let read = Login::read(&path).unwrap();
        assert_eq!(read, ["ann:secret".parse().unwrap(), "bob:b:c ".parse().unwrap()]);
        write("ann:secret\nbob\n", 0o600);
        assert!(matches!(Login::read(&path), Err(FileError::Line(2, NotALogin))));
        write("ann:secret\n", 0o640);
        let error = Login::read(&path).unwrap_err();
        assert!(error.to_string().contains("open to other users"), "{error}");
    }

    #[test]
    fn a_password_is_never_shown() {
        let login: Login = "ann:secret".parse().unwrap();
        assert_eq!(format!("{login:?}"), "Login(\"ann\")");
        for text in ["ann", ":secret", "ann:", &format!("ann:{}", "x".repeat(256))] {
            assert_eq!(text.parse::<Login>(), Err(NotALogin));
        }
    }

    proptest! {
        #[test]
        fn any_field_is_read_or_refused(field: Vec<u8>) {
            prop_assert!(!logins(&["ann:secret"]).admit_basic(HERE, Some(&field)));
            let basic = [b"Basic ", STANDARD.encode(&field).as_bytes()].concat();
            prop_assert!(!logins(&["ann:secret"]).admit_basic(HERE, Some(&basic)));
        }

        #[test]
        fn a_login_that_can_be_written_is_taken_from_its_field_and_another_is_not(name in "[^:]{1,60}", password in ".{1,60}") {
            let text = format!("{name}:{password}");
            let (one, field) = (logins(&[&text]), |text: &str| format!("Basic {}", STANDARD.encode(text)));
            prop_assert!(one.admit_basic(HERE, Some(field(&text).as_bytes())));
            let longer = field(&format!("{text}x"));
            prop_assert!(!one.admit_basic(HERE, Some(longer.as_bytes())));
        }
    }
}
