//! The cluster's API server: the only file that talks to it. Every call ends within [`LIMIT`].
//!
//! Objects are what `kubectl` would print of them. Which of them there are is said elsewhere (`objects/`).

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{
    Api, ApiResource, DeleteParams, DynamicObject, ListParams, LogParams, Patch, PatchParams, PostParams,
};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::core::GroupVersionKind;
use serde_json::{Value, json};

use crate::failure::Failure;

/// The API server has this long for one answer.
const LIMIT: Duration = Duration::from_secs(20);
/// Who is written down as the owner of the fields that keadm sets.
pub(crate) const MANAGER: &str = "keadm";
/// On what init made and reset may remove although others could have made it.
pub(crate) const MADE: &str = "isthmus.io/made-by-keadm";
/// Of cloudcore's pods.
pub(crate) const SELECTOR: &str = "k8s-app=kubeedge,kubeedge=cloudcore";
/// Where kubeconfigs lie when nobody says: KubeEdge's keadm, and K3s.
const USUAL: [&str; 2] = ["/root/.kube/config", "/etc/rancher/k3s/k3s.yaml"];

/// A cluster that can be asked.
pub(crate) struct Cluster {
    client: kube::Client,
    runtime: tokio::runtime::Runtime,
    /// As the kubeconfig names it.
    pub(crate) server: String,
}

/// How an object is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Write {
    /// Only says what would come of `Careful`.
    Try,
    /// Only says what would come of `Over`.
    TryOver,
    /// Fields that somebody else has set meanwhile are a conflict.
    Careful,
    /// Takes fields from whoever has set them.
    Over,
}

impl Write {
    /// The same, but nothing is written.
    pub(crate) const fn tried(self) -> Self {
        match self {
            Self::Try | Self::Careful => Self::Try,
            Self::TryOver | Self::Over => Self::TryOver,
        }
    }

    const fn is_tried(self) -> bool {
        matches!(self, Self::Try | Self::TryOver)
    }

    const fn is_over(self) -> bool {
        matches!(self, Self::TryOver | Self::Over)
    }
}

/// Why an object is not written.
#[derive(Debug)]
pub(crate) enum Refused {
    /// Somebody else has set fields of it; the API server's words name them.
    Conflict(String),
    Other(anyhow::Error),
}

