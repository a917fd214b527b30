use super::*;
use laneway_sys::state::StateDir;
use laneway_trust::authority::{Authority, Uses};
use laneway_trust::certificate::Role;
use laneway_trust::group::Group;
use laneway_wire::datagram::{Advert, Keys, Reach, Standing, State};

const ONE: NodeId = NodeId([1; 16]);
const TWO: NodeId = NodeId([2; 16]);

/// Discovery of one member, with a loopback socket, and datagrams from others.
struct Lab {
    _directory: tempfile::TempDir,
    state: StateDir,
    authority: Authority,
    membership: Arc<Membership>,
    discovery: Arc<Discovery>,
    socket: Ear,
    missed: mpsc::Receiver<(NodeId, SocketAddr)>,
    announce: watch::Sender<Option<Announcement>>,
}

fn lab() -> Lab {
    let directory = tempfile::tempdir().unwrap();
    let state = StateDir::open(directory.path().join("state")).unwrap();
    let membership = Membership::new(Authority::create(&state, "office", "first").unwrap());
    let authority = Authority::load(&state).unwrap().unwrap();
    let (behind, missed) = mpsc::channel(8);
    let options = Options {
        membership: membership.clone(),
        id: membership.group().node.id,
        port: 7420,
        own_port: 7420,
        lans: vec![],
        joins: Some((JoinResponder::new(authority.clone()), 7421)),
        behind: Some(behind),
    };
    let (announce, announced) = watch::channel(None);
    let discovery = Discovery::new(options, Arc::default(), announced);
    let lan = lan::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
    let socket = Ear::unicast(&lan, 0).unwrap();
    Lab { _directory: directory, state, authority, membership, discovery, socket, missed, announce }
}

impl Lab {
    /// The group as a node knows it that misses later updates.
    fn group(&self) -> Arc<Group> {
        self.membership.group()
    }

    async fn receive_as(&self, group: &Group, from: SocketAddr, sender: NodeId, message: Message) {
        let keys = Keys::new(group.update.discovery_key());
        let datagram = Datagram { group: group.id, epoch: group.update.epoch(), sender, message };
        self.receive(&datagram.encode(&keys, Way { from, to: self.socket.own }), from).await;
    }

    async fn receive(&self, bytes: &[u8], from: SocketAddr) {
        let received = Heard { size: bytes.len(), from, neighbour: true };
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
        standing: Standing { interval: 60_000, ..Standing::default() },
        peers: vec![],
    }
}

fn offer(nonce: [u8; 16], state: State) -> Message {
    Message::Offer { nonce, advert: advert(state) }
}

fn beacon(counter: u64, state: State) -> Message {
    Message::Beacon { boot: 1, counter, advert: advert(state) }
}

#[tokio::test]
async fn an_offer_counts_once_and_only_in_answer_to_a_query() {
    let lab = lab();
    let group = lab.group();
    lab.receive_as(&group, at(2), ONE, offer([5; 16], State::Active)).await;
    assert_eq!(lab.state_of(at(2)), None, "there was no query");
    lab.query([5; 16]);
    lab.receive_as(&group, at(2), ONE, offer([5; 16], State::Active)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Active));
    lab.receive_as(&group, at(2), ONE, beacon(1, State::Draining)).await;
    lab.receive_as(&group, at(2), ONE, offer([5; 16], State::Active)).await;
    assert_eq!(lab.state_of(at(2)), Some(State::Draining), "a replayed offer was accepted");
    // Another gateway, and another address of the same one, answer the same query.
    for (address, id) in [(at(3), TWO), (at(4), ONE)] {
        lab.receive_as(&group, address, id, offer([5; 16], State::Active)).await;
        assert_eq!(lab.state_of(address), Some(State::Active));
    }
}

