//! What is on a machine already that keadm has not written down: a join does not touch another node's data, and sets aside what
//! it must replace.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::backup;
use crate::failure::Failure;
use crate::host::Host;
use crate::journal::Undo;
use crate::node;
use crate::step::Step;

/// SQLite's files of one store, by their endings.
const STORE: [&str; 4] = ["", "-wal", "-shm", "-journal"];
/// Of `modules.edgeHub`: what edgecore writes when it enrolls, and where unless it is told otherwise.
const CERTIFICATES: [(&str, &str); 3] = [
    ("tlsCaFile", "/etc/kubeedge/ca/rootCA.crt"),
    ("tlsCertFile", "/etc/kubeedge/certs/server.crt"),
    ("tlsPrivateKeyFile", "/etc/kubeedge/certs/server.key"),
];
/// Added to the key's name until its certificate is on disk.
const NEXT: &str = ".next";

/// Errors: data of an earlier node. The new one would take it for its own, and taking the join back would remove it.
pub(super) fn must_be_none(host: &dyn Host, config: &Value) -> Result<(), Failure> {
    let mut found: Vec<PathBuf> = store(config).into_iter().filter(|path| host.exists(path)).collect();
    let backups = Path::new(backup::FOLDER);
    found.extend(host.list(backups).is_ok_and(|held| !held.is_empty()).then(|| backups.to_owned()));
    if found.is_empty() {
        return Ok(());
    }
    let each = |word: fn(String) -> String, between: &str| -> String {
        let words: Vec<String> = found.iter().map(|path| word(path.display().to_string())).collect();
        words.join(between)
    };
    Err(Failure::Refused(format!(
        "data of an earlier node is here, which keadm did not write down, and nothing was changed: {}. To keep it aside and \
         join, type: {}",
        each(|path| path, ", "),
        each(|path| format!("mv {path} {path}.old"), " && ")
    )))
}

/// Of the node that joins, where [`must_be_none`] found nothing: it holds Secrets, and its folder may have been there before.
pub(super) fn data(host: &dyn Host, config: &Value) -> Vec<Step> {
    let file = |path: PathBuf| Step::OnUndo(Undo::RemoveFile(path));
    let mut steps = vec![Step::OnUndo(Undo::RemoveFolder(backup::FOLDER.into()))];
    steps.extend(store(config).map(file));
    // Sockets are of no use to anybody once edgecore has ended.
    let control = Path::new(node::database(config)).with_file_name("edgecore.sock");
    steps.extend(["/etc/kubeedge/dmi.sock".into(), control].map(file));
    let imported = Path::new("/var/lib/kubeedge/images/.imported.json");
    steps.extend((!host.exists(imported)).then(|| file(imported.to_owned())));
    steps
}

/// Before edgecore enrolls: a certificate of others gets its place back, a new key stays nowhere.
pub(super) fn certificates(host: &dyn Host, config: &Value) -> Vec<Step> {
    let of = |(key, usual): (&str, &str)| {
        let set = config.pointer(&format!("/modules/edgeHub/{key}")).and_then(Value::as_str);
        set.filter(|path| !path.is_empty()).unwrap_or(usual).to_owned()
    };
    let [ca, certificate, key] = CERTIFICATES.map(of);
    let next = format!("{key}{NEXT}");
    let step = |path: String| {
        let path = PathBuf::from(path);
        if host.exists(&path) { Step::Keep(path) } else { Step::OnUndo(Undo::RemoveFile(path)) }
    };
    [ca, certificate, key, next].map(step).into()
}

fn store(config: &Value) -> [PathBuf; 4] {
    STORE.map(|ending| format!("{}{ending}", node::database(config)).into())
}
