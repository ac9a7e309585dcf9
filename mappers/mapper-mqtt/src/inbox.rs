//! Pure: what a device told and nobody took yet, the newest of each property, and which of them are too old.
//!
//! `now` is the time since any fixed moment. Filled by `link.rs`, emptied by `driver.rs`.

use std::collections::VecDeque;
use std::time::Duration;

use mapper_sdk::value::Value;

/// Values that wait, and their bytes. When full the oldest goes: whoever sends faster than we take wants the newest.
const MOST_WAITING: usize = 1000;
const MOST_BYTES: usize = 4 << 20;

/// A value, or why a message had none.
pub type Told = Result<Value, String>;

/// What is known of a property.
#[derive(Clone, Debug, PartialEq)]
pub enum Known {
    /// No message yet.
    Nothing,
    /// Of the last message.
    Told(Told),
    /// The last message is older than the setting allows: this.
    TooOld(Duration),
}

/// All properties of one device, by number.
#[derive(Debug, Default)]
pub struct Inbox {
    properties: Vec<Heard>,
    waiting: VecDeque<(usize, Told)>,
    n_bytes: usize,
    n_dropped: u64,
}

#[derive(Debug)]
struct Heard {
    max_age: Option<Duration>,
    newest: Option<Told>,
    /// When the last message came; before the first, when we began to listen.
    at: Duration,
    is_told_old: bool,
}

impl Inbox {
    /// For properties whose values age so.
    pub fn new(max_ages: impl IntoIterator<Item = Option<Duration>>, now: Duration) -> Self {
        let heard = |max_age| Heard { max_age, newest: None, at: now, is_told_old: false };
        Self { properties: max_ages.into_iter().map(heard).collect(), ..Self::default() }
    }

    /// A message came. The same complaint as before is not queued again: a device that sends nonsense sends much of it.
    pub fn put(&mut self, number: usize, told: Told, now: Duration) {
        let Some(heard) = self.properties.get_mut(number) else { return };
        let is_known = told.is_err() && heard.newest.as_ref() == Some(&told);
        heard.at = now;
        heard.is_told_old = false;
        if is_known {
            return;
        }
        heard.newest = Some(told.clone());
        self.n_bytes += weight(&told);
        self.waiting.push_back((number, told));
        while self.waiting.len() > MOST_WAITING || (self.n_bytes > MOST_BYTES && self.waiting.len() > 1) {
            self.pop();
            self.n_dropped += 1;
        }
    }

    /// The next in the order in which they came.
    pub fn pop(&mut self) -> Option<(usize, Told)> {
        let next = self.waiting.pop_front();
        self.n_bytes -= next.as_ref().map_or(0, |(_, told)| weight(told));
        next
    }

    /// How many went untold since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.n_dropped)
    }

    /// What is known now.
    #[must_use]
    pub fn known(&self, number: usize, now: Duration) -> Known {
        let Some(heard) = self.properties.get(number) else { return Known::Nothing };
        match (&heard.newest, heard.max_age) {
            (Some(_), Some(max_age)) if now >= heard.at + max_age => Known::TooOld(max_age),
            (Some(told), _) => Known::Told(told.clone()),
            (None, _) => Known::Nothing,
        }
    }

    /// When the next property becomes too old.
    #[must_use]
    pub fn next_old(&self) -> Option<Duration> {
        let untold = self.properties.iter().filter(|heard| !heard.is_told_old);
        untold.filter_map(|heard| Some(heard.at + heard.max_age?)).min()
    }

    /// A property that became too old, and the age that it may have; each once until its next message.
    pub fn pop_old(&mut self, now: Duration) -> Option<(usize, Duration)> {
        let is_old = |heard: &Heard| {
            !heard.is_told_old && heard.max_age.is_some_and(|max_age| now >= heard.at + max_age)
        };
        let (number, heard) = self.properties.iter_mut().enumerate().find(|(_, heard)| is_old(heard))?;
        heard.is_told_old = true;
        Some((number, heard.max_age?))
    }
}

