//! Pure: which device reports are under way, which goes next.
//!
//! Reports leave in the order of their rows; several of one device share a parcel as long as no property would stand in
//! it twice. One link keeps the order, and a cloud passes over a value that is older than what it has: a parcel that goes
//! twice does no harm.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::{Duration, Instant};

use super::{DeviceReport, Parcel};
use crate::device_id::DeviceId;

/// Rows read from disk at once.
pub(super) const PAGE: usize = 256;
/// Parcels under way at once: more than most nodes have devices, so that one whose value cannot be stored now holds up no
/// other's. They cost about 1 MB.
const UNDER_WAY: usize = 4096;
/// Unconfirmed for this long, a parcel goes again. KubeEdge's edges wait as long.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often a parcel goes before it is given up.
const TRIES: u32 = 5;
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

/// What must be done about a parcel that nobody confirms.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// Everything unconfirmed goes again.
    Again,
    /// It was tried often enough, while the cloud took later ones: this many reports go.
    GivenUp(DeviceId, usize),
}

#[derive(Debug)]
pub(super) struct Window {
    read_up_to: i64,
    waiting: VecDeque<Packed>,
    under_way: BTreeMap<Parcel, (Instant, DeviceId, Vec<i64>)>,
    confirmed: Vec<i64>,
    /// How often the oldest unconfirmed parcel went again.
    tries: Option<(Parcel, u32)>,
    /// The latest that the cloud confirmed.
    latest: Option<Parcel>,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            read_up_to: i64::MIN,
            waiting: VecDeque::new(),
            under_way: BTreeMap::new(),
            confirmed: Vec::new(),
            tries: None,
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

    /// Takes rows in, in their order, and packs them.
    pub(super) fn add(&mut self, page: Vec<Row>) {
        // The parcel of each device that may still take more, by its place in the queue.
        let mut open: HashMap<DeviceId, usize> = HashMap::new();
        for Row { sequence, report } in page {
            self.read_up_to = self.read_up_to.max(sequence);
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

    /// The next parcel; it is under way from now on.
    pub(super) fn next(&mut self, now: Instant) -> Option<(Parcel, DeviceReport)> {
        if !self.has_next() {
            return None;
        }
        let Packed { rows, report } = self.waiting.pop_front()?;
        let parcel = Parcel(rows.first().copied()?);
        self.under_way.insert(parcel, (now, device_of(&report).clone(), rows));
        Some((parcel, report))
    }

    /// The cloud has it.
    pub(super) fn confirmed(&mut self, parcel: Parcel) {
        if let Some((_, _, rows)) = self.under_way.remove(&parcel) {
            self.confirmed.extend(rows);
            self.latest = self.latest.max(Some(parcel));
        }
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

    /// Everything that is on disk is read and sent again.
    pub(super) fn rewind(&mut self) {
        self.read_up_to = i64::MIN;
        self.under_way.clear();
        self.waiting.clear();
    }

    /// What must be done about the oldest parcel, if it has been under way for too long.
    pub(super) fn overdue(&mut self, now: Instant) -> Option<Due> {
        let (parcel, (sent, device, rows)) = self.under_way.first_key_value()?;
        if now.saturating_duration_since(*sent) < PATIENCE {
            return None;
        }
        let (parcel, device, n_reports) = (*parcel, device.clone(), rows.len());
        let tries = match self.tries {
            Some((tried, n_tries)) if tried == parcel => n_tries + 1,
            _ => 2,
        };
        self.tries = Some((parcel, tries.min(TRIES + 1)));
        // A cloud that takes nothing at all may be without its API server for a while.
        if tries <= TRIES || self.latest <= Some(parcel) {
            return Some(Due::Again);
        }
        self.confirmed(parcel);
        Some(Due::GivenUp(device, n_reports))
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

    fn sent(window: &mut Window) -> Vec<(i64, String)> {
        let told = |report: &DeviceReport| match report {
            DeviceReport::Twin(device, report) => {
                format!("{} {}", device.name, report.twin.keys().cloned().collect::<Vec<_>>().join("+"))
            }
            DeviceReport::State(device, _) => format!("{} state", device.name),
        };
        std::iter::from_fn(|| window.next(Instant::now()))
            .map(|(Parcel(id), report)| (id, told(&report)))
            .collect()
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
        let expected = [(1, "a x+y"), (2, "b x"), (4, "a x"), (5, "a state"), (6, "a y")];
        assert_eq!(sent(&mut window), expected.map(|(id, text)| (id, text.to_owned())));
        window.confirmed(Parcel(1));
        assert_eq!(window.take_confirmed(), [1, 3]);
    }

    #[test]
    fn a_cut_sends_what_is_not_confirmed_again() {
        let mut window = Window::default();
        window.add(vec![twin(1, "a", &["x"]), twin(2, "a", &["x"]), twin(3, "a", &["x"])]);
        assert_eq!(sent(&mut window).len(), 3);
        window.confirmed(Parcel(2));
        assert_eq!(window.take_confirmed(), [2]);
        window.rewind();
        assert_eq!(window.read_up_to(), i64::MIN);
        assert!(!window.has_under_way() && window.wants_more());
        window.confirmed(Parcel(1));
        assert!(!window.has_confirmed(), "an old link's word counts no more");
    }

    #[test]
    fn what_nobody_confirms_is_given_up_once_later_ones_are() {
        let mut window = Window::default();
        let start = Instant::now();
        for round in 1..2 * TRIES {
            window.add(vec![twin(1, "a", &["x"])]);
            window.next(start).unwrap();
            assert_eq!(window.overdue(start), None);
            assert_eq!(window.overdue(start + PATIENCE), Some(Due::Again), "round {round}");
            window.rewind();
        }
        window.add(vec![twin(1, "a", &["x"]), twin(2, "b", &["x"])]);
        assert_eq!(sent(&mut window).len(), 2);
        window.confirmed(Parcel(2));
        assert_eq!(window.overdue(Instant::now() + PATIENCE), Some(Due::GivenUp(device("a"), 1)));
        assert_eq!(window.take_confirmed(), [2, 1]);
    }

    #[test]
    fn an_unreadable_row_is_struck_out() {
        let mut window = Window::default();
        window.add(vec![Row { sequence: 7, report: None }, twin(8, "a", &["x"])]);
        assert_eq!((window.take_confirmed(), window.read_up_to()), (vec![7], 8));
    }
}
