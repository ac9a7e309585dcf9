//! TLS to the stream port of KubeEdge's cloudcore, with this node's certificate. Called by `edge_stream::go_tunnel`.
//!
//! Unlike KubeEdge's edgecore it looks at whom it talks to: whoever stands between could read every command.

use ke_run::config::HostPort;
use ke_wire::NodeName;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use super::identity::Identity;
use super::tls::{self, DialError};
use crate::config::EdgeHubConfig;

/// Dials. The files are read anew each time: the certificate may have been renewed. `files`: where they are.
pub(crate) async fn dial(
    files: &EdgeHubConfig,
    node: &NodeName,
    server: &HostPort,
) -> Result<TlsStream<TcpStream>, DialError> {
    let HostPort { host, port } = server;
    let server_name =
        ServerName::try_from(host.clone()).map_err(|_| DialError::Address(server.to_string()))?;
    let credentials = Identity::new(files, node.clone()).credentials().map_err(DialError::Files)?;
    let ca = credentials.ca.clone();
    tls::stream(host, *port, server_name, tls::client(&ca, Some(credentials))?).await
}
