//! Fields that need something of the runtime: what it gets, and the word where it has none of it.

use k8s_openapi::api::core::v1::Pod;

use super::*;

/// The config of the pod's only container, once it runs.
async fn started(machine: &Machine, pod: Pod) -> v1::ContainerConfig {
    let mut edged = machine.start(vec![Arc::new(pod)]);
    edged.running().await;
    edged.end().await;
    let id = machine.runtime.container_named("app").unwrap();
    machine.runtime.container_config(&id).unwrap()
}

/// The first event of this reason, when the pod is run on a runtime that can do little.
async fn told(machine: &Machine, spec: serde_json::Value, reason: &str) -> String {
    let mut edged = machine.start(vec![Arc::new(pod("u1", spec))]);
    let said = edged.wait(reason, |report| event(report).filter(|(found, _)| found == reason)).await;
    edged.end().await;
    said.1
}

fn mounting(volume: serde_json::Value, mount: serde_json::Value) -> serde_json::Value {
    let mut container = json!({"name": "app", "image": "i:1", "imagePullPolicy": "IfNotPresent"});
    let mut one = json!({"name": "v", "mountPath": "/v"});
    one.as_object_mut().unwrap().extend(mount.as_object().unwrap().clone());
    container["volumeMounts"] = json!([one]);
    let mut volume = volume;
    volume["name"] = "v".into();
    json!({"containers": [container], "volumes": [volume]})
}

async fn sandbox(machine: &Machine) -> v1::PodSandboxStatus {
    let id = machine.runtime.list_sandboxes().await.unwrap()[0].id.clone();
    machine.runtime.sandbox_status(&id).await.unwrap()
}

#[tokio::test]
async fn a_class_gives_its_handler_and_a_missing_one_is_named() {
    let machine = Machine::new();
    started(&machine, pod("u1", json!({"runtimeClassName": "isolated"}))).await;
    assert_eq!(sandbox(&machine).await.runtime_handler, "kata");

    let machine = Machine::new();
    let mut edged = machine.start(vec![Arc::new(pod("u1", json!({"runtimeClassName": "gone"})))]);
    let failed = |report: &Report| event(report).filter(|(reason, _)| reason == "FailedCreatePodSandBox");
    let (_, message) = edged.wait("FailedCreatePodSandBox", failed).await;
    assert_eq!(message, "Failed to create pod sandbox: runtimeclass.node.k8s.io \"gone\" not found");
    let again = edged.wait("tried again", failed).await;
    assert_eq!(again.1, message);
    assert_eq!(machine.n_calls("run_sandbox"), 0, "not under the default handler");
    edged.end().await;
}

#[tokio::test]
async fn users_of_its_own() {
    let spec = || json!({"hostUsers": false, "runtimeClassName": "isolated"});
    let machine = Machine::new();
    let why = told(&machine, spec(), "FailedCreatePodSandBox").await;
    let expected = "Failed to create pod sandbox: can't set `spec.hostUsers: false`, RuntimeClass handler \"kata\" \
                    does not support user namespaces";
    assert_eq!(why, expected);
    assert_eq!(machine.n_calls("run_sandbox"), 0);

    machine.runtime.be_able(&["", "kata"]);
    let mut mounting = mounting(json!({"emptyDir": {}}), json!({}));
    mounting.as_object_mut().unwrap().extend(spec().as_object().unwrap().clone());
    let config = started(&machine, pod("u2", mounting)).await;
    let all = vec![v1::IdMapping { host_id: 131_072, container_id: 0, length: 65_536 }];
    let own = v1::UserNamespace { mode: v1::NamespaceMode::Pod.into(), uids: all.clone(), gids: all.clone() };
    let options = sandbox(&machine).await.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.userns_options, Some(own.clone()));
    let of_container = config.linux.unwrap().security_context.unwrap().namespace_options.unwrap();
    assert_eq!(of_container.userns_options, Some(own));
    assert_eq!((&config.mounts[0].uid_mappings, &config.mounts[0].gid_mappings), (&all, &all));

    let machine = Machine::new();
    started(&machine, pod("u3", json!({"hostUsers": true}))).await;
    let options = sandbox(&machine).await.linux.unwrap().namespaces.unwrap().options.unwrap();
    assert_eq!(options.userns_options, None);
    assert_eq!(machine.files.n("own ids u3"), 0);
}

