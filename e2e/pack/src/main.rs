//! `pack`: makes everything that people install out of built programs, into one folder. Called by `make packages`.
//!
//! The date in everything is `SOURCE_DATE_EPOCH`, or the time of the last commit; the clock is never asked.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::Parser;
use pack::release::{Program, Release, sums};
use pack::sbom::{Crates, TREE_ARGUMENTS};
use pack::sha256::sha256;
use pack::terms;

/// The version of the workspace, which is every program's.
const VERSION: &str = env!("CARGO_PKG_VERSION");
const SUMS: &str = "SHA256SUMS";

#[derive(Parser)]
struct Args {
    /// Folder with the built programs.
    #[arg(long)]
    binaries: PathBuf,
    /// Folder for what is made; files of the same names are replaced.
    #[arg(long)]
    out: PathBuf,
    /// What stands before the names of images.
    #[arg(long, default_value = "docker.io/isthmus")]
    repository: String,
    /// The programs.
    #[arg(required = true)]
    programs: Vec<String>,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).ancestors().nth(2).context("no checkout")?;
    let programs = programs(&args)?;
    let Some(target) =
        programs.values().next().map(|program| program.elf().arch.target(program.elf().libc()))
    else {
        return Ok(());
    };
    let lock = fs::read_to_string(source.join("Cargo.lock")).context("read Cargo.lock")?;
    let crates =
        Crates::read(&tree(source, target, &args.programs)?, &lock)?.with_terms(terms::read(source)?);
    let manuals = manuals(&args, &programs)?;
    let release = Release {
        programs,
        version: VERSION,
        date: date(source)?,
        repository: &args.repository,
        crates: &crates,
        manuals: &manuals,
    };
    fs::create_dir_all(&args.out).with_context(|| format!("create {}", args.out.display()))?;
    for (name, content) in release.files()? {
        let path = args.out.join(&name);
        fs::write(&path, &content).with_context(|| format!("write {}", path.display()))?;
        println!("{:>12} {name}", content.len());
    }
    write_sums(&args.out)
}

fn programs(args: &Args) -> Result<BTreeMap<String, Program>> {
    let read = |name: &String| {
        let path = args.binaries.join(name);
        let bytes = fs::read(&path).with_context(|| format!("read {}; type: make dist", path.display()))?;
        let program = Program::new(bytes).with_context(|| format!("read {}", path.display()))?;
        Ok((name.clone(), program))
    };
    args.programs.iter().map(read).collect()
}

/// keadm writes them itself, if this machine can run it.
fn manuals(args: &Args, programs: &BTreeMap<String, Program>) -> Result<BTreeMap<String, Vec<u8>>> {
    match programs.get("keadm") {
        None => Ok(BTreeMap::new()),
        Some(keadm) if keadm.elf().arch.target(keadm.elf().libc()).starts_with(std::env::consts::ARCH) => {
            terms::manuals(&args.binaries.join("keadm"))
        }
        Some(_) => {
            println!(
                "keadm is for another processor: its packages have no man pages (keadm man --out FOLDER writes them there)"
            );
            Ok(BTreeMap::new())
        }
    }
}

fn tree(source: &Path, target: &str, programs: &[String]) -> Result<String> {
    // Cargo says by which one it was called, if it was.
    let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    cargo.args(TREE_ARGUMENTS).args(["--target", target]).current_dir(source);
    for program in programs {
        cargo.args(["--package", program]);
    }
    let output = cargo.output().context("run cargo tree")?;
    ensure!(output.status.success(), "cargo tree: {}", String::from_utf8_lossy(&output.stderr).trim());
    String::from_utf8(output.stdout).context("cargo tree printed no text")
}

fn date(source: &Path) -> Result<u64> {
    let text = match std::env::var("SOURCE_DATE_EPOCH") {
        Ok(text) => text,
        Err(_) => {
            let output = Command::new("git").args(["log", "-1", "--format=%ct"]).current_dir(source).output();
            let output = output.ok().filter(|output| output.status.success());
            let hint = "this is no git checkout, whose last commit has a date; type: export SOURCE_DATE_EPOCH=$(date +%s)";
            String::from_utf8(output.context(hint)?.stdout).context("git printed no text")?
        }
    };
    text.trim().parse().with_context(|| format!("SOURCE_DATE_EPOCH is {text:?}, not a number of seconds"))
}

/// Of all that lies there: builds for several processors share a folder.
fn write_sums(folder: &Path) -> Result<()> {
    let mut digests = BTreeMap::new();
    for entry in fs::read_dir(folder).with_context(|| format!("read {}", folder.display()))? {
        let path = entry.context("read a folder")?.path();
        let Some(name) = path.file_name().and_then(|name| name.to_str()).filter(|name| *name != SUMS) else {
            continue;
        };
        let content = fs::read(&path).with_context(|| format!("read {}", path.display()))?;
        digests.insert(name.to_owned(), sha256(&content));
    }
    fs::write(folder.join(SUMS), sums(digests.iter())).context("write the sums")?;
    println!("{:>12} {SUMS} of {} files", "", digests.len());
    Ok(())
}
