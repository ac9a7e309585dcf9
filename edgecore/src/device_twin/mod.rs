//! DeviceTwin: what each device of this node should be and is.
//!
//! So far the rules (`merge.rs`) and the rows (`store.rs`); nothing calls them yet.

pub mod merge;
mod store;
