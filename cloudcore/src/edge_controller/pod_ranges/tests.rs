//! Several cloudcores against an API server that keeps Nodes and Leases, and takes no change of a Node that changed meanwhile.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt as _;
use hyper::{Method, Request, Response};
use kube::client::Body;
use serde_json::Value;

use super::plan::{OTHERS_FIRST, OTHERS_TIME};
use super::*;

/// Leases and Nodes by name, and what was told in events.
#[derive(Default)]
struct Cluster {
    nodes: BTreeMap<String, Value>,
    leases: BTreeMap<String, Value>,
    events: Vec<String>,
    /// Nodes whose patch is refused, with which code.
    refuses: BTreeMap<String, u16>,
    n_made: u64,
    /// Calls before this one fails; `None`: none fails.
    fails_in: Option<u64>,
    /// By turns, a little of each cloudcore.
    n_calls: u64,
}

type Shared = Arc<Mutex<Cluster>>;

impl Cluster {
    fn shared(nodes: &[(&str, Value)]) -> Shared {
        let mut cluster = Self::default();
        for (name, spec) in nodes {
            cluster.join(name, spec);
        }
        Arc::new(Mutex::new(cluster))
    }

    fn join(&mut self, name: &str, spec: &Value) {
        self.n_made += 1;
        let metadata = json!({"name": name, "uid": format!("{name}-{}", self.n_made), "resourceVersion": "1",
            "labels": {"node-role.kubernetes.io/edge": ""}, "annotations": {POD_NETWORK: MANAGED}});
        let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec});
        self.nodes.insert(name.to_owned(), node);
    }

    fn ranges(&self) -> Vec<&str> {
        self.nodes.values().filter_map(|node| node["metadata"]["annotations"][POD_RANGE].as_str()).collect()
    }

    fn call(&mut self, method: &Method, path: &str, body: &Value) -> (u16, Value) {
        self.n_calls += 1;
        if let Some(left) = self.fails_in.as_mut() {
            match left.checked_sub(1) {
                Some(less) => *left = less,
                None => return (500, json!({})),
            }
        }
        let name = path.rsplit('/').next().unwrap().to_owned();
        match (method.as_str(), path) {
            ("GET", "/api/v1/nodes") => {
                (200, json!({"metadata": {}, "items": self.nodes.values().collect::<Vec<_>>()}))
            }
            ("GET", path) if path.starts_with("/api/v1/nodes/") => found(self.nodes.get(&name)),
            ("PATCH", path) if path.starts_with("/api/v1/nodes/") => {
                let Some(node) = self.nodes.get_mut(&name) else { return (404, json!({})) };
                assert!(body.get("spec").is_none(), "spec.podCIDR is the cluster's: {body}");
                if let Some(refused) = self.refuses.get(&name) {
                    return (*refused, json!({}));
                }
                for field in ["uid", "resourceVersion"] {
                    if node["metadata"][field] != body["metadata"][field] {
                        return (409, json!({}));
                    }
                }
                self.n_made += 1;
                node["metadata"]["resourceVersion"] = json!(self.n_made.to_string());
                node["metadata"]["annotations"][POD_RANGE] =
                    body["metadata"]["annotations"][POD_RANGE].clone();
                (200, node.clone())
            }
            ("POST", path) if path.ends_with("/leases") => {
                let name = body["metadata"]["name"].as_str().unwrap().to_owned();
                if self.leases.contains_key(&name) {
                    return (409, json!({"reason": "AlreadyExists"}));
                }
                self.n_made += 1;
                let mut lease = body.clone();
                lease["metadata"]["uid"] = json!(format!("lease-{}", self.n_made));
                self.leases.insert(name, lease.clone());
                (201, lease)
            }
            ("GET", path) if path.contains("/leases/") => found(self.leases.get(&name)),
            ("DELETE", path) if path.contains("/leases/") => {
                let held = self.leases.get(&name).map(|lease| lease["metadata"]["uid"].clone());
                if held.as_ref() == Some(&body["preconditions"]["uid"]) {
                    self.leases.remove(&name);
                    return (200, json!({"kind": "Status", "status": "Success"}));
                }
                (409, json!({"reason": "Conflict"}))
            }
            ("POST", path) if path.ends_with("/events") => {
                self.events.push(body["message"].as_str().unwrap().to_owned());
                (201, body.clone())
            }
            other => panic!("{other:?}"),
        }
    }
}

