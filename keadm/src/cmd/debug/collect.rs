//! `keadm debug collect`: one file with all that helps to find a fault.
//!
//! It is made from a list of what may be in it, never from whole folders: no key, no token, no database. Then edgecore, which
//! alone knows the values of the node's Secrets, takes these out of every text, and keadm what has a secret's shape.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use flate2::Compression;
use flate2::write::GzEncoder;
use k8s_openapi::jiff::Timestamp;
use ke_run::redact::{REDACTED, Redactor};
use serde_json::Value;

use super::edgecore::Edgecore;
use crate::cmd::Failure;
use crate::host::{Host, Ran};
use crate::render::{CERTIFICATES, CONFIG, PROGRAM, TOKEN};
use crate::service::Manager;

/// What only `edgecore redact` can clean: without it these stay out.
const NEEDS_EDGECORE: [&str; 2] = ["edgecore.log", "service.txt"];
/// A line of a key; shorter ones are its frame.
const MIN_KEY_LINE: usize = 16;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// edgecore's configuration.
    #[arg(short, long, default_value = CONFIG, value_name = "FILE")]
    config: PathBuf,
    /// Name each part as it is collected.
    #[arg(short, long)]
    detail: bool,
    /// Folder for the file.
    #[arg(short, long, default_value = ".", value_name = "FOLDER")]
    output_path: PathBuf,
    /// Folder of edgecore's log, where no systemd keeps it.
    #[arg(short, long, default_value = "/var/log/kubeedge/", value_name = "FOLDER")]
    log_path: PathBuf,
    /// How many of the log's last lines.
    #[arg(long, default_value_t = 5000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    lines: u32,
}

pub(super) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let now = Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string();
    let path = collect(host, args, &now, &mut |line| println!("{line}"))?;
    println!(
        "{} is written; it holds no key, no token and no value of a Secret. Look into it before you send it",
        path.display()
    );
    Ok(())
}

fn collect(host: &dyn Host, args: &Args, now: &str, say: &mut dyn FnMut(&str)) -> Result<PathBuf, Failure> {
    let edgecore = Edgecore::find(host, Some(&args.config));
    let mut texts = gather(host, edgecore.as_ref(), args);
    clean(host, edgecore.as_ref(), &mut texts);
    if args.detail {
        texts.iter().for_each(|(name, text)| say(&format!("{name}: {} bytes", text.len())));
    }
    let name = format!("edge_{now}");
    let body = pack(&name, &texts).context("pack what was collected")?;
    let path = args.output_path.join(format!("{name}.tar.gz"));
    host.write(&path, &body, 0o600)
        .with_context(|| format!("write {}; another folder is named with --output-path", path.display()))?;
    Ok(path)
}

