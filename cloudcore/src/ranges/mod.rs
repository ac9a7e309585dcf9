//! Pure: ranges of addresses and of ports, as the configuration names them.
//!
//! Called by `config.rs`, which refuses bad ones, and by who gives out of them.

mod addresses;
mod ports;

pub use addresses::Pool;
pub(crate) use addresses::Range;
pub use ports::{BadRange, PortRange};
