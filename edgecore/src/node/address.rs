//! The address that others reach this machine by.
//!
//! A machine without a network still runs what its store holds: it goes on with the address that its Node had.

use std::net::{IpAddr, Ipv4Addr, UdpSocket};

use k8s_openapi::api::core::v1::Node;

/// `wanted` from the configuration wins; else the one that the route to the outside uses now. `None`: no route.
#[must_use]
pub fn address(wanted: Option<IpAddr>) -> Option<IpAddr> {
    wanted.or_else(outward)
}

/// The one to start with. `known`: this machine's Node as the store holds it.
#[must_use]
pub fn first_address(wanted: Option<IpAddr>, known: Option<&Node>) -> IpAddr {
    address(wanted).or_else(|| known.and_then(last)).unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST))
}

fn last(node: &Node) -> Option<IpAddr> {
    let addresses = node.status.as_ref()?.addresses.as_ref()?;
    addresses.iter().find(|address| address.type_ == "InternalIP")?.address.parse().ok()
}

/// The address of the interface that a packet to the outside would leave by. Nothing is sent: connecting a UDP socket only
/// asks the routing table. The addresses are documentation ones, reachable by nobody.
fn outward() -> Option<IpAddr> {
    let ask = |bind: &str, to: &str| {
        let socket = UdpSocket::bind(bind).ok()?;
        socket.connect(to).ok()?;
        let address = socket.local_addr().ok()?.ip();
        (!address.is_loopback() && !address.is_unspecified()).then_some(address)
    };
    ask("0.0.0.0:0", "192.0.2.1:9").or_else(|| ask("[::]:0", "[2001:db8::1]:9"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_node_without_a_route_keeps_its_address() {
        let node =
            |status| serde_json::from_value::<Node>(json!({"metadata": {}, "status": status})).unwrap();
        let check = |status, expected: Option<&str>| {
            assert_eq!(last(&node(status)), expected.map(|text| text.parse().unwrap()));
        };
        let hostname = json!({"type": "Hostname", "address": "edge-1"});
        check(
            json!({"addresses": [hostname, {"type": "InternalIP", "address": "10.0.0.7"}]}),
            Some("10.0.0.7"),
        );
        check(json!({"addresses": [hostname]}), None);
        check(json!({"addresses": [{"type": "InternalIP", "address": "nonsense"}]}), None);
        check(json!({}), None);
        let wanted = "192.0.2.7".parse().unwrap();
        assert_eq!(first_address(Some(wanted), None), wanted);
    }
}
