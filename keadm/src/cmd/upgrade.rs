//! `keadm upgrade edge`: another version of edgecore in place of the installed one.
//!
//! In this order: lock, a look at the new program (it takes the present configuration and can read the present store), backup,
//! the change (`change.rs`), and edgecore is as well as before. A failure takes everything back.

use std::path::{Path, PathBuf};

use super::{Around, Failure, upgrade_cloud};
use crate::backup::must_have_room;
use crate::change::{self, Change, New};
use crate::host::{Host, not_run};
use crate::node::{self, Node};
use crate::render::{KEADM, PROGRAM};
use crate::script;
use crate::words::last_words;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    side: Side,
}

#[derive(Debug, clap::Subcommand)]
enum Side {
    /// Install another version of edgecore on this machine. Pods run on.
    Edge(Box<Edge>),
    /// Bring cloudcore in the cluster to this keadm's version, or other values. Edge nodes and their pods run on.
    Cloud(Box<upgrade_cloud::Args>),
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: unpack the new version's kubeedge-vX-linux-ARCH.tar.gz and type ./keadm upgrade edge in its folder edge.\n\
                        How it went is told in /var/lib/keadm/upgrade-report.json, too."
)]
struct Edge {
    #[command(flatten)]
    around: Around,
    /// The new edgecore [default: the one beside this keadm]
    #[arg(long, value_name = "FILE")]
    edgecore: Option<PathBuf>,
    /// The version that is meant; another one is refused.
    #[arg(long = "toVersion", alias = "to-version", value_name = "VERSION")]
    to_version: Option<String>,
    /// KubeEdge's image of programs; not taken from images here.
    #[arg(long, value_name = "IMAGE")]
    image: Option<String>,
    /// Digest of that image.
    #[arg(long, value_name = "DIGEST")]
    image_digest: Option<String>,
    /// Also install what is installed already.
    #[arg(long)]
    force: bool,
    #[arg(long = "upgradeID", alias = "upgrade-id", hide = true)]
    upgrade_id: Option<String>,
    #[arg(long = "historyID", alias = "history-id", hide = true)]
    history_id: Option<String>,
    #[arg(long = "fromVersion", alias = "from-version", hide = true)]
    from_version: Option<String>,
    #[arg(long = "type", hide = true, default_value = "upgrade")]
    sort: String,
    #[arg(long, hide = true, num_args = 0..=1, default_missing_value = "true")]
    disable_backup: Option<bool>,
}

impl Args {
    /// The command's words, if it changes this machine.
    pub(crate) fn of_machine(&self) -> Option<&'static str> {
        match self.side {
            Side::Edge(_) => Some("upgrade edge"),
            Side::Cloud(_) => None,
        }
    }
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    match &args.side {
        Side::Edge(edge) => upgrade(host, edge, &mut |line| println!("{line}")),
        Side::Cloud(cloud) => upgrade_cloud::run(host, cloud),
    }
}

