//! One stream of a container: the request head goes to the runtime's own streaming server, its answer comes back, and if both
//! have left HTTP then bytes go both ways as they are. SPDY and WebSocket are the business of the two ends.
//!
//! It holds a few kilobytes in each direction: whoever does not read stops the one who writes. Called by `containers.rs`
//! and, for the bytes, by `mod.rs` once the connection is free.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use http_body_util::{BodyExt, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    AUTHORIZATION, CONNECTION, CONTENT_LENGTH, COOKIE, HOST, HeaderMap, HeaderValue, TRANSFER_ENCODING,
    UPGRADE,
};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, split};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::answer::{Answer, Refused, whole};
use super::streaming::StreamUrl;

/// It is on this machine, and answers before the command has said anything.
const ANSWER_LIMIT: Duration = Duration::from_secs(30);
/// Why the runtime refuses is a sentence.
const MAX_REFUSAL: usize = 64 << 10;
/// A refusal's head, or that of an upgrade.
const MAX_HEAD: usize = 64 << 10;
/// Bytes read at once from the caller.
const BUFFER: usize = 8 << 10;
/// How long the last bytes may take to whoever asked.
const FAREWELL: Duration = Duration::from_secs(10);

/// Where the two ends of an upgraded connection wait for it to be free.
pub(super) type Joint = Arc<Mutex<Option<(OnUpgrade, Upgraded)>>>;

/// Whether the request wants to leave HTTP. Nothing else can be a stream.
pub(super) fn wants_upgrade(headers: &HeaderMap) -> bool {
    let words = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let mut words = words.flat_map(|value| value.split(',')).map(str::trim);
    headers.contains_key(UPGRADE) && words.any(|word| word.eq_ignore_ascii_case("upgrade"))
}

/// Sends the request's head to `url` and gives the runtime's answer. On 101 the two ends are left in `joint`.
pub(super) async fn forward(
    mut request: Request<Incoming>,
    url: &StreamUrl,
    joint: &Joint,
) -> Result<Answer, Refused> {
    let front = hyper::upgrade::on(&mut request);
    let head = head(request, url)?;
    let asked = timeout(ANSWER_LIMIT, ask(head, url)).await;
    let asked = asked.map_err(|_| {
        away(&format!("its streaming server did not answer within {} s", ANSWER_LIMIT.as_secs()))
    })?;
    let (answer, back) = asked?;
    if let Some(back) = back {
        *joint.lock().unwrap_or_else(PoisonError::into_inner) = Some((front, back));
    }
    Ok(answer)
}

/// The same head for another server. The spelling of header names travels in the request's extensions.
fn head(request: Request<Incoming>, url: &StreamUrl) -> Result<Request<Empty<Bytes>>, Refused> {
    let (mut parts, _) = request.into_parts();
    parts.uri = url.path.parse().map_err(|error| Refused::broken(&error))?;
    // What let the caller in is not for the runtime, and there is no body.
    for name in [AUTHORIZATION, COOKIE, CONTENT_LENGTH, TRANSFER_ENCODING] {
        parts.headers.remove(name);
    }
    let host = HeaderValue::from_str(&url.host).map_err(|error| Refused::broken(&error))?;
    parts.headers.insert(HOST, host);
    Ok(Request::from_parts(parts, Empty::new()))
}

async fn ask(head: Request<Empty<Bytes>>, url: &StreamUrl) -> Result<(Answer, Option<Upgraded>), Refused> {
    let stream = TcpStream::connect(url.address).await.map_err(|error| away(&error))?;
    // A key that somebody types is a packet.
    stream.set_nodelay(true).map_err(|error| away(&error))?;
    let mut client = hyper::client::conn::http1::Builder::new();
    let client = client.preserve_header_case(true).max_buf_size(MAX_HEAD);
    let (mut sender, connection) =
        client.handshake(TokioIo::new(stream)).await.map_err(|error| away(&error))?;
    let asked = async move {
        let answer = sender.send_request(head).await.map_err(|error| away(&error))?;
        // The connection ends with its sender, upgraded or not.
        taken_over(answer).await
    };
    let (_, asked) = tokio::join!(connection.with_upgrades(), asked);
    asked
}

async fn taken_over(mut answer: Response<Incoming>) -> Result<(Answer, Option<Upgraded>), Refused> {
    let is_upgraded = answer.status() == StatusCode::SWITCHING_PROTOCOLS;
    let upgrade = hyper::upgrade::on(&mut answer);
    let (mut parts, body) = answer.into_parts();
    let (back, text) = if is_upgraded {
        (Some(upgrade.await.map_err(|error| away(&error))?), Bytes::new())
    } else {
        let body = Limited::new(body, MAX_REFUSAL).collect().await;
        (None, body.map_err(|error| away(&error))?.to_bytes())
    };
    if !is_upgraded {
        for name in [CONNECTION, CONTENT_LENGTH, TRANSFER_ENCODING] {
            parts.headers.remove(name);
        }
    }
    Ok((Response::from_parts(parts, whole("", text).into_body()), back))
}

