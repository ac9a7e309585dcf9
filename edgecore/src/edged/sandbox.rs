//! A pod's sandbox as the runtime wants it: names, host name, DNS, ports, namespaces. Pure; the machine's resolver
//! file is read by the caller and given as text.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use ke_cri::v1;

use super::config_error::ConfigError;
use super::container::{log_directory, pod_labels};
use super::resources::{CpuQuota, pod_limit, pod_request, quota, shares};
use super::security::sandbox_security;

/// What this node adds to every sandbox.
#[derive(Clone, Debug)]
pub struct SandboxFacts<'a> {
    /// `/var/log/pods`.
    pub pod_logs_root: &'a Path,
    /// The cgroup the pod belongs into, in the runtime's own spelling; empty for its default.
    pub cgroup_parent: &'a str,
    /// `clusterDNS`.
    pub cluster_dns: &'a [String],
    /// `clusterDomain`.
    pub cluster_domain: &'a str,
    /// Text of the machine's resolver file (`resolvConf`); `None` when the node is told to use none.
    pub resolv_conf: Option<&'a str>,
    /// How CPU limits are enforced.
    pub cpu: CpuQuota,
}

/// A sandbox and what the user should be told about it (event reason and text).
#[derive(Clone, Debug)]
pub struct SandboxPlan {
    pub config: v1::PodSandboxConfig,
    pub warnings: Vec<(&'static str, String)>,
}

/// Resolver limits of the C library: more servers are ignored, more search domains break old ones.
const MAX_SERVERS: usize = 3;
const MAX_SEARCHES: usize = 32;
const MAX_SEARCH_CHARS: usize = 2048;
const MAX_DOMAIN_CHARS: usize = 253;
/// A host name has 64 bytes with its final zero.
const MAX_HOSTNAME: usize = 63;

/// The runtime's form of the pod's sandbox. `attempt` counts the sandboxes this pod had before.
pub fn sandbox_config(pod: &Pod, attempt: u32, node: &SandboxFacts<'_>) -> Result<SandboxPlan, ConfigError> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    let meta = &pod.metadata;
    let mut labels: HashMap<String, String> = meta.labels.clone().unwrap_or_default().into_iter().collect();
    labels.extend(pod_labels(pod));
    let mut warnings = Vec::new();
    let sysctls = pod.spec.as_ref().and_then(|spec| spec.security_context.as_ref()?.sysctls.as_ref());
    let config = v1::PodSandboxConfig {
        metadata: Some(v1::PodSandboxMetadata {
            name: text(&meta.name),
            uid: text(&meta.uid),
            namespace: text(&meta.namespace),
            attempt,
        }),
        hostname: hostname(pod, node.cluster_domain)?,
        log_directory: log_directory(node.pod_logs_root, pod),
        dns_config: Some(dns(pod, node, &mut warnings)),
        port_mappings: port_mappings(pod),
        labels,
        annotations: meta.annotations.clone().unwrap_or_default().into_iter().collect(),
        linux: Some(v1::LinuxPodSandboxConfig {
            cgroup_parent: node.cgroup_parent.to_owned(),
            security_context: Some(sandbox_security(pod)?),
            sysctls: sysctls.into_iter().flatten().map(|s| (s.name.clone(), s.value.clone())).collect(),
            overhead: None,
            resources: Some(total(pod, node.cpu)),
        }),
    };
    Ok(SandboxPlan { config, warnings })
}

/// True when the pod lives in the machine's network.
#[must_use]
pub fn on_host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network).unwrap_or(false)
}

/// The host name inside the pod; empty on the machine's network, where the machine's own stays.
pub fn hostname(pod: &Pod, cluster_domain: &str) -> Result<String, ConfigError> {
    let Some(spec) = &pod.spec else { return Ok(String::new()) };
    if on_host_network(pod) {
        return Ok(String::new());
    }
    if let Some(name) = &spec.hostname_override {
        return shorten(name);
    }
    let asked = spec.hostname.as_ref().filter(|name| !name.is_empty());
    let short = shorten(asked.or(pod.metadata.name.as_ref()).map_or("", String::as_str))?;
    match spec.subdomain.as_deref().filter(|_| spec.set_hostname_as_fqdn == Some(true)) {
        None | Some("") => Ok(short),
        Some(subdomain) => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let full = format!("{short}.{subdomain}.{namespace}.svc.{cluster_domain}");
            if full.len() > MAX_HOSTNAME + 1 {
                return Err(ConfigError(format!(
                    "setHostnameAsFQDN: {full} is longer than the 64 characters a host name may have"
                )));
            }
            Ok(full)
        }
    }
}

