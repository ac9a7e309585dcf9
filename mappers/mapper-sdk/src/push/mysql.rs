//! MySQL and MariaDB: a row for each value, in a table for each property that is made when it is missing.
//!
//! Without TLS, as KubeEdge's; the password of the mapper's environment never goes over the line as it is.

use std::collections::BTreeSet;
use std::fmt;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, OptsBuilder};

use crate::push::line::{Failure, Target};
use crate::push::secrets::Secrets;
use crate::push::settings::MySql;

/// "Table does not exist".
const NO_TABLE: u16 = 1146;
/// Too many connections, shutdown, lock wait, deadlock, no memory, disk full, read only.
const OF_THE_SERVER: &[u16] = &[1021, 1037, 1040, 1041, 1053, 1205, 1213, 1290, 1836];

/// What is delivered.
pub(crate) struct Row {
    /// The table.
    pub(crate) table: String,
    /// `2026-01-02 03:04:05`
    pub(crate) time: String,
    /// The value.
    pub(crate) value: String,
}

/// A connection, and the tables that it has seen.
pub(crate) struct Session {
    connection: Conn,
    made: BTreeSet<String>,
}

impl fmt::Display for MySql {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "mysql://{}/{}", self.place, self.database)
    }
}

impl Target for MySql {
    type Parcel = Row;
    type Session = Session;

    async fn connect(&self, secrets: &Secrets) -> Result<Session, Failure> {
        let options = OptsBuilder::default()
            .ip_or_hostname(self.place.host.clone())
            .tcp_port(self.place.port)
            .user(Some(self.user.clone()))
            .pass(Some(secrets.password.clone()))
            .db_name(Some(self.database.clone()))
            // The manifest says an address, and it is that one.
            .prefer_socket(false);
        let connection = Conn::new(options).await.map_err(|error| {
            let hint = match &error {
                Error::Server(server) if matches!(server.code, 1044 | 1045 | 1698) => {
                    "; set PASSWORD in the mapper's environment to the user's"
                }
                _ => "",
            };
            Failure::Away(format!("{error}{hint}"))
        })?;
        Ok(Session { connection, made: BTreeSet::new() })
    }

    async fn deliver(&self, session: &mut Session, row: &Row) -> Result<(), Failure> {
        let table = quoted(&row.table);
        if !session.made.contains(&row.table) {
            let create = format!(
                "CREATE TABLE IF NOT EXISTS {table} \
                 (id INT AUTO_INCREMENT PRIMARY KEY, ts DATETIME NOT NULL, field TEXT)"
            );
            session.connection.query_drop(create).await.map_err(|error| failure(&error))?;
            session.made.insert(row.table.clone());
        }
        let insert = format!("INSERT INTO {table} (ts, field) VALUES (?, ?)");
        match session.connection.exec_drop(insert, (&row.time, &row.value)).await {
            Ok(()) => Ok(()),
            Err(Error::Server(error)) if error.code == NO_TABLE => {
                // Somebody dropped it: the next try makes it.
                session.made.remove(&row.table);
                Err(Failure::Busy(error.to_string()))
            }
            Err(error) => Err(failure(&error)),
        }
    }
}

/// A name as the server reads it, whatever is in it.
fn quoted(name: &str) -> String {
    format!("`{}`", name.replace('`', "``"))
}

fn failure(error: &Error) -> Failure {
    let why = error.to_string();
    match error {
        Error::Server(server) if OF_THE_SERVER.contains(&server.code) => Failure::Busy(why),
        Error::Server(_) => Failure::Refused(why),
        _ => Failure::Away(why),
    }
}
