//! What KubeEdge's edgecore kept, read into our store: a node that was its runs its pods on, also when the cloud is away.
//!
//! Called by `main.rs` at every start, and done once in the life of a store: when the file that was set aside for it is
//! KubeEdge's. What is taken and that it was done is one transaction, so that a start that was cut short is made up for.
//! KubeEdge's file is only read. The Node itself is left out, so that this machine registers and the cloud says everything anew.

use std::path::Path;

use ke_wire::{Change, Kind, MessageId, ObjectKey, Origin, Put, Scope, Version};
use rusqlite::{Connection, OpenFlags};

use super::{Headed, store, typed};
use crate::db::{Db, DbError};

/// What pods and devices are made of.
const KINDS: [Kind; 7] = [
    Kind::Pod,
    Kind::ConfigMap,
    Kind::Secret,
    Kind::PersistentVolumeClaim,
    Kind::PersistentVolume,
    Kind::DeviceModel,
    Kind::Device,
];

/// Stands in the table `fact` once it was looked for something to take.
const DONE: &str = "kubeedge-was-read";

/// What was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Taken {
    /// So many objects are in our store now.
    pub n_objects: usize,
    /// So many could not be understood; the cloud will bring them.
    pub n_unreadable: usize,
}

/// `from`: the file that was set aside last. `None`: there is nothing to take, or it was taken at an earlier start.
pub async fn import(db: &Db, from: Option<&Path>) -> Result<Option<Taken>, DbError> {
    let is_done = |connection: &mut Connection| {
        let is_done: bool =
            connection
                .query_row("SELECT count(*) > 0 FROM fact WHERE name = ?1", [DONE], |row| row.get(0))?;
        // What the cloud has said since is newer.
        Ok(is_done || store::is_refilled(connection)?)
    };
    if db.call(is_done).await? {
        return Ok(None);
    }
    // One that cannot be read will not be readable the next time either.
    let found = from.map(read).transpose();
    let (error, rows) = match found {
        Ok(rows) => (None, rows.flatten()),
        Err(error) => (Some(error), None),
    };
    let taken = db
        .call(move |connection| {
            let transaction = connection.transaction()?;
            let mut taken = Taken { n_objects: 0, n_unreadable: 0 };
            for row in rows.iter().flatten() {
                match row {
                    Row::Object(put, uid) => {
                        store::put(&transaction, put, uid)?;
                        taken.n_objects += 1;
                    }
                    Row::Unreadable => taken.n_unreadable += 1,
                    Row::NotOurs => {}
                }
            }
            transaction.execute("INSERT INTO fact (name) VALUES (?1)", [DONE])?;
            transaction.commit()?;
            Ok(rows.map(|_| taken))
        })
        .await?;
    error.map_or(Ok(taken), Err)
}

enum Row {
    Object(Box<Put>, String),
    /// Of a kind that is ours to take.
    Unreadable,
    NotOurs,
}

/// `None`: it is no store of KubeEdge's.
fn read(from: &Path) -> Result<Option<Vec<Row>>, DbError> {
    let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let has_meta: bool = connection.query_row(
        "SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = 'meta'",
        [],
        |row| row.get(0),
    )?;
    if !has_meta {
        return Ok(None);
    }
    let mut statement = connection.prepare("SELECT key, value FROM meta")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    let rows: Result<Vec<Row>, _> = rows.map(|row| row.map(|(key, value)| object(&key, value))).collect();
    Ok(Some(rows?))
}

fn object(key: &str, value: String) -> Row {
    let Ok(mut key) = key.parse::<ObjectKey>() else { return Row::NotOurs };
    if !KINDS.contains(&key.kind) {
        return Row::NotOurs;
    }
    if key.kind == Kind::PersistentVolume {
        key.scope = Scope::Cluster;
    }
    let Ok(headed) = typed::<Headed>(value.as_bytes()) else { return Row::Unreadable };
    let version = headed.metadata.resource_version.parse().unwrap_or(Version::NONE);
    let id = MessageId::fresh();
    let put = Put {
        id,
        key,
        version,
        change: Change::Inserted,
        origin: Origin::EdgeController,
        body: value.into(),
    };
    Row::Object(Box::new(put), headed.metadata.uid)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::db::{Opened, Synchronous};

    #[tokio::test]
    async fn a_node_of_kubeedge_keeps_what_it_runs() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgecore.db");
        let theirs = Connection::open(&path).unwrap();
        theirs
            .execute_batch(
                "CREATE TABLE device (id TEXT PRIMARY KEY, name TEXT, description TEXT, state TEXT, last_online TEXT);
                 CREATE TABLE meta (key TEXT PRIMARY KEY, type TEXT, value TEXT);",
            )
            .unwrap();
        let object = |name: &str| {
            json!({"metadata": {"name": name, "uid": format!("u-{name}"), "resourceVersion": "7"}})
                .to_string()
        };
        let rows = [
            ("default/pod/web", object("web")),
            ("default/configmap/page", object("page")),
            ("default/podstatus/web", "{}".to_owned()),
            ("null/node/edge-1", object("edge-1")),
            ("default/secret/broken", "{".to_owned()),
            ("node/nodeID/namespace/devicemapper/m", "{}".to_owned()),
        ];
        for (key, value) in rows {
            theirs.execute("INSERT INTO meta VALUES (?1, '', ?2)", [key, &value]).unwrap();
        }
        drop(theirs);

        let (db, opened) = Db::open(&path, Synchronous::Full).unwrap();
        let Opened::SetAside(aside, _) = opened else { panic!("{opened:?}") };
        let last = crate::db::last_aside(&path);
        assert_eq!(last.as_ref(), Some(&aside));
        // A start that was cut short between the two.
        drop(db);
        let (db, opened) = Db::open(&path, Synchronous::Full).unwrap();
        assert_eq!(opened, Opened::Existing);
        let taken = import(&db, last.as_deref()).await.unwrap();
        assert_eq!(taken, Some(Taken { n_objects: 2, n_unreadable: 1 }));
        assert_eq!(import(&db, last.as_deref()).await.unwrap(), None, "once");
        let held = |kind: Kind| db.call(move |connection| store::list(connection, &kind));
        let pods = held(Kind::Pod).await.unwrap();
        assert_eq!((pods[0].key.to_string(), pods[0].uid.as_str()), ("default/pod/web".to_owned(), "u-web"));
        assert_eq!(held(Kind::ConfigMap).await.unwrap().len(), 1);
        assert!(held(Kind::Node).await.unwrap().is_empty() && held(Kind::Secret).await.unwrap().is_empty());

        let garbage = folder.path().join("garbage");
        std::fs::write(&garbage, "no database").unwrap();
        let (db, _) = Db::open(&folder.path().join("fresh.db"), Synchronous::Full).unwrap();
        assert!(import(&db, Some(&garbage)).await.is_err());
        assert_eq!(import(&db, Some(&garbage)).await.unwrap(), None, "it is not tried for ever");
        let (db, _) = Db::open(&folder.path().join("another.db"), Synchronous::Full).unwrap();
        assert_eq!(import(&db, None).await.unwrap(), None);
    }
}