impl Cluster {
    /// By the kubeconfig named, or the usual ones.
    pub(crate) fn connect(kube_config: Option<&Path>) -> Result<Self, Failure> {
        let path = kubeconfig(kube_config)?;
        let shown = path.display();
        let file = Kubeconfig::read_from(&path)
            .map_err(|error| Failure::Refused(format!("cannot use the kubeconfig {shown}: {error}")))?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .context("start the async runtime")?;
        let config =
            runtime.block_on(kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()));
        let config = config
            .map_err(|error| Failure::Refused(format!("cannot use the kubeconfig {shown}: {error}")))?;
        let server = config.cluster_url.to_string().trim_end_matches('/').to_owned();
        // Its parts are started within the runtime.
        let client = runtime.block_on(async { kube::Client::try_from(config) });
        let client = client.with_context(|| format!("use {shown}"))?;
        Ok(Self { client, runtime, server })
    }

    fn ask<T>(&self, what: &str, question: impl Future<Output = kube::Result<T>>) -> Result<T> {
        let limited = async { tokio::time::timeout(LIMIT, question).await };
        let answer = self.runtime.block_on(limited);
        let answer = answer.map_err(|_| anyhow!("the API server {} does not answer", self.server))?;
        answer.with_context(|| format!("{what} at {}", self.server))
    }

    /// Major and minor, and the whole as the server says it.
    pub(crate) fn version(&self) -> Result<(u32, u32, String)> {
        let info = self.ask("ask for the version", self.client.apiserver_version())?;
        let number =
            |text: &str| text.trim_end_matches(|letter: char| !letter.is_ascii_digit()).parse().unwrap_or(0);
        Ok((number(&info.major), number(&info.minor), info.git_version))
    }

    /// Whether this kubeconfig's user may do it. `namespace`: empty for what is in none.
    pub(crate) fn may(&self, verb: &str, object: &Value) -> Result<bool> {
        let resource = resource(object)?;
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SelfSubjectAccessReview", "metadata": {},
            "spec": {"resourceAttributes": {
                "verb": verb, "group": resource.group, "resource": resource.plural,
                "namespace": object["metadata"]["namespace"].as_str().unwrap_or_default(),
                "name": name(object),
            }},
        });
        let gvk = GroupVersionKind::gvk("authorization.k8s.io", "v1", "SelfSubjectAccessReview");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::from_gvk(&gvk));
        let review = serde_json::from_value(review).context("write a question")?;
        let answer = self.ask("ask for rights", api.create(&PostParams::default(), &review))?;
        Ok(answer.data["status"]["allowed"].as_bool().unwrap_or_default())
    }

    /// The object of this kind, namespace and name as it is; `None`: it is not there, nor is its kind.
    pub(crate) fn get(&self, object: &Value) -> Result<Option<Value>> {
        let api = self.api(object)?;
        let found = match self.ask(&format!("read {}", shown(object)), api.get_opt(name(object))) {
            Ok(found) => found,
            Err(error) if is_unknown_kind(&error) => None,
            Err(error) => return Err(error),
        };
        found.map(|found| serde_json::to_value(found).context("read an object")).transpose()
    }

    /// All of a kind. `selector`: of labels, empty for all.
    pub(crate) fn list(&self, like: &Value, selector: &str) -> Result<Vec<Value>> {
        let api = self.api(like)?;
        let params = ListParams::default().labels(selector);
        let kind = like["kind"].as_str().unwrap_or_default();
        let found = match self.ask(&format!("list every {kind}"), api.list(&params)) {
            Ok(found) => found.items,
            Err(error) if is_unknown_kind(&error) => Vec::new(),
            Err(error) => return Err(error),
        };
        found.into_iter().map(|found| serde_json::to_value(found).context("read an object")).collect()
    }

    /// Server-side apply: what is there of others stays.
    pub(crate) fn apply(&self, object: &Value, how: Write) -> Result<Value, Refused> {
        let api = self.api(object).map_err(Refused::Other)?;
        let params =
            PatchParams { dry_run: how.is_tried(), force: how.is_over(), ..PatchParams::apply(MANAGER) };
        let written = self.ask(
            &format!("write {}", shown(object)),
            api.patch(name(object), &params, &Patch::Apply(object)),
        );
        match written {
            Ok(written) => serde_json::to_value(written).context("read an object").map_err(Refused::Other),
            Err(error) => match status(&error) {
                Some(status) if status.is_conflict() => Err(Refused::Conflict(status.message.clone())),
                _ => Err(Refused::Other(error)),
            },
        }
    }

    /// Lays it over what is there, member by member, or makes it: what others write beside at the same time stays.
    pub(crate) fn merge(&self, object: &Value) -> Result<()> {
        let api = self.api(object)?;
        let (what, params) = (
            format!("write {}", shown(object)),
            PatchParams { field_manager: Some(MANAGER.into()), ..PatchParams::default() },
        );
        let merge = || self.ask(&what, api.patch(name(object), &params, &Patch::Merge(object))).map(drop);
        match merge() {
            Err(error) if is_unknown_kind(&error) => {}
            done => return done,
        }
        let whole = serde_json::from_value(object.clone()).context("write an object")?;
        match self.ask(&what, api.create(&PostParams::default(), &whole)) {
            // Somebody else was first.
            Err(error) if status(&error).is_some_and(|status| status.code == 409) => merge(),
            done => done.map(drop),
        }
    }

    /// Whom the API server takes this kubeconfig's user for; empty where it cannot say (before Kubernetes 1.28).
    pub(crate) fn who(&self) -> String {
        let gvk = GroupVersionKind::gvk("authentication.k8s.io", "v1", "SelfSubjectReview");
        let api: Api<DynamicObject> = Api::all_with(self.client.clone(), &ApiResource::from_gvk(&gvk));
        let review =
            json!({"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview", "metadata": {}});
        let Ok(review) = serde_json::from_value(review) else { return String::new() };
        let answer = self.ask("ask who this is", api.create(&PostParams::default(), &review)).ok();
        let name = answer.and_then(|it| Some(it.data["status"]["userInfo"]["username"].as_str()?.to_owned()));
        name.unwrap_or_default()
    }

    /// The end of a pod's log. `is_previous`: of its container before the present one. `None`: there is none.
    pub(crate) fn log(&self, namespace: &str, pod: &str, is_previous: bool, n_lines: u32) -> Option<String> {
        let api: Api<Pod> = Api::namespaced(self.client.clone(), namespace);
        let params =
            LogParams { previous: is_previous, tail_lines: Some(n_lines.into()), ..LogParams::default() };
        self.ask(&format!("read the log of {pod}"), api.logs(pod, &params)).ok()
    }

    /// With what it owns. Gone already: success.
    pub(crate) fn delete(&self, object: &Value) -> Result<()> {
        let api = self.api(object)?;
        match self
            .ask(&format!("remove {}", shown(object)), api.delete(name(object), &DeleteParams::foreground()))
        {
            Err(error) if !is_unknown_kind(&error) => Err(error),
            _ => Ok(()),
        }
    }

    fn api(&self, object: &Value) -> Result<Api<DynamicObject>> {
        let resource = resource(object)?;
        Ok(match object["metadata"]["namespace"].as_str() {
            Some(namespace) => Api::namespaced_with(self.client.clone(), namespace, &resource),
            None => Api::all_with(self.client.clone(), &resource),
        })
    }
}

