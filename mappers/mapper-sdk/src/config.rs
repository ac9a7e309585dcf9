//! A mapper's command line and configuration file: the keys of KubeEdge's mapper-framework, and a few of ours.
//!
//! A key that nobody reads is an error that names it. Called by `mapper.rs` and by tests.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{CommandFactory, FromArgMatches, Parser};
use ke_run::config::Within;
use ke_run::telemetry::{LogFormat, LogLevel, TelemetryError};
use serde::Deserialize;
use serde::de::IgnoredAny;

use crate::push::secrets::Secrets;

/// What mapper-framework's command line has.
#[derive(Debug, Parser)]
struct Args {
    /// Configuration file.
    #[arg(long, value_name = "PATH", default_value = "./config.yaml")]
    config_file: PathBuf,
    /// How much is logged if the file's `log.level` says nothing: up to 3 info, 4 and 5 debug, from 6 on everything.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    v: u8,
}

/// What a mapper runs with.
#[derive(Clone, Debug)]
pub struct Config {
    /// Who the mapper says it is.
    pub name: String,
    /// Its version, for people.
    pub version: String,
    /// What mapper-framework has there.
    pub api_version: String,
    /// The `protocolName` of the devices that it serves.
    pub protocol: String,
    /// Where edgecore calls.
    pub socket: PathBuf,
    /// Where edgecore listens.
    pub edge_socket: PathBuf,
    /// Where the REST API listens.
    pub http: SocketAddr,
    /// How long a driver may take for one call before the device counts as lost.
    pub call_limit: Duration,
    /// How often the driver is asked what there is that nobody described; `None`: never.
    pub discover_cycle: Option<Duration>,
    /// What opens the databases that values are pushed to; of the environment, never of the file.
    pub secrets: Secrets,
    /// How log lines look.
    pub log_format: LogFormat,
    /// Which are written.
    pub log_level: LogLevel,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct File {
    grpc_server: GrpcServer,
    common: Common,
    log: Log,
    /// Mappers of before KubeEdge v1.15 have it; nothing reads it.
    dev_init: Option<IgnoredAny>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct GrpcServer {
    /// The mapper's own socket. edgecore must see it at the same path. `/etc/kubeedge/<protocol>.sock` by default.
    socket_path: Option<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Common {
    /// `<protocol>-mapper` by default; one name, one socket.
    name: Option<String>,
    version: Option<String>,
    api_version: Option<String>,
    /// Compared with the devices' `protocolName`, capitals included. The driver's own by default.
    protocol: Option<String>,
    /// mapper-framework has it and nothing reads it.
    address: Option<IgnoredAny>,
    /// `/etc/kubeedge/dmi.sock` by default.
    edgecore_sock: Option<PathBuf>,
    /// 7777 by default.
    http_port: Option<Port>,
    /// Ours: the address of the REST API, which anybody who reaches it may write devices with. All by default, as
    /// mapper-framework has it; 127.0.0.1 keeps it on this machine.
    http_address: Option<IpAddr>,
    /// Ours: how long a device may take for one call before it counts as lost. Seconds, 10 by default.
    call_limit_secs: Option<Within<1, 300>>,
    /// Ours: how often drivers that can look for devices which nobody described. Seconds, 10 by default; 0: never.
    discover_cycle_secs: Option<Within<0, 86_400>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct Log {
    /// `text` or `json`.
    format: LogFormat,
    /// A level, or levels by module. The flag `--v` counts if this is not set.
    level: Option<LogLevel>,
}

/// mapper-framework has a text; people write numbers.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Port {
    Number(i64),
    Text(String),
}

/// Why a mapper cannot start.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not there, or not readable.
    #[error("cannot read {}: {why}; name the file with --config-file", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// The operating system's reason.
        why: std::io::Error,
    },
    /// Not YAML, or a key that is wrong.
    #[error("{} cannot be used: {text}", path.display())]
    Keys {
        /// The file.
        path: PathBuf,
        /// The key or place, and what it must be.
        text: String,
    },
}

impl Config {
    /// Of the process's arguments and the file that they name. Ends the process for `--help`, `--version` and arguments that
    /// are none. `protocol`: the driver's.
    pub fn start(protocol: &str) -> Result<Self, ConfigError> {
        let name = format!("mapper-{protocol}");
        let command =
            Args::command().display_name(name.clone()).bin_name(name).version(env!("CARGO_PKG_VERSION"));
        let args = Args::from_arg_matches(&command.get_matches()).unwrap_or_else(|wrong| wrong.exit());
        let path = args.config_file;
        let text =
            std::fs::read_to_string(&path).map_err(|why| ConfigError::Read { path: path.clone(), why })?;
        let secrets = Secrets::of(|key| std::env::var(key).ok());
        Ok(Self { secrets, ..Self::read(&text, protocol, args.v, &path)? })
    }

