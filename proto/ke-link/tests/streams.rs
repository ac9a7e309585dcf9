//! Both ends of a link's streams on a wire that delays at will but keeps order, as a WebSocket does. There is no clock:
//! nothing in them depends on time. Everything random comes from a seed that a failing run prints.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a whole file of tests"
)]

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use ke_link::streams::{
    FIRST_WINDOW, GROWTH, LINK_WINDOW, MAX_DATA, MAX_LINK_QUEUE, MAX_STREAMS, MAX_URGENT, MAX_WINDOW, Output,
    Read, ResetCode, Role, StreamError, StreamId, StreamKind, Streams, StreamsBroken, TooManyStreams,
};
use proptest::prelude::*;

/// All that one end may ever hold of its streams.
const MAX_HELD: usize = MAX_STREAMS * FIRST_WINDOW + GROWTH + MAX_LINK_QUEUE;

/// xorshift64*: the same numbers on every machine for one seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33) as usize % sides
    }
}

/// What the user of one end of one stream did and saw.
#[derive(Debug, Default)]
struct User {
    n_sent: usize,
    n_received: usize,
    has_finished: bool,
    saw_end: bool,
    saw_reset: bool,
    has_let_go: bool,
}

struct End {
    streams: Streams,
    users: BTreeMap<StreamId, User>,
    /// Frames on their way to this end.
    wire: VecDeque<Bytes>,
    salt: usize,
}

impl End {
    fn new(role: Role) -> Self {
        let salt = if role == Role::Cloud { 0 } else { 101 };
        Self { streams: Streams::new(role), users: BTreeMap::new(), wire: VecDeque::new(), salt }
    }

    fn settle(&mut self) {
        while let Some(output) = self.streams.poll_output() {
            if let Output::Opened(id, _) = output {
                self.users.insert(id, User::default());
            }
        }
    }

    fn transmit_to(&mut self, other: &mut End) -> bool {
        let has_frame = self.streams.has_transmit();
        let frame = self.streams.poll_transmit();
        assert_eq!(frame.is_some(), has_frame);
        self.settle();
        other.wire.extend(frame);
        has_frame
    }

    fn take_in(&mut self) -> bool {
        let Some(frame) = self.wire.pop_front() else { return false };
        self.streams.handle_bytes(&frame).unwrap();
        self.settle();
        true
    }

    fn used(&self) -> Vec<StreamId> {
        self.users.iter().filter(|(_, user)| !user.has_let_go).map(|(id, _)| *id).collect()
    }

    fn pick(&self, dice: &mut Dice) -> Option<StreamId> {
        let ids = self.used();
        (!ids.is_empty()).then(|| ids[dice.roll(ids.len())])
    }

    fn write(&mut self, id: StreamId, n_bytes: usize) -> usize {
        let user = self.users.get_mut(&id).unwrap();
        let bytes = letters(id, self.salt, user.n_sent, n_bytes);
        let n_taken = match self.streams.send(id, &bytes) {
            Ok(n_taken) => n_taken,
            Err(StreamError::Ended) => {
                assert!(user.has_finished);
                0
            }
            Err(StreamError::Reset(_)) => 0,
        };
        user.n_sent += n_taken;
        self.settle();
        n_taken
    }

    fn read(&mut self, id: StreamId, n_bytes: usize) -> bool {
        let user = self.users.get_mut(&id).unwrap();
        let mut into = vec![0; n_bytes];
        let other_salt = 101 - self.salt;
        let has_more = match self.streams.read(id, &mut into) {
            Ok(Read::Bytes(n_read)) => {
                assert!(!user.saw_end, "data after the end");
                let expected = letters(id, other_salt, user.n_received, n_read);
                assert!(into[..n_read] == expected, "{id:?}: wrong bytes after {}", user.n_received);
                user.n_received += n_read;
                true
            }
            Ok(Read::Nothing) => false,
            Ok(Read::End) => {
                user.saw_end = true;
                false
            }
            Err(_) => {
                user.saw_reset = true;
                false
            }
        };
        self.settle();
        has_more
    }

    fn finish(&mut self, id: StreamId) {
        self.streams.fin(id);
        self.users.get_mut(&id).unwrap().has_finished = true;
        self.settle();
    }

    fn let_go(&mut self, id: StreamId, refuses: bool) {
        if refuses {
            self.streams.reset(id, ResetCode::Refused, "not today");
        } else {
            self.streams.release(id);
        }
        self.users.get_mut(&id).unwrap().has_let_go = true;
        self.settle();
    }

