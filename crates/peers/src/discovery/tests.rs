use super::*;
use laneway_sys::lan::ReceivedFrom;
use laneway_sys::state::StateDir;
use laneway_trust::authority::{Authority, JoinResponder, Uses};
use laneway_trust::certificate::Role;
use laneway_trust::group::Group;
use laneway_trust::join::{self, JoinKey};
use laneway_trust::name::WantedName;
use laneway_wire::datagram::{Advert, AnnouncedName, DatagramSigner, Keys, Reach, Received, Standing, State};
use laneway_wire::id::GroupId;

/// Discovery of one member, with a loopback socket, and datagrams from others.
struct Lab {
    _directory: tempfile::TempDir,
    state: StateDir,
    authority: Authority,
    membership: Arc<Membership>,
    discovery: Arc<Discovery>,
    socket: LanSocket,
    missed: mpsc::Receiver<(NodeId, SocketAddr)>,
    announce: watch::Sender<Option<Announcement>>,
    /// Two gateways, and a member that is a client only.
    one: Group,
    two: Group,
    client: Group,
}

async fn lab() -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path().join("state")).unwrap();
    let membership = Membership::new(Authority::create(&state, "office", "first").unwrap());
    let authority = Authority::load(&state).unwrap().unwrap();
    let (behind, missed) = mpsc::channel(8);
    let options = Options {
        joins: Some((JoinResponder::new(watch::channel(Some(authority.clone())).1), 7421)),
        behind: Some(behind),
        ..options(&membership, 7420)
    };
    let (announce, announced) = watch::channel(None);
    let discovery = Discovery::new(options, Arc::default(), announced);
    let lan = lan::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
    let socket = LanSocket::unicast(&lan, 0).unwrap();
    let one = join(&authority, Role::Gateway, "one").await;
    let two = join(&authority, Role::Gateway, "two").await;
    let client = join(&authority, Role::Client, "client").await;
    Lab {
        _directory: directory,
        state,
        authority,
        membership,
        discovery,
        socket,
        missed,
        announce,
        one,
        two,
        client,
    }
}

fn options(membership: &Arc<Membership>, port: u16) -> Options {
    Options {
        membership: membership.clone(),
        id: membership.group().node.id,
        port,
        own_port: port,
        lans: vec![],
        joins: None,
        behind: None,
        boot: Arc::new(Boot::observer()),
    }
}

/// A new member's view of the group.
async fn join(authority: &Authority, role: Role, name: &str) -> Group {
    let code = authority.invite(role, Uses::Times(1), None, None).unwrap();
    let (mut joiner, mut server) = tokio::io::duplex(1024);
    let (exporter, name) = ([1; 32], WantedName::Chosen(name.into()));
    let (joined, admitted) = tokio::join!(
        join::request(&mut joiner, &exporter, &code, &name, JoinKey::temporary().unwrap()),
        join::serve(&mut server, &exporter, authority)
    );
    admitted.unwrap();
    joined.unwrap()
}

impl Lab {
    /// A member's datagram, by the keys of the group as it knows it.
    async fn receive_from(&self, member: &Group, from: SocketAddr, message: Message) {
        self.receive(&self.bytes(member, member.node.id, from, message), from).await;
    }

    /// What `member` sends in the name of `sender`.
    fn bytes(&self, member: &Group, sender: NodeId, from: SocketAddr, message: Message) -> [u8; SIZE] {
        self.signed(member, &member.signer, sender, from, message)
    }

    /// As `bytes`, with another signer.
    fn signed(
        &self,
        member: &Group,
        signer: &DatagramSigner,
        sender: NodeId,
        from: SocketAddr,
        message: Message,
    ) -> [u8; SIZE] {
        let keys = Keys::new(member.update.discovery_key());
        let datagram = Datagram { group: member.id, epoch: member.update.epoch(), sender, message };
        datagram.encode(&keys, Way { from, to: self.socket.own }, Some(signer))
    }

    async fn receive(&self, bytes: &[u8], from: SocketAddr) {
        let received = ReceivedFrom { size: bytes.len(), from, neighbour: true };
        self.discovery.handle(bytes, received, true, &self.socket).await;
    }

