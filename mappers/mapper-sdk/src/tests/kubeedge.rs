//! A whole mapper beside an edge node of KubeEdge, on virtual time.

use std::time::Duration;

use super::*;

/// D72: one connection for all that a mapper tells, of all its devices.
#[tokio::test(start_paused = true)]
async fn one_connection_lasts() {
    let (mut edge, oven_1) = (edge(), Oven::default());
    edge.put_device(&oven("20")).await;
    edge.put_device(&device("oven-2", json!({}), "")).await;
    let _mapper = edge.run(oven_1);
    edge.wait("two hundred rounds", || edge.rounds().len() >= 200).await;
    assert_eq!(edge.n_connections(), 1);
    // And one more for an edge node that was away.
    edge.stop().await;
    edge.clear();
    tokio::time::sleep(Duration::from_secs(60)).await;
    edge.listen();
    edge.wait("to be registered at again", || edge.n_registrations() == 2).await;
    edge.wait("two hundred rounds more", || edge.rounds().len() >= 200).await;
    assert_eq!(edge.n_connections(), 2);
}
