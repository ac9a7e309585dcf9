//! Pure: which device reports are under way, which goes next.
//!
//! Reports leave in the order of their rows; several of one device share a parcel as long as no property would stand in
//! it twice. One link keeps the order, and a cloud passes over a value that is older than what it has: a report that goes
//! twice does no harm. A parcel is its message: one that goes again is another.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use ke_wire::{DeviceId, MessageId};

use super::DeviceReport;

/// Rows read from disk at once.
pub(super) const PAGE: usize = 256;
/// Parcels under way at once: more than most nodes have devices that report values by themselves, so that one whose value
/// cannot be stored now holds up no other's.
const UNDER_WAY: usize = 2048;
/// Unconfirmed for this long, a parcel goes again. KubeEdge's edges wait as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a report goes before it is given up. A cloud whose API server is far behind confirms late: a quarter of an hour
/// is its time.
const TRIES: u32 = 15;
/// Reports in one parcel at most: a frame stays small.
const PARCEL: usize = 64;

/// A report and the row it came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Row {
    pub(super) sequence: i64,
    /// `None`: the row cannot be read and is only struck out.
    pub(super) report: Option<DeviceReport>,
}

#[derive(Debug)]
struct Packed {
    rows: Vec<i64>,
    report: DeviceReport,
}

#[derive(Debug)]
struct Sent {
    at: Instant,
    message: MessageId,
    device: DeviceId,
    rows: Vec<i64>,
}

/// What became of parcels that nobody confirmed for long.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Overdue {
    /// Some go again; their rows must be read again.
    pub(super) is_again: bool,
    /// These were tried often enough, while the cloud took later ones: so many reports of this device go.
    pub(super) given_up: Vec<(DeviceId, usize)>,
}

#[derive(Debug)]
pub(super) struct Window {
    read_up_to: i64,
    waiting: VecDeque<Packed>,
    /// By the order in which they left.
    under_way: BTreeMap<u64, Sent>,
    numbers: HashMap<MessageId, u64>,
    rows_under_way: HashSet<i64>,
    next_number: u64,
    confirmed: Vec<i64>,
    /// How often nobody confirmed the parcel that began with this row.
    tries: HashMap<i64, u32>,
    /// The latest that the cloud confirmed on this link.
    latest: Option<u64>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            read_up_to: i64::MIN,
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            numbers: HashMap::new(),
            rows_under_way: HashSet::new(),
            next_number: 0,
            confirmed: Vec::new(),
            tries: HashMap::new(),
            latest: None,
        }
    }
}

impl Window {
    /// The last row that was read.
    pub(super) fn read_up_to(&self) -> i64 {
        self.read_up_to
    }

    pub(super) fn wants_more(&self) -> bool {
        self.waiting.is_empty()
    }

    /// Takes rows in, in their order, and packs them. Those that are under way are passed over.
    pub(super) fn add(&mut self, page: Vec<Row>) {
        // The parcel of each device that may still take more, by its place in the queue.
        let mut open: HashMap<DeviceId, usize> = HashMap::new();
        for Row { sequence, report } in page {
            self.read_up_to = self.read_up_to.max(sequence);
            if self.rows_under_way.contains(&sequence) {
                continue;
            }
            let report = match report {
                None => {
                    self.confirmed.push(sequence);
                    continue;
                }
                Some(report) => report,
            };
            let device = device_of(&report).clone();
            let place = open.get(&device).and_then(|place| self.waiting.get_mut(*place));
            match (place, report) {
                (
                    Some(Packed { rows, report: DeviceReport::Twin(_, before) }),
                    DeviceReport::Twin(_, more),
                ) if rows.len() < PARCEL && more.twin.keys().all(|name| !before.twin.contains_key(name)) => {
                    rows.push(sequence);
                    before.timestamp = more.timestamp;
                    before.twin.extend(more.twin);
                }
                (_, report) => {
                    open.insert(device, self.waiting.len());
                    self.waiting.push_back(Packed { rows: vec![sequence], report });
                }
            }
        }
    }

    pub(super) fn has_next(&self) -> bool {
        !self.waiting.is_empty() && self.under_way.len() < UNDER_WAY
    }

    /// The next parcel; it is under way from now on, in this message.
    pub(super) fn next(&mut self, now: Instant, message: MessageId) -> Option<DeviceReport> {
        if !self.has_next() {
            return None;
        }
        let Packed { rows, report } = self.waiting.pop_front()?;
        let number = self.next_number;
        self.next_number += 1;
        self.rows_under_way.extend(&rows);
        self.numbers.insert(message.clone(), number);
        let device = device_of(&report).clone();
        self.under_way.insert(number, Sent { at: now, message, device, rows });
        Some(report)
    }