fn away(why: &dyn std::fmt::Display) -> Refused {
    Refused::broken(&format!("reach the container runtime's streaming server: {why}"))
}

/// Bytes both ways, until one of the ends has gone. What the runtime said before it went is passed on.
pub(super) async fn relay(front: impl Future<Output = hyper::Result<Upgraded>>, back: Upgraded) {
    let Ok(front) = front.await else { return };
    both_ways(TokioIo::new(front), TokioIo::new(back)).await;
}

async fn both_ways(
    caller: impl AsyncRead + AsyncWrite + Unpin,
    runtime: impl AsyncRead + AsyncWrite + Unpin,
) {
    let (mut from_caller, mut to_caller) = split(caller);
    let (mut from_runtime, mut to_runtime) = split(runtime);
    // An end that breaks has gone as well as one that closes.
    tokio::select! {
        _ = copy(&mut from_runtime, &mut to_caller) => {
            let _ = timeout(FAREWELL, to_caller.shutdown()).await;
        }
        () = until_the_caller_goes(&mut from_caller, &mut to_runtime) => {
            let _ = timeout(FAREWELL, to_runtime.shutdown()).await;
        }
    }
}

/// Passes on what the caller says. A runtime that takes no more has not gone for that: the end of an output and the exit
/// status may still lie here, behind a slow link, and a stream that is cut off loses them.
async fn until_the_caller_goes(from: &mut (impl AsyncRead + Unpin), to: &mut (impl AsyncWrite + Unpin)) {
    let mut buffer = vec![0; BUFFER];
    let mut is_taken = true;
    while let Ok(n_read @ 1..) = from.read(&mut buffer).await {
        let read = buffer.get(..n_read).unwrap_or_default();
        is_taken = is_taken && to.write_all(read).await.is_ok() && to.flush().await.is_ok();
    }
}

/// Closes a connection that asked for an upgrade and did not get it.
pub(super) async fn farewell(front: OnUpgrade) {
    if let Ok(Ok(front)) = timeout(FAREWELL, front).await {
        let _ = timeout(FAREWELL, TokioIo::new(front).shutdown()).await;
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::duplex;

    use super::*;

    #[tokio::test]
    async fn a_runtime_that_takes_no_more_is_heard_to_its_end() {
        let ((mut caller, front), (back, mut runtime)) = (duplex(64), duplex(64 << 10));
        let relaying = tokio::spawn(both_ways(front, back));
        let output = vec![b'y'; 50_000];
        runtime.write_all(&output).await.unwrap();
        drop(runtime);
        // Nobody takes these, while most of the output still waits for a slow reader.
        for _ in 0..10 {
            caller.write_all(b"input").await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut got = Vec::new();
        caller.read_to_end(&mut got).await.unwrap();
        assert_eq!(got.len(), output.len());
        relaying.await.unwrap();
    }

    #[tokio::test]
    async fn a_caller_who_goes_ends_it_whether_his_input_was_taken_or_not() {
        for takes in [true, false] {
            let ((mut caller, front), (back, runtime)) = (duplex(64), duplex(1 << 10));
            let relaying = tokio::spawn(both_ways(front, back));
            // One that reads nothing more but does not end either.
            let (runtime_reads, mut runtime_writes) = split(runtime);
            runtime_writes.write_all(b"hello").await.unwrap();
            if takes {
                caller.write_all(b"input").await.unwrap();
            }
            drop(caller);
            timeout(FAREWELL * 2, relaying).await.unwrap().unwrap();
            drop((runtime_reads, runtime_writes));
        }
    }

    #[test]
    fn streams_leave_http() {
        let check = |headers: &[(&'static str, &'static str)], expected: bool| {
            let pairs = headers.iter().map(|(name, value)| {
                (hyper::header::HeaderName::from_static(name), HeaderValue::from_static(value))
            });
            assert_eq!(wants_upgrade(&pairs.collect()), expected, "{headers:?}");
        };
        check(&[("connection", "Upgrade"), ("upgrade", "SPDY/3.1")], true);
        check(&[("connection", "keep-alive, upgrade"), ("upgrade", "websocket")], true);
        check(&[("connection", "keep-alive"), ("upgrade", "websocket")], false);
        check(&[("connection", "Upgrade")], false);
        check(&[], false);
    }
}
