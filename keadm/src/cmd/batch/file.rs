//! Pure: the file of `keadm batch`, in KubeEdge's format, and what is wrong with it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Deserialize;
use serde_json::Value;

/// KubeEdge's.
const MAX_RUN_NUM: usize = 5;
/// More connections at once only wait for each other.
const MOST_AT_ONCE: usize = 1000;
const ARCHES: [&str; 3] = ["amd64", "arm64", "arm"];

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct File {
    #[serde(default)]
    keadm: Keadm,
    nodes: Vec<RawNode>,
    #[serde(default)]
    max_run_num: Option<usize>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Keadm {
    download: Download,
    keadm_version: String,
    arch_group: Vec<String>,
    offline_package_dir: String,
    cmd_tpl_args: BTreeMap<String, Value>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct Download {
    enable: Option<bool>,
    url: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawNode {
    node_name: String,
    #[serde(default)]
    arch: String,
    keadm_cmd: String,
    #[serde(default)]
    copy_from: String,
    ssh: RawSsh,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawSsh {
    ip: String,
    username: String,
    #[serde(default)]
    port: Option<u16>,
    auth: RawAuth,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct RawAuth {
    r#type: String,
    #[serde(default)]
    password_auth: PasswordAuth,
    #[serde(default)]
    private_key_auth: PrivateKeyAuth,
}

// Its Debug would show it.
#[derive(Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct PasswordAuth {
    password: String,
}

impl std::fmt::Debug for PasswordAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("(hidden)")
    }
}

#[derive(Debug, Default, Deserialize)]
#[serde(default, rename_all = "camelCase", deny_unknown_fields)]
struct PrivateKeyAuth {
    private_key_path: String,
}

/// What is to be done.
pub(super) struct Batch {
    pub(super) nodes: Vec<Node>,
    pub(super) n_at_once: usize,
    /// `keadm-VERSION-linux-ARCH.tar.gz` or the programs; `None`: this very keadm is copied.
    pub(super) packages: Option<PathBuf>,
    pub(super) version: String,
    /// What somebody should know.
    pub(super) notes: Vec<String>,
    /// Must not be told or written down.
    pub(super) secrets: Vec<String>,
}

pub(super) struct Node {
    pub(super) name: String,
    pub(super) arch: String,
    /// Arguments of keadm, as a shell reads them.
    pub(super) arguments: String,
    /// A file or folder for the node.
    pub(super) copy_from: Option<PathBuf>,
    pub(super) target: Target,
}

pub(super) struct Target {
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) user: String,
    pub(super) auth: Auth,
}

pub(super) enum Auth {
    Password(String),
    Key(PathBuf),
}

/// Errors: one sentence that names the line or the field.
pub(super) fn parse(text: &str) -> Result<Batch, String> {
    let file: File = serde_saphyr::from_str(text).map_err(|error| first_line(&error.to_string()))?;
    let Keadm { download, keadm_version, arch_group, offline_package_dir, cmd_tpl_args } = file.keadm;
    if let Some(wrong) = arch_group.iter().find(|arch| !ARCHES.contains(&arch.as_str())) {
        return Err(format!("keadm.archGroup: {wrong:?} is none of {}", ARCHES.join(", ")));
    }
    let arguments: BTreeMap<String, String> =
        cmd_tpl_args.into_iter().map(|(name, value)| (name, plain(value))).collect();
    let n_at_once = file.max_run_num.unwrap_or(MAX_RUN_NUM);
    if !(1..=MOST_AT_ONCE).contains(&n_at_once) {
        return Err(format!("maxRunNum: {n_at_once} is not between 1 and {MOST_AT_ONCE}"));
    }
    if file.nodes.is_empty() {
        return Err("nodes: there is none".to_owned());
    }
    let packages = Some(offline_package_dir).filter(|path| !path.is_empty()).map(PathBuf::from);
    let mut notes = Vec::new();
    if packages.is_none() && download.enable != Some(false) {
        notes.push(
            "nothing is downloaded: this keadm, and edgecore beside it, are copied to the nodes".to_owned(),
        );
    }
    if packages.is_none() && download.enable == Some(false) {
        return Err("keadm.offlinePackageDir: it is empty, and keadm.download.enable is false; name the folder with the packages".to_owned());
    }
    if !download.url.is_empty() {
        notes.push(format!("keadm.download.url is passed over: {}", download.url));
    }
    let mut nodes: Vec<Node> = Vec::new();
    let mut secrets: Vec<String> =
        arguments.iter().filter(|(name, _)| is_telling(name)).map(|(_, value)| value.clone()).collect();
    for (number, raw) in file.nodes.into_iter().enumerate() {
        let node = node(raw, &arguments, &arch_group).map_err(|why| format!("nodes[{number}].{why}"))?;
        if nodes.iter().any(|other| other.name == node.name) {
            return Err(format!("nodes[{number}].nodeName: {:?} is there twice", node.name));
        }
        if let Auth::Password(password) = &node.target.auth {
            secrets.push(password.clone());
        }
        nodes.push(node);
    }
    Ok(Batch { nodes, n_at_once, packages, version: keadm_version, notes, secrets })
}

fn node(raw: RawNode, arguments: &BTreeMap<String, String>, arches: &[String]) -> Result<Node, String> {
    let RawNode { node_name, arch, keadm_cmd, copy_from, ssh } = raw;
    if node_name.is_empty() || node_name.contains(char::is_whitespace) {
        return Err(format!("nodeName: {node_name:?} is no name"));
    }
    let default = arches.first().map_or("amd64", String::as_str);
    let arch = if arch.is_empty() { default.to_owned() } else { arch };
    if !ARCHES.contains(&arch.as_str()) {
        return Err(format!("arch: {arch:?} is none of {}", ARCHES.join(", ")));
    }
    let command = render(&keadm_cmd, arguments).map_err(|why| format!("keadmCmd: {why}"))?;
    let command = command.trim();
    let command = command.strip_prefix("keadm ").unwrap_or(command).trim();
    if command.is_empty() {
        return Err(
            "keadmCmd: it is empty; an example: '{{.cmd}} --edgenode-name=edge-1 --token={{.token}}'"
                .to_owned(),
        );
    }
    if command.contains(['\n', '\r', '\0']) {
        return Err("keadmCmd: it has more than one line".to_owned());
    }
    // These become arguments of ssh: what begins with a dash would be an option.
    let is_word = |text: &str| {
        !text.is_empty()
            && !text.starts_with('-')
            && text.chars().all(|letter| letter.is_ascii_alphanumeric() || ".:_-%".contains(letter))
    };
    if !is_word(&ssh.ip) {
        return Err(format!("ssh.ip: {:?} is no address", ssh.ip));
    }
    if !is_word(&ssh.username) {
        return Err(format!("ssh.username: {:?} is no user's name", ssh.username));
    }
    let port = ssh.port.unwrap_or(22);
    if port == 0 {
        return Err("ssh.port: 0 is no port".to_owned());
    }
    let auth = match ssh.auth.r#type.as_str() {
        "password" if ssh.auth.password_auth.password.is_empty() => {
            return Err("ssh.auth.passwordAuth.password: it is empty".to_owned());
        }
        "password" => Auth::Password(ssh.auth.password_auth.password),
        "privateKey" if ssh.auth.private_key_auth.private_key_path.is_empty() => {
            return Err("ssh.auth.privateKeyAuth.privateKeyPath: it is empty".to_owned());
        }
        "privateKey" => Auth::Key(ssh.auth.private_key_auth.private_key_path.into()),
        other => return Err(format!("ssh.auth.type: {other:?} is neither password nor privateKey")),
    };
    Ok(Node {
        name: node_name,
        arch,
        arguments: command.to_owned(),
        copy_from: Some(copy_from).filter(|path| !path.is_empty()).map(PathBuf::from),
        target: Target { address: ssh.ip, port, user: ssh.username, auth },
    })
}

