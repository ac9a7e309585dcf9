//! Brings device definitions that are there already up to date: columns for `kubectl get` where they have none, and where
//! the conversion webhook is. Nothing else of them is touched; they may be KubeEdge's own.
//!
//! Called by `conversion.rs`.

use ke_api::device_crds::{WEBHOOK_CRDS, WebhookPlace, webhook_conversion};
use ke_run::backoff::Backoff;
use kube::api::{Api, ApiResource, DynamicObject, Patch, PatchParams};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};
use std::time::Duration;

use crate::chain::chain;

const GROUP: &str = "devices.kubeedge.io";
const AWAY: Backoff =
    Backoff { first: Duration::from_secs(1), factor: 2.0, max: Duration::from_secs(60), jitter: 0.0 };

/// Where the webhook is, and the PEM of the CA that signed its certificate.
pub(super) struct Webhook {
    pub(super) place: WebhookPlace,
    pub(super) ca: String,
}

/// Goes on until all are as they should be, or the API server refuses for good.
pub(super) async fn bring_up_to_date(client: &kube::Client, webhook: Option<&Webhook>) {
    let kind = GroupVersionKind::gvk("apiextensions.k8s.io", "v1", "CustomResourceDefinition");
    let resource = ApiResource::from_gvk_with_plural(&kind, "customresourcedefinitions");
    let api = Api::<DynamicObject>::all_with(client.clone(), &resource);
    for ours in ke_api::crds().into_iter().filter(|definition| definition.spec.group == GROUP) {
        let name = ours.metadata.name.clone().unwrap_or_default();
        let ours = serde_json::to_value(&ours).unwrap_or_default();
        let webhook = webhook.filter(|_| WEBHOOK_CRDS.contains(&name.as_str()));
        for attempt in 0.. {
            match one(&api, &name, &ours, webhook).await {
                Ok(()) => break,
                Err(cause) if matches!(&cause, kube::Error::Api(status) if matches!(status.code, 401 | 403)) =>
                {
                    tracing::warn!(
                        "the resource definition {name} is not brought up to date, so that v1alpha2 is not converted: {}; \
                         cloudcore's ClusterRole needs get and patch on customresourcedefinitions",
                        chain(&cause)
                    );
                    break;
                }
                Err(cause) => {
                    tracing::warn!(
                        "bring the resource definition {name} up to date, trying again: {}",
                        chain(&cause)
                    );
                    tokio::time::sleep(AWAY.delay(attempt, 0.0)).await;
                }
            }
        }
    }
}

async fn one(
    api: &Api<DynamicObject>,
    name: &str,
    ours: &Value,
    webhook: Option<&Webhook>,
) -> kube::Result<()> {
    let found = api.get(name).await?;
    let changes = changes(&found.data, ours, webhook);
    if changes.is_empty() {
        return Ok(());
    }
    // If somebody else changes it meanwhile, the patch fails and is made anew.
    let version = found.metadata.resource_version.unwrap_or_default();
    let mut patch = vec![json!({"op": "test", "path": "/metadata/resourceVersion", "value": version})];
    patch.extend(changes);
    let patch = serde_json::from_value(Value::Array(patch)).map_err(kube::Error::SerdeError)?;
    api.patch(name, &PatchParams::default(), &Patch::<()>::Json(patch)).await?;
    tracing::info!("the resource definition {name} is up to date now");
    Ok(())
}