    /// The cloud has it.
    pub(super) fn confirmed(&mut self, message: &MessageId) {
        let Some(number) = self.numbers.get(message).copied() else { return };
        self.latest = self.latest.max(Some(number));
        if let Some(sent) = self.ended(number) {
            self.settle(sent.rows);
        }
        if self.under_way.is_empty() && self.waiting.is_empty() {
            // Of rows that gave way to others meanwhile.
            self.tries.clear();
        }
    }

    /// It is no longer under way.
    fn ended(&mut self, number: u64) -> Option<Sent> {
        let sent = self.under_way.remove(&number)?;
        self.numbers.remove(&sent.message);
        for row in &sent.rows {
            self.rows_under_way.remove(row);
        }
        Some(sent)
    }

    fn settle(&mut self, rows: Vec<i64>) {
        rows.first().map(|first| self.tries.remove(first));
        self.confirmed.extend(rows);
    }

    pub(super) fn has_under_way(&self) -> bool {
        !self.under_way.is_empty()
    }

    pub(super) fn has_confirmed(&self) -> bool {
        !self.confirmed.is_empty()
    }

    /// Rows to strike out.
    pub(super) fn take_confirmed(&mut self) -> Vec<i64> {
        std::mem::take(&mut self.confirmed)
    }

    /// They could not be struck out.
    pub(super) fn put_back_confirmed(&mut self, rows: Vec<i64>) {
        self.confirmed.extend(rows);
    }

    /// Whether everything that was read is confirmed and struck out.
    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty() && self.under_way.is_empty() && self.confirmed.is_empty()
    }

    /// What is on disk and not under way is read again.
    pub(super) fn reread(&mut self) {
        self.read_up_to = i64::MIN;
        self.waiting.clear();
    }

    /// The link broke: nothing is under way.
    pub(super) fn link_lost(&mut self) {
        self.under_way.clear();
        self.numbers.clear();
        self.rows_under_way.clear();
        self.latest = None;
        self.reread();
    }

    /// Takes those that have been under way for too long out of it.
    pub(super) fn overdue(&mut self, now: Instant) -> Overdue {
        let mut overdue = Overdue::default();
        while let Some((number, sent)) = self.under_way.first_key_value() {
            if now.saturating_duration_since(sent.at) < PATIENCE {
                break;
            }
            let number = *number;
            let Some(sent) = self.ended(number) else { break };
            let first = sent.rows.first().copied().unwrap_or_default();
            let n_tries = self.tries.get(&first).map_or(1, |tries| tries.saturating_add(1));
            // A cloud that takes nothing at all may be without its API server for a while.
            if n_tries >= TRIES && self.latest > Some(number) {
                overdue.given_up.push((sent.device, sent.rows.len()));
                self.settle(sent.rows);
            } else {
                self.tries.insert(first, n_tries);
                overdue.is_again = true;
            }
        }
        if overdue.is_again {
            self.reread();
        }
        overdue
    }
}

fn device_of(report: &DeviceReport) -> &DeviceId {
    match report {
        DeviceReport::Twin(device, _) | DeviceReport::State(device, _) => device,
    }
}

#[cfg(test)]
mod tests {
    use ke_wire::{StateReport, TwinProperty, TwinReport};

    use super::*;

    fn device(name: &str) -> DeviceId {
        DeviceId { namespace: "plant".parse().unwrap(), name: name.parse().unwrap() }
    }

    fn twin(sequence: i64, of: &str, properties: &[&str]) -> Row {
        let twin =
            properties.iter().map(|name| ((*name).to_owned(), Some(TwinProperty::default()))).collect();
        let report = TwinReport { event_id: String::new(), timestamp: sequence, twin };
        Row { sequence, report: Some(DeviceReport::Twin(device(of), report)) }
    }

    fn state(sequence: i64, of: &str) -> Row {
        Row { sequence, report: Some(DeviceReport::State(device(of), StateReport::default())) }
    }

    fn id(number: usize) -> MessageId {
        format!("m{number}").parse().unwrap()
    }

