//! `keadm gettoken`: the token that cloudcore has put into its Secret.

use std::path::PathBuf;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::anyhow;
use ke_wire::join_tokens;

use super::Failure;
use crate::cluster::Cluster;
use crate::objects::NAMESPACE;
use crate::token_secrets::{self, CURRENT_SECRET};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Kubeconfig of the cluster [default: $KUBECONFIG, /root/.kube/config or /etc/rancher/k3s/k3s.yaml]
    #[arg(long, value_name = "FILE")]
    kube_config: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let cluster = Cluster::connect(args.kube_config.as_deref())?;
    let token = token_secrets::current(&cluster)?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    if token.ends().is_some_and(|ends| ends <= i64::try_from(now).unwrap_or(i64::MAX)) {
        return Err(Failure::Undone(anyhow!(
            "the token in Secret {NAMESPACE}/{CURRENT_SECRET} has ended, since cloudcore, which renews it, is not running: look at \
             kubectl -n {NAMESPACE} get pods"
        )));
    }
    let list = token_secrets::list(&cluster)?;
    if token.id().is_some_and(|id| join_tokens::refusal(Some(&list), &id, None).is_some()) {
        return Err(Failure::Undone(anyhow!(
            "the token in Secret {NAMESPACE}/{CURRENT_SECRET} is revoked: keadm token revoke current makes a new one in its place"
        )));
    }
    println!("{token}");
    Ok(())
}
