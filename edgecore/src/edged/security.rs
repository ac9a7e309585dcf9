//! Security contexts: what pod and container ask for, as the runtime wants it. Pure; called by `container.rs` and
//! `sandbox.rs`.

use std::path::Path;

use k8s_openapi::api::core::v1::{
    AppArmorProfile, Container, Pod, PodSecurityContext, SELinuxOptions, SeccompProfile, SecurityContext,
};
use ke_cri::v1;
use v1::security_profile::ProfileType;

use super::config_error::ConfigError;

/// User an image asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ImageUser {
    /// By number; root when the image says nothing.
    Uid(i64),
    /// By name: only the image knows the number.
    Name(String),
}

impl ImageUser {
    /// As the runtime reports it.
    #[must_use]
    pub fn of(image: &v1::Image) -> Self {
        match &image.uid {
            Some(uid) => Self::Uid(uid.value),
            None if image.username.is_empty() => Self::Uid(0),
            None => Self::Name(image.username.clone()),
        }
    }
}

/// What this node adds to security contexts.
#[derive(Clone, Debug)]
pub struct SecurityFacts<'a> {
    /// Where `Localhost` seccomp profiles lie.
    pub seccomp_root: &'a Path,
    /// `seccompDefault`: a pod that says nothing gets RuntimeDefault.
    pub seccomp_default: bool,
    /// Possible CPUs of this machine: each has a thermal file that is hidden.
    pub n_cpus: usize,
}

/// Kernel files that tell or change too much, hidden unless the pod asks for `procMount: Unmasked`.
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// The security context of one container.
pub fn container_security(
    pod: &Pod,
    container: &Container,
    user: &ImageUser,
    facts: &SecurityFacts<'_>,
) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
    let of_pod = pod_context(pod);
    let own = container.security_context.as_ref();
    verify_non_root(pod, container, user)?;
    let run_as_user = effective(own, of_pod, |c| c.run_as_user, |p| p.run_as_user);
    let (run_as_user, run_as_username) = match (run_as_user, user) {
        (Some(uid), _) => (Some(uid), String::new()),
        (None, ImageUser::Uid(uid)) => (Some(*uid), String::new()),
        (None, ImageUser::Name(name)) => (None, name.clone()),
    };
    let unmasked = own.and_then(|own| own.proc_mount.as_deref()) == Some("Unmasked");
    let strings = |paths: &[&str]| paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>();
    let mut masked_paths = strings(&MASKED);
    masked_paths
        .extend((0..facts.n_cpus).map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle")));
    let capabilities = own.and_then(|own| own.capabilities.as_ref()).map(|capabilities| v1::Capability {
        add_capabilities: capabilities.add.clone().unwrap_or_default(),
        drop_capabilities: capabilities.drop.clone().unwrap_or_default(),
        add_ambient_capabilities: Vec::new(),
    });
    Ok(v1::LinuxContainerSecurityContext {
        capabilities,
        privileged: own.and_then(|own| own.privileged).unwrap_or(false),
        namespace_options: Some(namespaces(pod)),
        selinux_options: own
            .and_then(|own| own.se_linux_options.as_ref())
            .or_else(|| of_pod?.se_linux_options.as_ref())
            .map(selinux),
        run_as_user: run_as_user.map(int64),
        run_as_group: effective(own, of_pod, |c| c.run_as_group, |p| p.run_as_group).map(int64),
        run_as_username,
        readonly_rootfs: own.and_then(|own| own.read_only_root_filesystem).unwrap_or(false),
        supplemental_groups: supplemental_groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod)?.into(),
        no_new_privs: own.and_then(|own| own.allow_privilege_escalation) == Some(false),
        masked_paths: if unmasked { Vec::new() } else { masked_paths },
        readonly_paths: if unmasked { Vec::new() } else { strings(&READ_ONLY) },
        seccomp: Some(seccomp(own, of_pod, facts)?),
        apparmor: apparmor(own, of_pod)?,
    })
}

