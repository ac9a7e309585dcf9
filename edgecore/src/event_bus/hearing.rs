//! What was heard on a broker, sorted: for DeviceTwin, for the cloud, or for nobody.
//!
//! Both brokers use it, each with the token that its acknowledgement needs. A token comes back once the message is kept, so
//! that nothing is acknowledged that a kill could lose; but uploads are kept nowhere, as on KubeEdge's edges.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use ke_mqtt::Message;
use tokio::sync::{mpsc, oneshot};

use super::topic::Whose;
use super::{Heard, Upload};

type Kept<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// One broker's ear.
pub(super) struct Hearing<T> {
    heard: mpsc::Sender<Heard>,
    uploads: mpsc::Sender<Upload>,
    /// Bounded by whoever calls `take`.
    backlog: VecDeque<(Heard, Kept<T>)>,
    waiting: FuturesUnordered<Kept<T>>,
    done: VecDeque<T>,
    n_lost_uploads: u64,
    is_deaf: bool,
}

impl<T: Send + 'static> Hearing<T> {
    pub(super) fn new(heard: mpsc::Sender<Heard>, uploads: mpsc::Sender<Upload>) -> Self {
        Self {
            heard,
            uploads,
            backlog: VecDeque::new(),
            waiting: FuturesUnordered::new(),
            done: VecDeque::new(),
            n_lost_uploads: 0,
            is_deaf: false,
        }
    }

    /// How many messages nobody has taken yet.
    pub(super) fn n_backlog(&self) -> usize {
        self.backlog.len()
    }

    /// Takes a message in. Its token comes back from `next`, at once if nobody keeps it.
    pub(super) fn take(&mut self, message: Message, token: T) {
        let Message { topic, payload } = message;
        match Whose::of(&topic) {
            Whose::Clouds => {
                // Payloads of uploads are text on the wire to the cloud; KubeEdge damages other bytes in the same way.
                let payload = String::from_utf8_lossy(&payload).into_owned();
                if self.uploads.try_send(Upload { topic: topic.to_string(), payload }).is_err() {
                    self.tell_lost_upload(&topic);
                }
                self.done.push_back(token);
            }
            Whose::Ours(topic) => {
                let (kept, is_kept) = oneshot::channel();
                let waits = Box::pin(async move {
                    // Its drop counts too: whoever heard it will not keep it.
                    let _ = is_kept.await;
                    token
                });
                self.backlog.push_back((Heard { topic, payload, kept }, waits));
            }
            Whose::Nobodys => {
                tracing::debug!(%topic, "no device or node has this topic; the message is ignored");
                self.done.push_back(token);
            }
        }
    }

    fn tell_lost_upload(&mut self, topic: &str) {
        self.n_lost_uploads += 1;
        // At the first and at each doubling.
        if self.n_lost_uploads.is_power_of_two() {
            tracing::warn!(
                topic,
                n_lost = self.n_lost_uploads,
                "messages to the cloud come faster than they leave: dropped, so many since the start"
            );
        }
    }

    /// Hands on what waits, and gives back the token of the next message that is kept. Cancellation-safe.
    pub(super) async fn next(&mut self) -> T {
        loop {
            if let Some(token) = self.done.pop_front() {
                return token;
            }
            tokio::select! {
                room = self.heard.reserve(), if !self.backlog.is_empty() => {
                    let Some((heard, waits)) = self.backlog.pop_front() else { continue };
                    self.waiting.push(waits);
                    match room {
                        Ok(room) => room.send(heard),
                        Err(_) if self.is_deaf => {}
                        Err(_) => {
                            self.is_deaf = true;
                            tracing::warn!("nobody takes what devices say over MQTT; it is ignored");
                        }
                    }
                }
                Some(token) = self.waiting.next(), if !self.waiting.is_empty() => return token,
                else => std::future::pending::<()>().await,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[tokio::test]
    async fn sorted_and_kept() {
        let (heard, mut hears) = mpsc::channel(1);
        let (uploads, mut uploaded) = mpsc::channel(1);
        let mut hearing = Hearing::new(heard, uploads);
        let mut take = |topic: &str, token: u32| {
            let message = Message { topic: topic.into(), payload: Bytes::from_static(b"{}") };
            hearing.take(message, token);
        };
        take("$hw/events/device/plant/oven/twin/update", 1);
        take("$hw/events/device/plant/oven/state/update", 2);
        take("$hw/events/device/PLANT/oven/twin/update", 3);
        take("$hw/events/device/plant/oven/twin/what", 4);
        take("plant/user/x", 5);
        take("$hw/events/upload/x", 6);
        // What nobody keeps is done at once, and does not wait for what is kept.
        for token in [3, 4, 5, 6] {
            assert_eq!(hearing.next().await, token);
        }
        assert_eq!(uploaded.try_recv().unwrap().topic, "plant/user/x");
        assert!(uploaded.try_recv().is_err());
        let keep = async {
            let first = hears.recv().await.unwrap();
            assert_eq!(first.topic.to_string(), "$hw/events/device/plant/oven/twin/update");
            let second = hears.recv().await.unwrap();
            // Refused by being dropped.
            drop(second);
            first.kept.send(()).unwrap();
            hears
        };
        let (hears, tokens) = tokio::join!(keep, async { (hearing.next().await, hearing.next().await) });
        assert_eq!(tokens, (2, 1));
        drop(hears);
        let message = Message { topic: "$hw/events/node/e/membership/get".into(), payload: Bytes::new() };
        hearing.take(message, 7);
        assert_eq!(hearing.next().await, 7);
    }
}
