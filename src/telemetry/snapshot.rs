//! All that a node shows of itself, at one moment: what `/status.json` gives, `/events` repeats, `/metrics` writes in
//! another form, and `laneway status` and `laneway top` read. Text in it that a peer chose is printable and bounded.
//!
//! Durations are in seconds, rates in bytes a second, "sent" is towards the server and "received" from it. Later
//! versions may add fields; readers ignore what they do not know.

use serde::{Deserialize, Serialize};

use super::journal::Event;

/// What a node sees at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// When, in milliseconds since 1970 (UTC), by this machine's clock.
    pub at: u64,
    /// This node.
    pub node: NodeSeen,
    /// The servers that this node was told of.
    pub servers: Vec<String>,
    /// The gateways that it knows, in the order in which it tries them.
    pub gateways: Vec<GatewaySeen>,
    /// Its links to gateways, the one in use first.
    pub links: Vec<LinkSeen>,
    /// The links of others to it, while it is a gateway; the busiest ones.
    pub clients: Vec<LinkSeen>,
    /// How many links of others there are in all.
    pub clients_in_all: usize,
    /// Connections of this machine's apps.
    pub apps: Usage,
    /// Connections that it carries for others.
    pub served: Usage,
    /// The rates of the last seconds, the oldest first, a second apart.
    pub history: Vec<Rates>,
    /// What connections hold in memory.
    pub memory: Memory,
    /// Connections so far, by dialect.
    pub connections: Vec<Counted>,
    /// Failed connections, by what went wrong (and, in `side`, where).
    pub failures: Vec<Counted>,
    /// Connections that went on over another gateway, by how.
    pub rescued: Vec<Counted>,
    /// Requests of apps that were refused for what they are, by reason (and, in `side`, dialect).
    #[serde(default)]
    pub refused: Vec<Counted>,
    /// Datagrams of UDP that were dropped, by reason.
    #[serde(default)]
    pub udp_dropped: Vec<Counted>,
    /// Questions to the local name server, by transport.
    #[serde(default)]
    pub questions: Vec<Counted>,
    /// Its answers, by code (and, in `side`, where they are from: `cache`, `asked` or `here`).
    #[serde(default)]
    pub answers: Vec<Counted>,
    /// Events so far, by what happened.
    pub happened: Vec<Counted>,
    /// Datagrams of discovery, by type (and, in `side`, `sent` or `heard`).
    pub datagrams: Vec<Counted>,
    /// What went wrong with the last gateway that was tried; none once a link stands.
    pub trouble: Option<String>,
    /// The latest events, the oldest of them first.
    pub events: Vec<Event>,
}

/// This node.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct NodeSeen {
    /// Its name in the group.
    pub name: String,
    /// The first digits of its id.
    pub id: String,
    /// The group's name.
    pub group: String,
    /// What it may be: `client` or `gateway`.
    pub role: String,
    /// What it is to the group as a gateway; none while it is no candidate.
    pub state: Option<String>,
    /// Whether it reaches a server itself, as far as it probes one.
    pub reach: Option<String>,
    /// Its apps' connections leave from here, and not over a link.
    pub goes_direct: bool,
    /// It takes no new connections: it is about to stop.
    pub is_draining: bool,
    /// Load in parts of one, as a gateway.
    pub load: Option<f64>,
    /// Measured capacity in bit/s, as a gateway.
    pub capacity: Option<u64>,
    /// The version of the program.
    pub version: String,
    /// When it started, in seconds since 1970 (UTC).
    pub started: f64,
    /// Seconds since then.
    pub uptime: f64,
    /// Where the local proxy listens.
    pub proxy: Vec<String>,
    /// Where links are accepted, if they are.
    pub link: Option<String>,
}

/// A gateway, as known here.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GatewaySeen {
    /// The first digits of its id; none for an address that was only named.
    pub id: Option<String>,
    /// What it is called; none until there has been a link to it, which proves it.
    pub name: Option<String>,
    /// Where it accepts links: the address of the link to it, else the one that is tried first.
    pub address: String,
    /// Its other addresses: it is on several networks with this node, or speaks IPv4 and IPv6.
    pub other_addresses: Vec<String>,
    /// What it says it is (`active`, `standby`, `draining`, `withdrawn`), or `silent`.
    pub state: String,
    /// Connections use it now.
    pub is_used: bool,
    /// It left a ping unanswered lately: it comes behind the others.
    pub is_suspect: bool,
    /// For so long it is not dialled, after failures.
    pub paused_for: Option<f64>,
    /// Whether it reaches a server: `reachable`, `unreachable`, or `not probed`; none while it is silent.
    pub reach: Option<String>,
    /// Load in parts of one.
    pub load: Option<f64>,
    /// Capacity in bit/s, as it measured it.
    pub capacity: Option<u64>,
    /// Its weight in percent.
    pub weight: Option<u16>,
    /// Tunnels that are open through it, of all its clients.
    pub tunnels: Option<u32>,
    /// Round trip in seconds: of a ping on the link, else from query to offer.
    pub round_trip: Option<f64>,
    /// Seconds since it last spoke.
    pub heard_ago: Option<f64>,
    /// How it came to be known: `heard`, `named`, `static` or `remembered`.
    pub source: String,
}

