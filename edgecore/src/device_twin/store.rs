//! Every SQL statement about devices, their twins and their mappers.
//!
//! Devices come from the cloud (`membership`, or the stored Device objects); twins from reports. Called by `mod.rs`, one
//! transaction for each change, so that what was answered is on disk.

use std::collections::BTreeMap;

use ke_wire::{DeviceId, TwinVersion};
use rusqlite::{Connection, Row, Transaction, params};

use super::catalogue::{Digest, Key};
use super::merge::{Half, Property, Twin};
use super::record::{Known, Registered, Row as Change};

/// Every device of this node with its twin.
pub(super) fn all(connection: &Connection) -> rusqlite::Result<BTreeMap<DeviceId, (Known, Twin)>> {
    let mut devices = BTreeMap::new();
    let mut statement =
        connection.prepare("SELECT namespace, name, description, state, last_online, before FROM device")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let known = Known {
            description: row.get(2)?,
            state: row.get(3)?,
            last_online: row.get(4)?,
            before: row.get(5)?,
        };
        // A row that is no valid name any more helps nobody.
        if let Some(id) = id(row)? {
            devices.insert(id, (known, Twin::new()));
        }
    }
    let mut statement = connection.prepare(
        "SELECT namespace, name, property, optional, kind, expected, expected_at, expected_cloud, expected_edge,
                actual, actual_at, actual_cloud, actual_edge FROM device_twin",
    )?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let property = Property {
            optional: row.get(3)?,
            kind: row.get(4)?,
            expected: half(row, 5)?,
            actual: half(row, 9)?,
        };
        if let Some((_, twin)) = id(row)?.and_then(|id| devices.get_mut(&id)) {
            twin.insert(row.get(2)?, property);
        }
    }
    Ok(devices)
}

/// Keeps one change of a batch.
pub(super) fn keep(transaction: &Transaction<'_>, change: &Change) -> rusqlite::Result<()> {
    match change {
        Change::Add(id, description) => add(transaction, id, description),
        Change::Remove(id) => remove(transaction, id),
        Change::State(id, known) => set_state(transaction, id, known),
        Change::Twin(id, rows) => put(transaction, id, rows),
        Change::Forget(id, properties) => forget(transaction, id, properties),
    }
}

/// What a row of `mapper_holds` is. Never renumber; models sort before devices.
fn sort_of(key: &Key) -> (i64, &DeviceId) {
    match key {
        Key::Model(id) => (1, id),
        Key::Device(id) => (2, id),
    }
}

/// Mappers that registered.
pub(super) fn mappers(connection: &Connection) -> rusqlite::Result<Vec<Registered>> {
    let mut statement =
        connection.prepare("SELECT protocol, name, version, api_version, address FROM mapper")?;
    let rows = statement.query_map([], |row| {
        Ok(Registered {
            protocol: row.get(0)?,
            name: row.get(1)?,
            version: row.get(2)?,
            api_version: row.get(3)?,
            address: row.get::<_, String>(4)?.into(),
        })
    })?;
    rows.collect()
}

/// What the mapper of this protocol has taken.
pub(super) fn held(connection: &Connection, protocol: &str) -> rusqlite::Result<BTreeMap<Key, Digest>> {
    let mut statement =
        connection.prepare("SELECT namespace, name, sort, digest FROM mapper_holds WHERE protocol = ?1")?;
    let mut rows = statement.query([protocol])?;
    let mut held = BTreeMap::new();
    while let Some(row) = rows.next()? {
        let key = match (id(row)?, row.get(2)?) {
            (Some(id), 1) => Key::Model(id),
            (Some(id), 2) => Key::Device(id),
            _ => continue,
        };
        held.insert(key, row.get(3)?);
    }
    Ok(held)
}

/// A mapper registered: it replaces those of its protocol, its name and its socket, and holds what it was answered.
pub(super) fn register(
    connection: &mut Connection,
    mapper: &Registered,
    held: &BTreeMap<Key, Digest>,
) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    transaction.execute(
        "DELETE FROM mapper WHERE name = ?1 OR protocol = ?2 OR address = ?3",
        params![mapper.name, mapper.protocol, mapper.address.to_string_lossy()],
    )?;
    transaction.execute(
        "INSERT INTO mapper (protocol, name, version, api_version, address) VALUES (?1, ?2, ?3, ?4, ?5)",
        params![
            mapper.protocol,
            mapper.name,
            mapper.version,
            mapper.api_version,
            mapper.address.to_string_lossy()
        ],
    )?;
    transaction.execute("DELETE FROM mapper_holds WHERE protocol = ?1", [&mapper.protocol])?;
    for (key, digest) in held {
        set_held(&transaction, &mapper.protocol, key, Some(*digest))?;
    }
    transaction.commit()
}

/// A mapper took a change; `None`: it holds this no longer, or nobody knows in which form.
pub(super) fn note_held(
    connection: &mut Connection,
    protocol: &str,
    key: &Key,
    digest: Option<Digest>,
) -> rusqlite::Result<()> {
    set_held(connection, protocol, key, digest)
}

fn set_held(
    connection: &Connection,
    protocol: &str,
    key: &Key,
    digest: Option<Digest>,
) -> rusqlite::Result<()> {
    let (sort, id) = sort_of(key);
    let (namespace, name) = (id.namespace.as_str(), id.name.as_str());
    match digest {
        Some(digest) => connection
            .prepare_cached("INSERT OR REPLACE INTO mapper_holds (protocol, sort, namespace, name, digest) VALUES (?1, ?2, ?3, ?4, ?5)")?
            .execute(params![protocol, sort, namespace, name, digest]),
        None => connection
            .prepare_cached("DELETE FROM mapper_holds WHERE protocol = ?1 AND sort = ?2 AND namespace = ?3 AND name = ?4")?
            .execute(params![protocol, sort, namespace, name]),
    }
    .map(|_| ())
}

