//! What `keadm debug` asks of edgecore, beside a running one or without: what the store holds, what the runtime runs, whose
//! the certificate is, and texts without the secrets that only this machine's files know.
//!
//! It changes nothing, and prints no value of a Secret, no token and no key. Called by `main.rs`.

mod certificate;
mod containers;
mod objects;
mod secrets;

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context as _;
use ke_run::redact::Redactor;

use crate::config::EdgeCoreConfig;
use crate::edged::CriClient;
use objects::Wanted;

/// The commands. keadm uses all of them.
#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// List what the store holds, without what is secret. edgecore may run or not.
    Objects {
        /// Only of this kind, as `kind: Pod` in lower case.
        kind: Option<String>,
        /// Only the one of this name.
        name: Option<String>,
        /// Only of this namespace.
        #[arg(long)]
        namespace: Option<String>,
        /// Names and counts, or whole objects in which each value of a Secret is replaced by its length.
        #[arg(long, value_enum, default_value_t = Form::Names)]
        output: Form,
        /// Another store's file.
        #[arg(long, value_name = "FILE")]
        data_source: Option<PathBuf>,
    },
    /// List the pods and containers of the container runtime.
    Containers {
        /// For people, or for programs.
        #[arg(long, value_enum, default_value_t = Form::Names)]
        output: Form,
    },
    /// Say whose this machine's certificate is, and from when until when it is good.
    Certificate,
    /// Read a JSON object of texts from standard input, and write it without this machine's secrets.
    #[command(hide = true)]
    Redact,
}

/// How it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Form {
    /// A line for each.
    Names,
    /// One JSON value.
    Json,
}

/// Carries one out; the answer goes to standard output.
pub async fn run(config: &EdgeCoreConfig, command: Command) -> anyhow::Result<()> {
    match command {
        Command::Objects { kind, name, namespace, output, data_source } => {
            let path = data_source.unwrap_or_else(|| config.database.data_source.clone());
            let inventory = objects::look(&path, &Wanted { kind, name, namespace }).await?;
            match output {
                Form::Names => print!("{inventory}"),
                Form::Json => println!("{}", serde_json::to_string(&inventory)?),
            }
        }
        Command::Containers { output } => {
            let runtime =
                CriClient::connect(&config.modules.edged.tailored_kubelet_config.container_runtime_endpoint)?;
            let sandboxes = containers::look(&runtime).await?;
            match output {
                Form::Names => sandboxes.iter().for_each(|sandbox| print!("{sandbox}")),
                Form::Json => println!("{}", serde_json::to_string(&sandboxes)?),
            }
        }
        Command::Certificate => {
            let path = &config.modules.edge_hub.tls_cert_file;
            let pem = std::fs::read(path).with_context(|| format!("read {}", path.display()))?;
            print!("{}", certificate::describe(&pem).with_context(|| format!("read {}", path.display()))?);
        }
        Command::Redact => {
            let mut text = String::new();
            std::io::stdin().lock().read_to_string(&mut text).context("read standard input")?;
            let texts: BTreeMap<String, String> =
                serde_json::from_str(&text).context("standard input is no JSON object of texts")?;
            let redactor = Redactor::knowing(secrets::known(config).await?);
            let clean: BTreeMap<&String, String> =
                texts.iter().map(|(name, text)| (name, redactor.redact(text))).collect();
            println!("{}", serde_json::to_string(&clean)?);
        }
    }
    Ok(())
}
