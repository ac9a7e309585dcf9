//! Pure: which report goes next.
//!
//! One lane per subject: two statuses of one Pod are never on their way at once, so that none overtakes the other. A status
//! that waits is replaced by a newer one. A Pod's deletion goes after its last status. Events are one lane of their own.

use std::collections::{BTreeMap, HashMap, VecDeque};

use ke_wire::Uid;

use super::Report;

/// Names one report on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(u64);

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Lane {
    Pod(Uid),
    Events,
}

fn lane_of(report: &Report) -> Lane {
    match report {
        Report::PodStatus { uid, .. } | Report::PodGone { uid, .. } => Lane::Pod(uid.clone()),
        Report::Event { .. } => Lane::Events,
    }
}

/// Reports that wait and reports on their way.
#[derive(Debug)]
pub(super) struct Order {
    waiting: HashMap<Lane, VecDeque<Report>>,
    /// Lanes that may send, in turn.
    turn: VecDeque<Lane>,
    under_way: BTreeMap<Ticket, Report>,
    next_ticket: u64,
    max_events: usize,
    max_under_way: usize,
    n_dropped: u64,
}

impl Order {
    pub(super) fn new(max_events: usize, max_under_way: usize) -> Self {
        Self {
            waiting: HashMap::new(),
            turn: VecDeque::new(),
            under_way: BTreeMap::new(),
            next_ticket: 0,
            max_events,
            max_under_way,
            n_dropped: 0,
        }
    }

    /// Takes one report in. Gives back the event that had to go for it.
    pub(super) fn add(&mut self, report: Report) -> Option<Report> {
        let lane = lane_of(&report);
        let waiting = self.waiting.entry(lane.clone()).or_default();
        match &report {
            Report::PodStatus { .. } => {
                // A status that comes after the deletion has nothing to say any more.
                if waiting.iter().any(|other| matches!(other, Report::PodGone { .. })) {
                    return None;
                }
                // The newest status says all that the older ones said.
                waiting.retain(|other| !matches!(other, Report::PodStatus { .. }));
            }
            Report::PodGone { .. } => waiting.retain(|other| !matches!(other, Report::PodGone { .. })),
            Report::Event { .. } => {}
        }
        waiting.push_back(report);
        let mut dropped = None;
        if lane == Lane::Events && waiting.len() > self.max_events {
            dropped = waiting.pop_front();
            self.n_dropped += 1;
        }
        self.enter(lane);
        dropped
    }

    /// Takes an old report in again, unless something newer waits in its place.
    pub(super) fn add_unless_waiting(&mut self, report: Report) {
        if !self.waiting.contains_key(&lane_of(&report)) {
            self.add(report);
        }
    }

    /// How many events were dropped so far.
    pub(super) fn n_dropped(&self) -> u64 {
        self.n_dropped
    }

    pub(super) fn has_next(&self) -> bool {
        !self.turn.is_empty() && self.under_way.len() < self.max_under_way
    }

