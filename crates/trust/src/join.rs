//! How a machine with a join code becomes a member: one request and one response over TLS.
//!
//! TLS has already proved to the joiner that the other end belongs to the code's group. The joiner then proves two things
//! about one statement, which names this TLS session, the invite, its public key and its name: with an HMAC by the invite's
//! secret that it was invited, and with a signature by the private key that the public key is its own. Neither the secret nor
//! the private key is sent, and what is relayed is wrong in any other session.
//!
//! Each message is a length (u32, big-endian) and that many bytes of JSON.

use std::io;
use std::time::Duration;

use aws_lc_rs::{hmac, signature};
use rcgen::{KeyPair, SigningKey as _};
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tracing::warn;

use super::authority::Authority;
use super::base64::Base64;
use super::certificate::{self, CertificateError, Role};
use super::code::{self, JoinCode};
use super::error::{GroupError, InviteError};
use super::files::{JOIN_KEY, damaged, try_read_pem, write_pem};
use super::group::{Group, Welcome};
use super::name::{self, WantedName};
use super::update::{MAX_CRL, UpdateError};
use super::weak_key;
use laneway_sys::blocking;
use laneway_sys::state::StateDir;
use laneway_wire::failure::printable;
use laneway_wire::id::NodeId;

/// The label of the TLS exporter (RFC 8446 §7.5, no context, 32 bytes) that binds a proof to its session.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-laneway-join-1";

/// The start of what a joiner signs with its key. What TLS signs with the same key starts with 64 spaces (RFC 8446 §4.4.3), so
/// neither can be taken for the other.
const POSSESSION_LABEL: &[u8] = b"laneway join possession 1";

/// Maximum size of a request, in bytes. Anybody may send one.
const MAX_REQUEST: usize = 4 * 1024;

/// Maximum size of a response, in bytes: the largest revocation list fits as base64 text.
const MAX_RESPONSE: usize = MAX_CRL / 3 * 4 + 16 * 1024;

/// The deadline for sending or receiving one message.
const MESSAGE_DEADLINE: Duration = Duration::from_secs(10);

/// Maximum delay of a refusal. The joiner still waits for it.
pub const MAX_DELAY: Duration = Duration::from_secs(5);

/// Why a machine was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The connection failed.
    #[error("the connection failed while joining")]
    Io(#[from] io::Error),
    /// The other side did not answer in time.
    #[error("no answer for {} s while joining", MESSAGE_DEADLINE.as_secs())]
    TimedOut,
    /// A message exceeds the size limit.
    #[error("a message of {0} bytes is too long for the join protocol")]
    TooLong(usize),
    /// The other side speaks another protocol, or a later version.
    #[error("the other side does not speak this join protocol")]
    Malformed(#[source] Unreadable),
    /// The authority refused. On the authority itself: what it answered.
    #[error(transparent)]
    Refused(InviteError),
    /// The response does not match the join code, or the joiner's own key cannot sign.
    #[error("the response is not a valid membership of the group that the join code names")]
    Untrusted(#[from] CertificateError),
    /// The group state in the response is not signed by the authority.
    #[error("the response is not a valid membership of the group that the join code names")]
    Unsigned(#[from] UpdateError),
    /// The authority could not admit the member.
    #[error("cannot admit a member")]
    Authority(#[source] GroupError),
    /// The process is shutting down.
    #[error("stopped while admitting a member")]
    Stopped,
}

/// Why a message cannot be read, in printable ASCII: it repeats words of the other side.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(String);

impl From<serde_json::Error> for JoinError {
    fn from(error: serde_json::Error) -> Self {
        Self::Malformed(Unreadable(printable(&error.to_string())))
    }
}

impl JoinError {
    /// What the joiner's user can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused(refusal) => refusal.hint(),
            Self::Authority(error) => return error.hint(),
            Self::Io(_) | Self::TimedOut | Self::Stopped => {
                "check that 'laneway up' runs on the machine that made the code, and try again".into()
            }
            Self::TooLong(_) | Self::Malformed(_) => {
                "use the same version of laneway on both machines".into()
            }
            Self::Untrusted(_) | Self::Unsigned(_) => {
                "run 'laneway invite' on the machine with the group's key, and use the command that it prints"
                    .into()
            }
        })
    }
}

/// A member that was just admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The node's id.
    pub id: NodeId,
    /// Its name in the group.
    pub name: String,
    /// What its certificate permits.
    pub role: Role,
}

