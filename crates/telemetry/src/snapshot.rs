//! Everything that a node shows of itself at one moment. `/status.json` and `/events` serve it as JSON, `/metrics` writes
//! it in another format, and `laneway status` and `laneway top` read it. Text that a peer chose is printable and bounded.
//!
//! Durations are in seconds, rates in bytes per second; "sent" is to the server and "received" from it. Later versions
//! may add fields; readers ignore unknown ones.

use serde::{Deserialize, Serialize};

use super::journal::Event;

/// What a node sees at one moment.
// fields: the schema of a JSON document
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Time in milliseconds since 1970 (UTC), by this machine's clock.
    pub at: u64,
    /// This node.
    pub node: NodeSeen,
    /// The servers in this node's configuration.
    pub servers: Vec<String>,
    /// Which destinations this node allows as a gateway; none where it cannot be one.
    #[serde(default)]
    pub rules: Option<RulesSeen>,
    /// What this node's last probe did not reach.
    #[serde(default)]
    pub unreached: Vec<Unreached>,
    /// The known gateways other than this node, in the order in which they are tried.
    pub gateways: Vec<GatewaySeen>,
    /// The links to gateways, the one in use first.
    pub links: Vec<LinkSeen>,
    /// The links of clients to this node while it is a gateway; the busiest ones.
    pub clients: Vec<LinkSeen>,
    /// The number of all links of clients.
    pub clients_in_all: usize,
    /// The number of those with an unanswered ping, which carry nothing as long as that lasts.
    #[serde(default)]
    pub clients_silent: usize,
    /// Connections of local apps.
    pub apps: Usage,
    /// Connections that this node carries for clients.
    pub served: Usage,
    /// The rates of the last two minutes, oldest first, one second apart.
    pub history: Vec<Rates>,
    /// Memory of connections.
    pub memory: Memory,
    /// Connections so far, by dialect.
    pub connections: Vec<Counted>,
    /// Failed connections, by kind of failure (and, in `side`, where it happened).
    pub failures: Vec<Counted>,
    /// The latest failed connections of apps, the last one first.
    #[serde(default)]
    pub failed: Vec<FailedSeen>,
    /// Connections that continued over another gateway, by how.
    pub rescued: Vec<Counted>,
    /// Connections of apps that were reset because of a gateway, by why.
    #[serde(default)]
    pub cut: Vec<Counted>,
    /// Downloads of apps that came over several gateways at the same time.
    #[serde(default)]
    pub spread: Spread,
    /// Requests of apps that were refused whatever their destination, by reason (and, in `side`, dialect).
    #[serde(default)]
    pub refused: Vec<Counted>,
    /// UDP datagrams that were dropped, by reason.
    #[serde(default)]
    pub udp_dropped: Vec<Counted>,
    /// Queries to the local name server, by transport.
    #[serde(default)]
    pub questions: Vec<Counted>,
    /// Plain requests that the gateway's cache took part in, by what became of them.
    #[serde(default)]
    pub cache: Vec<Counted>,
    /// Bytes of bodies that clients got without a transfer from the server.
    #[serde(default)]
    pub cache_saved: u64,
    /// What members give each other of large downloads.
    #[serde(default)]
    pub peers: PeersSeen,
    /// The registries that the local port has a front for, with their URLs.
    #[serde(default)]
    pub fronts: Vec<FrontSeen>,
    /// Files of registries that were checked against a digest, by registry (in `side`) and result.
    #[serde(default)]
    pub fronts_checked: Vec<Counted>,
    /// What the cache stores; `None` without one.
    #[serde(default)]
    pub cache_store: Option<StoreSeen>,
    /// The directories in which this node cannot store anything.
    #[serde(default)]
    pub unused: Vec<UnusedDirectory>,
    /// Why the last reload refused the configuration: the previous one is in force.
    #[serde(default)]
    pub refused_configuration: Option<String>,
    /// The stored responses that have saved most bytes, the first one most.
    #[serde(default)]
    pub cache_top: Vec<FileSeen>,
    /// Its answers, by response code (and, in `side`, their source: `cache`, `asked` or `here`).
    #[serde(default)]
    pub answers: Vec<Counted>,
    /// Events so far, by kind.
    pub happened: Vec<Counted>,
    /// Datagrams of discovery so far, by type (and, in `side`, `sent` or `heard`).
    pub datagrams: Vec<Counted>,
    /// Datagrams of discovery that were dropped, by reason.
    #[serde(default)]
    pub discovery_dropped: Vec<Counted>,
    /// The addresses of machines of other groups that announce themselves on this LAN; at most 16.
    #[serde(default)]
    pub other_groups: Vec<String>,
    /// Signatures of discovery datagrams that were verified.
    #[serde(default)]
    pub discovery_signatures: u64,
    /// Why the last gateway that was tried could not be used; none while a link is up.
    pub trouble: Option<String>,
    /// The latest events, oldest first.
    pub events: Vec<Event>,
}

