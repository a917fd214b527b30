//! Whether this machine's own interfaces are why no gateway is reached.

use std::net::SocketAddr;

use crate::lan::{self, InterfaceState};
use crate::net;

/// Why this machine itself reaches none of these gateways, as a sentence that names its interfaces; `None` while it is connected
/// to the network of one of them, or to any where none is known.
pub fn fault(gateways: &[SocketAddr]) -> Option<String> {
    let interfaces = lan::interface_states().ok()?;
    let cut_off = cut_off(&interfaces, gateways, &|gateway| net::own_address_to(gateway).is_some())?;
    let each: Vec<_> = cut_off.into_iter().map(state).collect();
    let why = each.join(", and ");
    Some(format!("this machine itself is cut off: its interface {why} ('laneway doctor' says what to do)"))
}

/// The interfaces that cut this machine off; `None` if it is not cut off, and without any interface.
fn cut_off<'a>(
    interfaces: &'a [InterfaceState],
    gateways: &[SocketAddr],
    has_route: &dyn Fn(SocketAddr) -> bool,
) -> Option<Vec<&'a InterfaceState>> {
    let leads_to_one =
        |interface: &&InterfaceState| gateways.iter().any(|gateway| leads_to(interface, *gateway));
    let (up, down): (Vec<_>, Vec<_>) = interfaces.iter().partition(|interface| interface.is_up);
    let (bare, usable): (Vec<_>, Vec<_>) = up.into_iter().partition(|interface| interface.nets.is_empty());
    if usable.iter().any(leads_to_one) || gateways.is_empty() && !usable.is_empty() {
        return None;
    }
    let to_gateways: Vec<_> = down.iter().copied().filter(leads_to_one).collect();
    match () {
        () if !to_gateways.is_empty() => Some(to_gateways),
        () if gateways.iter().any(|gateway| has_route(*gateway)) => None,
        // It is not known which of several networks is the gateways'.
        () => {
            let all = if usable.is_empty() { [bare, down].concat() } else { bare };
            (!all.is_empty()).then_some(all)
        }
    }
}

fn leads_to(interface: &InterfaceState, gateway: SocketAddr) -> bool {
    match gateway {
        SocketAddr::V6(link_local) if link_local.scope_id() != 0 => {
            net::interface_name(link_local.scope_id()).as_ref() == Some(&interface.name)
        }
        _ => interface.nets.iter().any(|net| net.contains(&gateway.ip())),
    }
}

fn state(interface: &InterfaceState) -> String {
    let name = &interface.name;
    match () {
        () if !interface.is_on => format!("{name} is switched off or not connected"),
        () if !interface.is_up => format!("{name} has no carrier, as when its cable is out"),
        () => format!("{name} has no address"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn interface(name: &str, net: &str, is_up: bool) -> InterfaceState {
        let nets = net.parse().into_iter().collect();
        InterfaceState { name: name.into(), nets, is_up, is_on: true }
    }

    #[test]
    fn a_machine_is_cut_off_by_the_interfaces_that_lead_to_its_gateways() {
        let near: SocketAddr = "10.77.0.21:7420".parse().unwrap();
        let far: SocketAddr = "10.99.0.21:7420".parse().unwrap();
        let (lan, lan_down) =
            (interface("lan", "10.77.0.11/24", true), interface("lan", "10.77.0.11/24", false));
        let (bare, other) = (interface("lan", "", true), interface("wifi", "192.168.1.2/24", true));
        let dark = interface("eth1", "10.5.0.1/24", false);
        type Row<'a> = (Vec<&'a InterfaceState>, Vec<SocketAddr>, Option<&'a [&'a str]>);
        let rows: [Row<'_>; 12] = [
            (vec![&lan], vec![near], None),
            (vec![&lan, &dark], vec![near], None),
            (vec![&lan_down], vec![near], Some(&["lan"])),
            (vec![&lan_down, &other], vec![near], Some(&["lan"])),
            (vec![&lan_down, &other, &dark], vec![near, far], Some(&["lan"])),
            (vec![&bare], vec![near], Some(&["lan"])),
            (vec![&bare, &other], vec![near], Some(&["lan"])),
            // It has been carried to another network.
            (vec![&other, &dark], vec![near], None),
            (vec![&other], vec![], None),
            (vec![&dark], vec![], Some(&["eth1"])),
            (vec![&dark], vec![near], Some(&["eth1"])),
            (vec![], vec![near], None),
        ];
        for (interfaces, gateways, expected) in rows {
            let interfaces: Vec<_> = interfaces.into_iter().cloned().collect();
            let found = cut_off(&interfaces, &gateways, &|_| false);
            let names = found.map(|all| all.into_iter().map(|one| one.name.as_str()).collect::<Vec<_>>());
            assert_eq!(names.as_deref(), expected, "{interfaces:?} {gateways:?}");
        }
        assert_eq!(cut_off(&[bare], &[far], &|_| true), None, "behind a router");
    }
}