    /// Of a file's text, without secrets; `path` is for messages.
    pub fn read(text: &str, protocol: &str, verbosity: u8, path: &Path) -> Result<Self, ConfigError> {
        let refused = |text: String| ConfigError::Keys { path: path.to_owned(), text };
        let file: File = match text.trim() {
            "" => File::default(),
            text => serde_saphyr::from_str(text).map_err(|wrong| refused(wrong.to_string()))?,
        };
        let File { grpc_server, common, log, .. } = file;
        let protocol = set(common.protocol).unwrap_or_else(|| protocol.to_owned());
        let absolute = |key: &str, path: Option<PathBuf>, default: String| {
            let path = path.filter(|path| !path.as_os_str().is_empty()).unwrap_or_else(|| default.into());
            let is_good = path.is_absolute();
            is_good.then_some(path).ok_or_else(|| refused(format!("{key} must be an absolute path")))
        };
        let port = match common.http_port {
            None => Some(7777),
            Some(Port::Number(number)) => u16::try_from(number).ok(),
            Some(Port::Text(text)) if text.trim().is_empty() => Some(7777),
            Some(Port::Text(text)) => text.trim().parse().ok(),
        };
        let port =
            port.ok_or_else(|| refused("common.http_port must be a port from 0 to 65535".to_owned()))?;
        let level = match log.level {
            Some(level) => level,
            None => level(verbosity).map_err(|wrong| refused(wrong.to_string()))?,
        };
        Ok(Self {
            name: set(common.name).unwrap_or_else(|| format!("{protocol}-mapper")),
            version: set(common.version).unwrap_or_else(|| env!("CARGO_PKG_VERSION").to_owned()),
            api_version: set(common.api_version).unwrap_or_else(|| "v1.0.0".to_owned()),
            socket: absolute(
                "grpc_server.socket_path",
                grpc_server.socket_path,
                format!("/etc/kubeedge/{protocol}.sock"),
            )?,
            edge_socket: absolute(
                "common.edgecore_sock",
                common.edgecore_sock,
                "/etc/kubeedge/dmi.sock".to_owned(),
            )?,
            protocol,
            http: SocketAddr::new(common.http_address.unwrap_or(Ipv4Addr::UNSPECIFIED.into()), port),
            call_limit: common.call_limit_secs.map_or(Duration::from_secs(10), Within::secs),
            discover_cycle: common.discover_cycle_secs.map_or(Some(Duration::from_secs(10)), |secs| {
                Some(secs.secs()).filter(|cycle| !cycle.is_zero())
            }),
            secrets: Secrets::default(),
            log_format: log.format,
            log_level: level,
        })
    }
}

/// An empty text is mapper-framework's template, not a name.
fn set(text: Option<String>) -> Option<String> {
    text.filter(|text| !text.is_empty())
}

fn level(verbosity: u8) -> Result<LogLevel, TelemetryError> {
    match verbosity {
        0..=3 => "info",
        4..=5 => "debug,h2=info,hyper=info",
        6.. => "trace",
    }
    .parse()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, String> {
        Config::read(text, "modbus", 1, Path::new("c.yaml")).map_err(|wrong| wrong.to_string())
    }

    #[test]
    fn files_of_mapper_framework_and_json_can_be_used() {
        let template = "grpc_server:\n  socket_path: /etc/kubeedge/Modbus.sock\ncommon:\n  name: Modbus-mapper\n  \
            version: v1.13.0\n  api_version: v1.0.0\n  protocol: \n  address: 127.0.0.1\n  \
            edgecore_sock: /etc/kubeedge/dmi.sock\n  http_port: \"8080\"\ndev_init:\n  mode: register\n";
        let config = read(template).unwrap();
        assert_eq!((config.name.as_str(), config.protocol.as_str()), ("Modbus-mapper", "modbus"));
        assert_eq!(config.http, "0.0.0.0:8080".parse().unwrap());
        let json = r#"{"common": {"protocol": "Modbus", "http_port": 81, "http_address": "127.0.0.1", "call_limit_secs": 3},
            "grpc_server": {"socket_path": "/run/m.sock"}, "log": {"format": "json", "level": "debug"}}"#;
        let config = read(json).unwrap();
        assert_eq!((config.name.as_str(), config.http), ("Modbus-mapper", "127.0.0.1:81".parse().unwrap()));
        assert_eq!(config.call_limit, Duration::from_secs(3));
        assert_eq!(config.socket, Path::new("/run/m.sock"));
        let config = read("").unwrap();
        assert_eq!(config.socket, Path::new("/etc/kubeedge/modbus.sock"));
        assert_eq!(config.edge_socket, Path::new("/etc/kubeedge/dmi.sock"));
        assert_eq!(config.http.port(), 7777);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let wrong = read(text).unwrap_err();
            assert!(wrong.starts_with("c.yaml cannot be used: ") && wrong.contains(expected), "{wrong}");
        };
        check("common: {protocoll: modbus}", "protocoll");
        check("common: {http_port: 70000}", "common.http_port must be a port");
        check("common: {http_port: web}", "common.http_port must be a port");
        check("common: {call_limit_secs: 0}", "a whole number from 1 to 300");
        check("grpc_server: {socket_path: m.sock}", "grpc_server.socket_path must be an absolute path");
        check("log: {level: loud}", "no log level");
        check("common: [", "");
    }
}
