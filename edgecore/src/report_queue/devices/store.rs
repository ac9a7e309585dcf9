//! Every SQL statement about device reports.

use std::collections::HashMap;
use std::collections::hash_map::Entry;

use ke_wire::DeviceId;
use rusqlite::{Connection, Transaction, params};
use serde_json::Error;

use super::DeviceReport;
use super::window::Row;

/// What a row of `device_report` is. Never renumber.
const TWIN: i64 = 1;
const STATE: i64 = 2;
/// 2020-01-01. A row made "before" it was made before the clock was set, and has no age.
const CLOCK_WAS_SET: i64 = 1_577_836_800_000;
/// Rows that one fold takes into memory.
const FOLDED_AT_ONCE: i64 = 1024;

/// How much is kept while the cloud is away.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Reports at most.
    pub n_reports: u32,
    /// Age at most, seconds.
    pub age_secs: u32,
}

/// Keeps reports in order, within the caller's transaction. Beyond the limits the oldest go, but of each device the newest
/// state and the newest value of each property stay: a device that says little must not lose its last word to one that
/// says much. Says how many reports went.
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
        let (device, sort) = subject(report);
        insert.execute(params![
            device.namespace.as_str(),
            device.name.as_str(),
            sort,
            now_ms,
            body(report)?
        ])?;
    }
    let newest = transaction.last_insert_rowid();
    let (first, first_made): (i64, i64) = transaction
        .prepare_cached(
            "SELECT sequence, made_ms FROM device_report WHERE sequence > 0 ORDER BY sequence LIMIT 1",
        )?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    let n_reports = i64::from(limits.n_reports);
    // Some at a time: each time costs a look at every device.
    let is_beyond = newest - first >= n_reports + n_reports / 8;
    let mut last = if is_beyond { newest - n_reports } else { 0 };
    let oldest = now_ms - i64::from(limits.age_secs) * 1000;
    if (CLOCK_WAS_SET..=oldest).contains(&first_made) {
        // Rows are in the order of their making: the first that is young enough ends the search. The newest is.
        let young: i64 = transaction
            .prepare_cached(
                "SELECT sequence FROM device_report WHERE sequence > 0 AND made_ms > ?1 ORDER BY sequence LIMIT 1",
            )?
            .query_row([oldest], |row| row.get(0))?;
        last = last.max(young - 1);
    }
    let mut n_gone = 0;
    let mut folded = first - 1;
    while folded < last {
        folded = last.min(folded + FOLDED_AT_ONCE);
        n_gone += fold(transaction, folded)?;
    }
    Ok(n_gone)
}

/// Makes one row of all that a device said up to this sequence. Its number is below zero: it goes before all others. Says how
/// many rows fewer there are.
fn fold(transaction: &Transaction<'_>, last: i64) -> rusqlite::Result<usize> {
    let mut newest: HashMap<(DeviceId, i64), (i64, i64, DeviceReport)> = HashMap::new();
    let mut select = transaction.prepare_cached(
        "SELECT sequence, namespace, name, sort, body, made_ms FROM device_report WHERE sequence <= ?1 ORDER BY sequence",
    )?;
    let mut rows = select.query([last])?;
    while let Some(row) = rows.next()? {
        // What cannot be read goes.
        let Row { sequence, report: Some(report) } = read_row(row)? else { continue };
        let made: i64 = row.get(5)?;
        let (device, sort) = subject(&report);
        match newest.entry((device.clone(), sort)) {
            Entry::Vacant(room) => drop(room.insert((sequence, made, report))),
            Entry::Occupied(mut before) => {
                let (at, at_ms, before) = before.get_mut();
                (*at, *at_ms) = (sequence, made);
                match (before, report) {
                    (DeviceReport::Twin(_, before), DeviceReport::Twin(_, more)) => {
                        before.timestamp = more.timestamp;
                        before.twin.extend(more.twin);
                    }
                    (before, report) => *before = report,
                }
            }
        }
    }
    let n_before =
        transaction.prepare_cached("DELETE FROM device_report WHERE sequence <= ?1")?.execute([last])?;
    let mut insert = transaction.prepare_cached(
        "INSERT INTO device_report (sequence, namespace, name, sort, made_ms, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
    )?;
    for ((device, sort), (sequence, made, report)) in &newest {
        let (namespace, name) = (device.namespace.as_str(), device.name.as_str());
        insert.execute(params![-sequence.abs(), namespace, name, sort, made, body(report)?])?;
    }
    Ok(n_before.saturating_sub(newest.len()))
}

fn subject(report: &DeviceReport) -> (&DeviceId, i64) {
    match report {
        DeviceReport::Twin(device, _) => (device, TWIN),
        DeviceReport::State(device, _) => (device, STATE),
    }
}

fn body(report: &DeviceReport) -> rusqlite::Result<Vec<u8>> {
    let body = match report {
        DeviceReport::Twin(_, report) => serde_json::to_vec(report),
        DeviceReport::State(_, report) => serde_json::to_vec(report),
    };
    body.map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))
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
        page.push(read_row(row)?);
    }
    Ok(page)
}

