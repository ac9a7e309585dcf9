//! Who may: the API server is asked, as a kubelet asks it, and its word holds for a moment.
//!
//! Called by `connection.rs`. What is remembered is bounded; of tokens only a hash is.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use async_trait::async_trait;
use k8s_openapi::api::authentication::v1::{TokenReview, TokenReviewSpec};
use k8s_openapi::api::authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec};
use kube::api::{Api, PostParams};
use ring::digest::{SHA256, digest};

use super::client::Identity;
use crate::chain::chain;

/// How long a token counts after it was looked at, and how long a right. Below a kubelet's 2 and 5 minutes: what was taken away
/// is not to work much longer.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
const ALLOWED_LIFE: Duration = Duration::from_secs(60);
/// Whoever was refused may have been given the right since.
const REFUSED_LIFE: Duration = Duration::from_secs(10);
/// Answers that are remembered, of each kind.
const MAX_REMEMBERED: usize = 4096;
const ANSWER_LIMIT: Duration = Duration::from_secs(10);
/// It may do everything, by the API server's own rule; so kubelets' client certificates have it, or had before Kubernetes 1.29.
const MASTERS: &str = "system:masters";

/// One question about rights: on a node, or on all of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Right {
    /// `get`, `create`, ...
    pub verb: &'static str,
    /// Of `nodes`.
    pub subresource: &'static str,
    /// Empty: all nodes.
    pub node: String,
}

/// The API server's word, so that tests need none.
#[async_trait]
pub(super) trait Reviews: Send + Sync + 'static {
    /// Whose token this is; `None`: nobody's.
    async fn whose(&self, token: &str) -> Result<Option<Identity>, String>;
    /// Whether somebody has a right.
    async fn may(&self, who: &Identity, right: &Right) -> Result<bool, String>;
}

/// Reviews, remembered.
pub(super) struct Judge<R> {
    reviews: R,
    tokens: Mutex<Remembered<[u8; 32], Option<Identity>>>,
    rights: Mutex<Remembered<(Identity, Right), bool>>,
}

impl<R: Reviews> Judge<R> {
    /// Asks these.
    pub(super) fn new(reviews: R) -> Self {
        Self { reviews, tokens: Mutex::default(), rights: Mutex::default() }
    }

    /// Whose token this is. Errors: nobody can say now.
    pub(super) async fn whose(&self, token: &str) -> Result<Option<Identity>, String> {
        let mut key = [0; 32];
        key.copy_from_slice(digest(&SHA256, token.as_bytes()).as_ref());
        let known = self.tokens.lock().unwrap_or_else(PoisonError::into_inner).get(&key, Instant::now());
        if let Some(known) = known {
            return Ok(known);
        }
        let whose = self.reviews.whose(token).await?;
        let life = if whose.is_some() { TOKEN_LIFE } else { REFUSED_LIFE };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.put(key, whose.clone(), Instant::now(), life);
        Ok(whose)
    }

    /// Whether somebody has a right. Errors: nobody can say now.
    pub(super) async fn may(&self, who: &Identity, right: Right) -> Result<bool, String> {
        if who.groups.iter().any(|group| group == MASTERS) {
            return Ok(true);
        }
        // One answer for metrics-server and a thousand nodes, in place of a thousand.
        let everywhere = Right { node: String::new(), ..right.clone() };
        Ok(self.has(who, everywhere).await? || (!right.node.is_empty() && self.has(who, right).await?))
    }

    async fn has(&self, who: &Identity, right: Right) -> Result<bool, String> {
        let key = (who.clone(), right);
        let known = self.rights.lock().unwrap_or_else(PoisonError::into_inner).get(&key, Instant::now());
        if let Some(known) = known {
            return Ok(known);
        }
        let may = self.reviews.may(&key.0, &key.1).await?;
        let life = if may { ALLOWED_LIFE } else { REFUSED_LIFE };
        self.rights.lock().unwrap_or_else(PoisonError::into_inner).put(key, may, Instant::now(), life);
        Ok(may)
    }
}

/// Answers, each with the time until which it holds.
struct Remembered<K, V>(HashMap<K, (V, Instant)>);

impl<K: Eq + Hash, V: Clone> Remembered<K, V> {
    fn get(&self, key: &K, now: Instant) -> Option<V> {
        self.0.get(key).filter(|(_, until)| *until > now).map(|(value, _)| value.clone())
    }

