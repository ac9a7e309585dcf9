//! Every SQL statement about the embedded broker's sessions and messages, and about topics that the cloud wants to hear.

use std::sync::Arc;

use bytes::Bytes;
use ke_mqtt::{Change, Message, PacketId, Qos};
use rusqlite::{Connection, Row, Transaction, params};

/// Everything the broker knew, in the order in which `Broker::restore` wants it.
pub(super) fn load(connection: &Connection) -> rusqlite::Result<Vec<Change>> {
    let mut rows = Vec::new();
    let mut read =
        |sql: &str, change: &dyn Fn(&Row<'_>) -> rusqlite::Result<Change>| -> rusqlite::Result<()> {
            let mut statement = connection.prepare(sql)?;
            for row in statement.query_map([], |row| change(row))? {
                rows.push(row?);
            }
            Ok(())
        };
    read("SELECT client FROM mqtt_session", &|row| Ok(Change::Session { client: text(row, 0)? }))?;
    read("SELECT client, filter, qos FROM mqtt_subscription", &|row| {
        Ok(Change::Subscription { client: text(row, 0)?, filter: text(row, 1)?, qos: qos(row, 2)? })
    })?;
    read("SELECT topic, payload, qos FROM mqtt_retained", &|row| {
        Ok(Change::Retained { message: message(row, 0)?, qos: qos(row, 2)? })
    })?;
    let queued =
        "SELECT topic, payload, qos, client, sequence, packet, released FROM mqtt_queued ORDER BY sequence";
    read(queued, &|row| {
        Ok(Change::Queued {
            client: text(row, 3)?,
            sequence: row.get::<_, i64>(4)?.unsigned_abs(),
            message: message(row, 0)?,
            qos: qos(row, 2)?,
            sent: row.get::<_, Option<u16>>(5)?.and_then(PacketId::new),
            released: row.get(6)?,
        })
    })?;
    read("SELECT client, packet FROM mqtt_received WHERE packet > 0", &|row| {
        let id = PacketId::new(row.get(1)?).unwrap_or(PacketId::MIN);
        Ok(Change::Received { client: text(row, 0)?, id })
    })?;
    Ok(rows)
}

/// Stores changes in their order.
pub(super) fn apply(transaction: &Transaction<'_>, changes: &[Change]) -> rusqlite::Result<()> {
    for change in changes {
        apply_one(transaction, change)?;
    }
    Ok(())
}

fn apply_one(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    let run = |sql: &str, values: &[&dyn rusqlite::ToSql]| {
        transaction.prepare_cached(sql)?.execute(values).map(|_| ())
    };
    match change {
        Change::Session { client } => {
            run("INSERT OR IGNORE INTO mqtt_session (client) VALUES (?1)", params![client])
        }
        Change::SessionGone { client } => {
            for table in ["mqtt_subscription", "mqtt_queued", "mqtt_received", "mqtt_session"] {
                run(&format!("DELETE FROM {table} WHERE client = ?1"), params![client])?;
            }
            Ok(())
        }
        Change::Subscription { client, filter, qos } => run(
            "INSERT OR REPLACE INTO mqtt_subscription (client, filter, qos) VALUES (?1, ?2, ?3)",
            params![client, filter, qos.number()],
        ),
        Change::SubscriptionGone { client, filter } => {
            run("DELETE FROM mqtt_subscription WHERE client = ?1 AND filter = ?2", params![client, filter])
        }
        Change::Retained { message, qos } => run(
            "INSERT OR REPLACE INTO mqtt_retained (topic, payload, qos) VALUES (?1, ?2, ?3)",
            params![message.topic, &*message.payload, qos.number()],
        ),
        Change::RetainedGone { topic } => run("DELETE FROM mqtt_retained WHERE topic = ?1", params![topic]),
        Change::Queued { client, sequence, message, qos, sent, released } => run(
            "INSERT OR REPLACE INTO mqtt_queued (sequence, client, topic, payload, qos, packet, released)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)",
            params![
                number(*sequence),
                client,
                message.topic,
                &*message.payload,
                qos.number(),
                sent.map(PacketId::get),
                released
            ],
        ),
        Change::Sent { sequence, id, .. } => run(
            "UPDATE mqtt_queued SET packet = ?2 WHERE sequence = ?1",
            params![number(*sequence), id.get()],
        ),
        Change::Released { sequence } => run(
            "UPDATE mqtt_queued SET released = 1, payload = x'' WHERE sequence = ?1",
            params![number(*sequence)],
        ),
        Change::Done { sequence, .. } => {
            run("DELETE FROM mqtt_queued WHERE sequence = ?1", params![number(*sequence)])
        }
        Change::Received { client, id } => run(
            "INSERT OR IGNORE INTO mqtt_received (client, packet) VALUES (?1, ?2)",
            params![client, id.get()],
        ),
        Change::Completed { client, id } => {
            run("DELETE FROM mqtt_received WHERE client = ?1 AND packet = ?2", params![client, id.get()])
        }
    }
}

