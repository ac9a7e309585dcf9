//! Each question against a scripted API server: what it is asked, and what the edge is answered.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};

use http_body_util::BodyExt;
use hyper::{Request, Response};
use kube::client::Body;

use super::super::observed::Observed;
use super::super::observed::WatchEvent;
use super::*;

type Script = Arc<Mutex<VecDeque<(u16, Value)>>>;
type Seen = Arc<Mutex<Vec<String>>>;

/// A server that answers in this order and keeps `METHOD path content-type body` of each request.
fn answers(script: Vec<(u16, Value)>) -> (Answers, Seen, mpsc::Receiver<LinkNews>) {
    let script: Script = Arc::new(Mutex::new(script.into()));
    let seen = Seen::default();
    let kept = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (script, seen) = (Arc::clone(&script), Arc::clone(&kept));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let header = |name: &str| head.headers.get(name).map_or("", |value| value.to_str().unwrap());
            let line = format!(
                "{} {} {} {} {}",
                head.method,
                head.uri,
                header("content-type"),
                header("impersonate-user"),
                std::str::from_utf8(&body).unwrap()
            );
            seen.lock().unwrap().push(line.split_whitespace().collect::<Vec<_>>().join(" "));
            let (code, body) = script.lock().unwrap().pop_front().unwrap_or((500, json!({})));
            let response = Response::builder().status(code).body(Body::from(body.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response.unwrap())
        }
    });
    let (news, told) = mpsc::channel(8);
    let api = ApiServer::new(kube::Client::new(service, "default"));
    let graph = Graph::default();
    let (api_server_ca, address) = ("PEM".to_owned(), "10.0.0.9".to_owned());
    let endpoints = KubeletEndpoints::off();
    (
        Answers {
            api,
            graph,
            api_server_ca,
            address,
            endpoints,
            services: Services::default(),
            news,
            numbers: Numbers::default(),
        },
        seen,
        told,
    )
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    let details = json!({"name": "e1", "kind": "leases", "group": "coordination.k8s.io"});
    (
        code,
        json!({"kind": "Status", "status": "Failure", "message": reason, "reason": reason, "code": code, "details": details}),
    )
}

fn key(text: &str) -> ObjectKey {
    text.parse().unwrap()
}

fn bytes(value: Value) -> Bytes {
    value.to_string().into()
}

fn words(answer: &Answer) -> String {
    match answer {
        Answer::Object(body) => format!("object {}", std::str::from_utf8(body).unwrap()),
        Answer::Stored(body) => format!("stored {}", std::str::from_utf8(body).unwrap()),
        Answer::NotStored(refused) => format!("not stored {} {}", refused.code, refused.message),
        Answer::Refused(refused) => format!("refused {} {}", refused.code, refused.message),
        Answer::Done => "done".to_owned(),
        Answer::Pem(text) => format!("pem {text}"),
    }
}

async fn check(question: Question, script: Vec<(u16, Value)>, expected: &str, expected_calls: &[&str]) {
    let (answers, seen, _told) = answers(script);
    let text = format!("{question:?}");
    let (answer, version) = answers.answer(&"e1".parse().unwrap(), question).await;
    assert_eq!(words(&answer), expected, "{text}");
    assert_eq!(*seen.lock().unwrap(), expected_calls, "{text}");
    let has_version = expected.contains("resourceVersion") && !expected.contains("TokenRequest");
    assert_eq!(version.is_some(), has_version, "{text}");
}

