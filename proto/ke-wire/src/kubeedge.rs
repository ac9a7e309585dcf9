//! KubeEdge dialect: JSON envelope and resource strings to [`Down`](crate::Down) and [`Up`](crate::Up) and back,
//! nowhere else.
//!
//! One frame is one JSON document. What follows it is ignored; ours ends with a line feed. Bodies of Kubernetes
//! objects are carried as the text they came in. Nothing here decides what a message is good for.

mod down;
mod envelope;
mod resource;
mod up;

pub use down::{decode_down, encode_down};
pub use envelope::{DecodeError, FRAME_LIMIT};
pub use up::{decode_up, encode_up};
