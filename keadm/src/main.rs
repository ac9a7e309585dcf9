//! keadm: makes a cluster the cloud and a machine an edge node, and the way back.
//!
//! It parses, makes a Host, runs one command and prints. What it changes on a machine is a plan that is written down before it
//! is carried out (`plan.rs`); whether the machine can be a node is asked of edgecore itself. It never talks to a node's pods
//! and never opens a shell.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod binary;
mod cluster;
mod cmd;
mod host;
mod journal;
mod objects;
mod plan;
mod render;
mod service;
mod set;

use cmd::{Failure, init, join, manifest, reset, supervise, token, version};

/// What can be typed.
#[derive(Debug, Parser)]
#[command(
    name = "keadm",
    version,
    about = "Makes a cluster the cloud of edge nodes, makes machines edge nodes, and takes both back",
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
    Init(init::Args),
    /// Print what init would write.
    Manifest(manifest::Args),
    /// Make this machine an edge node.
    Join(Box<join::Args>),
    /// Take back what join did.
    Reset(reset::Args),
    /// Print the token that machines join with.
    Gettoken(token::Args),
    /// Print the version.
    Version(version::Args),
    /// Keep a program running where no service manager does; join starts it.
    #[command(hide = true)]
    Supervise(supervise::Args),
}

fn main() -> ExitCode {
    // The only provider in the tree; a second installation would be the same one.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let host = host::Machine::new();
    let done = match Args::parse().command {
        Command::Init(args) => init::run(&args),
        Command::Manifest(args) => manifest::run(&args),
        Command::Join(args) => join::run(&host, &args),
        Command::Reset(args) => reset::run(&host, &args),
        Command::Gettoken(args) => token::run(&args),
        Command::Version(args) => version::run(&args),
        Command::Supervise(args) => supervise::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            ExitCode::from(failure.code())
        }
    }
}

impl Failure {
    fn code(&self) -> u8 {
        match self {
            Self::Undone(_) => 1,
            Self::Usage(_) => 2,
            Self::Refused(_) => 3,
            Self::Halfway(_) | Self::LeftBehind(..) => 4,
        }
    }
}
