//! The edge's one SQLite file: opened, migrated and written by one thread.
//!
//! Every statement about objects stands in `meta_manager/store.rs`, about reports in `report_queue/store.rs`, about twins in
//! `device_twin/store.rs`, about MQTT in `event_bus/store.rs`, about plugins' devices in `device_plugin/store.rs`; this file only opens, migrates and carries closures to the thread. A commit that returned is
//! on disk (`synchronous=FULL`). A file that cannot be read is set aside under another name, never deleted, and a fresh
//! one is begun: the cloud refills it.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, oneshot};

/// Schema steps in order; `PRAGMA user_version` says how many a file has seen. Never edit one that was released.
const MIGRATIONS: &[&str] = &[
    // What the cloud wants this node to hold, and what was asked from it.
    "CREATE TABLE object (
        kind TEXT NOT NULL,
        scope TEXT NOT NULL,
        name TEXT NOT NULL,
        uid TEXT NOT NULL,
        version INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (kind, scope, name)
    ) WITHOUT ROWID;
    CREATE TABLE token (
        namespace TEXT NOT NULL,
        account TEXT NOT NULL,
        request TEXT NOT NULL,
        pod_uid TEXT NOT NULL,
        obtained_at INTEGER NOT NULL,
        body BLOB NOT NULL,
        PRIMARY KEY (namespace, account, request)
    ) WITHOUT ROWID;
    CREATE TABLE pod_status (
        uid TEXT PRIMARY KEY,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        status BLOB NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE report (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        sort INTEGER NOT NULL,
        subject TEXT NOT NULL,
        uid TEXT NOT NULL,
        body BLOB NOT NULL
    );",
    // What is known about the store itself: `refilled` once the cloud has had the time to say all that should be in it.
    "CREATE TABLE fact (name TEXT PRIMARY KEY) WITHOUT ROWID;",
    // Devices of this node and what each should be and is.
    "CREATE TABLE device (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        description TEXT NOT NULL,
        state TEXT NOT NULL,
        last_online TEXT NOT NULL,
        PRIMARY KEY (namespace, name)
    ) WITHOUT ROWID;
    CREATE TABLE device_twin (
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        property TEXT NOT NULL,
        optional INTEGER NOT NULL,
        kind TEXT NOT NULL,
        expected TEXT,
        expected_at INTEGER,
        expected_cloud INTEGER NOT NULL,
        expected_edge INTEGER NOT NULL,
        actual TEXT,
        actual_at INTEGER,
        actual_cloud INTEGER NOT NULL,
        actual_edge INTEGER NOT NULL,
        PRIMARY KEY (namespace, name, property)
    ) WITHOUT ROWID;
    -- AUTOINCREMENT: a number that was struck out is never used again.
    CREATE TABLE device_report (
        sequence INTEGER PRIMARY KEY AUTOINCREMENT,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        sort INTEGER NOT NULL,
        made_ms INTEGER NOT NULL,
        body BLOB NOT NULL
    );
    CREATE TABLE mapper (
        protocol TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        version TEXT NOT NULL,
        api_version TEXT NOT NULL,
        address TEXT NOT NULL
    ) WITHOUT ROWID;
    -- What a mapper was told last, as a digest.
    CREATE TABLE mapper_holds (
        protocol TEXT NOT NULL,
        sort INTEGER NOT NULL,
        namespace TEXT NOT NULL,
        name TEXT NOT NULL,
        digest BLOB NOT NULL,
        PRIMARY KEY (protocol, sort, namespace, name)
    ) WITHOUT ROWID;",
    // What the embedded MQTT broker has promised to its clients, and what the cloud wants to hear over MQTT.
    "CREATE TABLE mqtt_session (client TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE mqtt_subscription (
        client TEXT NOT NULL,
        filter TEXT NOT NULL,
        qos INTEGER NOT NULL,
        PRIMARY KEY (client, filter)
    ) WITHOUT ROWID;
    CREATE TABLE mqtt_retained (
        topic TEXT PRIMARY KEY,
        payload BLOB NOT NULL,
        qos INTEGER NOT NULL
    );
    CREATE TABLE mqtt_queued (
        sequence INTEGER PRIMARY KEY,
        client TEXT NOT NULL,
        topic TEXT NOT NULL,
        payload BLOB NOT NULL,
        qos INTEGER NOT NULL,
        packet INTEGER,
        released INTEGER NOT NULL
    );
    CREATE INDEX mqtt_queued_client ON mqtt_queued (client);
    CREATE TABLE mqtt_received (
        client TEXT NOT NULL,
        packet INTEGER NOT NULL,
        PRIMARY KEY (client, packet)
    ) WITHOUT ROWID;
    CREATE TABLE bus_filter (filter TEXT PRIMARY KEY) WITHOUT ROWID;",
    // What a device's state was before its mapper went away; empty while that is there.
    "ALTER TABLE device ADD COLUMN before TEXT NOT NULL DEFAULT ''",
    // Resources of device plugins, and which container holds which of their devices.
    "CREATE TABLE plugin_resource (name TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE TABLE plugin_grant (
        pod_uid TEXT NOT NULL,
        container TEXT NOT NULL,
        resource TEXT NOT NULL,
        devices TEXT NOT NULL,
        answer BLOB NOT NULL,
        boot TEXT NOT NULL,
        PRIMARY KEY (pod_uid, container, resource)
    ) WITHOUT ROWID;",
];

