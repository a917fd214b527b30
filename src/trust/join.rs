//! How a machine with a join code becomes a member: one question and one answer over TLS.
//!
//! TLS has already shown the joiner that the other end belongs to the code's group. The joiner then shows
//! that it was invited with an HMAC over this TLS session, its new public key and its name. The secret is not
//! sent, the private key neither, and a proof that somebody relays is wrong in any other session.
//!
//! Each message is a length (u32, big-endian) and that much JSON.

use std::io;
use std::time::Duration;

use aws_lc_rs::hmac;
use rcgen::KeyPair;
use rustls_pki_types::PrivatePkcs8KeyDer;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;
use tracing::warn;

use super::authority::{Authority, Refusal};
use super::certificate::{self, CertificateError, Role};
use super::code::{self, JoinCode};
use super::group::{self, Group, GroupError, JOIN_KEY, Welcome};
use super::news::{LONGEST_CRL, NewsError};
use super::state::StateDir;
use super::{Base64, clock};
use crate::wire::id::NodeId;

/// The label of the TLS exporter (RFC 8446 §7.5, no context, 32 bytes) that binds a proof to its session.
pub const EXPORTER_LABEL: &[u8] = b"EXPORTER-laneway-join-1";

/// The longest question; anybody may send one.
const LONGEST_QUESTION: usize = 4 * 1024;

/// The longest answer: the longest list of revocations fits, as the base64 text that it becomes.
const LONGEST_ANSWER: usize = LONGEST_CRL / 3 * 4 + 16 * 1024;

/// How long the other side may take for one message.
const PATIENCE: Duration = Duration::from_secs(10);

/// Why a machine was not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The connection failed.
    #[error("the connection failed while joining")]
    Io(#[from] io::Error),
    /// The other side went silent.
    #[error("no answer for {} s while joining", PATIENCE.as_secs())]
    TimedOut,
    /// The other side does not speak this protocol.
    #[error("a message of {0} bytes is too long for the join protocol")]
    TooLong(usize),
    /// The other side does not speak this protocol, or a later version.
    #[error("the other side does not speak this join protocol")]
    Malformed(#[from] serde_json::Error),
    /// The authority said no; on the authority itself: what it said.
    #[error(transparent)]
    Refused(Refusal),
    /// The answer does not hold what the code promises.
    #[error("the answer is not a membership of the group in the join code")]
    Untrusted(#[from] CertificateError),
    /// Nor what the authority has signed.
    #[error("the answer is not a membership of the group in the join code")]
    Unsigned(#[from] NewsError),
    /// The authority could not do its part.
    #[error("cannot admit a member")]
    Authority(#[source] GroupError),
    /// The process is shutting down.
    #[error("stopped while admitting a member")]
    Stopped,
}

impl JoinError {
    /// What the joiner can do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Refused(refusal) => refusal.hint(),
            Self::Authority(error) => return error.hint(),
            Self::Io(_) | Self::TimedOut | Self::Stopped => {
                "check that 'laneway up' runs on the machine that made the group, and try again".into()
            }
            Self::TooLong(_) | Self::Malformed(_) => {
                "use the same version of laneway on both machines".into()
            }
            Self::Untrusted(_) | Self::Unsigned(_) => {
                "run 'laneway invite' on the machine that made the group, and use the line that it prints"
                    .into()
            }
        })
    }
}

/// Whom the authority has just admitted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolled {
    /// The node.
    pub id: NodeId,
    /// What it is called from now on.
    pub name: String,
    /// What it may do.
    pub role: Role,
}

/// The key that a machine asks to be admitted with.
pub struct Key(KeyPair);

impl Key {
    /// A new one, which is gone when the attempt is over.
    ///
    /// # Errors
    /// When none can be made.
    pub fn passing() -> Result<Self, CertificateError> {
        Ok(Self(certificate::new_key()?))
    }

