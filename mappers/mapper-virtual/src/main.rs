//! A mapper for devices that do not exist: an example to copy, and something to try the rest with.
//!
//! A mapper's `main` is this one line. `driver.rs` is all that is special about it.

use std::process::ExitCode;

mod driver;

fn main() -> ExitCode {
    mapper_sdk::run_mapper(driver::VirtualDriver::default())
}