/// How hard a commit is pushed to the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Synchronous {
    /// A commit that returned survives a power cut. The only setting for a machine in use.
    #[default]
    Full,
    /// A commit may be lost with the power; for the test that shows that `Full` is needed.
    Off,
}

/// How opening went.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// There was no file.
    Fresh,
    /// The file was good.
    Existing,
    /// The file could not be read; it now has this name, and a fresh one was begun.
    SetAside(PathBuf, String),
}

/// Why the store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// SQLite refused.
    #[error("{doing}: {source}")]
    Sqlite {
        /// What was tried.
        doing: &'static str,
        /// SQLite's words.
        source: rusqlite::Error,
    },
    /// The file system refused.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was tried.
        doing: &'static str,
        /// With which file.
        path: PathBuf,
        /// The system's words.
        source: std::io::Error,
    },
    /// The file was written by a newer edgecore.
    #[error(
        "{0} was written by a newer edgecore (schema {1}, this one knows {2}): install that version again, or move the file away to be refilled by the cloud"
    )]
    Newer(PathBuf, usize, usize),
    /// The writer thread has ended.
    #[error("the store is closed")]
    Closed,
}

impl From<rusqlite::Error> for DbError {
    fn from(source: rusqlite::Error) -> Self {
        Self::Sqlite { doing: "use the store", source }
    }
}

/// Whether this edgecore can use the file as it is; one that is not there can be begun. Changes nothing, also while an edgecore
/// runs. Errors: it is damaged, or a newer edgecore's.
pub fn check(path: &Path) -> Result<(), DbError> {
    let doing = |doing| move |source| DbError::Sqlite { doing, source };
    if !path.exists() {
        return Ok(());
    }
    let connection = Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
        .map_err(doing("open the store"))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(doing("set the store's patience"))?;
    must_be_whole(&connection)?;
    n_migrations(&connection, path).map(drop)
}

type Job = Box<dyn FnOnce(&mut Connection) + Send>;

/// Cloneable handle to the writer thread.
#[derive(Clone, Debug)]
pub struct Db(mpsc::Sender<Job>);

impl Db {
    /// Opens or begins the file and starts its thread, which ends when the last handle is dropped.
    /// Errors: the folder cannot be made or written, or the file is a newer edgecore's.
    pub fn open(path: &Path, synchronous: Synchronous) -> Result<(Self, Opened), DbError> {
        let (connection, opened) = open_or_set_aside(path, synchronous)?;
        Ok((Self::serve(connection, path)?, opened))
    }

