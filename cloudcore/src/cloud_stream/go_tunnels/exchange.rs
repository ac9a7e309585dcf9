//! One request of the API server over a KubeEdge tunnel: from its head to its end.
//!
//! Commands and attaching are bytes both ways, the node's answer included; what the client says beyond its head waits until the
//! node has left HTTP, since a node that stays in it would take it for a second request, which nobody judged. Of logs and numbers the node sends the body alone: it is
//! answered with 200 and in chunks, so that one which breaks off is seen to. Called by `mod.rs`.

use std::time::Duration;

use ke_socket::tunnel::{Over, Stream, Tunnel};
use ke_wire::NodeName;
use ke_wire::tunnel::Reached;
use prometheus_client::metrics::counter::Counter;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::oneshot;

use super::request::{Asked, NotCarried, asked};
use crate::cloud_stream::connection::{Refusal, read_head};

/// A Go edge that cannot reach its kubelet says nothing at all; what comes, comes at once.
const FIRST_LIMIT: Duration = Duration::from_secs(20);
/// A log that is followed may be silent for as long as it likes; its reader is told by then that it is there.
const FOLLOWED_LIMIT: Duration = Duration::from_secs(3);
/// How an answer begins after which both speak another protocol.
const SWITCHES: &[u8] = b"HTTP/1.1 101 ";
/// Bytes read at once from the client.
const BUFFER: usize = 8 << 10;

/// Serves one. It ends with the client, with the stream, or when nothing comes.
pub(super) async fn serve(node: NodeName, tunnel: Tunnel, mut client: DuplexStream, cut: Counter) {
    let (head, mut said) = match read_head(&mut client).await {
        Ok(Some(read)) => read,
        Ok(None) => return,
        Err(refusal) => return answer(&mut client, &refusal).await,
    };
    let asked = match asked(&head) {
        Ok(asked) => asked,
        Err(NotCarried(status, why)) => {
            return answer(&mut client, &Refusal::new(status, format!("node {node} {why}"))).await;
        }
    };
    drop(head);
    let opening = tokio::select! {
        opened = tunnel.open(asked.reached, asked.request.clone()) => opened,
        () = gone(&mut client, &mut said) => return,
    };
    let stream = match opening {
        Ok(stream) => stream,
        Err(why) => {
            let text = format!("node {node} cannot be reached: {why}");
            return answer(&mut client, &Refusal::new(502, text)).await;
        }
    };
    let over = match asked.reached {
        Reached::Exec | Reached::Attach => both_ways(stream, client, said, &node).await,
        Reached::Logs | Reached::Metrics => body(stream, client, &asked, &node).await,
    };
    if over == Some(Over::Behind) {
        cut.inc();
        tracing::warn!(
            %node,
            path = asked.request.target.split('?').next(),
            "a stream was ended: its reader is too far behind what the node sends, and KubeEdge's tunnel cannot be told to wait"
        );
    }
}

/// Returns when the client has gone. What it says until then is kept, as far as it is read: whoever says much while he is waited
/// for is heard later.
async fn gone(client: &mut (impl AsyncRead + Unpin), said: &mut Vec<u8>) {
    while said.len() < BUFFER {
        match client.read_buf(said).await {
            Ok(1..) => {}
            Ok(0) | Err(_) => return,
        }
    }
    std::future::pending().await
}

async fn answer(client: &mut DuplexStream, refusal: &Refusal) {
    let _ = client.write_all(&refusal.bytes()).await;
    let _ = client.shutdown().await;
}

fn silent(node: &NodeName) -> Refusal {
    let text = format!(
        "node {node} did not answer within {FIRST_LIMIT:?}: it has KubeEdge's edgecore, which says nothing where its kubelet \
         refuses"
    );
    Refusal::new(504, text)
}