#[tokio::test]
async fn strict_groups_need_a_runtime_that_has_them() {
    let strict = json!({"securityContext": {"supplementalGroupsPolicy": "Strict"}});
    let machine = Machine::new();
    let mut edged = machine.start(vec![Arc::new(pod("u1", strict.clone()))]);
    let status = edged.status("Failed", |status| status.phase.as_deref() == Some("Failed")).await;
    assert_eq!(status.reason.as_deref(), Some("SupplementalGroupsPolicyNotSupported"));
    let why = "Pod was rejected: SupplementalGroupsPolicy=Strict is not supported in this node";
    assert_eq!(status.message.as_deref(), Some(why));
    assert_eq!(machine.n_calls("run_sandbox"), 0);
    edged.end().await;
    // What was taken on is never refused later.
    let mut settled = pod("u2", strict.clone());
    settled.status = serde_json::from_value(json!({"startTime": "2026-01-01T00:00:00Z"})).unwrap();
    started(&Machine::new(), settled).await;
    let machine = Machine::new();
    machine.runtime.be_able(&[""]);
    let config = started(&machine, pod("u3", strict)).await;
    let security = config.linux.unwrap().security_context.unwrap();
    assert_eq!(security.supplemental_groups_policy(), v1::SupplementalGroupsPolicy::Strict);
}

#[tokio::test]
async fn read_only_to_the_last_mount() {
    let spec =
        |mode: &str| mounting(json!({"emptyDir": {}}), json!({"readOnly": true, "recursiveReadOnly": mode}));
    let machine = Machine::new();
    let why = told(&machine, spec("Enabled"), "Failed").await;
    let expected = "Error: failed to resolve recursive read-only mode: volume \"v\" requested recursive read-only \
                    mode, but it is not supported by the runtime";
    assert_eq!(why, expected);
    for (mode, can, expected) in
        [("IfPossible", false, false), ("IfPossible", true, true), ("Enabled", true, true)]
    {
        let machine = Machine::new();
        if can {
            machine.runtime.be_able(&[""]);
        }
        let config = started(&machine, pod("u1", spec(mode))).await;
        assert_eq!(config.mounts[0].recursive_read_only, expected, "{mode} {can}");
    }
}

#[tokio::test]
async fn an_image_as_a_volume() {
    let spec = |policy: &str| {
        mounting(json!({"image": {"reference": "m:1", "pullPolicy": policy}}), json!({"subPath": "weights"}))
    };
    let machine = Machine::new();
    machine.runtime.add_to_registry("m:1");
    let config = started(&machine, pod("u1", spec("IfNotPresent"))).await;
    let mount = &config.mounts[0];
    let image = mount.image.clone().unwrap();
    assert_eq!((mount.container_path.as_str(), mount.image_sub_path.as_str()), ("/v", "weights"));
    assert!(mount.readonly && mount.host_path.is_empty());
    assert_eq!(image.user_specified_image, "m:1");
    let held = v1::ImageSpec { image: image.image, ..v1::ImageSpec::default() };
    let held = machine.runtime.image_status(&held).await.unwrap().unwrap();
    assert!(held.repo_tags.iter().any(|tag| tag.contains("m:1")), "{held:?}");

    let machine = Machine::new();
    let mut edged = machine.start(vec![Arc::new(pod("u1", spec("Never")))]);
    let waits = |status: &PodStatus| {
        let app = status.container_statuses.iter().flatten().next()?;
        app.state.as_ref()?.waiting.as_ref()?.reason.clone()
    };
    edged.status("waits", |status| waits(status).as_deref() == Some("ErrImageNeverPull")).await;
    assert_eq!(machine.n_calls("create_container"), 0);
    edged.end().await;
}
