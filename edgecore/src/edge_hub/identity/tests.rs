//! Pairs on disk, and what a look at them finds.

use super::*;

#[test]
fn keys_are_written_as_go_edges_read_them() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let text = sec1_pem(&key).unwrap();
    assert!(text.starts_with("-----BEGIN EC PRIVATE KEY-----\n"));
    let key_der = PrivateKeyDer::from_pem_slice(text.as_bytes()).unwrap();
    let signing = rustls::crypto::ring::sign::any_supported_type(&key_der).unwrap();
    assert_eq!(signing.public_key().unwrap().as_ref(), key.subject_public_key_info());
}

#[test]
fn a_renewal_cut_short_leaves_a_pair() {
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = |key: &rcgen::KeyPair| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, "system:node:e1");
        pem("CERTIFICATE", params.self_signed(key).unwrap().der())
    };
    let (old, new) = (key(), key());
    // What is on disk when the run is killed: the certificate's key, and whether the next key's file is there.
    let check = |held: &rcgen::KeyPair, has_next: bool, expected: &rcgen::KeyPair| {
        let folder = tempfile::tempdir().unwrap();
        let config = EdgeHubConfig {
            tls_ca_file: folder.path().join("ca.crt"),
            tls_cert_file: folder.path().join("server.crt"),
            tls_private_key_file: folder.path().join("server.key"),
            ..EdgeHubConfig::default()
        };
        let identity = Identity::new(&config, "e1".parse().unwrap());
        std::fs::write(&config.tls_ca_file, certificate(&old)).unwrap();
        std::fs::write(&config.tls_private_key_file, sec1_pem(&old).unwrap()).unwrap();
        std::fs::write(&config.tls_cert_file, certificate(held)).unwrap();
        if has_next {
            std::fs::write(identity.next_key_file(), sec1_pem(&new).unwrap()).unwrap();
        }
        identity.adopt_next_key().unwrap();
        let credentials = identity.credentials().unwrap();
        let signing = rustls::crypto::ring::sign::any_supported_type(&credentials.key).unwrap();
        assert_eq!(signing.public_key().unwrap().as_ref(), expected.subject_public_key_info());
    };
    check(&old, false, &old);
    check(&old, true, &old);
    check(&new, true, &new);
}

/// Answers one request with this CA, as a cloud does.
async fn serve_ca(ca: Vec<u8>) -> String {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let own = rcgen::CertificateParams::default().self_signed(&key).unwrap().der().clone();
    let key = PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_single_cert(vec![own], key).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(Arc::new(tls)).accept(stream).await.unwrap();
        assert!(stream.read(&mut [0; 4096]).await.unwrap() > 0);
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", ca.len());
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&ca).await.unwrap();
        stream.shutdown().await.unwrap();
    });
    format!("https://{address}")
}

#[tokio::test]
async fn a_cloud_that_has_another_ca_is_told_from_one_that_is_away() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let key = || rcgen::KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).unwrap();
    let certificate = |key: &rcgen::KeyPair, name: &str| {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::CommonName, name);
        params.self_signed(key).unwrap().der().to_vec()
    };
    let (ours, other) = (key(), key());
    let look = async |http_server: String| {
        let folder = tempfile::tempdir().unwrap();
        let config = EdgeHubConfig {
            http_server,
            tls_ca_file: folder.path().join("ca.crt"),
            tls_cert_file: folder.path().join("server.crt"),
            tls_private_key_file: folder.path().join("server.key"),
            ..EdgeHubConfig::default()
        };
        std::fs::write(&config.tls_ca_file, pem("CERTIFICATE", &certificate(&ours, "CA"))).unwrap();
        std::fs::write(&config.tls_cert_file, pem("CERTIFICATE", &certificate(&ours, "system:node:e1")))
            .unwrap();
        std::fs::write(&config.tls_private_key_file, sec1_pem(&ours).unwrap()).unwrap();
        Identity::new(&config, "e1".parse().unwrap()).look(0).await
    };
    // Signed anew, with the key it had.
    let same = serve_ca(certificate(&ours, "CA of 2027")).await;
    assert_eq!(look(same).await.unwrap(), Prospect::Joined);
    let error = look(serve_ca(certificate(&other, "CA")).await).await.unwrap_err().to_string();
    assert!(error.contains("another CA") && error.contains("kubectl delete node e1"), "{error}");
    let Prospect::Away { why, advice } = look("https://127.0.0.1:1".into()).await.unwrap() else {
        panic!("nobody is there")
    };
    assert!(why.contains("Connection refused") && advice.contains("cloudcore runs"), "{why}: {advice}");
}

#[test]
fn files_that_may_not_be_read_want_sudo() {
    let of = |kind: std::io::ErrorKind| {
        IdentityError::File { doing: "read", path: "/x".into(), source: kind.into() }.advice()
    };
    assert_eq!(of(std::io::ErrorKind::PermissionDenied), "type it again with sudo");
    assert_eq!(of(std::io::ErrorKind::IsADirectory), "");
}

#[test]
fn files_are_written_whole_with_their_rights() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("certs/server.key");
    write_file(&path, b"one", 0o600).unwrap();
    write_file(&path, b"two", 0o600).unwrap();
    assert_eq!(std::fs::read(&path).unwrap(), b"two");
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
}
