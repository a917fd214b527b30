//! An app's datagrams move to another gateway when theirs fails, without a new association.

use super::way_out::Open;
use crate::lab::fleet::Fleet;
use crate::lab::group::START;
use crate::lab::web::who;
use crate::lab::{Case, Host, Lab, wait_until};
use nix::sys::signal::Signal;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream, UdpSocket};
use std::thread;
use std::time::Duration;

pub(super) const CASES: &[Case] = &[
    ("associate::datagrams_leave_a_gateway_that_hangs", datagrams_leave_a_gateway_that_hangs),
    ("associate::datagrams_leave_a_gateway_that_stops", datagrams_leave_a_gateway_that_stops),
    (
        "associate::datagrams_leave_a_gateway_whose_uplink_drops_them",
        datagrams_leave_a_gateway_whose_uplink_drops_them,
    ),
    ("associate::a_datagram_waits_while_there_is_no_gateway", a_datagram_waits_while_there_is_no_gateway),
];

/// The UDP port of s1's echo.
const PORT: u16 = 7777;
const OPEN: [&str; 2] = ["--allow", "10.88.0.0/24"];
/// The interval after which the app repeats a question.
const AGAIN: Duration = Duration::from_millis(100);

/// An app with one association, which it opens once.
struct App {
    _control: TcpStream,
    socket: UdpSocket,
    header: Vec<u8>,
    asked: u32,
}

impl App {
    fn associate(host: &Host, server: Ipv4Addr) -> Self {
        let mut control = host.connect(([127, 0, 0, 1], 1080)).unwrap();
        control.write_all(b"\x05\x01\0\x05\x03\0\x01\0\0\0\0\0\0").unwrap();
        let mut reply = [0; 12];
        control.read_exact(&mut reply).unwrap();
        let [5, 0, 5, 0, 0, 1, 127, 0, 0, 1, high, low] = reply else { panic!("{reply:?}") };
        let socket = host.inside(|| UdpSocket::bind("127.0.0.1:0")).unwrap();
        socket.connect((Ipv4Addr::LOCALHOST, u16::from_be_bytes([high, low]))).unwrap();
        socket.set_read_timeout(Some(AGAIN)).unwrap();
        let header = [&[0, 0, 0, 1][..], &server.octets(), &PORT.to_be_bytes()].concat();
        Self { _control: control, socket, header, asked: 0 }
    }

    fn ask(&mut self) {
        self.asked += 1;
        self.socket.send(&[&self.header[..], &self.asked.to_be_bytes()].concat()).unwrap();
    }

    /// The address of the gateway that the last question came through, if its answer has arrived.
    fn answered(&self) -> Option<Ipv4Addr> {
        let mut buffer = [0; 64];
        loop {
            let length = self.socket.recv(&mut buffer).ok()?;
            let payload = buffer[..length].strip_prefix(&self.header[..]).expect("from the server");
            let (number, address) = payload.split_first_chunk::<4>().unwrap();
            if *number == self.asked.to_be_bytes() {
                return Some(Ipv4Addr::from(<[u8; 4]>::try_from(address).unwrap()));
            }
        }
    }

    /// Asks until there is an answer.
    fn serving(&mut self, fleet: &Fleet) -> usize {
        let mut by = None;
        wait_until("an answer", || {
            self.ask();
            by = self.answered();
            by.is_some()
        });
        fleet.which(by.unwrap())
    }
}

/// Answers each datagram with its content and the address that it came from.
fn echo(lab: &Lab) {
    let address = SocketAddr::from((lab.server.address(), PORT));
    let socket = lab.server.inside(|| UdpSocket::bind(address)).unwrap();
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, SocketAddr::V4(from))) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(&[&buffer[..length], &from.ip().octets()].concat(), from);
        }
    });
}

fn datagrams_leave_a_gateway_that_hangs(lab: &Lab) {
    let _web = lab.web(who);
    echo(lab);
    let fleet = lab.fleet(2, &OPEN);
    let mut app = App::associate(&fleet.client, lab.server.address());
    let first = app.serving(&fleet);
    fleet.gateways[first].signal(Signal::SIGSTOP);
    assert_eq!(app.serving(&fleet), 1 - first);
    // Before its link counted as dead.
    let log = fleet.node.log();
    assert!(log.contains("UDP moves on to the next gateway"), "{log}");
    fleet.gateways[first].signal(Signal::SIGCONT);
    app.serving(&fleet);
}

fn datagrams_leave_a_gateway_that_stops(lab: &Lab) {
    let _web = lab.web(who);
    echo(lab);
    // An open connection keeps the link up.
    let held = lab.serve(81, |_, mut stream| stream.read(&mut [0]).map(drop));
    let mut fleet = lab.fleet(2, &OPEN);
    let mut app = App::associate(&fleet.client, lab.server.address());
    let first = app.serving(&fleet);
    let mut open = fleet.client.connect(([127, 0, 0, 1], 1080)).unwrap();
    open.write_all(b"CONNECT 10.88.0.100:81 HTTP/1.1\r\nHost: 10.88.0.100:81\r\n\r\n").unwrap();
    wait_until("a connection to be open", || !held.from().is_empty());
    assert_eq!(fleet.which(held.from()[0]), first);
    let mut stopping = fleet.take(first);
    stopping.signal(Signal::SIGTERM);
    stopping.wait_for_line("stopping: open connections may finish", START);
    wait_until("the datagrams to move", || app.serving(&fleet) == 1 - first);
    assert!(stopping.is_running(), "the old way is still there");
}

/// Only the missing answers show the failure, and no other request is made.
fn datagrams_leave_a_gateway_whose_uplink_drops_them(lab: &Lab) {
    let _web = lab.web(who);
    echo(lab);
    let open = Open::start_with(lab, &["--probe-interval", "3600"], &[]);
    let first = open.serving();
    let mut app = App::associate(&open.client, lab.server.address());
    let outside = |which: usize| open.gateways[which].addresses()[1];
    let mut by = None;
    wait_until("an answer", || {
        app.ask();
        by = app.answered();
        by.is_some()
    });
    assert_eq!(by, Some(outside(first)));
    lab.server.filter(&format!("ip saddr {} drop", outside(first)));
    wait_until("the datagrams to move", || {
        app.ask();
        app.answered() == Some(outside(1 - first))
    });
}

fn a_datagram_waits_while_there_is_no_gateway(lab: &Lab) {
    let _web = lab.web(who);
    echo(lab);
    let mut fleet = lab.fleet_with(2, &OPEN, &["--hold", "25"]);
    let mut app = App::associate(&fleet.client, lab.server.address());
    let last = app.serving(&fleet);
    for gateway in 0..2 {
        fleet.kill(gateway);
    }
    // The datagram that detects the failure may be lost; this one is sent once.
    app.ask();
    wait_until("the links to be gone", || fleet.link().is_empty());
    while app.answered().is_some() {}
    app.ask();
    // Longer than the pause after a failed destination: the datagram is held, and not just late.
    thread::sleep(Duration::from_secs(3));
    fleet.start(1 - last);
    wait_until("the datagram to arrive", || {
        app.answered().is_some_and(|gateway| gateway == fleet.gateways[1 - last].outside())
    });
}
