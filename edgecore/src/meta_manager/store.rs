//! Every SQL statement about objects and tokens. Called on the store's thread only; decides nothing but staleness.

use bytes::Bytes;
use ke_wire::{Delete, Kind, ObjectKey, Put, Scope, Uid, Version};
use rusqlite::{Connection, OptionalExtension, params};

/// What applying a change did. All of these are acknowledged: the node holds what the cloud wants, or newer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// The store holds it now.
    Stored,
    /// This version or a newer one of the same object was held already.
    Stale,
    /// It is gone now.
    Removed,
    /// It was not held, or one of the same name but another uid is, which stays.
    NotHeld,
}

/// An object as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Which object.
    pub key: ObjectKey,
    /// Its uid; empty when the peer did not say.
    pub uid: String,
    /// Its version.
    pub version: Version,
    /// Kubernetes JSON.
    pub body: Bytes,
}

/// Upserts one object unless this version or a newer one of the same uid is held.
/// In: `uid` from `metadata.uid` of the body. A new uid replaces whatever version was held: versions of two objects
/// are comparable, but the old object is gone.
pub(super) fn put(connection: &Connection, put: &Put, uid: &str) -> Result<Applied, rusqlite::Error> {
    let (kind, scope, name) = columns(&put.key);
    let held: Option<(String, i64)> = connection
        .prepare_cached("SELECT uid, version FROM object WHERE kind = ?1 AND scope = ?2 AND name = ?3")?
        .query_row(params![kind, scope, name], |row| Ok((row.get(0)?, row.get(1)?)))
        .optional()?;
    if let Some((held_uid, held_version)) = held {
        let held_version = Version::new(held_version.cast_unsigned());
        // Versions grow cluster-wide, so an older version of another uid is an object that was replaced since.
        let same = held_uid == uid;
        if (same && !put.version.is_newer_than(held_version))
            || (!same && !uid.is_empty() && held_version.is_newer_than(put.version))
        {
            return Ok(Applied::Stale);
        }
    }
    connection
        .prepare_cached(
            "INSERT INTO object (kind, scope, name, uid, version, body) VALUES (?1, ?2, ?3, ?4, ?5, ?6)
             ON CONFLICT DO UPDATE SET uid = excluded.uid, version = excluded.version, body = excluded.body",
        )?
        .execute(params![kind, scope, name, uid, put.version.number().cast_signed(), &put.body[..]])?;
    Ok(Applied::Stored)
}

/// Holds an object that has no versions: the last one counts. One that says the same is not written.
pub(super) fn replace(connection: &Connection, key: &ObjectKey, body: &[u8]) -> Result<(), rusqlite::Error> {
    let (kind, scope, name) = columns(key);
    connection
        .prepare_cached(
            "INSERT INTO object (kind, scope, name, uid, version, body) VALUES (?1, ?2, ?3, '', 0, ?4)
             ON CONFLICT DO UPDATE SET body = excluded.body WHERE body <> excluded.body",
        )?
        .execute(params![kind, scope, name, body])
        .map(|_| ())
}

/// Removes one object if it is the one meant.
pub(super) fn delete(connection: &Connection, delete: &Delete) -> Result<Applied, rusqlite::Error> {
    let (kind, scope, name) = columns(&delete.key);
    let uid = delete.uid.as_ref().map_or("", Uid::as_str);
    let gone = connection
        .prepare_cached(
            "DELETE FROM object WHERE kind = ?1 AND scope = ?2 AND name = ?3 AND (?4 = '' OR uid = ?4 OR uid = '')",
        )?
        .execute(params![kind, scope, name, uid])?;
    if delete.key.kind == Kind::Pod && !uid.is_empty() {
        connection.prepare_cached("DELETE FROM token WHERE pod_uid = ?1")?.execute([uid])?;
    }
    Ok(if gone > 0 { Applied::Removed } else { Applied::NotHeld })
}

/// The object of this key.
pub(super) fn get(connection: &Connection, key: &ObjectKey) -> Result<Option<Held>, rusqlite::Error> {
    let (kind, scope, name) = columns(key);
    connection
        .prepare_cached("SELECT uid, version, body FROM object WHERE kind = ?1 AND scope = ?2 AND name = ?3")?
        .query_row(params![kind, scope, name], |row| {
            let version: i64 = row.get(1)?;
            let body: Vec<u8> = row.get(2)?;
            Ok(Held {
                key: key.clone(),
                uid: row.get(0)?,
                version: Version::new(version.cast_unsigned()),
                body: body.into(),
            })
        })
        .optional()
}

/// All objects of one kind. A row whose key is no longer valid text is left out; it was written by nobody of ours.
pub(super) fn list(connection: &Connection, kind: &Kind) -> Result<Vec<Held>, rusqlite::Error> {
    let mut statement =
        connection.prepare_cached("SELECT scope, name, uid, version, body FROM object WHERE kind = ?1")?;
    let rows = statement.query_map([kind.as_str()], |row| {
        let (scope, name): (String, String) = (row.get(0)?, row.get(1)?);
        let version: i64 = row.get(3)?;
        let body: Vec<u8> = row.get(4)?;
        let key = match (scope.parse::<Scope>(), name.parse()) {
            (Ok(scope), Ok(name)) => ObjectKey { kind: kind.clone(), scope, name },
            _ => return Ok(None),
        };
        Ok(Some(Held {
            key,
            uid: row.get(2)?,
            version: Version::new(version.cast_unsigned()),
            body: body.into(),
        }))
    })?;
    rows.filter_map(Result::transpose).collect()
}

