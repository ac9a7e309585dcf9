//! What a peer that keeps to no rule achieves: nothing, and others go on.

use ke_wire::{Answer, Down, MessageId, ObjectKey, Question, Up};
use tokio::io::AsyncWriteExt;

use crate::bench::{Bench, Link, Machine, PATIENCE, closed, receive, say, send};

fn get(key: &str) -> Up {
    Up::Ask { id: MessageId::fresh(), question: Question::Get(key.parse::<ObjectKey>().unwrap()) }
}

#[tokio::test]
async fn only_the_own_certificate_opens_a_link() {
    let mut bench = Bench::start().await;
    let stranger = Machine::stranger("edge-a");
    let refused = bench.connect(&stranger, "edge-a").await.err();
    assert!(refused.is_some(), "another CA's certificate was taken");

    let machine = bench.enrol("edge-a").await;
    let check = async |node: &str, expected: &str| {
        let why = match bench.connect(&machine, node).await {
            Ok(mut link) => closed(&mut link).await,
            Err(why) => why,
        };
        assert!(why.contains(expected), "{node}: {why}");
    };
    check("edge-b", "the certificate is for system:nodes/system:node:edge-a").await;
    check("Not-A-Name", "the header node_id").await;
    check("", "the header node_id").await;
    assert!(bench.inbox.try_recv().is_err(), "somebody was let in");
    let _link = bench.connect(&machine, "edge-a").await.unwrap();
    assert_eq!(bench.news().await, "connected edge-a");
}

#[tokio::test]
async fn what_is_not_the_nodes_own_is_forbidden() {
    let mut bench = Bench::start().await;
    let (_, mut link) = bench.join("edge-b").await;
    for key in ["default/secret/mine", "kube-system/secret/x", "null/node/edge-a", "kube-node-lease/lease/edge-a"] {
        say(&mut link, &get(key)).await;
        let Down::Answer { answer: Answer::Refused(refusal) | Answer::NotStored(refusal), .. } = receive(&mut link).await else {
            panic!("{key} was answered");
        };
        assert_eq!(refusal.code, 403, "{key}: {refusal:?}");
    }
    assert!(bench.inbox.try_recv().is_err(), "EdgeController was asked");
    assert_eq!(bench.counted("cloudcore_refused_messages_total"), 4);
}

#[tokio::test]
async fn bad_frames_end_their_own_link_and_no_other() {
    let mut bench = Bench::start().await;
    let (_, mut good) = bench.join("edge-a").await;
    for text in ["no JSON", "{\"header\":", "\u{0}"] {
        let (_, mut bad) = bench.join("edge-b").await;
        send(&mut bad, text.into()).await;
        let why = closed(&mut bad).await;
        assert!(why.starts_with("1008") && why.contains("not JSON"), "{text:?}: {why}");
        assert_eq!(bench.news().await, "disconnected edge-b");
    }
    assert_eq!(bench.counted("cloudcore_bad_frames_total"), 3);
    still_works(&mut bench, &mut good).await;
}

#[tokio::test]
async fn unknown_operations_are_counted_and_nothing_else() {
    let mut bench = Bench::start().await;
    let (_, mut link) = bench.join("edge-a").await;
    let frames = [
        r#"{"header":{"msg_id":"1"},"route":{"source":"edged","group":"meta","operation":"conquer","resource":"default/pod/x"}}"#,
        r#"{"header":{"msg_id":"2"},"route":{"source":"edged","group":"meta","operation":"query","resource":"../../etc"}}"#,
        r#"{"header":{"msg_id":""},"route":{}}"#,
        "[]",
    ];
    for frame in frames {
        send(&mut link, frame.into()).await;
    }
    still_works(&mut bench, &mut link).await;
    assert_eq!(bench.counted("cloudcore_bad_frames_total"), frames.len() as u64);
}

/// The head of a masked binary frame; whether more fragments follow.
fn head(opcode: u8, is_last: bool, length: u64) -> Vec<u8> {
    let mut bytes = vec![opcode | if is_last { 0x80 } else { 0 }, 0x80 | 127];
    bytes.extend(length.to_be_bytes());
    bytes.extend([0; 4]);
    bytes
}

#[tokio::test]
async fn a_message_of_100_mb_is_refused_by_its_length() {
    let mut bench = Bench::start().await;
    let (_, mut good) = bench.join("edge-a").await;
    // One frame: refused when its head is read, before any of its bytes is sent.
    let (_, mut bad) = bench.join("edge-b").await;
    let raw = bad.get_mut();
    raw.write_all(&head(2, true, 100 << 20)).await.unwrap();
    raw.flush().await.unwrap();
    let why = closed(&mut bad).await;
    assert!(why.starts_with("1009") && why.contains("8 MiB"), "{why}");
    assert_eq!(bench.news().await, "disconnected edge-b");
    // The same in pieces: what is held never passes the limit of one message.
    let (_, mut bad) = bench.join("edge-b").await;
    let piece = vec![0; 4 << 20];
    let raw = bad.get_mut();
    let mut n_taken = 0;
    for n in 0..25 {
        let mut frame = head(if n == 0 { 2 } else { 0 }, n == 24, piece.len() as u64);
        frame.extend(&piece);
        if raw.write_all(&frame).await.is_err() || raw.flush().await.is_err() {
            break;
        }
        n_taken += 1;
    }
    assert!(n_taken < 25, "all of it was read");
    assert_eq!(bench.news().await, "disconnected edge-b");
    assert_eq!(bench.counted("cloudcore_bad_frames_total"), 2);
    still_works(&mut bench, &mut good).await;
}

async fn still_works(bench: &mut Bench, link: &mut Link) {
    say(link, &get("default/secret/mine")).await;
    let asked = bench.hear().await;
    let cloudcore::edge_controller::FromNode::Ask(_, _, reply) = asked else { panic!("{asked:?}") };
    reply.send((Answer::Done, None)).unwrap();
    let answered = tokio::time::timeout(PATIENCE, receive(link)).await.unwrap();
    assert!(matches!(answered, Down::Answer { .. }), "{answered:?}");
}
