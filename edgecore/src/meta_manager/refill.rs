//! After a store was lost: how long until it may be trusted to hold all that the cloud wants.
//!
//! The protocol has no word for "that was all". Until then nothing that runs may be taken for forgotten: a machine that
//! lost its store and finds the cloud away must keep what it has. Called by `main.rs`; Edged reads the result.

use std::time::Duration;

use ke_run::shutdown::Shutdown;
use tokio::sync::watch;

use super::store;
use crate::db::{Db, DbError};
use crate::edge_hub::handle::{Cloud, LinkState};

/// A link that stood for this long has brought all that a cloud has to say: Go clouds look every 5 s for what a node lacks,
/// and send it one by one.
const REFILL: Duration = Duration::from_secs(60);

/// Whether an earlier run, or this one, has seen the store refilled. A store that was begun a moment ago is not, however
/// often this machine starts before the cloud is back.
pub async fn is_refilled(db: &Db) -> Result<bool, DbError> {
    db.call(|connection| store::is_refilled(connection)).await
}

/// Notes and sets `is_full` once the link has stood for a whole refill. Nothing to do when it is set already.
pub async fn watch_refill(
    cloud: Cloud,
    db: Db,
    is_full: watch::Sender<bool>,
    shutdown: Shutdown,
) -> Result<(), DbError> {
    let mut state = cloud.state();
    while !*is_full.borrow() {
        let now = *state.borrow_and_update();
        tokio::select! {
            Ok(()) = state.changed() => {}
            () = tokio::time::sleep(REFILL), if now != LinkState::Away => {
                // First on disk: the next start must not know less than this run acts by.
                db.call(|connection| store::note_refilled(connection)).await?;
                is_full.send_replace(true);
            }
            () = shutdown.wait() => return Ok(()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::db::Synchronous;
    use crate::edge_hub::handle::Peer;

    #[tokio::test(start_paused = true)]
    async fn only_a_link_that_stands_refills() {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("e.db"), Synchronous::Full).unwrap();
        let (cloud, inbox) = Cloud::channel();
        let (is_full, seen) = watch::channel(false);
        let (_trigger, shutdown) = Shutdown::new();
        let watching = tokio::spawn(watch_refill(cloud, db.clone(), is_full, shutdown));
        let check = async |state, wait: u64, expected: bool| {
            inbox.set(state);
            tokio::time::sleep(Duration::from_secs(wait)).await;
            assert_eq!(*seen.borrow(), expected, "{state:?} after {wait} s");
        };
        let connected = |number| LinkState::Connected { number, peer: Peer::KubeEdge };
        check(LinkState::Away, 600, false).await;
        check(connected(1), 59, false).await;
        check(LinkState::Away, 1, false).await;
        check(connected(2), 59, false).await;
        assert!(!is_refilled(&db).await.unwrap());
        seen.clone().wait_for(|is_full| *is_full).await.unwrap();
        watching.await.unwrap().unwrap();
        assert!(is_refilled(&db).await.unwrap(), "the next start knows it too");
    }
}
