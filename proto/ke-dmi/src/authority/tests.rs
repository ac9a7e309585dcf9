//! A real tonic server behind [`AnyAuthority`], called by tonic and by what a Go client sends.

use futures_util::future;
use hyper_util::rt::TokioIo;
use prost::Message;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Status};

use super::*;
use crate::authority::hpack::Decoder;
use crate::v1beta1::device_manager_service_client::DeviceManagerServiceClient;
use crate::v1beta1::device_manager_service_server::{DeviceManagerService, DeviceManagerServiceServer};
use crate::v1beta1::*;

/// Answers with what it was asked: a device that has the mapper's name, and as model the metadata "x-note".
struct Echo;

#[tonic::async_trait]
impl DeviceManagerService for Echo {
    async fn mapper_register(
        &self,
        request: Request<MapperRegisterRequest>,
    ) -> Result<Response<MapperRegisterResponse>, Status> {
        let note = request.metadata().get("x-note").map(|note| note.to_str().unwrap().to_owned());
        let mapper = request.into_inner().mapper.ok_or(Status::invalid_argument("no mapper"))?;
        let spec = DeviceSpec { device_model_reference: note.unwrap_or_default(), ..Default::default() };
        let device = Device { name: mapper.name, spec: Some(spec), ..Default::default() };
        Ok(Response::new(MapperRegisterResponse { device_list: vec![device], model_list: Vec::new() }))
    }

    async fn report_device_status(
        &self,
        _: Request<ReportDeviceStatusRequest>,
    ) -> Result<Response<ReportDeviceStatusResponse>, Status> {
        Err(Status::unknown("not here"))
    }

    async fn report_device_states(
        &self,
        _: Request<ReportDeviceStatesRequest>,
    ) -> Result<Response<ReportDeviceStatesResponse>, Status> {
        Ok(Response::new(ReportDeviceStatesResponse {}))
    }
}

fn serve<IO>(incoming: impl Stream<Item = io::Result<IO>> + Send + 'static)
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
{
    let server = Server::builder().add_service(DeviceManagerServiceServer::new(Echo));
    tokio::spawn(server.serve_with_incoming(incoming));
}

/// A socket with a server behind it, as edgecore and mappers write it.
fn socket() -> (tempfile::TempDir, std::path::PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    serve(incoming(UnixListener::bind(&path).unwrap()));
    (directory, path)
}

fn register(name: &str) -> MapperRegisterRequest {
    let mapper = MapperInfo { name: name.to_owned(), ..Default::default() };
    MapperRegisterRequest { with_data: true, mapper: Some(mapper) }
}

async fn calls_of_a_tonic_client(
    mut client: DeviceManagerServiceClient<Channel>,
    n_calls: usize,
    n_long: usize,
) {
    // All that a header may hold, so that every form of text passes.
    let visible: String = (' '..='~').collect();
    for n in 0..n_calls {
        let note = format!("{}{n}", visible.trim());
        let mut request = Request::new(register(&format!("mapper-{n}")));
        request.metadata_mut().insert("x-note", note.parse().unwrap());
        let device = client.mapper_register(request).await.unwrap().into_inner().device_list.remove(0);
        assert_eq!((device.name, device.spec.unwrap().device_model_reference), (format!("mapper-{n}"), note));
    }
    let error = client.report_device_status(ReportDeviceStatusRequest::default()).await.unwrap_err();
    assert_eq!(error.message(), "not here");
    // Many frames of data, and flow control in both directions.
    let long = "n".repeat(n_long);
    let answer = client.mapper_register(register(&long)).await.unwrap().into_inner();
    assert!(answer.device_list[0].name == long);
}

#[tokio::test]
async fn a_tonic_client_is_served() {
    let (_directory, path) = socket();
    let connector = tower::service_fn(move |_| {
        let path = path.clone();
        async move { UnixStream::connect(path).await.map(TokioIo::new) }
    });
    let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
    calls_of_a_tonic_client(DeviceManagerServiceClient::new(channel), 50, 1_000_000).await;
}

/// A connection that moves at most `step` bytes at once. (A pipe that holds so few would not do: HTTP/2 peers write
/// before they read, and both would wait.)
struct Trickle<IO> {
    io: IO,
    step: usize,
}

impl<IO: AsyncRead + Unpin> AsyncRead for Trickle<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut space = vec![0; self.step.min(buf.remaining())];
        let mut read = ReadBuf::new(&mut space);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut read))?;
        buf.put_slice(read.filled());
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncWrite + Unpin> AsyncWrite for Trickle<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let end = self.step.min(buf.len());
        Pin::new(&mut self.io).poll_write(cx, &buf[..end])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