    fn query(&self, nonce: [u8; 16]) {
        locked(&self.discovery.queries).insert(nonce, Instant::now());
    }

    fn state_of(&self, link: SocketAddr) -> Option<State> {
        self.discovery.directory.at(link)?.state(Instant::now())
    }

    fn revoke(&self, id: NodeId) {
        self.authority.revoke(&id.to_string()).unwrap();
        let update = Group::load(&self.state).unwrap().unwrap().update;
        self.membership.apply(update.sealed()).unwrap();
    }

    /// The group as the member knows it once it has the current update.
    fn updated(&self, member: &Group) -> Group {
        Group { update: self.membership.group().update.clone(), ..member.clone() }
    }

    /// The reasons of all drops so far.
    fn dropped(&self) -> Vec<(&'static str, u64)> {
        self.discovery.directory.telemetry().discovery.dropped.values()
    }

    fn signatures(&self) -> u64 {
        locked(&self.discovery.verifier).signatures()
    }

    /// Makes the node under test a candidate.
    fn announce(&self) {
        let announcement = Announcement {
            advert: advert(State::Standby),
            beacons: 0,
            answers_one_in: 1,
            in_maintenance: false,
        };
        self.announce.send_replace(Some(announcement));
    }
}

fn at(n: u8) -> SocketAddr {
    SocketAddr::from(([127, 0, 0, n], 7420))
}

fn advert(state: State) -> Advert {
    Advert {
        state,
        reach: Reach::Reachable,
        link_port: 7420,
        weight: 100,
        load: 0,
        capacity: 1,
        tunnels: 0,
        standing: Standing { interval: 1000, ..Standing::default() },
        peers: vec![],
    }
}

fn run(boot: u64, counter: u64) -> Sequence {
    Sequence { boot, counter }
}

fn offer(nonce: [u8; 16], sequence: Sequence, state: State) -> Message {
    Message::Offer { nonce, sequence, advert: advert(state) }
}

fn beacon(sequence: Sequence, state: State) -> Message {
    Message::Beacon { sequence, advert: advert(state) }
}

#[tokio::test]
async fn an_offer_counts_once_and_only_in_answer_to_a_query() {
    let lab = lab().await;
    let answer = offer([5; 16], run(1, 0), State::Active);
    lab.receive_from(&lab.one, at(2), answer.clone()).await;
    assert_eq!(lab.state_of(at(2)), None, "there was no query");
    lab.query([5; 16]);
    lab.receive_from(&lab.one, at(2), answer.clone()).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Active));
    lab.receive_from(&lab.one, at(2), beacon(run(1, 1), State::Draining)).await;
    lab.receive_from(&lab.one, at(2), answer.clone()).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Draining), "a replayed offer was accepted");
    // Another gateway, and another address of the same one, answer the same query.
    for (address, member, sequence) in [(at(3), &lab.two, run(1, 0)), (at(4), &lab.one, run(1, 1))] {
        lab.receive_from(member, address, offer([5; 16], sequence, State::Active)).await;
        assert_eq!(lab.state_of(address), Some(State::Active));
    }
}

#[tokio::test]
async fn a_removed_member_is_ignored_and_cannot_forge_datagrams_of_others() {
    let mut lab = lab().await;
    let (before, removed) = (lab.one.clone(), lab.two.clone());
    lab.revoke(removed.node.id);
    lab.receive_from(&removed, at(2), beacon(run(1, 1), State::Active)).await;
    let forged = lab.bytes(&removed, before.node.id, at(2), beacon(run(1, 1), State::Active));
    lab.receive(&forged, at(2)).await;
    assert_eq!(lab.state_of(at(2)), None);
    assert_eq!(lab.dropped(), [("revoked", 1), ("statement", 1)]);
    // A gateway that missed the update is accepted, and reported.
    lab.receive_from(&before, at(3), beacon(run(1, 1), State::Active)).await;
    assert_eq!(lab.state_of(at(3)), Some(State::Active));
    assert_eq!(lab.missed.try_recv(), Ok((before.node.id, at(3))));
    lab.receive_from(&lab.updated(&before), at(3), beacon(run(1, 2), State::Standby)).await;
    assert_eq!(lab.state_of(at(3)), Some(State::Standby));
    assert!(lab.missed.try_recv().is_err());
}

