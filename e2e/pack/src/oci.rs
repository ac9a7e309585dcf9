//! Writes a container image as a tar archive: the OCI layout, with Docker's `manifest.json` beside it. Pure.
//!
//! One layer, from scratch. containerd, CRI-O, podman and skopeo read the layout; Docker before version 25 reads only its
//! own manifest, which names the same blobs. Nothing here pushes to a registry.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::arch::Arch;
use crate::gzip::gzip;
use crate::sha256::sha256;
use crate::tar::Tar;

pub struct Image<'a> {
    pub arch: Arch,
    /// Of the image and everything in it, in seconds since 1970.
    pub date: u64,
    /// A tar archive: the whole file system.
    pub layer: &'a [u8],
    pub packing: Packing,
    /// What it starts when the pod says nothing.
    pub entrypoint: &'a [&'a str],
    pub command: &'a [&'a str],
    /// `user:group` as numbers; empty is root.
    pub user: &'a str,
    pub folder: &'a str,
    pub labels: &'a [(&'a str, &'a str)],
}

/// How the layer lies in the archive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packing {
    Plain,
    /// Smaller, for what travels.
    Gzip,
}

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const PATHS: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The archive of `image` under full names such as `registry.example/app:1`.
pub fn archive(image: &Image<'_>, names: &[&str]) -> Result<Vec<u8>> {
    let (layer, layer_type) = match image.packing {
        Packing::Plain => (image.layer.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
        Packing::Gzip => (gzip(image.layer)?, "application/vnd.oci.image.layer.v1.tar+gzip"),
    };
    let config = config(image)?.to_string().into_bytes();
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": description(CONFIG, &config),
        "layers": [description(layer_type, &layer)],
    })
    .to_string()
    .into_bytes();
    let docker = json!([{"Config": place(&config), "RepoTags": names, "Layers": [place(&layer)]}]);
    let index = json!({
        "schemaVersion": 2,
        "mediaType": INDEX,
        "manifests": names.iter().map(|name| named(image, &manifest, name)).collect::<Vec<_>>(),
    });
    let files: BTreeMap<String, Vec<u8>> = [
        (place(&config), config),
        (place(&layer), layer),
        (place(&manifest), manifest),
        ("index.json".to_owned(), index.to_string().into_bytes()),
        ("manifest.json".to_owned(), docker.to_string().into_bytes()),
        ("oci-layout".to_owned(), json!({"imageLayoutVersion": "1.0.0"}).to_string().into_bytes()),
    ]
    .into();
    let mut tar = Tar::dated(image.date);
    tar.folder("blobs", 0o755)?;
    tar.folder("blobs/sha256", 0o755)?;
    for (path, content) in files {
        tar.file(&path, 0o644, &content)?;
    }
    Ok(tar.finish())
}

fn config(image: &Image<'_>) -> Result<Value> {
    let created = rfc3339(image.date)?;
    let mut config = json!({
        "os": "linux",
        "created": created,
        "config": {
            "Env": [PATHS],
            "Entrypoint": image.entrypoint,
            "Cmd": image.command,
            "WorkingDir": image.folder,
            "User": image.user,
            "Labels": image.labels.iter().copied().collect::<BTreeMap<_, _>>(),
        },
        "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{}", sha256(image.layer))]},
        "history": [{"created": created, "created_by": "isthmus pack"}],
    });
    add_platform(&mut config, image.arch);
    Ok(config)
}

