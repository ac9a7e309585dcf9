//! `keadm manifest`: prints what `keadm init` would write, and what both take from the command line.

use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde_json::{Value, json};

use super::Failure;
use crate::objects::{self, Values};

/// What is to be installed, as both commands and `keadm upgrade cloud` take it.
#[derive(Clone, Debug, Default, clap::Args)]
pub(crate) struct Wanted {
    /// Addresses and names that edge nodes reach cloudcore by: 203.0.113.7,cloud.example
    #[arg(long, value_delimiter = ',', value_name = "ADDRESS")]
    pub(crate) advertise_address: Vec<String>,
    /// Values as `helm --set` takes them: cloudCore.replicaCount=2. Several with commas, or the flag again.
    #[arg(long, value_name = "KEY=VALUE")]
    pub(crate) set: Vec<String>,
    /// A values file of the chart cloudcore, ours or KubeEdge's; a later one wins.
    #[arg(long, value_name = "FILE")]
    pub(crate) values: Vec<PathBuf>,
    /// Registry and folder that cloudcore's image comes from: registry.example/isthmus
    #[arg(long, value_name = "PREFIX")]
    pub(crate) image_repository: Option<String>,
    /// `version=V`, or a values file.
    #[arg(long, value_name = "version=V|FILE")]
    pub(crate) profile: Option<String>,
    /// A version of KubeEdge, as its documents tell to type.
    #[arg(long, value_name = "VERSION")]
    pub(crate) kubeedge_version: Option<String>,
    /// Accepted for KubeEdge's sake, without effect.
    #[arg(long, hide = true)]
    pub(crate) external_helm_root: Option<String>,
    /// Accepted for KubeEdge's sake, without effect.
    #[arg(short = 'f', long = "files", alias = "manifests", hide = true)]
    pub(crate) files: Vec<String>,
}

#[derive(Debug, clap::Args)]
#[command(
    after_help = "Example: keadm manifest generate --advertise-address=203.0.113.7 | kubectl apply -f -"
)]
pub(crate) struct Args {
    /// KubeEdge's older word; without effect.
    #[command(subcommand)]
    generate: Option<Generate>,
    #[command(flatten)]
    wanted: Wanted,
    /// Without the resource definitions.
    #[arg(long)]
    skip_crds: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Generate {
    /// The same as without this word.
    Generate {
        #[command(flatten)]
        wanted: Wanted,
        /// Without the resource definitions.
        #[arg(long)]
        skip_crds: bool,
    },
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let (wanted, skip_crds) = match &args.generate {
        Some(Generate::Generate { wanted, skip_crds }) => (wanted, *skip_crds),
        None => (&args.wanted, args.skip_crds),
    };
    let (values, warnings) = wanted.values()?;
    for warning in warnings {
        eprintln!("warning: {warning}");
    }
    let mut all = if skip_crds { Vec::new() } else { objects::crds().map_err(Failure::Refused)? };
    all.extend(objects::objects(&values));
    for object in &all {
        let text = serde_saphyr::to_string(object).context("write an object")?;
        println!("---\n{}", text.trim_end());
    }
    Ok(())
}

impl Wanted {
    /// What the flags say, laid over the defaults, and a sentence for each thing that has no effect.
    pub(crate) fn values(&self) -> Result<(Values, Vec<String>), Failure> {
        let (said, mut warnings) = self.said_over(Value::Null)?;
        let (values, more) = Values::from_layers(&[said], &[]).map_err(Failure::Usage)?;
        warnings.extend(more);
        Ok((values, warnings))
    }

    /// The same as one file of values without the defaults, over `below`, which is such a file; not checked yet.
    pub(crate) fn said_over(&self, below: Value) -> Result<(Value, Vec<String>), Failure> {
        let mut warnings = Vec::new();
        let mut layers = vec![below];
        match self.profile.as_deref().map(|profile| (profile, profile.split_once('='))) {
            None => {}
            Some((_, Some(("version", wanted)))) => warnings.push(kubeedges("--profile version=", wanted)?),
            Some((profile, Some((key @ ("iptablesmgr" | "controllermanager"), _)))) => {
                warnings.push(format!("--profile {profile} has no effect: there is no {key} here"));
            }
            Some((path, _)) => layers.push(file(Path::new(path), "--profile")?),
        }
        if let Some(wanted) = &self.kubeedge_version {
            warnings.push(kubeedges("--kubeedge-version=", wanted)?);
        }
        if self.external_helm_root.is_some() || !self.files.is_empty() {
            warnings.push(
                "--external-helm-root, --manifests and --files have no effect: nothing is read but --values"
                    .into(),
            );
        }
        for path in &self.values {
            layers.push(file(path, "--values")?);
        }
        layers.push(self.flags()?);
        let said = Values::said(&layers, &self.set).map_err(Failure::Usage)?;
        Ok((said, warnings))
    }

