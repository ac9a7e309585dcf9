//! The way into the cluster: a client by the configuration, and what must be there before the modules start.
//!
//! Each failure is one sentence that says what to do. Called by `main.rs` once.

use std::fmt::Write as _;
use std::net::{IpAddr, UdpSocket};
use std::path::Path;
use std::time::Duration;

use base64::Engine as _;
use k8s_openapi::api::core::v1::{Namespace, Pod};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::api::{Api, PostParams};
use kube::client::ClientBuilder;
use kube::config::{KubeConfigOptions, Kubeconfig};
use tower::limit::{ConcurrencyLimitLayer, RateLimitLayer};

use crate::chain::chain;
use crate::config::KubeApiConfig;
use crate::namespace::NAMESPACE;

/// Calls that wait for the API server at once; the others wait for them. Each has a connection of its own (HTTP/1.1, about
/// 30 kB here and more over there), which stays for another 90 s: without a bound a thousand nodes that come back at once
/// would make a thousand of them. A watch counts only until its first bytes come.
const MAX_CALLS: usize = 64;
const FIRST_ANSWER: Duration = Duration::from_secs(15);
const ESTABLISHED_TRIES: u32 = 50;
const ESTABLISHED_PAUSE: Duration = Duration::from_millis(200);

/// Why there is no way in.
#[derive(Debug, thiserror::Error)]
pub enum ClusterError {
    /// No kubeconfig where the configuration says.
    #[error("cannot use kubeconfig {path} (kubeAPIConfig.kubeConfig): {cause}")]
    Kubeconfig {
        /// The file.
        path: String,
        /// What is wrong with it.
        cause: String,
    },
    /// Neither a kubeconfig nor a pod.
    #[error(
        "kubeAPIConfig.kubeConfig is empty and this is no pod of a cluster ({0}): set it to a kubeconfig file"
    )]
    NotInCluster(String),
    /// No address.
    #[error("kubeAPIConfig.master: {0:?} is no address of an API server; an example: https://10.0.0.1:6443")]
    Master(String),
    /// The client cannot be built.
    #[error("cannot talk to an API server: {0}")]
    Client(String),
    /// Nobody answers.
    #[error("the API server {server} does not answer: {cause}")]
    Unreachable {
        /// Its address.
        server: String,
        /// Why.
        cause: String,
    },
    /// Something is missing and we may not make it.
    #[error(
        "{what} is missing and cannot be made by this account ({cause}); apply the chart, or `kubectl apply -f charts/cloudcore/crds` after `kubectl create namespace kubeedge`"
    )]
    Missing {
        /// What.
        what: String,
        /// Why.
        cause: String,
    },
}

/// The cluster.
pub struct Cluster {
    /// The client.
    pub client: kube::Client,
    /// PEM of the API server's certificate authority; empty when the configuration names none.
    pub ca: String,
    /// The address of this machine that faces the API server, where it can be told.
    pub own_address: Option<IpAddr>,
}

/// A client that has had one answer.
pub async fn connect(config: &KubeApiConfig) -> Result<Cluster, ClusterError> {
    let mut access = access(config).await?;
    if !config.master.is_empty() {
        access.cluster_url = master(&config.master)?;
    }
    let server = access.cluster_url.to_string();
    let ca = pem(access.root_cert.as_deref().unwrap_or_default());
    let own_address = facing(&access.cluster_url);
    let client = ClientBuilder::try_from(access)
        .map_err(|cause| ClusterError::Client(chain(&cause)))?
        .with_layer(&ConcurrencyLimitLayer::new(MAX_CALLS))
        .with_layer(&rate_limit(config))
        .build();
    let unreachable = |cause| ClusterError::Unreachable { server: server.clone(), cause };
    match tokio::time::timeout(FIRST_ANSWER, client.apiserver_version()).await {
        Ok(Ok(version)) => tracing::info!("the API server {server} is Kubernetes {}", version.git_version),
        Ok(Err(cause)) => return Err(unreachable(chain(&cause))),
        Err(_) => return Err(unreachable("no answer within 15 s".to_owned())),
    }
    Ok(Cluster { client, ca, own_address })
}