fn found(object: Option<&Value>) -> (u16, Value) {
    object.map_or((404, json!({"reason": "NotFound"})), |object| (200, object.clone()))
}

fn cloudcore(cluster: &Shared, pool: (&str, u8)) -> PodRanges {
    let cluster = Arc::clone(cluster);
    let service = tower::service_fn(move |request: Request<Body>| {
        let cluster = Arc::clone(&cluster);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let body = serde_json::from_slice(&body).unwrap_or_default();
            // Each call may be overtaken by one of another cloudcore.
            let n_turns = cluster.lock().unwrap().n_calls % 3;
            for _ in 0..n_turns {
                tokio::task::yield_now().await;
            }
            let (code, mut answer) = cluster.lock().unwrap().call(&head.method, head.uri.path(), &body);
            if code >= 400 {
                answer["code"] = json!(code);
                answer["status"] = json!("Failure");
                answer["message"] = json!("why");
            }
            let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response.unwrap())
        }
    });
    let client = kube::Client::new(service, "default");
    PodRanges {
        client,
        pool: Pool::new(pool.0, pool.1).unwrap(),
        since: BTreeMap::new(),
        told: String::new(),
    }
}

impl PodRanges {
    /// As if everybody had asked for long.
    async fn look_late(&mut self) -> Option<Duration> {
        self.look(Instant::now()).await.unwrap();
        self.look(Instant::now() + OTHERS_TIME).await.unwrap()
    }
}

const POOL: (&str, u8) = ("10.208.0.0/20", 24);

#[tokio::test]
async fn nodes_get_ranges_and_leave_them() {
    let cluster = Cluster::shared(&[("a", json!({})), ("b", json!({}))]);
    let mut ranges = cloudcore(&cluster, POOL);
    let start = Instant::now();
    assert_eq!(ranges.look(start).await.unwrap(), Some(OTHERS_FIRST), "somebody else may be about to");
    let second = Duration::from_secs(1);
    assert_eq!(
        ranges.look(start + second).await.unwrap(),
        Some(OTHERS_FIRST - second),
        "also after another word"
    );
    assert!(cluster.lock().unwrap().ranges().is_empty());
    assert_eq!(ranges.look(start + OTHERS_FIRST).await.unwrap(), None);
    assert_eq!(cluster.lock().unwrap().ranges(), ["10.208.0.0/24", "10.208.1.0/24"]);

    // Its Node is deleted; nobody has collected its Lease when the next one comes.
    cluster.lock().unwrap().nodes.remove("a");
    cluster.lock().unwrap().join("c", &json!({}));
    assert_eq!(ranges.look(Instant::now()).await.unwrap(), None, "nobody else gives any");
    assert_eq!(cluster.lock().unwrap().ranges(), ["10.208.1.0/24", "10.208.0.0/24"]);
    let holder = cluster.lock().unwrap().leases["pod-range-10.208.0.0-24"]["spec"]["holderIdentity"].clone();
    assert_eq!(holder, "c");
}

#[tokio::test]
async fn a_cluster_with_ranges_of_its_own_comes_first() {
    let cluster = Cluster::shared(&[("a", json!({})), ("cloud", json!({"podCIDR": "10.208.0.0/24"}))]);
    let mut ranges = cloudcore(&cluster, POOL);
    let start = Instant::now();
    assert_eq!(ranges.look(start).await.unwrap(), Some(OTHERS_TIME));
    // Its allocator comes to one of them.
    cluster.lock().unwrap().join("b", &json!({"podCIDR": "10.208.1.0/24"}));
    cluster.lock().unwrap().join("c", &json!({}));
    assert_eq!(ranges.look(start + OTHERS_FIRST).await.unwrap(), Some(OTHERS_TIME - OTHERS_FIRST));
    assert!(cluster.lock().unwrap().leases.is_empty());
    // Not to the other one, for whom there was time; there was not for the last.
    assert_eq!(ranges.look(start + OTHERS_TIME).await.unwrap(), Some(OTHERS_FIRST));
    assert_eq!(cluster.lock().unwrap().ranges(), ["10.208.2.0/24"], "neither of the cluster's");
    assert_eq!(ranges.look(start + OTHERS_TIME * 2).await.unwrap(), None);
    assert_eq!(cluster.lock().unwrap().ranges(), ["10.208.2.0/24", "10.208.3.0/24"]);
}