    /// Opens a file that another process may be writing; nothing can be changed through the handle.
    /// Errors: there is none, or it is no store of ours.
    pub fn open_read_only(path: &Path) -> Result<Self, DbError> {
        use rusqlite::OpenFlags;
        let failed = |source| DbError::File { doing: "open the store", path: path.into(), source };
        std::fs::metadata(path).map_err(failed)?;
        let doing = |doing| move |source| DbError::Sqlite { doing, source };
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(path, flags).map_err(doing("open the store"))?;
        connection.busy_timeout(Duration::from_secs(5)).map_err(doing("set the store's patience"))?;
        let done: i64 = connection
            .query_row("PRAGMA user_version", [], |row| row.get(0))
            .map_err(doing("read the store's version"))?;
        match usize::try_from(done) {
            Ok(0) | Err(_) => {
                let source =
                    std::io::Error::other("it is no store of this edgecore; KubeEdge's has another form");
                Err(failed(source))
            }
            Ok(done) if done > MIGRATIONS.len() => Err(DbError::Newer(path.into(), done, MIGRATIONS.len())),
            Ok(_) => Self::serve(connection, path),
        }
    }

    fn serve(connection: Connection, path: &Path) -> Result<Self, DbError> {
        // Full: the caller waits; what it has not yet handed over is not acknowledged either.
        let (sender, mut jobs) = mpsc::channel::<Job>(64);
        let begin = move || {
            let mut connection = connection;
            while let Some(job) = jobs.blocking_recv() {
                job(&mut connection);
            }
        };
        thread::Builder::new().name("db".into()).spawn(begin).map_err(|source| DbError::File {
            doing: "start the thread for",
            path: path.into(),
            source,
        })?;
        Ok(Self(sender))
    }

    /// Runs `job` on the writer thread and gives back what it returned. Not undone when the caller stops waiting.
    pub async fn call<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let job: Job = Box::new(move |connection| {
            let _ = sender.send(job(connection));
        });
        self.0.send(job).await.map_err(|_| DbError::Closed)?;
        Ok(receiver.await.map_err(|_| DbError::Closed)??)
    }

    /// As [`Db::call`], but does not wait for the disk: for what is only done again if the power takes it. Commits keep their
    /// order, and the next one of `call` brings this one to the disk.
    pub async fn call_unsynced<T, F>(&self, job: F) -> Result<T, DbError>
    where
        T: Send + 'static,
        F: FnOnce(&mut Connection) -> Result<T, rusqlite::Error> + Send + 'static,
    {
        self.call(move |connection| {
            let before: i64 = connection.pragma_query_value(None, "synchronous", |row| row.get(0))?;
            // 1 is NORMAL: with a WAL, only checkpoints wait.
            connection.pragma_update(None, "synchronous", before.min(1))?;
            let outcome = job(connection);
            connection.pragma_update(None, "synchronous", before)?;
            outcome
        })
        .await
    }
}

/// How many rows each table has.
pub fn table_sizes(connection: &Connection) -> Result<BTreeMap<String, i64>, rusqlite::Error> {
    let mut statement = connection
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' AND name NOT LIKE 'sqlite%'")?;
    let names = statement.query_map([], |row| row.get::<_, String>(0))?.collect::<Result<Vec<_>, _>>()?;
    let size = |name: String| {
        // The name is the schema's own.
        let n_rows =
            connection.query_row(&format!("SELECT count(*) FROM \"{name}\""), [], |row| row.get(0))?;
        Ok((name, n_rows))
    };
    names.into_iter().map(size).collect()
}

fn open_or_set_aside(path: &Path, synchronous: Synchronous) -> Result<(Connection, Opened), DbError> {
    if let Some(folder) = path.parent() {
        let doing = "make the folder";
        std::fs::create_dir_all(folder).map_err(|source| DbError::File {
            doing,
            path: folder.into(),
            source,
        })?;
    }
    let existed = path.exists();
    match open(path, synchronous) {
        Ok(connection) if existed => Ok((connection, Opened::Existing)),
        Ok(connection) => Ok((connection, Opened::Fresh)),
        Err(DbError::Sqlite { doing, source }) if existed && is_unreadable(&source) => {
            let aside = set_aside(path)?;
            let connection = open(path, synchronous)?;
            Ok((connection, Opened::SetAside(aside, format!("{doing}: {source}"))))
        }
        Err(error) => Err(error),
    }
}

