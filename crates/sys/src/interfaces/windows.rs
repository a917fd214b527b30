use std::io;

use ipnet::IpNet;

use crate::adapters;
use crate::interface::Interface;

pub(crate) fn all() -> io::Result<Vec<Interface>> {
    let interfaces = adapters::all()?.into_iter().flat_map(|adapter| {
        let networks = adapter.networks.clone();
        networks.into_iter().map(move |net| Interface {
            name: adapter.name.clone(),
            scope: match net {
                IpNet::V6(v6) if v6.addr().is_unicast_link_local() => adapter.index,
                _ => 0,
            },
            net,
            is_up: adapter.is_up,
            // The status does not tell an interface that is switched off from one without a cable.
            is_on: adapter.is_up,
            is_loopback: adapter.is_loopback,
            broadcasts: !adapter.is_loopback && !adapter.is_point_to_point,
            multicasts: adapter.multicasts,
            is_internal: false,
        })
    });
    Ok(interfaces.collect())
}

/// The names of all interfaces, also of those without an IP address.
pub(crate) fn names() -> io::Result<Vec<String>> {
    Ok(adapters::all()?.into_iter().map(|adapter| adapter.name).collect())
}

/// The names of the interfaces that are switched on and connected, loopback excluded, also without an IP address.
pub(crate) fn connected() -> io::Result<Vec<String>> {
    let connected = adapters::all()?.into_iter().filter(|adapter| adapter.is_up && !adapter.is_loopback);
    Ok(connected.map(|adapter| adapter.name).collect())
}

pub(crate) fn index_of(name: &str) -> Option<u32> {
    let adapters = adapters::all().ok()?;
    adapters.into_iter().find(|adapter| adapter.name == name).map(|adapter| adapter.index)
}
