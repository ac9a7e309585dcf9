//! Who gets a certificate.

use std::time::{SystemTime, UNIX_EPOCH};

use ke_wire::join_tokens::{self, Claims};

use crate::bench::{AWAY, Bench, csr, jwt, sign};

#[tokio::test]
async fn a_machine_with_the_token_gets_a_certificate_of_its_name_only() {
    let bench = Bench::start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let good = format!("Bearer {}", bench.jwt());
    let expired = format!("Bearer {}", jwt(&bench.ca_key(), now - 1));
    let other_key = format!("Bearer {}", jwt(b"another key", now + 3600));
    let (own, others) = (csr("edge-a").1, csr("edge-b").1);
    let large = vec![b'x'; (1 << 20) + 1];
    let check = async |node: &str, authorization: &str, body: &[u8], expected: (u16, &str)| {
        let headers = [("Nodename", node), ("Authorization", authorization)];
        let (status, said) = bench.get("/edge.crt", &headers, body, None).await;
        let said = String::from_utf8_lossy(&said);
        assert!(status == expected.0 && said.contains(expected.1), "{expected:?}: {status} {said}");
        assert!(!said.contains(bench.jwt().as_str()), "the answer repeats the token");
    };
    check("edge-a", &good, &own, (200, "")).await;
    check("edge-a", "", &own, (401, "token is empty")).await;
    check("edge-a", "Bearer", &own, (401, "token cannot be split")).await;
    check("edge-a", "Bearer a.b.c", &own, (401, "malformed")).await;
    check("edge-a", &expired, &own, (401, "token is expired")).await;
    check("edge-a", &other_key, &own, (401, "signature is invalid")).await;
    check("edge-a", &good, &others, (500, "not for system:nodes/system:node:edge-a")).await;
    check("edge-a", &good, b"no request", (500, "no certificate request")).await;
    check("edge-a", &good, &large, (413, "larger than 1 MiB")).await;
    check("Not A Name", &good, &own, (400, "Nodename")).await;
    check("edge-a", &good, &own, (200, "")).await;
}

#[tokio::test]
async fn a_certificate_renews_itself_and_nobody_elses() {
    let bench = Bench::start().await;
    let machine = bench.enrol("edge-a").await;
    let check = async |node: &str, expected: u16| {
        let (status, said) =
            bench.get("/edge.crt", &[("Nodename", node)], &csr(node).1, Some(&machine)).await;
        assert_eq!(status, expected, "{node}: {}", String::from_utf8_lossy(&said));
    };
    check("edge-a", 200).await;
    check("edge-b", 401).await;
    // The certificate wins over a token: one machine cannot take a second name with what every machine has.
    let good = format!("Bearer {}", bench.jwt());
    let headers = [("Nodename", "edge-b"), ("Authorization", good.as_str())];
    assert_eq!(bench.get("/edge.crt", &headers, &csr("edge-b").1, Some(&machine)).await.0, 401);
}

#[tokio::test]
async fn a_name_in_use_is_not_given_to_another_machine() {
    let mut bench = Bench::start().await;
    bench.nodes.known.lock().unwrap().insert("edge-a".into());
    let (_machine, _link) = bench.join("edge-a").await;
    bench.wait_pinned("edge-a").await;
    let good = format!("Bearer {}", bench.jwt());
    let headers = [("Nodename", "edge-a"), ("Authorization", good.as_str())];
    let (status, said) = bench.get("/edge.crt", &headers, &csr("edge-a").1, None).await;
    let said = String::from_utf8_lossy(&said).into_owned();
    assert_eq!(status, 409, "{said}");
    assert!(said.contains("last seen at 127.0.0.1; the one at 127.0.0.1"), "{said}");
    assert_eq!(*bench.nodes.refusals.lock().unwrap(), [said]);
}

#[tokio::test]
async fn what_machines_ask_before_they_join() {
    let bench = Bench::start().await;
    bench.nodes.known.lock().unwrap().insert("edge-a".into());
    let check = async |path: &str, expected: u16| {
        let (status, said) = bench.get(path, &[], b"", None).await;
        assert_eq!(status, expected, "{path}: {}", String::from_utf8_lossy(&said));
    };
    check("/ca.crt", 200).await;
    check("/node/edge-a", 200).await;
    check("/node/edge-b", 404).await;
    check("/node/..%2fx", 400).await;
    check("/else", 404).await;
}

#[tokio::test]
async fn a_revoked_token_opens_nothing_from_that_moment_on() {
    let bench = Bench::start().await;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    let token = |id: Option<&str>, made_by: Option<&str>| {
        let claims = Claims { exp: now + 60, jti: id.map(str::to_owned), iss: made_by.map(str::to_owned) };
        format!("Bearer {}", sign(&bench.ca_key(), &claims.to_sign()))
    };
    let write = |name: &str, id: &str, entry: &str| {
        let list = [(id.to_owned(), entry.as_bytes().to_vec())].into();
        bench.secrets.0.lock().unwrap().insert(name.to_owned(), list);
    };
    let check = async |token: &str, expected: (u16, &str)| {
        let headers = [("Nodename", "edge-a"), ("Authorization", token)];
        let (status, said) = bench.get("/edge.crt", &headers, &csr("edge-a").1, None).await;
        let said = String::from_utf8_lossy(&said);
        assert!(status == expected.0 && said.contains(expected.1), "{expected:?}: {status} {said}");
    };
    let ours = token(Some("abc"), Some(join_tokens::KEADM));
    check(&ours, (401, "token is in no list any more")).await;
    write(join_tokens::SECRET, "abc", r#"{"made":1,"ends":2}"#);
    check(&ours, (200, "")).await;
    check(&token(Some("abd"), Some(join_tokens::KEADM)), (401, "keadm token create")).await;
    write(join_tokens::SECRET, "abc", r#"{"made":1,"ends":2,"revoked":2}"#);
    check(&ours, (401, "token is revoked")).await;

    // cloudcore's own, and KubeEdge's.
    let own = format!("Bearer {}", bench.jwt());
    check(&own, (200, "")).await;
    check(&token(None, None), (200, "")).await;
    write(AWAY, "", "");
    check(&own, (503, "try again")).await;
    check(&token(None, None), (200, "")).await;
    bench.secrets.0.lock().unwrap().remove(AWAY);
    write(join_tokens::SECRET, "cloudcore-0", r#"{"revoked":2}"#);
    check(&own, (401, "token is revoked")).await;
}