/// `burst` calls in the time in which `qps` allows so many.
fn rate_limit(config: &KubeApiConfig) -> RateLimitLayer {
    let (qps, burst) = (config.qps.to_u32(), config.burst.to_u32());
    RateLimitLayer::new(u64::from(burst), Duration::from_secs_f64(f64::from(burst) / f64::from(qps)))
}

async fn access(config: &KubeApiConfig) -> Result<kube::Config, ClusterError> {
    if !config.kube_config.is_empty() {
        let wrong = |cause: &dyn std::error::Error| ClusterError::Kubeconfig {
            path: config.kube_config.clone(),
            cause: chain(cause),
        };
        // Read by hand first: the library's words for a missing file do not say so.
        std::fs::metadata(Path::new(&config.kube_config)).map_err(|cause| wrong(&cause))?;
        let file = Kubeconfig::read_from(&config.kube_config).map_err(|cause| wrong(&cause))?;
        let options = KubeConfigOptions::default();
        return kube::Config::from_custom_kubeconfig(file, &options).await.map_err(|cause| wrong(&cause));
    }
    match kube::Config::incluster() {
        Ok(access) => Ok(access),
        Err(_) if !config.master.is_empty() => Ok(kube::Config::new(master(&config.master)?)),
        Err(cause) => Err(ClusterError::NotInCluster(chain(&cause))),
    }
}

fn master(text: &str) -> Result<hyper::Uri, ClusterError> {
    let wrong = || ClusterError::Master(text.to_owned());
    let uri: hyper::Uri = text.trim().parse().map_err(|_| wrong())?;
    if matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some() {
        Ok(uri)
    } else {
        Err(wrong())
    }
}

/// Makes the namespace and our resource definitions where they are missing. Those that are there stay as they are:
/// they may be KubeEdge's own, and one is as good as the other.
pub async fn prepare(client: &kube::Client) -> Result<(), ClusterError> {
    let namespaces = Api::<Namespace>::all(client.clone());
    let mut namespace = Namespace::default();
    namespace.metadata.name = Some(NAMESPACE.to_owned());
    make(&namespaces, &namespace, &format!("the namespace {NAMESPACE}")).await?;
    let definitions = Api::<CustomResourceDefinition>::all(client.clone());
    for definition in ke_api::crds() {
        let name = definition.metadata.name.clone().unwrap_or_default();
        make(&definitions, &definition, &format!("the resource definition {name}")).await?;
        established(&definitions, &name).await?;
    }
    Ok(())
}

async fn make<K>(api: &Api<K>, object: &K, what: &str) -> Result<(), ClusterError>
where
    K: kube::Resource + Clone + serde::Serialize + serde::de::DeserializeOwned + std::fmt::Debug,
{
    let missing = |cause: &kube::Error| ClusterError::Missing { what: what.to_owned(), cause: chain(cause) };
    let name = object.meta().name.clone().unwrap_or_default();
    match api.get_metadata_opt(&name).await {
        Ok(Some(_)) => return Ok(()),
        Ok(None) => {}
        // Not allowed to look: trying to make it tells more.
        Err(cause) => tracing::debug!("cannot look for {what}: {cause}"),
    }
    match api.create(&PostParams::default(), object).await {
        Ok(_) => tracing::info!("made {what}"),
        Err(kube::Error::Api(status)) if status.is_already_exists() => {}
        Err(cause) => return Err(missing(&cause)),
    }
    Ok(())
}

/// A definition serves a moment after it was made.
async fn established(api: &Api<CustomResourceDefinition>, name: &str) -> Result<(), ClusterError> {
    for _ in 0..ESTABLISHED_TRIES {
        let Ok(definition) = api.get(name).await else { return Ok(()) };
        let conditions = definition.status.and_then(|status| status.conditions).unwrap_or_default();
        if conditions.iter().any(|condition| condition.type_ == "Established" && condition.status == "True") {
            return Ok(());
        }
        tokio::time::sleep(ESTABLISHED_PAUSE).await;
    }
    let (what, cause) = (format!("the resource definition {name}"), "not established within 10 s".to_owned());
    Err(ClusterError::Missing { what, cause })
}