/// The private key of a machine that asks to be admitted.
pub struct JoinKey(KeyPair);

impl JoinKey {
    /// A new key for one attempt, which is not saved.
    ///
    /// # Errors
    /// When it cannot be generated.
    pub fn temporary() -> Result<Self, CertificateError> {
        Ok(Self(certificate::new_key()?))
    }

    /// The saved key of an earlier attempt that was not answered, else a new one, which is saved until there is an answer:
    /// by this key the authority recognises a machine that asks again.
    ///
    /// # Errors
    /// When it cannot be read or saved.
    pub fn saved_in(state: &StateDir) -> Result<Self, GroupError> {
        let saved: Option<PrivatePkcs8KeyDer<'static>> = try_read_pem(state, JOIN_KEY)?;
        if let Some(key) = saved {
            return Ok(Self(certificate::read_key(&key).map_err(damaged(state, JOIN_KEY))?));
        }
        let key = certificate::new_key()?;
        write_pem(state, JOIN_KEY, "PRIVATE KEY", key.serialized_der())?;
        Ok(Self(key))
    }
}

/// Asks to be admitted under `name`. The response is verified but not saved.
///
/// # Errors
/// When the authority refuses, does not answer, or its response is not valid.
pub async fn request<S>(
    stream: &mut S,
    exporter: &[u8; 32],
    code: &JoinCode,
    name: &WantedName,
    JoinKey(key): JoinKey,
) -> Result<Group, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let public_key = certificate::raw_public_key(&key);
    let statement = Statement::new(exporter, &code.invite, &public_key, name);
    let request = Request {
        invite: Base64(code.invite),
        public_key: Base64(public_key),
        name: name.name().to_owned(),
        chosen: name.is_chosen(),
        proof: statement.proof(&code::proof_key(&code.secret)),
        possession: statement.possession(&key)?,
    };
    send(stream, &request).await?;
    match receive(stream, MAX_RESPONSE).await? {
        Answer::Welcome(welcome) => {
            let Welcome { mut membership, update } = *welcome;
            membership.group_name = printable(&membership.group_name);
            membership.node_name = name::shown(&membership.node_name);
            Ok(Group::assemble(membership, update.open(&code.ca_key)?, key, &code.ca_key)?)
        }
        Answer::Refused(refusal) => Err(JoinError::Refused(refusal)),
    }
}

/// Answers one joiner: admits it if its invite is open and its proofs are right.
///
/// # Errors
/// [`JoinError::Refused`] with the answer, or another reason why it was not admitted.
pub async fn serve<S>(
    stream: &mut S,
    exporter: &[u8; 32],
    authority: &Authority,
) -> Result<Enrolled, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    serve_in_turn(stream, exporter, authority, (&Semaphore::new(1), || Duration::ZERO)).await
}