/// Bytes beyond the place in the queue.
fn weight(told: &Told) -> usize {
    match told {
        Ok(Value::Text(text)) | Err(text) => text.len(),
        Ok(Value::Bytes(bytes)) => bytes.len(),
        Ok(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn in_order_and_the_newest_stays() {
        let mut inbox = Inbox::new([None, None], Duration::ZERO);
        assert_eq!((inbox.pop(), inbox.known(0, SECOND)), (None, Known::Nothing));
        inbox.put(0, Ok(Value::Int(1)), SECOND);
        inbox.put(1, Err("no value".into()), SECOND);
        inbox.put(0, Ok(Value::Int(2)), SECOND);
        inbox.put(9, Ok(Value::Int(9)), SECOND);
        assert_eq!(inbox.pop(), Some((0, Ok(Value::Int(1)))));
        assert_eq!(inbox.pop(), Some((1, Err("no value".into()))));
        assert_eq!(inbox.pop(), Some((0, Ok(Value::Int(2)))));
        assert_eq!(inbox.pop(), None);
        assert_eq!(inbox.known(0, 9 * SECOND), Known::Told(Ok(Value::Int(2))));
        assert_eq!(inbox.next_old(), None);
    }

    #[test]
    fn a_complaint_is_told_once_until_there_is_another() {
        let mut inbox = Inbox::new([Some(2 * SECOND)], Duration::ZERO);
        let complaint = || Err("no value".to_owned());
        for (at, told) in
            (0..).zip([complaint(), complaint(), Ok(Value::Int(1)), Ok(Value::Int(1)), complaint()])
        {
            inbox.put(0, told, at * SECOND);
        }
        let told: Vec<bool> = std::iter::from_fn(|| inbox.pop()).map(|(_, told)| told.is_ok()).collect();
        assert_eq!(told, [false, true, true, false]);
        inbox.put(0, complaint(), 9 * SECOND);
        assert_eq!((inbox.pop(), inbox.next_old()), (None, Some(11 * SECOND)));
    }

    #[test]
    fn the_oldest_go_when_full() {
        let mut inbox = Inbox::new([None], Duration::ZERO);
        for number in 0..1003 {
            inbox.put(0, Ok(Value::Int(number)), SECOND);
        }
        assert_eq!((inbox.take_dropped(), inbox.take_dropped()), (3, 0));
        assert_eq!(inbox.pop(), Some((0, Ok(Value::Int(3)))));

        let long = "x".repeat(3 << 20);
        for _ in 0..3 {
            inbox.put(0, Ok(Value::Text(long.clone())), SECOND);
        }
        assert_eq!(inbox.take_dropped(), 1001);
        assert_eq!(inbox.pop(), Some((0, Ok(Value::Text(long)))));
        assert_eq!((inbox.pop(), inbox.n_bytes), (None, 0));
    }

    #[test]
    fn values_age() {
        let mut inbox = Inbox::new([Some(10 * SECOND), None, Some(20 * SECOND)], SECOND);
        assert_eq!(inbox.next_old(), Some(11 * SECOND));
        inbox.put(0, Ok(Value::Int(1)), 5 * SECOND);
        assert_eq!((inbox.next_old(), inbox.pop_old(14 * SECOND)), (Some(15 * SECOND), None));
        assert_eq!(inbox.known(0, 15 * SECOND), Known::TooOld(10 * SECOND));
        assert_eq!(inbox.pop_old(15 * SECOND), Some((0, 10 * SECOND)));
        assert_eq!(inbox.pop_old(15 * SECOND), None);
        assert_eq!(inbox.pop_old(21 * SECOND), Some((2, 20 * SECOND)));
        assert_eq!(inbox.next_old(), None);
        inbox.put(0, Ok(Value::Int(2)), 30 * SECOND);
        assert_eq!(inbox.known(0, 31 * SECOND), Known::Told(Ok(Value::Int(2))));
        assert_eq!(inbox.next_old(), Some(40 * SECOND));
    }
}
