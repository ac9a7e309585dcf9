//! What an edge node is made of on this machine, as its files and its program say.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::failure::Failure;
use crate::host::Host;
use crate::render::PROGRAM;
use crate::service::Manager;
use crate::step::Step;
use crate::words::last_words;

/// Where edgecore says how the node stands, unless `admin.bindAddress` says otherwise.
pub(crate) const ADMIN: &str = "127.0.0.1:10560";
/// Its store, unless `database.dataSource` says otherwise.
pub(crate) const DATABASE: &str = "/var/lib/kubeedge/edgecore.db";

/// Made on the way, with the rights of their files in mind; those that are there stay as they are.
const FOLDERS: [(&str, u32); 5] = [
    ("/etc/kubeedge", 0o755),
    ("/etc/kubeedge/config", 0o755),
    ("/etc/kubeedge/ca", 0o755),
    ("/var/lib/kubeedge", 0o700),
    ("/var/log/kubeedge", 0o755),
];
/// Others put things there, too; edgecore clears its own out of them when its pods go.
const SHARED_FOLDERS: [(&str, u32); 5] = [
    ("/var/lib/kubelet", 0o750),
    ("/var/lib/kubelet/pods", 0o750),
    ("/var/log/pods", 0o755),
    ("/var/log/containers", 0o755),
    ("/usr/local/bin", 0o755),
];

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Node {
    /// Of the installed program; "unknown" if it does not say.
    pub(crate) version: String,
    pub(crate) config: PathBuf,
    pub(crate) admin: SocketAddr,
    pub(crate) database: PathBuf,
    pub(crate) manager: Manager,
}

impl Node {
    /// Errors: this machine is no edge node that keadm could change.
    pub(crate) fn look(host: &dyn Host, config: &Path) -> Result<Self, Failure> {
        for path in [Path::new(PROGRAM), config] {
            if !host.exists(path) {
                return Err(Failure::Refused(format!(
                    "there is no {}: this machine is no edge node; `keadm join` makes it one",
                    path.display()
                )));
            }
        }
        if is_kubeedges(host, Path::new(PROGRAM)) {
            return Err(Failure::Refused(format!(
                "{PROGRAM} is KubeEdge's: `keadm join --takeover` puts Isthmus in its place; before that KubeEdge's own keadm \
                 looks after it"
            )));
        }
        let tree = read(host, config).map_err(Failure::Refused)?;
        let of_file = |wrong| Failure::Refused(format!("{}: {wrong}", config.display()));
        Ok(Self {
            version: version_of(host, Path::new(PROGRAM)).unwrap_or_else(|_| "unknown".to_owned()),
            config: config.to_owned(),
            admin: admin(&tree).map_err(of_file)?,
            database: database(&tree).into(),
            manager: Manager::of_edgecore(host),
        })
    }
}

/// edgecore.yaml as a tree.
pub(crate) fn read(host: &dyn Host, config: &Path) -> Result<Value, String> {
    let shown = config.display();
    let body = host.read(config).map_err(|error| format!("read {shown}: {error}"))?.unwrap_or_default();
    let tree = serde_saphyr::from_str(&String::from_utf8_lossy(&body));
    tree.map_err(|error| format!("{shown} is no YAML: {error}"))
}

/// Where edgecore with this configuration keeps its store.
pub(crate) fn database(config: &Value) -> &str {
    config.pointer("/database/dataSource").and_then(Value::as_str).unwrap_or(DATABASE)
}

/// Where edgecore with this configuration says how the node stands.
pub(crate) fn admin(config: &Value) -> Result<SocketAddr, String> {
    let text = config.pointer("/admin/bindAddress").and_then(Value::as_str).unwrap_or(ADMIN);
    text.parse().map_err(|_| format!("admin.bindAddress: {text:?} is no address:port"))
}

/// At the beginning of what the Go linker writes about a build into every program.
pub(crate) const OF_GO: &[u8] = b"\xff Go buildinf:";

/// Whether the program is KubeEdge's, which takes any words, `--version` too, and starts: it must not be asked anything. It is
/// a Go program, and ours are none. One that cannot be read is taken for KubeEdge's.
pub(crate) fn is_kubeedges(host: &dyn Host, program: &Path) -> bool {
    host.exists(program) && host.holds(program, OF_GO).unwrap_or(true)
}

/// Whether the program is our edgecore.
pub(crate) fn is_ours(host: &dyn Host, program: &Path) -> bool {
    if is_kubeedges(host, program) {
        return false;
    }
    let ran = host.run(program, &["--version".to_owned()]);
    ran.is_ok_and(|ran| ran.is_good && ran.stdout.trim_start().starts_with("edgecore "))
}

/// To be asked before anything else is.
pub(crate) fn must_be_ours(host: &dyn Host, program: &Path) -> Result<(), Failure> {
    if is_ours(host, program) {
        return Ok(());
    }
    Err(Failure::Refused(format!(
        "{} is no edgecore of Isthmus, and nothing was changed: put ours beside keadm, or name it",
        program.display()
    )))
}

/// What the program says, with the letter that tags have.
pub(crate) fn version_of(host: &dyn Host, program: &Path) -> Result<String, String> {
    let shown = program.display();
    let ran = host
        .run(program, &["--version".to_owned()])
        .map_err(|error| format!("{shown} cannot be started: {error}"))?;
    if !ran.is_good {
        return Err(format!("{shown} --version failed: {}", last_words(&ran.stderr)));
    }
    let word = ran.stdout.split_whitespace().last().unwrap_or_default().trim_start_matches('v');
    // It becomes part of a folder's name.
    let is_version = word.starts_with(|first: char| first.is_ascii_digit())
        && word.chars().all(|letter| letter.is_ascii_alphanumeric() || "-.+".contains(letter));
    if is_version {
        Ok(format!("v{word}"))
    } else {
        Err(format!("{shown} --version: no version in {:?}", ran.stdout))
    }
}

/// What edgecore's files are put into.
pub(crate) fn folders() -> impl Iterator<Item = Step> {
    let own = FOLDERS.iter().map(|(path, mode)| Step::Folder { path: path.into(), mode: *mode });
    let shared = SHARED_FOLDERS.iter();
    own.chain(shared.map(|(path, mode)| Step::SharedFolder { path: path.into(), mode: *mode }))
}