#[tokio::test]
async fn a_client_only_member_can_announce_nothing_and_nobody_can_for_another() {
    let lab = lab().await;
    let (client, one, two) = (&lab.client, &lab.one, &lab.two);
    let message = beacon(run(u64::MAX, u64::MAX), State::Active);
    let attempts = [
        // Itself, by its own statement; an invented id; the victim's id.
        (lab.bytes(client, client.node.id, at(2), message.clone()), "role"),
        (lab.bytes(client, NodeId([9; 16]), at(2), message.clone()), "role"),
        (lab.bytes(client, one.node.id, at(2), message.clone()), "role"),
        // Another gateway, by its own statement, for the victim.
        (lab.bytes(two, one.node.id, at(2), message.clone()), "statement"),
    ];
    for (bytes, reason) in attempts {
        lab.receive(&bytes, at(2)).await;
        assert_eq!(lab.dropped().iter().filter(|(why, _)| *why == reason).count(), 1);
    }
    assert_eq!(lab.signatures(), 0, "these checks need no signature");
    // The victim's statement, and a signature by another key.
    let signer = impostor(two, one);
    lab.receive(&lab.signed(two, &signer, one.node.id, at(2), message), at(2)).await;
    assert_eq!(lab.dropped(), [("role", 3), ("signature", 1), ("statement", 1)]);
    assert_eq!(lab.state_of(at(2)), None);
    // None of these displaced the victim's own announcements.
    lab.receive_from(one, at(2), beacon(run(1, 1), State::Active)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Active));
}

#[tokio::test]
async fn a_repeated_beacon_costs_no_signature_and_a_new_one_costs_one() {
    let lab = lab().await;
    for counter in 1..=3 {
        let message = beacon(run(1, counter), State::Active);
        for _ in 0..100 {
            lab.receive_from(&lab.one, at(2), message.clone()).await;
        }
        // A gateway's first beacon also costs a check of the authority's signature.
        assert_eq!(lab.signatures(), counter + 1);
    }
    lab.receive_from(&lab.one, at(2), beacon(run(0, 4000), State::Draining)).await;
    assert_eq!(lab.signatures(), 4);
    assert_eq!(lab.dropped(), [("old-run", 1), ("replayed", 297)]);
}

#[tokio::test]
async fn an_address_that_a_gateway_of_this_group_has_is_no_longer_another_groups() {
    let lab = lab().await;
    let others = || lab.discovery.directory.telemetry().discovery.other_groups.present(Instant::now());
    let of_another = |from| {
        let message = beacon(run(1, 1), State::Active);
        let datagram = Datagram { group: GroupId([9; 8]), epoch: 0, sender: NodeId([9; 16]), message };
        datagram.encode(&Keys::new(&[9; 32]), Way { from, to: lab.socket.own }, Some(&lab.two.signer))
    };
    for n in 2..=3 {
        lab.receive(&of_another(at(n)), at(n)).await;
    }
    assert_eq!(others(), [at(2).ip(), at(3).ip()]);
    // This machine is back on its own LAN, where its gateway has the address of the one there.
    lab.receive_from(&lab.one, at(2), beacon(run(1, 1), State::Active)).await;
    assert_eq!(others(), [at(3).ip()]);
}

#[tokio::test]
async fn a_beacon_that_comes_over_two_networks_counts_on_both_and_once_on_each() {
    let lab = lab().await;
    for counter in 1..=2 {
        for from in [at(2), at(3), at(2), at(3)] {
            lab.receive_from(&lab.one, from, beacon(run(1, counter), State::Standby)).await;
        }
    }
    assert_eq!([at(2), at(3)].map(|link| lab.state_of(link)), [Some(State::Standby); 2]);
    assert_eq!(lab.dropped(), [("replayed", 4)]);
}