fn shorten(name: &str) -> Result<String, ConfigError> {
    // Names are ASCII; another one is cut between characters and refused by the runtime.
    let mut end = name.len().min(MAX_HOSTNAME);
    while !name.is_char_boundary(end) {
        end -= 1;
    }
    let short =
        if end < name.len() { name.get(..end).unwrap_or(name).trim_end_matches(['-', '.']) } else { name };
    if short.is_empty() {
        return Err(ConfigError(format!("no host name can be made of {name:?}")));
    }
    Ok(short.to_owned())
}

/// For runtimes that size a virtual machine from it.
fn total(pod: &Pod, cpu: CpuQuota) -> v1::LinuxContainerResources {
    v1::LinuxContainerResources {
        cpu_period: cpu.period,
        cpu_quota: quota(pod_limit(pod, "cpu").millis(), cpu.period),
        cpu_shares: shares(pod_request(pod, "cpu").millis()),
        memory_limit_in_bytes: pod_limit(pod, "memory").units(),
        ..v1::LinuxContainerResources::default()
    }
}

fn port_mappings(pod: &Pod) -> Vec<v1::PortMapping> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let sidecars =
        spec.init_containers.iter().flatten().filter(|c| c.restart_policy.as_deref() == Some("Always"));
    let ports = |container: &Container| container.ports.clone().unwrap_or_default();
    let all = spec.containers.iter().chain(sidecars).flat_map(ports);
    let mut mappings: Vec<v1::PortMapping> = Vec::new();
    for port in all {
        let protocol = match port.protocol.as_deref() {
            Some("UDP") => v1::Protocol::Udp,
            Some("SCTP") => v1::Protocol::Sctp,
            _ => v1::Protocol::Tcp,
        };
        let mapping = v1::PortMapping {
            protocol: protocol.into(),
            container_port: port.container_port,
            host_port: port.host_port.unwrap_or(0),
            host_ip: port.host_ip.unwrap_or_default(),
        };
        if !mappings.contains(&mapping) {
            mappings.push(mapping);
        }
    }
    mappings
}

fn dns(pod: &Pod, node: &SandboxFacts<'_>, warnings: &mut Vec<(&'static str, String)>) -> v1::DnsConfig {
    let spec = pod.spec.as_ref();
    let host = node.resolv_conf.map_or_else(no_resolver, parse_resolv_conf);
    let policy = match spec.and_then(|spec| spec.dns_policy.as_deref()) {
        // On the machine's network the cluster's resolver is used only when the pod insists.
        Some("ClusterFirst") | None if on_host_network(pod) => "Default",
        Some("ClusterFirstWithHostNet") | None => "ClusterFirst",
        Some(policy) => policy,
    };
    let mut config = match policy {
        "None" => v1::DnsConfig::default(),
        "ClusterFirst" if node.cluster_dns.is_empty() => {
            warnings.push((
                "MissingClusterDNS",
                "this node has no clusterDNS configured: the pod uses the machine's resolver".to_owned(),
            ));
            host
        }
        "ClusterFirst" => {
            let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
            let domain = node.cluster_domain;
            let mut searches = Vec::new();
            if !domain.is_empty() {
                searches =
                    vec![format!("{namespace}.svc.{domain}"), format!("svc.{domain}"), domain.to_owned()];
            }
            // The machine's own domains, but not the "." that stands for no resolver.
            searches.extend(host.searches.into_iter().filter(|search| search != "."));
            v1::DnsConfig {
                servers: node.cluster_dns.to_vec(),
                searches,
                options: vec!["ndots:5".to_owned()],
            }
        }
        _ => host,
    };
    if let Some(own) = spec.and_then(|spec| spec.dns_config.as_ref()) {
        config.servers.extend(own.nameservers.iter().flatten().cloned());
        config.searches.extend(own.searches.iter().flatten().cloned());
        for option in own.options.iter().flatten() {
            let name = option.name.as_deref().unwrap_or_default();
            let text = match option.value.as_deref() {
                Some(value) if !value.is_empty() => format!("{name}:{value}"),
                _ => name.to_owned(),
            };
            set_option(&mut config.options, text);
        }
    }
    unique(&mut config.servers);
    unique(&mut config.searches);
    fit(&mut config, warnings);
    config
}

