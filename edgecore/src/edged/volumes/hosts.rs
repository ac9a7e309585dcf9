//! The hosts file that the containers of a pod share. Text as the kubelet writes it.

use std::fs::{self, OpenOptions, Permissions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::Path;

use k8s_openapi::api::core::v1::{HostAlias, Pod};

use crate::edged::fields::PodFacts;
use crate::edged::sandbox::{hostname, on_host_network};

/// The pod's hosts file; `of_host` is the machine's own, for pods on its network.
pub(super) fn text(pod: &Pod, facts: &PodFacts, of_host: &str) -> Result<String, String> {
    let spec = pod.spec.as_ref();
    let aliases = spec.and_then(|spec| spec.host_aliases.as_deref()).unwrap_or_default();
    let mut out = if on_host_network(pod) {
        format!("# Kubernetes-managed hosts file (host network).\n{of_host}")
    } else {
        let name = hostname(pod, &facts.cluster_domain).map_err(|error| error.to_string())?;
        let subdomain = spec.and_then(|spec| spec.subdomain.as_deref()).filter(|name| !name.is_empty());
        let overridden = spec.is_some_and(|spec| spec.hostname_override.is_some());
        let domain = subdomain.filter(|_| !overridden).map(|subdomain| {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
            format!("{subdomain}.{namespace}.svc.{}", facts.cluster_domain)
        });
        of_pod(&facts.pod_ips, &name, domain.as_deref())
    };
    add_aliases(&mut out, aliases);
    Ok(out)
}

fn of_pod(addresses: &[IpAddr], name: &str, domain: Option<&str>) -> String {
    let mut out = String::from(
        "# Kubernetes-managed hosts file.\n\
         127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         fe00::0\tip6-mcastprefix\n\
         fe00::1\tip6-allnodes\n\
         fe00::2\tip6-allrouters\n",
    );
    // The sandbox may carry the long name.
    let short = domain
        .and_then(|domain| name.strip_suffix(domain))
        .and_then(|name| name.strip_suffix('.'))
        .unwrap_or(name);
    for address in addresses {
        match domain {
            Some(domain) => out.push_str(&format!("{address}\t{short}.{domain}\t{short}\n")),
            None => out.push_str(&format!("{address}\t{short}\n")),
        }
    }
    out
}

fn add_aliases(out: &mut String, aliases: &[HostAlias]) {
    if aliases.is_empty() {
        return;
    }
    out.push_str("\n# Entries added by HostAliases.\n");
    for alias in aliases {
        let names = alias.hostnames.as_deref().unwrap_or_default().join("\t");
        out.push_str(&format!("{}\t{names}\n", alias.ip));
    }
}

/// Writes the file in place: containers that run show this very file, so a new one in its stead would not reach them.
pub(super) fn write(path: &Path, text: &str) -> io::Result<()> {
    if fs::read(path).is_ok_and(|there| there == text.as_bytes()) {
        return Ok(());
    }
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(path)?;
    file.set_permissions(Permissions::from_mode(0o644))?;
    file.write_all(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const TOP: &str = "# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n\
        ::1\tlocalhost ip6-localhost ip6-loopback\nfe00::0\tip6-localnet\nfe00::0\tip6-mcastprefix\n\
        fe00::1\tip6-allnodes\nfe00::2\tip6-allrouters\n";

    #[test]
    fn texts() {
        let check = |spec: Value, expected: &str| {
            let mut spec = spec;
            spec["containers"] = json!([]);
            let pod = json!({"metadata": {"name": "web", "namespace": "shop"}, "spec": spec});
            let facts = PodFacts {
                pod_ips: vec!["10.1.0.4".parse().unwrap(), "fd00::4".parse().unwrap()],
                cluster_domain: "cluster.local".into(),
                ..PodFacts::default()
            };
            let text = text(&serde_json::from_value(pod).unwrap(), &facts, "127.0.0.1 localhost\n").unwrap();
            assert_eq!(text, expected, "{spec}");
        };
        check(json!({}), &format!("{TOP}10.1.0.4\tweb\nfd00::4\tweb\n"));
        check(
            json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}),
            &format!(
                "{TOP}10.1.0.4\th.s.shop.svc.cluster.local\th\nfd00::4\th.s.shop.svc.cluster.local\th\n"
            ),
        );
        check(
            json!({"hostAliases": [{"ip": "1.2.3.4", "hostnames": ["a", "b"]}]}),
            &format!("{TOP}10.1.0.4\tweb\nfd00::4\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"),
        );
        check(
            json!({"hostNetwork": true}),
            "# Kubernetes-managed hosts file (host network).\n127.0.0.1 localhost\n",
        );
    }

    #[test]
    fn running_containers_keep_their_file() {
        use std::os::unix::fs::MetadataExt;
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("etc-hosts");
        write(&path, "one\nlong line\n").unwrap();
        let inode = fs::metadata(&path).unwrap().ino();
        write(&path, "two\n").unwrap();
        let meta = fs::metadata(&path).unwrap();
        assert_eq!(
            (meta.ino(), meta.mode() & 0o777, fs::read_to_string(&path).unwrap().as_str()),
            (inode, 0o644, "two\n")
        );
    }
}
