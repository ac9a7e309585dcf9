//! Keys and certificates as files: in KubeEdge's form, whole or not at all.

use std::path::{Path, PathBuf};

use ke_wire::enrolment;

use super::error::IdentityError;

pub(super) fn pem(label: &str, der: &[u8]) -> String {
    use base64::Engine;
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    let mut out = format!("-----BEGIN {label}-----\n");
    let mut rest = text.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(64));
        out.push_str(line);
        out.push('\n');
        rest = more;
    }
    out.push_str(&format!("-----END {label}-----\n"));
    out
}

/// The key in the form that Go edges read.
pub(super) fn sec1_pem(key: &rcgen::KeyPair) -> Result<String, IdentityError> {
    match enrolment::sec1_from_pkcs8(&key.serialize_der(), key.public_key_raw()) {
        Some(sec1) => Ok(pem("EC PRIVATE KEY", &sec1)),
        None => Err(IdentityError::Request(rcgen::Error::CouldNotParseKeyPair)),
    }
}

/// Whole or not at all, and on disk: written beside, synced, renamed, folder synced.
pub(super) fn write_file(path: &Path, content: &[u8], mode: u32) -> Result<(), IdentityError> {
    use std::io::Write;
    use std::os::unix::fs::OpenOptionsExt;
    let failed = |doing: &'static str| move |source| IdentityError::File { doing, path: path.into(), source };
    let folder = path.parent().unwrap_or(Path::new("/"));
    std::fs::create_dir_all(folder).map_err(failed("make the folder of"))?;
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    // A left-over of a killed run may have other rights.
    let _ = std::fs::remove_file(&beside);
    let mut file = std::fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&beside)
        .map_err(failed("write"))?;
    file.write_all(content).and_then(|()| file.sync_all()).map_err(failed("write"))?;
    rename(&beside, path)
}

/// One file takes the place of another, and the folder is on disk.
pub(super) fn rename(from: &Path, to: &Path) -> Result<(), IdentityError> {
    let failed = |doing: &'static str| move |source| IdentityError::File { doing, path: to.into(), source };
    std::fs::rename(from, to).map_err(failed("write"))?;
    let folder = to.parent().unwrap_or(Path::new("/"));
    std::fs::File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed("sync the folder of"))
}