    /// The one of an earlier attempt without an answer, else a new one, which is kept until there is an answer: the
    /// authority knows a machine that asks again by it.
    ///
    /// # Errors
    /// When it cannot be read or kept.
    pub fn kept_in(state: &StateDir) -> Result<Self, GroupError> {
        let kept: Option<PrivatePkcs8KeyDer<'static>> = group::try_read_pem(state, JOIN_KEY)?;
        if let Some(key) = kept {
            return Ok(Self(certificate::read_key(&key).map_err(group::damaged(state, JOIN_KEY))?));
        }
        let key = certificate::new_key()?;
        group::write_pem(state, JOIN_KEY, "PRIVATE KEY", key.serialized_der())?;
        Ok(Self(key))
    }
}

/// Asks to be admitted under `name`. What comes back is verified, and not saved yet.
///
/// # Errors
/// When the authority refuses, does not answer, or answers with something other than what was asked.
pub async fn request<S>(
    stream: &mut S,
    exporter: &[u8; 32],
    code: &JoinCode,
    name: &str,
    Key(key): Key,
) -> Result<Group, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    if code.expired(clock::now()) {
        warn!("by this machine's clock the join code has expired; the group's authority decides");
    }
    let public_key = certificate::raw_public_key(&key);
    let proof = proof_context(exporter, &public_key, name).sign(&code::proof_key(&code.secret));
    let request =
        Request { invite: Base64(code.invite), public_key: Base64(public_key), name: name.to_owned(), proof };
    send(stream, &request).await?;
    match receive(stream, LONGEST_ANSWER).await? {
        Answer::Welcome(welcome) => {
            let Welcome { membership, news } = *welcome;
            Ok(Group::assemble(membership, news.open(&code.ca_key)?, key, &code.ca_key)?)
        }
        Answer::Refused(refusal) => Err(JoinError::Refused(refusal)),
    }
}

/// Answers one joiner: admits it when its invite is open and its proof is right.
///
/// # Errors
/// [`JoinError::Refused`] with what the joiner was told, or what else kept it out.
pub async fn serve<S>(
    stream: &mut S,
    exporter: &[u8; 32],
    authority: &Authority,
) -> Result<Enrolled, JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let request: Request = receive(stream, LONGEST_QUESTION).await?;
    let (authority, exporter) = (authority.clone(), *exporter);
    // Files are locked and synced to disk: not on a thread that moves other people's bytes.
    let admitted = tokio::task::spawn_blocking(move || admit(&authority, &exporter, &request)).await;
    let (answer, outcome) = match admitted {
        Ok(Ok((welcome, enrolled))) => (Answer::Welcome(Box::new(welcome)), Ok(enrolled)),
        Ok(Err(GroupError::Refused(refusal))) => (Answer::Refused(refusal), Err(JoinError::Refused(refusal))),
        Ok(Err(error)) => (Answer::Refused(Refusal::Unrecorded), Err(JoinError::Authority(error))),
        Err(stopped) => {
            warn!(error = %stopped, "admitting a member did not finish");
            (Answer::Refused(Refusal::Unrecorded), Err(JoinError::Stopped))
        }
    };
    // A refusal that cannot be delivered is still a refusal.
    let sent = send(stream, &answer).await;
    let enrolled = outcome?;
    sent?;
    Ok(enrolled)
}

/// Answers one joiner without looking at what it shows.
///
/// # Errors
/// When the answer cannot be sent.
pub async fn refuse<S>(stream: &mut S, refusal: Refusal) -> Result<(), JoinError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    // An answer before the question would be lost when the unread question resets the connection.
    let _: Request = receive(stream, LONGEST_QUESTION).await?;
    send(stream, &Answer::Refused(refusal)).await
}