fn open(path: &Path, synchronous: Synchronous) -> Result<Connection, DbError> {
    let doing = |doing| move |source| DbError::Sqlite { doing, source };
    restrict(path)?;
    let mut connection = Connection::open(path).map_err(doing("open the store"))?;
    connection.busy_timeout(Duration::from_secs(5)).map_err(doing("set the store's patience"))?;
    connection.set_prepared_statement_cache_capacity(64);
    must_be_ours(&connection)?;
    let synchronous = match synchronous {
        Synchronous::Full => "FULL",
        Synchronous::Off => "OFF",
    };
    connection.pragma_update(None, "journal_mode", "WAL").map_err(doing("switch the store to WAL"))?;
    connection.pragma_update(None, "synchronous", synchronous).map_err(doing("set the store's sync"))?;
    // Bounded: a file of a few megabytes needs no cache of its own size.
    connection.pragma_update(None, "cache_size", -512).map_err(doing("bound the store's cache"))?;
    connection
        .pragma_update(None, "journal_size_limit", 1_048_576)
        .map_err(doing("bound the store's journal"))?;
    must_be_whole(&connection)?;
    migrate(&mut connection, path)?;
    Ok(connection)
}

fn must_be_whole(connection: &Connection) -> Result<(), DbError> {
    let verdict: String = connection
        .query_row("PRAGMA quick_check(1)", [], |row| row.get(0))
        .map_err(|source| DbError::Sqlite { doing: "check the store", source })?;
    if verdict != "ok" {
        let source = rusqlite::Error::SqliteFailure(
            rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_CORRUPT),
            Some(verdict),
        );
        return Err(DbError::Sqlite { doing: "check the store", source });
    }
    Ok(())
}

/// How many schema steps the file has seen.
fn n_migrations(connection: &Connection, path: &Path) -> Result<usize, DbError> {
    let failed = |source| DbError::Sqlite { doing: "bring the store to this version's schema", source };
    let done: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let done = usize::try_from(done).unwrap_or(usize::MAX);
    if done > MIGRATIONS.len() {
        return Err(DbError::Newer(path.into(), done, MIGRATIONS.len()));
    }
    Ok(done)
}

/// Tables without our version number are another program's, such as KubeEdge's edgecore. Nothing in its file is changed.
fn must_be_ours(connection: &Connection) -> Result<(), DbError> {
    let failed = |source| DbError::Sqlite { doing: "look into the store", source };
    let version: i64 = connection.query_row("PRAGMA user_version", [], |row| row.get(0)).map_err(failed)?;
    let n_tables: i64 = connection
        .query_row("SELECT count(*) FROM sqlite_master WHERE type = 'table'", [], |row| row.get(0))
        .map_err(failed)?;
    if version > 0 || n_tables == 0 {
        return Ok(());
    }
    let code = rusqlite::ffi::Error::new(rusqlite::ffi::SQLITE_NOTADB);
    Err(failed(rusqlite::Error::SqliteFailure(code, Some("another program wrote it".to_owned()))))
}

/// The file holds Secrets and tokens: only root may read it, from its first byte on.
fn restrict(path: &Path) -> Result<(), DbError> {
    use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
    let failed = |source| DbError::File { doing: "open the store", path: path.into(), source };
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .read(true)
        .mode(0o600)
        .open(path)
        .map_err(failed)?;
    file.set_permissions(std::fs::Permissions::from_mode(0o600)).map_err(failed)
}

fn migrate(connection: &mut Connection, path: &Path) -> Result<(), DbError> {
    let failed = |source| DbError::Sqlite { doing: "bring the store to this version's schema", source };
    let done = n_migrations(connection, path)?;
    for (index, step) in MIGRATIONS.iter().enumerate().skip(done) {
        // One transaction per step: a kill in between leaves the file at a version that is known.
        let transaction = connection.transaction().map_err(failed)?;
        transaction.execute_batch(step).map_err(failed)?;
        let done = i64::try_from(index + 1).unwrap_or(i64::MAX);
        transaction.pragma_update(None, "user_version", done).map_err(failed)?;
        transaction.commit().map_err(failed)?;
    }
    Ok(())
}

/// Damage of the file itself; a full disk or missing right is not healed by a fresh file.
fn is_unreadable(error: &rusqlite::Error) -> bool {
    use rusqlite::ErrorCode::{DatabaseCorrupt, NotADatabase};
    matches!(error.sqlite_error_code(), Some(DatabaseCorrupt | NotADatabase))
}