impl<IO> Connected for Trickle<IO> {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

#[tokio::test]
async fn partial_reads_and_writes_lose_nothing() {
    for step in [1, 13] {
        let (near, far) = tokio::io::duplex(1000);
        serve(stream::once(future::ready(Ok(AnyAuthority::new(Trickle { io: far, step })))));
        let mut near = Some(near);
        let connector = tower::service_fn(move |_| {
            future::ready(near.take().map(TokioIo::new).ok_or(io::Error::other("one connection only")))
        });
        let channel =
            Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
        calls_of_a_tonic_client(DeviceManagerServiceClient::new(channel), 3, 100_000).await;
    }
}

/// A server that reads little at a time gets all of it, and the client is not read faster than the server reads.
#[tokio::test]
async fn a_slow_server_slows_the_client() {
    let mut sent = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
    for _ in 0..100 {
        sent.extend(b"\0\x10\0\0\0\0\0\0\x01");
        sent.extend([7; 4096]);
    }
    let mut reader = AnyAuthority::new(io::Cursor::new(sent.clone()));
    let mut read = Vec::new();
    while let Ok(byte) = reader.read_u8().await {
        read.push(byte);
        let ahead = reader.io.position() as usize - read.len();
        assert!(ahead <= READ, "{ahead}");
    }
    assert!(read == sent);
}

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RESET: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// What comes back for one request.
#[derive(Debug, PartialEq)]
enum Outcome {
    /// The code in `grpc-status`, and the first message.
    Answer(String, Vec<u8>),
    Reset,
    Closed,
}

/// The bytes of a grpc-go client: a table of header fields that grows with the first request and is pointed at by the
/// next ones.
struct GoClient {
    socket: UnixStream,
    decoder: Decoder,
    stream: u32,
}

impl GoClient {
    async fn connect(path: &std::path::Path) -> Self {
        let mut socket = UnixStream::connect(path).await.unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut client = Self { socket, decoder: Decoder::new(4096), stream: 1 };
        client.send(SETTINGS, 0, 0, &[]).await;
        client
    }

    async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = &(payload.len() as u32).to_be_bytes()[1..];
        let frame = [length, &[kind, flags], &stream.to_be_bytes(), payload].concat();
        // The other side may have closed: what is read then says so.
        let _ = self.socket.write_all(&frame).await;
    }

    async fn call(&mut self, block: &[u8], message: &impl Message) -> Outcome {
        let message = message.encode_to_vec();
        let data = [&[0][..], &(message.len() as u32).to_be_bytes(), &message].concat();
        let stream = self.stream;
        self.stream += 2;
        self.send(HEADERS, END_HEADERS, stream, block).await;
        self.send(DATA, END_STREAM, stream, &data).await;
        let (mut status, mut answer) = (String::new(), Vec::new());
        loop {
            let mut head = [0; 9];
            if self.socket.read_exact(&mut head).await.is_err() {
                return Outcome::Closed;
            }
            let [_, high, low, kind, flags, ..] = head;
            let mut payload = vec![0; usize::from(high) << 8 | usize::from(low)];
            self.socket.read_exact(&mut payload).await.unwrap();
            match kind {
                SETTINGS if flags & ACK == 0 => self.send(SETTINGS, ACK, 0, &[]).await,
                HEADERS => {
                    for field in self.decoder.decode(&payload).unwrap() {
                        if &field.name[..] == b"grpc-status" {
                            status = String::from_utf8(field.value.to_vec()).unwrap();
                        }
                    }
                }
                DATA => answer.extend(payload),
                RESET => return Outcome::Reset,
                GOAWAY => return Outcome::Closed,
                _ => {}
            }
            if (kind == HEADERS || kind == DATA) && flags & END_STREAM != 0 {
                return Outcome::Answer(status, answer.split_off(5.min(answer.len())));
            }
        }
    }
}

