//! Every SQL statement about device reports.

use rusqlite::{Connection, Transaction, params};
use serde_json::Error;

use super::DeviceReport;
use super::window::Row;
use crate::event_bus::DeviceId;

/// What a row of `device_report` is. Never renumber.
const TWIN: i64 = 1;
const STATE: i64 = 2;
/// 2020-01-01. A row made "before" it was made before the clock was set, and has no age.
const CLOCK_WAS_SET: i64 = 1_577_836_800_000;

/// How much is kept while the cloud is away.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Reports at most.
    pub n_reports: u32,
    /// Age at most, seconds.
    pub age_secs: u32,
}

/// Keeps reports in order, within the caller's transaction. Beyond the limits the oldest go; says how many went.
pub fn keep(
    transaction: &Transaction<'_>,
    reports: &[DeviceReport],
    limits: Limits,
    now_ms: i64,
) -> rusqlite::Result<usize> {
    if reports.is_empty() {
        return Ok(0);
    }
    let mut insert = transaction.prepare_cached(
        "INSERT INTO device_report (namespace, name, sort, made_ms, body) VALUES (?1, ?2, ?3, ?4, ?5)",
    )?;
    for report in reports {
        let (sort, device, body) = match report {
            DeviceReport::Twin(device, report) => (TWIN, device, serde_json::to_vec(report)),
            DeviceReport::State(device, report) => (STATE, device, serde_json::to_vec(report)),
        };
        let body = body.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
        insert.execute(params![device.namespace.as_str(), device.name.as_str(), sort, now_ms, body])?;
    }
    let newest = transaction.last_insert_rowid();
    let beyond = transaction
        .prepare_cached("DELETE FROM device_report WHERE sequence <= ?1")?
        .execute([newest - i64::from(limits.n_reports)])?;
    let oldest = now_ms - i64::from(limits.age_secs) * 1000;
    let is_old = |made: &i64| (CLOCK_WAS_SET..=oldest).contains(made);
    let first = transaction
        .prepare_cached("SELECT made_ms FROM device_report ORDER BY sequence LIMIT 1")?
        .query_row([], |row| row.get::<_, i64>(0))?;
    if !is_old(&first) {
        return Ok(beyond);
    }
    // Rows are in the order of their making: the first that is young enough ends the search.
    let old = transaction
        .prepare_cached(
            "DELETE FROM device_report WHERE sequence <
             (SELECT sequence FROM device_report WHERE made_ms > ?1 ORDER BY sequence LIMIT 1)",
        )?
        .execute([oldest])?;
    Ok(beyond + old)
}

/// Rows after `after`, oldest first.
pub(super) fn page(connection: &Connection, after: i64, limit: usize) -> rusqlite::Result<Vec<Row>> {
    let mut statement = connection.prepare_cached(
        "SELECT sequence, namespace, name, sort, body FROM device_report WHERE sequence > ?1 ORDER BY sequence LIMIT ?2",
    )?;
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut rows = statement.query([after, limit])?;
    let mut page = Vec::new();
    while let Some(row) = rows.next()? {
        let (sequence, sort): (i64, i64) = (row.get(0)?, row.get(3)?);
        let (namespace, name): (String, String) = (row.get(1)?, row.get(2)?);
        let body: Vec<u8> = row.get(4)?;
        let device = namespace.parse().ok().zip(name.parse().ok());
        let report =
            device.and_then(|(namespace, name)| read(DeviceId { namespace, name }, sort, &body).ok()?);
        page.push(Row { sequence, report });
    }
    Ok(page)
}

fn read(device: DeviceId, sort: i64, body: &[u8]) -> Result<Option<DeviceReport>, Error> {
    Ok(match sort {
        TWIN => Some(DeviceReport::Twin(device, serde_json::from_slice(body)?)),
        STATE => Some(DeviceReport::State(device, serde_json::from_slice(body)?)),
        _ => None,
    })
}

/// Strikes out what the cloud has.
pub(super) fn strike_out(connection: &mut Connection, sequences: &[i64]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut delete = transaction.prepare_cached("DELETE FROM device_report WHERE sequence = ?1")?;
        for sequence in sequences {
            delete.execute([sequence])?;
        }
    }
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use ke_wire::{DeviceState, StateReport};

    use super::*;
    use crate::db::{Db, Synchronous};

    const NOW: i64 = 1_800_000_000_000;
    const DAY: i64 = 86_400_000;

    fn state(n: i64) -> DeviceReport {
        let device = DeviceId { namespace: "plant".parse().unwrap(), name: "oven".parse().unwrap() };
        let device_state =
            DeviceState { name: "oven".into(), state: "online".into(), ..DeviceState::default() };
        DeviceReport::State(
            device,
            StateReport { event_id: String::new(), timestamp: n, device: device_state },
        )
    }

    #[tokio::test]
    async fn reports_survive_a_restart_in_order_within_their_limits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.db");
        let limits = Limits { n_reports: 3, age_secs: 86_400 };
        let add = |db: Db, reports: Vec<DeviceReport>, now: i64| async move {
            db.call(move |connection| {
                let transaction = connection.transaction()?;
                let n_dropped = keep(&transaction, &reports, limits, now)?;
                transaction.commit()?;
                Ok(n_dropped)
            })
            .await
            .unwrap()
        };
        let held = |db: Db| async move {
            let rows = db.call(|connection| page(connection, 0, 10)).await.unwrap();
            rows.into_iter().map(|row| row.report.unwrap()).collect::<Vec<_>>()
        };
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        assert_eq!(add(db.clone(), vec![state(1), state(2)], NOW).await, 0);
        drop(db);
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        assert_eq!(add(db.clone(), vec![state(3), state(4)], NOW).await, 1, "the oldest goes for the newest");
        assert_eq!(held(db.clone()).await, [state(2), state(3), state(4)]);
        assert_eq!(add(db.clone(), vec![state(5)], NOW + 2 * DAY).await, 3, "one by number, two by age");
        assert_eq!(held(db.clone()).await, [state(5)]);
        let first = db.call(|connection| page(connection, 0, 10)).await.unwrap()[0].sequence;
        db.call(move |connection| strike_out(connection, &[first])).await.unwrap();
        assert!(held(db.clone()).await.is_empty());
        // A clock that was not set: nothing is old.
        assert_eq!(add(db.clone(), vec![state(6)], 1000).await, 0);
        assert_eq!(add(db.clone(), vec![state(7)], NOW).await, 0);
        assert_eq!(held(db).await, [state(6), state(7)]);
    }
}
