//! docs/mapper-guide.md does what it says: its files are written, its commands typed and their output compared, in order.
//!
//! The reader is root on an edge machine of default paths and ports. So that the guide's words can be taken literally, and
//! leave nothing behind, the story runs in namespaces of its own: /etc and /usr/local are overlays that go with it, and the
//! network is only its own.

use std::ffi::OsString;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use std::{env, fs};

use anyhow::{Context, Result, ensure};
use e2e::need;
use e2e::process::{run, target_dir};
use e2e::run_dir::RunDir;
use e2e::site::{Site, Wishes};
use e2e::wait::{Seen, eventually};
use serde_json::json;

use guide::Step;
use terminal::Terminals;

mod guide;
mod terminal;

/// Set inside of the namespaces.
const INSIDE: &str = "ISTHMUS_MAPPER_GUIDE_INSIDE";
/// For what is to be seen soon.
const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn a_reader_of_the_guide_gets_a_device() -> Result<()> {
    if env::var_os(INSIDE).is_none() {
        // Outside, as what they install must stay.
        need::devcluster()?;
        need::for_runtime()?;
        return inside("a_reader_of_the_guide_gets_a_device");
    }
    let away = RunDir::new("mapper-guide-machine")?;
    machine(&away)?;
    let wishes = Wishes {
        edgecore: json!({"modules": {"deviceTwin": {"dmiSockPath": "/etc/kubeedge/dmi.sock"}}}),
        ..Wishes::default()
    };
    let site = Site::start("mapper_guide", &wishes)?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?;
    let markdown = fs::read_to_string(checkout.join("docs/mapper-guide.md"))?;
    let steps = guide::read(&markdown)?;
    let mut terminals = Terminals::open(checkout, environment(&site)?)?;
    let mut printed = String::new();
    let mut steps = steps.into_iter().peekable();
    while let Some((line, step)) = steps.next() {
        let told = match steps.peek() {
            Some((_, Step::Prints(told))) => told.clone(),
            _ => "...".to_owned(),
        };
        printed = follow(&mut terminals, step, &told, printed)
            .with_context(|| format!("docs/mapper-guide.md:{line}"))?;
    }
    Ok(())
}

/// Does one step. `told` is what the guide says that it prints, `printed` what the last one did.
fn follow(terminals: &mut Terminals, step: Step, told: &str, printed: String) -> Result<String> {
    match step {
        Step::File { path, text } => {
            let path = terminals.folder()?.join(path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)?;
            }
            fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            Ok(String::new())
        }
        Step::Type(text) => {
            eprintln!("typing: {}", text.trim_end().replace('\n', "\n        "));
            let printed = terminals.run(&text)?;
            share_target(&terminals.folder()?)?;
            Ok(printed)
        }
        Step::Look(text) => eventually(PATIENCE, &format!("`{}` to print {told}", text.trim_end()), || {
            let printed = terminals.run(&text)?;
            let is_it = guide::is_as_told(&printed, told);
            Ok(if is_it { Seen::Yes(printed) } else { Seen::NotYet(printed) })
        }),
        Step::Try(text) => terminals.run(&text),
        Step::Prints(told) => {
            ensure!(guide::is_as_told(&printed, &told), "the guide says\n{told}\nbut it printed\n{printed}");
            Ok(printed)
        }
        Step::TypeIn { terminal, text } => terminals.start(&terminal, &text).map(|()| printed),
        Step::PrintsIn { terminal, text } => terminals.wait_for(&terminal, &text).map(|()| printed),
        Step::CtrlC { terminal } => terminals.ctrl_c(&terminal).map(|()| printed),
    }
}

/// The same test once more, in a network and a mount namespace of its own.
fn inside(test: &str) -> Result<()> {
    let status = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "--net", "--"])
        .arg(env::current_exe()?)
        .args([test, "--exact", "--nocapture", "--test-threads=1"])
        .env(INSIDE, "1")
        .status()
        .context("run unshare; type: apt-get install -y util-linux")?;
    ensure!(status.success(), "see above");
    Ok(())
}

/// Makes this machine one on which nobody was before. `away` holds what the reader leaves on it.
fn machine(away: &RunDir) -> Result<()> {
    for (name, path) in [("etc", "/etc"), ("local", "/usr/local")] {
        let (upper, work) = (away.folder(&format!("{name}-upper"))?, away.folder(&format!("{name}-work"))?);
        let options = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
        run("mount", &["-t", "overlay", "overlay", "-o", &options, path])?;
    }
    fs::create_dir_all("/etc/kubeedge")?;
    let kubeedge = away.folder("kubeedge")?;
    run("mount", &["--bind", &kubeedge.to_string_lossy(), "/etc/kubeedge"])?;
    // A node wants an address and a way out, even one that leads nowhere.
    for line in [
        "link set lo up",
        "link add isthmus0 type veth peer name isthmus1",
        "addr add 192.0.2.2/24 dev isthmus0",
        "link set isthmus0 up",
        "link set isthmus1 up",
        "route add default via 192.0.2.1",
    ] {
        run("ip", &line.split(' ').collect::<Vec<_>>())?;
    }
    Ok(())
}

/// What the reader's terminals know beyond a login: the cluster, Rust, and how to build what was built already.
fn environment(site: &Site) -> Result<Vec<(&'static str, OsString)>> {
    let home = PathBuf::from(env::var_os("HOME").context("HOME is not set")?);
    let of_home = |key: &'static str, folder: &str| {
        (key, env::var_os(key).unwrap_or_else(|| home.join(folder).into_os_string()))
    };
    let mut known = vec![
        ("KUBECONFIG", site.cluster.kubeconfig().into()),
        of_home("CARGO_HOME", ".cargo"),
        of_home("RUSTUP_HOME", ".rustup"),
        // There is no network; the checkout's own build has brought all crates.
        ("CARGO_NET_OFFLINE", "true".into()),
        // As in the checkout, so that its crates need not be compiled again.
        ("CARGO_PROFILE_DEV_DEBUG", "line-tables-only".into()),
        ("CARGO_INCREMENTAL", "0".into()),
        ("PATH", env::var_os("PATH").unwrap_or_default()),
    ];
    known.extend(env::var_os("RUSTUP_TOOLCHAIN").map(|name| ("RUSTUP_TOOLCHAIN", name)));
    Ok(known)
}

/// Lets cargo find the third-party crates that the checkout has compiled.
fn share_target(folder: &Path) -> Result<()> {
    let target = folder.join("target");
    if folder.join("Cargo.toml").is_file() && !target.exists() && !folder.join("docs").is_dir() {
        symlink(target_dir()?, &target).context("link the target folder")?;
    }
    Ok(())
}
