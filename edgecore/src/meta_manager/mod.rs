//! MetaManager: store, acknowledge, tell.

mod handle;

pub use handle::{LookupError, News, Objects};
