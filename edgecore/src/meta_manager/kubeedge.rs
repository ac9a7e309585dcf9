//! What KubeEdge's edgecore kept, read into our store: a node that was its runs its pods on, also when the cloud is away.
//!
//! Called by `main.rs` once, when the store that was found is not ours and was set aside. KubeEdge's file is only read. The
//! Node itself is left out, so that this machine registers and the cloud says everything anew.

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

/// How many objects were taken. `from`: the file that was set aside; 0 if it is not KubeEdge's.
pub async fn import(db: &Db, from: &Path) -> Result<usize, DbError> {
    let puts = read(from)?;
    db.call(move |connection| {
        let transaction = connection.transaction()?;
        for (put, uid) in &puts {
            store::put(&transaction, put, uid)?;
        }
        transaction.commit()?;
        Ok(puts.len())
    })
    .await
}

fn read(from: &Path) -> Result<Vec<(Put, String)>, DbError> {
    let connection = Connection::open_with_flags(from, OpenFlags::SQLITE_OPEN_READ_ONLY)?;
    let has_meta: bool = connection.query_row(
        "SELECT count(*) > 0 FROM sqlite_master WHERE type = 'table' AND name = 'meta'",
        [],
        |row| row.get(0),
    )?;
    if !has_meta {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare("SELECT key, value FROM meta")?;
    let rows = statement.query_map([], |row| Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?)))?;
    rows.filter_map(|row| row.map(|(key, value)| put(&key, value)).transpose()).map(|row| Ok(row?)).collect()
}

/// `None`: not for us, or nothing that can be read; the cloud will bring it.
fn put(key: &str, value: String) -> Option<(Put, String)> {
    let mut key: ObjectKey = key.parse().ok()?;
    if !KINDS.contains(&key.kind) {
        return None;
    }
    if key.kind == Kind::PersistentVolume {
        key.scope = Scope::Cluster;
    }
    let headed: Headed = typed(value.as_bytes()).ok()?;
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
    Some((put, headed.metadata.uid))
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
        assert_eq!(import(&db, &aside).await.unwrap(), 2);
        let held = |kind: Kind| db.call(move |connection| store::list(connection, &kind));
        let pods = held(Kind::Pod).await.unwrap();
        assert_eq!((pods[0].key.to_string(), pods[0].uid.as_str()), ("default/pod/web".to_owned(), "u-web"));
        assert_eq!(held(Kind::ConfigMap).await.unwrap().len(), 1);
        assert!(held(Kind::Node).await.unwrap().is_empty() && held(Kind::Secret).await.unwrap().is_empty());

        let garbage = folder.path().join("garbage");
        std::fs::write(&garbage, "no database").unwrap();
        assert!(import(&db, &garbage).await.is_err());
    }
}