/// As [`serve`], for one of many joiners at a time, which are admitted in `turns`: each admission occupies a thread until it is
/// on the disk, and one that waits for its turn holds none. A joiner that does not know the secret gets its answer only after a
/// delay of at most [`MAX_DELAY`]. Everybody else is answered at once.
///
/// # Errors
/// As [`serve`].
pub async fn serve_in_turn<S>(
    stream: &mut S,
    exporter: &[u8; 32],
    authority: &Authority,
    (turns, delay): (&Semaphore, impl FnOnce() -> Duration),
) -> Result<Enrolled, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request: Request = receive(stream, MAX_REQUEST).await?;
    let (authority, exporter) = (authority.clone(), *exporter);
    let turn = timeout(MESSAGE_DEADLINE, turns.acquire()).await.ok().ok_or(JoinError::TimedOut)?;
    // Locking and syncing files blocks, so it runs on a blocking thread.
    let admitted = blocking::run_with_state(move || admit(&authority, &exporter, request)).await;
    drop(turn);
    let (answer, outcome) = match admitted {
        Ok(Ok((welcome, enrolled))) => (Answer::Welcome(Box::new(welcome)), Ok(enrolled)),
        Ok(Err(GroupError::Refused(refusal))) => {
            (Answer::Refused(refusal.clone()), Err(JoinError::Refused(refusal)))
        }
        Ok(Err(error)) => (Answer::Refused(InviteError::Unrecorded), Err(JoinError::Authority(error))),
        Err(stopped) => {
            warn!(error = %stopped, "admitting a member did not finish");
            (Answer::Refused(InviteError::Unrecorded), Err(JoinError::Stopped))
        }
    };
    if let Err(JoinError::Refused(InviteError::WrongProof | InviteError::UnknownInvite)) = outcome {
        tokio::time::sleep(delay().min(MAX_DELAY)).await;
    }
    // A refusal that cannot be delivered is still a refusal.
    let sent = send(stream, &answer).await;
    let enrolled = outcome?;
    sent?;
    Ok(enrolled)
}

#[derive(Serialize, Deserialize)]
struct Request {
    invite: Base64<[u8; 8]>,
    public_key: Base64<[u8; 32]>,
    name: String,
    /// Whether a person chose the name.
    chosen: bool,
    /// The HMAC by the invite's secret.
    proof: Base64<Vec<u8>>,
    /// The signature by the key to register.
    possession: Base64<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Welcome(Box<Welcome>),
    Refused(InviteError),
}

/// What the joiner proves and signs.
struct Statement(Vec<u8>);

impl Statement {
    /// Every part has a fixed length except the last, so no two requests have the same statement.
    fn new(exporter: &[u8; 32], invite: &[u8; 8], public_key: &[u8; 32], name: &WantedName) -> Self {
        let chosen = [u8::from(name.is_chosen())];
        Self([&exporter[..], invite, public_key, &chosen, name.name().as_bytes()].concat())
    }

    /// Proves that the joiner knows the invite's secret.
    fn proof(&self, key: &hmac::Key) -> Base64<Vec<u8>> {
        Base64(hmac::sign(key, &self.0).as_ref().to_vec())
    }

    /// Whether the proof is right; compares in constant time.
    fn is_proved_by(&self, key: &hmac::Key, proof: &[u8]) -> bool {
        hmac::verify(key, &self.0, proof).is_ok()
    }

    /// Proves that the joiner holds the private key.
    fn possession(&self, key: &KeyPair) -> Result<Base64<Vec<u8>>, CertificateError> {
        key.sign(&[POSSESSION_LABEL, &self.0].concat()).map(Base64).map_err(CertificateError::Sign)
    }

    /// Whether the holder of the private key signed this, and there is one.
    fn is_signed_by(&self, public_key: &[u8; 32], possession: &[u8]) -> bool {
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, public_key);
        !weak_key::is_weak(public_key)
            && key.verify(&[POSSESSION_LABEL, &self.0].concat(), possession).is_ok()
    }
}