/// Puts the arguments into `{{.name}}`, the only thing of Go's templates that is understood.
fn render(template: &str, arguments: &BTreeMap<String, String>) -> Result<String, String> {
    let mut text = String::new();
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{{") {
        text.push_str(before);
        let (action, behind) = after.split_once("}}").ok_or("a {{ has no }}")?;
        let is_name = |name: &&str| {
            !name.is_empty() && name.chars().all(|letter| letter.is_alphanumeric() || letter == '_')
        };
        let name = action.trim().strip_prefix('.').filter(is_name);
        let name = name.ok_or_else(|| {
            format!(
                "{{{{{action}}}}} is not understood: only {{{{.name}}}} is, with a name of keadm.cmdTplArgs"
            )
        })?;
        let value = arguments.get(name).ok_or_else(|| {
            let known: Vec<&str> = arguments.keys().map(String::as_str).collect();
            format!(
                "keadm.cmdTplArgs has no {name}; it has {}",
                if known.is_empty() { "nothing".to_owned() } else { known.join(", ") }
            )
        })?;
        text.push_str(value);
        rest = behind;
    }
    Ok(text + rest)
}

fn plain(value: Value) -> String {
    match value {
        Value::String(text) => text,
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

fn is_telling(name: &str) -> bool {
    let name = name.to_lowercase();
    ["token", "password", "passwd", "secret"].iter().any(|word| name.contains(word))
}

/// What follows is a picture of the place, which may hold a password.
fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().to_owned()
}

/// What `gen-config` writes.
pub(super) const SAMPLE: &str = "\
# Nodes that `keadm batch -c config.yaml` works on, several at once, over SSH.
keadm:
  download:
    # Nothing is downloaded; without offlinePackageDir this keadm, and edgecore beside it, are copied to the nodes.
    enable: true
  # Only names the packages in offlinePackageDir.
  keadmVersion: \"\"
  # amd64, arm64, arm; the first is that of nodes that name none.
  archGroup:
    - amd64
  # Folder with keadm-VERSION-linux-ARCH.tar.gz, or with the programs keadm and edgecore themselves.
  offlinePackageDir: \"\"
  # Any names; keadmCmd takes their values as {{.name}}.
  cmdTplArgs:
    cmd: join --cloudcore-ipport=10.0.0.1:10000
    token: \"\"
nodes:
  # Each name once.
  - nodeName: edge-1
    # Arguments of keadm on that node. They may name what copyFrom brings, as ./NAME.
    keadmCmd: '{{.cmd}} --edgenode-name=edge-1 --token={{.token}}'
    # A folder whose files come along; may be empty.
    copyFrom: \"\"
    ssh:
      ip: 10.0.0.11
      # root, or who may use sudo without a password.
      username: root
      port: 22
      auth:
        # privateKey or password. A password stands here for all to see who may read this file: chmod 600.
        type: privateKey
        privateKeyAuth:
          privateKeyPath: /root/.ssh/id_ed25519
# How many nodes at once.
maxRunNum: 5
";

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "{nodeName: a, keadmCmd: '{{.cmd}} --token={{ .token }}', ssh: {ip: 10.0.0.1, username: root, auth: {type: password, passwordAuth: {password: hunter2}}}}";

    #[test]
    fn the_sample_is_a_file() {
        let batch = parse(SAMPLE).unwrap();
        let node = batch.nodes.first().unwrap();
        assert_eq!(node.arguments, "join --cloudcore-ipport=10.0.0.1:10000 --edgenode-name=edge-1 --token=");
        assert_eq!((node.target.port, batch.n_at_once, node.arch.as_str()), (22, 5, "amd64"));
        assert!(node.copy_from.is_none() && batch.packages.is_none());
    }

    #[test]
    fn secrets_are_known_as_such() {
        let text = format!("keadm: {{cmdTplArgs: {{cmd: keadm join, token: abc, n: 5}}}}\nnodes: [{NODE}]");
        let batch = parse(&text).unwrap();
        assert_eq!(batch.nodes.first().unwrap().arguments, "join --token=abc");
        assert_eq!(batch.secrets, ["abc", "hunter2"]);
    }

    #[test]
    fn what_is_wrong_is_named() {
        let check = |text: &str, expected: &str| {
            let why = parse(text).err().unwrap_or_default();
            assert!(why.contains(expected), "{text}: {why:?} and not {expected:?}");
            assert!(!why.contains("hunter2"), "{why}");
        };
        let with = |from: &str, to: &str| {
            format!("keadm: {{cmdTplArgs: {{cmd: join, token: abc}}}}\nnodes: [{}]", NODE.replace(from, to))
        };
        check("nodes: [", "line");
        check("nodes: []", "nodes: there is none");
        check("nodes: []\nnode: 1", "node");
        check(&with("nodeName: a", "nodeName: a, nodename: b"), "nodename");
        check(&with("{{ .token }}", "{{.token"), "a {{ has no }}");
        check(&with("{{.cmd}}", "{{if .cmd}}"), "only {{.name}} is");
        check(&with("{{.cmd}}", "{{.x}}"), "has no x; it has cmd, token");
        check(&with("10.0.0.1", "'-oProxyCommand=x'"), "nodes[0].ssh.ip");
        check(&with("username: root", "username: 'a b'"), "nodes[0].ssh.username");
        check(&with("type: password", "type: kerberos"), "neither password nor privateKey");
        check(&with("type: password", "type: privateKey"), "privateKeyPath: it is empty");
        check(&with("password: hunter2", "password: ''"), "password: it is empty");
        check(&with("username: root", "username: root, port: 0"), "nodes[0].ssh.port");
        check(
            &format!(
                "nodes: [{}, {}]",
                NODE.replace("{{.cmd}} --token={{ .token }}", "x"),
                NODE.replace("{{.cmd}} --token={{ .token }}", "x")
            ),
            "is there twice",
        );
        check(&format!("{}\nmaxRunNum: 0", with("", "")), "maxRunNum: 0");
        check("keadm: {archGroup: [mips]}\nnodes: []", "keadm.archGroup");
        check(
            "keadm: {download: {enable: false}}\nnodes: [{nodeName: a, keadmCmd: x, ssh: {ip: a, username: b, auth: {type: c}}}]",
            "offlinePackageDir",
        );
    }
}