/// Operations of a JSON patch.
fn changes(found: &Value, ours: &Value, webhook: Option<&Webhook>) -> Vec<Value> {
    let mut changes = Vec::new();
    let versions = |definition: &Value| -> Vec<Value> {
        definition.pointer("/spec/versions").and_then(Value::as_array).cloned().unwrap_or_default()
    };
    let ours_of = versions(ours);
    for (index, version) in versions(found).iter().enumerate() {
        let columns = |version: &Value| version.get("additionalPrinterColumns").cloned().unwrap_or_default();
        let same = ours_of.iter().find(|ours| ours.get("name") == version.get("name"));
        let wanted = same.map(columns).unwrap_or_default();
        // Whoever chose other columns keeps them.
        if columns(version).as_array().is_none_or(Vec::is_empty) && !wanted.is_null() {
            let path = format!("/spec/versions/{index}/additionalPrinterColumns");
            changes.push(json!({"op": "add", "path": path, "value": wanted}));
        }
    }
    if let Some(Webhook { place, ca }) = webhook {
        let wanted = serde_json::to_value(webhook_conversion(place, ca.as_bytes())).unwrap_or_default();
        let found = found.pointer("/spec/conversion").unwrap_or(&Value::Null);
        if !says(found, &wanted) {
            changes.push(json!({"op": "add", "path": "/spec/conversion", "value": wanted}));
        }
    }
    changes
}

/// Whether everything wanted is found; the API server adds defaults of its own.
fn says(found: &Value, wanted: &Value) -> bool {
    match (found, wanted) {
        (Value::Object(found), Value::Object(wanted)) => {
            // Only one of `url` and `service` may be there.
            let is_elsewhere = |name: &str| found.contains_key(name) && !wanted.contains_key(name);
            !is_elsewhere("url")
                && !is_elsewhere("service")
                && wanted
                    .iter()
                    .all(|(name, wanted)| found.get(name).is_some_and(|found| says(found, wanted)))
        }
        _ => found == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ours() -> Value {
        let found =
            ke_api::crds().into_iter().find(|found| found.metadata.name.as_deref() == Some(WEBHOOK_CRDS[0]));
        serde_json::to_value(found.unwrap()).unwrap()
    }

    fn webhook() -> Webhook {
        Webhook {
            place: WebhookPlace::Url("https://10.0.0.1:10005/convert".to_owned()),
            ca: "PEM".to_owned(),
        }
    }

    #[test]
    fn kubeedges_own_definition_gets_columns_and_the_webhook() {
        let found = json!({"spec": {"conversion": {"strategy": "None"},
            "versions": [{"name": "v1alpha2", "served": true}, {"name": "v1beta1", "served": true}, {"name": "v2"}]}});
        let made = changes(&found, &ours(), Some(&webhook()));
        let paths: Vec<&str> = made.iter().map(|change| change["path"].as_str().unwrap()).collect();
        let columns_of_alpha = ours()["spec"]["versions"][1].get("additionalPrinterColumns").is_some();
        let mut expected = vec!["/spec/versions/1/additionalPrinterColumns", "/spec/conversion"];
        if columns_of_alpha {
            expected.insert(0, "/spec/versions/0/additionalPrinterColumns");
        }
        assert_eq!(paths, expected);
        assert_eq!(made.last().unwrap()["value"]["strategy"], "Webhook");
    }

    #[test]
    fn what_is_up_to_date_is_left_alone() {
        let mut found = ours();
        found["spec"]["conversion"] =
            serde_json::to_value(webhook_conversion(&webhook().place, b"PEM")).unwrap();
        assert_eq!(changes(&found, &ours(), Some(&webhook())), [] as [Value; 0]);
        found["spec"]["versions"][0]["additionalPrinterColumns"] = json!([{"name": "MINE"}]);
        assert_eq!(changes(&found, &ours(), None), [] as [Value; 0]);
        let service = WebhookPlace::Service {
            namespace: "kubeedge".to_owned(),
            name: "cloudcore".to_owned(),
            port: 443,
            path: "/convert".to_owned(),
        };
        let elsewhere = Webhook { place: service, ca: "PEM".to_owned() };
        assert_eq!(changes(&found, &ours(), Some(&elsewhere)).len(), 1);
        let anew = Webhook { ca: "ANOTHER".to_owned(), ..webhook() };
        assert_eq!(changes(&found, &ours(), Some(&anew)).len(), 1);
        // What the API server adds by itself.
        let service = json!({"a": {"service": {"name": "x", "port": 443}}});
        assert!(says(&service, &json!({"a": {"service": {"name": "x"}}})));
    }
}
