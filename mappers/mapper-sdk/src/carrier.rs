//! Carries one device's reports to the edge node: in order, each until it is taken; to one that takes few, in turn with the
//! other devices and the newest values only.
//!
//! `device.rs` leaves them here and never waits; `outbox.rs` decides what is kept, `turns.rs` when it may go, `link.rs`
//! sends. Started by `fleet.rs`.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{Notify, watch};
use tokio::time::sleep;

use crate::counters::Counters;
use crate::driver::DeviceName;
use crate::link::{AGAIN, Edge, NotTaken};
use crate::outbox::{Outbox, Report};
use crate::terms::{self, Maker, Pace, Registered, Twice};

/// Where a device's task leaves its reports.
#[derive(Clone)]
pub(crate) struct Reports(Arc<Shared>);

struct Shared {
    outbox: Mutex<Outbox>,
    added: Notify,
    registered: watch::Receiver<Option<Registered>>,
    counters: Counters,
}

impl Reports {
    pub(crate) fn new(edge: &Edge, counters: Counters) -> Self {
        let registered = edge.registered.subscribe();
        Self(Arc::new(Shared { outbox: Mutex::default(), added: Notify::new(), registered, counters }))
    }

    /// Another number than before: what is only told when it changes is told now. KubeEdge's may know nothing of it.
    pub(crate) fn begins_anew(&self) -> u64 {
        let registered = *self.0.registered.borrow();
        registered.filter(|now| now.maker == Maker::KubeEdge).map_or(0, |now| now.number)
    }

    pub(crate) fn push(&self, report: Report) {
        if self.outbox(|outbox| outbox.push(report)) {
            // Told in the log when the edge node is back; the count is for who asks meanwhile.
            self.0.counters.dropped.inc();
        }
        self.0.added.notify_one();
    }

    fn outbox<T>(&self, look: impl FnOnce(&mut Outbox) -> T) -> T {
        // Whoever panicked with it left it whole: its methods do one thing each.
        look(&mut self.0.outbox.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Leaves out what KubeEdge's edgecore would drop a whole round for, and answer well.
    fn leave_out(&self, device: &DeviceName, known: &mut BTreeSet<String>) {
        for (property, why) in self.outbox(|outbox| outbox.leave_out(terms::check)) {
            self.0.counters.left_out.inc();
            if !known.contains(&property) {
                tracing::warn!(%device, property, "it is not reported, as KubeEdge's edgecore takes only letters, digits and -_.,:/@# and {why}: make it a number or a code in the device or the driver, or use Isthmus' edgecore, which takes any text");
                known.insert(property);
            }
        }
    }

    /// Sends in order and for ever; dropped when the device goes.
    pub(crate) async fn carry(self, device: DeviceName, edge: Edge) {
        let mut registered = edge.registered.subscribe();
        // What the edge node takes is known only then.
        if registered.wait_for(Option::is_some).await.is_err() {
            return;
        }
        let mut n_failures = 0_u32;
        // Properties of which the log says that they are left out.
        let mut known = BTreeSet::new();
        let mut has_turn = false;
        let mut twice = Twice::default();
        loop {
            // There is one: it was waited for.
            let Some(now) = *registered.borrow_and_update() else { return };
            let Registered { maker, pace, .. } = now;
            if maker == Maker::KubeEdge {
                self.leave_out(&device, &mut known);
            }
            if self.outbox(|outbox| outbox.is_empty()) {
                self.0.added.notified().await;
                continue;
            }
            if pace == Pace::Newest && !std::mem::take(&mut has_turn) {
                edge.turns.take().await;
                has_turn = true;
                // With what came meanwhile.
                continue;
            }
            let Some((number, report)) = self.outbox(|outbox| outbox.next(pace)) else { continue };
            self.0.counters.replaced.inc_by(self.outbox(Outbox::take_replaced));
            let wait = match edge.send(&device, report.clone()).await {
                Ok(()) => {
                    self.outbox(|outbox| outbox.done(number));
                    if let Report::Values(twins) = &report {
                        let again = twice.once_more(now, twins);
                        if !again.is_empty() {
                            self.outbox(|outbox| outbox.repeat(again));
                        }
                    }
                    let n_dropped = self.outbox(Outbox::take_dropped);
                    if n_dropped > 0 {
                        tracing::warn!(%device, n_dropped, "the edge node was away for long: the oldest values are lost");
                    }
                    n_failures = 0;
                    continue;
                }
                Err(NotTaken::Never(error)) => {
                    tracing::warn!(%device, error, "the edge node does not take a report");
                    self.outbox(|outbox| outbox.done(number));
                    continue;
                }
                Err(NotTaken::Throttled) => {
                    edge.throttled();
                    continue;
                }
                Err(NotTaken::Away) => {
                    edge.lost.notify_one();
                    AGAIN.ceiling(n_failures)
                }
            };
            n_failures = n_failures.saturating_add(1);
            tokio::select! {
                () = sleep(wait) => {}
                // It is back.
                _ = registered.changed() => {}
            }
        }
    }
}
