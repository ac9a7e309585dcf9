//! A registry of one image on this machine, for stories about pulling: no network has a part in them.
//!
//! The image is a busybox with a file of a wanted size that no runtime can keep in less room. It goes by every name and tag.

use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use anyhow::Result;
use ring::digest::{SHA256, digest};
use serde_json::json;

use crate::images;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const LAYER: &str = "application/vnd.oci.image.layer.v1.tar";

pub struct Registry {
    port: u16,
    n_layers: Arc<AtomicUsize>,
}

/// Something that is served under its digest.
struct Blob {
    kind: &'static str,
    digest: String,
    bytes: Vec<u8>,
}

impl Blob {
    fn new(kind: &'static str, bytes: Vec<u8>) -> Self {
        let hash = digest(&SHA256, &bytes);
        let hex: String = hash.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
        Self { kind, digest: format!("sha256:{hex}"), bytes }
    }

    fn described(&self) -> serde_json::Value {
        json!({"mediaType": self.kind, "digest": self.digest, "size": self.bytes.len()})
    }
}

impl Registry {
    /// Serves until the story's process ends.
    pub fn start(mib: usize) -> Result<Self> {
        let layer = Blob::new(LAYER, images::heavy_layer(mib)?);
        let config = json!({
            "architecture": images::architecture(),
            "os": "linux",
            "config": {"Cmd": ["sh"]},
            "rootfs": {"type": "layers", "diff_ids": [layer.digest]},
        });
        let config = Blob::new(CONFIG, config.to_string().into_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config.described(), "layers": [layer.described()],
        });
        let manifest = Blob::new(MANIFEST, manifest.to_string().into_bytes());
        let blobs = Arc::new([manifest, config, layer]);
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let n_layers = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&n_layers);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (blobs, counted) = (Arc::clone(&blobs), Arc::clone(&counted));
                std::thread::spawn(move || serve(stream, &blobs[..], &counted));
            }
        });
        Ok(Self { port, n_layers })
    }

    /// The image under a tag.
    pub fn image(&self, tag: &str) -> String {
        format!("127.0.0.1:{}/heavy:{tag}", self.port)
    }

    /// How often somebody began to load the layer.
    pub fn n_layers(&self) -> usize {
        self.n_layers.load(Ordering::Relaxed)
    }
}

/// One request. A client that goes away is none of our business.
fn serve(stream: TcpStream, blobs: &[Blob], n_layers: &AtomicUsize) {
    let mut lines = BufReader::new(&stream).lines().map_while(Result::ok);
    let Some(request) = lines.next() else { return };
    // The rest of the head.
    lines.by_ref().find(String::is_empty);
    let mut words = request.split(' ');
    let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let is_meant = |blob: &&Blob| {
        path.ends_with(&blob.digest)
            || (blob.kind == MANIFEST && path.contains("/manifests/") && !path.contains("sha256:"))
    };
    let mut stream = &stream;
    let Some(blob) = blobs.iter().find(is_meant) else {
        let status = if path == "/v2/" { "200 OK" } else { "404 Not Found" };
        let _ = write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return;
    };
    let head = format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {}\r\nDocker-Content-Digest: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        blob.kind,
        blob.digest,
        blob.bytes.len()
    );
    let _ = stream.write_all(head.as_bytes());
    if method == "GET" {
        if blob.kind == LAYER {
            n_layers.fetch_add(1, Ordering::Relaxed);
        }
        let _ = stream.write_all(&blob.bytes);
    }
}
