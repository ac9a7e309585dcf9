//! cloudcore: watches the Kubernetes API and gives each edge node what it needs over one link.
//!
//! The modules stand in the order in which an object from the API meets them; the empty lines keep rustfmt from
//! sorting them.

pub mod config;

mod chain;

pub mod namespace;

pub mod cluster;

mod api_server;

pub mod edge_controller;

pub mod device_controller;

pub mod node_queue;

pub mod cloud_hub;

pub mod cloud_stream;

pub mod sync_controller;

pub mod admin;