async fn both_ways(
    mut stream: Stream,
    client: DuplexStream,
    mut said: Vec<u8>,
    node: &NodeName,
) -> Option<Over> {
    let (tell, answered) = oneshot::channel();
    let writer = stream.writer();
    let (mut reads, mut writes) = tokio::io::split(client);
    // Errors: the node has ended the stream. Otherwise it is the client who goes.
    let down = async {
        let has_switched = tokio::select! {
            has_switched = answered => has_switched == Ok(true),
            () = gone(&mut reads, &mut said) => return Ok(()),
        };
        let mut buffer = vec![0; BUFFER];
        if !has_switched {
            while let Ok(1..) = reads.read(&mut buffer).await {}
            return Ok(());
        }
        writer.send(&said).await?;
        drop(said);
        while let Ok(n_read @ 1..) = reads.read(&mut buffer).await {
            writer.send(buffer.get(..n_read).unwrap_or_default()).await?;
        }
        Ok::<_, Over>(())
    };
    let up = async {
        let mut limit = FIRST_LIMIT;
        let mut answer = Some((tell, Vec::new()));
        loop {
            let Ok(piece) = tokio::time::timeout(limit, stream.receive()).await else {
                let _ = writes.write_all(&silent(node).bytes()).await;
                break;
            };
            let Some(piece) = piece else { break };
            limit = Duration::MAX;
            if writes.write_all(&piece).await.is_err() {
                break;
            }
            if let Some((tell, mut first)) = answer.take() {
                first.extend(piece);
                match has_switched(&first) {
                    Some(has_switched) => drop(tell.send(has_switched)),
                    None => answer = Some((tell, first)),
                }
            }
        }
        let _ = writes.shutdown().await;
    };
    // The protocol knows no half of an end: either side's is all of it. But what the node said before its own still waits for a
    // client who reads slowly, the exit status at the end of it.
    let mut up = Box::pin(up);
    tokio::select! {
        ended = Box::pin(down) => if ended.is_err() {
            up.as_mut().await;
        },
        () = up.as_mut() => {}
    }
    drop(up);
    stream.over()
}

/// Whether an answer that begins so leaves HTTP; `None`: it has not said yet.
fn has_switched(first: &[u8]) -> Option<bool> {
    let n_said = first.len().min(SWITCHES.len());
    let (said, wanted) = (first.get(..n_said)?, SWITCHES.get(..n_said)?);
    if said != wanted { Some(false) } else { (n_said == SWITCHES.len()).then_some(true) }
}

async fn body(mut stream: Stream, client: DuplexStream, asked: &Asked, node: &NodeName) -> Option<Over> {
    let (mut reads, mut writes) = tokio::io::split(client);
    // It has nothing more to say but that it goes.
    let gone = async {
        let mut buffer = [0; 512];
        while let Ok(1..) = reads.read(&mut buffer).await {}
    };
    let up = async {
        let limit = if asked.is_followed { FOLLOWED_LIMIT } else { FIRST_LIMIT };
        let mut piece = match tokio::time::timeout(limit, stream.receive()).await {
            Ok(None) if stream.over() != Some(Over::Removed) => {
                let text = format!("node {node} cannot be reached: its tunnel has ended");
                writes.write_all(&Refusal::new(502, text).bytes()).await?;
                return writes.shutdown().await;
            }
            Ok(piece) => piece,
            Err(_) if asked.is_followed => Some(Vec::new()),
            Err(_) => {
                writes.write_all(&silent(node).bytes()).await?;
                return writes.shutdown().await;
            }
        };
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n",
            asked.content_type
        );
        writes.write_all(head.as_bytes()).await?;
        while let Some(bytes) = piece {
            // An empty chunk is the end.
            if !bytes.is_empty() {
                let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                chunk.extend(bytes);
                chunk.extend(b"\r\n");
                writes.write_all(&chunk).await?;
            }
            piece = stream.receive().await;
        }
        // Only what the node ended is whole.
        if stream.over() == Some(Over::Removed) {
            writes.write_all(b"0\r\n\r\n").await?;
        }
        writes.shutdown().await
    };
    tokio::select! {
        () = Box::pin(gone) => {}
        // Whoever is written to has gone, or not: there is nobody else to tell.
        _ = Box::pin(up) => {}
    }
    stream.over()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_an_answer_begins() {
        let check = |first: &str, expected: Option<bool>| {
            assert_eq!(has_switched(first.as_bytes()), expected, "{first:?}");
        };
        check("", None);
        check("HTTP/1.1 10", None);
        check("HTTP/1.1 101", None);
        check("HTTP/1.1 101 Switching Protocols\r\n", Some(true));
        check("HTTP/1.1 1010", Some(false));
        check("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 101 ", Some(false));
        check("HTTP/1.1 404 Not Found\r\n", Some(false));
        check("HTTP/1.0 101 ", Some(false));
        check("no HTTP", Some(false));
    }
}
