//! The Secrets of join tokens in a cluster: the present one of cloudcore, the list of those that keadm has made or revoked, and
//! the CA that signs them. For gettoken, token, init and upgrade cloud.

#![expect(
    clippy::indexing_slicing,
    reason = "JSON values answer null for what is not there; nothing else is indexed"
)]

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use k8s_openapi::ByteString;
use ke_wire::enrolment::JoinToken;
use ke_wire::join_tokens::{self, Claims, Issued, List};
use serde_json::{Value, json};

use crate::cluster::Cluster;
use crate::failure::Failure;
use crate::host::Host;
use crate::objects::NAMESPACE;
use crate::wait::wait;

/// KubeEdge's names.
pub(crate) const CURRENT_SECRET: &str = "tokensecret";
const KEY: &str = "tokendata";

/// Until cloudcore has made one. `deadline`: on the Host's clock.
pub(crate) fn wait_for(host: &dyn Host, cluster: &Cluster, deadline: Duration) -> Result<(), Failure> {
    wait(host, deadline, &|_| {}, || Ok(current(cluster).map(drop).map_err(|error| format!("{error:#}"))))
        .map_err(Failure::Halfway)
}

/// The token as it stands in the cluster, ended or not.
pub(crate) fn current(cluster: &Cluster) -> Result<JoinToken> {
    find(cluster)?.ok_or_else(|| {
        anyhow!(
            "there is no token in this cluster yet (Secret {NAMESPACE}/{CURRENT_SECRET}): cloudcore makes it when it starts; is it \
             installed? `keadm init` does it"
        )
    })
}

/// The same; `None`: there is none yet.
pub(crate) fn find(cluster: &Cluster) -> Result<Option<JoinToken>> {
    let found = cluster.get(&secret(CURRENT_SECRET)).context("may this account read it?")?;
    let Some(mut found) = found.as_ref().map(data).transpose()? else { return Ok(None) };
    let Some(bytes) = found.remove(KEY) else { return Ok(None) };
    let wrong = || format!("the token in {NAMESPACE}/{CURRENT_SECRET} is none");
    let text = String::from_utf8(bytes).map_err(|_| anyhow!(wrong()))?;
    text.trim().parse().map(Some).with_context(wrong)
}

/// Puts another token in its place.
pub(crate) fn replace(cluster: &Cluster, token: &JoinToken) -> Result<()> {
    let mut object = secret(CURRENT_SECRET);
    object["data"] = json!({KEY: BASE64_STANDARD.encode(token.to_string())});
    cluster.merge(&object)
}

/// What is in a Secret.
fn data(secret: &Value) -> Result<List> {
    if secret["data"].is_null() {
        return Ok(List::new());
    }
    let data: BTreeMap<String, ByteString> =
        serde_json::from_value(secret["data"].clone()).context("read a Secret")?;
    Ok(data.into_iter().map(|(key, bytes)| (key, bytes.0)).collect())
}

/// What signs.
pub(crate) struct Ca {
    pub(crate) hash: String,
    pub(crate) key: Vec<u8>,
}

impl Ca {
    pub(crate) fn read(cluster: &Cluster) -> Result<Self, Failure> {
        let found = cluster.get(&secret("casecret")).context("may this account read it?")?;
        let found = found.as_ref().map(data).transpose()?.unwrap_or_default();
        let (Some(ca), Some(key)) = (found.get("cadata"), found.get("cakeydata")) else {
            return Err(Failure::Refused(format!(
                "there is no CA in this cluster yet (Secret {NAMESPACE}/casecret): cloudcore makes it when it starts; is it \
                 installed? `keadm init` does it"
            )));
        };
        let digest = ring::digest::digest(&ring::digest::SHA256, ca);
        let hash = digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Ok(Self { hash, key: key.clone() })
    }

    pub(crate) fn sign(&self, claims: &Claims) -> JoinToken {
        let signed = claims.to_sign();
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &self.key);
        let signature = BASE64_URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
        JoinToken { ca_hash: self.hash.clone(), jwt: format!("{signed}.{signature}") }
    }
}

/// `None` takes an entry away.
pub(crate) type Changes = BTreeMap<String, Option<Issued>>;

/// The list as it stands; empty where there is none yet.
pub(crate) fn list(cluster: &Cluster) -> Result<List> {
    let found = cluster.get(&secret(join_tokens::SECRET)).context("may this account read it?")?;
    found.as_ref().map_or_else(|| Ok(List::new()), data)
}

/// Each entry by itself: what another keadm notes at the same time stays.
pub(crate) fn note(cluster: &Cluster, changes: &Changes) -> Result<()> {
    let mut object = secret(join_tokens::SECRET);
    for (id, noted) in changes {
        let noted = noted.as_ref().map(serde_json::to_vec).transpose().context("write what is noted")?;
        object["data"][id] = noted.map_or(Value::Null, |noted| BASE64_STANDARD.encode(noted).into());
    }
    cluster.merge(&object)
}

fn secret(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": NAMESPACE}})
}
