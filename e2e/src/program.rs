//! Our own binaries, as they were built and without what debuggers want.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

use crate::need;
use crate::process::{profile_dir, run};

/// One of our binaries: the one that the environment names, or that of the profile this program was built with.
pub fn binary(name: &str, variable: &str) -> Result<PathBuf> {
    let path = match std::env::var_os(variable) {
        Some(path) => PathBuf::from(path),
        None => profile_dir()?.join(name),
    };
    if !path.is_file() {
        bail!("{} is not there; type: cargo build -p {name}", path.display());
    }
    path.canonicalize().with_context(|| format!("find {}", path.display()))
}

/// One of our binaries without what debuggers want, which is nine tenths of it: for stories that copy it about. Made once for
/// each build, and they lie beside each other. One that the environment names is taken as it is.
pub fn stripped(name: &str) -> Result<PathBuf> {
    let variable = format!("ISTHMUS_{}", name.to_uppercase().replace('-', "_"));
    let built = binary(name, &variable)?;
    if std::env::var_os(variable).is_some() {
        return Ok(built);
    }
    let folder = profile_dir()?.join("stripped");
    fs::create_dir_all(&folder)?;
    let path = folder.join(name);
    let changed = |path: &Path| fs::metadata(path).and_then(|metadata| metadata.modified());
    let is_fresh = changed(&path).is_ok_and(|at| changed(&built).is_ok_and(|built| built < at));
    if !is_fresh {
        need::tool("strip", "apt-get install -y binutils")?;
        // Other stories do the same at the same time, and run what was there before.
        let new = folder.join(format!("{name}.{}", std::process::id()));
        run("strip", &["-o", &new.to_string_lossy(), &built.to_string_lossy()])?;
        fs::rename(&new, &path)?;
    }
    Ok(path)
}
