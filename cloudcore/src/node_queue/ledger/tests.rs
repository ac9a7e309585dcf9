//! The ledger as objects, against an API server in memory that refuses on request.

use std::collections::BTreeMap;
use std::sync::Arc;

use hyper::{Method, Request, Response};
use ke_run::shutdown::Trigger;
use kube::client::Body;
use serde_json::Value;

use super::*;

const GROUP: &str = "/apis/reliablesyncs.kubeedge.io/v1alpha1";

/// Objects by path, calls in order, and answers to give instead of an outcome.
#[derive(Default)]
struct Server {
    objects: BTreeMap<String, Value>,
    calls: Vec<String>,
    refusals: Vec<Value>,
}

type Shared = Arc<Mutex<Server>>;

fn failure(code: u16, reason: &str, causes: Value) -> Value {
    json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "message": reason, "reason": reason,
        "code": code, "details": {"causes": causes}})
}

fn carry_out(server: &mut Server, method: &Method, path: &str, body: &[u8]) -> Value {
    let short = path.trim_start_matches(GROUP);
    server.calls.push(format!("{method} {short}"));
    if method != Method::GET && !server.refusals.is_empty() {
        return server.refusals.remove(0);
    }
    let body: Value = serde_json::from_slice(body).unwrap_or_default();
    let missing = failure(404, "NotFound", json!([]));
    let object = short.trim_end_matches("/status").to_owned();
    match *method {
        Method::GET => {
            let of_kind = |path: &&String| path.split('/').rev().nth(1) == short.split('/').next_back();
            let items: Vec<&Value> =
                server.objects.iter().filter(|(path, _)| of_kind(path)).map(|(_, object)| object).collect();
            json!({"kind": "List", "apiVersion": "v1", "metadata": {"resourceVersion": "1"}, "items": items})
        }
        Method::POST => {
            let mut made = body;
            if let Some(namespace) = short.split('/').nth(2).filter(|_| short.starts_with("/namespaces")) {
                made["metadata"]["namespace"] = namespace.into();
            }
            // As the real one: a status does not come into being with its object.
            made.as_object_mut().unwrap().remove("status");
            let name = made["metadata"]["name"].as_str().unwrap().to_owned();
            server.objects.insert(format!("{short}/{name}"), made.clone());
            made
        }
        Method::PATCH => match server.objects.get_mut(&object) {
            Some(kept) if short.ends_with("/status") => {
                kept["status"] = body["status"].clone();
                kept.clone()
            }
            _ => missing,
        },
        Method::DELETE => server.objects.remove(&object).unwrap_or(missing),
        _ => missing,
    }
}

fn client(server: &Shared) -> kube::Client {
    let server = Arc::clone(server);
    let service = tower::service_fn(move |request: Request<Body>| {
        let server = Arc::clone(&server);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect_bytes().await?;
            // A write takes a moment, so that others can arrive meanwhile.
            tokio::time::sleep(Duration::from_millis(10)).await;
            let answer = carry_out(&mut server.lock().unwrap(), &head.method, head.uri.path(), &body);
            let code = answer["code"].as_u64().map_or(200, |code| u16::try_from(code).unwrap());
            let answer = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(answer?)
        }
    });
    kube::Client::new(service, "default")
}

struct Bench {
    server: Shared,
    ledger: Arc<ObjectSyncLedger>,
    trigger: Trigger,
    writer: tokio::task::JoinHandle<Result<(), LedgerError>>,
}

async fn bench(objects: &[(&str, Value)]) -> Bench {
    let server = Shared::default();
    for (path, object) in objects {
        server.lock().unwrap().objects.insert((*path).to_owned(), object.clone());
    }
    let (ledger, writer) = ObjectSyncLedger::open(client(&server)).await.unwrap();
    server.lock().unwrap().calls.clear();
    let ledger = Arc::new(ledger);
    let (trigger, stop) = Shutdown::new();
    let writer = tokio::spawn(writer.run(Arc::clone(&ledger), stop));
    Bench { server, ledger, trigger, writer }
}

impl Bench {
    async fn confirm(&self, key: &str, uid: &str, version: u64) {
        let held = Held { key: key.parse().unwrap(), version: Version::new(version) };
        self.ledger.confirmed(&node(), &uid.parse().unwrap(), held).await;
    }

    async fn remove(&self, key: &str, uid: &str) {
        self.ledger.removed(&node(), &uid.parse().unwrap(), &key.parse().unwrap()).await;
    }

    /// What was asked of the server within a (virtual) time that is enough for a retry.
    async fn calls(&self) -> Vec<String> {
        tokio::time::sleep(RETRY_AFTER * 2).await;
        std::mem::take(&mut self.server.lock().unwrap().calls)
    }

    fn version(&self, path: &str) -> Value {
        self.server.lock().unwrap().objects.get(path).cloned().unwrap_or_default()["status"]["objectResourceVersion"]
            .clone()
    }
}

fn node() -> NodeName {
    "edge.1".parse().unwrap()
}

const PATH: &str = "/namespaces/shop/objectsyncs/edge.1.u1";

