//! Pure: which part of a container's log is asked for, in the words of Kubernetes' `log` sub-resource.
//!
//! Words that nobody knows are passed over, as the API server does; a known one with a wrong value is refused. Read by
//! whoever serves logs, carried out by `mod.rs`.

use k8s_openapi::jiff::{SignedDuration, Timestamp};

/// What to show of a log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogOptions {
    /// Which container; `None`: the pod's only one.
    pub container: Option<String>,
    /// Go on with what comes, until the container ends.
    pub follow: bool,
    /// Of the container before this one.
    pub previous: bool,
    /// Only so many lines from the end.
    pub tail_lines: Option<u64>,
    /// Nothing older than this.
    pub since: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// End after so many bytes.
    pub limit_bytes: Option<u64>,
    /// Only what the container said there; `None`: all.
    pub stream: Option<LogStream>,
}

/// Where a container says something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogStream {
    Stdout,
    Stderr,
}

impl LogOptions {
    /// Reads a decoded query. `now` is what `sinceSeconds` counts back from. Errors: one sentence for whoever asked.
    pub fn parse(query: &[(String, String)], now: Timestamp) -> Result<Self, String> {
        let mut options = Self::default();
        let mut since_seconds = None;
        for (name, value) in query {
            match name.as_str() {
                "container" => options.container = Some(value.clone()).filter(|name| !name.is_empty()),
                "follow" => options.follow = truth(name, value)?,
                "previous" => options.previous = truth(name, value)?,
                "timestamps" => options.timestamps = truth(name, value)?,
                "tailLines" => options.tail_lines = Some(number(name, value, 0)?),
                "limitBytes" => options.limit_bytes = Some(number(name, value, 1)?),
                "sinceSeconds" => since_seconds = Some(number(name, value, 1)?),
                "sinceTime" => options.since = Some(time(name, value)?),
                "stream" => options.stream = stream(value)?,
                _ => {}
            }
        }
        if options.stream.is_some() && options.tail_lines.is_some() {
            return Err("tailLines and a stream other than All: give one of them".into());
        }
        match (since_seconds, options.since) {
            (Some(_), Some(_)) => Err("sinceSeconds and sinceTime: give one of them".into()),
            (Some(seconds), None) => {
                let back = SignedDuration::from_secs(i64::try_from(seconds).unwrap_or(i64::MAX));
                options.since = Some(now.saturating_sub(back).unwrap_or(Timestamp::MIN));
                Ok(options)
            }
            (None, _) => Ok(options),
        }
    }
}

fn stream(value: &str) -> Result<Option<LogStream>, String> {
    match value {
        "" | "All" => Ok(None),
        "Stdout" => Ok(Some(LogStream::Stdout)),
        "Stderr" => Ok(Some(LogStream::Stderr)),
        _ => Err(format!("stream: found {value:?}, expected All, Stdout or Stderr")),
    }
}

fn truth(name: &str, value: &str) -> Result<bool, String> {
    match value {
        "true" | "1" | "" => Ok(true),
        "false" | "0" => Ok(false),
        _ => Err(format!("{name}: found {value:?}, expected true or false")),
    }
}

fn number(name: &str, value: &str, least: u64) -> Result<u64, String> {
    let number = value.parse().ok().filter(|number| *number >= least);
    number.ok_or_else(|| format!("{name}: found {value:?}, expected a number from {least}"))
}

fn time(name: &str, value: &str) -> Result<Timestamp, String> {
    value
        .parse()
        .map_err(|_| format!("{name}: found {value:?}, expected a time such as 2026-01-31T12:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(query: &str) -> Result<LogOptions, String> {
        let pairs = query.split('&').filter(|pair| !pair.is_empty()).filter_map(|pair| pair.split_once('='));
        let pairs: Vec<_> = pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        LogOptions::parse(&pairs, Timestamp::from_second(1_000_000).unwrap())
    }

    #[test]
    fn words_are_kubernetes() {
        let check = |query: &str, expected: LogOptions| assert_eq!(parse(query), Ok(expected), "{query}");
        let at = |second| Some(Timestamp::from_second(second).unwrap());
        let none = LogOptions::default;
        check("", none());
        check("container=&pretty=1&stream=All", none());
        check(
            "container=app&follow=true&previous=1&timestamps=true",
            LogOptions {
                container: Some("app".into()),
                follow: true,
                previous: true,
                timestamps: true,
                ..none()
            },
        );
        check("tailLines=0&limitBytes=1", LogOptions { tail_lines: Some(0), limit_bytes: Some(1), ..none() });
        check("stream=Stderr", LogOptions { stream: Some(LogStream::Stderr), ..none() });
        check("stream=Stdout", LogOptions { stream: Some(LogStream::Stdout), ..none() });
        check("stream=All&tailLines=3", LogOptions { tail_lines: Some(3), ..none() });
        check("sinceSeconds=400000", LogOptions { since: at(600_000), ..none() });
        check("sinceSeconds=18446744073709551615", LogOptions { since: Some(Timestamp::MIN), ..none() });
        check("sinceTime=1970-01-01T01:00:10+01:00", LogOptions { since: at(10), ..none() });
    }

    #[test]
    fn wrong_values_are_shown() {
        let check = |query: &str, expected: &str| {
            let error = parse(query).unwrap_err();
            assert!(error.contains(expected), "{query}: {error}");
        };
        check("tailLines=-1", "tailLines: found \"-1\", expected a number from 0");
        check("limitBytes=0", "expected a number from 1");
        check("sinceSeconds=0", "expected a number from 1");
        check("sinceTime=yesterday", "2026-01-31T12:00:00Z");
        check("follow=maybe", "expected true or false");
        check("sinceSeconds=1&sinceTime=1970-01-01T00:00:00Z", "give one of them");
        check("stream=stdout", "expected All, Stdout or Stderr");
        check("stream=Stderr&tailLines=3", "give one of them");
    }
}
