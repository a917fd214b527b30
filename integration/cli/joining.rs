//! Joining on a LAN where another machine has the same code, and answers in place of the one that made it.

use std::net::TcpListener;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use laneway::sys::lan::{self, LanSocket};
use laneway::trust::code::JoinCode;
use laneway::wire::datagram::{Datagram, Keys, Message, Received, SIZE, Way};
use laneway::wire::id::NodeId;
use nix::sys::signal::Signal;

use crate::machine::{Machine, Node, free_udp_port};

/// How long a command may take to ask. Reached only by a test that fails.
const PATIENCE: Duration = Duration::from_secs(60);

/// From this address, answers each query for the code with a port of its own. Tells `answered` of each answer.
fn answer_in_its_place(
    address: &'static str,
    port: u16,
    code: &JoinCode,
    link_port: u16,
    answered: Sender<()>,
) {
    let (keys, group) = (Keys::new(&code.discovery_key()), code.group);
    let answering = async move {
        let lan = lan::lans(&[address.to_owned()]).unwrap().remove(0);
        let own = LanSocket::unicast(&lan, port).unwrap();
        let all = LanSocket::broadcast(&lan, port, &own).unwrap();
        answered.send(()).unwrap();
        let mut buffer = [0; SIZE];
        loop {
            let heard = all.as_ref().unwrap_or(&own).receive(&mut buffer).await.unwrap();
            let way = Way { from: heard.from, to: own.own };
            let query = Datagram::decode(&buffer[..heard.size], group, &keys, way);
            let Ok(Received::Unsigned(Datagram { message: Message::JoinQuery { nonce, .. }, .. })) = query
            else {
                continue;
            };
            let message = Message::JoinOffer { nonce, link_port };
            let offer = Datagram { group, epoch: 1, sender: NodeId([7; 16]), message };
            let offer = offer.encode(&keys, Way { from: own.own, to: heard.from }, None);
            own.send(&offer, heard.from).await.unwrap();
            let _ = answered.send(());
        }
    };
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(answering);
    });
}

/// A port of this address that no program has.
fn closed_port(address: &str) -> u16 {
    TcpListener::bind((address, 0)).unwrap().local_addr().unwrap().port()
}

#[test]
fn a_machine_joins_although_others_with_its_code_answer_first() {
    let (first, code) = Machine::with_group();
    let port = free_udp_port("127.0.0.130");
    let mut up = first.command(["up", "--lan", "127.0.0.130", "--link", "127.0.0.130:0"]);
    up.args(["--proxy", "127.0.0.130:0", "--discovery-port", &port.to_string(), "--role", "gateway"]);
    up.args(["--allow", "127.0.0.0/8"]).env("LANEWAY_PROBE", "none");
    let node = Node::start(&mut up);
    let parsed: JoinCode = code.parse().unwrap();
    // One refuses connections, the other takes them and says nothing.
    let silent = TcpListener::bind("127.0.0.132:0").unwrap();
    let (answered, answers) = channel();
    let others =
        [("127.0.0.131", closed_port("127.0.0.131")), ("127.0.0.132", silent.local_addr().unwrap().port())];
    for (address, link_port) in others {
        answer_in_its_place(address, port, &parsed, link_port, answered.clone());
        answers.recv_timeout(PATIENCE).unwrap();
    }
    // The machine that made the code answers after both.
    node.signal(Signal::SIGSTOP);
    let second = Machine::new();
    let lan = ["--lan", "127.0.0.133", "--discovery-port", &port.to_string()].map(str::to_owned);
    let mut join = second.command(["join", &code, "--name", "second"]);
    join.args(lan).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let joining = join.spawn().unwrap();
    for _ in others {
        answers.recv_timeout(PATIENCE).unwrap();
    }
    node.signal(Signal::SIGCONT);
    let output = crate::machine::Output::ended(joining.wait_with_output().unwrap()).success();
    assert!(output.stdout.contains("Joined the group 'lan' as 'second'"), "{output}");
}

#[test]
fn a_join_that_nobody_admits_names_each_address_that_was_tried() {
    let (_, code) = Machine::with_group();
    let port = free_udp_port("127.0.0.134");
    let parsed: JoinCode = code.parse().unwrap();
    let (answered, answers) = channel();
    let others = ["127.0.0.134", "127.0.0.135"].map(|address| (address, closed_port(address)));
    for (address, link_port) in others {
        answer_in_its_place(address, port, &parsed, link_port, answered.clone());
        answers.recv_timeout(PATIENCE).unwrap();
    }
    let machine = Machine::new();
    let output =
        machine.laneway(["join", &code, "--lan", "127.0.0.136", "--discovery-port", &port.to_string()]);
    let tried =
        others.map(|(address, port)| format!("caused by: cannot join at {address}:{port}: Connection"));
    output.failed(
        1,
        &[
            "error: none of the machines that answered admits this one",
            &tried[0],
            &tried[1],
            "hint: 'laneway up' has to run on the machine that made the code; if another machine",
        ],
    );
}