/// The security context of the pod's sandbox: the pause process and the namespaces.
pub fn sandbox_security(pod: &Pod) -> Result<v1::LinuxSandboxSecurityContext, ConfigError> {
    let of_pod = pod_context(pod);
    let containers = pod.spec.iter().flat_map(|s| s.init_containers.iter().flatten().chain(&s.containers));
    let privileged = containers
        .into_iter()
        .any(|container| container.security_context.as_ref().and_then(|own| own.privileged).unwrap_or(false));
    Ok(v1::LinuxSandboxSecurityContext {
        namespace_options: Some(namespaces(pod)),
        selinux_options: of_pod.and_then(|p| p.se_linux_options.as_ref()).map(selinux),
        run_as_user: of_pod.and_then(|p| p.run_as_user).map(int64),
        run_as_group: of_pod.and_then(|p| p.run_as_group).map(int64),
        readonly_rootfs: false,
        supplemental_groups: supplemental_groups(of_pod),
        supplemental_groups_policy: groups_policy(of_pod)?.into(),
        privileged,
        // The pause process needs nothing.
        seccomp: Some(profile(ProfileType::RuntimeDefault)),
        apparmor: None,
    })
}

/// Which namespaces the pod shares with the machine.
#[must_use]
pub fn namespaces(pod: &Pod) -> v1::NamespaceOption {
    use v1::NamespaceMode::{Container, Node, Pod as Shared};
    let spec = pod.spec.as_ref();
    let on = |flag: Option<bool>| flag.unwrap_or(false);
    let mut options = v1::NamespaceOption::default();
    options.set_network(if on(spec.and_then(|s| s.host_network)) { Node } else { Shared });
    options.set_ipc(if on(spec.and_then(|s| s.host_ipc)) { Node } else { Shared });
    options.set_pid(if on(spec.and_then(|s| s.host_pid)) {
        Node
    } else if on(spec.and_then(|s| s.share_process_namespace)) {
        Shared
    } else {
        Container
    });
    options
}

/// `runAsNonRoot` against what would really run.
fn verify_non_root(pod: &Pod, container: &Container, user: &ImageUser) -> Result<(), ConfigError> {
    let (of_pod, own) = (pod_context(pod), container.security_context.as_ref());
    if effective(own, of_pod, |c| c.run_as_non_root, |p| p.run_as_non_root) != Some(true) {
        return Ok(());
    }
    let name = &container.name;
    let refuse = |text: String| Err(ConfigError(text));
    match (effective(own, of_pod, |c| c.run_as_user, |p| p.run_as_user), user) {
        (Some(0), _) => refuse(format!("container {name} has runAsNonRoot and its runAsUser is 0 (root)")),
        (Some(_), _) => Ok(()),
        (None, ImageUser::Uid(0)) => {
            refuse(format!("container {name} has runAsNonRoot and image will run as root: set runAsUser"))
        }
        (None, ImageUser::Uid(uid)) if i32::try_from(*uid).is_err() || *uid < 0 => {
            refuse(format!("container {name} has runAsNonRoot and its image has an invalid user id ({uid})"))
        }
        (None, ImageUser::Uid(_)) => Ok(()),
        (None, ImageUser::Name(user)) => refuse(format!(
            "container {name} has runAsNonRoot and image has non-numeric user ({user}), cannot verify user is non-root: \
             set runAsUser"
        )),
    }
}

fn pod_context(pod: &Pod) -> Option<&PodSecurityContext> {
    pod.spec.as_ref()?.security_context.as_ref()
}

/// The container's own word, else the pod's.
fn effective<T>(
    own: Option<&SecurityContext>,
    pod: Option<&PodSecurityContext>,
    of_container: impl Fn(&SecurityContext) -> Option<T>,
    of_pod: impl Fn(&PodSecurityContext) -> Option<T>,
) -> Option<T> {
    own.and_then(of_container).or_else(|| pod.and_then(of_pod))
}

fn supplemental_groups(pod: Option<&PodSecurityContext>) -> Vec<i64> {
    let fs_group = pod.and_then(|p| p.fs_group);
    fs_group
        .into_iter()
        .chain(pod.and_then(|p| p.supplemental_groups.clone()).into_iter().flatten())
        .collect()
}

fn groups_policy(pod: Option<&PodSecurityContext>) -> Result<v1::SupplementalGroupsPolicy, ConfigError> {
    match pod.and_then(|p| p.supplemental_groups_policy.as_deref()) {
        None | Some("Merge") => Ok(v1::SupplementalGroupsPolicy::Merge),
        Some("Strict") => Ok(v1::SupplementalGroupsPolicy::Strict),
        Some(other) => Err(ConfigError(format!("unsupported supplementalGroupsPolicy: {other}"))),
    }
}

