//! When writes begin and what their ends mean: `reports.rs` decides, `write.rs` carries out.

use ke_wire::{Down, MessageId};
use tokio::time::Instant;

use super::super::reports::{Confirmation, Written, Wrote};
use super::super::write;
use super::{Running, WRITES, stamp, unix_ms};

impl Running {
    pub(super) fn start_writes(&mut self) {
        if !self.is_ready {
            return;
        }
        let now = Instant::now().into_std();
        while self.writes.len() < WRITES {
            let stamp = stamp();
            let Some(write) = self.statuses.poll(now, &stamp) else { break };
            let api = self.api.clone();
            self.writes.spawn(async move { write::carry_out(&api, write, &stamp).await });
        }
        self.numbers.behind.set(i64::try_from(self.statuses.n_behind()).unwrap_or(i64::MAX));
    }

    pub(super) async fn confirm(&mut self) {
        for Confirmation { node, report } in self.statuses.take_confirmed() {
            self.say(&node, Down::TwinConfirmed { id: MessageId::fresh(), to: report }).await;
        }
        self.numbers.unconfirmed.inc_by(self.statuses.take_unconfirmed());
    }

    pub(super) fn on_written(&mut self, written: Written) {
        for half in [&written.status, &written.device] {
            match half {
                Wrote::Done(_) => drop(self.numbers.patches.inc()),
                Wrote::Away | Wrote::Refused => drop(self.numbers.failed.inc()),
                Wrote::Nothing | Wrote::Missing | Wrote::Exists(_) => {}
            }
        }
        self.statuses.written(Instant::now().into_std(), unix_ms(), written);
    }
}
