//! The command line that cloudcore and edgecore share: KubeEdge's flags and our `config` commands.
//! It starts nothing; called by each `main` first.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

use crate::config::{self, ConfigFile, Loaded};

#[derive(Debug, Parser)]
struct Args {
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
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Look at configuration without starting anything.
    #[command(subcommand)]
    Config(ConfigCommand),
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
pub fn start<T: ConfigFile>(version: &'static str) -> Result<Loaded<T>, ExitCode> {
    let command = Args::command()
        .name(T::PROGRAM)
        .bin_name(T::PROGRAM)
        .version(version)
        .mut_arg("config", |arg| arg.help(format!("Configuration file [default: {}]", T::PATH)));
    let args = Args::from_arg_matches(&command.get_matches()).map_err(|wrong| {
        eprintln!("{wrong}");
        ExitCode::FAILURE
    })?;
    match decide::<T>(args) {
        Decision::Run(path) => config::load(&path).map_err(|wrong| refuse(&wrong)),
        Decision::Print(text) => {
            print!("{text}");
            Err(ExitCode::SUCCESS)
        }
        Decision::Check(path) => Err(check::<T>(&path)),
    }
}

#[derive(Debug, PartialEq, Eq)]
enum Decision {
    Run(PathBuf),
    Print(String),
    Check(PathBuf),
}

fn decide<T: ConfigFile>(args: Args) -> Decision {
    let path = args.config.unwrap_or_else(|| PathBuf::from(T::PATH));
    match args.command {
        Some(Command::Config(ConfigCommand::Check { path: named })) => Decision::Check(named.unwrap_or(path)),
        Some(Command::Config(ConfigCommand::Default)) => Decision::Print(config::default_yaml::<T>()),
        None if args.minconfig => Decision::Print(config::minimal_yaml::<T>()),
        None if args.defaultconfig => Decision::Print(config::default_yaml::<T>()),
        None => Decision::Run(path),
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