/// One link.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LinkSeen {
    /// The first digits of the other node's id.
    pub id: String,
    /// What it is called, by its certificate.
    pub name: String,
    /// Where the other end is.
    pub address: String,
    /// `active`: in use; `standby`: warm; `suspect`: a ping is unanswered; `accepted`: a client's.
    pub state: String,
    /// Seconds since it stands.
    pub age: f64,
    /// Tunnels that are open on it.
    pub tunnels: u32,
    /// Bytes that this node sent on it: of tunnels, towards the other end.
    pub sent: u64,
    /// Bytes that arrived on it.
    pub received: u64,
    /// The last round trip of a ping, in seconds.
    pub round_trip: Option<f64>,
}

/// Connections of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Usage {
    /// Open now.
    pub open: u32,
    /// Begun so far.
    pub opened: u64,
    /// Bytes so far.
    pub sent: u64,
    /// Bytes so far.
    pub received: u64,
    /// The busiest destinations.
    pub destinations: Vec<DestinationSeen>,
}

/// One destination.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DestinationSeen {
    /// `host:port`
    pub target: String,
    /// Connections that are open.
    pub open: u32,
    /// Connections begun so far.
    pub opened: u64,
    /// Connections that failed.
    pub failed: u64,
    /// Bytes so far.
    pub sent: u64,
    /// Bytes so far.
    pub received: u64,
}

/// One second, in bytes a second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rates {
    /// Of this machine's apps, to servers.
    pub apps_sent: u64,
    /// Of this machine's apps, from servers.
    pub apps_received: u64,
    /// Of others, to servers.
    pub served_sent: u64,
    /// Of others, from servers.
    pub served_received: u64,
}

/// Memory, in bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Memory {
    /// What connections hold.
    pub used: u64,
    /// What they may hold.
    pub limit: u64,
}

/// How often something has happened.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counted {
    /// What.
    pub what: String,
    /// On whose side, or in which direction; empty where that does not matter.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub side: String,
    /// How often.
    pub count: u64,
}

impl Counted {
    /// `count` times `what`.
    pub fn new(what: impl Into<String>, side: impl Into<String>, count: u64) -> Self {
        Self { what: what.into(), side: side.into(), count }
    }
}

/// A client with two gateways, in the middle of a download: what tests of those who show it begin with.
#[cfg(test)]
pub(crate) fn example() -> Snapshot {
    use super::journal::Happening;
    let gateway = |id: &str, state: &str, is_used: bool| GatewaySeen {
        id: Some(id.into()),
        name: is_used.then(|| "mill-7".into()),
        address: "10.77.0.21:7420".into(),
        other_addresses: vec!["[fe80::21%2]:7420".into()],
        state: state.into(),
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
    };
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
    let event =
        |number, what| Event { number, at: 1_000_000, what, who: "7c1e09ab".into(), text: "said".into() };
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
        node: NodeSeen {
            name: "workshop".into(),
            id: "41d0c77e".into(),
            group: "office".into(),
            role: "client".into(),
            state: None,
            reach: None,
            goes_direct: false,
            is_draining: false,
            load: None,
            capacity: None,
            version: "0.1.0".into(),
            started: 1.0,
            uptime: 3920.0,
            proxy: vec!["127.0.0.1:1080".into()],
            link: None,
        },
        servers: vec![],
        gateways: vec![gateway("7c1e09ab", "active", true), gateway("b2f04d17", "standby", false)],
        links: vec![link("7c1e09ab", "active"), link("b2f04d17", "standby")],
        clients: vec![],
        clients_in_all: 0,
        apps: Usage { open: 1, opened: 3, sent: 1000, received: 12_300_000, destinations: vec![destination] },
        served: Usage::default(),
        history: vec![Rates { apps_received: 12_300_000, ..Rates::default() }],
        memory: Memory { used: 1000, limit: 1_000_000 },
        connections: vec![Counted::new("connect", "", 3)],
        failures: vec![Counted::new("refused", "server", 1)],
        rescued: vec![],
        refused: vec![],
        udp_dropped: vec![],
        questions: vec![],
        answers: vec![],
        happened: vec![],
        datagrams: vec![],
        trouble: None,
        events: vec![event(1, Happening::LinkLost), event(2, Happening::Resumed)],
    }
}
