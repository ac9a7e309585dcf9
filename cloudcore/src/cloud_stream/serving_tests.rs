//! Certificates by a scripted API server and signer, and from files.

use std::collections::VecDeque;
use std::sync::Mutex;

use http_body_util::BodyExt;
use hyper::{Request, Response};
use kube::client::Body;
use rcgen::{BasicConstraints, CertificateSigningRequestParams, IsCa, Issuer};
use serde_json::Value;

use super::*;
use crate::gate::testing::{MemorySecrets, config as hub_config};

/// What each call is answered with; `SIGN`: the request as made, signed.
type Script = Vec<(u16, Value)>;

const SIGN: &str = "sign";

struct Cluster {
    client: kube::Client,
    seen: Arc<Mutex<Vec<String>>>,
    ca: CertificateDer<'static>,
}

fn cluster(script: Script) -> Cluster {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = params.self_signed(&key).unwrap().der().clone();
    let signer = Arc::new(Issuer::new(params, key));
    let seen = Arc::<Mutex<Vec<String>>>::default();
    let state = Arc::new(Mutex::new((VecDeque::from(script), Value::Null)));
    let kept = Arc::clone(&seen);
    let service = tower::service_fn(move |request: Request<Body>| {
        let (signer, seen, state) = (Arc::clone(&signer), Arc::clone(&kept), Arc::clone(&state));
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.unwrap().to_bytes();
            let mut state = state.lock().unwrap();
            if head.method == hyper::Method::POST {
                state.1 = serde_json::from_slice(&body).unwrap();
                state.1["metadata"]["name"] = "isthmus-cloudcore-1".into();
            }
            seen.lock().unwrap().push(format!("{} {}", head.method, head.uri.path()));
            let (code, mut answer) = state.0.pop_front().unwrap();
            if answer == SIGN {
                let pem: ByteString = serde_json::from_value(state.1["spec"]["request"].clone()).unwrap();
                let asked =
                    CertificateSigningRequestParams::from_pem(std::str::from_utf8(&pem.0).unwrap()).unwrap();
                let signed = asked.signed_by(&*signer).unwrap().pem();
                state.1["status"] = json!({"certificate": ByteString(signed.into_bytes())});
            }
            if answer == SIGN || answer.is_null() {
                answer = state.1.clone();
            }
            let response = Response::builder().status(code).body(Body::from(answer.to_string().into_bytes()));
            Ok::<_, tower::BoxError>(response.unwrap())
        }
    });
    Cluster { client: kube::Client::new(service, "default"), seen, ca }
}

fn shown(serving: &Serving) -> Vec<u8> {
    serving.0.read().unwrap().as_ref().unwrap().cert[0].to_vec()
}

#[tokio::test(start_paused = true)]
async fn the_cluster_signs() {
    let nothing_yet = || (200, Value::Null);
    let cluster = cluster(vec![(201, Value::Null), nothing_yet(), nothing_yet(), (200, SIGN.into())]);
    let serving = Serving::default();
    let addresses = [IpAddr::from([192, 0, 2, 7]), "2001:db8::7".parse().unwrap()];
    serving.get_signed(&cluster.client, &addresses).await.unwrap();
    let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests";
    let expected = [
        format!("POST {path}"),
        format!("PATCH {path}/isthmus-cloudcore-1/approval"),
        format!("GET {path}/isthmus-cloudcore-1"),
        format!("GET {path}/isthmus-cloudcore-1"),
    ];
    assert_eq!(*cluster.seen.lock().unwrap(), expected);
    let shown = shown(&serving);
    let (_, certificate) = X509Certificate::from_der(&shown).unwrap();
    let (_, ca) = X509Certificate::from_der(&cluster.ca).unwrap();
    assert!(certificate.verify_signature(Some(ca.public_key())).is_ok());
    let subject = certificate.subject().to_string();
    assert!(
        subject.contains("O=system:nodes") && subject.contains("CN=system:node:isthmus-cloudcore"),
        "{subject}"
    );
    let names = certificate.subject_alternative_name().unwrap().unwrap().value.general_names.len();
    assert_eq!(names, 2);
}

#[tokio::test(start_paused = true)]
async fn why_it_does_not() {
    let check = async |script: Script, expected: &str| {
        let cluster = cluster(script);
        let refused = Serving::default().get_signed(&cluster.client, &[[192, 0, 2, 7].into()]).await;
        let text = refused.unwrap_err().to_string();
        assert!(text.contains(expected), "{text}");
    };
    let status = |code: u16, message: &str| {
        (
            code,
            json!({"kind": "Status", "status": "Failure", "message": message, "reason": "Forbidden", "code": code}),
        )
    };
    let forbidden = "User \"cloudcore\" cannot create resource";
    check(vec![status(403, forbidden)], "make a certificatesigningrequest: ").await;
    check(vec![(201, Value::Null), status(403, "not permitted to approve")], "not permitted to approve")
        .await;
    let with = |kind: &str| {
        json!({"metadata": {"name": "isthmus-cloudcore-1"}, "spec": {"request": "", "signerName": SIGNER},
            "status": {"conditions": [{"type": kind, "status": "True", "message": "not of a node"}]}})
    };
    check(vec![(201, Value::Null), (200, Value::Null), (200, with("Denied"))], "is Denied: not of a node")
        .await;
    check(vec![(201, Value::Null), (200, Value::Null), (200, with("Failed"))], "is Failed: not of a node")
        .await;
    // Approved, and nobody signs.
    let silent = vec![(200, Value::Null); 80];
    check([vec![(201, Value::Null)], silent].concat(), "does kube-controller-manager sign?").await;
}

#[tokio::test]
async fn what_is_shown_until_then() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let authority = Authority::open(&hub_config(), &MemorySecrets::default()).await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let config = CloudStreamConfig {
        tls_stream_cert_file: folder.path().join("stream.crt"),
        tls_stream_private_key_file: folder.path().join("stream.key"),
        ..CloudStreamConfig::default()
    };
    let serving = Serving::default();
    let show = || serving.show_own(&config, &authority, Some([192, 0, 2, 7].into())).unwrap();
    assert_eq!(show(), "one of cloudcore's own CA");
    let own = shown(&serving);
    let (_, certificate) = X509Certificate::from_der(&own).unwrap();
    let (_, ca) = X509Certificate::from_der(authority.ca()).unwrap();
    assert!(certificate.verify_signature(Some(ca.public_key())).is_ok());
    // KubeEdge's files, as its script makes them: an RSA or EC key in PEM.
    let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let made = CertificateParams::new(["cloud.example".to_owned()]).unwrap().self_signed(&key).unwrap();
    std::fs::write(&config.tls_stream_cert_file, made.pem()).unwrap();
    std::fs::write(&config.tls_stream_private_key_file, key.serialize_pem()).unwrap();
    assert!(show().ends_with("stream.crt (tlsStreamCertFile)"));
    assert_eq!(shown(&serving), made.der().to_vec());
    // A key of another certificate, and no key at all: one of ours.
    let other = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    for bad in [other.serialize_pem(), "nonsense".to_owned()] {
        std::fs::write(&config.tls_stream_private_key_file, bad).unwrap();
        assert_eq!(show(), "one of cloudcore's own CA");
    }
}
