//! `keadm config update`: changes keys of edgecore.yaml. edgecore itself checks the file before it is put in place; a
//! configuration with which edgecore is not as well as before is taken back.

use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::{Around, Failure, images};
use crate::backup::Scope;
use crate::change::{self, Change, New};
use crate::host::{Host, not_run};
use crate::node::{self, Node};
use crate::preflight;
use crate::render::{self, PROGRAM};
use crate::script;
use crate::set;

/// Holds what edgecore looks at. In memory, gone afterwards.
const TRIAL: &str = "/run/keadm-config";

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Change keys of edgecore.yaml and start edgecore with them. Comments are lost; the old file is kept as a backup.
    Update(Update),
    /// The images that init and join use.
    Images(images::Args),
}

#[derive(Debug, clap::Args)]
pub(crate) struct Update {
    #[command(flatten)]
    around: Around,
    /// Keys of edgecore.yaml: modules.eventBus.enable=false. Several with commas, or the flag again.
    #[arg(long, value_name = "KEY=VALUE", required = true)]
    set: Vec<String>,
}

impl Args {
    /// The command's words, if it changes this machine.
    pub(crate) fn of_machine(&self) -> Option<&'static str> {
        match self.what {
            What::Update(_) => Some("config update"),
            What::Images(_) => None,
        }
    }
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::Update(args) => update(host, args),
        What::Images(args) => images::run(host, args),
    }
}

pub(crate) fn update(host: &dyn Host, args: &Update) -> Result<(), Failure> {
    change_config(host, args, &mut |line| println!("{line}"))
}

fn change_config(host: &dyn Host, args: &Update, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let around = &args.around;
    around.must_find_programs(host)?;
    let lock = change::begin(host, say)?;
    let node = Node::look(host, &around.config)?;
    let present = node::read(host, &around.config).map_err(Failure::Refused)?;
    let mut config = present.clone();
    for set in &args.set {
        set::lay_over(&mut config, set).map_err(Failure::Usage)?;
    }
    if config == present {
        say("all of that is so already: nothing is changed");
        return Ok(());
    }
    let text = render::yaml(&config, "config update").map_err(Failure::Usage)?;
    check(host, &text)?;
    let admin = node::admin(&config).map_err(|wrong| Failure::Usage(format!("--set {wrong}")))?;
    script::run(host, around.pre_run.as_deref(), "--pre-run")?;
    let change = Change {
        scope: Scope::Config,
        new: New::Config(text),
        admin,
        ..around.change("ConfigUpdate", &node, &node.version)
    };
    change::carry_out(host, &lock, &change, say)?;
    say(&format!("edgecore runs with the new {}", around.config.display()));
    Ok(())
}

fn check(host: &dyn Host, text: &str) -> Result<(), Failure> {
    let (folder, file) = (Path::new(TRIAL), PathBuf::from(TRIAL).join("edgecore.yaml"));
    host.remove_tree(folder).with_context(|| format!("clear {TRIAL}"))?;
    host.make_folder(folder, 0o700).with_context(|| format!("make {TRIAL}"))?;
    host.write(&file, text.as_bytes(), 0o600).context("write a trial configuration")?;
    let arguments = ["config", "check", &file.display().to_string()].map(str::to_owned);
    let ran = host.run(Path::new(PROGRAM), &arguments).map_err(|error| not_run(Path::new(PROGRAM), error))?;
    host.remove_tree(folder).with_context(|| format!("clear {TRIAL}"))?;
    if ran.is_good {
        return Ok(());
    }
    let why = preflight::complaint(&ran.stderr);
    Err(Failure::Refused(format!("edgecore does not take this, and nothing was changed: {why}")))
}