    /// Full of what still holds: all of it is forgotten, and asked again.
    fn put(&mut self, key: K, value: V, now: Instant, life: Duration) {
        if self.0.len() >= MAX_REMEMBERED {
            self.0.retain(|_, (_, until)| *until > now);
        }
        if self.0.len() >= MAX_REMEMBERED {
            self.0.clear();
        }
        self.0.insert(key, (value, now + life));
    }
}

impl<K, V> Default for Remembered<K, V> {
    fn default() -> Self {
        Self(HashMap::new())
    }
}

/// Asks the API server.
pub(super) struct ApiReviews {
    /// With the rights of `system:auth-delegator`.
    pub client: kube::Client,
}

#[async_trait]
impl Reviews for ApiReviews {
    async fn whose(&self, token: &str) -> Result<Option<Identity>, String> {
        let spec = TokenReviewSpec { token: token.to_owned(), ..TokenReviewSpec::default() };
        let review = TokenReview { spec, ..TokenReview::default() };
        let answer = self.ask("tokenreviews of authentication.k8s.io", &review).await?;
        let status = answer.status.filter(|status| status.authenticated == Some(true));
        Ok(status.and_then(|status| status.user).map(|user| Identity {
            user: user.username.unwrap_or_default(),
            uid: user.uid.unwrap_or_default(),
            groups: user.groups.unwrap_or_default(),
            extra: user.extra.unwrap_or_default(),
        }))
    }

    async fn may(&self, who: &Identity, right: &Right) -> Result<bool, String> {
        let attributes = ResourceAttributes {
            verb: Some(right.verb.to_owned()),
            version: Some("v1".to_owned()),
            resource: Some("nodes".to_owned()),
            subresource: Some(right.subresource.to_owned()),
            name: Some(right.node.clone()),
            ..ResourceAttributes::default()
        };
        let spec = SubjectAccessReviewSpec {
            user: Some(who.user.clone()),
            uid: (!who.uid.is_empty()).then(|| who.uid.clone()),
            groups: Some(who.groups.clone()),
            extra: Some(who.extra.clone()),
            resource_attributes: Some(attributes),
            ..SubjectAccessReviewSpec::default()
        };
        let review = SubjectAccessReview { spec, ..SubjectAccessReview::default() };
        let answer = self.ask("subjectaccessreviews of authorization.k8s.io", &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed && status.denied != Some(true)))
    }
}

impl ApiReviews {
    async fn ask<K>(&self, what: &str, review: &K) -> Result<K, String>
    where
        K: kube::Resource<Scope = k8s_openapi::ClusterResourceScope, DynamicType = ()>
            + Clone
            + serde::Serialize
            + serde::de::DeserializeOwned
            + std::fmt::Debug,
    {
        let api = Api::<K>::all(self.client.clone());
        let params = PostParams::default();
        let failed =
            |why: String| format!("the API server cannot be asked ({why}); cloudcore needs create on {what}");
        match tokio::time::timeout(ANSWER_LIMIT, api.create(&params, review)).await {
            Ok(answer) => answer.map_err(|cause| failed(chain(&cause))),
            Err(_) => Err(failed("no answer within 10 s".to_owned())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_is_bounded_in_time_and_number() {
        let start = Instant::now();
        let mut remembered = Remembered::<usize, bool>::default();
        remembered.put(1, true, start, ALLOWED_LIFE);
        assert_eq!(remembered.get(&1, start), Some(true));
        assert_eq!(remembered.get(&1, start + ALLOWED_LIFE), None);
        for key in 0..MAX_REMEMBERED * 2 {
            remembered.put(key, true, start, ALLOWED_LIFE);
            assert!(remembered.0.len() <= MAX_REMEMBERED);
        }
        // What has ended goes first.
        let mut remembered = Remembered::<usize, bool>::default();
        remembered.put(0, true, start, ALLOWED_LIFE);
        for key in 1..MAX_REMEMBERED {
            remembered.put(key, false, start, REFUSED_LIFE);
        }
        remembered.put(MAX_REMEMBERED, true, start + REFUSED_LIFE, ALLOWED_LIFE);
        assert_eq!(remembered.0.len(), 2);
    }
}
