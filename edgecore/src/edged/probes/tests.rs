//! Every kind of probe against a server that is really there.

use std::convert::Infallible;
use std::sync::Mutex;

use futures_util::future::BoxFuture;
use k8s_openapi::api::core::v1::Probe;
use ke_cri::v1;
use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use tonic::body::Body;
use tonic::codegen::http as wire;

use super::*;
use crate::edged::cri::RuntimeError;
use crate::edged::cri_fake::FakeRuntime;
use crate::edged::observed::ObservedContainer;

const LIMIT: Duration = Duration::from_millis(700);

/// A server that answers each request with what `answer` makes of its head; gives its port.
async fn server(answer: impl Fn(&str) -> String + Send + Sync + 'static, tls: bool) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let acceptor = tls.then(|| {
        let made = rcgen::generate_simple_self_signed(vec!["somebody.else".into()]).unwrap();
        let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
        let config = rustls::ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(vec![made.cert.der().clone()], key)
            .unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config))
    });
    let answer = Arc::new(answer);
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (answer, acceptor) = (answer.clone(), acceptor.clone());
            tokio::spawn(async move {
                match acceptor {
                    Some(acceptor) => {
                        if let Ok(stream) = acceptor.accept(stream).await {
                            serve(stream, &*answer).await
                        }
                    }
                    None => serve(stream, &*answer).await,
                }
            });
        }
    });
    port
}

async fn serve(
    mut stream: impl AsyncReadExt + AsyncWriteExt + Unpin,
    answer: &(dyn Fn(&str) -> String + Sync),
) {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match stream.read_u8().await {
            Ok(byte) => head.push(byte),
            Err(_) => return,
        }
    }
    let answer = answer(&String::from_utf8_lossy(&head));
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.shutdown().await;
}

fn answer(status: &str, more: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: {}\r\n{more}\r\n{body}", body.len())
}

async fn ask(probe: Value) -> Probed {
    ask_on(&FakeRuntime::new(), "c", probe).await
}

async fn ask_on(runtime: &FakeRuntime, id: &str, probe: Value) -> Probed {
    let probe: Probe = serde_json::from_value(probe).unwrap();
    let target = Target::of(&probe, &Container { name: "app".into(), ..Container::default() }, "127.0.0.1");
    run(&target, runtime, id, LIMIT).await
}

#[tokio::test]
async fn http() {
    let heads: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = heads.clone();
    let port = server(
        move |head| {
            seen.lock().unwrap().push(head.to_owned());
            match head.split(' ').nth(1).unwrap() {
                "/well" => answer("200 OK", "", "fine"),
                "/teapot" => answer("418 I'm a teapot", "", "secret"),
                "/here" => answer("302 Found", "Location: /well\r\n", ""),
                "/round" => answer("302 Found", "Location: /round\r\n", ""),
                "/away" => answer("302 Found", "Location: http://192.0.2.1/\r\n", "<a>Found</a>"),
                "/large" => answer("200 OK", "", &"x".repeat(100_000)),
                "/rubbish" => "SSH-2.0-x\r\n".into(),
                path => answer("404 Not Found", "", path),
            }
        },
        false,
    )
    .await;
    let get = |path: &str| {
        json!({"httpGet": {"port": port, "path": path, "httpHeaders": [
        {"name": "X-Two", "value": "a"}, {"name": "X-Two", "value": "b"}, {"name": "Host", "value": "shop"}]}})
    };
    assert_eq!(ask(get("/well")).await, Probed::Well);
    let head = heads.lock().unwrap()[0].clone();
    for line in [
        "GET /well HTTP/1.1\r\n",
        "X-Two: a\r\nX-Two: b\r\n",
        "Host: shop\r\n",
        "User-Agent: kube-probe/1.36\r\n",
        "Accept: */*\r\n",
        "Connection: close\r\n",
    ] {
        assert!(head.contains(line), "{line:?} in {head:?}");
    }
    assert_eq!(ask(get("/here")).await, Probed::Well);
    assert_eq!(ask(get("/large")).await, Probed::Well);
    let teapot = Probed::Unwell("HTTP probe failed with statuscode: 418".into());
    assert_eq!(ask(get("/teapot")).await, teapot, "the body is not told");
    let away = Probed::Warned("Probe terminated redirects, Response body: <a>Found</a>".into());
    assert_eq!(ask(get("/away")).await, away);
    let round = Probed::Unwell(format!("Get \"http://127.0.0.1:{port}/round\": stopped after 10 redirects"));
    assert_eq!(ask(get("/round")).await, round);
    let Probed::Unwell(why) = ask(get("/rubbish")).await else { panic!("this is no HTTP") };
    assert!(why.starts_with(&format!("Get \"http://127.0.0.1:{port}/rubbish\": ")), "{why}");
    let header = json!({"httpGet": {"port": port, "httpHeaders": [{"name": "no name", "value": ""}]}});
    assert!(matches!(ask(header).await, Probed::NotMade(why) if why.contains("no name")));
}

