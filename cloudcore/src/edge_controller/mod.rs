//! EdgeController: what each node needs, and what each node reports.

mod api;
mod graph;
mod handle;
mod observed;
mod placement;
mod tolerate;
mod tolerations;
mod watch;

pub use graph::Graph;
pub use handle::{FromNode, Upstream};