/// All of it, by the name that it has in the file.
fn gather(
    host: &dyn Host,
    edgecore: Result<&Edgecore<'_>, &String>,
    args: &Args,
) -> BTreeMap<String, String> {
    let mut texts = BTreeMap::new();
    let mut put = |name: &str, text: String| drop(texts.insert(name.to_owned(), text));
    let ask = |words: &[&str]| match edgecore {
        Ok(edgecore) => edgecore.ask(words).unwrap_or_else(|why| format!("not collected: {why}")),
        Err(why) => format!("not collected: {why}"),
    };
    let mut versions = format!("keadm {}\n{}\n", crate::version::own(), ask(&["--version"]));
    for path in ["/proc/version", "/etc/os-release", "/proc/cmdline", "/proc/uptime"] {
        versions += &format!("\n{path}:\n{}", read(host, path));
    }
    put("versions.txt", versions);
    put("edgecore.yaml", config(host, &args.config));
    put("config-check.txt", ask(&["config", "check"]));
    put(
        "preflight.txt",
        match edgecore.map(Edgecore::preflight) {
            Ok(Ok(findings)) => findings.iter().map(|finding| finding.line() + "\n").collect(),
            Ok(Err(why)) => format!("not collected: {why}"),
            Err(why) => format!("not collected: {why}"),
        },
    );
    put("certificate.txt", ask(&["certificate"]));
    put("objects.txt", ask(&["objects"]));
    put("containers.txt", ask(&["containers"]));
    for name in ["healthz", "readyz", "node", "metrics"] {
        let answer = edgecore.ok().and_then(|edgecore| edgecore.answer(&format!("/{name}")));
        let text = answer.map(|(status, body)| format!("{status}\n{body}\n"));
        put(&format!("admin/{name}.txt"), text.unwrap_or_else(|| "edgecore does not answer\n".to_owned()));
    }
    let manager = Manager::of_edgecore(host);
    put("service.txt", service(host, manager));
    put("edgecore.log", log(host, manager, args));
    put("machine/disk.txt", format!("{}\n{}", ran(host, "df", &["-lPk"]), ran(host, "df", &["-lPi"])));
    put(
        "machine/files.txt",
        ran(host, "ls", &["-lAnR", "/etc/kubeedge", "/var/lib/kubeedge", "/var/lib/keadm", PROGRAM]),
    );
    for (name, path) in [
        ("memory", "/proc/meminfo"),
        ("load", "/proc/loadavg"),
        ("pressure-memory", "/proc/pressure/memory"),
        ("mounts", "/proc/self/mountinfo"),
        ("cgroups", "/proc/cgroups"),
        ("interfaces", "/proc/net/dev"),
        ("addresses", "/proc/net/fib_trie"),
        ("addresses-ipv6", "/proc/net/if_inet6"),
        ("routes", "/proc/net/route"),
        ("routes-ipv6", "/proc/net/ipv6_route"),
        ("resolv.conf", "/etc/resolv.conf"),
        ("hosts", "/etc/hosts"),
    ] {
        put(&format!("machine/{name}.txt"), read(host, path));
    }
    texts
}

fn read(host: &dyn Host, path: &str) -> String {
    match host.read(Path::new(path)) {
        Ok(Some(body)) => String::from_utf8_lossy(&body).into_owned(),
        Ok(None) => format!("there is no {path}\n"),
        Err(error) => format!("not collected: read {path}: {error}\n"),
    }
}

fn ran(host: &dyn Host, program: &str, words: &[&str]) -> String {
    let arguments: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    match host.run(Path::new(program), &arguments) {
        Ok(Ran { stdout, stderr, .. }) => format!("{stdout}\n{stderr}\n"),
        Err(error) => format!("not collected: start {program}: {error}\n"),
    }
}

fn service(host: &dyn Host, manager: Manager) -> String {
    match manager {
        Manager::Systemd => ran(host, "systemctl", &["status", "edgecore", "--no-pager", "--lines=0"]),
        Manager::Openrc => ran(host, "rc-service", &["edgecore", "status"]),
        Manager::None => {
            format!("no service manager; the supervisor is process {}\n", read(host, "/run/edgecore.pid"))
        }
    }
}

fn log(host: &dyn Host, manager: Manager, args: &Args) -> String {
    if manager == Manager::Systemd {
        let lines = format!("--lines={}", args.lines);
        return ran(host, "journalctl", &["--unit=edgecore", "--no-pager", "--output=short-iso", &lines]);
    }
    let path = args.log_path.join("edgecore.log");
    let text = read(host, &path.display().to_string());
    let n_lines = text.lines().count();
    let skip = n_lines.saturating_sub(usize::try_from(args.lines).unwrap_or(usize::MAX));
    text.lines().skip(skip).map(|line| format!("{line}\n")).collect()
}

/// The configuration as a tree: comments, which may hold anything, are gone.
fn config(host: &dyn Host, path: &Path) -> String {
    let text = match host.read(path) {
        Ok(Some(text)) => text,
        Ok(None) => return format!("# there is no {}\n", path.display()),
        Err(error) => return format!("# not collected: read {}: {error}\n", path.display()),
    };
    let tree: Result<Value, _> = serde_saphyr::from_slice(&text);
    match tree {
        Ok(mut tree) => {
            hide(&mut tree);
            serde_saphyr::to_string(&tree).unwrap_or_default()
        }
        // It cannot be told what in it is secret.
        Err(_) => "# not collected: it is no YAML; see config-check.txt\n".to_owned(),
    }
}

