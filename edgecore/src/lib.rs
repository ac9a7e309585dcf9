//! edgecore: runs this machine's pods, keeps all it needs in SQLite, goes on without the cloud.
//!
//! It never talks to the Kubernetes API: all it knows comes over one link from cloudcore, and is in the store before it
//! is used. The modules stand in the order in which a message from the cloud meets them.

pub mod config;
pub mod unchecked_tls;
pub mod edge_hub;
pub mod edge_stream;
pub mod meta_manager;
pub mod db;
pub mod image_name;
pub mod static_pods;
pub mod edged;
pub mod device_plugin;
pub mod node;
pub mod pod_network;
pub mod quantity;
pub mod resource_name;
pub mod device_twin;
pub mod event_bus;
pub mod report_queue;
pub mod query;
pub mod control;
pub mod kubelet_server;
pub mod eviction;
pub mod admin;
pub mod service_manager;
pub mod preflight;
pub mod debug;