#[tokio::test]
async fn https_looks_at_no_certificate() {
    let port = server(|_| answer("200 OK", "", ""), true).await;
    let get = |port: u16| json!({"httpGet": {"port": port, "scheme": "HTTPS"}});
    assert_eq!(ask(get(port)).await, Probed::Well);
    let plain = server(|_| answer("200 OK", "", ""), false).await;
    let why = format!("Get \"https://127.0.0.1:{plain}/\": http: server gave HTTP response to HTTPS client");
    // The server answers a TLS greeting only once it looks like a request; ours waits for an empty line.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let hasty = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
        tokio::time::sleep(LIMIT).await;
    });
    assert_eq!(ask(get(hasty)).await, Probed::Unwell(why.replace(&plain.to_string(), &hasty.to_string())));
}

#[tokio::test]
async fn what_does_not_answer_is_unwell() {
    let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let closed = {
        let gone = TcpListener::bind("127.0.0.1:0").await.unwrap();
        gone.local_addr().unwrap().port()
    };
    let check = |probe: Value, why: String| async move {
        assert_eq!(ask(probe.clone()).await, Probed::Unwell(why), "{probe}");
    };
    let url = |port: u16| format!("Get \"http://127.0.0.1:{port}/\"");
    let late = "context deadline exceeded (Client.Timeout exceeded while awaiting headers)";
    let refused = |port: u16| format!("dial tcp 127.0.0.1:{port}: connect: connection refused");
    assert_eq!(ask(json!({"tcpSocket": {"port": port}})).await, Probed::Well);
    check(json!({"tcpSocket": {"port": closed}}), refused(closed)).await;
    check(json!({"httpGet": {"port": port}}), format!("{}: {late}", url(port))).await;
    check(json!({"httpGet": {"port": closed}}), format!("{}: {}", url(closed), refused(closed))).await;
    let server = format!("127.0.0.1:{port}");
    let slow = format!("timeout: health rpc of \"{server}\" did not complete within 0s");
    check(json!({"grpc": {"port": port}}), slow).await;
    let why = format!("error: failed to connect service at \"127.0.0.1:{closed}\": {}", refused(closed));
    check(json!({"grpc": {"port": closed}}), why).await;
}

/// `grpc.health.v1.Health` that knows two services.
#[derive(Clone)]
struct Health;

impl tonic::server::NamedService for Health {
    const NAME: &'static str = "grpc.health.v1.Health";
}

impl tower::Service<wire::Request<Body>> for Health {
    type Response = wire::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<Result<(), Infallible>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: wire::Request<Body>) -> Self::Future {
        assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
        Box::pin(async move {
            let codec = tonic_prost::ProstCodec::<grpc::Response, grpc::Request>::default();
            Ok(tonic::server::Grpc::new(codec).unary(Check, request).await)
        })
    }
}

