//! Pure: which kernel settings a Pod may ask for: Kubernetes' safe ones, and those that `allowedUnsafeSysctls` names.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodSpec;

/// Settings that touch nobody but the Pod, with the kernel from which on they are the Pod's own.
const SAFE: [(&str, (u32, u32)); 12] = [
    ("kernel.shm_rmid_forced", (0, 0)),
    ("net.ipv4.ip_local_port_range", (0, 0)),
    ("net.ipv4.tcp_syncookies", (0, 0)),
    ("net.ipv4.ping_group_range", (0, 0)),
    ("net.ipv4.ip_unprivileged_port_start", (0, 0)),
    ("net.ipv4.ip_local_reserved_ports", (3, 16)),
    ("net.ipv4.tcp_keepalive_time", (4, 5)),
    ("net.ipv4.tcp_fin_timeout", (4, 6)),
    ("net.ipv4.tcp_keepalive_intvl", (4, 5)),
    ("net.ipv4.tcp_keepalive_probes", (4, 5)),
    ("net.ipv4.tcp_rmem", (4, 15)),
    ("net.ipv4.tcp_wmem", (4, 15)),
];

/// What a setting belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Space {
    Ipc,
    Net,
}

impl Space {
    fn as_str(self) -> &'static str {
        match self {
            Self::Ipc => "IPC",
            Self::Net => "Net",
        }
    }
}

/// The setting's namespace; `None`: it would change the whole machine.
fn space_of(sysctl: &str) -> Option<Space> {
    match sysctl {
        "kernel.sem"
        | "kernel.shmall"
        | "kernel.shmmax"
        | "kernel.shmmni"
        | "kernel.shm_rmid_forced"
        | "kernel.shm"
        | "kernel.msgmax"
        | "kernel.msgmnb"
        | "kernel.msgmni"
        | "kernel.msg" => Some(Space::Ipc),
        _ if is_below(sysctl, "net") => Some(Space::Net),
        _ if is_below(sysctl, "fs.mqueue") => Some(Space::Ipc),
        _ => None,
    }
}

fn is_below(sysctl: &str, root: &str) -> bool {
    sysctl.strip_prefix(root).is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
}

/// `net/ipv4/x` and `net.ipv4.x` are one setting; in the first form a dot is part of a name.
fn dotted(sysctl: &str) -> String {
    match sysctl.find(['.', '/']).and_then(|at| sysctl.get(at..)?.chars().next()) {
        Some('/') => {
            let swap = |c| match c {
                '/' => '.',
                '.' => '/',
                c => c,
            };
            sysctl.chars().map(swap).collect()
        }
        _ => sysctl.to_owned(),
    }
}

/// An entry of `allowedUnsafeSysctls` that allows nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is no setting that a pod can have for itself; allowed are kernel.sem, kernel.shm*, kernel.msg*, fs.mqueue.* and net.*"
)]
pub struct BadPattern(pub String);

/// Kernel settings that pods may have here.
#[derive(Clone, Debug, Default)]
pub struct AllowedSysctls {
    names: BTreeMap<String, Space>,
    prefixes: Vec<(String, Space)>,
}

impl AllowedSysctls {
    /// The safe ones of this kernel (`5.15.0-91-generic`) and those that the configuration adds: names, or beginnings
    /// that end in `*`.
    pub fn new(kernel: &str, unsafe_ones: &[String]) -> Result<Self, BadPattern> {
        let mut numbers = kernel.split(['.', '-']).map(|number| number.parse::<u32>().unwrap_or(0));
        let kernel = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
        let safe = SAFE.iter().filter(|(_, since)| *since <= kernel);
        let names = safe.filter_map(|(name, _)| Some(((*name).to_owned(), space_of(name)?)));
        let mut allowed = Self { names: names.collect(), prefixes: Vec::new() };
        for pattern in unsafe_ones {
            let bad = || BadPattern(pattern.clone());
            let name = dotted(pattern);
            match name.strip_suffix('*') {
                Some(prefix) => {
                    let space = space_of(prefix.trim_end_matches('.')).ok_or_else(bad)?;
                    allowed.prefixes.push((prefix.to_owned(), space));
                }
                None => {
                    let space = space_of(&name).ok_or_else(bad)?;
                    allowed.names.insert(name, space);
                }
            }
        }
        Ok(allowed)
    }

    /// Why the Pod's settings are not allowed, if they are not.
    pub(super) fn forbidden(&self, spec: &PodSpec) -> Option<String> {
        let asked = spec.security_context.as_ref()?.sysctls.as_ref()?;
        asked.iter().find_map(|sysctl| {
            let name = dotted(&sysctl.name);
            let prefix = || self.prefixes.iter().find(|(prefix, _)| name.starts_with(prefix));
            let Some(space) = self.names.get(&name).or_else(|| prefix().map(|(_, space)| space)) else {
                return Some(format!("{name:?} not allowlisted"));
            };
            let is_shared = match space {
                Space::Ipc => spec.host_ipc,
                Space::Net => spec.host_network,
            };
            (is_shared == Some(true))
                .then(|| format!("{name:?} not allowed with host {} enabled", space.as_str()))
        })
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn safe_allowed_and_forbidden() {
        let allowed = ["kernel.msg*", "net.core.somaxconn", "fs/mqueue/msg_max"].map(String::from);
        let allowed = AllowedSysctls::new("5.15.0-91-generic", &allowed).unwrap();
        let check = |name: &str, more: Value, expected: Option<&str>| {
            let mut spec = more;
            spec["containers"] = json!([]);
            spec["securityContext"] = json!({"sysctls": [{"name": name, "value": "1"}]});
            let told = allowed.forbidden(&serde_json::from_value(spec).unwrap());
            assert_eq!(told.as_deref(), expected, "{name}");
        };
        check("kernel.shm_rmid_forced", json!({}), None);
        check("kernel/shm_rmid_forced", json!({}), None);
        check("net.ipv4.tcp_rmem", json!({}), None);
        check("net.ipv4.tcp_mem", json!({}), Some("\"net.ipv4.tcp_mem\" not allowlisted"));
        check("vm.swappiness", json!({}), Some("\"vm.swappiness\" not allowlisted"));
        check("kernel.msgmax", json!({}), None);
        check("net.core.somaxconn", json!({}), None);
        check("fs.mqueue.msg_max", json!({}), None);
        let host = "\"net.ipv4.tcp_syncookies\" not allowed with host Net enabled";
        check("net.ipv4.tcp_syncookies", json!({"hostNetwork": true}), Some(host));
        let host = "\"kernel.msgmax\" not allowed with host IPC enabled";
        check("kernel.msgmax", json!({"hostIPC": true}), Some(host));
        check("kernel.msgmax", json!({"hostNetwork": true}), None);
    }

    #[test]
    fn old_kernels_and_bad_patterns() {
        let old = AllowedSysctls::new("4.4.0", &[]).unwrap();
        assert!(old.names.contains_key("net.ipv4.ip_local_reserved_ports"));
        assert!(!old.names.contains_key("net.ipv4.tcp_keepalive_time"));
        let check = |pattern: &str, is_good: bool| {
            assert_eq!(AllowedSysctls::new("6.1", &[pattern.to_owned()]).is_ok(), is_good, "{pattern}");
        };
        check("net.*", true);
        check("net.ipv4.conf.all.*", true);
        check("kernel.shm*", true);
        check("vm.overcommit_memory", false);
        check("network.x", false);
        check("*", false);
    }
}
