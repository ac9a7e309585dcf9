//! Asks the driver now and then what there is that nobody described, and tells the edge node all of it.
//!
//! Nothing is kept or compared: rules in the cloud decide, and may come to be at any time. Started by `mapper.rs`.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use ke_run::shutdown::Shutdown;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tonic::Code;

use crate::driver::{Discovered, Driver};
use crate::link::Edge;

/// Looking around may take longer than a call to one device.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs until shutdown, or until it is clear that nobody listens.
pub(crate) async fn run<D: Driver>(
    driver: Arc<D>,
    edge: Edge,
    protocol: String,
    cycle: Duration,
    stop: Shutdown,
) -> Result<(), Infallible> {
    let mut ticks = interval(cycle);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut problem = None;
    loop {
        let looked = tokio::select! {
            looked = async {
                ticks.tick().await;
                look(&*driver, &edge, &protocol).await
            } => looked,
            () = stop.wait() => return Ok(()),
        };
        match looked {
            Ok(()) => problem = None,
            Err(Problem::NotTaken) => {
                tracing::warn!(
                    "devices were found, but this edge node does not take them: only Isthmus' edgecore does"
                );
                stop.wait().await;
                return Ok(());
            }
            Err(Problem::Now(why)) => {
                if problem.as_ref() != Some(&why) {
                    tracing::warn!("devices that nobody described are not told: {why}");
                    problem = Some(why);
                }
            }
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Problem {
    /// The edge node will never take them.
    NotTaken,
    /// It may go next time.
    Now(String),
}

async fn look<D: Driver>(driver: &D, edge: &Edge, protocol: &str) -> Result<(), Problem> {
    let found = match timeout(LIMIT, driver.discover()).await {
        Ok(found) => found.map_err(|why| Problem::Now(why.to_string()))?,
        Err(_) => {
            return Err(Problem::Now(format!("the driver looked for longer than {} s", LIMIT.as_secs())));
        }
    };
    if found.is_empty() {
        return Ok(());
    }
    edge.discovered(protocol, found.iter().map(message).collect()).await.map_err(|status| {
        match status.code() {
            Code::Unimplemented => Problem::NotTaken,
            _ => Problem::Now(status.message().to_owned()),
        }
    })
}

fn message(found: &Discovered) -> ke_dmi::discovery::DiscoveredDevice {
    ke_dmi::discovery::DiscoveredDevice {
        id: found.id.clone(),
        data: found.data.iter().map(|(key, value)| (key.to_owned(), text(value))).collect(),
        config_data: serde_json::Value::Object(
            found.settings.iter().map(|(key, value)| (key.to_owned(), value.clone())).collect(),
        )
        .to_string(),
    }
}

fn text(value: &serde_json::Value) -> String {
    value.as_str().map_or_else(|| value.to_string(), str::to_owned)
}
