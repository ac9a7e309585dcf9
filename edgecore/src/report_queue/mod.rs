//! What this node wants the cloud to know, kept until the cloud has it.
//!
//! A report is on disk before anyone may forget it. Status is coalesced to the newest per subject; events and pod deletions
//! all go, in order. While the cloud is away nothing grows but events, and those have a bound. The queue decides what goes
//! next ([`order`]); EdgeHub sends it and says what became of it. It never looks into a report.

mod devices;
mod order;
mod store;

use std::sync::Arc;

use bytes::Bytes;
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use ke_run::shutdown::Shutdown;
use ke_wire::{Namespace, ObjectKey, ObjectName, Uid};
use tokio::sync::mpsc;

use crate::db::{Db, DbError};
pub use devices::{DeviceOutbox, DeviceReport, DeviceReportQueue, DeviceReports, Limits, ParcelNews, keep};
use order::Order;
pub use order::Ticket;

/// Events kept while the cloud is away; the oldest beyond are dropped and counted. 2,000 events are about 1 MB.
const MAX_EVENTS: usize = 2000;
/// At most so many reports share one commit.
const BATCH: usize = 64;
/// Reports on their way at once. Bounds what a cut link must send again.
const IN_FLIGHT: usize = 32;

/// One thing the cloud should know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Report {
    /// The Pod's whole status, a `PodStatus` as Kubernetes JSON. Only the newest per uid is kept.
    PodStatus { namespace: Namespace, name: ObjectName, uid: Uid, status: Bytes },
    /// Every container of a deleted Pod has ended and its volumes are gone: it may leave the cloud. Kept, in order.
    PodGone { namespace: Namespace, name: ObjectName, uid: Uid },
    /// A Kubernetes event (`v1 Event`, JSON). Kept, in order; the oldest is dropped and counted beyond a bound.
    Event { key: ObjectKey, body: Bytes },
}

/// Hands reports to the queue. Cloneable; `send` waits while the queue is busy and never loses one.
#[derive(Clone, Debug)]
pub struct Reports(mpsc::Sender<Report>);

impl Reports {
    /// A handle and the end that [`ReportQueue`] reads. Full: the sender waits, so that status work slows down
    /// instead of memory growing.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<Report>) {
        let (sender, receiver) = mpsc::channel(64);
        (Self(sender), receiver)
    }

    /// Hands over one report. After shutdown it is dropped: the next start reports anew.
    pub async fn send(&self, report: Report) {
        let _ = self.0.send(report).await;
    }
}

/// One report on its way to the cloud.
#[derive(Clone, Debug)]
pub struct Outgoing {
    /// Names it in the [`Fate`].
    pub ticket: Ticket,
    /// What to tell.
    pub report: Report,
}

/// What became of reports on their way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// The cloud has it.
    Settled(Ticket),
    /// The cloud will never take it: what it is about is gone.
    Moot(Ticket),
    /// The cloud did not take it now; it goes again after the others.
    Again(Ticket),
    /// The link broke: everything on its way goes again.
    LinkLost,
}

/// EdgeHub's end of the queue.
pub struct Outbox {
    /// What goes next. Read only while connected.
    pub outgoing: mpsc::Receiver<Outgoing>,
    /// What became of it.
    pub fates: mpsc::Sender<Fate>,
}

/// The module.
pub struct ReportQueue {
    reports: mpsc::Receiver<Report>,
    outgoing: mpsc::Sender<Outgoing>,
    fates: mpsc::Receiver<Fate>,
    order: Order,
    db: Db,
}

enum Event {
    Reports,
    Room,
    Fate(Fate),
    Stop,
}

