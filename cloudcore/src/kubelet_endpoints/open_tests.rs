//! Ports that cannot be opened: those that never will be, and those for which something is missing just now.

use std::collections::BTreeMap;
use std::io;

use serde_json::json;

use super::*;

const SHARED: u16 = 9;

/// What opening each port comes to, by the system's error number; others are opened.
type Errors = Arc<Mutex<BTreeMap<u16, i32>>>;

const NO_MORE_FILES: i32 = 24;
const NOT_ALLOWED: i32 = 13;
const IN_USE: i32 = 98;
const NO_SUCH_ADDRESS: i32 = 99;

fn endpoints(errors: &Errors) -> KubeletEndpoints {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let nothing = Arc::new(rustls::server::ResolvesServerCertUsingSni::new());
    let tls = rustls::ServerConfig::builder().with_no_client_auth().with_cert_resolver(nothing);
    let (tls, errors) = (TlsAcceptor::from(Arc::new(tls)), Arc::clone(errors));
    let here = IpAddr::from([127, 0, 0, 1]);
    let listen = move |port: u16| match errors.lock().unwrap().get(&port) {
        Some(number) => {
            let source = io::Error::from_raw_os_error(*number);
            Err(ListenError::Bind { key: KEY, address: (here, port).into(), source, hint: "" })
        }
        // Whichever is free: what counts is the number that is shown.
        None => Port::with_tls(KEY, here, 0, tls.clone()),
    };
    KubeletEndpoints::with(None, "11-14".parse().unwrap(), SHARED, Box::new(listen))
}

/// The port that this node's Node shows after a report.
fn shown(endpoints: &KubeletEndpoints, node: &str) -> u16 {
    let node: NodeName = node.parse().unwrap();
    let mut object = json!({"metadata": {"name": node.as_str()}, "status": {}});
    endpoints.create(&node, &mut object);
    endpoints.seen(&node, &object);
    object["status"]["daemonEndpoints"]["kubeletEndpoint"]["Port"].as_u64().unwrap().try_into().unwrap()
}

#[tokio::test]
async fn a_shortage_spends_no_ports() {
    let errors = Errors::default();
    let endpoints = endpoints(&errors);
    assert_eq!(shown(&endpoints, "a"), 11);
    *errors.lock().unwrap() = (11..=14).map(|port| (port, NO_MORE_FILES)).collect();
    assert_eq!((shown(&endpoints, "b"), shown(&endpoints, "c")), (SHARED, SHARED));
    // What is open stays so.
    assert_eq!(shown(&endpoints, "a"), 11);
    errors.lock().unwrap().clear();
    let again = [shown(&endpoints, "b"), shown(&endpoints, "c"), shown(&endpoints, "d")];
    assert_eq!(again, [12, 13, 14]);
    assert_eq!(shown(&endpoints, "e"), SHARED, "there are no more");
}

#[tokio::test]
async fn a_shortage_at_the_start_takes_no_port_from_its_node() {
    let errors = Errors::default();
    let endpoints = endpoints(&errors);
    errors.lock().unwrap().insert(12, NO_MORE_FILES);
    let (node, said) = ("late".parse().unwrap(), json!({"kubeletEndpoint": {"Port": 12}}));
    endpoints.seen(&node, &json!({"status": {"daemonEndpoints": said}}));
    errors.lock().unwrap().clear();
    let mut patch = Map::new();
    endpoints.patch(&node, &mut patch);
    assert_eq!(patch.get("status"), None, "it shows what it should");
    assert_eq!(endpoints.entrance(12), Entrance::Of(node));
    assert_eq!(endpoints.opened().await.len(), 1);
}

#[tokio::test]
async fn ports_that_cannot_be_had_are_left_out() {
    let errors = Errors::default();
    let endpoints = endpoints(&errors);
    *errors.lock().unwrap() = [(11, IN_USE), (12, NOT_ALLOWED), (13, NO_SUCH_ADDRESS)].into();
    assert_eq!(shown(&endpoints, "a"), 14);
    errors.lock().unwrap().clear();
    assert_eq!(shown(&endpoints, "b"), SHARED);
}