#[tokio::test]
async fn what_a_run_that_is_over_said_moves_neither_a_client_nor_a_candidate() {
    for is_candidate in [false, true] {
        let lab = lab().await;
        if is_candidate {
            lab.announce();
        }
        // A stranger replays a whole earlier run of a gateway to a node that has just started.
        for (counter, state) in [(7, State::Draining), (8, State::Withdrawn)] {
            lab.receive_from(&lab.one, at(2), beacon(run(1, counter), state)).await;
            assert_eq!(lab.state_of(at(2)), None, "{state:?} of an unknown run");
        }
        if is_candidate {
            lab.receive_from(&lab.one, at(2), beacon(run(1, 9), State::Active)).await;
            assert_eq!(lab.state_of(at(2)), None, "a candidate left the role to a run that may be over");
            lab.receive_from(&lab.two, at(3), beacon(run(1, 9), State::Standby)).await;
            assert_eq!(lab.state_of(at(3)), None, "a candidate waits for a standby whose run may be over");
        }
        // The gateway answers, so its run is known.
        lab.query([5; 16]);
        lab.receive_from(&lab.one, at(2), offer([5; 16], run(2, 3), State::Active)).await;
        lab.receive_from(&lab.one, at(2), beacon(run(1, 10), State::Draining)).await;
        assert_eq!(lab.state_of(at(2)), Some(State::Active));
        lab.receive_from(&lab.one, at(2), beacon(run(2, 4), State::Draining)).await;
        assert_eq!(lab.state_of(at(2)), Some(State::Draining));
    }
}

#[tokio::test]
async fn a_gateway_whose_runs_count_from_a_smaller_number_is_heard_again_after_one_answer() {
    let lab = lab().await;
    lab.receive_from(&lab.one, at(2), beacon(run(9, 50), State::Active)).await;
    // Its state directory is restored from a backup: its run is numbered 3 now.
    lab.receive_from(&lab.one, at(2), beacon(run(3, 1), State::Standby)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Active));
    lab.query([5; 16]);
    lab.receive_from(&lab.one, at(2), offer([5; 16], run(3, 1), State::Standby)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Standby));
    lab.receive_from(&lab.one, at(2), beacon(run(3, 2), State::Withdrawn)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Withdrawn));
    // An offer to an earlier query takes nothing back.
    locked(&lab.discovery.queries).insert([6; 16], Instant::now() - Duration::from_secs(5));
    lab.receive_from(&lab.one, at(2), offer([6; 16], run(2, 1), State::Active)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Withdrawn));
}

#[tokio::test]
async fn a_node_that_hears_a_later_run_of_its_own_continues_above_it() {
    let lab = lab().await;
    let own = lab.membership.group();
    lab.receive_from(&own, at(2), beacon(run(70, 1), State::Active)).await;
    assert_eq!(lab.discovery.options.boot.number(), 71);
    let lab = self::lab().await;
    let (own, signer) = (lab.membership.group(), impostor(&lab.two, &lab.membership.group()));
    let message = beacon(run(70, 1), State::Active);
    lab.receive(&lab.signed(&lab.two, &signer, own.node.id, at(2), message), at(2)).await;
    assert_eq!(lab.discovery.options.boot.number(), 0, "another key signed it");
}

/// The signer of `member` with the statement about `victim`.
fn impostor(member: &Group, victim: &Group) -> DatagramSigner {
    DatagramSigner::new(
        member.key.secret_pkcs8_der(),
        *victim.signer.statement(),
        AnnouncedName::new(&victim.node.name),
    )
    .unwrap()
}

#[tokio::test]
async fn wrong_signatures_of_one_source_are_limited_and_keep_no_other_gateway_from_being_heard() {
    let lab = lab().await;
    let (one, two) = (&lab.one, &lab.two);
    let signer = impostor(two, one);
    for counter in 0..200 {
        let message = beacon(run(9, counter), State::Active);
        lab.receive(&lab.signed(two, &signer, one.node.id, at(9), message), at(9)).await;
    }
    let dropped = lab.dropped();
    assert!(dropped.iter().any(|(why, count)| *why == "limited" && *count > 0), "{dropped:?}");
    lab.receive_from(one, at(2), beacon(run(1, 1), State::Active)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Active));
}

async fn receive_back(socket: &LanSocket) -> Vec<u8> {
    let mut bytes = [0; SIZE + 1];
    let heard = tokio::time::timeout(Duration::from_secs(30), socket.receive(&mut bytes)).await;
    bytes[..heard.expect("an answer").unwrap().size].to_vec()
}

