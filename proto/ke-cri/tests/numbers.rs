//! Every name and number that decides whether a runtime understands us, written down a second time: from upstream's
//! k8s.io/cri-api v0.36, not from our file. A slip of the pen in `cri.proto` fails here.

/// Message or enum, and its fields in the order of their numbers.
const UPSTREAM: &[(&str, &str)] = &[
    ("VersionResponse", "version=1 runtime_name=2 runtime_version=3 runtime_api_version=4"),
    (
        "Mount",
        "container_path=1 host_path=2 readonly=3 selinux_relabel=4 propagation=5 uidMappings=6 gidMappings=7 recursive_read_only=8 image=9 image_sub_path=10",
    ),
    ("NamespaceOption", "network=1 pid=2 ipc=3 target_id=4 userns_options=5"),
    (
        "LinuxSandboxSecurityContext",
        "namespace_options=1 selinux_options=2 run_as_user=3 readonly_rootfs=4 supplemental_groups=5 privileged=6 run_as_group=8 seccomp=9 apparmor=10 supplemental_groups_policy=11",
    ),
    ("SecurityProfile", "profile_type=1 localhost_ref=2"),
    ("LinuxPodSandboxConfig", "cgroup_parent=1 security_context=2 sysctls=3 overhead=4 resources=5"),
    ("PodSandboxMetadata", "name=1 uid=2 namespace=3 attempt=4"),
    (
        "PodSandboxConfig",
        "metadata=1 hostname=2 log_directory=3 dns_config=4 port_mappings=5 labels=6 annotations=7 linux=8",
    ),
    (
        "PodSandboxStatus",
        "id=1 metadata=2 state=3 created_at=4 network=5 linux=6 labels=7 annotations=8 runtime_handler=9",
    ),
    ("PodSandbox", "id=1 metadata=2 state=3 created_at=4 labels=5 annotations=6 runtime_handler=7"),
    ("PortMapping", "protocol=1 container_port=2 host_port=3 host_ip=4"),
    ("DNSConfig", "servers=1 searches=2 options=3"),
    ("ImageSpec", "image=1 annotations=2 user_specified_image=18 runtime_handler=19 image_ref=20"),
    (
        "LinuxContainerResources",
        "cpu_period=1 cpu_quota=2 cpu_shares=3 memory_limit_in_bytes=4 oom_score_adj=5 cpuset_cpus=6 cpuset_mems=7 hugepage_limits=8 unified=9 memory_swap_limit_in_bytes=10",
    ),
    (
        "LinuxContainerSecurityContext",
        "capabilities=1 privileged=2 namespace_options=3 selinux_options=4 run_as_user=5 run_as_username=6 readonly_rootfs=7 supplemental_groups=8 no_new_privs=11 run_as_group=12 masked_paths=13 readonly_paths=14 seccomp=15 apparmor=16 supplemental_groups_policy=17",
    ),
    ("Capability", "add_capabilities=1 drop_capabilities=2 add_ambient_capabilities=3"),
    (
        "ContainerConfig",
        "metadata=1 image=2 command=3 args=4 working_dir=5 envs=6 mounts=7 devices=8 labels=9 annotations=10 log_path=11 stdin=12 stdin_once=13 tty=14 linux=15 CDI_devices=17 stop_signal=18",
    ),
    ("CreateContainerRequest", "pod_sandbox_id=1 config=2 sandbox_config=3"),
    ("StopContainerRequest", "container_id=1 timeout=2"),
    (
        "Container",
        "id=1 pod_sandbox_id=2 metadata=3 image=4 image_ref=5 state=6 created_at=7 labels=8 annotations=9 image_id=10",
    ),
    (
        "ContainerStatus",
        "id=1 metadata=2 state=3 created_at=4 started_at=5 finished_at=6 exit_code=7 image=8 image_ref=9 reason=10 message=11 labels=12 annotations=13 mounts=14 log_path=15 resources=16 image_id=17 user=18 stop_signal=19",
    ),
    ("ExecSyncRequest", "container_id=1 cmd=2 timeout=3"),
    ("ExecSyncResponse", "stdout=1 stderr=2 exit_code=3"),
    ("Image", "id=1 repo_tags=2 repo_digests=3 size=4 uid=5 username=6 spec=7 pinned=8"),
    ("AuthConfig", "username=1 password=2 auth=3 server_address=4 identity_token=5 registry_token=6"),
    ("PullImageRequest", "image=1 auth=2 sandbox_config=3"),
    ("StatusResponse", "status=1 info=2 runtime_handlers=3 features=4"),
    ("RuntimeCondition", "type=1 status=2 reason=3 message=4"),
    ("RuntimeHandler", "name=1 features=2"),
    ("ImageFsInfoResponse", "image_filesystems=1 container_filesystems=2"),
    ("FilesystemUsage", "timestamp=1 fs_id=2 used_bytes=3 inodes_used=4"),
    (
        "ContainerEventResponse",
        "container_id=1 container_event_type=2 created_at=3 pod_sandbox_status=4 containers_statuses=5",
    ),
    ("ContainerStats", "attributes=1 cpu=2 memory=3 writable_layer=4"),
    (
        "MemoryUsage",
        "timestamp=1 working_set_bytes=2 available_bytes=3 usage_bytes=4 rss_bytes=5 page_faults=6 major_page_faults=7",
    ),
    ("NamespaceMode", "POD=0 CONTAINER=1 NODE=2 TARGET=3"),
    ("ContainerState", "CONTAINER_CREATED=0 CONTAINER_RUNNING=1 CONTAINER_EXITED=2 CONTAINER_UNKNOWN=3"),
    ("PodSandboxState", "SANDBOX_READY=0 SANDBOX_NOTREADY=1"),
    ("Protocol", "TCP=0 UDP=1 SCTP=2"),
    ("MountPropagation", "PROPAGATION_PRIVATE=0 PROPAGATION_HOST_TO_CONTAINER=1 PROPAGATION_BIDIRECTIONAL=2"),
    (
        "ContainerEventType",
        "CONTAINER_CREATED_EVENT=0 CONTAINER_STARTED_EVENT=1 CONTAINER_STOPPED_EVENT=2 CONTAINER_DELETED_EVENT=3",
    ),
    ("CgroupDriver", "SYSTEMD=0 CGROUPFS=1"),
];