/// Filters that the cloud asked for, beside those that edgecore always listens to.
pub(super) fn wanted(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT filter FROM bus_filter ORDER BY filter")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// Adds or removes one of those.
pub(super) fn want(connection: &Connection, filter: &str, is_wanted: bool) -> rusqlite::Result<()> {
    let sql = if is_wanted {
        "INSERT OR IGNORE INTO bus_filter (filter) VALUES (?1)"
    } else {
        "DELETE FROM bus_filter WHERE filter = ?1"
    };
    connection.execute(sql, params![filter]).map(|_| ())
}

fn number(sequence: u64) -> i64 {
    i64::try_from(sequence).unwrap_or(i64::MAX)
}

fn text(row: &Row<'_>, column: usize) -> rusqlite::Result<Arc<str>> {
    row.get(column)
}

fn message(row: &Row<'_>, first: usize) -> rusqlite::Result<Message> {
    let payload: Vec<u8> = row.get(first + 1)?;
    Ok(Message { topic: text(row, first)?, payload: Bytes::from(payload) })
}

/// A number that is none counts as the surest.
fn qos(row: &Row<'_>, column: usize) -> rusqlite::Result<Qos> {
    Ok(Qos::from_number(row.get(column)?).unwrap_or(Qos::AtLeastOnce))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Db, Synchronous};

    #[tokio::test]
    async fn what_was_stored_comes_back_and_what_is_gone_does_not() {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("e.db"), Synchronous::Full).unwrap();
        let message = |payload: &'static str| Message { topic: "a/b".into(), payload: payload.into() };
        let client = |name: &str| Arc::<str>::from(name);
        let id = |number| PacketId::new(number).unwrap();
        let queued = |sequence, sent, released, payload| Change::Queued {
            client: client("x"),
            sequence,
            message: message(payload),
            qos: Qos::ExactlyOnce,
            sent,
            released,
        };
        let session = |name| Change::Session { client: client(name) };
        let subscription =
            |filter: &str, qos| Change::Subscription { client: client("x"), filter: filter.into(), qos };
        let check = async |changes: Vec<Change>, expected: Vec<Change>| {
            let stored = db
                .call(move |connection| {
                    let transaction = connection.transaction()?;
                    apply(&transaction, &changes)?;
                    transaction.commit()?;
                    load(connection)
                })
                .await
                .unwrap();
            assert_eq!(stored, expected);
        };
        let retained = Change::Retained { message: message("new"), qos: Qos::AtLeastOnce };
        let received = Change::Received { client: client("x"), id: id(65_535) };
        let done = |sequence| Change::Done { sequence, qos: Qos::ExactlyOnce };
        check(
            vec![
                session("x"),
                session("y"),
                subscription("#", Qos::AtMostOnce),
                subscription("a", Qos::AtLeastOnce),
                subscription("#", Qos::ExactlyOnce),
                Change::SubscriptionGone { client: client("x"), filter: "a".into() },
                Change::Retained { message: message("old"), qos: Qos::AtMostOnce },
                retained.clone(),
                queued(1, None, false, "1"),
                queued(2, Some(id(9)), false, "2"),
                queued(3, None, false, "3"),
                queued(4, None, false, "4"),
                done(1),
                Change::Released { sequence: 2 },
                Change::Sent { sequence: 3, id: id(10), qos: Qos::ExactlyOnce },
                received.clone(),
                Change::Received { client: client("x"), id: id(5) },
                Change::Completed { client: client("x"), id: id(5) },
            ],
            vec![
                session("x"),
                session("y"),
                subscription("#", Qos::ExactlyOnce),
                retained,
                queued(2, Some(id(9)), true, ""),
                queued(3, Some(id(10)), false, "3"),
                queued(4, None, false, "4"),
                received,
            ],
        )
        .await;
        check(
            vec![Change::SessionGone { client: client("x") }, Change::RetainedGone { topic: "a/b".into() }],
            vec![session("y")],
        )
        .await;
        let filters = db.call(|connection| {
            want(connection, "b", true)?;
            want(connection, "a", true)?;
            want(connection, "b", false)?;
            wanted(connection)
        });
        assert_eq!(filters.await.unwrap(), ["a"]);
    }
}
