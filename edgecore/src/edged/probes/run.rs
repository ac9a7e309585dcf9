//! Makes one probe and says what it found, in the kubelet's words. Decides nothing about what follows from it.

use std::time::Duration;

use super::grpc;
use super::http::{self, HttpError, MAX_BODY, dial};
use super::probed::Probed;
use super::target::{Target, authority};
use crate::edged::cri::{Runtime, RuntimeError};

/// A question that cannot be put is tried this often, as by the kubelet.
const ATTEMPTS: usize = 3;

/// Asks; at most `limit` long each time.
pub(super) async fn run(
    target: &Result<Target, String>,
    runtime: &dyn Runtime,
    container_id: &str,
    limit: Duration,
) -> Probed {
    let target = match target {
        Ok(target) => target,
        Err(why) => return Probed::NotMade(why.clone()),
    };
    let mut probed = Probed::NotMade(String::new());
    for _ in 0..ATTEMPTS {
        probed = once(target, runtime, container_id, limit).await;
        if !matches!(probed, Probed::NotMade(_)) {
            break;
        }
    }
    probed
}

async fn once(target: &Target, runtime: &dyn Runtime, container_id: &str, limit: Duration) -> Probed {
    match target {
        Target::Exec(command) => exec(command, runtime, container_id, limit).await,
        Target::Http(target) => {
            let too_late = || {
                let url = target.url();
                format!(
                    "Get \"{url}\": context deadline exceeded (Client.Timeout exceeded while awaiting headers)"
                )
            };
            match tokio::time::timeout(limit, http::get(target)).await {
                Err(_) => Probed::Unwell(too_late()),
                Ok(Err(HttpError::Unspeakable(why))) => Probed::NotMade(why),
                Ok(Err(HttpError::Failed(why) | HttpError::Plain(why))) => Probed::Unwell(why),
                Ok(Ok(answer)) => match answer.status {
                    200..300 => Probed::Well,
                    300..400 => {
                        Probed::Warned(format!("Probe terminated redirects, Response body: {}", answer.body))
                    }
                    // Never the body: it may hold what not everybody who sees events may see.
                    status => Probed::Unwell(format!("HTTP probe failed with statuscode: {status}")),
                },
            }
        }
        Target::Tcp { host, port } => match tokio::time::timeout(limit, dial(host, *port)).await {
            Ok(Ok(_)) => Probed::Well,
            Ok(Err(why)) => Probed::Unwell(why),
            Err(_) => Probed::Unwell(format!("dial tcp {}: i/o timeout", authority(host, *port))),
        },
        Target::Grpc { host, port, service } => grpc::check(host, *port, service, limit).await,
    }
}

async fn exec(command: &[String], runtime: &dyn Runtime, container_id: &str, limit: Duration) -> Probed {
    match runtime.exec_sync(container_id, command, limit).await {
        Ok(done) if done.exit_code == 0 => Probed::Well,
        Ok(done) => {
            let mut said = done.stdout;
            said.extend_from_slice(&done.stderr);
            said.truncate(MAX_BODY);
            Probed::Unwell(String::from_utf8_lossy(&said).into_owned())
        }
        Err(RuntimeError::Timeout { .. }) => {
            let words = command.join(" ");
            Probed::Unwell(format!("command timed out: {words:?} timed out after {}s", limit.as_secs()))
        }
        Err(error) => Probed::NotMade(error.to_string()),
    }
}
