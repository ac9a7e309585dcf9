//! The broker's promises, turn by turn, kills included.

// All of this folder is a test; the lint knows only functions marked as one.
#![allow(clippy::unwrap_used, clippy::indexing_slicing, unreachable_pub)]

mod desk;

use std::time::Duration;

use desk::{Desk, hello, number, publish, will};
use ke_mqtt::{BrokerConfig, CloseReason, ConnectCode, DecodeError, Packet, Qos, Version};
use proptest::prelude::*;

fn desk() -> Desk {
    Desk::new(BrokerConfig::default())
}

#[test]
fn topics_with_a_dollar_pass_and_hash_does_not_take_them() {
    let mut desk = desk();
    let (mapper, watcher, all) = (desk.connect("m", true), desk.connect("w", true), desk.connect("a", true));
    desk.subscribe(watcher, "$hw/events/device/+/+/twin/update/#", 1);
    desk.subscribe(all, "#", 1);
    desk.expect(watcher, &["suback 1"]);
    desk.expect(all, &["suback 1"]);
    desk.publish(mapper, "$hw/events/device/p/o/twin/update/delta", "{}", 1, 5);
    desk.publish(mapper, "plain", "x", 0, 0);
    desk.expect(mapper, &["puback 5"]);
    desk.expect(watcher, &["$hw/events/device/p/o/twin/update/delta={} q1#1"]);
    desk.expect(all, &["plain=x"]);
}

#[test]
fn the_lower_qos_counts_and_overlapping_filters_are_one() {
    let mut desk = desk();
    let (from, to) = (desk.connect("f", true), desk.connect("t", true));
    desk.subscribe(to, "a/+", 0);
    desk.subscribe(to, "a/#", 1);
    desk.told(to);
    desk.publish(from, "a/b", "1", 0, 0);
    desk.publish(from, "a/b", "2", 1, 1);
    desk.publish(from, "a/b", "3", 2, 2);
    desk.expect(to, &["a/b=1", "a/b=2 q1#1", "a/b=3 q1#2"]);
    desk.expect(from, &["puback 1", "pubrec 2"]);
    desk.say(to, Packet::Unsubscribe { id: number(1), filters: vec!["a/#".to_owned()] });
    desk.publish(from, "a/b", "4", 1, 3);
    desk.expect(to, &["unsuback", "a/b=4"]);
}

#[test]
fn retained_messages_survive_and_an_empty_one_ends_them() {
    let mut desk = desk();
    let from = desk.connect("f", true);
    desk.retain(from, "state/a", "old");
    desk.retain(from, "state/a", "new");
    desk.retain(from, "state/b", "x");
    desk.retain(from, "state/b", "");
    desk.expect(from, &["puback 7"; 4]);
    desk.kill();
    let to = desk.connect("t", true);
    desk.subscribe(to, "state/#", 1);
    desk.expect(to, &["suback 1", "state/a=new q1#1 retained"]);
    // Asked again, told again; and what comes now is not marked as kept.
    desk.subscribe(to, "state/#", 0);
    desk.host_says("state/a", "newer", 1, true);
    desk.expect(to, &["suback 0", "state/a=new retained", "state/a=newer"]);
    assert_eq!(desk.disk.n_rows(), 1);
}

#[test]
fn many_retained_messages_reach_a_slow_reader_all() {
    let mut desk = desk();
    let from = desk.connect("f", true);
    for n in 0..500 {
        desk.retain(from, &format!("state/{n:03}"), "x");
    }
    let to = desk.connect("t", true);
    desk.writes = false;
    desk.subscribe(to, "state/#", 0);
    let mut n_told = 0;
    loop {
        let told = desk.told(to).len();
        if told == 0 {
            break;
        }
        n_told += told;
        desk.written(to, told);
    }
    assert_eq!(n_told, 501);
    assert_eq!(desk.broker.counts().dropped, 0);
}