/// Adds a field to the table: a known name by its index, a value in Huffman code.
fn indexed(name: u8, value: &str) -> Vec<u8> {
    let coded = huffman::encode(value.as_bytes());
    assert!(coded.len() < 0x7f);
    [&[0x40 | name, 0x80 | coded.len() as u8][..], &coded].concat()
}

/// In the order of grpc-go: method, scheme, path, authority, content-type, user-agent, te.
fn first_request(authority: &str) -> Vec<u8> {
    let te = [&[0x40, 2][..], b"te", &[8], b"trailers"].concat();
    [
        vec![0x83, 0x86],
        indexed(4, "/v1beta1.DeviceManagerService/MapperRegister"),
        indexed(1, authority),
        indexed(31, "application/grpc"),
        indexed(58, "grpc-go/1.67.1"),
        te,
    ]
    .concat()
}

/// The same fields by their places in the table, newest at 62.
const NEXT_REQUEST: [u8; 7] = [0x83, 0x86, 0x80 | 66, 0x80 | 65, 0x80 | 64, 0x80 | 63, 0x80 | 62];

fn answered(name: &str) -> Outcome {
    let device = Device { name: name.to_owned(), spec: Some(DeviceSpec::default()), ..Default::default() };
    let answer = MapperRegisterResponse { device_list: vec![device], model_list: Vec::new() };
    Outcome::Answer("0".to_owned(), answer.encode_to_vec())
}

#[tokio::test]
async fn a_go_client_is_served() {
    for authority in ["%2Ftmp%2Fx.sock", "/tmp/x.sock", "localhost"] {
        let (_directory, path) = socket();
        let mut client = GoClient::connect(&path).await;
        assert_eq!(
            client.call(&first_request(authority), &register("a")).await,
            answered("a"),
            "{authority}"
        );
        for name in ["b", "c"] {
            assert_eq!(client.call(&NEXT_REQUEST, &register(name)).await, answered(name), "{authority}");
        }
    }
}

/// Why all this is here. When it fails, the library takes any authority and this module can go.
#[tokio::test]
async fn without_it_a_go_client_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("x.sock");
    let listener = UnixListener::bind(&path).unwrap();
    serve(stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    }));
    for (authority, expected) in
        [("%2Ftmp%2Fx.sock", Outcome::Reset), ("/tmp/x.sock", Outcome::Reset), ("localhost", answered("a"))]
    {
        let mut client = GoClient::connect(&path).await;
        assert_eq!(client.call(&first_request(authority), &register("a")).await, expected, "{authority}");
    }
}

/// Each ends its own connection, and no other.
#[tokio::test]
async fn bad_clients_are_closed_and_others_served() {
    let (_directory, path) = socket();
    let mut good = GoClient::connect(&path).await;
    assert_eq!(good.call(&first_request("/x"), &register("a")).await, answered("a"));

    let mut bad = GoClient::connect(&path).await;
    assert_eq!(bad.call(&NEXT_REQUEST, &register("a")).await, Outcome::Closed);

    for text in [&b"GET / HTTP/1.1\r\n\r\n"[..], b"\0\0\0", b"PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n"] {
        let mut other = UnixStream::connect(&path).await.unwrap();
        other.write_all(text).await.unwrap();
        // The server may say its settings first; then it closes.
        let mut rest = Vec::new();
        let _ = other.read_to_end(&mut rest).await;
        assert!(rest.len() < 200, "{rest:?}");
    }

    let mut dying = UnixStream::connect(&path).await.unwrap();
    dying.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x09\x01").await.unwrap();
    drop(dying);

    assert_eq!(good.call(&NEXT_REQUEST, &register("b")).await, answered("b"));
}

/// The connection tells why it ends, after it has handed on what was good.
#[tokio::test]
async fn the_reader_is_told_once_the_good_bytes_are_read() {
    let good = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let bad = b"\0\0\x01\x01\x04\0\0\0\x01\xbe";
    let mut reader = AnyAuthority::new(io::Cursor::new([&good[..], bad].concat()));
    let mut read = vec![0; good.len()];
    reader.read_exact(&mut read).await.unwrap();
    assert_eq!(read, good);
    for _ in 0..2 {
        let error = reader.read(&mut read).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        assert_eq!(error.to_string(), "a header block refers to field 62, which was never sent");
    }
    let mut cut = AnyAuthority::new(&good[..20]);
    assert_eq!(cut.read(&mut read).await.unwrap(), 0);
}
