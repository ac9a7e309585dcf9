//! OpenTelemetry: gauges over OTLP/HTTP as JSON, which every receiver of OTLP/HTTP takes.
//!
//! KubeEdge has the setting and never sends anything.

use std::fmt;

use crate::push::http::Session;
use crate::push::line::{Failure, Target};
use crate::push::secrets::Secrets;
use crate::push::settings::Collector;

impl fmt::Display for Collector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Target for Collector {
    type Parcel = String;
    type Session = Session;

    async fn connect(&self, _: &Secrets) -> Result<Session, Failure> {
        Session::connect(&self.0.place, "application/json", None).await
    }

    async fn deliver(&self, session: &mut Session, gauge: &String) -> Result<(), Failure> {
        session.post(&self.0.path, gauge.clone()).await?.verdict()
    }
}