#[tokio::test]
async fn a_node_that_is_refused_stops_nobody() {
    let cluster = Cluster::shared(&[("a", json!({})), ("b", json!({}))]);
    let mut ranges = cloudcore(&cluster, POOL);
    for code in [400, 403, 422] {
        cluster.lock().unwrap().refuses.insert("a".into(), code);
        assert_eq!(ranges.look_late().await, Some(PAUSE), "a waits");
        assert_eq!(cluster.lock().unwrap().ranges(), ["10.208.1.0/24"]);
    }
    cluster.lock().unwrap().refuses.clear();
    assert_eq!(ranges.look_late().await, None);
    assert_eq!(cluster.lock().unwrap().ranges(), ["10.208.0.0/24", "10.208.1.0/24"]);
    assert_eq!(cluster.lock().unwrap().leases.len(), 2);
}

#[tokio::test]
async fn a_full_pool_is_told_once() {
    let nodes: Vec<_> = ["a", "b", "c"].into_iter().map(|name| (name, json!({}))).collect();
    let cluster = Cluster::shared(&nodes);
    let mut ranges = cloudcore(&cluster, ("10.208.0.0/23", 24));
    for _ in 0..2 {
        assert_eq!(ranges.look_late().await, Some(PAUSE));
    }
    {
        let cluster = cluster.lock().unwrap();
        assert_eq!(cluster.ranges().len(), 2);
        assert_eq!(cluster.events.len(), 1);
        assert!(cluster.events[0].contains("modules.edgeController.podCIDR.range"), "{:?}", cluster.events);
    }
    cluster.lock().unwrap().nodes.remove("a");
    assert_eq!(ranges.look_late().await, None);
}

#[tokio::test]
async fn many_cloudcores_never_give_a_range_twice() {
    let names: Vec<String> = (0..12).map(|n| format!("edge-{n}")).collect();
    let cluster = Cluster::shared(&[]);
    let looks: Vec<_> = (0..5).map(|_| cloudcore(&cluster, POOL)).collect();
    let mut tasks = tokio::task::JoinSet::new();
    for (number, mut ranges) in looks.into_iter().enumerate() {
        let (cluster, names) = (Arc::clone(&cluster), names.clone());
        tasks.spawn(async move {
            // Each sees another list: machines join while they look.
            for (n, name) in names.iter().enumerate() {
                if n % 5 == number {
                    cluster.lock().unwrap().join(name, &json!({}));
                }
                ranges.look_late().await;
            }
        });
    }
    while let Some(done) = tasks.join_next().await {
        done.unwrap();
    }
    let cluster = cluster.lock().unwrap();
    let given: BTreeSet<&str> = cluster.ranges().into_iter().collect();
    assert_eq!((given.len(), cluster.ranges().len()), (12, 12), "{:?}", cluster.ranges());
    assert_eq!(cluster.leases.len(), 12, "no range is kept for nobody: {:?}", cluster.leases.keys());
}

#[tokio::test]
async fn a_cloudcore_that_ends_anywhere_leaves_nothing_undone() {
    for n_calls in 0..10 {
        let cluster = Cluster::shared(&[("a", json!({})), ("b", json!({}))]);
        cluster.lock().unwrap().fails_in = Some(n_calls);
        let mut first = cloudcore(&cluster, POOL);
        for now in [Instant::now(), Instant::now() + OTHERS_TIME] {
            let _ = first.look(now).await;
        }
        cluster.lock().unwrap().fails_in = None;
        assert_eq!(cloudcore(&cluster, POOL).look_late().await, None);
        let cluster = cluster.lock().unwrap();
        assert_eq!(cluster.ranges(), ["10.208.0.0/24", "10.208.1.0/24"], "after {n_calls} calls");
        assert_eq!(cluster.leases.len(), 2, "after {n_calls} calls");
    }
}
