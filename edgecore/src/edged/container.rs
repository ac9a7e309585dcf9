//! One container of a pod as the runtime wants it. Pure: environment, mounts and image are resolved before.
//!
//! Labels, annotations, log paths and the hash are the kubelet's, so that containers of a kubelet or a Go edgecore are
//! taken over instead of started anew, and the other way round.

use std::collections::HashMap;
use std::path::Path;

use k8s_openapi::api::core::v1::{Container, Pod};
use ke_cri::v1;

use super::config_error::ConfigError;
use super::expand::expand;
use super::resources::{CpuQuota, container_resources};
use super::security::{ImageUser, SecurityFacts, container_security};

/// Label on sandboxes and containers: the pod's name.
pub const POD_NAME: &str = "io.kubernetes.pod.name";
/// Label on sandboxes and containers: the pod's namespace.
pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
/// Label on sandboxes and containers: the pod's uid.
pub const POD_UID: &str = "io.kubernetes.pod.uid";
/// Label on containers: the container's name.
pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
/// Annotation on containers: [`spec_hash`], hexadecimal.
pub const HASH: &str = "io.kubernetes.container.hash";
/// Annotation on containers that this program made: the hash that a change of the spec is told by. The kubelet's own
/// hash differs between its versions, so it never is a reason to restart what another program made.
pub const OUR_HASH: &str = "isthmus.io/container-hash";
/// Annotation on containers: how often it was restarted before.
pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
/// Annotation on containers: where the application leaves its last words.
pub const TERMINATION_MESSAGE_PATH: &str = "io.kubernetes.container.terminationMessagePath";
/// Annotation on containers: `File` or `FallbackToLogsOnError`.
pub const TERMINATION_MESSAGE_POLICY: &str = "io.kubernetes.container.terminationMessagePolicy";
/// Annotation on containers: the preStop hook as JSON, for when the pod object is gone.
pub const PRE_STOP: &str = "io.kubernetes.container.preStopHandler";
/// Annotation on containers: its ports as JSON.
pub const PORTS: &str = "io.kubernetes.container.ports";
/// Annotation on containers: grace period of a pod that is being deleted.
pub const DELETION_GRACE: &str = "io.kubernetes.pod.deletionGracePeriod";
/// Annotation on containers: grace period of the pod.
pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";

/// What this node adds to every container.
#[derive(Clone, Debug)]
pub struct NodeFacts<'a> {
    /// The machine's memory, bytes.
    pub memory_capacity: i64,
    /// How CPU limits are enforced.
    pub cpu: CpuQuota,
    /// Seccomp and masked paths.
    pub security: SecurityFacts<'a>,
}

/// One start of a container.
#[derive(Clone, Debug)]
pub struct Start<'a> {
    /// The spec; for an ephemeral container its common part.
    pub container: &'a Container,
    /// 0 the first time. Also the attempt number and the name of the log file.
    pub restart_count: u32,
    /// Id of the image, as pull or image status gave it.
    pub image_id: &'a str,
    /// Who runs in it unless the pod says otherwise.
    pub image_user: &'a ImageUser,
    /// Resolved variables in order; a later one of the same name wins.
    pub env: &'a [(String, String)],
    /// Resolved mounts.
    pub mounts: Vec<v1::Mount>,
    /// Ephemeral containers: the container whose processes it sees, by id.
    pub target_id: Option<&'a str>,
}

/// The runtime's form of one container start.
pub fn container_config(
    pod: &Pod,
    start: Start<'_>,
    node: &NodeFacts<'_>,
) -> Result<v1::ContainerConfig, ConfigError> {
    let container = start.container;
    let mut security = container_security(pod, container, start.image_user, &node.security)?;
    if let (Some(target), Some(options)) = (start.target_id, security.namespace_options.as_mut())
        && options.pid() == v1::NamespaceMode::Container
    {
        options.set_pid(v1::NamespaceMode::Target);
        target.clone_into(&mut options.target_id);
    }
    let values: HashMap<&str, &str> = start.env.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    let words = |words: &Option<Vec<String>>| -> Vec<String> {
        let lookup = |name: &str| values.get(name).map(|value| (*value).to_owned());
        words.iter().flatten().map(|word| expand(word, lookup)).collect()
    };
    let stop_signal = container
        .lifecycle
        .as_ref()
        .and_then(|lifecycle| lifecycle.stop_signal.as_deref())
        .and_then(v1::Signal::from_str_name)
        .unwrap_or(v1::Signal::RuntimeDefault);
    Ok(v1::ContainerConfig {
        metadata: Some(v1::ContainerMetadata { name: container.name.clone(), attempt: start.restart_count }),
        image: Some(v1::ImageSpec {
            image: start.image_id.to_owned(),
            user_specified_image: container.image.clone().unwrap_or_default(),
            ..v1::ImageSpec::default()
        }),
        command: words(&container.command),
        args: words(&container.args),
        working_dir: container.working_dir.clone().unwrap_or_default(),
        envs: start
            .env
            .iter()
            .map(|(key, value)| v1::KeyValue { key: key.clone(), value: value.clone().into() })
            .collect(),
        mounts: start.mounts,
        devices: Vec::new(),
        labels: container_labels(pod, &container.name),
        annotations: container_annotations(pod, container, start.restart_count),
        log_path: log_path(&container.name, start.restart_count),
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        tty: container.tty.unwrap_or(false),
        linux: Some(v1::LinuxContainerConfig {
            resources: Some(container_resources(pod, container, node.cpu, node.memory_capacity)),
            security_context: Some(security),
        }),
        cdi_devices: Vec::new(),
        stop_signal: stop_signal.into(),
    })
}

