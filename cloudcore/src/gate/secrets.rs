//! The Secrets of the namespace `kubeedge`, as far as the authority asks.

use std::collections::BTreeMap;

use async_trait::async_trait;

/// Data of a Secret of the namespace `kubeedge`.
pub type SecretData = BTreeMap<String, Vec<u8>>;

/// The Secrets of the namespace `kubeedge`, so that tests need no cluster.
#[async_trait]
pub trait Secrets: Send + Sync + 'static {
    /// The Secret's data, if it is there.
    async fn get(&self, name: &str) -> Result<Option<SecretData>, String>;
    /// Makes it; `false` when somebody else was first.
    async fn create(&self, name: &str, data: SecretData) -> Result<bool, String>;
    /// Makes or replaces it.
    async fn put(&self, name: &str, data: SecretData) -> Result<(), String>;
}