#[test]
fn what_waits_for_a_session_survives_kills_in_order() {
    let mut desk = desk();
    let (from, to) = (desk.connect("f", true), desk.connect("t", false));
    desk.subscribe(to, "a", 1);
    desk.publish(from, "a", "sent", 1, 1);
    desk.expect(to, &["suback 1", "a=sent q1#1"]);
    desk.cut(to);
    desk.publish(from, "a", "waits", 1, 2);
    desk.publish(from, "a", "lost", 0, 0);
    desk.publish(from, "a", "waits too", 1, 3);
    desk.expect(from, &["puback 1", "puback 2", "puback 3"]);
    let check = |desk: &mut Desk| {
        let to = desk.accept();
        desk.say(to, Packet::Connect(hello("t", false)));
        desk.expect(to, &["connack Accepted present", "a=sent q1#1 dup", "a=waits q1#2", "a=waits too q1#3"]);
        to
    };
    let before = desk.disk.clone();
    let to = check(&mut desk);
    desk.cut(to);
    // Killed before any of that was said: the same again.
    desk.disk = before;
    desk.kill();
    let to = check(&mut desk);
    for id in [1, 2, 3] {
        desk.say(to, Packet::PubAck(number(id)));
    }
    desk.kill();
    let to = desk.accept();
    desk.say(to, Packet::Connect(hello("t", false)));
    desk.expect(to, &["connack Accepted present"]);
    // Session and subscription; nothing else is left.
    assert_eq!(desk.disk.n_rows(), 2);
    desk.cut(to);
    let to = desk.accept();
    desk.say(to, Packet::Connect(hello("t", true)));
    desk.expect(to, &["connack Accepted"]);
    assert_eq!(desk.disk.n_rows(), 0);
}

#[test]
fn qos_2_out_goes_through_its_rounds_over_kills() {
    let mut desk = desk();
    let (from, to) = (desk.connect("f", true), desk.connect("t", false));
    desk.subscribe(to, "a", 2);
    desk.publish(from, "a", "x", 2, 9);
    desk.expect(to, &["suback 2", "a=x q2#1"]);
    desk.kill();
    let to = desk.connect("t", false);
    desk.say(to, Packet::PubRec(number(1)));
    desk.expect(to, &["pubrel 1"]);
    desk.kill();
    let to = desk.accept();
    desk.say(to, Packet::Connect(hello("t", false)));
    desk.expect(to, &["connack Accepted present", "pubrel 1"]);
    desk.say(to, Packet::PubComp(number(1)));
    desk.say(to, Packet::PubRec(number(77)));
    desk.expect(to, &["pubrel 77"]);
    assert_eq!(desk.disk.n_rows(), 2);
}

#[test]
fn qos_2_in_is_taken_once_over_kills() {
    let mut desk = desk();
    let (from, to) = (desk.connect("f", false), desk.connect("t", true));
    desk.subscribe(to, "a", 0);
    desk.publish(from, "a", "x", 2, 9);
    desk.publish(from, "a", "x", 2, 9);
    desk.expect(from, &["pubrec 9", "pubrec 9"]);
    desk.expect(to, &["suback 0", "a=x"]);
    desk.kill();
    let (from, to) = (desk.connect("f", false), desk.connect("t", true));
    desk.subscribe(to, "a", 0);
    desk.publish(from, "a", "x", 2, 9);
    desk.say(from, Packet::PubRel(number(9)));
    desk.expect(from, &["pubrec 9", "pubcomp 9"]);
    desk.expect(to, &["suback 0"]);
    // The id is free again.
    desk.publish(from, "a", "y", 2, 9);
    desk.expect(to, &["a=y"]);
}

#[test]
fn an_acknowledgement_waits_for_the_host_and_order_is_kept() {
    let mut desk = desk();
    desk.broker.listen(vec!["$hw/#".to_owned()]);
    let from = desk.connect("f", false);
    desk.publish(from, "$hw/a", "1", 1, 1);
    desk.publish(from, "other", "2", 1, 2);
    desk.publish(from, "$hw/a", "3", 2, 3);
    desk.publish(from, "$hw/a", "4", 0, 0);
    desk.expect(from, &[]);
    let heard = std::mem::take(&mut desk.heard);
    assert_eq!(
        heard.iter().map(|(_, said)| said.as_str()).collect::<Vec<_>>(),
        ["$hw/a=1", "$hw/a=3", "$hw/a=4"]
    );
    desk.keep(heard[2].0);
    desk.keep(heard[1].0);
    desk.expect(from, &[]);
    // Kept waiting by us, it is not called silent.
    desk.advance(Duration::from_secs(60));
    desk.keep(heard[0].0);
    desk.expect(from, &["puback 1", "puback 2", "pubrec 3"]);
    // Gone before it was kept: what it says again is new.
    desk.publish(from, "$hw/a", "5", 2, 4);
    desk.cut(from);
    let from = desk.connect("f", false);
    desk.publish(from, "$hw/a", "5", 2, 4);
    assert_eq!(desk.heard.len(), 2);
    let (first, second) = (desk.heard[0].0, desk.heard[1].0);
    desk.keep(first);
    desk.expect(from, &[]);
    desk.keep(second);
    desk.expect(from, &["pubrec 4"]);
}

