//! Both ends on a virtual wire and a virtual clock. The wire loses, repeats, delays and reorders frames, more than any
//! WebSocket would; everything random comes from a seed that a failing run prints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a whole file of tests"
)]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, Instant};

use bytes::Bytes;
use ke_link::cloud::Output as FromCloud;
use ke_link::edge::Output as FromEdge;
use ke_link::{CloseReason, CloudConfig, CloudEnd, EdgeConfig, EdgeEnd, IgnoredWhy, WindowFull};
use ke_wire::kubeedge::{FRAME_LIMIT, decode_up, encode_down, encode_up};
use ke_wire::{
    About, AckRoute, Answer, Change, Delete, Down, Kind, MessageId, ObjectKey, Origin, Put, Question, Up,
    Version,
};
use proptest::prelude::*;

/// xorshift64*: the same numbers on every machine for one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) % sides
    }

    fn percent(&mut self, chance: u64) -> bool {
        self.roll(100) < chance
    }
}

/// What happens to frames, in percent, and how late they come.
#[derive(Clone, Copy, Debug)]
struct Weather {
    loss: u64,
    repeat: u64,
    delay_ms: u64,
    /// No frame arrives at the edge, or at the cloud, any more.
    down_dead: bool,
    up_dead: bool,
}

const CALM: Weather = Weather { loss: 0, repeat: 0, delay_ms: 20, down_dead: false, up_dead: false };

#[derive(Clone)]
enum Frame {
    Down(Bytes),
    Up(Bytes),
    Ping,
    Pong,
}

struct Pair {
    dice: Dice,
    weather: Weather,
    start: Instant,
    now: Instant,
    cloud: CloudEnd,
    edge: EdgeEnd,
    wire: BTreeMap<(Instant, u64), Frame>,
    n_frames: u64,
    /// What the callers saw.
    delivered: Vec<MessageId>,
    lost: Vec<MessageId>,
    asked_of_cloud: VecDeque<(MessageId, Question)>,
    handed_up: Vec<MessageId>,
    unstored: VecDeque<(Instant, MessageId)>,
    answered: Vec<(MessageId, Answer)>,
    timed_out: Vec<MessageId>,
    ignored: Vec<IgnoredWhy>,
    cloud_closed: Option<Duration>,
    edge_closed: Option<Duration>,
    /// How long the edge's disk takes.
    store_ms: u64,
}

impl Pair {
    fn new(seed: u64, weather: Weather) -> Self {
        println!("seed {seed}, {weather:?}");
        let now = Instant::now();
        Self {
            dice: Dice(seed | 1),
            weather,
            start: now,
            now,
            cloud: CloudEnd::new(now, CloudConfig::default()),
            edge: EdgeEnd::new(now, EdgeConfig::default()),
            wire: BTreeMap::new(),
            n_frames: 0,
            delivered: Vec::new(),
            lost: Vec::new(),
            asked_of_cloud: VecDeque::new(),
            handed_up: Vec::new(),
            unstored: VecDeque::new(),
            answered: Vec::new(),
            timed_out: Vec::new(),
            ignored: Vec::new(),
            cloud_closed: None,
            edge_closed: None,
            store_ms: 5,
        }
    }

    fn elapsed(&self) -> Duration {
        self.now - self.start
    }

    fn put_on_wire(&mut self, frame: Frame) {
        let is_dead = match frame {
            Frame::Down(_) | Frame::Pong => self.weather.down_dead,
            Frame::Up(_) | Frame::Ping => self.weather.up_dead,
        };
        let copies = if self.dice.percent(self.weather.repeat) { 2 } else { 1 };
        for _ in 0..copies {
            let late = Duration::from_millis(1 + self.dice.roll(self.weather.delay_ms));
            if !is_dead && !self.dice.percent(self.weather.loss) {
                self.n_frames += 1;
                self.wire.insert((self.now + late, self.n_frames), frame.clone());
            }
        }
    }

