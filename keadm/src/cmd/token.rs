//! `keadm gettoken`: the token that cloudcore has put into its Secret.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, anyhow};
use k8s_openapi::api::core::v1::Secret;
use ke_wire::enrolment::JoinToken;
use kube::api::Api;
use kube::config::{KubeConfigOptions, Kubeconfig};

use super::Failure;

/// KubeEdge's names.
const NAMESPACE: &str = "kubeedge";
const SECRET: &str = "tokensecret";
const KEY: &str = "tokendata";
/// Where kubeconfigs lie when nobody says: KubeEdge's keadm, and K3s.
const USUAL: [&str; 2] = ["/root/.kube/config", "/etc/rancher/k3s/k3s.yaml"];
/// The API server has this long.
const LIMIT: Duration = Duration::from_secs(20);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, /root/.kube/config or /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE")]
    kube_config: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let path = kubeconfig(args.kube_config.as_deref())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the async runtime")?;
    let token = runtime.block_on(async { tokio::time::timeout(LIMIT, read(&path)).await });
    let token = token.map_err(|_| anyhow!("the API server of {} does not answer", path.display()))??;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if token.ends().is_some_and(|ends| ends <= i64::try_from(now).unwrap_or(i64::MAX)) {
        return Err(Failure::Undone(anyhow!(
            "the token in Secret {NAMESPACE}/{SECRET} has ended, since cloudcore, which renews it, is not running: look at \
             kubectl -n {NAMESPACE} get pods"
        )));
    }
    println!("{token}");
    Ok(())
}

fn kubeconfig(given: Option<&Path>) -> Result<PathBuf, Failure> {
    if let Some(given) = given {
        return Ok(given.to_owned());
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

async fn read(path: &Path) -> anyhow::Result<JoinToken> {
    let shown = path.display();
    let file = Kubeconfig::read_from(path).with_context(|| format!("read {shown}"))?;
    let config = kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await;
    let config = config.with_context(|| format!("use {shown}"))?;
    let server = config.cluster_url.to_string();
    let client = kube::Client::try_from(config).with_context(|| format!("use {shown}"))?;
    let secrets: Api<Secret> = Api::namespaced(client, NAMESPACE);
    let secret = secrets.get_opt(SECRET).await.with_context(|| {
        format!("read Secret {NAMESPACE}/{SECRET} from {server}; may this account read it?")
    })?;
    let missing = || {
        anyhow!(
            "there is no token in this cluster yet (Secret {NAMESPACE}/{SECRET}): cloudcore makes it when it starts; is it \
             installed?"
        )
    };
    let data = secret.and_then(|secret| secret.data?.remove(KEY)).ok_or_else(missing)?;
    let text =
        String::from_utf8(data.0).map_err(|_| anyhow!("the token in {NAMESPACE}/{SECRET} is no text"))?;
    text.trim().parse().with_context(|| format!("the token in {NAMESPACE}/{SECRET} is none"))
}