/// Name, namespace and uid of the pod, as sandboxes and containers carry them.
#[must_use]
pub fn pod_labels(pod: &Pod) -> HashMap<String, String> {
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    HashMap::from([
        (POD_NAME.to_owned(), text(&pod.metadata.name)),
        (POD_NAMESPACE.to_owned(), text(&pod.metadata.namespace)),
        (POD_UID.to_owned(), text(&pod.metadata.uid)),
    ])
}

/// Changes when the container must be made anew: with its name or image. The other parts of a running pod's containers
/// either cannot change or are changed in place. The kubelet's own number (since 1.31), over the text that it hashes.
#[must_use]
pub fn spec_hash(container: &Container) -> u64 {
    let mut text = String::from("([]uint8)[");
    let json = format!(
        r#"{{"image":{},"name":{}}}"#,
        go_json(container.image.as_deref().unwrap_or_default()),
        go_json(&container.name)
    );
    for (i, byte) in json.bytes().enumerate() {
        if i > 0 {
            text.push(' ');
        }
        text.push_str(&byte.to_string());
    }
    text.push(']');
    let fnv =
        text.bytes().fold(0x811c_9dc5_u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193));
    u64::from(fnv)
}

/// [`spec_hash`] as the annotation [`HASH`] has it.
#[must_use]
pub fn spec_hash_text(container: &Container) -> String {
    format!("{:x}", spec_hash(container))
}

/// Log file of one start, below the pod's log directory.
#[must_use]
pub fn log_path(container: &str, restart_count: u32) -> String {
    format!("{container}/{restart_count}.log")
}

/// Log directory of a pod: `<root>/<namespace>_<name>_<uid>`.
#[must_use]
pub fn log_directory(root: &Path, pod: &Pod) -> String {
    // One folder, whatever it is called: no part of the name leads out of the root.
    let text = |text: &Option<String>| text.as_deref().unwrap_or_default().replace('/', "_");
    let meta = &pod.metadata;
    let name = format!("{}_{}_{}", text(&meta.namespace), text(&meta.name), text(&meta.uid));
    root.join(name).display().to_string()
}

/// Whether what the runtime has under these labels is this Pod's, as `static_pods::as_run` gives it: uid and name both say so.
#[must_use]
pub fn runs_for(labels: &HashMap<String, String>, pod: &Pod) -> bool {
    let metadata = &pod.metadata;
    let said = [(POD_UID, &metadata.uid), (POD_NAMESPACE, &metadata.namespace), (POD_NAME, &metadata.name)];
    said.iter().all(|(label, text)| text.is_some() && labels.get(*label) == text.as_ref())
}

fn container_labels(pod: &Pod, name: &str) -> HashMap<String, String> {
    let mut labels = pod_labels(pod);
    labels.insert(CONTAINER_NAME.to_owned(), name.to_owned());
    labels
}

fn container_annotations(pod: &Pod, container: &Container, restart_count: u32) -> HashMap<String, String> {
    let mut annotations = HashMap::from([
        (HASH.to_owned(), spec_hash_text(container)),
        (RESTART_COUNT.to_owned(), restart_count.to_string()),
        (
            TERMINATION_MESSAGE_PATH.to_owned(),
            container.termination_message_path.clone().unwrap_or_else(|| "/dev/termination-log".to_owned()),
        ),
        (
            TERMINATION_MESSAGE_POLICY.to_owned(),
            container.termination_message_policy.clone().unwrap_or_else(|| "File".to_owned()),
        ),
    ]);
    let mut put = |key: &str, value: Option<String>| {
        if let Some(value) = value {
            annotations.insert(key.to_owned(), value);
        }
    };
    put(DELETION_GRACE, pod.metadata.deletion_grace_period_seconds.map(|seconds| seconds.to_string()));
    let grace = pod.spec.as_ref().and_then(|spec| spec.termination_grace_period_seconds);
    put(TERMINATION_GRACE, grace.map(|seconds| seconds.to_string()));
    let pre_stop = container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.pre_stop.as_ref());
    put(PRE_STOP, pre_stop.and_then(|handler| serde_json::to_string(handler).ok()));
    let ports = container.ports.as_ref().filter(|ports| !ports.is_empty());
    put(PORTS, ports.and_then(|ports| serde_json::to_string(ports).ok()));
    annotations
}

