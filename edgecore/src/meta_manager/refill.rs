//! After a store was lost: how long until it may be trusted to hold all that the cloud wants.
//!
//! The protocol has no word for "that was all". Until then nothing that runs may be taken for forgotten: a machine that
//! lost its store and finds the cloud away must keep what it has. Called by `main.rs`; Edged reads the result.

use std::time::Duration;

use ke_run::shutdown::Shutdown;
use tokio::sync::watch;

use crate::edge_hub::handle::{Cloud, LinkState};

/// A link that stood for this long has brought all that a cloud has to say: Go clouds look every 5 s for what a node lacks,
/// and send it one by one.
const REFILL: Duration = Duration::from_secs(60);

/// Sets `is_full` once the link has stood for a whole refill. Nothing to do when it is set already.
pub async fn watch_refill(
    cloud: Cloud,
    is_full: watch::Sender<bool>,
    shutdown: Shutdown,
) -> Result<(), std::convert::Infallible> {
    let mut state = cloud.state();
    while !*is_full.borrow() {
        let now = *state.borrow_and_update();
        tokio::select! {
            Ok(()) = state.changed() => {}
            () = tokio::time::sleep(REFILL), if now != LinkState::Away => {
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

    #[tokio::test(start_paused = true)]
    async fn only_a_link_that_stands_refills() {
        let (cloud, inbox) = Cloud::channel();
        let (is_full, seen) = watch::channel(false);
        let (_trigger, shutdown) = Shutdown::new();
        let watching = tokio::spawn(watch_refill(cloud, is_full, shutdown));
        let check = async |state, wait: u64, expected: bool| {
            inbox.set(state);
            tokio::time::sleep(Duration::from_secs(wait)).await;
            assert_eq!(*seen.borrow(), expected, "{state:?} after {wait} s");
        };
        check(LinkState::Away, 600, false).await;
        check(LinkState::Connected(1), 59, false).await;
        check(LinkState::Away, 1, false).await;
        check(LinkState::Connected(2), 59, false).await;
        check(LinkState::Connected(2), 2, true).await;
        watching.await.unwrap().unwrap();
    }
}
