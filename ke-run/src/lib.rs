//! What every process of ours needs and no module should write twice: a way to stop, tasks that stop together,
//! waiting times that grow, connections served in tasks of their own, freed memory given back, logs and metrics, and the reading of a configuration file.
//!
//! Imports none of our other crates.

pub mod accept;
pub mod backoff;
pub mod cli;
pub mod config;
mod memory;
pub mod process;
pub mod redact;
pub mod shutdown;
pub mod supervise;
pub mod telemetry;
