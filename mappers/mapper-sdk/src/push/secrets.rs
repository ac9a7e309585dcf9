//! What opens databases: KubeEdge has it in the environment of the mapper's process, and so have we.
//!
//! Read once by `config.rs`, never printed. One password serves Redis, TDengine and MySQL, as in KubeEdge.

use std::fmt;

/// Empty: not set.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secrets {
    /// `TOKEN`, of InfluxDB.
    pub token: String,
    /// `USERNAME`, of TDengine; Redis and MySQL do not ask for it.
    pub user_name: String,
    /// `PASSWORD`.
    pub password: String,
}

impl Secrets {
    /// Of a way to look up variables.
    #[must_use]
    pub fn of(look_up: impl Fn(&str) -> Option<String>) -> Self {
        let text = |key: &str| look_up(key).unwrap_or_default();
        Self { token: text("TOKEN"), user_name: text("USERNAME"), password: text("PASSWORD") }
    }
}

impl fmt::Debug for Secrets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secrets(..)")
    }
}
