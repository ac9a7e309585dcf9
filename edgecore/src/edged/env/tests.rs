//! Tests of the environment: tables of pods and what their containers get.

use serde_json::{Value, json};

use super::*;
use crate::edged::sources::fake::FakeObjects;

fn objects(offline: bool) -> FakeObjects {
    let objects = FakeObjects { offline: offline.into(), ..FakeObjects::default() };
    objects.put("configmap/shop/c", json!({"data": {"color": "blue", "size": "9"}}));
    // "s3cret" and "x".
    objects.put("secret/shop/s", json!({"data": {"pass": "czNjcmV0", "user": "eA=="}}));
    objects
}

async fn resolve(container: Value, objects: &FakeObjects) -> Result<Environment, EnvError> {
    let mut container = container;
    container["name"] = json!("app");
    let pod: Pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"}, "spec": {"containers": [container]}
    }))
    .unwrap();
    let facts = PodFacts {
        pod_ips: vec!["10.1.0.4".parse().unwrap()],
        service_env: vec![("SVC".into(), "svc".into()), ("A".into(), "from service".into())],
        ..PodFacts::default()
    };
    environment(&pod, &pod.spec.as_ref().unwrap().containers[0], objects, &facts).await
}

#[tokio::test]
async fn variables() {
    let check = async |container: Value, expected: &[(&str, &str)]| {
        let env = resolve(container.clone(), &objects(false)).await.unwrap();
        let found: Vec<_> = env.variables.iter().map(|(k, v)| (k.as_str(), v.as_str())).skip(2).collect();
        assert_eq!(found, expected, "{container}");
    };
    check(json!({}), &[]).await;
    check(
        json!({"env": [
            {"name": "B", "value": "$(A)-$(C)-$$(A)-$(SVC)"}, {"name": "C", "value": "c"}, {"name": "D", "value": "$(C)"},
            {"name": "B", "value": "again $(B)"}, {"name": "E"}
        ]}),
        &[("B", "again from service-$(C)-$(A)-svc"), ("C", "c"), ("D", "c"), ("E", "")],
    )
    .await;
    check(
        json!({"envFrom": [{"configMapRef": {"name": "c"}}, {"prefix": "S_", "secretRef": {"name": "s"}},
                           {"configMapRef": {"name": "none", "optional": true}}],
               "env": [{"name": "size", "value": "10"}]}),
        &[("color", "blue"), ("size", "10"), ("S_pass", "s3cret"), ("S_user", "x")],
    )
    .await;
    check(
        json!({"env": [
            {"name": "C", "valueFrom": {"configMapKeyRef": {"name": "c", "key": "color"}}},
            {"name": "P", "valueFrom": {"secretKeyRef": {"name": "s", "key": "pass"}}},
            {"name": "N", "valueFrom": {"secretKeyRef": {"name": "s", "key": "no", "optional": true}}},
            {"name": "M", "valueFrom": {"secretKeyRef": {"name": "none", "key": "no", "optional": true}}},
            {"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
            {"name": "CPU", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}
        ]}),
        &[("C", "blue"), ("P", "s3cret"), ("IP", "10.1.0.4"), ("CPU", "0")],
    )
    .await;
}

#[tokio::test]
async fn errors_in_the_kubelets_words() {
    let check = async |container: Value, offline: bool, expected: EnvError| {
        assert_eq!(resolve(container.clone(), &objects(offline)).await, Err(expected), "{container}");
    };
    let missing = |text: &str| EnvError::Missing(text.to_owned());
    let refused = |text: &str| EnvError::Refused(text.to_owned());
    let from = |source: Value| json!({"env": [{"name": "A", "valueFrom": source}]});
    let config_map = |name: &str, key: &str| from(json!({"configMapKeyRef": {"name": name, "key": key}}));
    let secret = |name: &str, key: &str| from(json!({"secretKeyRef": {"name": name, "key": key}}));
    check(config_map("x", "k"), false, missing("configmap \"x\" not found")).await;
    check(config_map("c", "k"), false, missing("couldn't find key k in ConfigMap shop/c")).await;
    check(secret("x", "k"), false, missing("secret \"x\" not found")).await;
    check(secret("s", "k"), false, missing("couldn't find key k in Secret shop/s")).await;
    check(json!({"envFrom": [{"configMapRef": {"name": "x"}}]}), false, missing("configmap \"x\" not found"))
        .await;
    check(
        config_map("x", "k"),
        true,
        EnvError::Offline("configmap \"x\" is not on this node and the cloud is not reachable".into()),
    )
    .await;
    check(
        from(json!({"fieldRef": {"fieldPath": "spec.x"}})),
        false,
        refused("unsupported fieldPath: spec.x"),
    )
    .await;
    check(
        from(json!({"fileKeyRef": {"key": "k", "path": "p", "volumeName": "v"}})),
        false,
        refused("environment variable A: fileKeyRef is not supported by this node"),
    )
    .await;
}

#[tokio::test]
async fn an_optional_source_is_absent_offline_too() {
    let container = json!({"envFrom": [{"secretRef": {"name": "x", "optional": true}}]});
    assert_eq!(resolve(container, &objects(true)).await.unwrap().variables.len(), 2);
}

#[tokio::test]
async fn names_that_cannot_be_are_skipped_and_told() {
    let container = json!({"envFrom": [{"prefix": "a=", "configMapRef": {"name": "c"}}]});
    let env = resolve(container, &objects(false)).await.unwrap();
    assert_eq!(
        env.skipped,
        [
            "Keys [a=color, a=size] from the EnvFrom configMap shop/c were skipped since they are considered invalid \
          environment variable names."
        ]
    );
}

#[tokio::test]
async fn values_are_not_printed() {
    let env = resolve(json!({"envFrom": [{"secretRef": {"name": "s"}}]}), &objects(false)).await.unwrap();
    let text = format!("{env:?}");
    assert!(text.contains("pass") && !text.contains("s3cret"), "{text}");
}
