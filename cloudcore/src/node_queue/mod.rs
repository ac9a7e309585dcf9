//! NodeQueues: what each node must still be told.

mod handle;

pub use handle::{Desired, Gone, NodeQueues, QueueOrder};