impl ReportQueue {
    /// Reads what an earlier run left unsent.
    pub async fn new(db: Db) -> Result<(Reports, Outbox, Self), DbError> {
        let (handle, reports) = Reports::channel();
        // One place: what waits here while the link is down cannot be coalesced any more. It may go twice, since `LinkLost`
        // takes it back as well; every report may.
        let (sender, outgoing) = mpsc::channel(1);
        // Full: EdgeHub waits for the queue's disk.
        let (fate_sender, fates) = mpsc::channel(IN_FLIGHT * 2);
        let mut order = Order::new(MAX_EVENTS, IN_FLIGHT);
        db.call(store::forget_strangers).await?;
        for report in db.call(store::pod_statuses).await?.into_iter().chain(db.call(store::unsent).await?) {
            order.add(report);
        }
        Ok((
            handle,
            Outbox { outgoing, fates: fate_sender },
            Self { reports, outgoing: sender, fates, order, db },
        ))
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), DbError> {
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            let event = tokio::select! {
                n_reports = self.reports.recv_many(&mut batch, BATCH) => {
                    if n_reports == 0 { Event::Stop } else { Event::Reports }
                }
                Some(fate) = self.fates.recv() => Event::Fate(fate),
                Ok(permit) = self.outgoing.reserve(), if self.order.has_next() => { drop(permit); Event::Room }
                () = shutdown.wait() => Event::Stop,
            };
            match event {
                Event::Reports => self.on_reports(&mut batch).await,
                Event::Room => self.on_room(),
                Event::Fate(fate) => self.on_fate(fate).await,
                Event::Stop => return Ok(()),
            }
        }
    }

    async fn on_reports(&mut self, batch: &mut Vec<Report>) {
        let keep = batch.clone();
        if let Err(error) = self.db.call(move |connection| store::keep(connection, &keep)).await {
            // Still told from memory: a full disk must not silence the node.
            tracing::error!(%error, "{} reports could not be kept on disk; a crash now would lose them", batch.len());
        }
        for report in batch.drain(..) {
            let dropped = self.order.add(report);
            if let Some(dropped) = dropped {
                tracing::warn!(
                    n_dropped = self.order.n_dropped(),
                    "more than {MAX_EVENTS} events wait for the cloud; the oldest is dropped"
                );
                self.forget(&dropped).await;
            }
        }
    }

    fn on_room(&mut self) {
        if let Some((ticket, report)) = self.order.next() {
            // `reserve` saw room, and nobody else sends: this cannot be full.
            if self.outgoing.try_send(Outgoing { ticket, report }).is_err() {
                self.order.again(ticket);
            }
        }
    }

    async fn on_fate(&mut self, fate: Fate) {
        match fate {
            Fate::Settled(ticket) => {
                if let Some(report) = self.order.settled(ticket) {
                    self.forget(&report).await;
                }
            }
            Fate::Moot(ticket) => {
                if let Some(report) = self.order.settled(ticket) {
                    self.strike_out(store::moot, &report).await;
                }
            }
            Fate::Again(ticket) => self.order.again(ticket),
            Fate::LinkLost => self.on_link_lost().await,
        }
    }

    /// What was under way goes again; so does every Pod's last status: while the node is away the control plane writes
    /// "not ready" over it, and nobody but this node can say otherwise.
    async fn on_link_lost(&mut self) {
        self.order.all_again();
        if let Err(error) = self.db.call(store::forget_strangers).await {
            tracing::warn!(%error, "statuses of pods that are gone stay in the store");
        }
        match self.db.call(store::pod_statuses).await {
            Ok(statuses) => {
                for status in statuses {
                    self.order.add_unless_waiting(status);
                }
            }
            Err(error) => {
                tracing::warn!(%error, "the last pod statuses cannot be read; they are told when they change")
            }
        }
    }

    async fn forget(&self, report: &Report) {
        self.strike_out(store::settled, report).await;
    }

    async fn strike_out(
        &self,
        how: fn(&mut rusqlite::Connection, &Report) -> Result<(), rusqlite::Error>,
        report: &Report,
    ) {
        let report = report.clone();
        if let Err(error) = self.db.call(move |connection| how(connection, &report)).await {
            tracing::warn!(%error, "a settled report could not be struck out; it will be sent once more after a restart");
        }
    }
}

/// The last status of every Pod that was reported, sent or not: where Edged goes on after a restart.
pub async fn last_pod_statuses(db: &Db) -> Result<Vec<(Uid, Bytes)>, DbError> {
    let reports = db.call(store::pod_statuses).await?;
    let status = |report| match report {
        Report::PodStatus { uid, status, .. } => Some((uid, status)),
        Report::PodGone { .. } | Report::Event { .. } => None,
    };
    Ok(reports.into_iter().filter_map(status).collect())
}

/// The Pod with the status that this node last reported: the cloud does not send it back, and start times, conditions and
/// restart counts go on from it.
#[must_use]
pub fn with_status(pod: Arc<Pod>, statuses: &[(Uid, Bytes)]) -> Arc<Pod> {
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let last = statuses.iter().find(|(reported, _)| reported.as_str() == uid);
    match last.and_then(|(_, status)| serde_json::from_slice::<PodStatus>(status).ok()) {
        Some(mut status) => {
            let stored = pod.status.iter().flat_map(|stored| stored.conditions.iter().flatten());
            // What others wrote is not in our report.
            for foreign in stored {
                let conditions = status.conditions.get_or_insert_default();
                if !conditions.iter().any(|ours| ours.type_ == foreign.type_) {
                    conditions.push(foreign.clone());
                }
            }
            Arc::new(Pod { status: Some(status), ..Arc::unwrap_or_clone(pod) })
        }
        None => pod,
    }
}

/// Events that the cloud does not have yet, oldest first, as Kubernetes JSON.
pub async fn unsent_events(db: &Db) -> Result<Vec<Bytes>, DbError> {
    let reports = db.call(store::unsent).await?;
    let event = |report| match report {
        Report::Event { body, .. } => Some(body),
        Report::PodStatus { .. } | Report::PodGone { .. } => None,
    };
    Ok(reports.into_iter().filter_map(event).collect())
}
