//! The mapper's process. Beside the SDK's configuration it takes two settings of its own from the environment.
//!
//! `MAPPER_OPCUA_STATE`: the directory of the mapper's key pair and of the certificates of servers that it knows.
//! `MAPPER_OPCUA_DISCOVER`: addresses, with commas between them, that are asked for servers which nobody described.

use std::path::PathBuf;
use std::process::ExitCode;

use mapper_opcua::{OpcUa, ServerUrl};

const STATE: &str = "/var/lib/isthmus/mapper-opcua";

fn main() -> ExitCode {
    let set = |name| std::env::var_os(name).filter(|value| !value.is_empty());
    let state = set("MAPPER_OPCUA_STATE").map_or_else(|| PathBuf::from(STATE), PathBuf::from);
    let mut addresses = Vec::new();
    let listed = set("MAPPER_OPCUA_DISCOVER").unwrap_or_default();
    for text in listed.to_string_lossy().split(',').map(str::trim).filter(|text| !text.is_empty()) {
        match ServerUrl::parse(text) {
            Some(address) => addresses.push(address),
            None => {
                eprintln!(
                    "MAPPER_OPCUA_DISCOVER: {text:?} is no address; an example: opc.tcp://192.168.1.20:4840"
                );
                return ExitCode::FAILURE;
            }
        }
    }
    mapper_sdk::run_mapper(OpcUa::new(state, addresses))
}