#[tokio::test]
async fn services_of_a_namespace() {
    let list = |namespace: &str, names: [&str; 2]| {
        let item = |name: &str| json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": "10.0.0.7", "ports": []}});
        json!({"kind": "ServiceList", "metadata": {"resourceVersion": "9"}, "items": names.map(item)})
    };
    let item = |namespace: &str, name: &str| json!({"metadata": {"name": name, "namespace": namespace}, "spec": {"clusterIP": "10.0.0.7", "ports": []}});
    let items = [item("shop", "a"), item("shop", "b"), item("default", "kubernetes")];
    let expected = json!({"apiVersion": "v1", "kind": "ServiceList", "metadata": {}, "items": items});
    let script = vec![(200, list("shop", ["a", "b"])), (200, list("default", ["kubernetes", "other"]))];
    let (answers, seen, _told) = answers(script);
    // Who asks within the second gets what the first was told.
    for _ in 0..2 {
        let (answer, version) =
            answers.answer(&"e1".parse().unwrap(), Question::Get(key("shop/servicelist/all"))).await;
        assert_eq!(words(&answer), format!("object {expected}"));
        assert!(version.is_none(), "the queue must not hold the node to it");
    }
    let calls = ["GET /api/v1/namespaces/shop/services", "GET /api/v1/namespaces/default/services"];
    assert_eq!(*seen.lock().unwrap(), calls);
}

#[tokio::test]
async fn a_runtime_class_in_short() {
    let class = json!({"metadata": {"name": "gvisor", "uid": "u", "resourceVersion": "5"}, "handler": "runsc",
        "overhead": {"podFixed": {"memory": "1Mi"}}, "scheduling": {"nodeSelector": {"a": "b"}}});
    check(
        Question::Get(key("null/runtimeclass/gvisor")),
        vec![(200, class)],
        r#"object {"apiVersion":"node.k8s.io/v1","handler":"runsc","kind":"RuntimeClass","metadata":{"name":"gvisor"}}"#,
        &["GET /apis/node.k8s.io/v1/runtimeclasses/gvisor"],
    )
    .await;
    check(
        Question::Get(key("null/runtimeclass/gvisor")),
        vec![status(404, "NotFound")],
        "refused 404 NotFound",
        &["GET /apis/node.k8s.io/v1/runtimeclasses/gvisor"],
    )
    .await;
}

#[tokio::test]
async fn reads() {
    let secret =
        json!({"kind": "Secret", "metadata": {"managedFields": [], "name": "s", "resourceVersion": "5"}});
    check(
        Question::Get(key("shop/secret/s")),
        vec![(200, secret)],
        r#"object {"kind":"Secret","metadata":{"name":"s","resourceVersion":"5"}}"#,
        &["GET /api/v1/namespaces/shop/secrets/s"],
    )
    .await;
    check(
        Question::Get(key("shop/configmap/c")),
        vec![status(404, "NotFound")],
        "refused 404 NotFound",
        &["GET /api/v1/namespaces/shop/configmaps/c"],
    )
    .await;
    check(
        Question::Get(key("shop/configmap/c")),
        vec![(503, json!("overloaded"))],
        "refused 503 the API server answered 503 without saying why",
        &["GET /api/v1/namespaces/shop/configmaps/c"],
    )
    .await;
    check(
        Question::Get(key("shop/gateway/c")),
        vec![],
        "refused 400 gateway is no kind that may be asked for",
        &[],
    )
    .await;
    let other = json!({"spec": {"nodeName": "e2"}});
    check(
        Question::Get(key("default/volumeattachment/v")),
        vec![(200, other)],
        "refused 403 default/volumeattachment/v has nothing to do with node e1",
        &["GET /apis/storage.k8s.io/v1/volumeattachments/v"],
    )
    .await;
    check(Question::ApiServerCa, vec![], "pem PEM", &[]).await;
}

#[tokio::test]
async fn a_missing_lease_is_told_in_full() {
    let (answers, _, _told) = answers(vec![status(404, "NotFound")]);
    let (answer, _) =
        answers.answer(&"e1".parse().unwrap(), Question::Get(key("kube-node-lease/lease/e1"))).await;
    let Answer::NotStored(refused) = answer else { panic!("{answer:?}") };
    assert_eq!(refused.reason, Reason::NotFound);
    assert_eq!(refused.details.unwrap().group, "coordination.k8s.io");
}

