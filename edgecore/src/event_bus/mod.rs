//! EventBus: MQTT in and out.
//!
//! So far the topics alone: `topic.rs`.

pub mod topic;
