//! Logs to standard error and numbers for `/metrics`.
//!
//! It does not know what is secret: whoever logs keeps tokens, keys and Secret data out. It opens no port; `admin.rs`
//! of each binary serves [`Metrics::encode`].

use std::fmt;
use std::str::FromStr;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::{Metric, Registry};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// `logging` (not in KubeEdge): log lines on standard error.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LoggingConfig {
    /// `text` or `json`.
    pub format: LogFormat,
    /// `off`, `error`, `warn`, `info`, `debug`, `trace`, or by module: `info,cloudcore::cloud_hub=debug`.
    pub level: LogLevel,
}

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// One line for people.
    #[default]
    Text,
    /// One JSON object a line, for machines.
    Json,
}

/// Which log lines are written: a level (`info`), or levels by module (`info,edgecore::edged=debug`).
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub struct LogLevel {
    text: String,
    targets: Targets,
}

impl Default for LogLevel {
    fn default() -> Self {
        let targets = Targets::new().with_default(tracing::Level::INFO);
        Self { text: "info".to_owned(), targets }
    }
}

impl FromStr for LogLevel {
    type Err = TelemetryError;

    fn from_str(text: &str) -> Result<Self, TelemetryError> {
        let refused = || TelemetryError::Level(text.to_owned());
        // `Targets` alone would take a misspelt level for a module's name and silence everything else.
        let is_level = |word: &str| word.parse::<LevelFilter>().is_ok_and(|_| !word.is_empty());
        for part in text.split(',') {
            let (module, level) = part.split_once('=').unwrap_or(("all", part));
            if module.is_empty() || !is_level(level) {
                return Err(refused());
            }
        }
        let targets = text.parse().map_err(|_| refused())?;
        Ok(Self { text: text.to_owned(), targets })
    }
}

impl fmt::Display for LogLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl From<LogLevel> for String {
    fn from(level: LogLevel) -> Self {
        level.text
    }
}

impl TryFrom<String> for LogLevel {
    type Error = TelemetryError;

    fn try_from(text: String) -> Result<Self, TelemetryError> {
        text.parse()
    }
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The level is not one.
    #[error(
        "{0:?} is no log level; allowed are off, error, warn, info, debug, trace, or a list such as \
         \"info,edgecore::edged=debug\""
    )]
    Level(String),
    /// A second start in the same process.
    #[error("logging was started already")]
    Twice,
}

/// Starts logging for the whole process. Call it once, in `main`.
pub fn init(format: LogFormat, level: &LogLevel) -> Result<(), TelemetryError> {
    let lines = tracing_subscriber::registry().with(level.targets.clone());
    let layer = tracing_subscriber::fmt::layer().with_writer(std::io::stderr);
    match format {
        LogFormat::Text => {
            // Colours only for a person's terminal; a service manager's journal stays plain.
            let colours = std::io::IsTerminal::is_terminal(&std::io::stderr());
            lines.with(layer.with_ansi(colours)).try_init()
        }
        LogFormat::Json => lines.with(layer.json().flatten_event(true)).try_init(),
    }
    .map_err(|_| TelemetryError::Twice)
}

/// The numbers of one process. Modules register theirs while `main` builds them; then it is only read.
#[derive(Debug, Default)]
pub struct Metrics(Registry);

impl Metrics {
    /// No numbers yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A number that only grows. `name` without `_total`, which the text form adds; `help` without a full stop.
    pub fn counter(&mut self, name: &str, help: &str) -> Counter {
        self.register(name, help, Counter::default())
    }

    /// A number that goes up and down.
    pub fn gauge(&mut self, name: &str, help: &str) -> Gauge {
        self.register(name, help, Gauge::default())
    }

    /// How often a value fell below each of `bounds` (upper ends, rising; infinity is added).
    pub fn histogram(&mut self, name: &str, help: &str, bounds: &[f64]) -> Histogram {
        self.register(name, help, Histogram::new(bounds.iter().copied()))
    }

    /// Any other kind, such as a `Family` with labels. Gives back a clone that counts into the same numbers.
    pub fn register<M: Metric + Clone>(&mut self, name: &str, help: &str, metric: M) -> M {
        self.0.register(name, help, metric.clone());
        metric
    }

    /// All numbers in the text form that Prometheus reads. Serve it as [`Metrics::CONTENT_TYPE`].
    pub fn encode(&self) -> Result<String, fmt::Error> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.0)?;
        Ok(text)
    }

    /// The media type of [`Metrics::encode`].
    pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_level(text: &str, allowed: bool) {
        assert_eq!(text.parse::<LogLevel>().is_ok(), allowed, "{text:?}");
    }

    #[test]
    fn levels() {
        for good in ["info", "off", "WARN", "info,edgecore::edged=debug", "ke_link=trace"] {
            check_level(good, true);
        }
        for bad in ["", "info,", "=info", "loud", "info=", "edgecore=loud", "information"] {
            check_level(bad, false);
        }
    }

    #[test]
    fn metrics_text_holds_every_number() {
        let mut metrics = Metrics::new();
        let sent = metrics.counter("sent", "Messages sent");
        let nodes = metrics.gauge("KubeEdge_CloudHub_connected_nodes", "Nodes with a link");
        metrics.histogram("wait_seconds", "Waiting time", &[0.1, 1.0]).observe(0.5);
        sent.inc_by(3);
        nodes.set(2);
        let text = metrics.encode().unwrap();
        for line in [
            "# HELP sent Messages sent.",
            "sent_total 3",
            "KubeEdge_CloudHub_connected_nodes 2",
            "wait_seconds_bucket{le=\"1.0\"} 1",
            "# EOF",
        ] {
            assert!(text.lines().any(|l| l == line), "{line} not in\n{text}");
        }
    }
}