/// Whether there are rows that `fold` made.
pub(super) fn has_folded(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM device_report WHERE sequence < 0 LIMIT 1")?.exists([])
}

/// Of `sequence, namespace, name, sort, body`.
fn read_row(row: &rusqlite::Row<'_>) -> rusqlite::Result<Row> {
    let (sequence, sort): (i64, i64) = (row.get(0)?, row.get(3)?);
    let (namespace, name): (String, String) = (row.get(1)?, row.get(2)?);
    let body: Vec<u8> = row.get(4)?;
    let device = namespace.parse().ok().zip(name.parse().ok());
    let report = device.and_then(|(namespace, name)| read(DeviceId { namespace, name }, sort, &body).ok()?);
    Ok(Row { sequence, report })
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
    use ke_wire::{DeviceState, StateReport, TwinProperty, TwinReport, TwinValue};

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
            let rows = db.call(|connection| page(connection, i64::MIN, 10)).await.unwrap();
            rows.into_iter().map(|row| row.report.unwrap()).collect::<Vec<_>>()
        };
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        assert_eq!(add(db.clone(), vec![state(1), state(2)], NOW).await, 0);
        drop(db);
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        assert_eq!(
            add(db.clone(), vec![state(3), state(4)], NOW).await,
            0,
            "the last word of what is beyond"
        );
        assert_eq!(held(db.clone()).await, [state(1), state(2), state(3), state(4)]);
        assert_eq!(add(db.clone(), vec![state(5)], NOW).await, 1);
        assert_eq!(held(db.clone()).await, [state(2), state(3), state(4), state(5)]);
        assert_eq!(add(db.clone(), vec![state(6)], NOW + 2 * DAY).await, 3, "by age");
        assert_eq!(held(db.clone()).await, [state(5), state(6)]);
        assert!(db.call(|connection| has_folded(connection)).await.unwrap());
        let all = db.call(|connection| page(connection, i64::MIN, 10)).await.unwrap();
        let all: Vec<i64> = all.into_iter().map(|row| row.sequence).collect();
        db.call(move |connection| strike_out(connection, &all)).await.unwrap();
        assert!(!db.call(|connection| has_folded(connection)).await.unwrap());
        assert!(held(db.clone()).await.is_empty());
        // A clock that was not set: nothing is old.
        assert_eq!(add(db.clone(), vec![state(7)], 1000).await, 0);
        assert_eq!(add(db.clone(), vec![state(8)], NOW).await, 0);
        assert_eq!(held(db).await, [state(7), state(8)]);
    }

    #[tokio::test]
    async fn a_quiet_device_keeps_its_last_word() {
        let of = |name: &str| DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() };
        let twin = |name: &str, property: &str, n: i64| {
            let value = TwinValue { value: Some(n.to_string()), metadata: None };
            let property_twin = TwinProperty { actual: Some(value), ..TwinProperty::default() };
            let twin = [(property.to_owned(), Some(property_twin))].into();
            DeviceReport::Twin(of(name), TwinReport { event_id: String::new(), timestamp: n, twin })
        };
        let offline = || {
            let DeviceReport::State(_, report) = state(1) else { unreachable!() };
            DeviceReport::State(of("quiet"), report)
        };
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("e.db"), Synchronous::Full).unwrap();
        let limits = Limits { n_reports: 4, age_secs: 86_400 };
        let mut reports =
            vec![twin("quiet", "a", 1), twin("quiet", "b", 2), twin("quiet", "a", 3), offline()];
        reports.extend((4..3000).map(|n| twin("noisy", "x", n)));
        let rows = db
            .call(move |connection| {
                let transaction = connection.transaction()?;
                for report in reports {
                    keep(&transaction, &[report], limits, NOW)?;
                }
                transaction.commit()?;
                page(connection, i64::MIN, 100)
            })
            .await
            .unwrap();
        let told = |row: &Row| match row.report.as_ref().unwrap() {
            DeviceReport::State(device, report) => format!("{} {}", device.name, report.device.state),
            DeviceReport::Twin(device, report) => {
                let value = |twin: &TwinProperty| twin.actual.clone().unwrap().value.unwrap();
                let twin = report
                    .twin
                    .iter()
                    .map(|(name, twin)| format!("{name}={}", value(twin.as_ref().unwrap())));
                format!("{} {}", device.name, twin.collect::<Vec<_>>().join(" "))
            }
        };
        let (mut folded, rest): (Vec<Row>, Vec<Row>) = rows.into_iter().partition(|row| row.sequence < 0);
        folded.sort_by_key(|row| told(row));
        let folded: Vec<String> = folded.iter().map(told).collect();
        assert_eq!(folded, ["noisy x=2995", "quiet a=3 b=2", "quiet online"]);
        let rest: Vec<String> = rest.iter().map(told).collect();
        assert_eq!(rest, ["noisy x=2996", "noisy x=2997", "noisy x=2998", "noisy x=2999"]);
    }
}
