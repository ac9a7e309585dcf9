//! Questions in HTTP to edgecore: at an address of this machine, or at a unix socket.

use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::Ask;

/// An answer on loopback is small; what comes after this is passed over.
const MAX_ANSWER: usize = 64 << 10;
/// From the connection to the answer's end.
const ANSWER_WITHIN: Duration = Duration::from_secs(5);
/// How long a server at a unix socket may take to begin its answer. How long it goes on is its own affair: a log may be followed.
const BEGIN_WITHIN: Duration = Duration::from_secs(60);

pub(super) fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut body = Vec::new();
    let mut take = |_, piece: &[u8]| {
        let room = MAX_ANSWER.saturating_sub(body.len());
        body.extend_from_slice(piece.get(..room).unwrap_or(piece));
        Ok(())
    };
    let status = run(async {
        let answer = async {
            let stream = TcpStream::connect(address).await?;
            exchange(stream, &address.to_string(), &Ask { method: "GET", path, body: Vec::new() }, &mut take)
                .await
        };
        timeout(ANSWER_WITHIN, answer).await.map_err(|_| silent(ANSWER_WITHIN))?
    })?;
    Ok((status, String::from_utf8_lossy(&body).trim().to_owned()))
}

pub(super) fn ask(
    socket: &Path,
    ask: &Ask<'_>,
    take: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
) -> io::Result<u16> {
    run(async {
        let stream = UnixStream::connect(socket).await?;
        exchange(stream, "edgecore", ask, take).await
    })
}

fn run<T>(work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(work)
}

/// `host`: whom the question is for, as HTTP wants it. Gives the status when the answer has come to its end.
async fn exchange(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    host: &str,
    ask: &Ask<'_>,
    take: &mut dyn FnMut(u16, &[u8]) -> io::Result<()>,
) -> io::Result<u16> {
    let handshake = hyper::client::conn::http1::handshake(TokioIo::new(stream));
    let (mut sender, connection) = handshake.await.map_err(io::Error::other)?;
    // Ends with the answer, or with this runtime.
    tokio::spawn(connection);
    let request = hyper::Request::builder()
        .method(ask.method)
        .uri(ask.path)
        .header(hyper::header::HOST, host)
        .body(Full::new(Bytes::from(ask.body.clone())))
        .map_err(io::Error::other)?;
    let answer = timeout(BEGIN_WITHIN, sender.send_request(request)).await;
    let mut answer = answer.map_err(|_| silent(BEGIN_WITHIN))?.map_err(io::Error::other)?;
    let status = answer.status().as_u16();
    while let Some(frame) = answer.frame().await {
        if let Some(piece) = frame.map_err(io::Error::other)?.data_ref() {
            take(status, piece)?;
        }
    }
    Ok(status)
}

fn silent(limit: Duration) -> io::Error {
    io::Error::new(ErrorKind::TimedOut, format!("no answer within {} s", limit.as_secs()))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::os::unix::net::UnixListener;
    use std::thread;

    use super::*;

    /// Takes one question and says `answer`; gives the question's head.
    fn serve(mut stream: impl io::Read + io::Write, answer: &str) -> String {
        let (mut asked, mut byte) = (Vec::new(), [0]);
        while !asked.ends_with(b"\r\n\r\n") && stream.read(&mut byte).unwrap() == 1 {
            asked.push(byte[0]);
        }
        stream.write_all(answer.as_bytes()).unwrap();
        String::from_utf8(asked).unwrap()
    }

    fn get_of(answer: &str) -> (io::Result<(u16, String)>, String) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        thread::scope(|scope| {
            let server = scope.spawn(|| serve(listener.accept().unwrap().0, answer));
            (get(address, "/node"), server.join().unwrap())
        })
    }

    #[test]
    fn an_address_is_asked() {
        let (answer, asked) = get_of("HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nnot yet\r\n");
        assert_eq!(answer.unwrap(), (503, "not yet".to_owned()));
        assert!(asked.starts_with("GET /node HTTP/1.1\r\nhost: 127.0.0.1:"), "{asked}");
        // In pieces, as servers may; and one that says no length and hangs up.
        let pieces = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nRea\r\n2\r\ndy\r\n0\r\n\r\n";
        assert_eq!(get_of(pieces).0.unwrap(), (200, "Ready".to_owned()));
        assert_eq!(get_of("HTTP/1.0 200 OK\r\n\r\nReady\n").0.unwrap(), (200, "Ready".to_owned()));
        get_of("what is this?\r\n\r\n").0.unwrap_err();
        get_of("HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhal").0.unwrap_err();
    }

    #[test]
    fn of_a_long_answer_the_beginning_is_taken() {
        let answer = format!("HTTP/1.1 200 OK\r\n\r\n{}", "x".repeat(3 * MAX_ANSWER));
        assert_eq!(get_of(&answer).0.unwrap().1.len(), MAX_ANSWER);
    }

    #[test]
    fn a_socket_is_asked() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("edgecore.sock");
        let question = Ask { method: "POST", path: "/x", body: b"{}".to_vec() };
        let nobody = ask(&socket, &question, &mut |_, _| Ok(())).unwrap_err();
        assert_eq!(nobody.kind(), ErrorKind::NotFound);
        let listener = UnixListener::bind(&socket).unwrap();
        let answer = "HTTP/1.1 404 No\r\nContent-Length: 3\r\n\r\nno!";
        let server = thread::spawn(move || serve(listener.accept().unwrap().0, answer));
        let mut told = Vec::new();
        let status = ask(&socket, &question, &mut |status, piece| {
            assert_eq!(status, 404);
            told.extend_from_slice(piece);
            Ok(())
        });
        assert_eq!((status.unwrap(), told.as_slice()), (404, b"no!".as_slice()));
        assert!(server.join().unwrap().starts_with("POST /x HTTP/1.1\r\n"));
    }
}
