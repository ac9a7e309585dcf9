//! cloudcore: watches the Kubernetes API and gives each edge node what it needs over one link.
//!
//! First the modules that others stand on, then the rest in the order in which an object from the API meets them. None imports one
//! that imports it, straight or through others; the empty lines keep rustfmt from sorting them.

pub mod ranges;

pub mod config;

mod chain;

pub mod namespace;

mod edge_node;

pub mod cluster;

pub mod gate;

pub mod kubelet_endpoints;

pub mod device_inbox;

mod api_server;

pub mod edge_controller;

pub mod device_controller;

pub mod node_queue;

pub mod tunnels;

pub mod cloud_hub;

pub mod cloud_stream;

pub mod sync_controller;

pub mod admin;
