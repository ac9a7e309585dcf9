//! The Modbus mapper: devices with `protocolName: modbus`, over TCP and serial lines.
//!
//! `settings.rs` reads a manifest's keys, `group.rs` puts adjacent registers into one request, `line.rs` talks to the
//! device, `driver.rs` joins them.

use std::process::ExitCode;

mod settings;
mod group;
mod line;
mod port;
mod driver;

fn main() -> ExitCode {
    mapper_sdk::run_mapper(driver::ModbusDriver::default())
}
