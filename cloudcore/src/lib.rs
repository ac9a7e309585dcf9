//! cloudcore: watches the Kubernetes API and gives each edge node what it needs over one link.
//!
//! The modules stand in the order in which an object from the API meets them.

pub mod cloud_hub;
pub mod config;
pub mod edge_controller;
pub mod node_queue;
