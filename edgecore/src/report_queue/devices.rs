//! What mappers reported of their devices, kept on disk until the cloud has it.
//!
//! DeviceTwin stores each report in the transaction that changes the twin ([`keep`]) and [`nudges`](DeviceReports::nudge)
//! this module, which sends them in that order and strikes out what the cloud confirms. All are kept, bounded by number
//! and age; memory holds a page of them. EdgeHub sends; it never looks into a report.

mod store;
mod window;

use std::sync::Arc;
use std::time::{Duration, Instant};

use ke_run::shutdown::Shutdown;
use ke_wire::{DeviceId, MessageId, StateReport, TwinReport, Up};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{Notify, mpsc};

use crate::db::{Db, DbError};
use window::Window;

pub use store::{Limits, keep};

/// Confirmed reports are struck out together: each commit takes its turn at the store.
const STRIKE_OUT_EVERY: Duration = Duration::from_millis(250);
/// How often reports that nobody confirms are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// One thing that a device's mapper, or an MQTT client, said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeviceReport {
    /// Values changed.
    Twin(DeviceId, TwinReport),
    /// The device came or went.
    State(DeviceId, StateReport),
}

impl DeviceReport {
    /// The message that tells it.
    #[must_use]
    pub fn message(self, id: MessageId) -> Up {
        match self {
            Self::Twin(device, report) => Up::TwinReport { id, device, report },
            Self::State(device, report) => Up::StateReport { id, device, report },
        }
    }
}

/// What became of parcels: reports that share a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParcelNews {
    /// The cloud has what was in this message. One that was no parcel is passed over.
    Confirmed(MessageId),
    /// The link broke: what is unconfirmed goes again.
    LinkLost,
}

/// DeviceTwin's end: says that there is something new on disk.
#[derive(Clone, Debug)]
pub struct DeviceReports(Arc<Notify>);

impl DeviceReports {
    /// There is something new on disk.
    pub fn nudge(&self) {
        self.0.notify_one();
    }
}

/// EdgeHub's end.
pub struct DeviceOutbox {
    /// What goes next, and in which message. Read only while connected.
    pub outgoing: mpsc::Receiver<(MessageId, DeviceReport)>,
    /// What became of it.
    pub news: mpsc::Sender<ParcelNews>,
}

/// The module.
pub struct DeviceReportQueue {
    db: Db,
    /// Reports that the cloud never confirmed.
    given_up: Counter,
    nudged: Arc<Notify>,
    outgoing: mpsc::Sender<(MessageId, DeviceReport)>,
    news: mpsc::Receiver<ParcelNews>,
    window: Window,
    /// Reports on disk that were not read yet.
    has_more: bool,
}

enum Event {
    Nudged,
    Room,
    News(ParcelNews),
    StrikeOut,
    Look,
    Stop,
}

impl DeviceReportQueue {
    /// The module and its two ends. What an earlier run left unsent goes first.
    #[must_use]
    pub fn new(db: Db, given_up: Counter) -> (DeviceReports, DeviceOutbox, Self) {
        let nudged = Arc::new(Notify::new());
        // Full: the module waits; the reports are on disk. One that waits here while the link breaks goes twice, as every
        // report may.
        let (outgoing, to_send) = mpsc::channel(16);
        // Full: EdgeHub waits for the window's bookkeeping, which never waits for EdgeHub.
        let (news_sender, news) = mpsc::channel(256);
        let module = Self {
            db,
            given_up,
            nudged: Arc::clone(&nudged),
            outgoing,
            news,
            window: Window::default(),
            has_more: true,
        };
        (DeviceReports(nudged), DeviceOutbox { outgoing: to_send, news: news_sender }, module)
    }

    /// Runs until shutdown.
    pub async fn run(mut self, shutdown: Shutdown) -> Result<(), DbError> {
        let mut strike_out = tokio::time::interval(STRIKE_OUT_EVERY);
        let mut look = tokio::time::interval(LOOK_EVERY);
        for interval in [&mut strike_out, &mut look] {
            interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        loop {
            // A page of what is under way holds nothing to send.
            while self.has_more && self.window.wants_more() {
                self.read().await;
            }
            let event = tokio::select! {
                () = shutdown.wait() => Event::Stop,
                Some(news) = self.news.recv() => Event::News(news),
                Ok(permit) = self.outgoing.reserve(), if self.window.has_next() => { drop(permit); Event::Room }
                () = self.nudged.notified() => Event::Nudged,
                _ = strike_out.tick(), if self.window.has_confirmed() => Event::StrikeOut,
                _ = look.tick(), if self.window.has_under_way() => Event::Look,
            };
            match event {
                Event::Nudged => self.has_more = true,
                Event::Room => {
                    let message = MessageId::fresh();
                    if let Some(report) = self.window.next(Instant::now(), message.clone()) {
                        // `reserve` saw room, and nobody else sends: this cannot be full.
                        let _ = self.outgoing.try_send((message, report));
                    }
                }
                Event::News(ParcelNews::Confirmed(message)) => self.window.confirmed(&message),
                Event::News(ParcelNews::LinkLost) => {
                    // What the cloud has must not be read again.
                    self.strike_out().await;
                    self.window.link_lost();
                    self.has_more = true;
                }
                Event::StrikeOut => self.strike_out().await,
                Event::Look => self.look().await,
                Event::Stop => {
                    self.strike_out().await;
                    return Ok(());
                }
            }
        }
    }

    async fn read(&mut self) {
        let after = self.window.read_up_to();
        let limit = window::PAGE;
        match self.db.call(move |connection| store::page(connection, after, limit)).await {
            Ok(page) => {
                self.has_more = page.len() == limit;
                self.window.add(page);
            }
            Err(error) => {
                tracing::error!(%error, "device reports cannot be read; they are tried again with the next one");
                self.has_more = false;
            }
        }
    }

    async fn strike_out(&mut self) {
        let confirmed = self.window.take_confirmed();
        if confirmed.is_empty() {
            return;
        }
        let rows = confirmed.clone();
        // One that is lost with the power goes once more.
        if let Err(error) =
            self.db.call_unsynced(move |connection| store::strike_out(connection, &rows)).await
        {
            tracing::warn!(%error, "device reports that the cloud has could not be struck out; they are tried again");
            self.window.put_back_confirmed(confirmed);
        }
        // What was folded while later reports were on their way has a place before them.
        if self.window.is_empty()
            && !self.has_more
            && self.db.call(|it| store::has_folded(it)).await.unwrap_or(false)
        {
            self.window.reread();
            self.has_more = true;
        }
    }

    /// A Go cloud never confirms what it cannot place. After some tries such a report must not go again for ever.
    async fn look(&mut self) {
        let overdue = self.window.overdue(Instant::now());
        for (device, n_reports) in overdue.given_up {
            self.given_up.inc_by(u64::try_from(n_reports).unwrap_or_default());
            tracing::warn!(%device, n_reports, "the cloud never confirmed reports of this device; they are dropped");
        }
        if overdue.is_again {
            // What the cloud has must not be read again.
            self.strike_out().await;
            self.has_more = true;
        }
    }
}
