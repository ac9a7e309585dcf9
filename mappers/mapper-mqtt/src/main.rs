//! The MQTT mapper as a process: devices that tell their values to a broker and take commands from it.

use std::process::ExitCode;

fn main() -> ExitCode {
    mapper_sdk::run_mapper(mapper_mqtt::Mqtt)
}