#[derive(Serialize, Deserialize)]
struct Request {
    invite: Base64<[u8; 8]>,
    public_key: Base64<[u8; 32]>,
    name: String,
    proof: Base64<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Answer {
    Welcome(Box<Welcome>),
    Refused(Refusal),
}

/// What a proof is made over.
struct ProofContext(Vec<u8>);

fn proof_context(exporter: &[u8; 32], public_key: &[u8; 32], name: &str) -> ProofContext {
    let length = u64::try_from(name.len()).expect("a length fits into 64 bits");
    let mut bytes = [&exporter[..], public_key, &length.to_be_bytes()].concat();
    bytes.extend(name.as_bytes());
    ProofContext(bytes)
}

impl ProofContext {
    fn sign(&self, key: &hmac::Key) -> Base64<Vec<u8>> {
        Base64(hmac::sign(key, &self.0).as_ref().to_vec())
    }

    /// In constant time.
    fn is_proved_by(&self, key: &hmac::Key, proof: &[u8]) -> bool {
        hmac::verify(key, &self.0, proof).is_ok()
    }
}

fn admit(
    authority: &Authority,
    exporter: &[u8; 32],
    request: &Request,
) -> Result<(Welcome, Enrolled), GroupError> {
    let Request { invite: Base64(id), public_key: Base64(public_key), name, proof: Base64(proof) } = request;
    let invite = authority.invite_by_id(id)?;
    if !proof_context(exporter, public_key, name).is_proved_by(&invite.proof_key(), proof) {
        invite.admits(clock::now())?;
        authority.wrong_proof(id)?;
        return Err(Refusal::WrongProof.into());
    }
    let (welcome, role) = authority.admit(id, public_key, name)?;
    let name = welcome.membership.node_name.clone();
    Ok((welcome, Enrolled { id: certificate::node_id(public_key), name, role }))
}

async fn send<S: AsyncWrite + Unpin>(stream: &mut S, message: &impl Serialize) -> Result<(), JoinError> {
    let json = serde_json::to_vec(message)?;
    let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= LONGEST_ANSWER);
    let length = length.ok_or(JoinError::TooLong(json.len()))?;
    let frame = [&length.to_be_bytes()[..], &json].concat();
    let sending = async {
        stream.write_all(&frame).await?;
        stream.flush().await
    };
    Ok(timeout(PATIENCE, sending).await.ok().ok_or(JoinError::TimedOut)??)
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
    timeout(PATIENCE, receiving).await.ok().ok_or(JoinError::TimedOut)?
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::trust::authority::Uses;
    use proptest::prelude::*;
    use tokio::io::duplex;

    const SESSION: [u8; 32] = [1; 32];

