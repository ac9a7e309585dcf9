//! keadm: makes a cluster the cloud and a machine an edge node, brings both from one version to another, and takes both back.
//!
//! It parses, makes a Host, runs one command and prints. What it changes on a machine is a plan that is written down before it
//! is carried out (`plan.rs`); whether the machine can be a node is asked of edgecore itself. It never talks to a node's pods
//! (that is edgecore, which `ctl` asks) and never opens a shell on this machine.

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser, Subcommand};

// First: its macros are for all that follow.
#[macro_use]
mod out;

mod age;
mod apply;
mod arch;
mod backup;
mod binary;
mod bundle;
mod change;
mod cluster;
mod cmd;
mod cri;
mod failure;
mod health;
mod host;
mod image;
mod journal;
mod node;
mod objects;
mod owned;
mod plan;
mod pod_network;
mod preflight;
mod reach;
mod render;
mod rollout;
mod root;
mod script;
mod service;
mod set;
mod step;
mod supplies;
mod table;
mod token_secrets;
mod undo;
mod version;
mod wait;
mod words;

use failure::Failure;
use host::Host;

/// What can be typed.
#[derive(Debug, Parser)]
#[command(
    name = "keadm",
    version,
    about = "Makes a cluster the cloud of edge nodes, makes machines edge nodes, upgrades these, and takes both back",
    after_help = "Exit codes: 0 done; 1 failed, and what was begun is undone; 2 a flag is wrong; 3 refused before anything \
                  was touched; 4 failed, and something is left behind (the message says what)."
)]
struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make this cluster the cloud of edge nodes.
    Init(cmd::init::Args),
    /// Print what init would write.
    Manifest(cmd::manifest::Args),
    /// Print the token that machines join with.
    Gettoken(cmd::token::Args),
    /// Make join tokens that end when you say, list them, take one back.
    Token(cmd::tokens::Args),
    /// Make this machine an edge node.
    Join(Box<cmd::join::Args>),
    /// Take back what join or init did.
    Reset(cmd::reset::Args),
    /// Put a new version in place; one that is not well is taken back by itself.
    Upgrade(cmd::upgrade::Args),
    /// Keep the edge node as it is, for a rollback.
    Backup(cmd::backup::Args),
    /// Go back to the version before.
    Rollback(cmd::rollback::Args),
    /// Change the edge node's configuration; the images of both sides.
    Config(cmd::config::Args),
    /// As `config update`.
    #[command(hide = true)]
    ConfigUpdate(cmd::config::Update),
    /// Make or check a bundle: all that a machine without a network joins with.
    Bundle(cmd::bundle::Args),
    /// Look at this node's pods and devices, and handle its containers; the cloud is not needed.
    Ctl(Box<cmd::ctl::Args>),
    /// Find out what is wrong with this node.
    Debug(cmd::debug::Args),
    /// Run keadm on many machines over SSH.
    Batch(cmd::batch::Args),
    /// Write a shell's completion script.
    Completion(cmd::documents::Completion),
    /// Write man pages.
    #[command(hide = true)]
    Man(cmd::documents::Man),
    /// Print the version.
    Version(cmd::version::Args),
    /// Old names of commands.
    #[command(hide = true)]
    Deprecated(cmd::deprecated::Args),
    /// A group of KubeEdge's that is empty.
    #[command(hide = true)]
    Beta,
    /// Undo a change that was cut short; runs before edgecore starts.
    #[command(hide = true)]
    Recover(cmd::recover::Args),
    /// Keep a program running where no service manager does; join starts it.
    #[command(hide = true)]
    Supervise(cmd::supervise::Args),
    /// Copy keadm and edgecore into a folder; runs in the image that join takes them from.
    #[command(hide = true)]
    InstallInto(cmd::install_into::Args),
}

impl Command {
    /// Its words without flags, if it changes this machine. With `--dry-run`, too: what is looked at is root's to see.
    fn of_root(&self) -> Option<&'static str> {
        match self {
            Self::Join(_) => Some("join"),
            Self::Reset(args) => args.of_machine(),
            Self::Upgrade(args) => args.of_machine(),
            Self::Backup(_) => Some("backup edge"),
            Self::Rollback(args) => args.of_machine(),
            Self::Config(args) => args.of_machine(),
            Self::ConfigUpdate(_) => Some("config-update"),
            Self::Deprecated(args) => args.of_machine(),
            Self::Recover(_) => Some("recover"),
            // `ctl` and `debug` look, each at what its user may see; the rest is not about this machine's node.
            Self::Init(_)
            | Self::Manifest(_)
            | Self::Gettoken(_)
            | Self::Token(_)
            | Self::Bundle(_)
            | Self::Ctl(_)
            | Self::Debug(_)
            | Self::Batch(_)
            | Self::Completion(_)
            | Self::Man(_)
            | Self::Version(_)
            | Self::Beta
            | Self::Supervise(_)
            | Self::InstallInto(_) => None,
        }
    }
}

fn main() -> ExitCode {
    // The only provider in the tree; a second installation would be the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    if let Some(password) = cmd::batch::password_for_ssh() {
        println!("{password}");
        return ExitCode::SUCCESS;
    }
    match run(&host::Machine::new(), Args::parse().command).and_then(|()| out::end()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

fn run(host: &dyn Host, command: Command) -> Result<(), Failure> {
    if let Some(words) = command.of_root() {
        root::must_be(host, words)?;
    }
    match command {
        Command::Init(args) => cmd::init::run(host, &args),
        Command::Manifest(args) => cmd::manifest::run(&args),
        Command::Gettoken(args) => cmd::token::run(&args),
        Command::Token(args) => cmd::tokens::run(&args),
        Command::Join(args) => cmd::join::run(host, &args),
        Command::Reset(args) => cmd::reset::run(host, &args),
        Command::Upgrade(args) => cmd::upgrade::run(host, &args),
        Command::Backup(args) => cmd::backup::run(host, &args),
        Command::Rollback(args) => cmd::rollback::run(host, &args),
        Command::Config(args) => cmd::config::run(host, &args),
        Command::ConfigUpdate(args) => cmd::config::update(host, &args),
        Command::Bundle(args) => cmd::bundle::run(host, &args),
        Command::Ctl(args) => cmd::ctl::run(host, &args),
        Command::Debug(args) => cmd::debug::run(host, &args),
        Command::Batch(args) => cmd::batch::run(host, &args),
        Command::Completion(args) => cmd::documents::completion(Args::command(), &args),
        Command::Man(args) => cmd::documents::man(Args::command(), &args),
        Command::Version(args) => cmd::version::run(&args),
        Command::Deprecated(args) => cmd::deprecated::run(host, &args),
        Command::Beta => cmd::deprecated::beta(),
        Command::Recover(args) => cmd::recover::run(host, &args),
        Command::Supervise(args) => cmd::supervise::run(host, &args),
        Command::InstallInto(args) => cmd::install_into::run(host, &args),
    }
}