#[tokio::test]
async fn a_removed_member_is_ignored_and_cannot_forge_datagrams_of_others() {
    let mut lab = lab();
    let before = lab.group();
    lab.revoke(TWO);
    let after = lab.group();
    lab.receive_as(&before, at(2), TWO, beacon(1, State::Active)).await;
    assert_eq!(lab.state_of(at(2)), None, "it was accepted under its own id");
    // A gateway that missed the update is accepted, and reported.
    lab.receive_as(&before, at(3), ONE, beacon(1, State::Active)).await;
    assert_eq!(lab.state_of(at(3)), Some(State::Active));
    assert_eq!(lab.missed.try_recv(), Ok((ONE, at(3))));
    // Once it has them, the old key does not speak for it any more.
    lab.receive_as(&after, at(3), ONE, beacon(2, State::Active)).await;
    lab.receive_as(&before, at(3), ONE, beacon(3, State::Withdrawn)).await;
    assert_eq!(lab.state_of(at(3)), Some(State::Active));
    assert!(lab.missed.try_recv().is_err());
}

async fn hear_back(ear: &Ear) -> Vec<u8> {
    let mut bytes = [0; SIZE + 1];
    let heard = tokio::time::timeout(Duration::from_secs(30), ear.hear(&mut bytes)).await;
    bytes[..heard.expect("an answer").unwrap().size].to_vec()
}

#[tokio::test]
async fn a_query_in_an_old_epoch_is_answered_in_that_epoch_and_one_of_a_revoked_node_never() {
    let lab = lab();
    let before = lab.group();
    let announcement = Announcement { advert: advert(State::Active), beacons: 0, answers_one_in: 1 };
    lab.announce.send_replace(Some(announcement));
    lab.revoke(TWO);
    let lan = lan::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
    let asker = Ear::unicast(&lan, 0).unwrap();
    lab.receive_as(&before, asker.own, TWO, Message::Query { nonce: [1; 16] }).await;
    for (group, nonce) in [(&before, [2; 16]), (&lab.group(), [3; 16])] {
        lab.receive_as(group, asker.own, ONE, Message::Query { nonce }).await;
        let keys = Keys::new(group.update.discovery_key());
        let way = Way { from: lab.socket.own, to: asker.own };
        let answer = Datagram::decode(&hear_back(&asker).await, group.id, &keys, way).unwrap();
        // The first that comes is the answer to the second query: the first got none.
        assert_eq!(answer.message, offer(nonce, State::Active));
    }
}

#[tokio::test]
async fn forged_join_queries_use_up_nothing_and_joiners_have_answers_of_their_own() {
    let lab = lab();
    let group = lab.group();
    let code = lab.authority.invite(Role::Client, Uses::Times(1), None, None).unwrap();
    let lan = lan::lans(&["127.0.0.1".into()]).unwrap().pop().unwrap();
    let joiner = Ear::unicast(&lan, 0).unwrap();
    let way = Way { from: joiner.own, to: lab.socket.own };
    let query = |nonce, key: &[u8; 32]| {
        let message = Message::JoinQuery { nonce, invite: code.invite };
        let datagram = Datagram { group: group.id, epoch: 0, sender: NodeId([0; 16]), message };
        datagram.encode(&Keys::new(key), way)
    };
    // Far more than one source gets, of somebody who does not know the secret, and of members.
    for _ in 0..100 {
        lab.receive(&query([1; 16], &[0; 32]), joiner.own).await;
        lab.receive_as(&group, joiner.own, ONE, Message::Query { nonce: [1; 16] }).await;
    }
    lab.receive(&query([2; 16], &code.discovery_key()), joiner.own).await;
    let keys = Keys::new(&code.discovery_key());
    let back = Way { from: lab.socket.own, to: joiner.own };
    let answer = Datagram::decode(&hear_back(&joiner).await, group.id, &keys, back).unwrap();
    assert_eq!(answer.message, Message::JoinOffer { nonce: [2; 16], link_port: 7421 });
}

#[tokio::test]
async fn one_source_gets_a_bounded_number_of_answers() {
    let lab = lab();
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
    let lab = lab();
    let options = Options {
        membership: lab.membership.clone(),
        id: ONE,
        port,
        own_port: port,
        lans: vec!["127.0.0.46".into()],
        joins: None,
        behind: None,
    };
    let discovery = Discovery::new(options, Arc::default(), watch::channel(None).1);
    let mut listeners = JoinSet::new();
    assert_eq!(discovery.bind(&mut listeners).unwrap().len(), 1);
    assert_eq!(listeners.len(), 1, "what ends is the LAN, and not one socket of it");
    listeners.shutdown().await;
    locked(&discovery.senders).clear();
    assert_eq!(discovery.bind(&mut listeners).unwrap().len(), 1);
}
