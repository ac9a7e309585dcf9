//! What was heard for the cloud, on its way there. Started by `main.rs`.

use std::convert::Infallible;

use ke_run::shutdown::Shutdown;
use ke_wire::{MessageId, Up};
use tokio::sync::mpsc;

use super::Upload;
use crate::edge_hub::Cloud;

/// Tells it until shutdown. What the cloud's rules want to hear is for now: nobody keeps it while the cloud is away.
pub async fn pass_on(
    mut uploads: mpsc::Receiver<Upload>,
    cloud: Cloud,
    stop: Shutdown,
) -> Result<(), Infallible> {
    while let Some(Upload { topic, payload }) = tokio::select! {
        upload = uploads.recv() => upload,
        () = stop.wait() => None,
    } {
        if cloud.tell(Up::MqttUpload { id: MessageId::fresh(), topic, payload }).await.is_err() {
            tracing::debug!("an MQTT message for the cloud's rules is dropped: the cloud is away");
        }
    }
    // Without MQTT nobody uploads, and the others go on.
    stop.wait().await;
    Ok(())
}
