//! `keadm completion` and `keadm man`: what shells and man show, made from the commands themselves.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::{Command, ValueEnum};

use super::Failure;

#[derive(Debug, clap::Args)]
#[command(after_help = "Example: keadm completion bash > /etc/bash_completion.d/keadm")]
pub(crate) struct Completion {
    #[arg(value_enum)]
    shell: Shell,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Man {
    /// Folder for the pages.
    #[arg(long, value_name = "FOLDER")]
    out: PathBuf,
}

/// Writes the shell's script to standard output.
pub(crate) fn completion(mut command: Command, args: &Completion) -> Result<(), Failure> {
    let shell = match args.shell {
        Shell::Bash => clap_complete::Shell::Bash,
        Shell::Zsh => clap_complete::Shell::Zsh,
        Shell::Fish => clap_complete::Shell::Fish,
    };
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut command, "keadm", &mut text);
    print!("{}", String::from_utf8_lossy(&text));
    Ok(())
}

/// A page for each command.
pub(crate) fn man(command: Command, args: &Man) -> Result<(), Failure> {
    let pages = pages(command)?;
    std::fs::create_dir_all(&args.out).with_context(|| format!("make {}", args.out.display()))?;
    for (name, page) in pages {
        let path = args.out.join(name);
        std::fs::write(&path, page).with_context(|| format!("write {}", Path::new(&path).display()))?;
    }
    Ok(())
}

fn pages(mut command: Command) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    command.build();
    let mut pages = Vec::new();
    let mut left = vec![("keadm".to_owned(), command)];
    while let Some((name, command)) = left.pop() {
        let below =
            command.get_subcommands().filter(|below| !below.is_hide_set() && below.get_name() != "help");
        left.extend(below.map(|below| (format!("{name}-{}", below.get_name()), below.clone())));
        let mut page = Vec::new();
        clap_mangen::Man::new(command).title(&name).section("8").render(&mut page).context("write a page")?;
        pages.push((format!("{name}.8"), page));
    }
    Ok(pages)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{Arg, CommandFactory as _};

    #[test]
    fn every_command_has_a_page() {
        let command = Command::new("keadm")
            .subcommand(Command::new("debug").subcommand(Command::new("get").arg(Arg::new("name"))))
            .subcommand(Command::new("hidden").hide(true));
        let pages = pages(command).unwrap();
        let mut names: Vec<&str> = pages.iter().map(|(name, _)| name.as_str()).collect();
        names.sort_unstable();
        assert_eq!(names, ["keadm-debug-get.8", "keadm-debug.8", "keadm.8"]);
        assert!(
            pages.iter().all(|(_, page)| page.starts_with(b".ie")),
            "{:?}",
            pages.first().map(|(_, page)| String::from_utf8_lossy(page).into_owned())
        );
    }

    #[test]
    fn whatever_writes_json_is_told_so_in_short() {
        for words in ["check all", "check all -d x.example", "diagnose node", "diagnose pod web", "get pod"] {
            let line = ["keadm", "debug"].into_iter().chain(words.split(' ')).chain(["-o", "json"]);
            let parsed = <crate::Args as clap::Parser>::try_parse_from(line);
            assert!(parsed.is_ok(), "{words}: {:?}", parsed.err());
        }
    }

    #[test]
    fn the_flags_of_all_commands_go_together() {
        crate::Args::command().debug_assert();
        for shell in [clap_complete::Shell::Bash, clap_complete::Shell::Zsh, clap_complete::Shell::Fish] {
            let mut text = Vec::new();
            clap_complete::generate(shell, &mut crate::Args::command(), "keadm", &mut text);
            assert!(String::from_utf8(text).unwrap().contains("gettoken"));
        }
    }
}
