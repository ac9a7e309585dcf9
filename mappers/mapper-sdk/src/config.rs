//! `config.yaml` and the command line, with the keys and flags of KubeEdge's mappers.
//!
//! A key that nobody reads is refused by name, as a misspelt one would otherwise do nothing in silence.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::Deserialize;

/// Flags of every mapper.
#[derive(Debug, clap::Parser)]
pub(crate) struct Args {
    /// Configuration file.
    #[arg(long, value_name = "PATH", default_value = "./config.yaml")]
    pub(crate) config_file: PathBuf,
    /// How much is logged: 0 to 3 usual, 4 and 5 debug, more everything.
    #[arg(short, long = "v", value_name = "LEVEL", default_value = "1")]
    pub(crate) v: u8,
}

impl Args {
    pub(crate) fn level(&self) -> &'static str {
        match self.v {
            0..=3 => "info",
            4 | 5 => "debug",
            _ => "trace",
        }
    }
}

/// `config.yaml`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MapperConfig {
    /// Where the mapper listens.
    pub grpc_server: GrpcServer,
    /// Who it is and where the node is.
    pub common: Common,
    /// Of mappers before KubeEdge v1.15; read and not used.
    pub dev_init: Option<DevInit>,
}

/// `grpc_server`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct GrpcServer {
    /// Path of the mapper's own unix socket; in a pod, the same path as on the machine.
    pub socket_path: PathBuf,
}

/// `common`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Common {
    /// The mapper's name, unique on its node. Default: protocol and `-mapper`.
    pub name: String,
    /// Told to the node.
    pub version: String,
    /// Told to the node.
    pub api_version: String,
    /// `protocolName` of the devices, in exactly this spelling. Default: the driver's.
    pub protocol: String,
    /// The address that REST and metrics listen on. Whoever reaches it may write to devices.
    pub address: IpAddr,
    /// The node's unix socket.
    pub edgecore_sock: PathBuf,
    /// Port of REST and metrics, as text or number. Default 7777; if that is taken, the mapper goes on without.
    pub http_port: Option<Port>,
}

impl Default for Common {
    fn default() -> Self {
        Self {
            name: String::new(),
            version: "v1.13.0".to_owned(),
            api_version: "v1.0.0".to_owned(),
            protocol: String::new(),
            address: IpAddr::from([127, 0, 0, 1]),
            edgecore_sock: "/etc/kubeedge/dmi.sock".into(),
            http_port: None,
        }
    }
}

/// `dev_init`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DevInit {
    /// `register` or `configmap`.
    #[serde(default)]
    pub mode: String,
}

/// A TCP port: KubeEdge writes it as text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "PortText")]
pub struct Port(pub u16);

#[derive(Deserialize)]
#[serde(untagged)]
enum PortText {
    Number(u64),
    Text(String),
}

impl TryFrom<PortText> for Port {
    type Error = String;

    fn try_from(port: PortText) -> Result<Self, String> {
        let number = match &port {
            PortText::Number(number) => u16::try_from(*number).ok(),
            PortText::Text(text) => text.trim().parse().ok(),
        };
        number.map(Self).ok_or_else(|| "http_port must be a port, 0 to 65535".to_owned())
    }
}

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not there or not readable.
    #[error("read {}: {source}; name a file with --config-file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        source: std::io::Error,
    },
    /// Not YAML, or a key is wrong.
    #[error("{}: {text}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What and where.
        text: String,
    },
}

impl MapperConfig {
    pub(crate) fn load(path: &Path, protocol: &str) -> Result<Self, ConfigError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| ConfigError::Read { path: path.to_owned(), source })?;
        Self::parse(&text, protocol).map_err(|text| ConfigError::Content { path: path.to_owned(), text })
    }

    fn parse(text: &str, protocol: &str) -> Result<Self, String> {
        let config: Self = serde_saphyr::from_str(text).map_err(|error| error.to_string())?;
        config.checked(protocol)
    }

    /// Fills in what is left empty and says what cannot be. `protocol`: the driver's.
    pub(crate) fn checked(mut self, protocol: &str) -> Result<Self, String> {
        let common = &mut self.common;
        if common.protocol.is_empty() {
            common.protocol = protocol.to_owned();
        }
        if common.protocol.is_empty() {
            return Err("common.protocol: set it to the protocolName of the devices".to_owned());
        }
        if common.name.is_empty() {
            common.name = format!("{}-mapper", common.protocol);
        }
        let directory = Path::new("/etc/kubeedge");
        if self.grpc_server.socket_path.as_os_str().is_empty() {
            self.grpc_server.socket_path =
                directory.join(format!("{}.sock", common.protocol.replace('/', "-")));
        }
        for (key, path) in [
            ("grpc_server.socket_path", &self.grpc_server.socket_path),
            ("common.edgecore_sock", &common.edgecore_sock),
        ] {
            if !path.is_absolute() {
                return Err(format!(
                    "{key}: {} must begin with /: the node dials it as it is told",
                    path.display()
                ));
            }
            // What the kernel has room for.
            if path.as_os_str().len() > 107 {
                return Err(format!("{key}: a socket's path has at most 107 characters"));
            }
        }
        if self.grpc_server.socket_path == common.edgecore_sock {
            return Err("grpc_server.socket_path: this is the node's own socket, choose another".to_owned());
        }
        Ok(self)
    }

    /// Where REST listens, and whether somebody asked for exactly that.
    pub(crate) fn http(&self) -> (SocketAddr, bool) {
        let port = self.common.http_port;
        (SocketAddr::new(self.common.address, port.map_or(7777, |port| port.0)), port.is_some())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files() {
        let check = |text: &str, expected: &str| match MapperConfig::parse(text, "modbus") {
            Ok(config) => {
                let common = &config.common;
                let told = format!(
                    "{} {} {} {}",
                    common.name,
                    common.protocol,
                    config.grpc_server.socket_path.display(),
                    config.http().0
                );
                assert_eq!(told, expected, "{text}");
            }
            Err(error) => assert!(error.contains(expected), "{text}\n{error}"),
        };
        check("{}", "modbus-mapper modbus /etc/kubeedge/modbus.sock 127.0.0.1:7777");
        check(
            "grpc_server:\n  socket_path: /etc/kubeedge/Modbus.sock\ncommon:\n  name: Modbus-mapper\n  version: v1.13.0\n  \
             api_version: v1.0.0\n  protocol: modbus-tcp\n  address: 0.0.0.0\n  edgecore_sock: /etc/kubeedge/dmi.sock\n  \
             http_port: \"7778\"\ndev_init:\n  mode: register\n",
            "Modbus-mapper modbus-tcp /etc/kubeedge/Modbus.sock 0.0.0.0:7778",
        );
        check("common:\n  http_port: 80000\n", "http_port must be a port");
        check("common:\n  protcol: x\n", "protcol");
        check("grpc_server:\n  socket_path: m.sock\n", "must begin with /");
        check("grpc_server:\n  socket_path: /etc/kubeedge/dmi.sock\n", "the node's own socket");
        assert!(MapperConfig::parse("{}", "").is_err());
    }
}
