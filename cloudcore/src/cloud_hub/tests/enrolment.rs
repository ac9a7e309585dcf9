//! The enrolment port: tokens, requests, renewals, and each refusal's status and sentence.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::gate::testing::of_kubeedge;
use crate::gate::{Fingerprint, unix_now};

impl Bench {
    /// Status and body of one request. `what`: method and path.
    async fn http(
        &self,
        identity: Option<&Identity>,
        what: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> (u16, Vec<u8>) {
        let mut stream = tls(self.enrolment, &self.authority, identity).await.unwrap();
        let mut head = format!("{what} HTTP/1.1\r\nHost: cloud\r\nConnection: close\r\n");
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head += &format!("Content-Length: {}\r\n\r\n", body.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        // It may be refused before all of it was read.
        let _ = stream.write_all(body).await;
        let mut answer = Vec::new();
        let _ = soon("an answer", stream.read_to_end(&mut answer)).await;
        let end = answer.windows(4).position(|four| four == b"\r\n\r\n").unwrap();
        let status = String::from_utf8_lossy(&answer[9..12]).parse().unwrap();
        (status, answer.split_off(end + 4))
    }

    /// Asks for a certificate for `node` with a request for `wanted`.
    async fn enrol(
        &self,
        identity: Option<&Identity>,
        node: &str,
        wanted: &str,
        token: &str,
    ) -> (u16, String, Identity) {
        let (key, request) = csr(wanted);
        let bearer = format!("Bearer {token}");
        let headers: &[(&str, &str)] = if token.is_empty() {
            &[("NodeName", node)]
        } else {
            &[("Nodename", node), ("Authorization", &bearer)]
        };
        let (status, body) = self.http(identity, "GET /edge.crt", headers, &request).await;
        let text = if status == 200 { String::new() } else { String::from_utf8(body.clone()).unwrap() };
        let fingerprint = ClientCertificate::read(&CertificateDer::from(body.as_slice()));
        let fingerprint = fingerprint.map(|certificate| certificate.fingerprint.0).unwrap_or_default();
        (status, text, Identity { certificate: body, key: key.serialize_der(), fingerprint })
    }

    fn token(&self) -> String {
        self.authority.token("a", unix_now() + 60).jwt
    }
}

#[tokio::test]
async fn paths_and_their_answers() {
    let bench = bench(|_| {}).await;
    bench.nodes.exist("here");
    let check = async |what: &str, status: u16, body: &[u8]| {
        let answer = bench.http(None, what, &[], b"").await;
        assert_eq!(answer, (status, body.to_vec()), "{what}");
    };
    check("GET /ca.crt", 200, bench.authority.ca()).await;
    check("GET /node/here", 200, b"Node founded").await;
    check("GET /node/there", 404, b"Node not found").await;
    check("GET /node/", 400, b"nodename parameter is required").await;
    check("GET /readyz", 404, b"there are /ca.crt, /edge.crt and /node/{name} here").await;
    check("DELETE /ca.crt", 405, b"only GET is served here").await;
}

#[tokio::test]
async fn a_token_and_a_request_become_a_certificate_that_connects() {
    for secrets in [MemorySecrets::default(), of_kubeedge()] {
        let mut bench = bench_with(secrets, |_| {}).await;
        let (status, why, identity) = bench.enrol(None, "edge-a", "edge-a", &bench.token()).await;
        assert_eq!((status, why.as_str()), (200, ""));
        let _edge = dial(&bench, &identity, "edge-a").await.unwrap();
        assert_eq!(bench.connected_node().await, "edge-a");
    }
}

#[tokio::test]
async fn each_refusal_is_a_sentence() {
    let bench = bench(|_| {}).await;
    let other = Authority::open(&config(), &MemorySecrets::default()).await.unwrap();
    let check = async |node: &str, wanted: &str, token: &str, status: u16, sentence: &str| {
        let (found, why, _) = bench.enrol(None, node, wanted, token).await;
        assert_eq!(found, status, "{why}");
        assert!(why.contains(sentence), "{why}");
        assert!(token.len() < 20 || !why.contains(token), "a token is a secret: {why}");
    };
    let good = bench.token();
    check("a", "a", "", 401, "token validation failure, token is empty").await;
    check("a", "a", "x", 401, "token validation failure, token cannot be split").await;
    check("a", "a", "x.y.z", 401, "token validation failure, err: token is malformed").await;
    let expired = bench.authority.token("a", unix_now() - 1).jwt;
    check("a", "a", &expired, 401, "token validation failure, err: token is expired").await;
    let foreign = other.token("a", unix_now() + 60).jwt;
    check("a", "a", &foreign, 401, "token validation failure, err: signature is invalid").await;
    check(
        "a",
        "b",
        &good,
        500,
        "the request is for system:nodes/system:node:b, not for system:nodes/system:node:a",
    )
    .await;
    check("Not_A_Node", "a", &good, 400, "the header Nodename must hold a node name").await;

    let bearer = format!("Bearer {good}");
    let headers = [("Nodename", "a"), ("Authorization", bearer.as_str())];
    let (status, why) = bench.http(None, "GET /edge.crt", &headers, b"no request").await;
    assert_eq!(status, 500, "{}", String::from_utf8_lossy(&why));
    let (status, why) = bench.http(None, "GET /edge.crt", &headers, &vec![0; 2 << 20]).await;
    assert_eq!((status, why.as_slice()), (413, b"the request body is larger than 1 MiB".as_slice()));
}

#[tokio::test]
async fn a_certificate_renews_its_own_name_only() {
    let mut bench = bench(|_| {}).await;
    let old = Identity::signed_by(&bench.authority, "edge-a");
    bench.nodes.exist("edge-a");
    let edge = dial(&bench, &old, "edge-a").await.unwrap();
    bench.connected_node().await;
    soon("the pin", async {
        while bench.nodes.keys("edge-a").is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    // A certificate counts, not the token beside it.
    let (status, why, _) = bench.enrol(Some(&old), "edge-b", "edge-b", &bench.token()).await;
    assert_eq!(status, 401, "{why}");
    assert!(why.contains("failed to verify the certificate for edgenode: edge-b, err: "), "{why}");

    let (status, why, new) = bench.enrol(Some(&old), "edge-a", "edge-a", "").await;
    assert_eq!(status, 200, "{why}");
    let both = BTreeSet::from([old.fingerprint.clone(), new.fingerprint.clone()]);
    assert_eq!(bench.nodes.keys("edge-a"), both, "nobody knows yet whether the machine got it");
    drop(edge);
    let _edge = dial(&bench, &new, "edge-a").await.unwrap();
    soon("the new pin", async {
        while bench.nodes.keys("edge-a") != BTreeSet::from([new.fingerprint.clone()]) {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn a_second_machine_needs_the_first_ones_node_deleted() {
    let bench = bench(|_| {}).await;
    bench.nodes.exist("edge-a");
    let first = Identity::signed_by(&bench.authority, "edge-a");
    let pin = Pin { address: "192.0.2.7".into(), keys: vec![Fingerprint(first.fingerprint)] };
    bench.nodes.set(&"edge-a".parse().unwrap(), &pin).await.unwrap();
    let (status, why, _) = bench.enrol(None, "edge-a", "edge-a", &bench.token()).await;
    assert_eq!(status, 409);
    for part in ["192.0.2.7", "127.0.0.1", "kubectl delete node edge-a"] {
        assert!(why.contains(part), "{why}");
    }
    assert_eq!(*bench.nodes.told.lock().unwrap(), [why]);
    bench.nodes.delete("edge-a");
    let (status, why, _) = bench.enrol(None, "edge-a", "edge-a", &bench.token()).await;
    assert_eq!(status, 200, "{why}");
}

#[tokio::test]
async fn a_token_is_no_way_to_the_clusters_own_machines() {
    let bench = bench(|_| {}).await;
    bench.nodes.exist_elsewhere("control-1");
    let (status, why, _) = bench.enrol(None, "control-1", "control-1", &bench.token()).await;
    assert_eq!(status, 409, "{why}");
    assert!(why.contains("node control-1 is a machine of the cluster that is no edge node"), "{why}");
    // Nor with a certificate from when there was no such Node.
    let identity = Identity::signed_by(&bench.authority, "control-1");
    let farewell = dial(&bench, &identity, "control-1").await.unwrap().farewell().await;
    assert!(farewell.contains("no edge node"), "{farewell}");
    assert!(bench.nodes.keys("control-1").is_empty(), "its Node was written to");
}