fn seccomp(
    own: Option<&SecurityContext>,
    pod: Option<&PodSecurityContext>,
    facts: &SecurityFacts<'_>,
) -> Result<v1::SecurityProfile, ConfigError> {
    let asked: Option<&SeccompProfile> = own
        .and_then(|own| own.seccomp_profile.as_ref())
        .or_else(|| pod.and_then(|pod| pod.seccomp_profile.as_ref()));
    let Some(asked) = asked else {
        let default =
            if facts.seccomp_default { ProfileType::RuntimeDefault } else { ProfileType::Unconfined };
        return Ok(profile(default));
    };
    match asked.type_.as_str() {
        "RuntimeDefault" => Ok(profile(ProfileType::RuntimeDefault)),
        "Unconfined" => Ok(profile(ProfileType::Unconfined)),
        "Localhost" => {
            let file = asked.localhost_profile.as_deref().unwrap_or_default();
            // The file is joined to a directory of ours and must not leave it.
            let inside =
                Path::new(file).components().all(|part| matches!(part, std::path::Component::Normal(_)));
            if file.is_empty() || !inside {
                return Err(ConfigError(format!(
                    "seccompProfile of type Localhost needs a localhostProfile below {}, not {file:?}",
                    facts.seccomp_root.display()
                )));
            }
            let localhost_ref = facts.seccomp_root.join(file).display().to_string();
            Ok(v1::SecurityProfile { profile_type: ProfileType::Localhost.into(), localhost_ref })
        }
        other => Err(ConfigError(format!("unknown seccompProfile type {other:?}"))),
    }
}

fn apparmor(
    own: Option<&SecurityContext>,
    pod: Option<&PodSecurityContext>,
) -> Result<Option<v1::SecurityProfile>, ConfigError> {
    let asked: Option<&AppArmorProfile> = own
        .and_then(|own| own.app_armor_profile.as_ref())
        .or_else(|| pod.and_then(|pod| pod.app_armor_profile.as_ref()));
    let Some(asked) = asked else { return Ok(None) };
    match (asked.type_.as_str(), asked.localhost_profile.as_deref()) {
        ("RuntimeDefault", _) => Ok(Some(profile(ProfileType::RuntimeDefault))),
        ("Unconfined", _) => Ok(Some(profile(ProfileType::Unconfined))),
        ("Localhost", Some(name)) if !name.is_empty() => Ok(Some(v1::SecurityProfile {
            profile_type: ProfileType::Localhost.into(),
            localhost_ref: name.to_owned(),
        })),
        ("Localhost", _) => Err(ConfigError("missing localhost AppArmor profile name".to_owned())),
        (other, _) => Err(ConfigError(format!("unknown AppArmor profile type {other:?}"))),
    }
}

fn selinux(options: &SELinuxOptions) -> v1::SeLinuxOption {
    v1::SeLinuxOption {
        user: options.user.clone().unwrap_or_default(),
        role: options.role.clone().unwrap_or_default(),
        r#type: options.type_.clone().unwrap_or_default(),
        level: options.level.clone().unwrap_or_default(),
    }
}

fn profile(kind: ProfileType) -> v1::SecurityProfile {
    v1::SecurityProfile { profile_type: kind.into(), localhost_ref: String::new() }
}