/// Downloads that came over several gateways at the same time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Their number.
    pub downloads: u64,
    /// Their bytes.
    pub bytes: u64,
}

/// Connections of apps to one destination that failed for one reason.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FailedSeen {
    /// `host:port`
    pub target: String,
    /// Why, as a sentence.
    pub reason: String,
    /// When the last one failed, in milliseconds since 1970 (UTC), by this machine's clock.
    pub at: u64,
    /// How many have failed.
    pub count: u64,
}

/// A server, or what `--probe` names, that was not reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unreached {
    /// Its address or URL.
    pub server: String,
    /// Why, as a sentence.
    pub reason: String,
}

/// What has last proved that a gateway reaches the outside.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Proof {
    /// What answered: a destination, a page, or a name server.
    pub by: String,
    /// Seconds since then.
    pub ago: f64,
}

/// Which destinations a gateway allows, as `--server`, `--allow` and `--deny` say. At most 64 rules of each kind.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RulesSeen {
    /// Whether every destination is allowed that no rule denies.
    pub allows_any: bool,
    /// The rules that allow, of the servers first.
    pub allowed: Vec<String>,
    /// The rules that deny. They come first.
    pub denied: Vec<String>,
}

/// This node.
// fields: the schema of a JSON document
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSeen {
    /// Its name in the group.
    pub name: String,
    /// The first digits of its id.
    pub id: String,
    /// The group's name.
    pub group: String,
    /// The role that its certificate allows: `client` or `gateway`.
    pub role: String,
    /// The role in its configuration: `auto`, `client` or `gateway`.
    #[serde(default)]
    pub setting: String,
    /// The UDP port of discovery.
    #[serde(default)]
    pub discovery_port: Option<u16>,
    /// The interfaces and local addresses that it discovers on, by its configuration; none for all.
    #[serde(default)]
    pub lan: Vec<String>,
    /// Its state as a gateway of the group; none while it is not a candidate.
    pub state: Option<String>,
    /// The number of gateways of the group that may be active at a time, by its configuration.
    #[serde(default)]
    pub most_active: Option<u8>,
    /// Whether it can reach a server itself: `reachable`, `unreachable`, or `unproved`; none while it is not a candidate.
    pub reach: Option<String>,
    /// What has last proved that.
    #[serde(default)]
    pub proof: Option<Proof>,
    /// Whether connections of its apps go to servers directly, not over a link.
    pub goes_direct: bool,
    /// Whether it is about to stop and takes no new connections.
    pub is_draining: bool,
    /// Whether it serves no clients because of `laneway drain`.
    #[serde(default)]
    pub in_maintenance: bool,
    /// Whether it knows that the group has removed it.
    #[serde(default)]
    pub is_removed: bool,
    /// Its load as a gateway, from 0 to 1.
    pub load: Option<f64>,
    /// Its measured capacity as a gateway, in bit/s.
    pub capacity: Option<u64>,
    /// The version of the program.
    pub version: String,
    /// Start time in seconds since 1970 (UTC).
    pub started: f64,
    /// Seconds since the start.
    pub uptime: f64,
    /// The addresses of the local proxy.
    pub proxy: Vec<String>,
    /// Whether that asks software for a login.
    #[serde(default)]
    pub needs_login: bool,
    /// The address for links, if it accepts them.
    pub link: Option<String>,
    /// The directory of its keys and group state.
    #[serde(default)]
    pub directory: String,
}

