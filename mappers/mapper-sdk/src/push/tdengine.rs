//! TDengine: statements to its REST interface, with the user and password of the mapper's environment.
//!
//! A device's super table is made when it is missing; the server makes sub-tables by itself.

use std::collections::BTreeSet;
use std::fmt;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::push::http::{Answer, Session, told};
use crate::push::line::{Failure, Target};
use crate::push::secrets::Secrets;
use crate::push::settings::TdEngine;

/// "Table does not exist", by the server's parser and by its storage.
const NO_TABLE: &[i64] = &[0x2603, 0x2662, 0x0362];
/// Below are errors of the way to the database, not of a statement.
const OF_STATEMENTS: i64 = 0x0100;

/// What is delivered.
pub(crate) struct Row {
    /// Makes the super table unless it is there.
    pub(crate) create: String,
    /// Puts the row into it.
    pub(crate) insert: String,
}

/// A connection, and the tables that it has seen.
pub(crate) struct Connection {
    session: Session,
    made: BTreeSet<String>,
}

/// What the server says about a statement; errors are 200 as well.
#[derive(Deserialize)]
struct Verdict {
    code: i64,
    #[serde(default)]
    desc: String,
}

impl fmt::Display for TdEngine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Target for TdEngine {
    type Parcel = Row;
    type Session = Connection;

    async fn connect(&self, secrets: &Secrets) -> Result<Connection, Failure> {
        let login = STANDARD.encode(format!("{}:{}", secrets.user_name, secrets.password));
        let session =
            Session::connect(&self.0.place, "text/plain; charset=utf-8", Some(format!("Basic {login}")));
        Ok(Connection { session: session.await?, made: BTreeSet::new() })
    }

    async fn deliver(&self, connection: &mut Connection, row: &Row) -> Result<(), Failure> {
        if !connection.made.contains(&row.create) {
            verdict(&connection.session.post(&self.0.path, row.create.clone()).await?)?;
            connection.made.insert(row.create.clone());
        }
        let answer = connection.session.post(&self.0.path, row.insert.clone()).await?;
        if code(&answer).is_some_and(|code| NO_TABLE.contains(&code)) {
            // Somebody dropped it: the next try makes it.
            connection.made.remove(&row.create);
            return Err(Failure::Busy("the table is gone".to_owned()));
        }
        verdict(&answer)
    }
}

fn code(answer: &Answer) -> Option<i64> {
    serde_json::from_slice::<Verdict>(&answer.text).ok().map(|verdict| verdict.code)
}

fn verdict(answer: &Answer) -> Result<(), Failure> {
    if answer.status.as_u16() == 401 {
        let text =
            "the server does not take the login; set USERNAME and PASSWORD in the mapper's environment";
        return Err(Failure::Away(text.to_owned()));
    }
    match serde_json::from_slice::<Verdict>(&answer.text) {
        Ok(Verdict { code: 0, .. }) => answer.verdict(),
        Ok(Verdict { code, desc }) => {
            let why = format!("the server answers {code:#x}: {}", told(desc.as_bytes()));
            Err(if code < OF_STATEMENTS { Failure::Busy(why) } else { Failure::Refused(why) })
        }
        Err(_) => {
            answer.verdict()?;
            Err(Failure::Away(
                "what answers there is no REST interface of TDengine, whose port is 6041".to_owned(),
            ))
        }
    }
}