/// Adds a device, or refreshes its description; its twin and state stay.
fn add(transaction: &Transaction<'_>, id: &DeviceId, description: &str) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO device (namespace, name, description, state, last_online) VALUES (?1, ?2, ?3, '', '')
             ON CONFLICT (namespace, name) DO UPDATE SET description = excluded.description",
        )?
        .execute(params![id.namespace.as_str(), id.name.as_str(), description])
        .map(|_| ())
}

/// Removes a device and its twin.
fn remove(transaction: &Transaction<'_>, id: &DeviceId) -> rusqlite::Result<()> {
    for table in ["device_twin", "device"] {
        transaction.execute(
            &format!("DELETE FROM {table} WHERE namespace = ?1 AND name = ?2"),
            params![id.namespace.as_str(), id.name.as_str()],
        )?;
    }
    Ok(())
}

fn forget(transaction: &Transaction<'_>, id: &DeviceId, properties: &[String]) -> rusqlite::Result<()> {
    let mut delete = transaction
        .prepare_cached("DELETE FROM device_twin WHERE namespace = ?1 AND name = ?2 AND property = ?3")?;
    for property in properties {
        delete.execute(params![id.namespace.as_str(), id.name.as_str(), property])?;
    }
    Ok(())
}

/// Keeps a device's state.
fn set_state(transaction: &Transaction<'_>, id: &DeviceId, known: &Known) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "UPDATE device SET state = ?3, last_online = ?4, before = ?5 WHERE namespace = ?1 AND name = ?2",
        )?
        .execute(params![
            id.namespace.as_str(),
            id.name.as_str(),
            known.state,
            known.last_online,
            known.before
        ])
        .map(|_| ())
}

/// Keeps changed properties of one device.
fn put(transaction: &Transaction<'_>, id: &DeviceId, rows: &Twin) -> rusqlite::Result<()> {
    let mut statement = transaction.prepare_cached(
        "INSERT OR REPLACE INTO device_twin (namespace, name, property, optional, kind,
             expected, expected_at, expected_cloud, expected_edge, actual, actual_at, actual_cloud, actual_edge)
         VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13)",
    )?;
    for (name, property) in rows {
        let value = |half: &Option<Half>| half.as_ref().map(|half| half.value.clone());
        let at = |half: &Option<Half>| half.as_ref().map(|half| half.at_ms);
        let version = |half: &Option<Half>| half.as_ref().map(|half| half.version).unwrap_or_default();
        let (expected, actual) = (version(&property.expected), version(&property.actual));
        statement.execute(params![
            id.namespace.as_str(),
            id.name.as_str(),
            name,
            property.optional,
            property.kind,
            value(&property.expected),
            at(&property.expected),
            expected.cloud,
            expected.edge,
            value(&property.actual),
            at(&property.actual),
            actual.cloud,
            actual.edge,
        ])?;
    }
    Ok(())
}

fn id(row: &Row<'_>) -> rusqlite::Result<Option<DeviceId>> {
    let (namespace, name): (String, String) = (row.get(0)?, row.get(1)?);
    Ok(namespace.parse().ok().zip(name.parse().ok()).map(|(namespace, name)| DeviceId { namespace, name }))
}

/// Value, time and both versions in four columns; no value, no half.
fn half(row: &Row<'_>, first: usize) -> rusqlite::Result<Option<Half>> {
    let Some(value) = row.get::<_, Option<String>>(first)? else { return Ok(None) };
    let version = TwinVersion { cloud: row.get(first + 2)?, edge: row.get(first + 3)? };
    Ok(Some(Half { value, at_ms: row.get::<_, Option<i64>>(first + 1)?.unwrap_or(0), version }))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::merge::{self, Alphabet};
    use super::*;
    use crate::db::{Db, Synchronous};

    #[tokio::test]
    async fn devices_and_twins_survive_a_restart() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.db");
        let id = DeviceId { namespace: "plant".parse().unwrap(), name: "oven-1".parse().unwrap() };
        let request = serde_json::from_value(json!({
            "heat": {"actual": {"value": "25.3"}, "metadata": {"type": "float"}},
            "limit": {"expected": {"value": "20"}, "actual": {"value": "18"}, "optional": false},
        }));
        let mut twin = Twin::new();
        let merged = merge::update(&mut twin, &request.unwrap(), Alphabet::Open, 7).unwrap();
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        let of = id.clone();
        db.call(move |connection| {
            let transaction = connection.transaction()?;
            add(&transaction, &of, "hall-3")?;
            put(&transaction, &of, &merged.rows)?;
            let known = Known {
                state: "online".into(),
                last_online: "2026-01-02T03:04:05Z".into(),
                ..Known::default()
            };
            set_state(&transaction, &of, &known)?;
            // Told once more by the cloud: nothing is lost.
            add(&transaction, &of, "hall-4")?;
            transaction.commit()
        })
        .await
        .unwrap();
        drop(db);

        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        let held = db.call(|connection| all(connection)).await.unwrap();
        let (known, held_twin) = &held[&id];
        assert_eq!((known.description.as_str(), known.state.as_str()), ("hall-4", "online"));
        assert_eq!(*held_twin, twin);
        let of = id.clone();
        db.call(move |connection| {
            let transaction = connection.transaction()?;
            remove(&transaction, &of)?;
            transaction.commit()
        })
        .await
        .unwrap();
        assert!(db.call(|connection| all(connection)).await.unwrap().is_empty());
    }
}
