//! EdgeController: what each node needs, and what each node reports.

mod handle;

pub use handle::{FromNode, Upstream};