/// What was set aside last, now or by an earlier start.
pub fn last_aside(path: &Path) -> Option<PathBuf> {
    (1..).map(|number| aside(path, number)).take_while(|name| name.exists()).last()
}

fn aside(path: &Path, number: u32) -> PathBuf {
    beside(path, &format!(".unreadable-{number}"))
}

fn beside(path: &Path, extra: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(extra);
    name.into()
}

fn set_aside(path: &Path) -> Result<PathBuf, DbError> {
    let named = |extra: &str| beside(path, extra);
    let free = (1..).map(|number| aside(path, number)).find(|name| !name.exists());
    let aside = free.unwrap_or_else(|| named(".unreadable"));
    let failed = |source| DbError::File { doing: "set aside", path: path.into(), source };
    // The journal first: were the file moved alone, the fresh one would meet a stranger's journal.
    for extra in ["-wal", "-shm", "-journal"] {
        let from = named(extra);
        if from.exists() {
            let mut to = aside.as_os_str().to_owned();
            to.push(extra);
            std::fs::rename(&from, PathBuf::from(to)).map_err(failed)?;
        }
    }
    std::fs::rename(path, &aside).map_err(failed)?;
    Ok(aside)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_damaged_file_is_set_aside_and_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgecore.db");
        std::fs::write(&path, vec![7; 8192]).unwrap();
        let (_db, opened) = Db::open(&path, Synchronous::Full).unwrap();
        let Opened::SetAside(aside, why) = opened else { panic!("{opened:?}") };
        assert_eq!(std::fs::read(&aside).unwrap(), vec![7; 8192]);
        assert!(!why.is_empty());
        assert_eq!(last_aside(&path), Some(aside));
        assert_eq!(last_aside(&folder.path().join("another.db")), None);
    }

    #[test]
    fn a_newer_file_is_refused_with_the_way_out() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgecore.db");
        Connection::open(&path).unwrap().pragma_update(None, "user_version", 99).unwrap();
        let error = Db::open(&path, Synchronous::Full).unwrap_err().to_string();
        assert!(error.contains("newer edgecore") && error.contains("move the file away"), "{error}");
    }

    #[tokio::test]
    async fn a_look_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("edgecore.db");
        check(&path).unwrap();
        assert!(!path.exists());
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        check(&path).unwrap();
        // What is still in the journal counts.
        db.call(|c| c.pragma_update(None, "user_version", 99)).await.unwrap();
        let error = check(&path).unwrap_err().to_string();
        assert!(error.contains("newer edgecore"), "{error}");
        let damaged = folder.path().join("damaged.db");
        std::fs::write(&damaged, vec![7; 8192]).unwrap();
        check(&damaged).unwrap_err();
        assert!(std::fs::read(&damaged).unwrap() == vec![7; 8192]);
    }

    #[tokio::test]
    async fn only_the_job_that_may_be_lost_is_not_waited_for() {
        fn how(connection: &mut Connection) -> rusqlite::Result<i64> {
            connection.pragma_query_value(None, "synchronous", |row| row.get(0))
        }
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("edgecore.db"), Synchronous::Full).unwrap();
        assert_eq!(db.call(how).await.unwrap(), 2);
        assert_eq!(db.call_unsynced(how).await.unwrap(), 1);
        assert_eq!(db.call(how).await.unwrap(), 2);
        db.call_unsynced(|c| c.execute("no SQL", [])).await.unwrap_err();
        assert_eq!(db.call(how).await.unwrap(), 2);
    }

    #[tokio::test]
    async fn only_root_reads_it_and_data_stays() {
        use std::os::unix::fs::PermissionsExt;
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/edgecore.db");
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        db.call(|c| c.execute("INSERT INTO report(sort, subject, uid, body) VALUES (1, 'a', '', x'00')", []))
            .await
            .unwrap();
        drop(db);
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        let (db, opened) = Db::open(&path, Synchronous::Full).unwrap();
        assert_eq!(opened, Opened::Existing);
        let rows: i64 =
            db.call(|c| c.query_row("SELECT count(*) FROM report", [], |r| r.get(0))).await.unwrap();
        assert_eq!(rows, 1);
    }
}