/// The kinds of which there are objects.
pub(super) fn kinds(connection: &Connection) -> Result<Vec<Kind>, rusqlite::Error> {
    let mut statement = connection.prepare_cached("SELECT DISTINCT kind FROM object ORDER BY kind")?;
    let kinds = statement.query_map([], |row| row.get::<_, String>(0))?;
    kinds.filter_map(|kind| kind.map(|kind| kind.parse().ok()).transpose()).collect()
}

/// Every token's answer.
pub(super) fn token_bodies(connection: &Connection) -> Result<Vec<Vec<u8>>, rusqlite::Error> {
    connection.prepare_cached("SELECT body FROM token")?.query_map([], |row| row.get(0))?.collect()
}

/// Keeps a token. `request` is the canonical text of what was asked; `obtained_at` Unix seconds of this machine.
pub(super) fn keep_token(connection: &Connection, token: &HeldToken) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("INSERT OR REPLACE INTO token VALUES (?1, ?2, ?3, ?4, ?5, ?6)")?
        .execute(params![
            token.namespace,
            token.account,
            token.request,
            token.pod_uid,
            token.obtained_at,
            &token.body[..]
        ])
        .map(|_| ())
}

/// A token as the store holds it.
#[derive(Clone)]
pub(super) struct HeldToken {
    /// Namespace of the service account.
    pub(super) namespace: String,
    /// Its name.
    pub(super) account: String,
    /// Canonical text of the request.
    pub(super) request: String,
    /// Uid of the Pod it is bound to; it goes with it.
    pub(super) pod_uid: String,
    /// Unix seconds of this machine's clock.
    pub(super) obtained_at: i64,
    /// The answered `TokenRequest` as Kubernetes JSON.
    pub(super) body: Bytes,
}

/// The token kept for this request.
pub(super) fn token(
    connection: &Connection,
    namespace: &str,
    account: &str,
    request: &str,
) -> Result<Option<(i64, Bytes)>, rusqlite::Error> {
    connection
        .prepare_cached(
            "SELECT obtained_at, body FROM token WHERE namespace = ?1 AND account = ?2 AND request = ?3",
        )?
        .query_row([namespace, account, request], |row| {
            let body: Vec<u8> = row.get(1)?;
            Ok((row.get(0)?, body.into()))
        })
        .optional()
}

fn columns(key: &ObjectKey) -> (String, String, &str) {
    (key.kind.as_str().to_owned(), key.scope.to_string(), key.name.as_str())
}

/// Whether the cloud once had the time to say all that this store should hold.
pub(super) fn is_refilled(connection: &Connection) -> rusqlite::Result<bool> {
    connection.prepare_cached("SELECT 1 FROM fact WHERE name = 'refilled'")?.exists([])
}

/// From now on what the store does not hold is not wanted.
pub(super) fn note_refilled(connection: &Connection) -> rusqlite::Result<()> {
    connection.execute("INSERT OR IGNORE INTO fact VALUES ('refilled')", []).map(|_| ())
}

#[cfg(test)]
mod tests {
    use ke_wire::{Change, MessageId, Origin};

    use super::*;
    use crate::db::{Db, Synchronous};

    fn put_of(name: &str, version: u64) -> Put {
        Put {
            id: MessageId::fresh(),
            key: format!("default/configmap/{name}").parse().unwrap(),
            version: Version::new(version),
            change: Change::Updated,
            origin: Origin::EdgeController,
            body: Bytes::from(format!("{{\"v\":{version}}}")),
        }
    }

    fn delete_of(name: &str, uid: &str) -> Delete {
        Delete {
            id: MessageId::fresh(),
            key: format!("default/configmap/{name}").parse().unwrap(),
            uid: uid.parse().ok(),
            version: None,
            origin: Origin::EdgeController,
            body: Bytes::new(),
        }
    }

    #[tokio::test]
    async fn versions_only_grow_and_deletes_meet_their_uid() {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("e.db"), Synchronous::Full).unwrap();
        db.call(|c| {
            let check = |got: Result<Applied, _>, expected| assert_eq!(got.unwrap(), expected);
            check(put(c, &put_of("a", 5), "u1"), Applied::Stored);
            check(put(c, &put_of("a", 5), "u1"), Applied::Stale);
            check(put(c, &put_of("a", 4), "u1"), Applied::Stale);
            check(put(c, &put_of("a", 4), "u0"), Applied::Stale);
            check(put(c, &put_of("a", 6), "u1"), Applied::Stored);
            check(delete(c, &delete_of("a", "u9")), Applied::NotHeld);
            check(put(c, &put_of("a", 7), "u2"), Applied::Stored);
            check(delete(c, &delete_of("a", "u1")), Applied::NotHeld);
            assert_eq!(get(c, &put_of("a", 0).key)?.unwrap().version, Version::new(7));
            check(delete(c, &delete_of("a", "u2")), Applied::Removed);
            check(put(c, &put_of("b", 1), "u3"), Applied::Stored);
            check(delete(c, &delete_of("b", "")), Applied::Removed);
            assert_eq!(list(c, &Kind::ConfigMap)?, vec![]);
            let services = "shop/servicelist/all".parse().unwrap();
            for (body, n_written) in [("a", 1), ("a", 0), ("b", 1)] {
                let before = c.total_changes();
                replace(c, &services, body.as_bytes())?;
                assert_eq!(get(c, &services)?.unwrap().body, body);
                assert_eq!(c.total_changes() - before, n_written, "{body}");
            }
            Ok(())
        })
        .await
        .unwrap();
    }
}