/// An index tells each name by itself; containerd and Docker read it from another annotation than the rest.
fn named(image: &Image<'_>, manifest: &[u8], name: &str) -> Value {
    let mut platform = json!({"os": "linux"});
    add_platform(&mut platform, image.arch);
    let mut named = description(MANIFEST, manifest);
    if let Some(named) = named.as_object_mut() {
        named.insert("platform".to_owned(), platform);
        let names = json!({"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name});
        named.insert("annotations".to_owned(), names);
    }
    named
}

fn add_platform(object: &mut Value, arch: Arch) {
    let (architecture, variant) = arch.oci();
    if let Some(object) = object.as_object_mut() {
        object.insert("architecture".to_owned(), architecture.into());
        if let Some(variant) = variant {
            object.insert("variant".to_owned(), variant.into());
        }
    }
}

fn description(kind: &str, content: &[u8]) -> Value {
    json!({"mediaType": kind, "digest": format!("sha256:{}", sha256(content)), "size": content.len()})
}

fn place(content: &[u8]) -> String {
    format!("blobs/sha256/{}", sha256(content))
}

pub(crate) fn rfc3339(date: u64) -> Result<String> {
    let seconds = i64::try_from(date).context("a date far beyond any calendar")?;
    let date = OffsetDateTime::from_unix_timestamp(seconds).context("a date far beyond any calendar")?;
    date.format(&Rfc3339).context("write a date")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Name and content of each file of an archive.
    pub(crate) fn files(tar: &[u8]) -> BTreeMap<String, Vec<u8>> {
        let mut rest = tar;
        let mut found = BTreeMap::new();
        while rest.len() >= 512 && rest[0] != 0 {
            let name = rest[..100].split(|byte| *byte == 0).next().unwrap();
            let size = usize::from_str_radix(std::str::from_utf8(&rest[124..135]).unwrap(), 8).unwrap();
            let name = String::from_utf8(name.to_vec()).unwrap();
            found.insert(name, rest[512..512 + size].to_vec());
            rest = &rest[512 + size.next_multiple_of(512)..];
        }
        found
    }

    fn made(arch: Arch, packing: Packing) -> BTreeMap<String, Vec<u8>> {
        let image = Image {
            arch,
            date: 1_700_000_000,
            layer: b"a layer",
            packing,
            entrypoint: &["/mapper"],
            command: &["--config-file"],
            user: "65532:65532",
            folder: "/",
            labels: &[("org.opencontainers.image.version", "1.2.3")],
        };
        let names = ["registry.example/a:1", "registry.example/a:latest"];
        let bytes = archive(&image, &names).unwrap();
        assert_eq!(bytes, archive(&image, &names).unwrap());
        files(&bytes)
    }

    fn parsed(files: &BTreeMap<String, Vec<u8>>, path: &str) -> Value {
        serde_json::from_slice(&files[path]).unwrap()
    }

    fn blob(description: &Value) -> String {
        description["digest"].as_str().unwrap().replacen("sha256:", "blobs/sha256/", 1)
    }

    #[test]
    fn every_name_leads_to_the_layer_by_both_ways() {
        for packing in [Packing::Plain, Packing::Gzip] {
            let files = made(Arch::Amd64, packing);
            for (path, content) in files.iter().filter(|(path, _)| path.starts_with("blobs/sha256/")) {
                assert!(content.is_empty() || *path == place(content));
            }
            let index = parsed(&files, "index.json");
            let docker = parsed(&files, "manifest.json");
            for (number, name) in ["registry.example/a:1", "registry.example/a:latest"].iter().enumerate() {
                let named = &index["manifests"][number];
                assert_eq!(named["annotations"]["io.containerd.image.name"], *name);
                assert_eq!(named["platform"], json!({"os": "linux", "architecture": "amd64"}));
                let manifest = parsed(&files, &blob(named));
                assert_eq!(docker[0]["Config"], blob(&manifest["config"]));
                assert_eq!(docker[0]["Layers"], json!([blob(&manifest["layers"][0])]));
                let layer = &files[&blob(&manifest["layers"][0])];
                assert_eq!(manifest["layers"][0]["size"], layer.len());
                assert_eq!(layer == b"a layer", packing == Packing::Plain);
            }
            assert_eq!(parsed(&files, "oci-layout"), json!({"imageLayoutVersion": "1.0.0"}));
        }
    }

    #[test]
    fn the_configuration_says_who_runs_what() {
        let files = made(Arch::Armv7, Packing::Gzip);
        let docker = parsed(&files, "manifest.json");
        let config = parsed(&files, docker[0]["Config"].as_str().unwrap());
        assert_eq!(config["architecture"], "arm");
        assert_eq!(config["variant"], "v7");
        assert_eq!(config["created"], "2023-11-14T22:13:20Z");
        assert_eq!(config["config"]["User"], "65532:65532");
        assert_eq!(config["config"]["Entrypoint"], json!(["/mapper"]));
        assert_eq!(config["rootfs"]["diff_ids"], json!([format!("sha256:{}", sha256(b"a layer"))]));
    }
}
