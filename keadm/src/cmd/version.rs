//! `keadm version`.

use clap::ValueEnum;

use super::Failure;
use crate::version::own;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// How it is written; without it a sentence.
    #[arg(short, long, value_enum)]
    output: Option<Output>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Output {
    Yaml,
    Json,
    Short,
}

pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let version = own();
    let platform = format!("{}/{}", std::env::consts::OS, std::env::consts::ARCH);
    match args.output {
        None => println!("keadm {version} for {platform}; it speaks KubeEdge v1.23"),
        Some(Output::Short) => println!("{version}"),
        Some(Output::Json) => {
            println!("{{\"version\":\"{version}\",\"platform\":\"{platform}\",\"kubeEdge\":\"v1.23\"}}")
        }
        Some(Output::Yaml) => println!("version: {version}\nplatform: {platform}\nkubeEdge: v1.23"),
    }
    Ok(())
}
