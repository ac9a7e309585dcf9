//! edgecore: runs this machine's pods, keeps all it needs in SQLite, goes on without the cloud.
//!
//! The modules stand in the order in which a message from the cloud meets them.

pub mod config;
pub mod meta_manager;
pub mod report_queue;