    /// Empties both ends and does what the callers of both ends do.
    fn settle(&mut self) {
        while let Some(output) = self.cloud.poll_output() {
            match output {
                FromCloud::Transmit(bytes) => self.put_on_wire(Frame::Down(bytes)),
                FromCloud::Received(Up::Ask { id, question }) => {
                    self.asked_of_cloud.push_back((id, question))
                }
                FromCloud::Received(_) => {}
                FromCloud::Delivered { id, .. } => self.delivered.push(id),
                FromCloud::Lost { id, .. } => self.lost.push(id),
                FromCloud::Ignored { why } => self.ignored.push(why),
                FromCloud::Closed(CloseReason::Silent) => self.cloud_closed = Some(self.elapsed()),
            }
        }
        while let Some(output) = self.edge.poll_output() {
            match output {
                FromEdge::Transmit(bytes) => self.put_on_wire(Frame::Up(bytes)),
                FromEdge::Ping => self.put_on_wire(Frame::Ping),
                FromEdge::Received(Down::Put(Put { id, .. }) | Down::Delete(Delete { id, .. })) => {
                    self.handed_up.push(id.clone());
                    let done = self.now + Duration::from_millis(1 + self.dice.roll(self.store_ms));
                    self.unstored.push_back((done, id));
                }
                FromEdge::Received(_) => {}
                FromEdge::Answered { id, answer, receipt, .. } => {
                    self.answered.push((id, answer));
                    if let Some(kept) = receipt {
                        self.edge.acknowledge(self.now, &kept);
                    }
                }
                FromEdge::TimedOut { id } => self.timed_out.push(id),
                FromEdge::Ignored { why } => self.ignored.push(why),
                FromEdge::Closed(CloseReason::Silent) => self.edge_closed = Some(self.elapsed()),
            }
        }
    }

    /// One event: the next frame, stored object or timeout, whichever is first.
    fn step(&mut self) {
        self.settle();
        let frame = self.wire.keys().next().copied();
        let stored = self.unstored.iter().map(|(done, _)| *done).min();
        let times = [frame.map(|(at, _)| at), stored, self.cloud.poll_timeout(), self.edge.poll_timeout()];
        let Some(next) = times.into_iter().flatten().min() else {
            self.now += Duration::from_secs(1);
            return;
        };
        self.now = self.now.max(next);
        if let Some(frame) = frame.filter(|(at, _)| *at <= self.now).and_then(|key| self.wire.remove(&key)) {
            match frame {
                Frame::Down(bytes) => self.edge.handle_bytes(self.now, &bytes).unwrap(),
                Frame::Up(bytes) => self.cloud.handle_bytes(self.now, &bytes).unwrap(),
                Frame::Ping => {
                    self.cloud.handle_life(self.now);
                    self.put_on_wire(Frame::Pong);
                }
                Frame::Pong => self.edge.handle_pong(self.now),
            }
        }
        if let Some(place) = self.unstored.iter().position(|(done, _)| *done <= self.now) {
            let (_, id) = self.unstored.remove(place).unwrap();
            assert!(self.edge.acknowledge(self.now, &id));
        }
        self.cloud.handle_timeout(self.now);
        self.edge.handle_timeout(self.now);
        self.settle();
    }

    fn run_for(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.step();
        }
    }
}

