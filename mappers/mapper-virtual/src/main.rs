//! A mapper for devices that exist in memory only: to try Isthmus without hardware, and the example to copy.

use std::process::ExitCode;

mod driver;

fn main() -> ExitCode {
    mapper_sdk::run_mapper(driver::Virtual)
}
