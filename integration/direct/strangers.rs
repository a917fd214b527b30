//! Strangers on the LAN who try to keep members and joiners out of a gateway's link port.

use std::net::SocketAddr;
use std::time::Duration;

use laneway::link::tls;
use laneway::net;
use laneway::sys::state::StateDir;
use laneway::trust::authority::{Authority, InviteError, Uses};
use laneway::trust::certificate::Role;
use laneway::trust::code::JoinCode;
use laneway::trust::group::Group;
use laneway::trust::join::{self, EXPORTER_LABEL, JoinError, JoinKey};
use laneway::trust::name::WantedName;
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::lab::RunningGateway;
use crate::peer::within;

/// The first machine of a group, which is a gateway and enrols others.
struct Office {
    _directory: tempfile::TempDir,
    authority: Authority,
    gateway: RunningGateway,
}

impl Office {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let state = StateDir::open(directory.path().join("state")).unwrap();
        let group = Authority::create(&state, "office", "first").unwrap();
        let authority = Authority::load(&state).unwrap().unwrap();
        let options = "allow = '127.0.0.0/8'";
        let gateway = RunningGateway::with_authority(group, options, u64::MAX, Some(authority.clone()));
        Self { _directory: directory, authority, gateway }
    }

    fn code(&self) -> JoinCode {
        self.authority.invite(Role::Gateway, Uses::Any, None, None).unwrap()
    }

    /// Joins from this address of the LAN.
    async fn join(&self, from: [u8; 4], code: &JoinCode) -> Result<Group, JoinError> {
        let socket = connect(from, self.gateway.address).await?;
        let connector = TlsConnector::from(tls::join_client(code));
        let mut stream = connector.connect(tls::server_name(None), socket).await?;
        let exporter = stream.get_ref().1.export_keying_material([0; 32], EXPORTER_LABEL, None).unwrap();
        let name = WantedName::Suggested("member".into());
        join::request(&mut stream, &exporter, code, &name, JoinKey::temporary().unwrap()).await
    }

    /// The TLS handshake of a link, from this address.
    async fn shake_hands(&self, from: [u8; 4], member: &Group) -> std::io::Result<()> {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let socket = connect(from, self.gateway.address).await?;
        let connector = TlsConnector::from(tls::link_client(member).unwrap());
        let mut stream = connector.connect(tls::server_name(None), socket).await?;
        // Only an answer proves that the gateway has verified this end: it greets with its SETTINGS.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read_exact(&mut [0; 9]).await.map(drop)
    }
}

async fn connect(from: [u8; 4], to: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind((from, 0).into())?;
    socket.connect(to).await
}

/// Holds connections that say nothing, 64 from each of 34 addresses, and reopens each one that is closed. Returns once they
/// have taken every place that there is.
async fn silence(to: SocketAddr) -> JoinSet<()> {
    let mut attack = JoinSet::new();
    let (taken, mut all_taken) = watch::channel(0_usize);
    for host in 0..34 {
        for _ in 0..64 {
            let taken = taken.clone();
            attack.spawn(async move {
                loop {
                    let Ok(socket) = connect([127, 66, 0, host], to).await else {
                        tokio::task::yield_now().await;
                        continue;
                    };
                    taken.send_modify(|taken| *taken += 1);
                    // Closed by the gateway.
                    let _ = socket.readable().await;
                }
            });
        }
    }
    within(all_taken.wait_for(|taken| *taken >= 34 * 64)).await.unwrap();
    attack
}

#[tokio::test]
async fn while_34_addresses_want_every_place_members_get_their_links_and_joiners_join() {
    net::raise_open_files();
    let office = Office::new();
    let code = office.code();
    let member = within(office.join([127, 0, 0, 1], &code)).await.unwrap();
    let mut attack = silence(office.gateway.address).await;
    for turn in 0..8_u8 {
        within(office.shake_hands([127, 0, 0, 1], &member)).await.unwrap();
        within(office.shake_hands([127, 0, 1, turn], &member)).await.unwrap();
        if turn % 4 == 0 {
            within(office.join([127, 0, 2, turn], &code)).await.unwrap();
        }
    }
    assert_eq!(office.authority.members().unwrap().len(), 4);
    assert!(attack.try_join_next().is_none(), "the attack has ended");
}

#[tokio::test]
async fn while_many_addresses_guess_the_code_admits_at_once_also_from_one_of_them() {
    net::raise_open_files();
    let office = Office::new();
    let code = office.code();
    let wrong = JoinCode { secret: [0; 16], ..code.clone() };
    let mut guesses = JoinSet::new();
    let office = std::sync::Arc::new(office);
    for guess in 0..200_u8 {
        let (office, wrong) = (office.clone(), wrong.clone());
        guesses.spawn(async move { office.join([127, 77, 0, guess % 20], &wrong).await.map(drop) });
    }
    // The first answers are back, so the tables have entries.
    let first = within(guesses.join_next()).await.unwrap().unwrap();
    assert!(matches!(first, Err(JoinError::Refused(InviteError::WrongProof))), "{first:?}");
    let start = tokio::time::Instant::now();
    for from in [[127, 77, 0, 0], [127, 0, 0, 1], [127, 77, 0, 1]] {
        within(office.join(from, &code)).await.unwrap();
    }
    assert_eq!(office.authority.members().unwrap().len(), 4);
    // Nobody was locked out by then: guesses that were slowed are still unanswered, and each gets the same answer.
    let slowed = guesses.len();
    while let Some(answer) = within(guesses.join_next()).await {
        let answer = answer.unwrap();
        assert!(matches!(answer, Err(JoinError::Refused(InviteError::WrongProof))), "{answer:?}");
    }
    assert!(slowed > 0 && start.elapsed() >= Duration::from_secs(1), "no guess was slowed");
    within(office.join([127, 77, 0, 2], &code)).await.unwrap();
}