struct Check;

impl tonic::server::UnaryService<grpc::Request> for Check {
    type Response = grpc::Response;
    type Future = BoxFuture<'static, Result<tonic::Response<grpc::Response>, tonic::Status>>;

    fn call(&mut self, request: tonic::Request<grpc::Request>) -> Self::Future {
        let status = match request.into_inner().service.as_str() {
            "" => Ok(grpc::Health::Serving),
            "sick" => Ok(grpc::Health::NotServing),
            other => Err(tonic::Status::not_found(format!("no service {other}"))),
        };
        Box::pin(async move { Ok(tonic::Response::new(grpc::Response { status: status? as i32 })) })
    }
}

#[tokio::test]
async fn grpc_health() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let incoming = futures_util::stream::unfold(listener, |listener| async {
        let accepted = listener.accept().await.map(|(stream, _)| stream);
        Some((accepted, listener))
    });
    tokio::spawn(tonic::transport::Server::builder().add_service(Health).serve_with_incoming(incoming));
    let check = |service: &str| ask(json!({"grpc": {"port": port, "service": service}}));
    assert_eq!(check("").await, Probed::Well);
    let sick = Probed::Unwell("service unhealthy (responded with \"NOT_SERVING\")".into());
    assert_eq!(check("sick").await, sick);
    let why = "error: health rpc probe failed: rpc error: code = NotFound desc = no service other";
    assert_eq!(check("other").await, Probed::Unwell(why.into()));
    // Something else speaks HTTP there.
    let port = server(|_| answer("200 OK", "", ""), false).await;
    let Probed::Unwell(why) = ask(json!({"grpc": {"port": port}})).await else { panic!("no gRPC is spoken") };
    assert!(why.starts_with("error: ") || why.starts_with("timeout: "), "{why}");
}

#[tokio::test]
async fn exec() {
    let runtime = FakeRuntime::new();
    let sandbox = runtime.run_sandbox(&v1::PodSandboxConfig::default(), "").await.unwrap();
    runtime.add_image("i", "");
    let config = v1::ContainerConfig {
        image: Some(v1::ImageSpec { image: "i".into(), ..v1::ImageSpec::default() }),
        ..v1::ContainerConfig::default()
    };
    let id = runtime.create_container(&sandbox, &config, &v1::PodSandboxConfig::default()).await.unwrap();
    runtime.start_container(&id).await.unwrap();
    let exec = |word: &str| json!({"exec": {"command": [word, "-x"]}});
    assert_eq!(ask_on(&runtime, &id, exec("well")).await, Probed::Well);
    runtime.set_exec("unwell", 1, "cat: no such file");
    assert_eq!(ask_on(&runtime, &id, exec("unwell")).await, Probed::Unwell("cat: no such file".into()));
    let timeout = || RuntimeError::Timeout { call: "ExecSync", after: LIMIT };
    runtime.fail_next("exec_sync", timeout());
    let late = Probed::Unwell("command timed out: \"well -x\" timed out after 0s".into());
    assert_eq!(ask_on(&runtime, &id, exec("well")).await, late);
    // A command that does not exist says nothing about the container; a runtime that comes back is asked again.
    let no_such = RuntimeError::Refused { code: tonic::Code::Unknown, message: "no such command".into() };
    runtime.fail_always("exec_sync", no_such.clone());
    assert_eq!(ask_on(&runtime, &id, exec("well")).await, Probed::NotMade("no such command".into()));
    runtime.heal();
    runtime.fail_next("exec_sync", no_such);
    assert_eq!(ask_on(&runtime, &id, exec("well")).await, Probed::Well);
}

