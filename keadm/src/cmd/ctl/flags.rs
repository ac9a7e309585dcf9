//! What can be typed behind `keadm ctl`: KubeEdge's words, and its flags with their defaults.

use std::path::PathBuf;

use clap::{Subcommand, ValueEnum};

use crate::render::CONFIG;

#[derive(Debug, clap::Args)]
#[command(after_help = "It asks the edgecore of this machine, as root, and works with the cloud away.\n\n\
                  Examples:\n  \
                  keadm ctl get pod -A -o wide\n  \
                  keadm ctl describe pod web-0 -n shop\n  \
                  keadm ctl logs web-0 -n shop --tail 20 -f\n  \
                  keadm ctl exec web-0 -n shop -c app -- cat /etc/hostname\n  \
                  keadm ctl restart pod web-0 -n shop\n  \
                  keadm ctl get device -n plant -o yaml")]
pub(crate) struct Args {
    /// edgecore's configuration: it says where edgecore is asked.
    #[arg(long, global = true, default_value = CONFIG, value_name = "FILE")]
    pub(super) config: PathBuf,
    #[command(subcommand)]
    pub(super) what: What,
}

#[derive(Debug, Subcommand)]
pub(super) enum What {
    /// Show pods or devices of this node.
    #[command(subcommand)]
    Get(Kind),
    /// Show all that is known here of a pod or device.
    Describe(Describe),
    /// Print a container's log.
    Logs(Logs),
    /// Run a command in a container and print what it says; keadm ends with its exit code.
    Exec(Exec),
    /// End a pod's containers, so that edgecore starts them again.
    #[command(subcommand)]
    Restart(Restart),
    /// Change a device's desired values here (not offered yet).
    #[command(subcommand)]
    Edit(Edit),
    /// Let an upgrade go on that waits for it (not offered yet).
    Confirm,
    /// Release pods that wait because of the annotation edge.kubeedge.io/hold-upgrade.
    #[command(subcommand)]
    UnholdUpgrade(Unhold),
}

#[derive(Debug, Subcommand)]
pub(super) enum Kind {
    /// Pods, with what this node knows of them now.
    #[command(aliases = ["pods", "po"])]
    Pod(List),
    /// Devices, with their twins as they are now.
    #[command(alias = "devices")]
    Device(List),
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    pub(super) meant: Meant,
    /// How it is written; without it a table.
    #[arg(short, long, value_enum)]
    pub(super) output: Option<Output>,
}

/// Which objects are meant.
#[derive(Clone, Debug, Default, clap::Args)]
pub(super) struct Meant {
    /// Its name; without it all of them.
    pub(super) name: Option<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
    /// Labels that they have: app=web,tier!=db or 'app in (a,b)'.
    #[arg(short = 'l', long, conflicts_with = "name")]
    pub(super) selector: Option<String>,
    /// Of all namespaces.
    #[arg(short = 'A', long, conflicts_with = "name")]
    pub(super) all_namespaces: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(super) enum Output {
    Yaml,
    Json,
    Wide,
}

#[derive(Debug, clap::Args)]
pub(super) struct Describe {
    #[command(subcommand)]
    pub(super) kind: DescribeKind,
}

#[derive(Debug, Subcommand)]
pub(super) enum DescribeKind {
    /// Of pods.
    #[command(aliases = ["pods", "po"])]
    Pod(DescribeMeant),
    /// Of devices.
    #[command(alias = "devices")]
    Device(DescribeMeant),
}

#[derive(Debug, clap::Args)]
pub(super) struct DescribeMeant {
    #[command(flatten)]
    pub(super) meant: Meant,
    /// Show a pod's events too: those that the cloud does not have yet.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", default_value_t = false)]
    pub(super) show_events: bool,
    /// Accepted for KubeEdge's sake.
    #[arg(long, hide = true)]
    chunk_size: Option<u64>,
}

impl DescribeKind {
    pub(super) fn meant(&self) -> &DescribeMeant {
        let (Self::Pod(meant) | Self::Device(meant)) = self;
        meant
    }

    pub(super) fn kind(&self) -> Kind {
        match self {
            Self::Pod(_) => Kind::Pod(List::default()),
            Self::Device(_) => Kind::Device(List::default()),
        }
    }
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct Logs {
    /// The pod.
    pub(super) pod: String,
    /// Namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
    /// The container, if the pod has several.
    #[arg(short, long, value_name = "NAME")]
    pub(super) container: Option<String>,
    /// Go on until the container ends.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Of the container's start before this one.
    #[arg(short, long)]
    pub(super) previous: bool,
    /// Nothing older than so many seconds; 0: all.
    #[arg(long, alias = "since-seconds", default_value_t = 0, value_name = "SECS")]
    pub(super) since_second: i64,
    /// Nothing older than this: 2026-01-31T12:00:00Z.
    #[arg(long, value_name = "TIME")]
    pub(super) since_time: Option<String>,
    /// Begin each line with its time.
    #[arg(long)]
    pub(super) timestamps: bool,
    /// Only the last lines; -1: all.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "N")]
    pub(super) tail: i64,
    /// Only so many bytes; -1: all.
    #[arg(long, default_value_t = -1, allow_negative_numbers = true, value_name = "N")]
    pub(super) limit_bytes: i64,
    /// Accepted for KubeEdge's sake: there is no TLS between keadm and edgecore.
    #[arg(long, num_args = 0..=1, default_missing_value = "true", hide = true)]
    insecure_skip_tls_verify_backend: Option<bool>,
}

#[derive(Debug, Default, clap::Args)]
pub(super) struct Exec {
    /// The pod.
    pub(super) pod: String,
    /// Namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
    /// The container, if the pod has several.
    #[arg(short, long, value_name = "NAME")]
    pub(super) container: Option<String>,
    /// Give the command this program's input (not offered yet).
    #[arg(short = 'i', long)]
    pub(super) stdin: bool,
    /// Give the command a terminal (not offered yet).
    #[arg(short = 't', long)]
    pub(super) tty: bool,
    /// How long the command may take. Seconds, 1 to 3600.
    #[arg(long, default_value_t = 60, value_name = "SECS", value_parser = clap::value_parser!(u64).range(1..=3600))]
    pub(super) timeout_secs: u64,
    /// The command and its words. There is no shell: sh -c '...' starts one.
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

#[derive(Debug, Subcommand)]
pub(super) enum Restart {
    /// Pods, by name.
    #[command(aliases = ["pods", "po"])]
    Pod(RestartPod),
}

#[derive(Debug, clap::Args)]
pub(super) struct RestartPod {
    /// Their names.
    #[arg(required = true, value_name = "NAME")]
    pub(super) names: Vec<String>,
    /// Namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Edit {
    /// A device.
    Device(EditDevice),
}

#[derive(Debug, clap::Args)]
pub(super) struct EditDevice {
    /// Its name.
    pub(super) name: String,
    /// Namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
}

#[derive(Debug, Subcommand)]
pub(super) enum Unhold {
    /// One pod.
    Pod(UnholdPod),
    /// Every pod of the node.
    Node(UnholdNode),
}

#[derive(Debug, clap::Args)]
pub(super) struct UnholdPod {
    /// Its name.
    pub(super) name: String,
    /// Namespace.
    #[arg(short, long, default_value = "default", value_name = "NAME")]
    pub(super) namespace: String,
}

#[derive(Debug, clap::Args)]
pub(super) struct UnholdNode {
    /// Its name, for KubeEdge's sake: only this machine's is taken.
    pub(super) name: Option<String>,
}
