//! stub
use std::num::NonZeroI64;
use std::path::PathBuf;
#[derive(Clone)]
pub struct EdgeHub {
    pub http_server: String,
    pub token: String,
    pub bootstrap_file: PathBuf,
    pub tls_ca_file: PathBuf,
    pub tls_cert_file: PathBuf,
    pub tls_private_key_file: PathBuf,
    pub rotate_certificates: bool,
    pub websocket: Ws,
    pub heartbeat: NonZeroI64,
    pub reconnect_max_secs: NonZeroI64,
    pub project_id: String,
}
#[derive(Clone)]
pub struct Ws {
    pub server: String,
}