#[tokio::test]
async fn leases_win_against_an_older_self() {
    const PATH: &str = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/e1";
    let types = r#""apiVersion":"coordination.k8s.io/v1","kind":"Lease""#;
    let update = |metadata: Value| Question::Update {
        key: key("kube-node-lease/lease/e1"),
        body: bytes(json!({"metadata": metadata})),
    };
    let now = json!({"metadata": {"name": "e1", "resourceVersion": "9", "uid": "u"}});
    let put = |version: &str| {
        format!(
            r#"PUT {PATH} application/json {{{types},"metadata":{{"name":"e1","resourceVersion":"{version}","uid":"u"}}}}"#
        )
    };
    check(
        update(json!({"name": "e1", "uid": "u", "resourceVersion": "4"})),
        vec![status(409, "Conflict"), (200, now.clone()), (200, now.clone())],
        &format!("stored {now}"),
        &[&put("4"), &format!("GET {PATH}"), &put("9")],
    )
    .await;
    check(
        update(json!({"name": "e1"})),
        vec![status(404, "NotFound")],
        "not stored 404 NotFound",
        &[&format!("GET {PATH}")],
    )
    .await;
    check(
        Question::Update { key: key("kube-node-lease/lease/e1"), body: "{".into() },
        vec![],
        "not stored 400 the body is no lease: cut off at line 1, column 1",
        &[],
    )
    .await;
}

