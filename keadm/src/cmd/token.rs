//! `keadm gettoken`: the token that cloudcore has put into its Secret.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use k8s_openapi::ByteString;
use ke_wire::enrolment::JoinToken;
use ke_wire::join_tokens::{self, List};
use serde_json::{Value, json};

use super::{Failure, tokens};
use crate::cluster::Cluster;
use crate::objects::NAMESPACE;
use crate::wait::wait;

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
    let list = tokens::read(&cluster)?;
    if token.id().is_some_and(|id| join_tokens::refusal(Some(&list), &id, None).is_some()) {
        return Err(Failure::Undone(anyhow!(
            "the token in Secret {NAMESPACE}/{SECRET} is revoked: keadm token revoke current makes a new one in its place"
        )));
    }
    println!("{token}");
    Ok(())
}

/// Until cloudcore has made one.
pub(super) fn wait_for(cluster: &Cluster, limit: Instant) -> Result<(), Failure> {
    wait(limit, &|_| {}, || Ok(read(cluster).map(drop).map_err(|error| format!("{error:#}"))))
        .map_err(Failure::Halfway)
}

/// The token as it stands in the cluster, ended or not.
pub(crate) fn read(cluster: &Cluster) -> Result<JoinToken> {
    find(cluster)?.ok_or_else(|| {
        anyhow!(
            "there is no token in this cluster yet (Secret {NAMESPACE}/{SECRET}): cloudcore makes it when it starts; is it \
             installed? `keadm init` does it"
        )
    })
}

/// The same; `None`: there is none yet.
pub(crate) fn find(cluster: &Cluster) -> Result<Option<JoinToken>> {
    let found = cluster.get(&secret()).context("may this account read it?")?;
    let Some(mut found) = found.as_ref().map(data).transpose()? else { return Ok(None) };
    let Some(bytes) = found.remove(KEY) else { return Ok(None) };
    let wrong = || format!("the token in {NAMESPACE}/{SECRET} is none");
    let text = String::from_utf8(bytes).map_err(|_| anyhow!(wrong()))?;
    text.trim().parse().map(Some).with_context(wrong)
}

/// Puts another token in its place.
pub(crate) fn write(cluster: &Cluster, token: &JoinToken) -> Result<()> {
    let mut object = secret();
    object["data"] = json!({KEY: BASE64_STANDARD.encode(token.to_string())});
    cluster.merge(&object)
}

/// What is in a Secret.
pub(crate) fn data(secret: &Value) -> Result<List> {
    if secret["data"].is_null() {
        return Ok(List::new());
    }
    let data: BTreeMap<String, ByteString> =
        serde_json::from_value(secret["data"].clone()).context("read a Secret")?;
    Ok(data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect())
}

fn secret() -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": SECRET, "namespace": NAMESPACE}})
}
