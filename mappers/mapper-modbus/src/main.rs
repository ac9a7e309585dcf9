//! A mapper for Modbus devices over TCP and serial lines.

use std::process::ExitCode;

fn main() -> ExitCode {
    mapper_sdk::run_mapper(mapper_modbus::Modbus::default())
}
