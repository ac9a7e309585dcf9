//! Every SQL statement about devices of plugins: which resources were registered, who holds what.

use rusqlite::{Connection, params};

use super::ledger::{Grant, Holder};

/// A resource was registered, now or before. Idempotent.
pub(super) fn note_resource(connection: &Connection, name: &str) -> rusqlite::Result<()> {
    connection
        .prepare_cached("INSERT OR IGNORE INTO plugin_resource (name) VALUES (?1)")?
        .execute([name])
        .map(drop)
}

pub(super) fn resources(connection: &Connection) -> rusqlite::Result<Vec<String>> {
    let mut statement = connection.prepare("SELECT name FROM plugin_resource")?;
    statement.query_map([], |row| row.get(0))?.collect()
}

/// A container holds these devices of a resource, instead of what it held.
pub(super) fn keep(connection: &Connection, holder: &Holder, grant: &Grant) -> rusqlite::Result<()> {
    let devices = serde_json::to_string(&grant.devices)
        .map_err(|error| rusqlite::Error::ToSqlConversionFailure(Box::new(error)))?;
    connection
        .prepare_cached(
            "INSERT OR REPLACE INTO plugin_grant (pod_uid, container, resource, devices, answer, boot)
             VALUES (?1, ?2, ?3, ?4, ?5, ?6)",
        )?
        .execute(params![
            holder.pod_uid,
            holder.container,
            holder.resource,
            devices,
            grant.answer,
            grant.boot
        ])
        .map(drop)
}

pub(super) fn release(connection: &Connection, pod_uid: &str) -> rusqlite::Result<()> {
    connection.prepare_cached("DELETE FROM plugin_grant WHERE pod_uid = ?1")?.execute([pod_uid]).map(drop)
}

/// Every grant. A row whose devices cannot be read is an error: to give them out twice is worse than not to start.
pub(super) fn grants(connection: &Connection) -> rusqlite::Result<Vec<(Holder, Grant)>> {
    let mut statement =
        connection.prepare("SELECT pod_uid, container, resource, devices, answer, boot FROM plugin_grant")?;
    let rows = statement.query_map([], |row| {
        let holder = Holder { pod_uid: row.get(0)?, container: row.get(1)?, resource: row.get(2)? };
        let devices: String = row.get(3)?;
        let devices = serde_json::from_str(&devices).map_err(|error| {
            rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, Box::new(error))
        })?;
        Ok((holder, Grant { devices, answer: row.get(4)?, boot: row.get(5)? }))
    })?;
    rows.collect()
}