/// No resolver file: the C library asks the local machine and no search domain is tried.
fn no_resolver() -> v1::DnsConfig {
    v1::DnsConfig {
        servers: vec!["127.0.0.1".to_owned()],
        searches: vec![".".to_owned()],
        options: Vec::new(),
    }
}

/// Servers add up, of the search lines the last one counts, options of one name replace each other.
#[must_use]
pub fn parse_resolv_conf(text: &str) -> v1::DnsConfig {
    let mut config = v1::DnsConfig::default();
    for line in text.lines() {
        let mut words = line.split_whitespace();
        match words.next() {
            Some("nameserver") => config.servers.extend(words.next().map(str::to_owned)),
            Some("search") => {
                let domains = words.filter(|domain| *domain != ".");
                config.searches = domains.map(|d| d.strip_suffix('.').unwrap_or(d).to_owned()).collect();
            }
            Some("options") => words.for_each(|option| set_option(&mut config.options, option.to_owned())),
            _ => {}
        }
    }
    config
}

fn set_option(options: &mut Vec<String>, option: String) {
    let name = |option: &str| option.split(':').next().unwrap_or_default().to_owned();
    match options.iter_mut().find(|other| name(other) == name(&option)) {
        Some(other) => *other = option,
        None => options.push(option),
    }
}

fn unique(list: &mut Vec<String>) {
    let mut seen = std::collections::HashSet::new();
    list.retain(|item| seen.insert(item.clone()));
}