    fn check_limits(&self) {
        assert!(self.streams.n_streams() <= MAX_STREAMS);
        assert!(self.streams.n_held_bytes() <= MAX_HELD, "{} bytes held", self.streams.n_held_bytes());
        let on_wire: usize =
            self.wire.iter().filter(|frame| frame[0] == 2).map(|frame| frame.len() - 5).sum();
        assert!(on_wire <= LINK_WINDOW, "{on_wire} bytes in front of a message");
    }
}

/// The bytes that belong here: a lost, doubled or swapped one is seen.
fn letters(id: StreamId, salt: usize, from: usize, n_bytes: usize) -> Vec<u8> {
    let text = format!("{id:?}").bytes().map(usize::from).sum::<usize>();
    (from..from + n_bytes).map(|at| ((text * 31 + salt + at * 7 + at / 251) % 256) as u8).collect()
}

/// Moves everything there is to move until nothing moves.
fn drain(cloud: &mut End, edge: &mut End) {
    loop {
        let mut has_moved = cloud.transmit_to(edge) | edge.transmit_to(cloud);
        has_moved |= cloud.take_in() | edge.take_in();
        for end in [&mut *cloud, &mut *edge] {
            for id in end.used() {
                has_moved |= end.read(id, 50_000);
            }
        }
        if !has_moved {
            return;
        }
    }
}

