//! Both ends of one link in one process, frames carried by hand: what each says and counts.

use ke_link::streams::Role;
use ke_link::streams::shared::LinkStreams;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;

/// The cloud's end and the edge's, of one stream.
struct Pair {
    links: (LinkStreams, LinkStreams),
    ends: (Option<LinkStream>, Option<LinkStream>),
    counted: (Arc<StreamCounters>, Arc<StreamCounters>),
}

impl Pair {
    fn new() -> Self {
        let links = (LinkStreams::new(Role::Cloud), LinkStreams::new(Role::Edge));
        let counted = (Arc::<StreamCounters>::default(), Arc::<StreamCounters>::default());
        let raw = links.0.opener().open(StreamKind::Kubelet).unwrap();
        let cloud = LinkStream::new(raw, "the stream to node edge-1".to_owned(), Arc::clone(&counted.0));
        let raw = links.1.handle_bytes(&links.0.next_frame().unwrap()).unwrap().unwrap();
        let edge = LinkStream::new(raw, "the stream of the cloud".to_owned(), Arc::clone(&counted.1));
        Self { links, ends: (Some(cloud), Some(edge)), counted }
    }

    /// All frames that wait, both ways.
    fn carry(&self) {
        let (cloud, edge) = &self.links;
        loop {
            let (down, up) = (cloud.next_frame(), edge.next_frame());
            if down.is_none() && up.is_none() {
                return;
            }
            down.map(|frame| edge.handle_bytes(&frame).unwrap());
            up.map(|frame| cloud.handle_bytes(&frame).unwrap());
        }
    }

    fn cloud(&mut self) -> &mut LinkStream {
        self.ends.0.as_mut().unwrap()
    }

    fn edge(&mut self) -> &mut LinkStream {
        self.ends.1.as_mut().unwrap()
    }

    /// Opened, open, reset, read, written; of the cloud's end and of the edge's.
    fn counted(&self) -> [(u64, i64, u64, u64, u64); 2] {
        let of = |it: &StreamCounters| {
            (it.opened.get(), it.open.get(), it.reset.get(), it.bytes_read.get(), it.bytes_written.get())
        };
        [of(&self.counted.0), of(&self.counted.1)]
    }
}

#[tokio::test]
async fn what_both_ends_have_finished_was_not_reset() {
    let mut pair = Pair::new();
    pair.cloud().write_all(b"ask").await.unwrap();
    pair.cloud().shutdown().await.unwrap();
    pair.carry();
    let mut heard = String::new();
    pair.edge().read_to_string(&mut heard).await.unwrap();
    pair.edge().write_all(b"answer").await.unwrap();
    pair.edge().shutdown().await.unwrap();
    pair.carry();
    let mut answer = String::new();
    pair.cloud().read_to_string(&mut answer).await.unwrap();
    assert_eq!((heard.as_str(), answer.as_str()), ("ask", "answer"));
    assert_eq!(pair.counted(), [(1, 1, 0, 6, 3), (1, 1, 0, 3, 6)]);
    pair.ends = (None, None);
    assert_eq!(pair.counted(), [(1, 0, 0, 6, 3), (1, 0, 0, 3, 6)]);
    assert!(pair.links.0.next_frame().is_none(), "nothing is left to say");
}

#[tokio::test]
async fn each_way_to_end_early_has_its_error_and_counts_once() {
    type End = fn(&mut Pair);
    let check = async |end: End, kind: io::ErrorKind, says: &str| {
        let mut pair = Pair::new();
        end(&mut pair);
        pair.carry();
        for _ in 0..2 {
            let error = pair.cloud().read(&mut [0; 8]).await.unwrap_err();
            assert_eq!(error.kind(), kind, "{error}");
            let text = error.to_string();
            assert!(text.starts_with("the stream to node edge-1 ended: ") && text.contains(says), "{text}");
        }
        assert_eq!(pair.cloud().write(b"x").await.unwrap_err().kind(), kind);
        pair.ends = (None, None);
        assert_eq!(pair.counted(), [(1, 0, 1, 0, 0), (1, 0, 1, 0, 0)], "{says}");
    };
    let dropped: End = |pair| pair.ends.1 = None;
    check(dropped, io::ErrorKind::ConnectionReset, "").await;
    let refused: End = |pair| pair.ends.1.take().unwrap().refuse("nobody serves this");
    check(refused, io::ErrorKind::ConnectionRefused, "nobody serves this").await;
    let cut: End = |pair| pair.links.0 = LinkStreams::new(Role::Cloud);
    check(cut, io::ErrorKind::ConnectionAborted, "").await;
}

#[tokio::test]
async fn nothing_is_written_after_the_end() {
    let mut pair = Pair::new();
    pair.cloud().shutdown().await.unwrap();
    let error = pair.cloud().write(b"x").await.unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}
