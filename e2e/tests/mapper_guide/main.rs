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
use e2e::process::target_dir;
use e2e::site::{Site, Wishes};
use e2e::wait::{Seen, eventually};
use serde_json::json;

use guide::Step;
use machine::Machine;
use terminal::Terminals;

mod guide;
mod machine;
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
    let machine = Machine::new()?;
    let wishes = Wishes {
        edgecore: json!({"modules": {"deviceTwin": {"dmiSockPath": "/etc/kubeedge/dmi.sock"}}}),
        ..Wishes::default()
    };
    let site = Site::start("mapper_guide", &wishes)?;
    let checkout = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("no checkout")?;
    let markdown = fs::read_to_string(checkout.join("docs/mapper-guide.md"))?;
    let terminals = Terminals::open(checkout, environment(&site, &machine)?)?;
    let mut reader = Reader { terminals, printed: String::new(), machine, site };
    let mut steps = guide::read(&markdown)?.into_iter().peekable();
    while let Some((line, step)) = steps.next() {
        let told = match steps.peek() {
            Some((_, Step::Prints(told))) => told.clone(),
            _ => "...".to_owned(),
        };
        reader.follow(step, &told).with_context(|| format!("docs/mapper-guide.md:{line}"))?;
    }
    Ok(())
}

struct Reader {
    terminals: Terminals,
    /// By what was typed last.
    printed: String,
    machine: Machine,
    site: Site,
}

impl Reader {
    /// Does one step. `told` is what the guide says that it prints.
    fn follow(&mut self, step: Step, told: &str) -> Result<()> {
        match step {
            Step::File { path, text } => {
                let path = self.terminals.folder()?.join(path);
                if let Some(folder) = path.parent() {
                    fs::create_dir_all(folder)?;
                }
                fs::write(&path, text).with_context(|| format!("write {}", path.display()))?;
            }
            Step::Type(text) => {
                eprintln!("typing: {}", text.trim_end().replace('\n', "\n        "));
                self.printed = self.terminals.run(&text)?;
                let folder = self.terminals.folder()?;
                share_target(&folder)?;
                self.machine.image(&folder, &self.site.runtime)?;
            }
            Step::Look(text) => {
                let what = format!("`{}` to print\n{told}", text.trim_end());
                self.printed = eventually(PATIENCE, &what, || {
                    let printed = self.terminals.run(&text)?;
                    let is_it = guide::is_as_told(&printed, told);
                    Ok(if is_it { Seen::Yes(printed) } else { Seen::NotYet(printed) })
                })?;
            }
            Step::Try(text) => self.printed = self.terminals.run(&text)?,
            Step::Prints(told) => {
                let printed = &self.printed;
                ensure!(guide::is_as_told(printed, &told), "told:\n{told}\nbut it printed:\n{printed}");
            }
            Step::TypeIn { terminal, text } => self.terminals.start(&terminal, &text)?,
            Step::PrintsIn { terminal, text } => self.terminals.wait_for(&terminal, &text)?,
            Step::CtrlC { terminal } => self.terminals.ctrl_c(&terminal)?,
        }
        Ok(())
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

/// What the reader's terminals know beyond a login: the cluster, Rust, and how to build what was built already.
fn environment(site: &Site, machine: &Machine) -> Result<Vec<(&'static str, OsString)>> {
    let home = PathBuf::from(env::var_os("HOME").context("HOME is not set")?);
    let of_home = |key: &'static str, folder: &str| {
        (key, env::var_os(key).unwrap_or_else(|| home.join(folder).into_os_string()))
    };
    let path = env::var_os("PATH").unwrap_or_default();
    let path = env::join_paths([machine.programs()].into_iter().chain(env::split_paths(&path)))?;
    let mut known = vec![
        ("KUBECONFIG", site.cluster.kubeconfig().into()),
        of_home("CARGO_HOME", ".cargo"),
        of_home("RUSTUP_HOME", ".rustup"),
        // There is no network; the checkout's own build has brought all crates.
        ("CARGO_NET_OFFLINE", "true".into()),
        // As in the checkout, so that its crates need not be compiled again.
        ("CARGO_PROFILE_DEV_DEBUG", "line-tables-only".into()),
        ("CARGO_INCREMENTAL", "0".into()),
        ("PATH", path),
    ];
    known.extend(env::var_os("RUSTUP_TOOLCHAIN").map(|name| ("RUSTUP_TOOLCHAIN", name)));
    Ok(known)
}

/// Lets cargo find what the checkout has compiled already.
fn share_target(folder: &Path) -> Result<()> {
    let target = folder.join("target");
    if folder.ends_with("thermostat") && !target.exists() {
        fs::create_dir(&target)?;
        let of_release = if machine::is_long() { "release" } else { "debug" };
        for (name, of_checkout) in [("debug", "debug"), ("release", of_release)] {
            let of_checkout = target_dir()?.join(of_checkout);
            fs::create_dir_all(&of_checkout)?;
            symlink(of_checkout, target.join(name)).context("link the target folder")?;
        }
    }
    Ok(())
}