    /// The next report to send.
    pub(super) fn next(&mut self) -> Option<(Ticket, Report)> {
        if self.under_way.len() >= self.max_under_way {
            return None;
        }
        let lane = self.turn.pop_front()?;
        let waiting = self.waiting.get_mut(&lane)?;
        let report = waiting.pop_front()?;
        if waiting.is_empty() {
            self.waiting.remove(&lane);
        } else if lane == Lane::Events {
            // Events need no answer, so several may be under way; they stay in order on one link.
            self.turn.push_back(lane);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.under_way.insert(ticket, report.clone());
        Some((ticket, report))
    }

    /// The cloud has it. Gives it back, so that it can be struck out on disk, unless a newer one of the same place waits.
    pub(super) fn settled(&mut self, ticket: Ticket) -> Option<Report> {
        let report = self.under_way.remove(&ticket)?;
        self.enter(lane_of(&report));
        let superseded =
            matches!(report, Report::PodStatus { .. }) && self.waiting.contains_key(&lane_of(&report));
        (!superseded).then_some(report)
    }

    /// It must go again.
    pub(super) fn again(&mut self, ticket: Ticket) {
        let Some(report) = self.under_way.remove(&ticket) else { return };
        let lane = lane_of(&report);
        let waiting = self.waiting.entry(lane.clone()).or_default();
        let superseded = match report {
            Report::PodStatus { .. } => waiting.iter().any(|other| matches!(other, Report::PodStatus { .. })),
            Report::PodGone { .. } | Report::Event { .. } => false,
        };
        if !superseded {
            waiting.push_front(report);
        }
        self.enter(lane);
    }

    /// The link broke: everything under way goes again, in its old order.
    pub(super) fn all_again(&mut self) {
        let tickets: Vec<_> = self.under_way.keys().rev().copied().collect();
        for ticket in tickets {
            self.again(ticket);
        }
    }

    /// Gives the lane a turn, unless it has one, has nothing to say or one of its reports is under way.
    fn enter(&mut self, lane: Lane) {
        let busy = lane != Lane::Events && self.under_way.values().any(|report| lane_of(report) == lane);
        if !busy && self.waiting.contains_key(&lane) && !self.turn.contains(&lane) {
            self.turn.push_back(lane);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(pod: &str, n: u8) -> Report {
        Report::PodStatus {
            namespace: "default".parse().unwrap(),
            name: pod.parse().unwrap(),
            uid: pod.parse().unwrap(),
            status: vec![n].into(),
        }
    }

    fn gone(pod: &str) -> Report {
        Report::PodGone {
            namespace: "default".parse().unwrap(),
            name: pod.parse().unwrap(),
            uid: pod.parse().unwrap(),
        }
    }

    fn event(n: u8) -> Report {
        Report::Event { key: format!("default/event/e{n}").parse().unwrap(), body: vec![n].into() }
    }

    fn drain(order: &mut Order) -> Vec<Report> {
        std::iter::from_fn(|| order.next().map(|(_, report)| report)).collect()
    }

    #[test]
    fn newest_status_only_and_deletion_after_it() {
        let mut order = Order::new(10, 10);
        for report in [status("a", 1), status("a", 2), gone("a"), status("a", 3)] {
            order.add(report);
        }
        let (first, report) = order.next().unwrap();
        assert_eq!(report, status("a", 2), "a status after the deletion has nothing to say");
        assert!(order.next().is_none(), "one of a pod at a time");
        assert_eq!(order.settled(first), None, "the pod's deletion still waits");
        assert_eq!(drain(&mut order), vec![gone("a")]);
    }

    #[test]
    fn a_cut_sends_everything_again_and_the_newest() {
        let mut order = Order::new(10, 10);
        order.add(status("a", 1));
        order.add(event(1));
        order.add(event(2));
        assert_eq!(drain(&mut order).len(), 3);
        order.add(status("a", 2));
        order.all_again();
        let mut sent = drain(&mut order);
        sent.retain(|report| matches!(report, Report::Event { .. }));
        assert_eq!(sent, vec![event(1), event(2)]);
        assert!(!order.has_next());
    }

    #[test]
    fn events_are_bounded_and_the_oldest_goes() {
        let mut order = Order::new(2, 10);
        assert_eq!(order.add(event(1)), None);
        assert_eq!(order.add(event(2)), None);
        assert_eq!(order.add(event(3)), Some(event(1)));
        assert_eq!(order.n_dropped(), 1);
        assert_eq!(drain(&mut order), vec![event(2), event(3)]);
    }

    #[test]
    fn what_is_under_way_is_bounded() {
        let mut order = Order::new(10, 1);
        order.add(status("a", 1));
        order.add(status("b", 1));
        let (ticket, _) = order.next().unwrap();
        assert!(!order.has_next() && order.next().is_none());
        order.settled(ticket);
        assert!(order.has_next());
    }
}