/// A gateway, as this node knows it.
// fields: the schema of a JSON document
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewaySeen {
    /// The first digits of its id; none for an address that has not been proved.
    pub id: Option<String>,
    /// Its name, for which the authority vouches; none before it was heard and before the first link to it.
    pub name: Option<String>,
    /// The address for links: the one of the link to it, else the one that is tried first.
    pub address: String,
    /// Its other addresses: on other networks that it shares with this node, or of the other IP version.
    pub other_addresses: Vec<String>,
    /// The state that it announces (`active`, `standby`, `draining`, `withdrawn`); where nothing is heard of it, `linked` if
    /// there is a link to it, else `silent`.
    pub state: String,
    /// The state that it announced last, where it is no longer heard.
    pub last_state: Option<String>,
    /// Whether new connections use it.
    pub is_used: bool,
    /// Whether it left a ping unanswered lately: it ranks behind the others.
    pub is_suspect: bool,
    /// How long it is not dialled after failures, in seconds.
    pub paused_for: Option<f64>,
    /// Whether it can reach a server: `reachable`, `unreachable`, or `unproved`; none while it is silent.
    pub reach: Option<String>,
    /// Its load, from 0 to 1.
    pub load: Option<f64>,
    /// Its capacity in bit/s, as it measured it.
    pub capacity: Option<u64>,
    /// Its weight in percent.
    pub weight: Option<u16>,
    /// Open tunnels of all its clients.
    pub tunnels: Option<u32>,
    /// Round trip time in seconds: of a ping on the link, else from query to offer.
    pub round_trip: Option<f64>,
    /// Seconds since its last datagram.
    pub heard_ago: Option<f64>,
    /// How this node learned of it: `heard`, `named`, `static` or `remembered`.
    pub source: String,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkSeen {
    /// The first digits of the other node's id.
    pub id: String,
    /// The other node's name, as in its certificate.
    pub name: String,
    /// The other node's address.
    pub address: String,
    /// `active`: in use; `standby`: warm; `suspect`: a ping is unanswered; `accepted`: a client's.
    pub state: String,
    /// Seconds since it came up.
    pub age: f64,
    /// Open tunnels.
    pub tunnels: u32,
    /// Bytes of tunnels that this node sent on it.
    pub sent: u64,
    /// Bytes of tunnels that arrived on it.
    pub received: u64,
    /// Round trip time of the last ping, in seconds.
    pub round_trip: Option<f64>,
}

/// The connections of one side: of local apps, or of clients.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Open connections.
    pub open: u32,
    /// Connections so far.
    pub opened: u64,
    /// Bytes sent to servers so far.
    pub sent: u64,
    /// Bytes received from servers so far.
    pub received: u64,
    /// The busiest destinations.
    pub destinations: Vec<DestinationSeen>,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DestinationSeen {
    /// `host:port`
    pub target: String,
    /// Open connections.
    pub open: u32,
    /// Connections so far.
    pub opened: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Bytes sent to it so far.
    pub sent: u64,
    /// Bytes received from it so far.
    pub received: u64,
}

/// The throughput of one second, in bytes per second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// From local apps to servers.
    pub apps_sent: u64,
    /// From servers to local apps.
    pub apps_received: u64,
    /// From clients to servers.
    pub served_sent: u64,
    /// From servers to clients.
    pub served_received: u64,
}

/// One front of the local port.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FrontSeen {
    /// Its path at the local port, without slashes at its ends.
    pub name: String,
    /// The registry.
    pub url: String,
}

/// A stored response that was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSeen {
    /// The beginning of its URL.
    pub url: String,
    /// How often it was sent without a transfer of its own from the server.
    pub hits: u64,
    /// The bytes of its body that were sent in this way.
    pub saved: u64,
    /// The machines that got it, the one that fetched it included.
    pub machines: u32,
}

/// What this node and other members give each other of large downloads.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersSeen {
    /// Pieces, by what became of them.
    pub pieces: Vec<Counted>,
    /// Bytes of bodies that this machine's apps got from other members.
    pub received: u64,
    /// Bytes of bodies that other members got from this node.
    pub served: u64,
    /// What is kept for other members; `None` if nothing is.
    pub store: Option<StoreSeen>,
}

/// What the cache of a gateway stores.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoreSeen {
    /// The number of responses.
    pub entries: u64,
    /// The bytes that they take on the disk.
    pub bytes: u64,
    /// The bytes that they may take.
    pub limit: u64,
    /// The disk does not answer: nothing is stored, and nothing stored is used.
    #[serde(default)]
    pub is_hung: bool,
}

/// A directory in which a node cannot store what it should.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UnusedDirectory {
    /// What it is for: `cache` or `peer-cache`.
    pub what: String,
    /// Its path.
    pub directory: String,
    /// Why.
    pub reason: String,
    /// It was of no use when the node started, and is not tried again.
    #[serde(default)]
    pub until_restart: bool,
}

/// Memory of connections, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// In use.
    pub used: u64,
    /// The limit.
    pub limit: u64,
    /// What the largest holder holds: a client over all its links, or the apps of this node together.
    pub largest: u64,
}

/// A counter.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// What it counts.
    pub what: String,
    /// Its second label: a side, a direction or a dialect; empty where it has none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub side: String,
    /// Its value.
    pub count: u64,
}

impl Counted {
    /// A counter of `what`.
    pub fn new(what: impl Into<String>, side: impl Into<String>, count: u64) -> Self {
        Self { what: what.into(), side: side.into(), count }
    }
}

#[cfg(any(test, feature = "example"))]
const EXAMPLE_GATEWAYS: [(&str, &str, bool); 2] =
    [("7c1e09ab", "active", true), ("b2f04d17", "standby", false)];