    /// Sends everything, in messages with numbers from `first` on.
    fn sent(window: &mut Window, now: Instant, first: usize) -> Vec<String> {
        let told = |report: &DeviceReport| match report {
            DeviceReport::Twin(device, report) => {
                format!("{} {}", device.name, report.twin.keys().cloned().collect::<Vec<_>>().join("+"))
            }
            DeviceReport::State(device, _) => format!("{} state", device.name),
        };
        (first..).map_while(|number| window.next(now, id(number))).map(|report| told(&report)).collect()
    }

    #[test]
    fn a_parcel_holds_a_property_once_and_order_is_kept_per_device() {
        let mut window = Window::default();
        window.add(vec![
            twin(1, "a", &["x"]),
            twin(2, "b", &["x"]),
            twin(3, "a", &["y"]),
            twin(4, "a", &["x"]),
            state(5, "a"),
            twin(6, "a", &["y"]),
        ]);
        assert_eq!(sent(&mut window, Instant::now(), 1), ["a x+y", "b x", "a x", "a state", "a y"]);
        window.confirmed(&id(1));
        assert_eq!(window.take_confirmed(), [1, 3]);
    }

    #[test]
    fn a_cut_sends_what_is_not_confirmed_again() {
        let (mut window, now) = (Window::default(), Instant::now());
        window.add(vec![twin(1, "a", &["x"]), twin(2, "a", &["x"]), twin(3, "a", &["x"])]);
        assert_eq!(sent(&mut window, now, 1).len(), 3);
        window.confirmed(&id(2));
        assert_eq!(window.take_confirmed(), [2]);
        window.link_lost();
        assert_eq!(window.read_up_to(), i64::MIN);
        assert!(!window.has_under_way() && window.wants_more());
        // More is there by now, in the same parcel as before.
        window.add(vec![twin(1, "a", &["x"]), twin(3, "a", &["y"])]);
        assert_eq!(sent(&mut window, now, 11), ["a x+y"]);
        window.confirmed(&id(1));
        assert!(!window.has_confirmed(), "an old message's word counts no more");
        window.confirmed(&id(11));
        assert_eq!(window.take_confirmed(), [1, 3]);
    }

    #[test]
    fn only_what_is_overdue_goes_again() {
        let (mut window, start) = (Window::default(), Instant::now());
        window.add(vec![twin(1, "a", &["x"])]);
        sent(&mut window, start, 1);
        let later = start + PATIENCE / 2;
        window.add(vec![twin(2, "b", &["x"])]);
        sent(&mut window, later, 2);
        assert_eq!(window.overdue(later), Overdue::default());
        assert!(window.overdue(start + PATIENCE).is_again);
        window.add(vec![twin(1, "a", &["x"]), twin(2, "b", &["x"])]);
        assert_eq!(sent(&mut window, start + PATIENCE, 3), ["a x"]);
        window.confirmed(&id(2));
        window.confirmed(&id(3));
        assert_eq!(window.take_confirmed(), [2, 1]);
        assert!(window.is_empty() && window.rows_under_way.is_empty() && window.tries.is_empty());
    }

    #[test]
    fn what_nobody_confirms_is_given_up_once_later_ones_are() {
        let (mut window, mut now) = (Window::default(), Instant::now());
        let rows = || vec![twin(1, "a", &["x"]), twin(2, "b", &["x"])];
        for round in 1..2 * TRIES as usize {
            window.add(rows());
            assert_eq!(sent(&mut window, now, 10 * round).len(), 2);
            now += PATIENCE;
            assert_eq!(
                window.overdue(now),
                Overdue { is_again: true, given_up: Vec::new() },
                "round {round}"
            );
        }
        // The cloud is back, and takes one of them only.
        window.add(rows());
        sent(&mut window, now, 1);
        window.confirmed(&id(2));
        now += PATIENCE;
        let given_up = vec![(device("a"), 1)];
        assert_eq!(window.overdue(now), Overdue { is_again: false, given_up });
        assert_eq!(window.take_confirmed(), [2, 1]);
        assert!(window.tries.is_empty());
        // What was confirmed before it left says nothing about it.
        window.add(vec![twin(3, "a", &["x"])]);
        sent(&mut window, now, 3);
        assert!(window.overdue(now + PATIENCE).is_again);
    }

    #[test]
    fn an_unreadable_row_is_struck_out() {
        let mut window = Window::default();
        window.add(vec![Row { sequence: 7, report: None }, twin(8, "a", &["x"])]);
        assert_eq!((window.take_confirmed(), window.read_up_to()), (vec![7], 8));
    }
}