    struct Lab {
        _directory: tempfile::TempDir,
        state: StateDir,
        authority: Authority,
        group: Group,
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
                request(&mut joiner, &ours, code, "laptop", Key::passing().unwrap()),
                serve(&mut signer, &theirs, &self.authority)
            )
        }

        /// Both sides agree that it was refused for this reason.
        async fn assert_refused(&self, code: &JoinCode, expected: Refusal) {
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
        assert_eq!(joined.news, lab.group.news);
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
        lab.assert_refused(&code, Refusal::UsedUp).await;
        assert_eq!(lab.authority.members().unwrap().len(), 2);
    }

    #[tokio::test]
    async fn a_machine_whose_answer_was_lost_joins_by_the_same_single_use_code() {
        let lab = lab();
        let code = lab.invite(Uses::Times(1));
        let home = tempfile::tempdir().unwrap();
        let state = StateDir::open(home.path().join("state")).unwrap();
        let (mut joiner, mut signer) = duplex(64 * 1024);
        let asking = request(&mut joiner, &SESSION, &code, "laptop", Key::kept_in(&state).unwrap());
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
            request(&mut joiner, &SESSION, &code, "laptop", Key::kept_in(&state).unwrap()),
            serve(&mut signer, &SESSION, &lab.authority),
        );
        group::remember_membership(&state, &joined.unwrap()).unwrap();
        assert_eq!(lab.authority.members().unwrap().len(), 2);
        assert_eq!(state.read(JOIN_KEY).unwrap(), None);
        // To anybody else the code is used up.
        lab.assert_refused(&code, Refusal::UsedUp).await;
    }

    #[tokio::test]
    async fn a_member_of_a_group_with_thousands_of_revocations_can_join() {
        let lab = lab();
        let many = (0..5_000_u128).map(|number| NodeId((number << 100 | 1 << 127).to_be_bytes())).collect();
        lab.authority.make_up_for(&many).unwrap();
        let joined = lab.join(&lab.invite(Uses::Any)).await.0.unwrap();
        assert_eq!(joined.news.revoked().len(), 5_000);
    }

    #[tokio::test]
    async fn an_expired_or_unknown_invite_is_refused() {
        let lab = lab();
        let code = lab.authority.invite(Role::Client, Uses::Any, Some(Duration::ZERO), None).unwrap();
        lab.assert_refused(&code, Refusal::Expired).await;
        let unknown = JoinCode { invite: [0; 8], ..lab.invite(Uses::Any) };
        lab.assert_refused(&unknown, Refusal::UnknownInvite).await;
    }

    #[tokio::test]
    async fn a_wrong_secret_is_refused_and_the_tenth_locks_the_invite() {
        let lab = lab();
        let code = lab.invite(Uses::Any);
        let wrong = JoinCode { secret: [0; 16], ..code.clone() };
        for _ in 0..10 {
            lab.assert_refused(&wrong, Refusal::WrongProof).await;
        }
        lab.assert_refused(&code, Refusal::Locked).await;
    }

    #[tokio::test]
    async fn a_proof_relayed_into_another_session_is_refused() {
        let lab = lab();
        let (joiner, signer) = lab.join_in_sessions(&lab.invite(Uses::Any), SESSION, [2; 32]).await;
        assert!(matches!(joiner, Err(JoinError::Refused(Refusal::WrongProof))));
        assert!(matches!(signer, Err(JoinError::Refused(Refusal::WrongProof))));
        assert_eq!(lab.authority.members().unwrap().len(), 1);
    }

    #[tokio::test]
    async fn a_proof_is_for_one_key_and_one_name() {
        let lab = lab();
        let code = lab.invite(Uses::Any);
        let proof = |name| proof_context(&SESSION, &[3; 32], name).sign(&code::proof_key(&code.secret));
        for (public_key, name, admitted) in
            [([3; 32], "a", true), ([4; 32], "a", false), ([3; 32], "b", false)]
        {
            let request = Request {
                invite: Base64(code.invite),
                public_key: Base64(public_key),
                name: name.into(),
                proof: proof("a"),
            };
            assert_eq!(admit(&lab.authority, &SESSION, &request).is_ok(), admitted);
        }
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
        let asking = request(&mut joiner, &SESSION, &code, "laptop", Key::passing().unwrap());
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
        assert_eq!(fields, ["invite", "name", "proof", "public_key"]);
        assert!(!format!("{sent:?}").contains(&serde_json::to_string(&Base64(code.secret)).unwrap()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_peer_is_given_up() {
        let lab = lab();
        let (_silent, mut signer) = duplex(64);
        assert!(matches!(serve(&mut signer, &SESSION, &lab.authority).await, Err(JoinError::TimedOut)));
        let (_silent, mut joiner) = duplex(4096);
        let asked =
            request(&mut joiner, &SESSION, &lab.invite(Uses::Any), "x", Key::passing().unwrap()).await;
        assert!(matches!(asked, Err(JoinError::TimedOut)));
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
        assert!(matches!(joiner, Err(JoinError::Refused(Refusal::Unrecorded))), "{joiner:?}");
        assert!(matches!(signer, Err(JoinError::Authority(_))), "{signer:?}");
    }

    proptest! {
        #[test]
        fn arbitrary_messages_are_read_or_refused(bytes: Vec<u8>) {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
            runtime.block_on(async {
                let _ = receive::<_, Request>(&mut &bytes[..], LONGEST_QUESTION).await;
                let _ = receive::<_, Answer>(&mut &bytes[..], LONGEST_ANSWER).await;
            });
        }
    }
}
