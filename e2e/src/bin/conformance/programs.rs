//! Kubernetes' own suite, ginkgo's command and the program of the suite's test image, built from `e2e/conformance` at the first
//! call on a machine.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Result;
use e2e::need;

/// What the module pins. The suite's names of images belong to it.
const VERSION: &str = "-X k8s.io/component-base/version.gitVersion=v1.36.3 \
                       -X k8s.io/component-base/version.gitMajor=1 -X k8s.io/component-base/version.gitMinor=36";

pub(crate) struct Programs {
    /// `e2e.test`: every spec there is, as a test program.
    pub(crate) suite: PathBuf,
    /// Runs it in several processes and collects what they find.
    pub(crate) ginkgo: PathBuf,
    /// `agnhost`, of which most pods of the suite are made.
    pub(crate) test_image: PathBuf,
}

impl Programs {
    pub(crate) fn built() -> Result<Self> {
        need::go()?;
        let suite = built(
            "e2e.test",
            "Kubernetes' own suite from its Go module (5 to 15 minutes, once)",
            &["test", "-c"],
            "k8s.io/kubernetes/test/e2e",
        )?;
        let ginkgo =
            built("ginkgo", "ginkgo from its Go module", &["build"], "github.com/onsi/ginkgo/v2/ginkgo")?;
        let test_image = built(
            "agnhost",
            "the suite's test image from its Go module",
            &["build"],
            "k8s.io/kubernetes/test/images/agnhost",
        )?;
        Ok(Self { suite, ginkgo, test_image })
    }
}

fn built(name: &str, what: &str, verb: &[&str], package: &str) -> Result<PathBuf> {
    let module = Path::new(env!("CARGO_MANIFEST_DIR")).join("conformance");
    let inputs: Vec<PathBuf> = ["go.mod", "go.sum"].iter().map(|file| module.join(file)).collect();
    need::built(name, &inputs, what, |target| {
        let mut go = Command::new("go");
        go.args(verb).args(["-trimpath", "-ldflags", &format!("-s -w {VERSION}"), "-o"]);
        go.args([target.as_os_str(), OsStr::new(package)]).current_dir(&module).env("CGO_ENABLED", "0");
        go
    })
}
