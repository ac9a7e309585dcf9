//! `keadm gettoken`: the token that cloudcore has put into its Secret.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use k8s_openapi::ByteString;
use ke_wire::enrolment::JoinToken;
use serde_json::json;

use super::Failure;
use crate::cluster::Cluster;
use crate::objects::NAMESPACE;

/// KubeEdge's names.
const SECRET: &str = "tokensecret";
const KEY: &str = "tokendata";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, /root/.kube/config or /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE")]
    kube_config: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let cluster = Cluster::connect(args.kube_config.as_deref())?;
    let token = read(&cluster)?;
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

/// The token as it stands in the cluster, ended or not.
pub(crate) fn read(cluster: &Cluster) -> Result<JoinToken> {
    let secret =
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE}});
    let found = cluster.get(&secret).context("may this account read it?")?;
    let missing = || {
        anyhow!(
            "there is no token in this cluster yet (Secret {NAMESPACE}/{SECRET}): cloudcore makes it when it starts; is it \
             installed? `keadm init` does it"
        )
    };
    let data =
        found.map(|found| found["data"][KEY].clone()).filter(|data| data.is_string()).ok_or_else(missing)?;
    let wrong = || format!("the token in {NAMESPACE}/{SECRET} is none");
    let bytes: ByteString = serde_json::from_value(data).with_context(wrong)?;
    let text = String::from_utf8(bytes.0).map_err(|_| anyhow!(wrong()))?;
    text.trim().parse().with_context(wrong)
}