#[cfg(any(test, feature = "example"))]
fn example_node() -> NodeSeen {
    NodeSeen {
        name: "workshop".into(),
        id: "41d0c77e".into(),
        group: "office".into(),
        role: "client".into(),
        setting: "auto".into(),
        discovery_port: Some(7420),
        lan: vec![],
        state: None,
        most_active: Some(1),
        reach: None,
        proof: None,
        goes_direct: false,
        is_draining: false,
        in_maintenance: false,
        is_removed: false,
        load: None,
        capacity: None,
        version: "0.1.0".into(),
        started: 1.0,
        uptime: 3920.0,
        proxy: vec!["127.0.0.1:1080".into()],
        needs_login: false,
        link: None,
        directory: String::new(),
    }
}

#[cfg(any(test, feature = "example"))]
fn example_failure() -> FailedSeen {
    FailedSeen { target: "h.example:443".into(), reason: "refused".into(), at: 999_000, count: 2 }
}

#[cfg(any(test, feature = "example"))]
fn example_peers() -> PeersSeen {
    PeersSeen { pieces: vec![Counted::new("received", "", 2)], received: 2000, ..PeersSeen::default() }
}

#[cfg(any(test, feature = "example"))]
fn example_gateway((id, state, is_used): (&str, &str, bool)) -> GatewaySeen {
    GatewaySeen {
        id: Some(id.into()),
        name: is_used.then(|| "mill-7".into()),
        address: "10.77.0.21:7420".into(),
        other_addresses: vec!["[fe80::21%2]:7420".into()],
        state: state.into(),
        last_state: None,
        is_used,
        is_suspect: false,
        paused_for: None,
        reach: Some("reachable".into()),
        load: Some(0.25),
        capacity: Some(9_400_000_000),
        weight: Some(100),
        tunnels: Some(18),
        round_trip: Some(0.000_42),
        heard_ago: Some(0.4),
        source: "heard".into(),
    }
}

/// A client with two gateways, in the middle of a download: for the tests of whatever shows a snapshot.
#[cfg(any(test, feature = "example"))]
pub fn example() -> Snapshot {
    use super::journal::Happening;
    let link = |id: &str, state: &str| LinkSeen {
        id: id.into(),
        name: if state == "active" { "mill-7" } else { "mill-8" }.into(),
        address: "10.77.0.21:7420".into(),
        state: state.into(),
        age: 3912.0,
        tunnels: 6,
        sent: 1000,
        received: 12_300_000,
        round_trip: Some(0.000_42),
    };
    let (who, text) = ("7c1e09ab", "said");
    let event = |number, what| Event { number, at: 1_000_000, what, who: who.into(), text: text.into() };
    let destination = DestinationSeen {
        target: "releases.corp.example:80".into(),
        open: 1,
        opened: 3,
        failed: 1,
        sent: 1000,
        received: 12_300_000,
    };
    Snapshot {
        at: 1_000_000,
        node: example_node(),
        servers: vec![],
        rules: None,
        unreached: vec![],
        gateways: EXAMPLE_GATEWAYS.map(example_gateway).to_vec(),
        links: vec![link("7c1e09ab", "active"), link("b2f04d17", "standby")],
        clients: vec![],
        clients_in_all: 0,
        clients_silent: 0,
        apps: Usage { open: 1, opened: 3, sent: 1000, received: 12_300_000, destinations: vec![destination] },
        served: Usage::default(),
        history: vec![Rates { apps_received: 12_300_000, ..Rates::default() }],
        memory: Memory { used: 1000, limit: 1_000_000, largest: 700 },
        connections: vec![Counted::new("connect", "", 3)],
        failures: vec![Counted::new("refused", "server", 1)],
        failed: vec![example_failure()],
        rescued: vec![],
        cut: vec![],
        spread: Spread { downloads: 2, bytes: 300_000_000 },
        refused: vec![],
        udp_dropped: vec![],
        questions: vec![],
        cache: vec![Counted::new("hit", "", 2)],
        cache_saved: 1000,
        peers: example_peers(),
        fronts: vec![FrontSeen { name: "pypi".into(), url: "https://pypi.example/simple/".into() }],
        fronts_checked: vec![Counted::new("verified", "pypi", 3)],
        cache_store: Some(StoreSeen { entries: 1, bytes: 5000, limit: 1_000_000, is_hung: false }),
        unused: Vec::new(),
        refused_configuration: None,
        cache_top: vec![FileSeen { url: "http://h/f".into(), hits: 2, saved: 1000, machines: 3 }],
        answers: vec![],
        happened: vec![],
        datagrams: vec![],
        discovery_dropped: vec![],
        other_groups: vec![],
        discovery_signatures: 0,
        trouble: None,
        events: vec![event(1, Happening::LinkLost), event(2, Happening::Resumed)],
    }
}