fn run(seed: u64, n_steps: usize, lets_go: bool) {
    println!("seed {seed}");
    let mut dice = Dice(seed | 1);
    let (mut cloud, mut edge) = (End::new(Role::Cloud), End::new(Role::Edge));
    for _ in 0..n_steps {
        let (end, other) = if dice.roll(2) == 0 { (&mut cloud, &mut edge) } else { (&mut edge, &mut cloud) };
        let id = end.pick(&mut dice);
        match (dice.roll(24), id) {
            (0, _) => {
                if let Ok(id) = cloud.streams.open(StreamKind::Kubelet) {
                    cloud.users.insert(id, User::default());
                }
            }
            (1..=6, Some(id)) => drop(end.write(id, 1 + dice.roll(40_000))),
            (7..=9, Some(id)) => drop(end.read(id, 1 + dice.roll(40_000))),
            (10, Some(id)) if dice.roll(4) == 0 => end.finish(id),
            (11, Some(id)) if lets_go && dice.roll(4) == 0 => {
                let refuses = dice.roll(3) == 0;
                end.let_go(id, refuses);
            }
            (12..=17, _) => drop(end.transmit_to(other)),
            _ => drop(end.take_in()),
        }
        cloud.check_limits();
        edge.check_limits();
    }
    drain(&mut cloud, &mut edge);
    for end in [&mut cloud, &mut edge] {
        for id in end.used() {
            end.finish(id);
        }
    }
    drain(&mut cloud, &mut edge);
    for (id, down) in &cloud.users {
        // Opened, and ended before the edge heard of it.
        let Some(up) = edge.users.get(id) else { continue };
        for (from, to) in [(down, up), (up, down)] {
            assert!(to.n_received <= from.n_sent);
            if !(from.has_let_go || to.has_let_go) {
                assert!(to.saw_end && !to.saw_reset, "{id:?}: {to:?}");
                assert_eq!(to.n_received, from.n_sent, "{id:?}");
            } else if to.saw_end {
                assert_eq!(to.n_received, from.n_sent, "{id:?}: an end that is none");
            }
        }
    }
    for end in [&mut cloud, &mut edge] {
        for id in end.used() {
            end.let_go(id, false);
        }
    }
    drain(&mut cloud, &mut edge);
    for end in [&cloud, &edge] {
        assert_eq!((end.streams.n_streams(), end.streams.n_held_bytes()), (0, 0));
        assert!(!end.streams.has_transmit());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn nothing_is_lost_and_order_is_kept(seed: u64) {
        run(seed, 1500, false);
    }

    #[test]
    fn whoever_lets_go_disturbs_no_other(seed: u64) {
        run(seed, 1500, true);
    }

    #[test]
    fn garbage_never_panics_and_never_fills_memory(
        frames in prop::collection::vec((0_u8..9, 0_u32..9, prop::collection::vec(any::<u8>(), 0..40)), 0..200),
        raw in prop::collection::vec(any::<u8>(), 0..40),
        is_cloud: bool,
    ) {
        let mut streams = Streams::new(if is_cloud { Role::Cloud } else { Role::Edge });
        let own = if is_cloud { streams.open(StreamKind::Kubelet).ok() } else { None };
        let _ = streams.handle_bytes(&raw);
        for (kind, id, rest) in frames {
            let frame = [&[kind][..], &id.to_be_bytes(), &rest].concat();
            let _ = streams.handle_bytes(&frame);
            while streams.poll_output().is_some() {}
            if let Some(id) = own {
                let _ = streams.send(id, &rest);
            }
            prop_assert!(streams.n_held_bytes() <= MAX_HELD);
        }
        while streams.poll_transmit().is_some() {}
    }
}

fn frame(kind: u8, id: u32, rest: &[u8]) -> Vec<u8> {
    [&[kind][..], &id.to_be_bytes(), rest].concat()
}

/// An edge with the streams 1 (open) and 3 (the cloud said its end), and everything told.
fn edge() -> Streams {
    let mut edge = Streams::new(Role::Edge);
    for bytes in [frame(1, 1, &[1]), frame(1, 3, &[1]), frame(3, 3, &[])] {
        edge.handle_bytes(&bytes).unwrap();
    }
    while edge.poll_output().is_some() {}
    edge
}

#[test]
fn faults_of_a_stream_end_the_stream() {
    let check = |frames: &[Vec<u8>], expected: &str| {
        let mut edge = edge();
        for bytes in frames {
            edge.handle_bytes(bytes).unwrap();
        }
        let told: Vec<Bytes> =
            std::iter::from_fn(|| edge.poll_transmit()).filter(|told| told[0] == 4).collect();
        let told: Vec<_> = told.iter().map(|told| String::from_utf8_lossy(&told[6..])).collect();
        assert_eq!(told, [expected]);
    };
    let full = frame(2, 1, &[0; MAX_DATA]);
    check(&[full, frame(2, 1, b"x")], "more data than its window has room for");
    check(&[frame(2, 3, b"x")], "data after the end");
    check(&[frame(3, 3, &[])], "a second end");
    check(&[frame(5, 1, &[0, 0, 0, 0])], "a window that cannot be");
    check(&[frame(5, 1, &u32::try_from(MAX_WINDOW).unwrap().to_be_bytes())], "a window that cannot be");
    check(&[frame(5, 1, &[255; 4])], "a window that cannot be");
    check(&[frame(1, 5, &[9])], "this version knows nothing of that kind");
    // What comes after it was under way and is nothing.
    check(
        &[frame(2, 3, b"x"), frame(2, 3, b"y"), frame(5, 3, &[0; 4]), frame(3, 3, &[])],
        "data after the end",
    );
}

#[test]
fn faults_of_no_stream_end_the_link() {
    let check = |bytes: &[u8], expected: StreamsBroken| {
        assert_eq!(edge().handle_bytes(bytes), Err(expected), "{bytes:?}");
    };
    check(&frame(1, 2, &[1]), StreamsBroken::Id(2));
    check(&frame(1, 3, &[1]), StreamsBroken::Id(3));
    check(&frame(2, 5, b"x"), StreamsBroken::Id(5));
    check(&frame(3, 2, &[]), StreamsBroken::Id(2));
    check(&frame(4, 5, &[1]), StreamsBroken::Id(5));
    check(&frame(5, 5, &[0, 0, 0, 1]), StreamsBroken::Id(5));
    check(&frame(6, 0, &[0, 0, 0, 1]), StreamsBroken::LinkWindow);
    check(&frame(6, 0, &[0; 4]), StreamsBroken::LinkWindow);
    assert!(matches!(edge().handle_bytes(b"garbage"), Err(StreamsBroken::Frame(_))));
    // Data of streams that are over counts as well: it was in the sockets.
    let mut edge = edge();
    let broken = (0..20).find_map(|_| edge.handle_bytes(&frame(2, 1, &[0; MAX_DATA])).err());
    assert_eq!(broken, Some(StreamsBroken::LinkWindow));
}

#[test]
fn the_cloud_takes_no_streams_and_an_edge_no_more_than_agreed() {
    let mut cloud = Streams::new(Role::Cloud);
    cloud.handle_bytes(&frame(1, 2, &[1])).unwrap();
    assert_eq!((cloud.n_streams(), cloud.poll_output()), (0, None));
    assert_eq!(&cloud.poll_transmit().unwrap()[..], frame(4, 2, b"\x02the cloud takes no streams"));

    let mut edge = Streams::new(Role::Edge);
    let mut open = |n: usize| edge.handle_bytes(&frame(1, u32::try_from(2 * n + 1).unwrap(), &[1]));
    for n in 0..MAX_STREAMS + MAX_URGENT {
        open(n).unwrap();
    }
    assert_eq!(open(MAX_STREAMS + MAX_URGENT), Err(StreamsBroken::Flood));
    assert_eq!(edge.n_streams(), MAX_STREAMS);
    let refusal = edge.poll_transmit().unwrap();
    assert_eq!((refusal[0], refusal[5]), (4, 3), "too many");

    let mut cloud = Streams::new(Role::Cloud);
    for _ in 0..MAX_STREAMS {
        cloud.open(StreamKind::Kubelet).unwrap();
    }
    assert_eq!(cloud.open(StreamKind::Kubelet), Err(TooManyStreams));
}

#[test]
fn streams_take_turns() {
    let (mut cloud, mut edge) = (End::new(Role::Cloud), End::new(Role::Edge));
    let ids: Vec<StreamId> = (0..3).map(|_| cloud.streams.open(StreamKind::Kubelet).unwrap()).collect();
    for id in &ids {
        cloud.users.insert(*id, User::default());
        cloud.write(*id, FIRST_WINDOW);
    }
    while cloud.transmit_to(&mut edge) {}
    while edge.take_in() {}
    // Their readers keep up, so windows grow; then all of them have far more to say than one frame.
    drain(&mut cloud, &mut edge);
    for id in &ids {
        assert_eq!(cloud.write(*id, 4 * MAX_DATA), 2 * MAX_DATA, "two frames wait");
    }
    let order: Vec<u8> = std::iter::from_fn(|| cloud.streams.poll_transmit()).map(|frame| frame[4]).collect();
    assert_eq!(order, [1, 3, 5, 1, 3, 5]);
}

#[test]
fn a_reader_that_stalls_stops_its_own_stream_only() {
    let (mut cloud, mut edge) = (End::new(Role::Cloud), End::new(Role::Edge));
    let [stalled, read] = [(); 2].map(|()| cloud.streams.open(StreamKind::Kubelet).unwrap());
    cloud.transmit_to(&mut edge);
    cloud.transmit_to(&mut edge);
    while edge.take_in() {}
    for id in [stalled, read] {
        cloud.users.insert(id, User::default());
    }
    for _ in 0..1000 {
        edge.write(stalled, 5000);
        edge.write(read, 5000);
        edge.transmit_to(&mut cloud);
        cloud.take_in();
        cloud.read(read, 50_000);
        while cloud.transmit_to(&mut edge) {}
        while edge.take_in() {}
    }
    assert_eq!(edge.users[&stalled].n_sent, FIRST_WINDOW);
    assert!(cloud.users[&read].n_received > 4_000_000, "{:?}", cloud.users[&read]);
}

#[test]
fn what_was_finished_before_a_reset_is_whole() {
    let (mut cloud, mut edge) = (End::new(Role::Cloud), End::new(Role::Edge));
    let id = cloud.streams.open(StreamKind::Kubelet).unwrap();
    cloud.users.insert(id, User::default());
    cloud.transmit_to(&mut edge);
    edge.take_in();
    // As a server that answers, ends and lets go, while the request is still being written.
    edge.write(id, 9000);
    edge.finish(id);
    edge.let_go(id, false);
    while edge.transmit_to(&mut cloud) {}
    while cloud.take_in() {}
    assert_eq!(edge.streams.n_streams(), 0);
    let reset = cloud.streams.send(id, b"more").unwrap_err();
    assert!(matches!(reset, StreamError::Reset(reset) if reset.code == ResetCode::Dropped));
    assert!(cloud.read(id, 50_000));
    assert_eq!(cloud.users[&id].n_received, 9000);
    cloud.read(id, 50_000);
    assert!(cloud.users[&id].saw_end);
}

#[test]
fn the_end_of_the_link_ends_every_stream() {
    let mut edge = edge();
    edge.handle_bytes(&frame(2, 1, b"half a sentence")).unwrap();
    edge.handle_link_end();
    let id = std::iter::from_fn(|| edge.poll_output()).find_map(|output| match output {
        Output::Writable(id) if format!("{id:?}") == "StreamId(1)" => Some(id),
        _ => None,
    });
    let id = id.expect("whoever waits to write hears of it");
    assert_eq!(edge.read(id, &mut [0; 9]).unwrap_err().code, ResetCode::LinkEnded);
    assert!(edge.send(id, b"x").is_err());
    edge.release(id);
    assert_eq!((edge.n_streams(), edge.n_held_bytes()), (1, 0));
    assert!(!edge.has_transmit());
}