fn put(n: usize) -> Put {
    let name = format!("pod-{n}");
    Put {
        id: MessageId::fresh(),
        key: format!("default/pod/{name}").parse().unwrap(),
        version: Version::new(n as u64 + 1),
        change: Change::Updated,
        origin: Origin::EdgeController,
        body: format!(r#"{{"metadata":{{"name":"{name}","uid":"u-{n}"}}}}"#).into(),
    }
}

/// Sends objects through the window, and what is lost again, as a queue does.
fn deliver_all(seed: u64, weather: Weather, n_objects: usize) {
    let mut pair = Pair::new(seed, weather);
    pair.store_ms = 1 + pair.dice.roll(9_000);
    let mut waiting: VecDeque<Put> = (0..n_objects).map(put).collect();
    let mut under_way: HashMap<MessageId, Put> = HashMap::new();
    let mut versions: HashSet<Version> = HashSet::new();
    while versions.len() < n_objects {
        while pair.cloud.has_room()
            && let Some(put) = waiting.pop_front()
        {
            under_way.insert(put.id.clone(), put.clone());
            pair.cloud.send(pair.now, Down::Put(put)).unwrap();
        }
        assert!(pair.cloud.n_in_flight() <= CloudConfig::default().window);
        if !waiting.is_empty() && !pair.cloud.has_room() {
            assert_eq!(pair.cloud.send(pair.now, Down::Put(put(0))), Err(WindowFull));
        }
        pair.step();
        for id in pair.delivered.drain(..) {
            let put = under_way.remove(&id).expect("delivered twice, or after it was lost");
            assert!(pair.handed_up.contains(&id), "acknowledged without being stored");
            assert!(versions.insert(put.version));
        }
        for id in pair.lost.drain(..) {
            let put = under_way.remove(&id).expect("lost twice, or after it was delivered");
            waiting.push_back(Put { id: MessageId::fresh(), ..put });
        }
        assert_eq!((pair.cloud_closed, pair.edge_closed), (None, None), "a link with frames on it is alive");
        assert!(pair.elapsed() < Duration::from_secs(3600), "no progress");
    }
    let unique: HashSet<_> = pair.handed_up.iter().collect();
    assert_eq!(unique.len(), pair.handed_up.len(), "a retransmission was handed up");
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_put_is_delivered_once(
        seed: u64,
        loss in 0_u64..30,
        repeat in 0_u64..30,
        delay_ms in 1_u64..8_000,
        n_objects in 1_usize..60,
    ) {
        // Silence is another test: with many losses two heartbeats in a row may fail, so keep the ends chatting.
        let loss = if delay_ms > 4_000 { 0 } else { loss.min(12) };
        deliver_all(seed, Weather { loss, repeat, delay_ms, ..CALM }, n_objects);
    }
}

#[test]
fn silence_is_noticed_within_45_seconds_whichever_way_is_dead() {
    let check = |down_dead: bool, up_dead: bool, after: u64| {
        let mut pair = Pair::new(after, CALM);
        pair.run_for(Duration::from_secs(after));
        let cut = pair.elapsed();
        pair.weather = Weather { down_dead, up_dead, ..CALM };
        pair.run_for(Duration::from_secs(60));
        let in_time = |closed: Option<Duration>| closed.map(|at| at - cut <= Duration::from_secs(45));
        let is_dead = down_dead || up_dead;
        assert_eq!(in_time(pair.edge_closed), is_dead.then_some(true), "edge, cut after {after}");
        // While only the way down is dead the cloud still hears the edge, until the edge gives up.
        if up_dead || !is_dead {
            assert_eq!(in_time(pair.cloud_closed), is_dead.then_some(true), "cloud, cut after {after}");
        }
    };
    for after in [0, 1, 7, 14, 15, 16, 29, 31, 100] {
        for (down_dead, up_dead) in [(true, true), (false, true), (true, false), (false, false)] {
            check(down_dead, up_dead, after);
        }
    }
}

#[test]
fn answers_find_their_question_in_any_order() {
    for seed in 0..20 {
        let mut pair = Pair::new(seed, CALM);
        let asked: Vec<(MessageId, String)> = (0..20)
            .map(|n| {
                let name = format!("c-{n}");
                let key: ObjectKey = format!("default/configmap/{name}").parse().unwrap();
                (pair.edge.ask(pair.now, Question::Get(key)), name)
            })
            .collect();
        pair.run_for(Duration::from_secs(1));
        let mut questions: Vec<_> = pair.asked_of_cloud.drain(..).collect();
        while !questions.is_empty() {
            let place = pair.dice.roll(questions.len() as u64) as usize;
            let (to, question) = questions.swap_remove(place);
            let Question::Get(key) = question else { panic!("{question:?}") };
            let answer = Answer::Object(format!(r#"{{"metadata":{{"name":"{}"}}}}"#, key.name).into());
            let version = Some(Version::new(7));
            let id = MessageId::fresh();
            pair.cloud
                .send(pair.now, Down::Answer { id, to, about: About::Object(key), version, answer })
                .unwrap();
        }
        pair.run_for(Duration::from_secs(1));
        for (id, name) in &asked {
            let found: Vec<_> = pair.answered.iter().filter(|(answered, _)| answered == id).collect();
            let [(_, Answer::Object(body))] = found[..] else { panic!("{name}: {found:?}") };
            assert!(body.windows(name.len()).any(|text| text == name.as_bytes()));
        }
        // The node keeps what it read, and the cloud learns that.
        assert_eq!(pair.delivered.len(), asked.len());
        assert_eq!(pair.cloud.n_in_flight(), 0);
    }
}

#[test]
fn a_question_without_answer_times_out_once_and_a_late_answer_is_ignored() {
    let mut pair = Pair::new(1, CALM);
    let key: ObjectKey = "default/secret/s".parse().unwrap();
    let id = pair.edge.ask(pair.now, Question::Get(key.clone()));
    pair.run_for(Duration::from_secs(40));
    assert_eq!(pair.timed_out, []);
    pair.run_for(Duration::from_secs(60));
    assert_eq!(pair.timed_out, std::slice::from_ref(&id));
    let answer = Answer::Object(Bytes::from_static(br#"{"metadata":{}}"#));
    let late =
        Down::Answer { id: MessageId::fresh(), to: id, about: About::Object(key), version: None, answer };
    pair.cloud.send(pair.now, late).unwrap();
    pair.run_for(Duration::from_secs(2));
    assert_eq!((&pair.answered[..], &pair.ignored[..]), (&[][..], &[IgnoredWhy::LateAnswer][..]));
}

#[test]
fn what_the_edge_cannot_keep_comes_again() {
    let now = Instant::now();
    let mut edge = EdgeEnd::new(now, EdgeConfig::default());
    while edge.poll_output().is_some() {}
    let put = put(1);
    let frame = encode_down(&Down::Put(put.clone()), 0);
    let received = |edge: &mut EdgeEnd| {
        edge.handle_bytes(now, &frame).unwrap();
        edge.poll_output()
    };
    let up = |output: Option<FromEdge>| match output {
        Some(FromEdge::Transmit(bytes)) => decode_up(&bytes, FRAME_LIMIT).unwrap(),
        other => panic!("{other:?}"),
    };
    let about = About::Object(put.key.clone());
    assert_eq!(received(&mut edge), Some(FromEdge::Received(Down::Put(put.clone()))));
    assert_eq!(received(&mut edge), None, "it is still being stored");
    assert!(edge.not_kept(now, &put.id, "disk is full".into()));
    assert!(matches!(up(edge.poll_output()), Up::NotKept { to, .. } if to == put.id));
    assert_eq!(received(&mut edge), Some(FromEdge::Received(Down::Put(put.clone()))));
    assert!(edge.acknowledge(now, &put.id));
    assert!(!edge.acknowledge(now, &put.id));
    for again in [edge.poll_output(), received(&mut edge), received(&mut edge)] {
        let Up::Ack { to, about: said, route, .. } = up(again) else { panic!("no acknowledgement") };
        assert_eq!(
            (to, said, route),
            (put.id.clone(), about.clone(), AckRoute::AsReceived(Origin::EdgeController))
        );
    }
}

#[test]
fn an_unacknowledged_message_is_sent_five_times_in_the_same_words() {
    let start = Instant::now();
    let mut cloud = CloudEnd::new(start, CloudConfig::default());
    let put = put(1);
    cloud.send(start, Down::Put(put.clone())).unwrap();
    let mut seen = Vec::new();
    let keepalive = encode_up(&Up::Keepalive { id: MessageId::fresh() }, 0);
    for second in 0..40 {
        let now = start + Duration::from_secs(second);
        cloud.handle_bytes(now, &keepalive).unwrap();
        cloud.handle_timeout(now);
        while let Some(output) = cloud.poll_output() {
            seen.push((second, output));
        }
    }
    let FromCloud::Transmit(frame) = &seen[0].1 else { panic!("{seen:?}") };
    let lost = FromCloud::Lost {
        id: put.id.clone(),
        key: put.key.clone(),
        version: Some(put.version),
        deed: ke_link::Deed::Put,
    };
    let expected: Vec<_> = [0, 5, 10, 15, 20]
        .into_iter()
        .map(|second| (second, FromCloud::Transmit(frame.clone())))
        .chain([(25, lost)])
        .collect();
    assert_eq!(seen, expected);
    assert_eq!(cloud.n_in_flight(), 0);
}

#[test]
fn nonsense_is_ignored_unless_it_is_no_json() {
    let now = Instant::now();
    let mut cloud = CloudEnd::new(now, CloudConfig::default());
    let odd = br#"{"header":{"msg_id":"a"},"route":{"operation":"dance"}}"#;
    cloud.handle_bytes(now, odd).unwrap();
    assert!(matches!(cloud.poll_output(), Some(FromCloud::Ignored { .. })));
    assert!(cloud.handle_bytes(now, b"\0\0").is_err());
    assert_eq!((cloud.poll_output(), cloud.poll_timeout(), cloud.has_room()), (None, None, false));
    let mut edge = EdgeEnd::new(now, EdgeConfig::default());
    edge.handle_bytes(now, odd).unwrap();
    assert!(edge.handle_bytes(now, b"").is_err());
    assert_eq!(edge.poll_timeout(), None);
}

#[test]
fn device_objects_are_acknowledged_as_go_edges_do() {
    let check = |kind: Kind, origin: Origin, expected: AckRoute| {
        let now = Instant::now();
        let mut edge = EdgeEnd::new(now, EdgeConfig::default());
        while edge.poll_output().is_some() {}
        let mut put = put(1);
        put.key.kind = kind;
        put.origin = origin;
        edge.handle_bytes(now, &encode_down(&Down::Put(put.clone()), 0)).unwrap();
        edge.poll_output();
        edge.acknowledge(now, &put.id);
        let Some(FromEdge::Transmit(bytes)) = edge.poll_output() else { panic!("no acknowledgement") };
        let Ok(Up::Ack { route, .. }) = decode_up(&bytes, FRAME_LIMIT) else { panic!("no acknowledgement") };
        assert_eq!(route, expected);
    };
    check(Kind::Device, Origin::DeviceController, AckRoute::Twin);
    check(Kind::Device, Origin::EdgeController, AckRoute::AsReceived(Origin::EdgeController));
    check(Kind::Pod, Origin::DynamicController, AckRoute::AsReceived(Origin::DynamicController));
}
