//! A site's own programs, which run before or after a change: `--pre-run` and `--post-run`.

use std::path::Path;

use anyhow::anyhow;

use crate::failure::Failure;
use crate::host::{Host, not_run};

/// Runs a site's own program, if one is named.
pub(crate) fn run(host: &dyn Host, path: Option<&Path>, flag: &str) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let ran = host.run(path, &[]).map_err(|error| not_run(path, error).context(flag.to_owned()))?;
    if ran.is_good {
        return Ok(());
    }
    let how = ran.code.map_or("a signal ended it".to_owned(), |code| format!("exit code {code}"));
    // Scripts complain on either.
    let said = if ran.stderr.is_empty() { ran.stdout } else { ran.stderr };
    let words = if said.is_empty() { String::new() } else { format!(": {said}") };
    Err(Failure::Undone(anyhow!("{flag}: {} failed: {how}{words}", path.display())))
}

/// Whether that program is there, as [`run`] will look for it.
pub(crate) fn must_find(host: &dyn Host, path: Option<&Path>, flag: &str) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let is_bare = path.parent().is_some_and(|folder| folder.as_os_str().is_empty());
    let is_there = match is_bare {
        true => host.program_folders().iter().any(|folder| host.exists(&folder.join(path))),
        false => host.exists(path),
    };
    if is_there {
        return Ok(());
    }
    let hint = match is_bare && host.exists(path) {
        true => format!("; a program of this folder is written ./{}", path.display()),
        false => String::new(),
    };
    Err(Failure::Usage(format!("{flag}: there is no {}, and nothing was done{hint}", path.display())))
}