/// What the API server's own default is; its flags may say otherwise.
const USUAL_TOLERATION_SECS: i64 = 300;

/// How long Pods that say nothing stay on a lost node in this cluster, seconds: asked by a Pod that is never made.
pub async fn admission_toleration_secs(client: &kube::Client) -> i64 {
    let probe: Result<Pod, _> = serde_json::from_value(serde_json::json!({
        "metadata": {"generateName": "isthmus-probe-"},
        "spec": {"containers": [{"name": "none", "image": "none"}]},
    }));
    let Ok(probe) = probe else { return USUAL_TOLERATION_SECS };
    let params = PostParams { dry_run: true, ..PostParams::default() };
    let made = Api::<Pod>::namespaced(client.clone(), "default").create(&params, &probe).await;
    let tolerations = match made {
        Ok(pod) => pod.spec.and_then(|spec| spec.tolerations).unwrap_or_default(),
        Err(cause) => {
            tracing::debug!(
                "cannot ask how long pods stay on a lost node, {USUAL_TOLERATION_SECS} s is assumed: {cause}"
            );
            return USUAL_TOLERATION_SECS;
        }
    };
    let unreachable =
        tolerations.iter().find(|one| one.key.as_deref() == Some("node.kubernetes.io/unreachable"));
    unreachable.and_then(|one| one.toleration_seconds).unwrap_or(USUAL_TOLERATION_SECS)
}

/// The address from which packets to the API server would leave; nothing is sent.
fn facing(server: &hyper::Uri) -> Option<IpAddr> {
    let host = server.host()?.trim_matches(['[', ']']);
    let port = server.port_u16().unwrap_or(443);
    let own = if host.contains(':') { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(own).ok()?;
    socket.connect((host, port)).ok()?;
    socket.local_addr().ok().map(|address| address.ip())
}

pub(crate) fn pem(certificates: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for certificate in certificates {
        let encoded = base64::engine::general_purpose::STANDARD.encode(certificate);
        text.push_str("-----BEGIN CERTIFICATE-----\n");
        let mut rest = encoded.as_str();
        while let Some((line, after)) = rest.split_at_checked(64) {
            let _ = writeln!(text, "{line}");
            rest = after;
        }
        if !rest.is_empty() {
            let _ = writeln!(text, "{rest}");
        }
        text.push_str("-----END CERTIFICATE-----\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn check(kube_config: &str, master: &str, expected: &str) {
        let config = KubeApiConfig {
            kube_config: kube_config.to_owned(),
            master: master.to_owned(),
            ..KubeApiConfig::default()
        };
        let refused = connect(&config).await.err().map(|refused| refused.to_string()).unwrap_or_default();
        assert!(refused.starts_with(expected), "{refused}");
    }

    #[tokio::test]
    async fn every_way_that_leads_nowhere_is_one_sentence() {
        check(
            "/nonexistent/kubeconfig",
            "",
            "cannot use kubeconfig /nonexistent/kubeconfig (kubeAPIConfig.kubeConfig): No such file",
        )
        .await;
        check("", "", "kubeAPIConfig.kubeConfig is empty and this is no pod of a cluster (").await;
        check("", "10.0.0.1", "kubeAPIConfig.master: \"10.0.0.1\" is no address of an API server").await;
        check("", "http://127.0.0.1:1", "the API server http://127.0.0.1:1/ does not answer: ").await;
    }

    #[test]
    fn certificates_as_text() {
        assert_eq!(pem(&[]), "");
        let text = pem(&[vec![7; 60]]);
        let lines: Vec<usize> = text.lines().map(str::len).collect();
        assert_eq!(lines, [27, 64, 16, 25]);
    }
}