#[tokio::test]
async fn a_query_in_an_old_epoch_is_answered_in_that_epoch_and_one_of_a_revoked_node_never() {
    let lab = lab().await;
    lab.announce();
    lab.revoke(lab.two.node.id);
    let lan = lan::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
    let asker = LanSocket::unicast(&lan, 0).unwrap();
    lab.receive_from(&lab.two, asker.own, Message::Query { nonce: [1; 16] }).await;
    for (member, nonce) in [(&lab.one, [2; 16]), (&lab.updated(&lab.one), [3; 16])] {
        lab.receive_from(member, asker.own, Message::Query { nonce }).await;
        let keys = Keys::new(member.update.discovery_key());
        let way = Way { from: lab.socket.own, to: asker.own };
        let answer = Datagram::decode(&receive_back(&asker).await, member.id, &keys, way).unwrap();
        let Received::Signed(answer) = answer else { panic!("{answer:?}") };
        // The first that comes is the answer to the second query: the first got none.
        assert_eq!(answer.answers(), Some(nonce));
    }
}

#[tokio::test]
async fn forged_join_queries_use_up_nothing_and_joiners_have_answers_of_their_own() {
    let lab = lab().await;
    let group = lab.membership.group();
    let code = lab.authority.invite(Role::Client, Uses::Times(1), None, None).unwrap();
    let lan = lan::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
    let joiner = LanSocket::unicast(&lan, 0).unwrap();
    let way = Way { from: joiner.own, to: lab.socket.own };
    let query = |nonce, key: &[u8; 32]| {
        let message = Message::JoinQuery { nonce, invite: code.invite };
        let datagram = Datagram { group: group.id, epoch: 0, sender: NodeId([0; 16]), message };
        datagram.encode(&Keys::new(key), way, None)
    };
    // Far more than one source is granted, from a stranger without the secret and from members.
    for _ in 0..100 {
        lab.receive(&query([1; 16], &[0; 32]), joiner.own).await;
        lab.receive_from(&lab.one, joiner.own, Message::Query { nonce: [1; 16] }).await;
    }
    lab.receive(&query([2; 16], &code.discovery_key()), joiner.own).await;
    let keys = Keys::new(&code.discovery_key());
    let back = Way { from: lab.socket.own, to: joiner.own };
    let answer = Datagram::decode(&receive_back(&joiner).await, group.id, &keys, back).unwrap();
    let Received::Unsigned(answer) = answer else { panic!("{answer:?}") };
    assert_eq!(answer.message, Message::JoinOffer { nonce: [2; 16], link_port: 7421 });
}

#[tokio::test]
async fn one_source_gets_a_bounded_number_of_answers() {
    let lab = lab().await;
    let start = Instant::now();
    let granted = (0..1000).filter(|_| locked(&lab.discovery.limits).admit_member(at(2), start));
    assert_eq!(granted.count(), 20);
    let mut sources = (0..200_u8).flat_map(|host| [host; 25]);
    let in_all = sources.by_ref().filter(|host| {
        let source = SocketAddr::from(([10, 0, 0, *host], 1));
        locked(&lab.discovery.limits).admit_joiner(source, start)
    });
    assert_eq!(in_all.count(), 4000 - 20);
}

#[tokio::test]
async fn the_sockets_of_a_lan_go_together_and_it_can_be_heard_again() {
    let free = std::net::UdpSocket::bind("127.0.0.46:0").unwrap();
    let port = free.local_addr().unwrap().port();
    drop(free);
    let lab = lab().await;
    let options = Options { lans: vec!["127.0.0.46".into()], ..options(&lab.membership, port) };
    let discovery = Discovery::new(options, Arc::default(), watch::channel(None).1);
    let mut listeners = JoinSet::new();
    assert_eq!(discovery.bind(&mut listeners).unwrap().len(), 1);
    assert_eq!(listeners.len(), 1, "what ends is the LAN, and not one socket of it");
    listeners.shutdown().await;
    locked(&discovery.senders).clear();
    assert_eq!(discovery.bind(&mut listeners).unwrap().len(), 1);
}