#[test]
fn the_oldest_goes_when_too_many_wait() {
    let mut desk = Desk::new(BrokerConfig { session_queue: 3, max_under_way: 1, ..BrokerConfig::default() });
    let (from, to) = (desk.connect("f", true), desk.connect("t", false));
    desk.subscribe(to, "a", 1);
    desk.told(to);
    for n in 1..=6 {
        desk.publish(from, "a", &n.to_string(), 1, n);
    }
    assert_eq!(desk.broker.counts().dropped, 2);
    desk.expect(to, &["a=1 q1#1"]);
    for (n, expected) in [(1, "a=4 q1#2"), (2, "a=5 q1#3"), (3, "a=6 q1#4")] {
        desk.say(to, Packet::PubAck(number(n)));
        desk.expect(to, &[expected]);
    }
    // By bytes as well.
    let mut desk = Desk::new(BrokerConfig { session_bytes: 10, ..BrokerConfig::default() });
    let (from, to) = (desk.connect("f", true), desk.connect("t", false));
    desk.subscribe(to, "a", 1);
    desk.cut(to);
    for n in 1..=3 {
        desk.publish(from, "a", "1234", 1, n);
    }
    assert_eq!(desk.broker.counts().dropped, 1);
    assert_eq!(desk.disk.n_rows(), 4);
}

#[test]
fn a_reader_that_does_not_read_holds_nobody_up() {
    let mut desk = Desk::new(BrokerConfig { send_window: 32, ..BrokerConfig::default() });
    let (from, to) = (desk.connect("f", true), desk.connect("t", true));
    desk.subscribe(to, "a", 0);
    desk.told(to);
    desk.writes = false;
    for n in 0..1000 {
        desk.publish(from, "a", &n.to_string(), 0, 0);
    }
    let told = desk.told(to);
    assert_eq!(told.len(), 32);
    assert_eq!(desk.broker.counts().dropped, 1000 - 32 - 100);
    desk.written(to, 32);
    let told = desk.told(to);
    assert_eq!(desk::brief(&told[0]), "a=900");
}

#[test]
fn wills() {
    let check = |end: fn(&mut Desk, ke_mqtt::ConnectionId), expected: &[&str]| {
        let mut desk = desk();
        let to = desk.connect("t", true);
        desk.subscribe(to, "#", 1);
        desk.told(to);
        let from = desk.accept();
        desk.say(from, Packet::Connect(ke_mqtt::Connect { will: will("gone", "f"), ..hello("f", true) }));
        desk.say(to, Packet::PingReq);
        desk.told(to);
        end(&mut desk, from);
        let told: Vec<String> = desk.told(to).iter().map(desk::brief).collect();
        assert_eq!(told, expected);
    };
    let said = &["gone=f q1#1"][..];
    check(|desk, from| desk.say(from, Packet::Disconnect), &[]);
    check(|desk, from| desk.cut(from), said);
    check(|desk, from| desk.say(from, Packet::Connect(hello("f", true))), said);
    check(
        |desk, from| {
            let wrong = DecodeError::Malformed { packet: "PUBLISH", why: "x" };
            desk.broker.handle_nonsense(from, &wrong);
            desk.advance(Duration::ZERO);
        },
        said,
    );
    // Taken over by the same client.
    check(|desk, _| assert_ne!(desk.connect("f", true).0, 0), said);
    check(
        |desk, _| {
            // The listener lives, the other is silent for one and a half times ten seconds.
            desk.advance(Duration::from_millis(14_900));
            let to = ke_mqtt::ConnectionId(1);
            desk.say(to, Packet::PingReq);
            assert_eq!(desk.told(to).len(), 1);
            desk.advance(Duration::from_millis(100));
        },
        said,
    );
}

#[test]
fn a_client_id_belongs_to_the_newest_connection() {
    let mut desk = desk();
    let (from, old) = (desk.connect("f", true), desk.connect("t", false));
    desk.subscribe(old, "a", 1);
    desk.publish(from, "a", "1", 1, 1);
    let new = desk.accept();
    desk.say(new, Packet::Connect(hello("t", false)));
    assert_eq!(desk.closed, [(old, CloseReason::TakenOver)]);
    desk.expect(new, &["connack Accepted present", "a=1 q1#1 dup"]);
    // Late words of the old one change nothing.
    desk.say(old, Packet::PubAck(number(1)));
    desk.cut(old);
    desk.publish(from, "a", "2", 1, 2);
    desk.expect(new, &["a=2 q1#2"]);
}