fn hide(tree: &mut Value) {
    match tree {
        Value::Object(fields) => {
            for (key, value) in fields {
                if is_telling(key) && (value.is_string() || value.is_number()) {
                    *value = Value::from(if value.as_str() == Some("") { "" } else { REDACTED });
                } else {
                    hide(value);
                }
            }
        }
        Value::Array(values) => values.iter_mut().for_each(hide),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Whether what stands at this key is a secret, and not the name of a file with one.
fn is_telling(key: &str) -> bool {
    let key = key.to_lowercase();
    let is_place = ["file", "path", "dir", "strategy"].iter().any(|end| key.ends_with(end));
    let words = ["token", "password", "passwd", "secret", "privatekey", "apikey", "credential"];
    !is_place && words.iter().any(|word| key.contains(word))
}

/// The last pass.
fn clean(host: &dyn Host, edgecore: Result<&Edgecore<'_>, &String>, texts: &mut BTreeMap<String, String>) {
    let input = serde_json::to_string(texts).unwrap_or_default();
    let cleaned = match edgecore {
        Ok(edgecore) => edgecore.feed(&["redact"], &input),
        Err(why) => Err(why.clone()),
    };
    let cleaned = cleaned.and_then(|text| serde_json::from_str(&text).map_err(|error| error.to_string()));
    match cleaned {
        Ok(cleaned) => *texts = cleaned,
        Err(why) => {
            let why = format!("not collected, since nobody could say what in it is secret: {why}\n");
            NEEDS_EDGECORE.iter().for_each(|name| drop(texts.insert((*name).to_owned(), why.clone())));
        }
    }
    let redactor = Redactor::knowing(of_files(host));
    texts.values_mut().for_each(|text| *text = redactor.redact(text));
}

/// What edgecore would know too, where it cannot be asked.
fn of_files(host: &dyn Host) -> Vec<String> {
    let key = format!("{CERTIFICATES}/server.key");
    let files = [TOKEN, &key].map(|path| host.read(Path::new(path)).ok().flatten().unwrap_or_default());
    let texts = files.iter().map(|body| String::from_utf8_lossy(body).into_owned());
    texts
        .flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>())
        .filter(|line| line.len() >= MIN_KEY_LINE && !line.starts_with("-----"))
        .collect()
}

fn pack(folder: &str, texts: &BTreeMap<String, String>) -> std::io::Result<Vec<u8>> {
    let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::best()));
    for (name, text) in texts {
        let mut header = tar::Header::new_gnu();
        header.set_size(u64::try_from(text.len()).unwrap_or(u64::MAX));
        header.set_mode(0o600);
        archive.append_data(&mut header, format!("{folder}/{name}"), text.as_bytes())?;
    }
    archive.into_inner()?.finish()
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use super::*;
    use crate::host::fake::FakeHost;

    const JWT: &str = "eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjE3MDAwMDAwMDB9.c2lnbmF0dXJl";
    const KEY_LINE: &str = "MHcCAQEEIFakeFakeFakeFakeFakeFakeFake";
    const SECRET: &str = "correct horse battery";

    /// With the planted values everywhere that is looked at.
    fn host() -> FakeHost {
        let host = FakeHost::new(&[PROGRAM, "/var/log/", "/run/"]);
        let key = format!("-----BEGIN PRIVATE KEY-----\n{KEY_LINE}\n-----END PRIVATE KEY-----\n");
        let everything = format!("token {JWT} key {key} again {KEY_LINE}\n");
        let put = |path: &str, text: &str| {
            host.files.borrow_mut().insert(path.into(), Some(text.as_bytes().to_vec()));
        };
        put(TOKEN, &format!("{}.{JWT}", "0".repeat(64)));
        put("/etc/kubeedge/certs/server.key", &key);
        put(
            CONFIG,
            &format!(
                "# {SECRET}\nmodules:\n  edgeHub:\n    token: short-one\n    tlsPrivateKeyFile: /a/b.key\n  x: {{password: p-7}}\n"
            ),
        );
        put("/var/log/kubeedge/edgecore.log", &format!("first\n{everything}{SECRET}\nlast line\n"));
        for path in ["/proc/version", "/proc/self/mountinfo", "/etc/hosts"] {
            put(path, &everything);
        }
        for program in [PROGRAM, "df", "ls"] {
            host.prints.borrow_mut().push((format!("{program} --config {CONFIG} redact"), String::new()));
            host.prints.borrow_mut().push((program.into(), everything.clone()));
        }
        host.node.borrow_mut().push((200, everything));
        host
    }

    fn collected(host: &FakeHost, line: &[&str]) -> String {
        #[derive(Debug, clap::Parser)]
        struct Line {
            #[command(flatten)]
            args: Args,
        }
        let args = <Line as clap::Parser>::parse_from([&["collect", "-o", "/tmp"], line].concat()).args;
        let path = collect(host, &args, "now", &mut |_| {}).unwrap();
        assert_eq!(path, Path::new("/tmp/edge_now.tar.gz"));
        let body = host.read(&path).unwrap().unwrap();
        let mut all = String::new();
        for entry in tar::Archive::new(flate2::read::GzDecoder::new(body.as_slice())).entries().unwrap() {
            let mut entry = entry.unwrap();
            all += &format!("== {}\n", entry.path().unwrap().display());
            entry.read_to_string(&mut all).unwrap();
        }
        all
    }

    fn must_be_clean(text: &str, planted: &[&str]) {
        for planted in planted {
            assert!(!text.contains(planted), "{planted} is in it:\n{text}");
        }
    }

    #[test]
    fn no_secret_is_in_it_and_the_rest_is() {
        let host = host();
        // An edgecore that takes out what only it knows.
        *host.redacts.borrow_mut() = Some(SECRET.to_owned());
        let all = collected(&host, &[]);
        must_be_clean(&all, &[JWT, KEY_LINE, SECRET, "short-one", "p-7"]);
        for expected in [
            "last line",
            "tlsPrivateKeyFile: /a/b.key",
            "== edge_now/objects.txt",
            "== edge_now/admin/metrics.txt",
        ] {
            assert!(all.contains(expected), "no {expected} in\n{all}");
        }
        assert!(!collected(&host, &["--lines=1"]).contains("first"));
    }

    #[test]
    fn a_node_that_its_service_manager_does_not_know_has_a_log() {
        // As `join --service-manager none` leaves it.
        let host = host();
        host.make_folder(Path::new("/run/systemd/system"), 0o755).unwrap();
        *host.redacts.borrow_mut() = Some(SECRET.to_owned());
        let all = collected(&host, &[]);
        assert!(all.contains("last line") && all.contains("no service manager"), "{all}");
        let ran = host.ran.borrow();
        assert!(!ran.iter().any(|line| line.starts_with("journalctl")), "{ran:?}");
    }

    #[test]
    fn without_edgecore_what_it_alone_can_clean_stays_out() {
        let check = |host: &FakeHost| {
            let all = collected(host, &[]);
            must_be_clean(&all, &[JWT, KEY_LINE, SECRET, "short-one", "p-7", "last line"]);
            assert!(all.contains("nobody could say what in it is secret"), "{all}");
        };
        let broken = host();
        broken
            .fails
            .borrow_mut()
            .push((format!("{PROGRAM} --config {CONFIG} redact"), "the store is closed".into()));
        check(&broken);
        let without = host();
        without.files.borrow_mut().remove(Path::new(PROGRAM));
        check(&without);
    }
}