    /// As a values file would say it.
    fn flags(&self) -> Result<Value, Failure> {
        let mut said = json!({});
        let put = |said: &mut Value, set: String| crate::set::lay_over(said, &set).map_err(Failure::Usage);
        let (mut addresses, mut names) = (Vec::new(), Vec::new());
        for text in &self.advertise_address {
            match advertised(text.trim())? {
                Advertised::Address(address) => addresses.push(address),
                Advertised::Name(name) => names.push(name),
            }
        }
        for (key, list) in [("advertiseAddress", addresses), ("dnsNames", names)] {
            if !list.is_empty() {
                put(&mut said, format!("cloudCore.modules.cloudHub.{key}={{{}}}", list.join(",")))?;
            }
        }
        if let Some(prefix) = &self.image_repository {
            put(&mut said, format!("cloudCore.image.repository={}/cloudcore", prefix.trim_end_matches('/')))?;
        }
        Ok(said)
    }
}

enum Advertised {
    Address(String),
    Name(String),
}

fn advertised(text: &str) -> Result<Advertised, Failure> {
    let wrong = |why: &str| {
        let example = "an example: --advertise-address=203.0.113.7,cloud.example";
        Failure::Usage(format!("--advertise-address: {text:?} {why}; {example}"))
    };
    if text.is_empty() {
        return Err(wrong("is no address"));
    }
    match text.trim_matches(['[', ']']).parse::<IpAddr>() {
        Ok(address) if address.is_unspecified() || address.is_multicast() => {
            Err(wrong("is no address that a machine can be reached by"))
        }
        Ok(address) => Ok(Advertised::Address(address.to_string())),
        Err(_) => {
            let is_label = |label: &str| {
                !label.is_empty()
                    && label.len() < 64
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '-')
            };
            let is_name = text.len() < 254
                && text.split('.').all(is_label)
                && text.contains(|c: char| c.is_alphabetic());
            if is_name {
                Ok(Advertised::Name(text.to_lowercase()))
            } else {
                Err(wrong("is neither an IP address nor a DNS name"))
            }
        }
    }
}

/// A version in KubeEdge's numbering, which chooses nothing here: one sentence that says what is installed.
pub(crate) fn kubeedges(flag: &str, wanted: &str) -> Result<String, Failure> {
    let numbers: Vec<&str> = wanted.trim_start_matches('v').split('.').collect();
    let is_version = numbers.len() == 3 && numbers.iter().all(|number| number.parse::<u16>().is_ok());
    if is_version {
        return Ok(format!(
            "{flag}{wanted} is a version of KubeEdge: Isthmus {} is installed, which speaks KubeEdge v1.23",
            crate::version::own()
        ));
    }
    Err(Failure::Usage(format!("{flag}{wanted}: no version; an example: {flag}v1.23.0")))
}

fn file(path: &Path, flag: &str) -> Result<Value, Failure> {
    let wrong = |why: String| Failure::Usage(format!("{flag}: {}: {why}", path.display()));
    let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
    serde_saphyr::from_str(&text).map_err(|error| wrong(error.to_string()))
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Debug, Parser)]
    struct Line {
        #[command(flatten)]
        wanted: Wanted,
    }

    fn wanted(line: &str) -> Wanted {
        Line::parse_from(std::iter::once("init").chain(line.split(' ').filter(|word| !word.is_empty())))
            .wanted
    }

    #[test]
    fn flags_become_values() {
        let check =
            |line: &str, expected: Value| assert_eq!(wanted(line).flags().unwrap(), expected, "{line}");
        check("", json!({}));
        check(
            "--advertise-address=203.0.113.7,[fd00::1],Cloud.example",
            json!({"cloudCore": {"modules": {"cloudHub":
                {"advertiseAddress": ["203.0.113.7", "fd00::1"], "dnsNames": ["cloud.example"]}}}}),
        );
        check(
            "--image-repository=registry.example/isthmus/",
            json!({"cloudCore": {"image": {"repository": "registry.example/isthmus/cloudcore"}}}),
        );
    }

    #[test]
    fn kubeedges_versions_are_taken_and_told() {
        let (_, warnings) = wanted("--profile version=v1.15.0 --kubeedge-version=1.23.0").values().unwrap();
        assert_eq!(warnings.len(), 2);
        assert!(warnings.iter().all(|warning| warning.contains("is installed")), "{warnings:?}");
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        let check = |line: &str, expected: &str| {
            let Err(Failure::Usage(why)) = wanted(line).values() else { panic!("{line}") };
            assert!(why.contains(expected), "{line}: {why}");
        };
        check("--advertise-address=<IP>", "neither an IP address nor a DNS name");
        check("--advertise-address=", "--advertise-address: \"\" is no address; an example");
        check("--advertise-address=,", "is no address");
        check("--advertise-address=203.0.113.7,", "is no address");
        check("--advertise-address=0.0.0.0", "no address that a machine");
        check("--advertise-address=10.0.0.1:10000", "neither");
        check("--advertise-address=10.0.0.300", "neither");
        check("--profile version=latest", "an example: --profile version=v1.23.0");
        check("--profile /no/such.yaml", "--profile: /no/such.yaml");
        check("--values /no/such.yaml", "--values: /no/such.yaml");
        check("--set cloudCore", "no key=value");
    }
}