/// `Deployment kubeedge/cloudcore`.
pub(crate) fn shown(object: &Value) -> String {
    let kind = object["kind"].as_str().unwrap_or_default();
    match object["metadata"]["namespace"].as_str() {
        Some(namespace) => format!("{kind} {namespace}/{}", name(object)),
        None => format!("{kind} {}", name(object)),
    }
}

fn name(object: &Value) -> &str {
    object["metadata"]["name"].as_str().unwrap_or_default()
}

fn resource(object: &Value) -> Result<ApiResource> {
    let (Some(version), Some(kind)) = (object["apiVersion"].as_str(), object["kind"].as_str()) else {
        return Err(anyhow!("an object without a kind"));
    };
    let (group, version) = version.rsplit_once('/').unwrap_or(("", version));
    Ok(ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, kind)))
}

fn status(error: &anyhow::Error) -> Option<&kube::core::Status> {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => Some(status),
        _ => None,
    }
}

fn is_unknown_kind(error: &anyhow::Error) -> bool {
    // By its number: for a path that it does not know at all, the API server gives no reason.
    status(error).is_some_and(|status| status.code == 404)
}

fn kubeconfig(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        return if given.is_file() {
            Ok(given.to_owned())
        } else {
            Err(Failure::Usage(format!("--kube-config: there is no file {}", given.display())))
        };
    }
    let named = std::env::var_os("KUBECONFIG").filter(|named| !named.is_empty()).map(PathBuf::from);
    let usual = USUAL.iter().map(PathBuf::from).find(|path| path.is_file());
    named.or(usual).ok_or_else(|| {
        Failure::Refused(format!(
            "no kubeconfig: $KUBECONFIG is not set, and there is no {}; name one with --kube-config",
            USUAL.join(" and no ")
        ))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_tried_is_what_would_be_written() {
        let check = |how: Write, is_over: bool| {
            let tried = how.tried();
            assert!(tried.is_tried() && tried.tried() == tried, "{how:?}");
            assert_eq!((how.is_over(), tried.is_over()), (is_over, is_over), "{how:?}");
        };
        check(Write::Careful, false);
        check(Write::Over, true);
        assert!(!Write::Careful.is_tried() && !Write::Over.is_tried());
    }
}
