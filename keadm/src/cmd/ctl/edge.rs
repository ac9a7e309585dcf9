//! The edgecore of this machine: where it is asked, and its answers.

use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};
use serde_json::Value;

use crate::cmd::Failure;
use crate::host::{Ask, Host};
use crate::service::Manager;

/// Beside edgecore's store, unless its configuration says otherwise. edgecore has the same rule.
const STORE: &str = "/var/lib/kubeedge/edgecore.db";
const SOCKET: &str = "edgecore.sock";

pub(super) struct Edge<'a> {
    host: &'a dyn Host,
    socket: PathBuf,
}

impl<'a> Edge<'a> {
    /// Reads in edgecore's configuration where it is asked.
    pub(super) fn find(host: &'a dyn Host, config: &Path) -> Result<Self, Failure> {
        let shown = config.display();
        let file = match host.read(config) {
            Ok(Some(file)) => file,
            Ok(None) => {
                return Err(Failure::Refused(format!(
                    "this machine is no edge node: there is no {shown}; keadm join makes it one, and --config names \
                     another file"
                )));
            }
            Err(error) if error.kind() == ErrorKind::PermissionDenied => return Err(only_root()),
            Err(error) => return Err(anyhow!(error).context(format!("read {shown}")).into()),
        };
        let text = String::from_utf8_lossy(&file);
        let config: Value = serde_saphyr::from_str(&text).with_context(|| format!("read {shown}"))?;
        let named = |pointer: &str| {
            let text = config.pointer(pointer).and_then(Value::as_str);
            text.filter(|text| !text.is_empty()).map(PathBuf::from)
        };
        let beside = || named("/database/dataSource").unwrap_or(STORE.into()).with_file_name(SOCKET);
        Ok(Self { host, socket: named("/admin/socket").unwrap_or_else(beside) })
    }

    pub(super) fn get(&self, path: &str) -> Result<Value, Failure> {
        self.json(&Ask { method: "GET", path, body: Vec::new() })
    }

    pub(super) fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        self.json(&Ask { method: "POST", path, body: body.to_string().into_bytes() })
    }

    /// Hands on an answer as it comes. Ends well when nobody reads any more.
    pub(super) fn stream(&self, path: &str, out: &mut dyn Write) -> Result<(), Failure> {
        let mut unwritten = None;
        let ask = Ask { method: "GET", path, body: Vec::new() };
        let answered = self.ask(&ask, &mut |piece| {
            out.write_all(piece)
                .and_then(|()| out.flush())
                .inspect_err(|error| unwritten = Some(error.kind()))
        });
        match (answered, unwritten) {
            (Err(_), Some(ErrorKind::BrokenPipe)) => Ok(()),
            (answered, _) => answered,
        }
    }

    fn json(&self, ask: &Ask<'_>) -> Result<Value, Failure> {
        let mut body = Vec::new();
        self.ask(ask, &mut |piece| {
            body.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(serde_json::from_slice(&body).context("read edgecore's answer")?)
    }

    /// An answer that is no success does not reach `take`: it becomes the failure.
    fn ask(&self, ask: &Ask<'_>, take: &mut dyn FnMut(&[u8]) -> io::Result<()>) -> Result<(), Failure> {
        let mut told = Vec::new();
        let asked = self.host.ask(&self.socket, ask, &mut |status, piece| {
            if status == 200 {
                return take(piece);
            }
            told.extend_from_slice(piece);
            Ok(())
        });
        match asked {
            Ok(200) => Ok(()),
            Ok(status) => Err(refusal(status, &told)),
            Err(error) => Err(self.unreachable(error)),
        }
    }

    fn unreachable(&self, error: io::Error) -> Failure {
        match error.kind() {
            ErrorKind::NotFound | ErrorKind::ConnectionRefused => {
                let manager = Manager::of_edgecore(self.host);
                Failure::Refused(format!(
                    "edgecore does not run on this machine: nobody answers at {}; to see why type: {}",
                    self.socket.display(),
                    manager.log()
                ))
            }
            ErrorKind::PermissionDenied => only_root(),
            _ => anyhow!(error).context("ask edgecore").into(),
        }
    }
}

fn only_root() -> Failure {
    Failure::Refused("only root may ask edgecore: type the same behind sudo".into())
}

/// edgecore's own sentence. Up to 499 nothing was done.
fn refusal(status: u16, body: &[u8]) -> Failure {
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let told = body.get("message").and_then(Value::as_str);
    let why = told.map_or_else(|| format!("edgecore answered with status {status}"), str::to_owned);
    if status < 500 { Failure::Refused(why) } else { Failure::Undone(anyhow!(why)) }
}

/// As a part of a URL.
pub(super) fn segment(text: &str) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.".contains(&byte) {
            encoded.push(char::from(byte));
        } else {
            encoded += &format!("%{byte:02X}");
        }
    }
    encoded
}