/// Checks a request and admits the machine.
fn admit(
    authority: &Authority,
    exporter: &[u8; 32],
    request: Request,
) -> Result<(Welcome, Enrolled), GroupError> {
    let (Base64(id), Base64(public_key)) = (request.invite, request.public_key);
    let wanted = match request.chosen {
        true => WantedName::Chosen(request.name),
        false => WantedName::Suggested(request.name),
    };
    let statement = Statement::new(exporter, &id, &public_key, &wanted);
    let invite = authority.invite_by_id(&id)?;
    if !statement.is_proved_by(&invite.proof_key(), &request.proof.0) {
        return Err(InviteError::WrongProof.into());
    }
    if !statement.is_signed_by(&public_key, &request.possession.0) {
        return Err(InviteError::NotItsKey.into());
    }
    let (welcome, role) = authority.admit(&id, &public_key, &wanted)?;
    let name = welcome.membership.node_name.clone();
    Ok((welcome, Enrolled { id: certificate::node_id(&public_key), name, role }))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &impl Serialize) -> Result<(), JoinError> {
    let mut frame = vec![0; 4];
    serde_json::to_writer(&mut frame, message)?;
    let json = frame.len() - 4;
    let length = u32::try_from(json).ok().filter(|_| json <= MAX_RESPONSE);
    frame[..4].copy_from_slice(&length.ok_or(JoinError::TooLong(json))?.to_be_bytes());
    let sending = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    Ok(timeout(MESSAGE_DEADLINE, sending).await.ok().ok_or(JoinError::TimedOut)??)
}