#[test]
fn numbers_are_upstreams() {
    let directory = env!("CARGO_MANIFEST_DIR");
    let files = protox::compile([format!("{directory}/cri.proto")], [directory]).unwrap();
    let file = &files.file[0];
    assert_eq!(file.package(), "runtime.v1");
    for (name, expected) in UPSTREAM {
        let message = file.message_type.iter().find(|message| message.name() == *name);
        let values = file.enum_type.iter().find(|values| values.name() == *name);
        let mut numbers: Vec<(i32, &str)> = match (message, values) {
            (Some(message), _) => message.field.iter().map(|field| (field.number(), field.name())).collect(),
            (None, Some(values)) => values.value.iter().map(|value| (value.number(), value.name())).collect(),
            (None, None) => panic!("{name} is missing"),
        };
        numbers.sort_unstable();
        let found: Vec<String> = numbers.iter().map(|(number, field)| format!("{field}={number}")).collect();
        assert_eq!(found.join(" "), *expected, "{name}");
    }
}

/// Calls are found by their full names.
#[test]
fn calls_are_upstreams() {
    let directory = env!("CARGO_MANIFEST_DIR");
    let files = protox::compile([format!("{directory}/cri.proto")], [directory]).unwrap();
    let names = |service: &str| -> Vec<String> {
        let service = files.file[0].service.iter().find(|candidate| candidate.name() == service).unwrap();
        service.method.iter().map(|method| method.name().to_owned()).collect()
    };
    assert_eq!(
        names("ImageService"),
        ["ListImages", "ImageStatus", "PullImage", "RemoveImage", "ImageFsInfo"]
    );
    for call in
        ["RunPodSandbox", "ListPodSandbox", "CreateContainer", "ContainerStatus", "GetContainerEvents"]
    {
        assert!(names("RuntimeService").iter().any(|name| name == call), "{call}");
    }
}

#[test]
fn secrets_are_not_printed() {
    let auth =
        ke_cri::v1::AuthConfig { username: "u".into(), password: "hidden".into(), ..Default::default() };
    let env = ke_cri::v1::KeyValue { key: "TOKEN".into(), value: b"hidden".to_vec() };
    let shown = format!("{auth:?} {env:?}");
    assert!(!shown.contains("hidden") && shown.contains("TOKEN"), "{shown}");
}
