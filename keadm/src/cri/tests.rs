//! What is asked of a container runtime, and in which order; the runtime is a server of this file's at a real socket.

use std::sync::{Arc, Mutex};

use http_body_util::BodyExt as _;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::TokioExecutor;
use tokio::net::UnixListener;

use super::*;

#[test]
fn endpoints_are_sockets() {
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(socket(text).ok(), expected.map(PathBuf::from), "{text}");
    };
    check("unix:///run/x.sock", Some("/run/x.sock"));
    check("/run/x.sock", Some("/run/x.sock"));
    check("tcp://127.0.0.1:1", None);
    check("", None);
}

#[test]
fn nobody_at_a_socket_is_told() {
    let why = pull("unix:///no/such.sock", "a:1").unwrap_err();
    assert!(why.contains("no container runtime at /no/such.sock"), "{why}");
}

#[test]
fn the_container_gets_the_folder_and_no_more() {
    let config = container("a:1", Path::new("/var/lib/x"));
    assert_eq!(config.command, [PROGRAM, "install-into", "/host"]);
    assert_eq!(config.mounts.len(), 1);
    assert_eq!(config.mounts[0].host_path, "/var/lib/x");
    let security = config.linux.unwrap().security_context.unwrap();
    assert!(security.no_new_privs && security.readonly_rootfs && !security.privileged);
}

/// A runtime that has an image or has not, and notes what it is asked.
struct Runtime {
    folder: tempfile::TempDir,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Runtime {
    /// Ends with the test's process: its thread waits for connections.
    fn start(has_image: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let asked: Arc<Mutex<Vec<String>>> = Arc::default();
        let (socket, noted) = (folder.path().join("cri.sock"), asked.clone());
        let (ready, is_ready) = std::sync::mpsc::channel();
        std::thread::spawn(move || {
            let work = async {
                let listener = UnixListener::bind(socket).unwrap();
                ready.send(()).unwrap();
                loop {
                    let (stream, _) = listener.accept().await.unwrap();
                    let noted = noted.clone();
                    let service = service_fn(move |request: hyper::Request<Incoming>| {
                        let name = request.uri().path().rsplit('/').next().unwrap().to_owned();
                        noted.lock().unwrap().push(name.clone());
                        async move {
                            request.into_body().collect().await?;
                            Ok::<_, hyper::Error>(answer(&name, has_image))
                        }
                    });
                    // Of one call of keadm.
                    let _ = http2::Builder::new(TokioExecutor::new())
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                }
            };
            tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(work)
        });
        is_ready.recv().unwrap();
        Self { folder, asked }
    }

    fn endpoint(&self) -> String {
        format!("unix://{}", self.folder.path().join("cri.sock").display())
    }

    fn asked(&self) -> Vec<String> {
        std::mem::take(&mut *self.asked.lock().unwrap())
    }
}

/// One message as gRPC sends it; what is not said here has nothing in it.
fn answer(
    name: &str,
    has_image: bool,
) -> hyper::Response<impl hyper::body::Body<Data = Bytes, Error = hyper::Error> + use<>> {
    let message: &[u8] = match name {
        // An image about which nothing is said.
        "ImageStatus" if has_image => &[0x0a, 0],
        "RunPodSandbox" | "CreateContainer" => b"\x0a\x01x",
        // Exited, with code 0.
        "ContainerStatus" => &[0x0a, 2, 0x18, 2],
        _ => &[],
    };
    let length = u8::try_from(message.len()).unwrap();
    let data = Bytes::from([&[0, 0, 0, 0, length], message].concat());
    let trailers = [("grpc-status".parse().unwrap(), "0".parse().unwrap())].into_iter().collect();
    let body = http_body_util::Full::new(data)
        .map_err(|never| match never {})
        .with_trailers(async { Some(Ok(trailers)) });
    hyper::Response::builder().header("content-type", "application/grpc").body(body).unwrap()
}

#[test]
fn an_image_that_is_there_is_not_pulled() {
    let runtime = Runtime::start(true);
    assert!(!pull(&runtime.endpoint(), "r.example/a:1").unwrap());
    assert_eq!(runtime.asked(), ["ImageStatus"]);
    for may_pull in [true, false] {
        fetch(&runtime.endpoint(), "r.example/a:1", may_pull, runtime.folder.path()).unwrap();
        let asked = runtime.asked();
        assert!(!asked.contains(&"PullImage".to_owned()), "{asked:?}");
        assert_eq!(asked.last().unwrap(), "RemovePodSandbox", "{asked:?}");
    }
}

#[test]
fn an_image_that_is_not_there_is_pulled_only_from_where_it_was_said_to_be() {
    let runtime = Runtime::start(false);
    assert!(pull(&runtime.endpoint(), "r.example/a:1").unwrap());
    assert_eq!(runtime.asked(), ["ImageStatus", "PullImage"]);
    let why = fetch(&runtime.endpoint(), "a:1", false, runtime.folder.path()).unwrap_err();
    assert!(why.contains("from which registry to pull it was not said"), "{why}");
    assert_eq!(runtime.asked(), ["ImageStatus"]);
    fetch(&runtime.endpoint(), "r.example/a:1", true, runtime.folder.path()).unwrap();
    assert_eq!(runtime.asked()[..2], ["ImageStatus", "PullImage"]);
}