async fn receive<S, T>(stream: &mut S, longest: usize) -> Result<T, JoinError>
where
    S: AsyncRead + Unpin,
    T: for<'de> Deserialize<'de>,
{
    let receiving = async {
        let length = usize::try_from(stream.read_u32().await?).unwrap_or(usize::MAX);
        if length > longest {
            return Err(JoinError::TooLong(length));
        }
        let mut json = vec![0; length];
        stream.read_exact(&mut json).await?;
        Ok(serde_json::from_slice(&json)?)
    };
    timeout(MESSAGE_DEADLINE, receiving).await.ok().ok_or(JoinError::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::authority::Uses;
    use crate::group;
    use proptest::prelude::*;
    use std::sync::LazyLock;
    use tokio::io::duplex;

    const SESSION: [u8; 32] = [1; 32];

    struct Lab {
        _directory: tempfile::TempDir,
        state: StateDir,
        authority: Authority,
        group: Group,
    }

    /// The name that a machine derived from its host name.
    fn laptop() -> &'static WantedName {
        static LAPTOP: LazyLock<WantedName> = LazyLock::new(|| WantedName::Suggested("laptop".into()));
        &LAPTOP
    }

    fn lab() -> Lab {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let group = Authority::create(&state, "office", "first").unwrap();
        let authority = Authority::load(&state).unwrap().unwrap();
        Lab { _directory: directory, state, authority, group }
    }

    impl Lab {
        fn invite(&self, uses: Uses) -> JoinCode {
            self.authority.invite(Role::Gateway, uses, Some(Duration::from_secs(60)), None).unwrap()
        }

        async fn join(&self, code: &JoinCode) -> (Result<Group, JoinError>, Result<Enrolled, JoinError>) {
            self.join_in_sessions(code, SESSION, SESSION).await
        }

        async fn join_in_sessions(
            &self,
            code: &JoinCode,
            ours: [u8; 32],
            theirs: [u8; 32],
        ) -> (Result<Group, JoinError>, Result<Enrolled, JoinError>) {
            let (mut joiner, mut signer) = duplex(512);
            tokio::join!(
                request(&mut joiner, &ours, code, laptop(), JoinKey::temporary().unwrap()),
                serve(&mut signer, &theirs, &self.authority)
            )
        }

        /// Both sides agree that it was refused for this reason.
        async fn assert_refused(&self, code: &JoinCode, expected: InviteError) {
            let (joiner, signer) = self.join(code).await;
            assert!(matches!(&joiner, Err(JoinError::Refused(reason)) if *reason == expected), "{joiner:?}");
            assert!(matches!(&signer, Err(JoinError::Refused(reason)) if *reason == expected), "{signer:?}");
        }
    }

    #[tokio::test]
    async fn an_invited_machine_becomes_a_member_and_stays_one() {
        let lab = lab();
        let (joined, enrolled) = lab.join(&lab.invite(Uses::Times(1))).await;
        let (joined, enrolled) = (joined.unwrap(), enrolled.unwrap());
        assert_eq!((joined.id, joined.name.as_str()), (lab.group.id, "office"));
        assert_eq!(joined.update, lab.group.update);
        assert_eq!(enrolled, Enrolled { id: joined.node.id, name: "laptop".into(), role: Role::Gateway });
        assert_eq!((joined.node.name.as_str(), joined.node.role), ("laptop", Role::Gateway));

        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path().join("state")).unwrap();
        group::remember_membership(&state, &joined).unwrap();
        let loaded = Group::load(&state).unwrap().unwrap();
        assert_eq!((loaded.node, loaded.chain), (joined.node, joined.chain));
        assert!(Authority::load(&state).unwrap().is_none());
    }

    #[tokio::test]
    async fn the_invite_decides_role_and_name() {
        let lab = lab();
        let code = lab.authority.invite(Role::Client, Uses::Times(1), None, Some("kiosk".into())).unwrap();
        let joined = lab.join(&code).await.0.unwrap();
        assert_eq!((joined.node.name.as_str(), joined.node.role), ("kiosk", Role::Client));
    }

    #[tokio::test]
    async fn a_used_up_invite_is_refused() {
        let lab = lab();
        let code = lab.invite(Uses::Times(1));
        lab.join(&code).await.0.unwrap();
        lab.assert_refused(&code, InviteError::UsedUp).await;
        assert_eq!(lab.authority.members().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_machine_whose_answer_was_lost_joins_by_the_same_single_use_code() {
        let lab = lab();
        let code = lab.invite(Uses::Times(1));
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path().join("state")).unwrap();
        let (mut joiner, mut signer) = duplex(64 * 1024);
        let asking = request(&mut joiner, &SESSION, &code, laptop(), JoinKey::saved_in(&state).unwrap());
        let losing = async {
            serve(&mut signer, &SESSION, &lab.authority).await.unwrap();
        };
        // The answer was given, and is never read.
        tokio::select! {
            biased;
            () = losing => {}
            outcome = asking => panic!("{outcome:?}"),
        }
        let (mut joiner, mut signer) = duplex(512);
        let (joined, _) = tokio::join!(
            request(&mut joiner, &SESSION, &code, laptop(), JoinKey::saved_in(&state).unwrap()),
            serve(&mut signer, &SESSION, &lab.authority),
        );
        group::remember_membership(&state, &joined.unwrap()).unwrap();
        assert_eq!(lab.authority.members().unwrap().len(), 2);
        assert_eq!(state.read(JOIN_KEY).unwrap(), None);
        // To anybody else the code is used up.
        lab.assert_refused(&code, InviteError::UsedUp).await;
    }

    #[tokio::test]
    async fn a_member_of_a_group_with_thousands_of_revocations_can_join() {
        let lab = lab();
        let many = (0..12_000_u128).map(|number| NodeId((number << 100 | 1 << 127).to_be_bytes())).collect();
        lab.authority.merge_revocations(&many, true).unwrap();
        let joined = lab.join(&lab.invite(Uses::Any)).await.0.unwrap();
        assert_eq!(joined.update.revoked().len(), 12_000);
    }

    #[tokio::test]
    async fn an_expired_or_unknown_invite_is_refused() {
        let lab = lab();
        let code = lab.authority.invite(Role::Client, Uses::Any, Some(Duration::ZERO), None).unwrap();
        lab.assert_refused(&code, InviteError::Expired).await;
        let unknown = JoinCode { invite: [0; 8], ..lab.invite(Uses::Any) };
        lab.assert_refused(&unknown, InviteError::UnknownInvite).await;
    }

    #[tokio::test]
    async fn wrong_secrets_are_refused_and_never_lock_a_code() {
        let lab = lab();
        let code = lab.invite(Uses::Times(1));
        let wrong = JoinCode { secret: [0; 16], ..code.clone() };
        let before = lab.state.read("invites.json").unwrap();
        for _ in 0..100 {
            lab.assert_refused(&wrong, InviteError::WrongProof).await;
        }
        assert_eq!(lab.state.read("invites.json").unwrap(), before, "a stranger made the authority write");
        lab.join(&code).await.0.unwrap();
    }

    #[tokio::test]
    async fn only_the_refusal_of_a_wrong_secret_is_delayed() {
        let lab = lab();
        let code = lab.invite(Uses::Any);
        for (secret, is_delayed) in [([0; 16], true), (code.secret, false)] {
            let code = JoinCode { secret, ..code.clone() };
            let (mut joiner, mut signer) = duplex(4096);
            let start = tokio::time::Instant::now();
            let (turns, asked) = (Semaphore::new(1), std::cell::Cell::new(false));
            let delay = || {
                asked.set(true);
                // Nothing waits for a thread from here on.
                tokio::time::pause();
                Duration::from_secs(3600)
            };
            let _ = tokio::join!(
                request(&mut joiner, &SESSION, &code, laptop(), JoinKey::temporary().unwrap()),
                serve_in_turn(&mut signer, &SESSION, &lab.authority, (&turns, delay)),
            );
            assert_eq!(asked.get(), is_delayed);
            if is_delayed {
                assert!(start.elapsed() >= MAX_DELAY);
                tokio::time::resume();
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_a_turn_is_not_admitted_before_it_and_given_up_without_one() {
        let lab = lab();
        let code = lab.invite(Uses::Any);
        let (turns, code) = (Semaphore::new(0), &code);
        let ask = async || {
            let (mut joiner, mut signer) = duplex(4096);
            let key = JoinKey::temporary().unwrap();
            let joining = async move { request(&mut joiner, &SESSION, code, laptop(), key).await };
            tokio::join!(
                joining,
                serve_in_turn(&mut signer, &SESSION, &lab.authority, (&turns, || Duration::ZERO))
            )
        };
        assert!(matches!(ask().await, (Err(_), Err(JoinError::TimedOut))));
        assert_eq!(lab.authority.members().unwrap().len(), 1);
        turns.add_permits(1);
        // A thread admits it.
        tokio::time::resume();
        assert!(matches!(ask().await, (Ok(_), Ok(_))));
        assert_eq!(turns.available_permits(), 1);
    }

    #[tokio::test]
    async fn a_proof_relayed_into_another_session_is_refused() {
        let lab = lab();
        let (joiner, signer) = lab.join_in_sessions(&lab.invite(Uses::Any), SESSION, [2; 32]).await;
        assert!(matches!(joiner, Err(JoinError::Refused(InviteError::WrongProof))));
        assert!(matches!(signer, Err(JoinError::Refused(InviteError::WrongProof))));
        assert_eq!(lab.authority.members().unwrap().len(), 1);
    }

    /// A request that is right in everything, of the machine with this key.
    fn right_request(code: &JoinCode, key: &KeyPair, name: &WantedName) -> Request {
        let public_key = certificate::raw_public_key(key);
        let statement = Statement::new(&SESSION, &code.invite, &public_key, name);
        Request {
            invite: Base64(code.invite),
            public_key: Base64(public_key),
            name: name.name().into(),
            chosen: name.is_chosen(),
            proof: statement.proof(&code::proof_key(&code.secret)),
            possession: statement.possession(key).unwrap(),
        }
    }

    /// Such a request with the signature of another key.
    fn request_for_anothers_key(code: &JoinCode, theirs: [u8; 32], own: &KeyPair, name: &str) -> Request {
        let name = WantedName::Chosen(name.into());
        let statement = Statement::new(&SESSION, &code.invite, &theirs, &name);
        Request {
            public_key: Base64(theirs),
            proof: statement.proof(&code::proof_key(&code.secret)),
            possession: statement.possession(own).unwrap(),
            ..right_request(code, own, &name)
        }
    }

    #[tokio::test]
    async fn a_holder_of_a_code_cannot_register_the_key_of_another_machine() {
        let lab = lab();
        let own = certificate::new_key().unwrap();
        let victim = certificate::raw_public_key(&certificate::new_key().unwrap());
        let code = lab.invite(Uses::Any);
        lab.authority.admit(&code.invite, &victim, &WantedName::Chosen("m1".into())).unwrap();
        let stranger = certificate::raw_public_key(&certificate::new_key().unwrap());
        let before = lab.authority.members().unwrap();
        // Neither the key of a member, under its own or another name, nor that of a machine that is no member.
        for (theirs, name) in [(victim, "m1"), (victim, "m2"), (stranger, "m3"), (lab.group.ca_key, "m4")] {
            let request = request_for_anothers_key(&code, theirs, &own, name);
            let refused = admit(&lab.authority, &SESSION, request).map(drop).unwrap_err();
            assert!(matches!(refused, GroupError::Refused(InviteError::NotItsKey)), "{refused:?}");
        }
        assert_eq!(lab.authority.members().unwrap(), before);
    }

    /// With the neutral element as the key, this is a signature for every message (RFC 8032 §5.1.7).
    #[tokio::test]
    async fn a_key_for_which_anybody_can_sign_is_not_registered() {
        let lab = lab();
        let (code, name) = (lab.invite(Uses::Any), WantedName::Chosen("m1".into()));
        let neutral = {
            let mut point = [0; 32];
            point[0] = 1;
            point
        };
        let (own, for_everything) = (certificate::new_key().unwrap(), [neutral, [0; 32]].concat());
        let key = signature::UnparsedPublicKey::new(&signature::ED25519, neutral);
        assert!(key.verify(b"anything", &for_everything).is_ok(), "the library does not look at the key");
        let request = Request {
            possession: Base64(for_everything),
            ..request_for_anothers_key(&code, neutral, &own, name.name())
        };
        let refused = admit(&lab.authority, &SESSION, request).map(drop).unwrap_err();
        assert!(matches!(refused, GroupError::Refused(InviteError::NotItsKey)), "{refused:?}");
        assert_eq!(lab.authority.members().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn proofs_are_for_one_session_one_key_one_invite_and_one_name() {
        let lab = lab();
        let (code, other_code) = (lab.invite(Uses::Any), lab.invite(Uses::Any));
        let (key, other_key) = (certificate::new_key().unwrap(), certificate::new_key().unwrap());
        let name = WantedName::Suggested("a".into());
        let right = || right_request(&code, &key, &name);
        let other_public = certificate::raw_public_key(&other_key);
        type Change<'a> = &'a dyn Fn(&mut Request);
        let changes: [Change<'_>; 6] = [
            &|request| request.public_key = Base64(other_public),
            &|request| request.name = "b".into(),
            &|request| request.chosen = true,
            &|request| request.invite = Base64(other_code.invite),
            &|request| request.proof.0.truncate(16),
            &|request| request.possession = Base64(vec![0; 64]),
        ];
        for (at, change) in changes.into_iter().enumerate() {
            let mut request = right();
            change(&mut request);
            assert!(admit(&lab.authority, &SESSION, request).is_err(), "{at}");
        }
        assert!(admit(&lab.authority, &[2; 32], right()).is_err());
        assert!(admit(&lab.authority, &SESSION, right()).is_ok());
    }

    #[tokio::test]
    async fn a_signature_for_another_purpose_is_no_proof_of_possession() {
        let key = certificate::new_key().unwrap();
        let public_key = certificate::raw_public_key(&key);
        let statement = Statement::new(&SESSION, &[1; 8], &public_key, laptop());
        assert!(statement.is_signed_by(&public_key, &statement.possession(&key).unwrap().0));
        assert!(!statement.is_signed_by(&public_key, &key.sign(&statement.0).unwrap()));
    }

    #[tokio::test]
    async fn a_membership_of_another_group_is_not_believed() {
        let (lab, other) = (lab(), lab());
        let code = lab.invite(Uses::Any);
        let elsewhere = JoinCode { ca_key: other.group.ca_key, group: other.group.id, ..code };
        let (joiner, _) = lab.join(&elsewhere).await;
        assert!(matches!(joiner, Err(JoinError::Unsigned(_))), "{joiner:?}");
    }

    #[tokio::test]
    async fn the_secret_and_the_private_key_are_never_sent() {
        let lab = lab();
        let code = lab.invite(Uses::Any);
        let (mut joiner, mut wire) = duplex(64 * 1024);
        let asking = request(&mut joiner, &SESSION, &code, laptop(), JoinKey::temporary().unwrap());
        let reading = async {
            let mut length = [0; 4];
            wire.read_exact(&mut length).await.unwrap();
            let mut json = vec![0; u32::from_be_bytes(length) as usize];
            wire.read_exact(&mut json).await.unwrap();
            drop(wire);
            json
        };
        let (outcome, sent) = tokio::join!(asking, reading);
        assert!(matches!(outcome, Err(JoinError::Io(_))));
        let sent: serde_json::Map<String, serde_json::Value> = serde_json::from_slice(&sent).unwrap();
        let fields: Vec<_> = sent.keys().map(String::as_str).collect();
        assert_eq!(fields, ["chosen", "invite", "name", "possession", "proof", "public_key"]);
        assert!(!format!("{sent:?}").contains(&serde_json::to_string(&Base64(code.secret)).unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let lab = lab();
        let (_silent, mut signer) = duplex(64);
        assert!(matches!(serve(&mut signer, &SESSION, &lab.authority).await, Err(JoinError::TimedOut)));
        let (_silent, mut joiner) = duplex(4096);
        let asked =
            request(&mut joiner, &SESSION, &lab.invite(Uses::Any), laptop(), JoinKey::temporary().unwrap())
                .await;
        assert!(matches!(asked, Err(JoinError::TimedOut)));
    }

    #[tokio::test]
    async fn what_the_other_side_says_cannot_be_taken_for_lines_of_this_one() {
        let lab = lab();
        let (mut joiner, mut wire) = duplex(64 * 1024);
        let answer = br#"{"refused":"\u001b[2J\nerror: fine\n\u202eabc"}"#;
        wire.write_u32(answer.len().try_into().unwrap()).await.unwrap();
        wire.write_all(answer).await.unwrap();
        let code = lab.invite(Uses::Any);
        let error = request(&mut joiner, &SESSION, &code, laptop(), JoinKey::temporary().unwrap()).await;
        let JoinError::Malformed(why) = error.unwrap_err() else { panic!("it is read") };
        let why = why.to_string();
        assert!(
            why.contains("error: fine") && why.chars().all(|c| c.is_ascii_graphic() || c == ' '),
            "{why}"
        );
    }

    #[tokio::test]
    async fn a_giant_message_is_refused_before_it_is_read() {
        let lab = lab();
        let (mut peer, mut signer) = duplex(64);
        peer.write_u32(4 * 1024 + 1).await.unwrap();
        assert!(matches!(serve(&mut signer, &SESSION, &lab.authority).await, Err(JoinError::TooLong(4097))));
    }

    #[tokio::test]
    async fn an_authority_that_cannot_keep_records_admits_nobody() {
        let lab = lab();
        let code = lab.invite(Uses::Any);
        lab.state.write("members.json", b"{").unwrap();
        let (joiner, signer) = lab.join(&code).await;
        assert!(matches!(joiner, Err(JoinError::Refused(InviteError::Unrecorded))), "{joiner:?}");
        assert!(matches!(signer, Err(JoinError::Authority(_))), "{signer:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_messages_are_read_or_refused(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let _ = receive::<_, Request>(&mut &bytes[..], MAX_REQUEST).await;
                let _ = receive::<_, Answer>(&mut &bytes[..], MAX_RESPONSE).await;
            });
        }
    }
}