/// A JSON string as Go writes it: `<`, `>` and `&` are escaped too. Names and images are ASCII.
fn go_json(text: &str) -> String {
    let json = serde_json::Value::from(text).to_string();
    json.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn facts() -> NodeFacts<'static> {
        NodeFacts {
            memory_capacity: 8 << 30,
            cpu: CpuQuota::default(),
            security: SecurityFacts { seccomp_root: Path::new("/s"), seccomp_default: false, n_cpus: 0 },
        }
    }

    /// Numbers printed by the kubelet's own function.
    #[test]
    fn labels_say_whose_a_container_is() {
        let metadata = json!({"namespace": "default", "name": "web-edge-1", "uid": "u-7"});
        let pod: Pod = serde_json::from_value(json!({"metadata": metadata})).unwrap();
        let check = |labels: [(&str, &str); 3], expected: bool| {
            let labels = labels.map(|(name, text)| (format!("io.kubernetes.pod.{name}"), text.to_owned()));
            assert_eq!(runs_for(&labels.clone().into(), &pod), expected, "{labels:?}");
        };
        check([("uid", "u-7"), ("namespace", "default"), ("name", "web-edge-1")], true);
        check([("uid", "u-7"), ("namespace", "default"), ("name", "db-edge-1")], false);
        check([("uid", "u-7"), ("namespace", "tenant"), ("name", "web-edge-1")], false);
        check([("uid", "u-1"), ("namespace", "default"), ("name", "web-edge-1")], false);
        check([("uid", "u-7"), ("namespace", "default"), ("other", "")], false);
    }

    #[test]
    fn hashes_are_the_kubelets() {
        let check = |name: &str, image: &str, hash: &str| {
            let container =
                Container { name: name.into(), image: Some(image.into()), ..Container::default() };
            assert_eq!(spec_hash_text(&container), hash, "{name} {image}");
        };
        check("web", "nginx:1.27", "e220f96");
        check("app", "a<b&c", "b2a6d09b");
    }

    #[test]
    fn whole_container() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
            "spec": {
                "terminationGracePeriodSeconds": 30,
                "containers": [{
                    "name": "app", "image": "web:1",
                    "command": ["run", "$(HOST)", "$$(HOST)", "$(NOT)"], "args": ["--to=$(HOST)"],
                    "workingDir": "/srv", "tty": true, "stdin": true,
                    "ports": [{"containerPort": 80, "protocol": "TCP"}],
                    "lifecycle": {"preStop": {"exec": {"command": ["bye"]}}, "stopSignal": "SIGUSR1"}
                }]
            }
        }))
        .unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let env = [pair("HOST", "first"), pair("HOST", "edge"), pair("TOKEN", "hidden")];
        let start = Start {
            container: &pod.spec.as_ref().unwrap().containers[0],
            restart_count: 2,
            image_id: "sha256:1",
            image_user: &ImageUser::Uid(0),
            env: &env,
            mounts: Vec::new(),
            target_id: None,
        };
        let config = container_config(&pod, start.clone(), &facts()).unwrap();
        assert_eq!(config.command, ["run", "edge", "$(HOST)", "$(NOT)"]);
        assert_eq!(config.args, ["--to=edge"]);
        assert_eq!((config.working_dir.as_str(), config.log_path.as_str()), ("/srv", "app/2.log"));
        assert!(config.tty && config.stdin && !config.stdin_once);
        assert_eq!(config.stop_signal(), v1::Signal::Sigusr1);
        assert_eq!(config.metadata.as_ref().unwrap().attempt, 2);
        assert_eq!(config.image.as_ref().unwrap().image, "sha256:1");
        let labels = |key: &str| config.labels.get(key).map(String::as_str);
        assert_eq!(
            [labels(POD_NAME), labels(POD_NAMESPACE), labels(POD_UID), labels(CONTAINER_NAME)],
            [Some("web"), Some("shop"), Some("u-1"), Some("app")]
        );
        let note = |key: &str| config.annotations.get(key).map(String::as_str);
        let check = |key: &str, value: Option<&str>| assert_eq!(note(key), value, "{key}");
        check(RESTART_COUNT, Some("2"));
        check(TERMINATION_MESSAGE_PATH, Some("/dev/termination-log"));
        check(TERMINATION_MESSAGE_POLICY, Some("File"));
        check(TERMINATION_GRACE, Some("30"));
        check(DELETION_GRACE, None);
        check(PRE_STOP, Some(r#"{"exec":{"command":["bye"]}}"#));
        check(PORTS, Some(r#"[{"containerPort":80,"protocol":"TCP"}]"#));
        assert!(!format!("{config:?}").contains("hidden"), "environment values are not printed");

        let debug = container_config(&pod, Start { target_id: Some("c-1"), ..start }, &facts()).unwrap();
        let options = debug.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
        assert_eq!((options.pid(), options.target_id.as_str()), (v1::NamespaceMode::Target, "c-1"));
    }
}
