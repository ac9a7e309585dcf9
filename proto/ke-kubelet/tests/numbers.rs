//! Every name and number that decides whether a plugin understands us, written down a second time: from upstream's
//! k8s.io/kubelet v0.36, not from our files. A slip of the pen in a proto fails here.

// All of this file is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used)]

/// File, package, message, and its fields in the order of their numbers.
const UPSTREAM: &[(&str, &str, &str, &str)] = &[
    (
        "device_plugin.proto",
        "v1beta1",
        "DevicePluginOptions",
        "pre_start_required=1 get_preferred_allocation_available=2",
    ),
    ("device_plugin.proto", "v1beta1", "RegisterRequest", "version=1 endpoint=2 resource_name=3 options=4"),
    ("device_plugin.proto", "v1beta1", "ListAndWatchResponse", "devices=1"),
    ("device_plugin.proto", "v1beta1", "Device", "ID=1 health=2 topology=3"),
    ("device_plugin.proto", "v1beta1", "TopologyInfo", "nodes=1"),
    ("device_plugin.proto", "v1beta1", "NUMANode", "ID=1"),
    ("device_plugin.proto", "v1beta1", "PreStartContainerRequest", "devices_ids=1"),
    ("device_plugin.proto", "v1beta1", "PreferredAllocationRequest", "container_requests=1"),
    (
        "device_plugin.proto",
        "v1beta1",
        "ContainerPreferredAllocationRequest",
        "available_deviceIDs=1 must_include_deviceIDs=2 allocation_size=3",
    ),
    ("device_plugin.proto", "v1beta1", "PreferredAllocationResponse", "container_responses=1"),
    ("device_plugin.proto", "v1beta1", "ContainerPreferredAllocationResponse", "deviceIDs=1"),
    ("device_plugin.proto", "v1beta1", "AllocateRequest", "container_requests=1"),
    ("device_plugin.proto", "v1beta1", "ContainerAllocateRequest", "devices_ids=1"),
    ("device_plugin.proto", "v1beta1", "AllocateResponse", "container_responses=1"),
    (
        "device_plugin.proto",
        "v1beta1",
        "ContainerAllocateResponse",
        "envs=1 mounts=2 devices=3 annotations=4 cdi_devices=5",
    ),
    ("device_plugin.proto", "v1beta1", "Mount", "container_path=1 host_path=2 read_only=3"),
    ("device_plugin.proto", "v1beta1", "DeviceSpec", "container_path=1 host_path=2 permissions=3"),
    ("device_plugin.proto", "v1beta1", "CDIDevice", "name=1"),
    (
        "plugin_registration.proto",
        "pluginregistration",
        "PluginInfo",
        "type=1 name=2 endpoint=3 supported_versions=4",
    ),
    ("plugin_registration.proto", "pluginregistration", "RegistrationStatus", "plugin_registered=1 error=2"),
    ("pod_resources.proto", "v1", "AllocatableResourcesResponse", "devices=1 cpu_ids=2 memory=3"),
    ("pod_resources.proto", "v1", "ListPodResourcesResponse", "pod_resources=1"),
    ("pod_resources.proto", "v1", "PodResources", "name=1 namespace=2 containers=3"),
    (
        "pod_resources.proto",
        "v1",
        "ContainerResources",
        "name=1 devices=2 cpu_ids=3 memory=4 dynamic_resources=5",
    ),
    ("pod_resources.proto", "v1", "ContainerMemory", "memory_type=1 size=2 topology=3"),
    ("pod_resources.proto", "v1", "ContainerDevices", "resource_name=1 device_ids=2 topology=3"),
    ("pod_resources.proto", "v1", "DynamicResource", "claim_name=2 claim_namespace=3 claim_resources=4"),
    (
        "pod_resources.proto",
        "v1",
        "ClaimResource",
        "cdi_devices=1 driver_name=2 pool_name=3 device_name=4 share_id=5",
    ),
    ("pod_resources.proto", "v1", "GetPodResourcesRequest", "pod_name=1 pod_namespace=2"),
    ("pod_resources.proto", "v1", "GetPodResourcesResponse", "pod_resources=1"),
];

/// One file as it was compiled.
struct Compiled {
    file: String,
    package: String,
    /// Name and fields.
    messages: Vec<(String, String)>,
    calls: Vec<String>,
}

fn compiled() -> Vec<Compiled> {
    let directory = env!("CARGO_MANIFEST_DIR");
    let names = ["device_plugin.proto", "plugin_registration.proto", "pod_resources.proto"];
    let paths = names.map(|name| format!("{directory}/{name}"));
    let files = protox::compile(paths, [directory]).unwrap();
    let compiled = files.file.iter().map(|file| {
        let messages = file.message_type.iter().map(|message| {
            let mut fields: Vec<(i32, &str)> =
                message.field.iter().map(|field| (field.number(), field.name())).collect();
            fields.sort_unstable();
            let shown: Vec<String> = fields.iter().map(|(number, name)| format!("{name}={number}")).collect();
            (message.name().to_owned(), shown.join(" "))
        });
        let calls = file.service.iter().flat_map(|service| {
            service.method.iter().map(|call| format!("{}/{}", service.name(), call.name()))
        });
        Compiled {
            file: file.name().to_owned(),
            package: file.package().to_owned(),
            messages: messages.collect(),
            calls: calls.collect(),
        }
    });
    compiled.collect()
}

#[test]
fn numbers_are_upstreams() {
    let compiled = compiled();
    for (file, package, message, expected) in UPSTREAM {
        let found =
            compiled.iter().find(|one| one.file == *file).unwrap_or_else(|| panic!("{file} is missing"));
        assert_eq!(found.package, *package, "{file}");
        let fields = found.messages.iter().find(|one| one.0 == *message);
        let fields = fields.unwrap_or_else(|| panic!("{message} is missing"));
        assert_eq!(fields.1, *expected, "{message}");
    }
}

/// Calls are found by their full names.
#[test]
fn calls_are_upstreams() {
    let mut calls: Vec<String> = compiled().into_iter().flat_map(|one| one.calls).collect();
    calls.sort();
    let expected = [
        "DevicePlugin/Allocate",
        "DevicePlugin/GetDevicePluginOptions",
        "DevicePlugin/GetPreferredAllocation",
        "DevicePlugin/ListAndWatch",
        "DevicePlugin/PreStartContainer",
        "PodResourcesLister/Get",
        "PodResourcesLister/GetAllocatableResources",
        "PodResourcesLister/List",
        "Registration/GetInfo",
        "Registration/NotifyRegistrationStatus",
        "Registration/Register",
    ];
    assert_eq!(calls, expected);
}

#[test]
fn variables_are_not_printed() {
    let envs = [("TOKEN".to_owned(), "hidden".to_owned())].into();
    let response = ke_kubelet::device_plugin::ContainerAllocateResponse { envs, ..Default::default() };
    let shown = format!("{response:?}");
    assert!(!shown.contains("hidden") && shown.contains("TOKEN"), "{shown}");
}