#[tokio::test]
async fn status_patches_and_pod_ends() {
    let patch = |text: &str| Question::PatchPodStatus {
        namespace: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        patch: text.to_owned(),
    };
    check(patch(r#"{"status":{}}"#), vec![(200, json!({"metadata": {"resourceVersion": "8"}}))],
        r#"stored {"metadata":{"resourceVersion":"8"}}"#,
        &[r#"PATCH /api/v1/namespaces/shop/pods/web/status application/strategic-merge-patch+json {"status":{}}"#]).await;
    check(patch("no"), vec![], "not stored 400 the status patch of shop/pod/web is no JSON object", &[])
        .await;
    let delete = |options: Value| Question::DeletePod {
        namespace: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        options: bytes(options),
    };
    let call = r#"DELETE /api/v1/namespaces/shop/pods/web application/json {"apiVersion":"v1","kind":"DeleteOptions","preconditions":{"uid":"u"}}"#;
    let by_uid = || delete(json!({"preconditions": {"uid": "u"}}));
    check(by_uid(), vec![(200, json!({}))], "done", &[call]).await;
    check(by_uid(), vec![status(404, "NotFound")], "done", &[call]).await;
    check(by_uid(), vec![status(409, "Conflict")], "done", &[call]).await;
    check(by_uid(), vec![status(403, "Forbidden")], "refused 403 Forbidden", &[call]).await;
    check(delete(json!("u")), vec![], "refused 400 the body is no JSON object", &[]).await;
}

#[tokio::test]
async fn registration() {
    let create = || Question::Create {
        key: key("null/node/e1"),
        body: bytes(json!({
            "metadata": {"annotations": {"isthmus.io/pod-range": "10.0.0.0/8"}, "labels": {"node-role.kubernetes.io/edge": ""}, "name": "e1"},
            "spec": {"podCIDR": "10.0.0.0/8", "podCIDRs": ["10.0.0.0/8"], "taints": []}
        })),
    };
    let call = r#"POST /api/v1/nodes application/json {"apiVersion":"v1","kind":"Node","metadata":{"annotations":{"cloudcore":"10.0.0.9"},"labels":{"node-role.kubernetes.io/edge":""},"name":"e1"},"spec":{"taints":[]}}"#;
    check(
        create(),
        vec![(201, json!({"metadata": {"resourceVersion": "2"}}))],
        r#"stored {"metadata":{"resourceVersion":"2"}}"#,
        &[call],
    )
    .await;
    let (answers, _, mut told) = answers(vec![status(409, "AlreadyExists")]);
    let (answer, _) = answers.answer(&"e1".parse().unwrap(), create()).await;
    assert_eq!(words(&answer), "not stored 409 AlreadyExists");
    assert_eq!(told.try_recv().unwrap(), LinkNews::RegisteredAnew("e1".parse().unwrap()));
    let body = bytes(json!({"metadata": {"name": "e2"}}));
    check(
        Question::Create { key: key("null/node/e1"), body },
        vec![],
        "not stored 400 the body of null/node/e1 names \"e2\"",
        &[],
    )
    .await;
    let body = bytes(json!({"metadata": {"name": "web"}, "spec": {"nodeName": "e1"}}));
    check(
        Question::Create { key: key("shop/pod/web"), body },
        vec![],
        "not stored 403 node e1 may only create mirrors of its own static pods",
        &[],
    )
    .await;
    let mirror = |mut spec: Value| {
        spec["nodeName"] = "e1".into();
        let metadata = json!({"name": "web", "annotations": {"kubernetes.io/config.mirror": "x"}});
        let body = bytes(json!({"metadata": metadata, "spec": spec}));
        Question::Create { key: key("shop/pod/web"), body }
    };
    for (spec, named) in [
        (json!({"volumes": [{"secret": {"secretName": "s"}}]}), "shop/secret/s"),
        (json!({"imagePullSecrets": [{"name": "s"}]}), "shop/secret/s"),
        (json!({"containers": [{"envFrom": [{"configMapRef": {"name": "c"}}]}]}), "shop/configmap/c"),
        (json!({"volumes": [{"persistentVolumeClaim": {"claimName": "p"}}]}), "shop/persistentvolumeclaim/p"),
        (json!({"serviceAccountName": "admin"}), "a service account"),
    ] {
        let expected = format!("not stored 403 a mirror of a static pod may not name {named}");
        check(mirror(spec), vec![], &expected, &[]).await;
    }
    let owned = |owners: Value| {
        let metadata = json!({"name": "web", "annotations": {"kubernetes.io/config.mirror": "x"}, "ownerReferences": owners});
        let body = bytes(json!({"metadata": metadata, "spec": {"nodeName": "e1"}}));
        Question::Create { key: key("shop/pod/web"), body }
    };
    let own = json!({"apiVersion": "v1", "kind": "Node", "name": "e1", "uid": "n", "controller": true});
    let other = json!({"apiVersion": "v1", "kind": "Node", "name": "e2", "uid": "m"});
    let set = json!({"apiVersion": "apps/v1", "kind": "DaemonSet", "name": "e1", "uid": "d"});
    for owners in [json!([other]), json!([set]), json!([own, other])] {
        let expected = "not stored 403 a mirror of a static pod belongs to its own Node or to nobody";
        check(owned(owners), vec![], expected, &[]).await;
    }
    check(owned(json!([own])), vec![(201, json!({}))], "stored {}",
        &[r#"POST /api/v1/namespaces/shop/pods application/json {"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"kubernetes.io/config.mirror":"x"},"name":"web","ownerReferences":[{"apiVersion":"v1","controller":true,"kind":"Node","name":"e1","uid":"n"}]},"spec":{"nodeName":"e1"}}"#]).await;
    check(mirror(json!({})), vec![(201, json!({}))], "stored {}",
        &[r#"POST /api/v1/namespaces/shop/pods application/json {"apiVersion":"v1","kind":"Pod","metadata":{"annotations":{"kubernetes.io/config.mirror":"x"},"name":"web"},"spec":{"nodeName":"e1"}}"#]).await;
    let body = bytes(json!({"kind": "CertificateSigningRequest", "metadata": {"name": "c"}}));
    check(Question::Create { key: key("default/certificatesigningrequest/c"), body }, vec![(201, json!({}))], "stored {}",
        &[r#"POST /apis/certificates.k8s.io/v1/certificatesigningrequests application/json system:node:e1 {"apiVersion":"certificates.k8s.io/v1","kind":"CertificateSigningRequest","metadata":{"name":"c"}}"#]).await;
}

#[tokio::test]
async fn tokens_only_for_pods_that_are_there_and_with_the_spec_that_was_asked() {
    let (answers, seen, _told) =
        answers(vec![(201, json!({"spec": {"audiences": ["other"]}, "status": {"token": "t"}}))]);
    let node: NodeName = "e1".parse().unwrap();
    for (kind, object) in [
        (Kind::Node, json!({"metadata": {"name": "e1", "uid": "n", "resourceVersion": "1"}})),
        (
            Kind::Pod,
            json!({"metadata": {"name": "web", "namespace": "shop", "uid": "u", "resourceVersion": "2"},
            "spec": {"nodeName": "e1", "serviceAccountName": "seller"}}),
        ),
    ] {
        answers.graph.write().on_event(WatchEvent::Applied(Observed::new(&kind, object).unwrap()));
    }
    let ask = |account: &str, uid: &str| Question::Token {
        namespace: "shop".parse().unwrap(),
        account: account.parse().unwrap(),
        request: bytes(
            json!({"spec": {"audiences": [], "boundObjectRef": {"kind": "Pod", "name": "web", "uid": uid}}}),
        ),
    };
    for (account, uid, why) in
        [("seller", "x", "no such pod runs there"), ("buyer", "u", "no pod there runs as that account")]
    {
        let (answer, _) = answers.answer(&node, ask(account, uid)).await;
        assert_eq!(
            words(&answer),
            format!("refused 403 a token of shop/{account} is not for node e1: {why}")
        );
    }
    let (answer, _) = answers.answer(&node, ask("seller", "u")).await;
    let Answer::Object(body) = answer else { panic!("{answer:?}") };
    let made: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(
        made["spec"],
        json!({"audiences": [], "boundObjectRef": {"kind": "Pod", "name": "web", "uid": "u"}})
    );
    assert_eq!(made["status"]["token"], "t");
    assert!(
        seen.lock().unwrap()[0].starts_with("POST /api/v1/namespaces/shop/serviceaccounts/seller/token ")
    );
}

#[tokio::test]
async fn events_tolerate_collisions() {
    let event = || bytes(json!({"metadata": {"name": "x", "resourceVersion": "3"}}));
    let check = async |change: EventChange, script: Vec<(u16, Value)>, expected: &[&str]| {
        let (answers, seen, _told) = answers(script);
        answers.store_event(&"e1".parse().unwrap(), &key("shop/event/x"), change).await;
        let seen: Vec<String> = seen
            .lock()
            .unwrap()
            .iter()
            .map(|line| line.split(' ').take(2).collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(seen, expected);
    };
    const ALL: &str = "POST /api/v1/namespaces/shop/events";
    check(EventChange::Created(event()), vec![status(409, "AlreadyExists")], &[ALL]).await;
    check(
        EventChange::Updated(event()),
        vec![status(404, "NotFound"), (201, json!({}))],
        &["PUT /api/v1/namespaces/shop/events/x", ALL],
    )
    .await;
    check(
        EventChange::Patched { event: event(), patch: "{}".to_owned() },
        vec![(200, json!({}))],
        &["PATCH /api/v1/namespaces/shop/events/x"],
    )
    .await;
}

#[tokio::test]
async fn a_node_says_its_status_and_no_more() {
    let check = async |question: Question, expected: &str| {
        let (answers, seen, _told) = answers(vec![(200, json!({}))]);
        answers.answer(&"e1".parse().unwrap(), question).await;
        assert_eq!(seen.lock().unwrap().first().map(String::as_str), Some(expected));
    };
    let patch =
        json!({"metadata": {"uid": "u", "labels": {"a": "b"}}, "spec": {}, "status": {"phase": "Running"}});
    let question = Question::PatchPodStatus {
        namespace: "shop".parse().unwrap(),
        name: "web".parse().unwrap(),
        patch: patch.to_string(),
    };
    let call = "PATCH /api/v1/namespaces/shop/pods/web/status application/strategic-merge-patch+json";
    check(question, &format!(r#"{call} {{"metadata":{{"uid":"u"}},"status":{{"phase":"Running"}}}}"#)).await;
    let labels = json!({"node-role.kubernetes.io/edge": "", "node-role.kubernetes.io/control-plane": "", "site": "x",
        "a.node-restriction.kubernetes.io/b": "c"});
    let annotations = json!({"isthmus.io/node-key": "mine", "isthmus.io/pod-network": "managed", "isthmus.io/pod-range": "x"});
    let body = json!({"metadata": {"name": "e1", "labels": labels, "annotations": annotations}});
    let question =
        Question::Update { key: ObjectKey::cluster(Kind::Node, "e1".parse().unwrap()), body: bytes(body) };
    let left = r#"{"metadata":{"annotations":{"isthmus.io/pod-network":"managed"},"labels":{"node-role.kubernetes.io/edge":"","site":"x"}}}"#;
    check(question, &format!("PATCH /api/v1/nodes/e1 application/merge-patch+json {left}")).await;
}

#[tokio::test]
async fn a_node_shows_the_clouds_address_and_sees_its_own() {
    let addresses = |internal: &str, more: &[Value]| {
        let first = json!({"type": "InternalIP", "address": internal});
        let last = json!({"type": "Hostname", "address": "e1"});
        Value::from([&[first], more, &[last]].concat())
    };
    let endpoints = |port: u16| json!({"kubeletEndpoint": {"Port": port}});
    let external = [json!({"type": "ExternalIP", "address": "192.0.2.7"})];
    let said = json!({"addresses": addresses("192.0.2.7", &[]), "daemonEndpoints": endpoints(10350)});
    let shown = json!({"addresses": addresses("10.0.0.1", &external), "daemonEndpoints": endpoints(10003)});
    let metadata = json!({"name": "e1", "labels": {"node-role.kubernetes.io/edge": ""}, "resourceVersion": "7",
        "annotations": {"isthmus.io/node-addresses": "192.0.2.7", "isthmus.io/kubelet-port": "10350"}});
    let stored = json!({"kind": "Node", "metadata": metadata, "status": shown});

    let (mut answers, seen, _told) =
        answers(vec![(201, stored.clone()), (200, stored.clone()), (200, stored.clone())]);
    answers.endpoints = KubeletEndpoints::showing([10, 0, 0, 1].into(), 10003);
    let node: NodeName = "e1".parse().unwrap();
    let object =
        json!({"metadata": {"name": "e1", "labels": {"node-role.kubernetes.io/edge": ""}}, "status": said});
    let question = Question::Create { key: key("null/node/e1"), body: bytes(object) };
    let (answer, _) = answers.answer(&node, question).await;
    let Answer::Stored(body) = answer else { panic!("{answer:?}") };
    let answered: Value = serde_json::from_slice(&body).unwrap();
    assert_eq!(answered["status"], said);
    assert_eq!(answered["metadata"]["annotations"], json!({}));
    let sent = |at: usize| -> Value {
        let line = seen.lock().unwrap()[at].clone();
        serde_json::from_str(line.split_once(" {").map(|(_, rest)| format!("{{{rest}")).unwrap().as_str())
            .unwrap()
    };
    assert_eq!(sent(0)["status"], shown);
    assert_eq!(sent(0)["metadata"]["annotations"]["isthmus.io/node-addresses"], "192.0.2.7");

    // A heartbeat carries nothing more, and makes no call of its own.
    answers.endpoints.seen(&node, &stored);
    let patch = json!({"status": {"conditions": []}}).to_string();
    let question = Question::PatchNodeStatus { node: node.clone(), patch };
    let (answer, _) = answers.answer(&node, question).await;
    assert_eq!(sent(1), json!({"status": {"conditions": []}}));
    let Answer::Stored(body) = answer else { panic!("{answer:?}") };
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap()["status"], said);
    // The machine has moved.
    let moved = json!({"status": {"addresses": addresses("192.0.2.8", &[])}}).to_string();
    answers.answer(&node, Question::PatchNodeStatus { node: node.clone(), patch: moved }).await;
    assert_eq!(sent(2)["status"]["addresses"][2], json!({"type": "ExternalIP", "address": "192.0.2.8"}));
    assert_eq!(sent(2)["metadata"]["annotations"], json!({"isthmus.io/node-addresses": "192.0.2.8"}));
    assert_eq!(seen.lock().unwrap().len(), 3);
}
