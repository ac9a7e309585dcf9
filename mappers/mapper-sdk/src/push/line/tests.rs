//! On a paused clock: a target that does what the test says.

use super::*;
use crate::push::queue::ROOM;

/// What a target does with a parcel, and what came of it.
#[derive(Default)]
struct Inside {
    /// `None`: nobody listens.
    is_up: bool,
    /// Deliveries to it never end.
    hangs: bool,
    n_connects: usize,
    /// Answers to come; none: yes.
    answers: Vec<Failure>,
    delivered: Vec<String>,
    n_asked: usize,
}

#[derive(Clone)]
struct Fake(&'static str, Arc<Mutex<Inside>>);

impl Fake {
    fn new(name: &'static str) -> Self {
        Self(name, Arc::new(Mutex::new(Inside { is_up: true, ..Inside::default() })))
    }

    fn inside(&self) -> MutexGuard<'_, Inside> {
        self.1.lock().unwrap()
    }

    fn delivered(&self) -> Vec<String> {
        self.inside().delivered.clone()
    }

    /// Time goes on until so many were delivered.
    async fn wait(&self, n_delivered: usize) {
        let begin = Instant::now();
        while self.inside().delivered.len() < n_delivered {
            assert!(begin.elapsed() < Duration::from_secs(3600), "{:?}", self.delivered());
            sleep(Duration::from_millis(50)).await;
        }
    }
}

impl PartialEq for Fake {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}

impl Eq for Fake {}

impl PartialOrd for Fake {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Fake {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(other.0)
    }
}

impl fmt::Display for Fake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0)
    }
}

impl Target for Fake {
    type Parcel = String;
    /// The number of the connection.
    type Session = usize;

    async fn connect(&self, _: &Secrets) -> Result<usize, Failure> {
        let mut inside = self.inside();
        inside.n_connects += 1;
        if inside.is_up { Ok(inside.n_connects) } else { Err(Failure::Away("refused".into())) }
    }

    async fn deliver(&self, session: &mut usize, parcel: &String) -> Result<(), Failure> {
        if self.inside().hangs {
            std::future::pending::<()>().await;
        }
        let mut inside = self.inside();
        inside.n_asked += 1;
        if !inside.is_up || *session < inside.n_connects {
            return Err(Failure::Away("broken".into()));
        }
        match inside.answers.pop() {
            Some(failure) => Err(failure),
            None => {
                inside.delivered.push(parcel.clone());
                Ok(())
            }
        }
    }
}

fn lines() -> Lines<Fake> {
    Lines::new(Arc::default())
}

fn push(line: &Line<Fake>, items: &[&str]) {
    for item in items {
        line.push("plant/oven-1 heat".into(), (*item).into());
    }
}

#[tokio::test(start_paused = true)]
async fn in_order_over_one_connection_for_all() {
    let (lines, fake) = (lines(), Fake::new("a"));
    let (one, other) = (lines.to(&fake), lines.to(&fake));
    push(&one, &["1"]);
    push(&other, &["2"]);
    push(&one, &["3"]);
    fake.wait(3).await;
    assert_eq!((fake.delivered().concat().as_str(), fake.inside().n_connects), ("123", 1));
    // A connection that broke while nothing was to be done is no failure.
    fake.inside().n_connects += 1;
    let before = Instant::now();
    push(&one, &["4"]);
    fake.wait(4).await;
    assert!(before.elapsed() < AGAIN.first);
    // The task goes with the last.
    let task = one.task.clone();
    drop(one);
    push(&other, &["5"]);
    fake.wait(5).await;
    drop(other);
    while !task.is_finished() {
        tokio::task::yield_now().await;
    }
    push(&lines.to(&fake), &["6"]);
}

#[tokio::test(start_paused = true)]
async fn what_waits_is_delivered_when_the_target_is_back() {
    let (lines, fake, well) = (lines(), Fake::new("a"), Fake::new("b"));
    fake.inside().is_up = false;
    let (line, line_well) = (lines.to(&fake), lines.to(&well));
    for number in 0..ROOM + 2 {
        push(&line, &[&number.to_string()]);
        push(&line_well, &[&number.to_string()]);
    }
    // Nobody else feels it.
    well.wait(ROOM).await;
    sleep(Duration::from_secs(600)).await;
    assert!(fake.delivered().is_empty());
    // It is not asked more and more often.
    assert!(fake.inside().n_connects < 40, "{}", fake.inside().n_connects);
    fake.inside().is_up = true;
    fake.wait(ROOM).await;
    assert_eq!(fake.delivered().first().map(String::as_str), Some("2"));
    // One that hangs is left after a while.
    fake.inside().hangs = true;
    push(&line, &["x"]);
    sleep(CALL_LIMIT * 2).await;
    fake.inside().hangs = false;
    fake.wait(ROOM + 1).await;
}

#[tokio::test(start_paused = true)]
async fn what_is_refused_holds_up_nothing() {
    let (lines, fake) = (lines(), Fake::new("a"));
    let line = lines.to(&fake);
    fake.inside().answers = vec![Failure::Refused("no".into())];
    push(&line, &["1", "2"]);
    fake.wait(1).await;
    assert_eq!(fake.delivered(), ["2"]);
    // A server that cannot do it is asked again, but not for ever.
    fake.inside().answers = vec![Failure::Busy("later".into()); 2];
    push(&line, &["3"]);
    fake.wait(2).await;
    fake.inside().answers = vec![Failure::Busy("later".into()); TRIES as usize];
    push(&line, &["4", "5"]);
    fake.wait(3).await;
    assert_eq!(fake.delivered(), ["2", "3", "5"]);
    let inside = fake.inside();
    assert_eq!((inside.n_connects, inside.n_asked), (1, 2 + 3 + TRIES as usize + 1));
}