#[tokio::test(start_paused = true)]
async fn what_others_wrote_is_read() {
    let sync = |name: &str, namespace: Value, kind: &str, object: &str, status: Value| {
        json!({"apiVersion": "reliablesyncs.kubeedge.io/v1alpha1", "kind": "ObjectSync",
            "metadata": {"name": name, "namespace": namespace},
            "spec": {"objectAPIVersion": "v1", "objectKind": kind, "objectName": object}, "status": status})
    };
    let confirmed = json!({"objectResourceVersion": "42"});
    let bench = bench(&[
        (PATH, sync("edge.1.u1", "shop".into(), "Pod", "web", confirmed.clone())),
        // A Go cloudcore died between two calls.
        (
            "/namespaces/shop/objectsyncs/edge.1.u2",
            sync("edge.1.u2", "shop".into(), "Secret", "key", json!({})),
        ),
        ("/clusterobjectsyncs/edge.1.u3", sync("edge.1.u3", Value::Null, "Node", "edge.1", confirmed)),
        ("/namespaces/shop/objectsyncs/nonsense", sync("nonsense", "shop".into(), "Pod", "x", json!({}))),
    ])
    .await;
    let held = bench.ledger.load(&node()).await.unwrap();
    let text = |uid: &str| format!("{} {}", held[uid].key, held[uid].version);
    assert_eq!(held.len(), 3);
    assert_eq!(text("u1"), "shop/pod/web 42");
    assert_eq!(held["u2"].version, Version::NONE);
    assert_eq!(text("u3"), "null/node/edge.1 42");
    assert_eq!(bench.ledger.nodes().await, [node()]);
}

#[tokio::test(start_paused = true)]
async fn an_object_is_made_at_its_first_confirmation_and_goes_with_the_last() {
    let bench = bench(&[]).await;
    bench.confirm("shop/pod/web", "u1", 7).await;
    let post = "POST /namespaces/shop/objectsyncs".to_owned();
    let patch = format!("PATCH {PATH}/status");
    assert_eq!(bench.calls().await, [patch.clone(), post, patch.clone()]);
    assert_eq!(bench.version(PATH), "7");
    let spec = bench.server.lock().unwrap().objects[PATH]["spec"].clone();
    assert_eq!(spec, json!({"objectAPIVersion": "v1", "objectKind": "Pod", "objectName": "web"}));

    bench.confirm("shop/pod/web", "u1", 8).await;
    assert_eq!(bench.calls().await, [patch]);
    bench.remove("shop/pod/web", "u1").await;
    assert_eq!(bench.calls().await, [format!("DELETE {PATH}")]);
    bench.remove("shop/pod/web", "u1").await;
    assert_eq!(bench.calls().await, [format!("DELETE {PATH}")], "gone already is as good");

    bench.confirm("null/node/edge.1", "u3", 9).await;
    bench.calls().await;
    assert_eq!(bench.version("/clusterobjectsyncs/edge.1.u3"), "9");
    bench.ledger.forget(&node()).await;
    bench.calls().await;
    assert!(bench.server.lock().unwrap().objects.is_empty());
    assert!(bench.ledger.load(&node()).await.unwrap().is_empty());
}

#[tokio::test(start_paused = true)]
async fn many_confirmations_are_few_writes() {
    let bench = bench(&[]).await;
    bench.confirm("shop/pod/web", "u1", 1).await;
    bench.calls().await;
    for version in 2..100 {
        bench.confirm("shop/pod/web", "u1", version).await;
    }
    assert!(bench.calls().await.len() <= 3);
    assert_eq!(bench.version(PATH), "99");
}

#[tokio::test(start_paused = true)]
async fn a_refused_write_is_tried_again_with_the_newest() {
    let bench = bench(&[]).await;
    bench.server.lock().unwrap().refusals = vec![failure(500, "InternalError", json!([]))];
    bench.confirm("shop/pod/web", "u1", 1).await;
    tokio::time::sleep(RETRY_AFTER / 2).await;
    assert_eq!(bench.version(PATH), Value::Null);
    bench.confirm("shop/pod/web", "u1", 2).await;
    bench.calls().await;
    assert_eq!(bench.version(PATH), "2");
}

#[tokio::test(start_paused = true)]
async fn a_namespace_that_goes_takes_its_records_along_and_missing_rights_do_not() {
    let missing = failure(404, "NotFound", json!([]));
    let check = async |causes: Value, n_calls: usize| {
        let bench = bench(&[]).await;
        bench.server.lock().unwrap().refusals =
            vec![missing.clone(), failure(403, "Forbidden", causes.clone())];
        bench.confirm("shop/pod/web", "u1", 1).await;
        assert_eq!(bench.calls().await.len(), n_calls, "{causes}");
    };
    check(json!([{"reason": "NamespaceTerminating", "message": "namespace shop is being terminated"}]), 2)
        .await;
    check(json!([]), 5).await;
}

#[tokio::test(start_paused = true)]
async fn what_waits_at_shutdown_is_written() {
    let mut bench = bench(&[]).await;
    for uid in 0..100 {
        bench.confirm("shop/pod/web", &format!("u{uid}"), 3).await;
    }
    bench.trigger.stop();
    (&mut bench.writer).await.unwrap().unwrap();
    assert_eq!(bench.server.lock().unwrap().objects.len(), 100);
    assert_eq!(bench.version("/namespaces/shop/objectsyncs/edge.1.u99"), "3");
}
