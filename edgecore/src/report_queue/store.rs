//! Every SQL statement about reports.

use rusqlite::{Connection, params};

use super::Report;

/// What a row of `report` is. Never renumber.
const POD_GONE: i64 = 1;
const EVENT: i64 = 2;

/// Keeps reports in one commit.
pub(super) fn keep(connection: &mut Connection, reports: &[Report]) -> Result<(), rusqlite::Error> {
    let transaction = connection.transaction()?;
    for report in reports {
        match report {
            Report::PodStatus { namespace, name, uid, status } => {
                transaction
                    .prepare_cached("INSERT OR REPLACE INTO pod_status VALUES (?1, ?2, ?3, ?4)")?
                    .execute(params![uid.as_str(), namespace.as_str(), name.as_str(), &status[..]])?;
            }
            Report::PodGone { namespace, name, uid } => {
                let subject = format!("{namespace}/{name}");
                insert(&transaction, POD_GONE, &subject, uid.as_str(), b"")?;
            }
            Report::Event { key, body } => insert(&transaction, EVENT, &key.to_string(), "", body)?,
        }
    }
    transaction.commit()
}

fn insert(
    connection: &Connection,
    sort: i64,
    subject: &str,
    uid: &str,
    body: &[u8],
) -> Result<(), rusqlite::Error> {
    connection
        .prepare_cached("INSERT INTO report (sort, subject, uid, body) VALUES (?1, ?2, ?3, ?4)")?
        .execute(params![sort, subject, uid, body])
        .map(|_| ())
}

/// Strikes out what the cloud has. A Pod's status stays as its last known one until the Pod is gone.
pub(super) fn settled(connection: &mut Connection, report: &Report) -> Result<(), rusqlite::Error> {
    match report {
        Report::PodStatus { .. } => Ok(()),
        Report::PodGone { uid, .. } => {
            let transaction = connection.transaction()?;
            transaction.execute(
                "DELETE FROM report WHERE sort = ?1 AND uid = ?2",
                params![POD_GONE, uid.as_str()],
            )?;
            transaction.execute("DELETE FROM pod_status WHERE uid = ?1", [uid.as_str()])?;
            transaction.commit()
        }
        Report::Event { key, body } => connection
            .prepare_cached(
                "DELETE FROM report WHERE sequence =
                 (SELECT min(sequence) FROM report WHERE sort = ?1 AND subject = ?2 AND body = ?3)",
            )?
            .execute(params![EVENT, key.to_string(), &body[..]])
            .map(|_| ()),
    }
}

/// Strikes out what will never be taken. The status of a Pod that is gone from the cloud is of no use to anybody.
pub(super) fn moot(connection: &mut Connection, report: &Report) -> Result<(), rusqlite::Error> {
    match report {
        Report::PodStatus { uid, .. } => {
            connection.execute("DELETE FROM pod_status WHERE uid = ?1", [uid.as_str()]).map(|_| ())
        }
        Report::PodGone { .. } | Report::Event { .. } => settled(connection, report),
    }
}

/// Forgets the status of Pods that the store no longer holds: the cloud has let them go.
pub(super) fn forget_strangers(connection: &mut Connection) -> Result<usize, rusqlite::Error> {
    connection.execute(
        "DELETE FROM pod_status WHERE uid NOT IN (SELECT uid FROM object WHERE kind = 'pod')
         AND uid NOT IN (SELECT uid FROM report)",
        [],
    )
}

/// The last status of every Pod, whether it was told or not.
pub(super) fn pod_statuses(connection: &mut Connection) -> Result<Vec<Report>, rusqlite::Error> {
    let mut reports = Vec::new();
    let mut statement = connection.prepare("SELECT namespace, name, uid, status FROM pod_status")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (namespace, name, uid): (String, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let status: Vec<u8> = row.get(3)?;
        if let (Ok(namespace), Ok(name), Ok(uid)) = (namespace.parse(), name.parse(), uid.parse()) {
            reports.push(Report::PodStatus { namespace, name, uid, status: status.into() });
        }
    }
    Ok(reports)
}

/// Events and deletions that an earlier run left unsent, oldest first. Rows that are no longer valid text are left out.
pub(super) fn unsent(connection: &mut Connection) -> Result<Vec<Report>, rusqlite::Error> {
    let mut reports = Vec::new();
    let mut statement =
        connection.prepare("SELECT sort, subject, uid, body FROM report ORDER BY sequence")?;
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let (sort, subject, uid): (i64, String, String) = (row.get(0)?, row.get(1)?, row.get(2)?);
        let body: Vec<u8> = row.get(3)?;
        match sort {
            POD_GONE => {
                let Some((namespace, name)) = subject.split_once('/') else { continue };
                if let (Ok(namespace), Ok(name), Ok(uid)) = (namespace.parse(), name.parse(), uid.parse()) {
                    reports.push(Report::PodGone { namespace, name, uid });
                }
            }
            EVENT => {
                if let Ok(key) = subject.parse() {
                    reports.push(Report::Event { key, body: body.into() });
                }
            }
            _ => {}
        }
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::{Db, Synchronous};

    #[tokio::test]
    async fn unsent_reports_survive_a_restart_in_order() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("e.db");
        let status = |n: u8| Report::PodStatus {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            uid: "u1".parse().unwrap(),
            status: vec![n].into(),
        };
        let gone = Report::PodGone {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            uid: "u1".parse().unwrap(),
        };
        let event = |n: u8| Report::Event {
            key: format!("default/event/e{n}").parse().unwrap(),
            body: vec![n].into(),
        };
        let all = vec![status(1), status(2), event(1), gone.clone(), event(2)];
        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        db.call(move |c| keep(c, &all)).await.unwrap();
        drop(db);

        let (db, _) = Db::open(&path, Synchronous::Full).unwrap();
        assert_eq!(db.call(pod_statuses).await.unwrap(), vec![status(2)], "the newest of each pod");
        assert_eq!(db.call(unsent).await.unwrap(), vec![event(1), gone.clone(), event(2)]);
        db.call(move |c| settled(c, &status(2))).await.unwrap();
        db.call(move |c| settled(c, &event(1))).await.unwrap();
        assert_eq!(db.call(pod_statuses).await.unwrap().len(), 1, "the last status stays known");
        db.call(move |c| settled(c, &gone)).await.unwrap();
        assert_eq!(db.call(unsent).await.unwrap(), vec![event(2)]);
        assert!(db.call(pod_statuses).await.unwrap().is_empty());
        db.call(move |c| keep(c, &[status(3)])).await.unwrap();
        db.call(move |c| moot(c, &status(1))).await.unwrap();
        assert!(db.call(pod_statuses).await.unwrap().is_empty(), "the pod is gone from the cloud");
    }
}