fn upgrade(host: &dyn Host, args: &Edge, say: &mut dyn FnMut(&str)) -> Result<(), Failure> {
    let around = &args.around;
    if args.sort != "upgrade" {
        return Err(Failure::Usage(format!(
            "--type: {:?} is none of this command's; type `keadm rollback edge` to go back",
            args.sort
        )));
    }
    if (args.image.is_some() || args.image_digest.is_some()) && args.edgecore.is_none() {
        return Err(Failure::Usage(
            "--image: programs are not taken from images; name the new program with --edgecore FILE".into(),
        ));
    }
    if args.disable_backup == Some(true) {
        say("--disable-backup is passed over: without a backup nothing could be undone");
    }
    around.must_find_programs(host)?;
    let lock = change::begin(host, say)?;
    let node = Node::look(host, &around.config)?;
    let program = find(host, args.edgecore.as_deref()).map_err(Failure::Refused)?;
    node::must_be_ours(host, &program)?;
    let version = node::version_of(host, &program).map_err(Failure::Refused)?;
    is_meant(args.to_version.as_deref(), &version, &program, say)?;
    if version == node.version && !args.force {
        say(&format!("{version} is installed already: nothing is changed; --force installs it again"));
        return Ok(());
    }
    try_out(host, &node, &program)?;
    script::run(host, around.pre_run.as_deref(), "--pre-run")?;
    say(&format!("upgrading from {} to {version}", node.version));
    let programs = programs(host, &program);
    let n_bytes = programs.iter().filter_map(|(from, _)| host.size(from).ok().flatten()).sum();
    must_have_room(host, Path::new(PROGRAM).parent().unwrap_or(Path::new("/")), n_bytes)
        .map_err(|error| Failure::Refused(format!("nothing was changed: {error:#}")))?;
    let mut change = Change { new: New::Programs(programs), ..around.change("Upgrade", &node, &version) };
    change.report.upgrade_id.clone_from(&args.upgrade_id);
    change.report.history_id.clone_from(&args.history_id);
    change::carry_out(host, &lock, &change, say)?;
    say(&format!("this node runs {version}; `keadm rollback edge` goes back to {}", node.version));
    Ok(())
}

/// Named, or beside this program, or, where that is the installed one, what a package has put into PATH.
fn find(host: &dyn Host, named: Option<&Path>) -> Result<PathBuf, String> {
    if let Some(named) = named {
        let there = host.exists(named).then(|| named.to_owned());
        return there.ok_or_else(|| format!("--edgecore: there is no {}", named.display()));
    }
    let beside = host.own_program().ok().and_then(|own| Some(own.parent()?.join("edgecore")));
    let in_path = host.program_folders().into_iter().map(|folder| folder.join("edgecore"));
    let mut places = beside.into_iter().chain(in_path).filter(|place| place != Path::new(PROGRAM));
    places.find(|place| host.exists(place)).ok_or_else(|| {
        "there is no other edgecore beside this keadm or in PATH: name the new program with --edgecore FILE".to_owned()
    })
}

/// What is put where: the keadm that lies beside the new edgecore comes with it, since the two belong together.
fn programs(host: &dyn Host, edgecore: &Path) -> Vec<(PathBuf, PathBuf)> {
    let mut programs = vec![(edgecore.to_owned(), PathBuf::from(PROGRAM))];
    let keadm = edgecore.with_file_name("keadm");
    if keadm != Path::new(KEADM) && host.exists(&keadm) && host.exists(Path::new(KEADM)) {
        programs.push((keadm, KEADM.into()));
    }
    programs
}

fn is_meant(
    wanted: Option<&str>,
    version: &str,
    program: &Path,
    say: &mut dyn FnMut(&str),
) -> Result<(), Failure> {
    let Some(wanted) = wanted else { return Ok(()) };
    let plain = wanted.trim_start_matches('v');
    if plain == version.trim_start_matches('v') {
        Ok(())
    } else if plain == "1.23" || plain.starts_with("1.23.") {
        say(&format!("KubeEdge {wanted} was asked for; this is {version}, which speaks KubeEdge v1.23"));
        Ok(())
    } else {
        Err(Failure::Refused(format!(
            "--toVersion: {wanted} is wanted, and {} is {version}; nothing was changed",
            program.display()
        )))
    }
}

/// Whether the new program takes what is here. It changes nothing, and edgecore runs on.
fn try_out(host: &dyn Host, node: &Node, program: &Path) -> Result<(), Failure> {
    let config = node.config.display().to_string();
    let checks: [(&str, &[&str]); 2] = [("configuration", &["config", "check"]), ("store", &["check-store"])];
    for (what, words) in checks {
        let arguments: Vec<String> =
            ["--config", &config].iter().chain(words).map(|word| (*word).to_owned()).collect();
        let ran = host.run(program, &arguments).map_err(|error| not_run(program, error))?;
        if !ran.is_good {
            return Err(Failure::Refused(format!(
                "the new version cannot use this node's {what}, and nothing was changed: {}",
                last_words(&ran.stderr)
            )));
        }
    }
    Ok(())
}
