//! The reader's machine: one on which nobody was before, though it is this one.
//!
//! `systemctl` and `docker` are stand-ins that do what the guide's words mean here, where neither systemd nor a registry is: the
//! unit's program really runs, and the image really goes to the node's runtime, but its base is this machine's libraries. It
//! never leaves the namespaces that `main.rs` made.

use std::env;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Result;
use e2e::images;
use e2e::process::run;
use e2e::run_dir::RunDir;
use e2e::runtime::Runtime;

/// `enable --now` and `disable --now` of a unit that wants nothing but its program.
const SYSTEMCTL: &str = r#"#!/bin/bash -e
unit=/etc/systemd/system/${!#}.service
case "$1 $2" in
"daemon-reload ") ;;
"enable --now")
    grep -q '^WantedBy=multi-user.target$' "$unit"
    setsid $(sed -n 's/^ExecStart=//p' "$unit") > "$AWAY/service.log" 2>&1 < /dev/null &
    echo $! > "$AWAY/service.pid" ;;
"disable --now")
    kill "$(cat "$AWAY/service.pid")"
    timeout 20 tail --pid="$(cat "$AWAY/service.pid")" -f /dev/null ;;
*) echo "the stand-in does not know: $*"; exit 1 ;;
esac
"#;
/// `build -t TAG .` leaves the tag for `Machine::image`; `push` takes only that.
const DOCKER: &str = r#"#!/bin/bash -e
case "$1 $2 $4" in
"build -t .") printf %s "$3" > "$AWAY/image" ;;
"push "*) test "$2" = "$(cat "$AWAY/image")" ;;
*) echo "the stand-in does not know: $*"; exit 1 ;;
esac
"#;
/// A release takes minutes to compile: only the story's full form does.
const CARGO: &str = r#"#!/bin/bash -e
words=()
for word; do
    test "$word" = --release || words+=("$word")
done
PATH=${PATH#*:} exec cargo "${words[@]}"
"#;

/// Whether the story runs in its full form.
pub(crate) fn is_long() -> bool {
    env::var_os("LONG").is_some()
}

pub(crate) struct Machine {
    /// What the reader leaves on the machine.
    away: RunDir,
}

impl Machine {
    pub(crate) fn new() -> Result<Self> {
        let away = RunDir::new("mapper-guide-machine")?;
        for (name, path) in [("etc", "/etc"), ("local", "/usr/local")] {
            let (upper, work) =
                (away.folder(&format!("{name}-upper"))?, away.folder(&format!("{name}-work"))?);
            let options = format!("lowerdir={path},upperdir={},workdir={}", upper.display(), work.display());
            run("mount", &["-t", "overlay", "overlay", "-o", &options, path])?;
        }
        fs::create_dir_all("/etc/kubeedge")?;
        let kubeedge = away.folder("kubeedge")?;
        run("mount", &["--bind", &kubeedge.to_string_lossy(), "/etc/kubeedge"])?;
        // A node wants an address and a way out, even one that leads nowhere.
        for line in [
            "link set lo up",
            "link add isthmus0 type veth peer name isthmus1",
            "addr add 192.0.2.2/24 dev isthmus0",
            "link set isthmus0 up",
            "link set isthmus1 up",
            "route add default via 192.0.2.1",
        ] {
            run("ip", &line.split(' ').collect::<Vec<_>>())?;
        }
        away.folder("bin")?;
        let cargo = (!is_long()).then_some(("cargo", CARGO));
        for (name, script) in [("systemctl", SYSTEMCTL), ("docker", DOCKER)].into_iter().chain(cargo) {
            let script = script.replace("$AWAY", &away.path().to_string_lossy());
            let path = away.write(&format!("bin/{name}"), script)?;
            fs::set_permissions(path, fs::Permissions::from_mode(0o755))?;
        }
        Ok(Self { away })
    }

    /// The stand-ins; to come first on PATH.
    pub(crate) fn programs(&self) -> PathBuf {
        self.away.join("bin")
    }

    /// Makes the image that was asked for in `folder`, if one was, and gives it to the node.
    pub(crate) fn image(&self, folder: &Path, runtime: &Runtime) -> Result<()> {
        let Ok(tag) = fs::read_to_string(self.away.join("image")) else { return Ok(()) };
        fs::remove_file(self.away.join("image"))?;
        let dockerfile = fs::read_to_string(folder.join("Dockerfile"))?;
        let images = self.away.folder("images")?;
        let program = |place: &str| Ok(folder.join(place));
        runtime.import_image(&images::of_dockerfile(&images, &tag, &dockerfile, program)?)
    }
}