#[test]
fn who_is_not_let_in() {
    let check = |connect: ke_mqtt::Connect, expected: &[&str]| {
        let mut desk = desk();
        let id = desk.accept();
        desk.say(id, Packet::Connect(connect));
        desk.expect(id, expected);
    };
    check(hello("", true), &["connack Accepted"]);
    check(hello("", false), &["connack ClientId"]);
    check(ke_mqtt::Connect { version: Version::V31, ..hello("", true) }, &["connack ClientId"]);
    check(ke_mqtt::Connect { version: Version::V31, ..hello("x", false) }, &["connack Accepted"]);

    let mut desk = desk();
    let id = desk.accept();
    desk.broker.handle_nonsense(id, &DecodeError::Version { name: "MQTT".to_owned(), level: 5 });
    desk.advance(Duration::ZERO);
    desk.expect(id, &["connack Version"]);
    let id = desk.accept();
    desk.say(id, Packet::PingReq);
    let id = desk.accept();
    desk.advance(Duration::from_secs(10));
    let reasons: Vec<_> = desk.closed.iter().map(|(_, reason)| reason.to_string()).collect();
    assert!(reasons[1].contains("no CONNECT"), "{reasons:?}");
    assert_eq!(desk.closed.last(), Some(&(id, CloseReason::NoConnect)));
}

#[test]
fn sessions_and_connections_are_bounded() {
    let limits =
        BrokerConfig { max_sessions: 2, max_connections: 3, max_subscriptions: 1, ..BrokerConfig::default() };
    let mut desk = Desk::new(limits);
    let first = desk.connect("first", false);
    let second = desk.connect("second", false);
    desk.subscribe(first, "a", 1);
    desk.subscribe(first, "b", 1);
    desk.subscribe(first, "a", 0);
    desk.expect(first, &["suback 1", "suback no", "suback 0"]);
    let third = desk.accept();
    desk.say(third, Packet::Connect(hello("third", true)));
    desk.expect(third, &["connack Unavailable"]);
    assert_eq!(desk.closed, [(third, CloseReason::Refused(ConnectCode::Unavailable))]);
    desk.cut(second);
    desk.cut(first);
    // Whoever left first makes room first.
    desk.connect("third", false);
    assert_eq!(desk.broker.counts().sessions_evicted, 1);
    let first = desk.accept();
    desk.say(first, Packet::Connect(hello("first", false)));
    desk.expect(first, &["connack Accepted present"]);
    desk.accept();
    desk.accept();
    assert_eq!(desk.closed.last().map(|(_, reason)| reason), Some(&CloseReason::TooMany));
}

#[derive(Clone, Debug)]
enum Step {
    Publish,
    Acknowledge(usize),
    Cut,
    Connect,
    Kill,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => Just(Step::Publish),
        4 => (1..4_usize).prop_map(Step::Acknowledge),
        1 => Just(Step::Cut),
        2 => Just(Step::Connect),
        1 => Just(Step::Kill),
    ]
}

fn any_packet() -> impl Strategy<Value = Packet> {
    let topic = prop_oneof![Just("a"), Just("$hw/a"), Just("b/c")];
    let filter = prop_oneof![Just("#"), Just("$hw/#"), Just("+/c"), Just("a")];
    let qos = 0..3_u8;
    let id = (1..4_u16).prop_map(number).boxed();
    prop_oneof![
        4 => (topic, qos.clone(), 1..4_u16, any::<bool>(), "x{0,3}")
            .prop_map(|(topic, qos, id, retain, payload)| publish(topic, &payload, qos, id, retain)),
        2 => (filter, qos).prop_map(|(filter, qos)| Packet::Subscribe {
            id: number(9),
            filters: vec![(filter.to_owned(), Qos::from_number(qos).unwrap())],
        }),
        1 => Just(Packet::Unsubscribe { id: number(9), filters: vec!["#".to_owned()] }),
        2 => id.clone().prop_map(Packet::PubAck),
        2 => id.clone().prop_map(Packet::PubRec),
        2 => id.clone().prop_map(Packet::PubRel),
        2 => id.prop_map(Packet::PubComp),
        1 => Just(Packet::PingReq),
        1 => Just(Packet::Disconnect),
    ]
}

