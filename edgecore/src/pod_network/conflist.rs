//! Pure: ranges of pod addresses to the text of a CNI configuration, and whose a file is.

use std::collections::BTreeSet;
use std::net::IpAddr;

use ke_api::pod_network::{FILE, is_of_others};
use serde_json::{Value, json};

/// The network's name, by which plugins keep their files.
pub const NETWORK: &str = "isthmus";
/// The bridge. Not to be chosen: it goes when the machine is no node any more, and must be nobody else's.
pub(super) const BRIDGE: &str = "isthmus0";
/// The plugins that it needs, with `loopback`, which runtimes themselves ask for.
pub const PLUGINS: [&str; 4] = ["bridge", "host-local", "loopback", "portmap"];
/// Where `host-local` writes down which address is whose, a folder for each network; its own default.
pub(super) const LEASES: &str = "/var/lib/cni/networks";

/// What the Node says is no range.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "the Node's range of pod addresses (spec.podCIDR, or else the annotation isthmus.io/pod-range) is {0:?}, expected a range with room for pods, such as 10.208.1.0/24: `kubectl delete node` and \
     a restart of edgecore make the cloud give another one"
)]
pub struct BadRange(String);

/// The configuration. Version 0.4.0 has all that is in it, and is understood by the plugins and runtimes of ten years.
///
/// `forceAddress`: a Node that was deleted comes back with another range, and the bridge must take its address then.
pub fn conflist(ranges: &[String]) -> Result<String, BadRange> {
    let (mut pools, mut routes) = (Vec::new(), Vec::new());
    for range in ranges {
        let is_v6 = is_v6(range)?;
        pools.push(json!([{"subnet": range}]));
        routes.push(json!({"dst": if is_v6 { "::/0" } else { "0.0.0.0/0" }}));
    }
    let config = json!({
        "cniVersion": "0.4.0",
        "name": NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": BRIDGE,
                "isGateway": true,
                "forceAddress": true,
                "ipMasq": true,
                "hairpinMode": true,
                "ipam": {"type": "host-local", "dataDir": LEASES, "ranges": Value::Array(pools), "routes": routes},
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    });
    Ok(format!("{config:#}\n"))
}

/// The plugin takes no smaller range than four addresses.
fn is_v6(range: &str) -> Result<bool, BadRange> {
    let bad = || BadRange(range.to_owned());
    let (address, prefix) = range.split_once('/').ok_or_else(bad)?;
    let address: IpAddr = address.parse().map_err(|_| bad())?;
    let prefix: u8 = prefix.parse().map_err(|_| bad())?;
    let longest = if address.is_ipv6() { 126 } else { 30 };
    if prefix == 0 || prefix > longest { Err(bad()) } else { Ok(address.is_ipv6()) }
}

/// The first configuration in a folder, if that is not ours: runtimes take it, and none that comes after ours.
#[must_use]
pub fn stranger(names: &BTreeSet<String>) -> Option<String> {
    names.iter().find(|name| is_of_others(name)).filter(|name| name.as_str() < FILE).cloned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_make_a_configuration() {
        let check = |ranges: &[&str], pools: Value, routes: Value| {
            let ranges: Vec<String> = ranges.iter().map(|range| (*range).to_owned()).collect();
            let config: Value = serde_json::from_str(&conflist(&ranges).unwrap()).unwrap();
            assert_eq!(config["name"], NETWORK);
            assert_eq!(config["plugins"][0]["bridge"], BRIDGE);
            let ipam = &config["plugins"][0]["ipam"];
            assert_eq!((&ipam["ranges"], &ipam["routes"]), (&pools, &routes), "{ranges:?}");
        };
        let all = json!({"dst": "0.0.0.0/0"});
        check(&["10.208.1.0/24"], json!([[{"subnet": "10.208.1.0/24"}]]), json!([all]));
        check(
            &["10.208.1.0/24", "fd00:1::/64"],
            json!([[{"subnet": "10.208.1.0/24"}], [{"subnet": "fd00:1::/64"}]]),
            json!([all, {"dst": "::/0"}]),
        );
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for bad in ["", "10.0.0.0", "10.0.0/24", "10.0.0.0/0", "10.0.0.0/31", "10.0.0.0/x", "fd00::/127"] {
            assert_eq!(conflist(&[bad.to_owned()]), Err(BadRange(bad.to_owned())));
        }
    }

    #[test]
    fn whose_a_file_is() {
        let check = |names: &[&str], expected: Option<&str>| {
            let names = names.iter().map(|name| (*name).to_owned()).collect();
            assert_eq!(stranger(&names).as_deref(), expected);
        };
        check(&[], None);
        check(&[FILE, "99-isthmus.conflist.new", "README", ".kubernetes-cni-keep"], None);
        check(&[FILE, "10-flannel.conflist"], Some("10-flannel.conflist"));
        check(&["87-podman.conflist", "a.conf"], Some("87-podman.conflist"));
        check(&["05-x.json"], Some("05-x.json"));
        // Ours counts before these.
        check(&["x.json", "a.conf", "99-kind.conflist"], None);
    }
}