fn int64(value: i64) -> v1::Int64Value {
    v1::Int64Value { value }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn build(
        pod: &Value,
        own: &Value,
        user: &ImageUser,
    ) -> Result<v1::LinuxContainerSecurityContext, ConfigError> {
        let pod: Pod = serde_json::from_value(json!({
            "spec": {"securityContext": pod, "containers": [{"name": "c", "securityContext": own}]}
        }))
        .unwrap();
        let facts =
            SecurityFacts { seccomp_root: Path::new("/var/lib/seccomp"), seccomp_default: false, n_cpus: 2 };
        container_security(&pod, &pod.spec.as_ref().unwrap().containers[0], user, &facts)
    }

    #[test]
    fn non_root() {
        let check = |pod: Value, own: Value, user: ImageUser, part: Option<&str>| {
            let result = build(&pod, &own, &user);
            match part {
                None => assert!(result.is_ok(), "{pod} {own} {user:?}: {result:?}"),
                Some(part) => assert!(result.unwrap_err().0.contains(part), "{pod} {own} {user:?}"),
            }
        };
        let root = || ImageUser::Uid(0);
        check(json!({}), json!({}), root(), None);
        check(json!({"runAsNonRoot": true}), json!({}), root(), Some("image will run as root"));
        check(json!({"runAsNonRoot": true}), json!({"runAsNonRoot": false}), root(), None);
        check(json!({"runAsNonRoot": true}), json!({"runAsUser": 5}), root(), None);
        check(
            json!({"runAsNonRoot": true, "runAsUser": 5}),
            json!({"runAsUser": 0}),
            root(),
            Some("runAsUser is 0"),
        );
        check(json!({}), json!({"runAsNonRoot": true}), ImageUser::Uid(7), None);
        check(json!({}), json!({"runAsNonRoot": true}), ImageUser::Uid(1 << 40), Some("invalid user id"));
        check(
            json!({}),
            json!({"runAsNonRoot": true}),
            ImageUser::Name("web".into()),
            Some("non-numeric user (web)"),
        );
    }

    #[test]
    fn users_groups_and_flags() {
        let context = build(
            &json!({"runAsUser": 1, "runAsGroup": 2, "fsGroup": 3, "supplementalGroups": [4, 5]}),
            &json!({"runAsUser": 9, "privileged": true, "readOnlyRootFilesystem": true,
                    "allowPrivilegeEscalation": false, "capabilities": {"add": ["NET_ADMIN"], "drop": ["ALL"]}}),
            &ImageUser::Uid(0),
        )
        .unwrap();
        assert_eq!((context.run_as_user.unwrap().value, context.run_as_group.unwrap().value), (9, 2));
        assert_eq!(context.supplemental_groups, [3, 4, 5]);
        assert!(context.privileged && context.readonly_rootfs && context.no_new_privs);
        let capabilities = context.capabilities.unwrap();
        assert_eq!(capabilities.add_capabilities, ["NET_ADMIN"]);
        assert_eq!(capabilities.drop_capabilities, ["ALL"]);
        assert_eq!((context.masked_paths.len(), context.readonly_paths.len()), (14, 5));

        let named =
            build(&json!({}), &json!({"procMount": "Unmasked"}), &ImageUser::Name("web".into())).unwrap();
        assert_eq!((named.run_as_user, named.run_as_username.as_str()), (None, "web"));
        assert!(named.masked_paths.is_empty() && named.readonly_paths.is_empty());
    }

    #[test]
    fn profiles() {
        let check = |pod: Value, own: Value, kind: Option<ProfileType>, reference: &str| {
            let result =
                build(&json!({"seccompProfile": pod}), &json!({"seccompProfile": own}), &ImageUser::Uid(0));
            let found = result.ok().and_then(|context| context.seccomp);
            let found = found.map(|profile| (profile.profile_type(), profile.localhost_ref));
            assert_eq!(found, kind.map(|kind| (kind, reference.to_owned())), "{pod} {own}");
        };
        let of = |kind: &str| json!({"type": kind});
        check(Value::Null, Value::Null, Some(ProfileType::Unconfined), "");
        check(of("RuntimeDefault"), Value::Null, Some(ProfileType::RuntimeDefault), "");
        check(of("RuntimeDefault"), of("Unconfined"), Some(ProfileType::Unconfined), "");
        let local = |file: &str| json!({"type": "Localhost", "localhostProfile": file});
        check(Value::Null, local("a/b.json"), Some(ProfileType::Localhost), "/var/lib/seccomp/a/b.json");
        check(Value::Null, local("../b.json"), None, "");
        check(Value::Null, local("/etc/b.json"), None, "");
        check(Value::Null, of("Localhost"), None, "");
        check(Value::Null, of("Other"), None, "");

        let armor = |own: Value| build(&json!({}), &json!({"appArmorProfile": own}), &ImageUser::Uid(0));
        assert_eq!(armor(Value::Null).unwrap().apparmor, None);
        assert_eq!(armor(local("mine")).unwrap().apparmor.unwrap().localhost_ref, "mine");
        assert!(armor(of("Localhost")).is_err());
    }

    #[test]
    fn shared_namespaces() {
        use v1::NamespaceMode::{Container, Node, Pod as Shared};
        let check = |spec: Value, network, pid, ipc| {
            let pod: Pod = serde_json::from_value(json!({"spec": spec})).unwrap();
            let options = namespaces(&pod);
            assert_eq!((options.network(), options.pid(), options.ipc()), (network, pid, ipc), "{spec}");
        };
        check(json!({"containers": []}), Shared, Container, Shared);
        check(json!({"containers": [], "hostNetwork": true}), Node, Container, Shared);
        check(
            json!({"containers": [], "hostPID": true, "shareProcessNamespace": true}),
            Shared,
            Node,
            Shared,
        );
        check(
            json!({"containers": [], "shareProcessNamespace": true, "hostIPC": true}),
            Shared,
            Shared,
            Node,
        );
    }
}