/// A Pod with these probes on its one container, which runs since `age_secs`.
fn running(probes: Value, age_secs: i64) -> (Pod, ObservedPod) {
    let mut app = json!({"name": "app", "image": "i"});
    for (key, value) in probes.as_object().unwrap() {
        app[key] = value.clone();
    }
    let pod = serde_json::from_value(json!({
        "metadata": {"name": "web", "namespace": "shop", "uid": "u1"}, "spec": {"containers": [app]}}));
    let started_at = Timestamp::from_second(Timestamp::now().as_second() - age_secs).unwrap();
    let record = ObservedContainer::first("c-1", "app", ContainerState::Running { started_at });
    (pod.unwrap(), ObservedPod { containers: vec![record], ..ObservedPod::default() })
}

#[tokio::test]
async fn a_pod_is_watched_from_start_to_end() {
    let port = server(|head| answer(if head.contains("/well") { "200" } else { "500" }, "", ""), false).await;
    let get = |path: &str| json!({"httpGet": {"port": port, "path": path}, "periodSeconds": 1, "failureThreshold": 1});
    let (pod, mut observed) =
        running(json!({"readinessProbe": get("/well"), "livenessProbe": get("/unwell")}), 0);
    let (wake, counts) = (Arc::new(Notify::new()), ProbeCounts::default());
    let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::new());
    let address = "127.0.0.1".to_owned();
    let ground = Ground { runtime: &runtime, wake: &wake, counts: &counts, address };
    let mut probes = Probes::default();
    probes.sync(&pod, false, &observed, &PodStatus::default(), &ground);
    let verdict = |probes: &Probes| probes.verdicts()["c-1"];
    assert_eq!(verdict(&probes), Verdict { started: true, ready: false, failed: None }, "unready at first");
    wake.notified().await;
    assert_eq!(verdict(&probes), Verdict { started: true, ready: true, failed: None });
    wake.notified().await;
    assert_eq!(verdict(&probes).failed, Some(Kind::Liveness));
    let said = probes.said().await;
    let message = "Liveness probe failed: HTTP probe failed with statuscode: 500";
    let expected = Said { reason: "Unhealthy", message: message.into(), container: "app".into() };
    assert_eq!(said, expected);
    let text = counts.text();
    assert!(text.contains(r#"pod_uid="u1",probe_type="Liveness",result="failed"} 1"#), "{text}");
    // The Pod ends: nothing kills it any more.
    probes.sync(&pod, true, &observed, &PodStatus::default(), &ground);
    wake.notified().await;
    assert_eq!(verdict(&probes).failed, None);
    observed.containers[0].state = ContainerState::Created;
    probes.sync(&pod, true, &observed, &PodStatus::default(), &ground);
    assert!(probes.verdicts().is_empty());
}

#[tokio::test]
async fn after_a_restart_of_ours_the_stored_status_is_believed() {
    let probe = json!({"exec": {"command": ["x"]}, "periodSeconds": 1000});
    let (pod, observed) = running(json!({"startupProbe": probe, "readinessProbe": probe}), 5000);
    let runtime: Arc<dyn Runtime> = Arc::new(FakeRuntime::new());
    let check = |id: &str, ready: bool, expected: Verdict| {
        let status: PodStatus = serde_json::from_value(json!({"containerStatuses": [{
            "name": "app", "image": "i", "imageID": "", "restartCount": 0, "ready": ready, "started": true,
            "containerID": format!("containerd://{id}")}]}))
        .unwrap();
        let mut probes = Probes::default();
        let (wake, counts) = (Arc::new(Notify::new()), ProbeCounts::default());
        let ground = Ground { runtime: &runtime, wake: &wake, counts: &counts, address: String::new() };
        probes.sync(&pod, false, &observed, &status, &ground);
        assert_eq!(probes.verdicts()["c-1"], expected, "{id} {ready}");
    };
    check("c-1", true, Verdict::default());
    check("c-1", false, Verdict { started: true, ready: false, failed: None });
    check("c-0", true, Verdict { started: false, ready: false, failed: None });
}
