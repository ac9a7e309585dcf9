//! `keadm config images list|pull`: the images that init and join take programs from.
//!
//! Which image a pod's sandbox is made of is the container runtime's own configuration, and is not in the list.

use anyhow::anyhow;
use clap::ValueEnum;

use super::{Failure, manifest};
use crate::host::Host;
use crate::image::{named, of_programs};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, clap::Subcommand)]
enum What {
    /// Print them, one a line.
    List(Which),
    /// Have this machine's container runtime pull them.
    Pull(Pull),
}

#[derive(Debug, clap::Args)]
struct Which {
    /// Only those of one side.
    #[arg(long, value_enum)]
    part: Option<Part>,
    /// Registry and folder that they come from: registry.example/isthmus
    #[arg(long, value_name = "PREFIX")]
    image_repository: Option<String>,
    /// A version of KubeEdge, as its documents tell to type; the images are of this keadm's version.
    #[arg(long, value_name = "VERSION")]
    kubeedge_version: Option<String>,
}

#[derive(Debug, clap::Args)]
struct Pull {
    #[command(flatten)]
    which: Which,
    /// Socket of the container runtime.
    #[arg(short = 'p', long, default_value = "unix:///run/containerd/containerd.sock", value_name = "URL")]
    remote_runtime_endpoint: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    Cloud,
    Edge,
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    match &args.what {
        What::List(which) => images(which)?.iter().for_each(|image| println!("{image}")),
        What::Pull(pull) => {
            for image in images(&pull.which)? {
                let is_new = host
                    .pull(&pull.remote_runtime_endpoint, &image)
                    .map_err(|why| Failure::Undone(anyhow!(not_pulled(&image, &pull.which, &why))))?;
                println!("{} {image}", if is_new { "pulled" } else { "here already:" });
            }
        }
    }
    Ok(())
}

/// What to do first, and then as much of the runtime's words as says something: the end of them.
fn not_pulled(image: &str, which: &Which, why: &str) -> String {
    let Some(said) = why.strip_prefix(&format!("pull {image}: ")) else {
        return format!("{why}; --remote-runtime-endpoint URL names another container runtime");
    };
    let mut parts: Vec<&str> = said.trim().rsplitn(3, ": ").take(2).collect();
    parts.reverse();
    let advice = match &which.image_repository {
        Some(prefix) => format!("it must be in {prefix}, and this machine must reach that"),
        None => "no registry was named: --image-repository PREFIX names the one that has it".to_owned(),
    };
    format!(
        "the container runtime cannot pull {image}; {advice}; without a network: ctr -n k8s.io images import FILE\n  it says: {}",
        parts.join(": ")
    )
}

fn images(which: &Which) -> Result<Vec<String>, Failure> {
    if let Some(wanted) = &which.kubeedge_version {
        // Not among the names.
        eprintln!("{}", manifest::kubeedges("--kubeedge-version=", wanted)?);
    }
    let repository = which.image_repository.as_deref();
    let mut images = Vec::new();
    if which.part != Some(Part::Edge) {
        images.push(named(repository, "cloudcore"));
    }
    if which.part != Some(Part::Cloud) {
        images.push(of_programs(repository));
    }
    Ok(images)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_to_do_comes_before_the_runtimes_words() {
        let check = |repository: Option<&str>, why: &str, expected: &[&str]| {
            let which =
                Which { part: None, image_repository: repository.map(str::to_owned), kubeedge_version: None };
            let said = not_pulled("r.example/a:v1", &which, why);
            assert_eq!(said.lines().collect::<Vec<_>>(), expected);
        };
        let offline = "pull r.example/a:v1: failed to pull and unpack image \"r.example/a:v1\": failed to resolve reference: \
                       failed to do request: Head \"https://r.example/v2\": dial tcp: lookup r.example on [::1]:53: no such host";
        let first = "the container runtime cannot pull r.example/a:v1; no registry was named: --image-repository PREFIX names the \
                     one that has it; without a network: ctr -n k8s.io images import FILE";
        check(None, offline, &[first, "  it says: lookup r.example on [::1]:53: no such host"]);
        let first = "the container runtime cannot pull r.example/a:v1; it must be in r.example, and this machine must reach that; \
                     without a network: ctr -n k8s.io images import FILE";
        check(Some("r.example"), "pull r.example/a:v1: not found", &[first, "  it says: not found"]);
        let nobody = "there is no container runtime at /x";
        check(
            None,
            nobody,
            &[
                "there is no container runtime at /x; --remote-runtime-endpoint URL names another container runtime",
            ],
        );
    }

    #[test]
    fn each_part_has_its_images() {
        let check = |part: Option<Part>, repository: Option<&str>, expected: &[&str]| {
            let image_repository = repository.map(str::to_owned);
            let found = images(&Which { part, image_repository, kubeedge_version: None }).unwrap();
            let expected: Vec<String> =
                expected.iter().map(|name| format!("{name}:{}", crate::version::own())).collect();
            assert_eq!(found, expected);
        };
        check(None, None, &["isthmus/cloudcore", "isthmus/installation-package"]);
        check(Some(Part::Cloud), Some("r.example/x/"), &["r.example/x/cloudcore"]);
        check(Some(Part::Edge), Some("r.example/x"), &["r.example/x/installation-package"]);
    }
}
