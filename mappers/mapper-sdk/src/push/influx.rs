//! InfluxDB 2: its write API, with the token of the mapper's environment.

use std::fmt;

use crate::push::http::Session;
use crate::push::line::{Failure, Target};
use crate::push::secrets::Secrets;
use crate::push::settings::Bucket;

impl fmt::Display for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Target for Bucket {
    type Parcel = String;
    type Session = Session;

    async fn connect(&self, secrets: &Secrets) -> Result<Session, Failure> {
        let token = Some(&secrets.token).filter(|token| !token.is_empty());
        let token = token.map(|token| format!("Token {token}"));
        Session::connect(&self.0.place, "text/plain; charset=utf-8", token).await
    }

    async fn deliver(&self, session: &mut Session, line: &String) -> Result<(), Failure> {
        let answer = session.post(&self.0.path, line.clone()).await?;
        match answer.status.as_u16() {
            401 | 403 => Err(Failure::Away(
                "the server does not take the token; set TOKEN in the mapper's environment to one that may write \
                 to the bucket"
                    .to_owned(),
            )),
            _ => answer.verdict(),
        }
    }
}