proptest! {
    /// Whatever clients say in whatever order, it goes on, within its bounds.
    #[test]
    fn no_order_of_packets_breaks_it(
        steps in proptest::collection::vec((0..4_usize, any_packet(), 0..20_u8), 1..150),
        writes in any::<bool>(),
    ) {
        let limits = BrokerConfig { session_queue: 5, max_under_way: 2, send_window: 3, max_sessions: 3, max_retained: 2, ..BrokerConfig::default() };
        let mut desk = Desk::new(limits);
        desk.broker.listen(vec!["$hw/#".to_owned()]);
        desk.writes = writes;
        let names = ["clean", "kept", "kept too", "kept"];
        let mut connections = [None; 4];
        for (who, packet, what) in steps {
            match (what, connections[who]) {
                (0, _) => {
                    desk.kill();
                    connections = [None; 4];
                }
                (1, Some(id)) => desk.cut(id),
                (2 | 3, _) => {
                    for (ticket, _) in std::mem::take(&mut desk.heard) {
                        desk.keep(ticket);
                    }
                }
                (4, _) => desk.advance(Duration::from_secs(9)),
                (_, Some(id)) => desk.say(id, packet),
                (_, None) => connections[who] = Some(desk.connect(names[who], who == 0)),
            }
            let closed: Vec<_> = desk.closed.drain(..).map(|(id, _)| id).collect();
            connections.iter_mut().for_each(|id| *id = id.filter(|id| !closed.contains(id)));
            let (_, n_sessions, n_retained) = desk.broker.sizes();
            prop_assert!(n_sessions <= 3 && n_retained <= 2);
            // Sessions, their few filters, queues, messages on their way, received ids, and retained messages.
            prop_assert!(desk.disk.n_rows() <= 3 * (1 + 4 + 5 + 2 + 3) + 2);
        }
    }

    /// Whatever happens, a session of QoS 1 gets every acknowledged message, each for the first time in order.
    #[test]
    fn nothing_acknowledged_is_lost(steps in proptest::collection::vec(step(), 1..80)) {
        let limits = BrokerConfig { max_under_way: 3, send_window: 4, session_queue: 1000, ..BrokerConfig::default() };
        let mut desk = Desk::new(limits);
        let mut from = desk.connect("f", true);
        let mut to = Some(desk.connect("t", false));
        desk.subscribe(to.unwrap(), "a", 1);
        let (mut n_said, mut seen, mut unacknowledged) = (0_u32, Vec::<u32>::new(), Vec::new());
        let read = |desk: &mut Desk, id, seen: &mut Vec<u32>, unacknowledged: &mut Vec<_>| {
            for packet in desk.told(id) {
                if let Packet::Publish(publish) = packet {
                    let number = String::from_utf8_lossy(&publish.message.payload).parse().unwrap();
                    if !seen.contains(&number) {
                        seen.push(number);
                    }
                    let ke_mqtt::Delivery::AtLeastOnce(id) = publish.delivery else { panic!() };
                    unacknowledged.push(id);
                }
            }
        };
        for step in steps.into_iter().chain([Step::Kill, Step::Connect]).chain(vec![Step::Acknowledge(9); 100]) {
            match step {
                Step::Publish => {
                    n_said += 1;
                    desk.say(from, publish("a", &n_said.to_string(), 1, 1, false));
                    prop_assert_eq!(desk.told(from), vec![Packet::PubAck(number(1))]);
                }
                Step::Acknowledge(n) => if let Some(to) = to {
                    for id in unacknowledged.drain(..n.min(unacknowledged.len())).collect::<Vec<_>>() {
                        desk.say(to, Packet::PubAck(id));
                    }
                },
                Step::Cut => if let Some(to) = to.take() {
                    desk.cut(to);
                    unacknowledged.clear();
                },
                Step::Connect => if to.is_none() {
                    to = Some(desk.accept());
                    desk.say(to.unwrap(), Packet::Connect(hello("t", false)));
                },
                Step::Kill => {
                    desk.kill();
                    unacknowledged.clear();
                    to = None;
                    from = desk.connect("f", true);
                }
            }
            if let Some(to) = to {
                read(&mut desk, to, &mut seen, &mut unacknowledged);
            }
        }
        prop_assert_eq!(seen, (1..=n_said).collect::<Vec<_>>());
        prop_assert_eq!(desk.disk.n_rows(), 2);
    }
}