/// Cuts what resolvers cannot take, and says so.
fn fit(config: &mut v1::DnsConfig, warnings: &mut Vec<(&'static str, String)>) {
    if config.servers.len() > MAX_SERVERS {
        config.servers.truncate(MAX_SERVERS);
        let text = format!("only {MAX_SERVERS} name servers fit; in use: {}", config.servers.join(" "));
        warnings.push(("DNSConfigForming", text));
    }
    let before = config.searches.len();
    config.searches.truncate(MAX_SEARCHES);
    config.searches.retain(|search| search.len() <= MAX_DOMAIN_CHARS);
    while config.searches.join(" ").len() > MAX_SEARCH_CHARS {
        config.searches.pop();
    }
    if config.searches.len() < before {
        let text = format!("not all search domains fit; in use: {}", config.searches.join(" "));
        warnings.push(("DNSConfigForming", text));
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    const RESOLV: &str =
        "# machine\nnameserver 192.168.1.1\nsearch old\nsearch plant.example. .\noptions ndots:2 rotate\n";

    fn plan(spec: Value, cluster_dns: &[String]) -> SandboxPlan {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1",
                         "labels": {"app": "web"}, "annotations": {"note": "x"}},
            "spec": spec
        }))
        .unwrap();
        let node = SandboxFacts {
            pod_logs_root: Path::new("/var/log/pods"),
            cgroup_parent: "/kubepods/podu-1",
            cluster_dns,
            cluster_domain: "cluster.local",
            resolv_conf: Some(RESOLV),
            cpu: CpuQuota::default(),
        };
        sandbox_config(&pod, 1, &node).unwrap()
    }

    #[test]
    fn names_ports_and_places() {
        let config = plan(
            json!({
                "containers": [{"name": "a", "ports": [
                    {"containerPort": 80, "hostPort": 8080, "hostIP": "127.0.0.1"},
                    {"containerPort": 53, "protocol": "UDP"}, {"containerPort": 53, "protocol": "UDP"}]}],
                "securityContext": {"sysctls": [{"name": "net.core.somaxconn", "value": "9"}], "fsGroup": 7}
            }),
            &[],
        )
        .config;
        assert_eq!(config.hostname, "web");
        assert_eq!(config.log_directory, "/var/log/pods/shop_web_u-1");
        assert_eq!(
            (config.labels["app"].as_str(), config.labels["io.kubernetes.pod.uid"].as_str()),
            ("web", "u-1")
        );
        assert_eq!(config.annotations["note"], "x");
        let ports: Vec<_> =
            config.port_mappings.iter().map(|p| (p.protocol(), p.container_port, p.host_port)).collect();
        assert_eq!(ports, [(v1::Protocol::Tcp, 80, 8080), (v1::Protocol::Udp, 53, 0)]);
        let linux = config.linux.unwrap();
        assert_eq!(
            (linux.cgroup_parent.as_str(), linux.sysctls["net.core.somaxconn"].as_str()),
            ("/kubepods/podu-1", "9")
        );
        assert_eq!(linux.security_context.unwrap().supplemental_groups, [7]);
    }

    #[test]
    fn resolvers() {
        let check = |spec: Value,
                     cluster_dns: &[&str],
                     servers: &str,
                     searches: &str,
                     options: &str,
                     n_warnings: usize| {
            let mut full = json!({"containers": []});
            full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let cluster_dns: Vec<String> = cluster_dns.iter().map(|s| (*s).to_owned()).collect();
            let plan = plan(full, &cluster_dns);
            let dns = plan.config.dns_config.unwrap();
            let found =
                (dns.servers.join(" "), dns.searches.join(" "), dns.options.join(" "), plan.warnings.len());
            assert_eq!(found, (servers.into(), searches.into(), options.into(), n_warnings), "{spec}");
        };
        let cluster = "shop.svc.cluster.local svc.cluster.local cluster.local plant.example";
        check(json!({}), &["10.0.0.10"], "10.0.0.10", cluster, "ndots:5", 0);
        check(json!({}), &[], "192.168.1.1", "plant.example", "ndots:2 rotate", 1);
        check(
            json!({"dnsPolicy": "Default"}),
            &["10.0.0.10"],
            "192.168.1.1",
            "plant.example",
            "ndots:2 rotate",
            0,
        );
        check(
            json!({"dnsPolicy": "ClusterFirst", "hostNetwork": true}),
            &["10.0.0.10"],
            "192.168.1.1",
            "plant.example",
            "ndots:2 rotate",
            0,
        );
        check(
            json!({"dnsPolicy": "ClusterFirstWithHostNet", "hostNetwork": true}),
            &["10.0.0.10"],
            "10.0.0.10",
            cluster,
            "ndots:5",
            0,
        );
        let own = json!({"nameservers": ["1.1.1.1"], "searches": ["a"], "options": [{"name": "ndots", "value": "1"}, {"name": "edns0"}]});
        check(
            json!({"dnsPolicy": "None", "dnsConfig": own}),
            &["10.0.0.10"],
            "1.1.1.1",
            "a",
            "ndots:1 edns0",
            0,
        );
        let all = format!("{cluster} a");
        check(json!({"dnsConfig": own}), &["10.0.0.10"], "10.0.0.10 1.1.1.1", &all, "ndots:1 edns0", 0);
        let many = json!({"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.1"]});
        check(json!({"dnsPolicy": "None", "dnsConfig": many}), &[], "1.1.1.1 1.1.1.2 1.1.1.3", "", "", 0);
        let many = json!({"nameservers": ["1.1.1.1", "1.1.1.2", "1.1.1.3", "1.1.1.4"]});
        check(json!({"dnsPolicy": "None", "dnsConfig": many}), &[], "1.1.1.1 1.1.1.2 1.1.1.3", "", "", 1);
    }

    #[test]
    fn host_names() {
        let check = |name: &str, spec: Value, expected: Option<&str>| {
            let mut full = json!({"containers": []});
            full.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
            let pod: Pod =
                serde_json::from_value(json!({"metadata": {"name": name, "namespace": "ns"}, "spec": full}))
                    .unwrap();
            assert_eq!(hostname(&pod, "c.local").ok().as_deref(), expected, "{name} {spec}");
        };
        check("web", json!({}), Some("web"));
        check("web", json!({"hostname": "other"}), Some("other"));
        check("web", json!({"hostNetwork": true}), Some(""));
        check(
            "web",
            json!({"hostname": "h", "subdomain": "s", "setHostnameAsFQDN": true}),
            Some("h.s.ns.svc.c.local"),
        );
        check("web", json!({"hostname": "h", "subdomain": "s"}), Some("h"));
        check("web", json!({"hostnameOverride": "x.y"}), Some("x.y"));
        let long = format!("{}-{}", "a".repeat(62), "b".repeat(9));
        check(&long, json!({}), Some(&"a".repeat(62)));
        check(&"a".repeat(63), json!({"subdomain": "s", "setHostnameAsFQDN": true}), None);
    }
}
