//! `keadm install-into FOLDER`: copies this keadm and the edgecore beside it into a folder.
//!
//! It runs in a container of the image `installation-package`, where the folder is the machine's and there is neither a shell nor
//! `cp`. keadm on the machine starts it (`cri.rs`); people do not.

use std::path::PathBuf;

use anyhow::Context as _;

use super::Failure;
use crate::host::{Host, Rights};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    folder: PathBuf,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let own = host.own_program().context("find this program")?;
    for name in ["edgecore", "keadm"] {
        let (from, to) = (own.with_file_name(name), args.folder.join(name));
        host.copy(&from, &to, Rights::Program)
            .with_context(|| format!("copy {} to {}", from.display(), to.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn both_programs_or_none_is_success() {
        let host = FakeHost::new(&["/opt/keadm/keadm", "/opt/keadm/edgecore"]);
        for name in ["keadm", "edgecore"] {
            host.write(&Path::new("/opt/keadm").join(name), name.as_bytes(), 0o755).unwrap();
        }
        run(&host, &Args { folder: "/host".into() }).unwrap();
        assert_eq!(host.read(Path::new("/host/edgecore")).unwrap().unwrap(), b"edgecore");
        assert_eq!(host.read(Path::new("/host/keadm")).unwrap().unwrap(), b"keadm");
        assert!(run(&FakeHost::new(&[]), &Args { folder: "/host".into() }).is_err());
    }
}
