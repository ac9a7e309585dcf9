//! One stream of KubeEdge's tunnel: one request to this machine's kubelet, to its end.
//!
//! Commands and attaching are bytes both ways, HTTP included. Of logs and numbers the cloud wants the body alone; what status it
//! came with, this protocol cannot say. Whatever happens, the stream is ended, or the cloud would wait for ever. Called by
//! the module above.

use std::fmt::Write as _;
use std::io;

use http_body_util::{BodyExt, Empty};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use ke_socket::tunnel::Stream;
use ke_wire::tunnel::{KubeletRequest, Reached};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::task::JoinSet;

/// Bytes between tunnel and kubelet.
const BUFFER: usize = 16 << 10;
/// What the kubelet is called here; nobody reads it.
const HOST: &str = "localhost";

/// Serves it; returns when it has ended. `kubelet`: the other end of a connection to it.
pub(super) async fn serve(
    stream: Stream,
    reached: Reached,
    request: KubeletRequest,
    kubelet: &(dyn Fn(DuplexStream) + Send + Sync),
) -> io::Result<()> {
    let (ours, theirs) = duplex(BUFFER);
    match reached {
        Reached::Exec | Reached::Attach => {
            let head = head(&request).map_err(io::Error::other)?;
            kubelet(theirs);
            both_ways(stream, ours, head).await
        }
        Reached::Logs | Reached::Metrics => {
            kubelet(theirs);
            body(stream, ours, request).await
        }
    }
}

/// The head of a request as the cloud gave it. Errors: what in it could be more than one.
fn head(request: &KubeletRequest) -> Result<String, String> {
    let method = request.method.as_deref().unwrap_or("GET");
    if !matches!(method, "GET" | "POST") {
        return Err(format!("its method is {method:?}, neither GET nor POST"));
    }
    let mut head = format!("{method} {} HTTP/1.1\r\nHost: {HOST}\r\n", request.target);
    let is_name = |byte: u8| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte);
    for (name, values) in &request.header {
        if matches!(&*name.to_ascii_lowercase(), "host" | "content-length" | "transfer-encoding") {
            continue;
        }
        for value in values {
            let is_one =
                !name.is_empty() && name.bytes().all(is_name) && !value.chars().any(char::is_control);
            if !is_one {
                return Err(format!("its header {name:?} holds what a header may not"));
            }
            let _ = write!(head, "{name}: {value}\r\n");
        }
    }
    head.push_str("\r\n");
    Ok(head)
}

async fn both_ways(mut stream: Stream, kubelet: DuplexStream, head: String) -> io::Result<()> {
    let writer = stream.writer();
    let (mut reads, mut writes) = tokio::io::split(kubelet);
    let up = async {
        let mut buffer = vec![0; BUFFER];
        loop {
            let n_read = reads.read(&mut buffer).await?;
            if n_read == 0 {
                return Ok(());
            }
            let sent = writer.send(buffer.get(..n_read).unwrap_or_default()).await;
            sent.map_err(io::Error::other)?;
        }
    };
    let down = async {
        writes.write_all(head.as_bytes()).await?;
        while let Some(bytes) = stream.receive().await {
            writes.write_all(&bytes).await?;
        }
        Ok::<_, io::Error>(())
    };
    // Either side's end is all of it: the protocol knows no half. What the kubelet said last is sent by then; once it does not
    // read any more, it may still have something to say.
    let (up, down) = (Box::pin(up), Box::pin(down));
    tokio::pin!(up, down);
    tokio::select! {
        ended = &mut up => ended,
        ended = &mut down => match ended {
            Err(_) => up.await,
            Ok(()) => Ok(()),
        },
    }
}

async fn body(mut stream: Stream, kubelet: DuplexStream, request: KubeletRequest) -> io::Result<()> {
    let broken = |error: hyper::Error| io::Error::other(error);
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(kubelet)).await.map_err(broken)?;
    // Dropped with this stream, the task ends, and so does the kubelet's side.
    let mut driving = JoinSet::new();
    driving.spawn(connection);
    let mut asked = hyper::Request::get(&request.target).header("Host", HOST);
    for (name, values) in &request.header {
        let is_ours = |known: &&str| name.eq_ignore_ascii_case(known);
        let of_the_connection = ["host", "connection", "upgrade", "content-length", "transfer-encoding"];
        // Nobody would learn that the body is packed.
        if !of_the_connection.iter().chain(&["accept-encoding"]).any(is_ours) {
            asked = values.iter().fold(asked, |asked, value| asked.header(name, value));
        }
    }
    let asked = asked.body(Empty::<Bytes>::new()).map_err(io::Error::other)?;
    let writer = stream.writer();
    let up = async {
        let mut body = sender.send_request(asked).await.map_err(broken)?.into_body();
        while let Some(frame) = body.frame().await {
            if let Ok(bytes) = frame.map_err(broken)?.into_data() {
                writer.send(&bytes).await.map_err(io::Error::other)?;
            }
        }
        Ok(())
    };
    tokio::select! {
        ended = Box::pin(up) => ended,
        // It has nothing to say but that it goes.
        () = async { while stream.receive().await.is_some() {} } => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_as_the_cloud_said_and_one_only() {
        let check = |method: Option<&str>, header: &[(&str, &str)], expected: Result<&str, &str>| {
            let header = header.iter().map(|(name, value)| ((*name).to_owned(), vec![(*value).to_owned()]));
            let request = KubeletRequest {
                target: "/exec/a/b/c?command=sh".into(),
                header: header.collect(),
                method: method.map(str::to_owned),
            };
            match (head(&request), expected) {
                (Ok(head), Ok(expected)) => assert_eq!(head, expected),
                (Err(why), Err(part)) => assert!(why.contains(part), "{why}"),
                (found, expected) => panic!("{found:?}, expected {expected:?}"),
            }
        };
        let first = "POST /exec/a/b/c?command=sh HTTP/1.1\r\nHost: localhost\r\n";
        check(
            Some("POST"),
            &[("Upgrade", "SPDY/3.1"), ("Content-Length", "7"), ("Host", "elsewhere")],
            Ok(&format!("{first}Upgrade: SPDY/3.1\r\n\r\n")),
        );
        check(Some("DELETE"), &[], Err("DELETE"));
        check(Some("GET / HTTP/1.1\r\nX: y\r\n\r\nPOST"), &[], Err("neither GET nor POST"));
        check(Some("POST"), &[("A", "b\r\nC: d")], Err("may not"));
        check(Some("POST"), &[("A: b\r\nC", "d")], Err("may not"));
        check(Some("POST"), &[("", "d")], Err("may not"));
    }
}
