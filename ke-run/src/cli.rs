//! The command line that cloudcore and edgecore share: KubeEdge's flags, our `config` commands, and room for commands that
//! only one of them has. It starts nothing; called by each `main` first.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{ArgMatches, CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{self, ConfigFile, Loaded};

/// For a program that has no commands but the shared ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NoCommands {}

// By hand: the derive has no words for an enum without variants.
impl FromArgMatches for NoCommands {
    fn from_arg_matches(_: &ArgMatches) -> Result<Self, clap::Error> {
        Err(clap::Error::new(ErrorKind::InvalidSubcommand))
    }

    fn update_from_arg_matches(&mut self, _: &ArgMatches) -> Result<(), clap::Error> {
        Err(clap::Error::new(ErrorKind::InvalidSubcommand))
    }
}

impl Subcommand for NoCommands {
    fn augment_subcommands(command: clap::Command) -> clap::Command {
        command
    }

    fn augment_subcommands_for_update(command: clap::Command) -> clap::Command {
        command
    }

    fn has_subcommand(_: &str) -> bool {
        false
    }
}

/// What the process is to do.
#[derive(Debug)]
pub struct Started<T, C> {
    /// The configuration.
    pub loaded: Loaded<T>,
    /// The program's own command; without one it runs.
    pub command: Option<C>,
}

#[derive(Debug, Parser)]
struct Args<C: Subcommand> {
    /// Configuration file.
    #[arg(long, value_name = "PATH")]
    config: Option<PathBuf>,
    /// Print the keys to look at first, then end.
    #[arg(long)]
    minconfig: bool,
    /// Print every key with its default, then end.
    #[arg(long)]
    defaultconfig: bool,
    #[command(subcommand)]
    command: Option<Command<C>>,
}

#[derive(Debug, Subcommand)]
enum Command<C: Subcommand> {
    /// Look at configuration without starting anything.
    #[command(subcommand)]
    Config(ConfigCommand),
    #[command(flatten)]
    Own(C),
}

#[derive(Debug, Subcommand)]
enum ConfigCommand {
    /// Say whether a file can be used, and what is wrong with it.
    Check {
        /// The file; without it the one that would be used.
        path: Option<PathBuf>,
    },
    /// Print every key with its default.
    Default,
}

/// Reads the process's arguments and the file they name. `Err` means that all is said and the process should end with
/// that code. The warnings are for the log, which does not run yet.
pub fn start<T: ConfigFile, C: Subcommand>(version: &'static str) -> Result<Started<T, C>, ExitCode> {
    let command = Args::<C>::command()
        .name(T::PROGRAM)
        .bin_name(T::PROGRAM)
        .version(version)
        .mut_arg("config", |arg| arg.help(format!("Configuration file [default: {}]", T::PATH)));
    let args = Args::<C>::from_arg_matches(&command.get_matches()).map_err(|wrong| {
        eprintln!("{wrong}");
        ExitCode::FAILURE
    })?;
    match decide::<T, C>(args) {
        Decision::Run(path, command) => match config::load(&path) {
            Ok(loaded) => Ok(Started { loaded, command }),
            Err(wrong) => Err(refuse(&wrong)),
        },
        Decision::Print(text) => {
            print!("{text}");
            Err(ExitCode::SUCCESS)
        }
        Decision::Check(path) => Err(check::<T>(&path)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision<C> {
    Run(PathBuf, Option<C>),
    Print(String),
    Check(PathBuf),
}

fn decide<T: ConfigFile, C: Subcommand>(args: Args<C>) -> Decision<C> {
    let path = args.config.unwrap_or_else(|| PathBuf::from(T::PATH));
    match args.command {
        Some(Command::Config(ConfigCommand::Check { path: named })) => Decision::Check(named.unwrap_or(path)),
        Some(Command::Config(ConfigCommand::Default)) => Decision::Print(config::default_yaml::<T>()),
        None if args.minconfig => Decision::Print(config::minimal_yaml::<T>()),
        None if args.defaultconfig => Decision::Print(config::default_yaml::<T>()),
        Some(Command::Own(command)) => Decision::Run(path, Some(command)),
        None => Decision::Run(path, None),
    }
}

fn check<T: ConfigFile>(path: &Path) -> ExitCode {
    match config::load::<T>(path) {
        Ok(loaded) => {
            for warning in &loaded.warnings {
                println!("warning: {warning}");
            }
            println!("{} can be used", path.display());
            ExitCode::SUCCESS
        }
        Err(wrong) => refuse(&wrong),
    }
}

fn refuse(wrong: &config::ConfigError) -> ExitCode {
    eprintln!("error: {wrong}");
    ExitCode::FAILURE
}
