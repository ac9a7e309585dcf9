//! `keadm reset`; of an edge node: takes back what join did, or removes a node of KubeEdge's making. The cloud's
//! side is in `reset_cloud.rs`.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, anyhow};

use super::{Failure, is_meant, reset_cloud};
use crate::host::Host;
use crate::journal::{Journal, Undo, before};
use crate::node;
use crate::render::{CONFIG, KEADM, PROGRAM};
use crate::service::Manager;
use crate::undo::take_back;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(subcommand)]
    side: Option<Side>,
}

#[derive(Debug, clap::Subcommand)]
enum Side {
    /// Remove the edge node from this machine: its pods, certificates, configuration and data.
    Edge(Edge),
    /// Remove what `keadm init` made in the cluster.
    Cloud(reset_cloud::Args),
}

#[derive(Debug, Default, clap::Args)]
struct Edge {
    /// Do not ask.
    #[arg(long)]
    force: bool,
    /// After `keadm join --takeover`: put KubeEdge's edgecore back and start it. Pods run on.
    #[arg(long)]
    back_to_kubeedge: bool,
    /// Accepted for KubeEdge's sake: the configuration names it.
    #[arg(short = 'p', long, hide = true)]
    remote_runtime_endpoint: Option<String>,
}

impl Args {
    /// The command's words, if it changes this machine.
    pub(crate) fn of_machine(&self) -> Option<&'static str> {
        match self.side {
            None => Some("reset"),
            Some(Side::Edge(_)) => Some("reset edge"),
            Some(Side::Cloud(_)) => None,
        }
    }
}

pub(crate) fn run(host: &dyn Host, args: &Args) -> Result<(), Failure> {
    let edge = match &args.side {
        Some(Side::Cloud(args)) => return reset_cloud::run(host, args),
        Some(Side::Edge(edge)) => edge,
        None => &Edge::default(),
    };
    if let Some(runtime) = &edge.remote_runtime_endpoint {
        println!(
            "--remote-runtime-endpoint {runtime} is passed over: edgecore's configuration names the runtime"
        );
    }
    let read = || Journal::read(host).context("read the journal in /var/lib/keadm");
    let journal = read()?;
    let strange = strange(host);
    let what = match &journal {
        Some(journal) => format!("the edge node {} of {}", journal.joined.node, journal.joined.cloud),
        None if strange.is_empty() => {
            println!("this machine is no edge node: there is nothing to remove");
            return Ok(());
        }
        None => "an edge node that this keadm did not make".to_owned(),
    };
    if edge.back_to_kubeedge && journal.as_ref().is_none_or(|journal| !journal.joined.took_over) {
        return Err(Failure::Refused(
            "--back-to-kubeedge: this node was not taken over from KubeEdge by `keadm join --takeover`"
                .into(),
        ));
    }
    if !edge.force && !is_meant(&what)? {
        return Err(Failure::Refused("nothing was removed".into()));
    }
    // Not while somebody thinks about the answer: what a killed upgrade has left is being put back meanwhile.
    let _lock = crate::change::hold(host)?;
    if read()? != journal {
        return Err(Failure::Refused("this machine was changed meanwhile; type the same again".into()));
    }
    let left = match &journal {
        // What was before is a node, too, and would come back.
        Some(journal) if journal.joined.took_over && !edge.back_to_kubeedge => {
            take_back(host, strange.iter())
        }
        Some(journal) => journal.undo(host),
        None => take_back(host, strange.iter()),
    };
    if !left.is_empty() {
        return Err(Failure::LeftBehind(anyhow!("not everything could be removed"), left));
    }
    // Of a join that was killed before it wrote anything down.
    for path in [super::join::TRIAL, crate::supplies::FOLDER] {
        host.remove_tree(Path::new(path)).map_err(|error| {
            Failure::Halfway(anyhow!(
                "{what} is removed from this machine, but {path} cannot be: {error}; when the cause is gone: rm -r {path}"
            ))
        })?;
    }
    println!("{what} is removed from this machine");
    if let Some(journal) = journal {
        println!(
            "its Node stays in the cluster until somebody types: kubectl delete node {}",
            journal.joined.node
        );
    }
    Ok(())
}

/// What is here of a node that nobody wrote down, in the order in which it goes.
fn strange(host: &dyn Host) -> Vec<Undo> {
    let run = |why: &str, program: &str, arguments: &[&str]| Undo::Run {
        why: why.to_owned(),
        program: program.into(),
        arguments: arguments.iter().map(|word| (*word).to_owned()).collect(),
        needs: Some(CONFIG.into()),
    };
    let mut undo = Vec::new();
    let manager = Manager::of_edgecore(host);
    // The folders alone may be a cloud's: KubeEdge's cloudcore has its CA there.
    let is_node =
        manager != Manager::None || [CONFIG, PROGRAM].iter().any(|path| host.exists(Path::new(path)));
    if !is_node && !host.exists(Path::new(crate::journal::FOLDER)) {
        return undo;
    }
    if manager != Manager::None || host.exists(Path::new(PROGRAM)) {
        undo.extend(manager.forget());
    }
    // Only ours has the command; KubeEdge's pods stay in the runtime, and its own keadm removes them.
    // A program that is gone may have been ours where keadm wrote something down.
    let is_lost = !host.exists(Path::new(PROGRAM)) && host.exists(Path::new(crate::journal::FOLDER));
    if host.exists(Path::new(CONFIG)) && (is_lost || node::is_ours(host, Path::new(PROGRAM))) {
        undo.push(run("remove its pods", PROGRAM, &["--config", CONFIG, "remove-pods"]));
    }
    // It may lie anywhere, and holds Secrets.
    let config = node::read(host, Path::new(CONFIG)).unwrap_or_default();
    let store = ["", "-wal", "-shm", "-journal"]
        .map(|ending| PathBuf::from(format!("{}{ending}", node::database(&config))));
    let copy = before(&store[0]);
    undo.extend(store.into_iter().chain([copy]).filter(|path| host.exists(path)).map(Undo::RemoveFile));
    for folder in
        ["/etc/kubeedge", "/var/lib/kubeedge", "/var/lib/edged", "/var/log/kubeedge", crate::journal::FOLDER]
    {
        if host.exists(Path::new(folder)) {
            undo.push(Undo::RemoveFolder(folder.into()));
        }
    }
    let programs = [PathBuf::from(PROGRAM), before(Path::new(PROGRAM))];
    undo.extend(programs.into_iter().filter(|path| host.exists(path)).map(Undo::RemoveFile));
    // A keadm is no part of the node: the one that was here before has its place again.
    if host.exists(&before(Path::new(KEADM))) {
        undo.push(Undo::PutBack(KEADM.into()));
    }
    undo
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::fake::FakeHost;

    #[test]
    fn a_node_of_another_making_is_removed() {
        let host = FakeHost::new(&[
            "/etc/systemd/system/edgecore.service",
            "/run/systemd/system/",
            "/etc/kubeedge/",
            CONFIG,
            "/var/lib/kubelet/",
            PROGRAM,
            "/usr/bin/keep",
        ]);
        // As a takeover leaves it.
        host.write(Path::new(KEADM), b"ours", 0o755).unwrap();
        host.write(&before(Path::new(KEADM)), b"KubeEdge's", 0o755).unwrap();
        let args = Args {
            side: Some(Side::Edge(Edge {
                force: true,
                back_to_kubeedge: false,
                remote_runtime_endpoint: None,
            })),
        };
        run(&host, &args).unwrap();
        assert_eq!(
            host.paths(),
            ["/run/systemd/system", "/usr/bin/keep", "/usr/local/bin/keadm", "/var/lib/kubelet"]
        );
        assert_eq!(host.read(Path::new(KEADM)).unwrap().unwrap(), b"KubeEdge's");
        let ran = host.ran.borrow();
        assert_eq!(ran.iter().filter(|line| line.contains("remove-pods")).count(), 1, "{ran:?}");
        assert!(ran.iter().any(|line| line == "systemctl disable --now edgecore"), "{ran:?}");
        drop(ran);
        assert!(strange(&host).is_empty());
        run(&host, &args).unwrap();
    }

    #[test]
    fn the_store_of_a_node_that_nobody_wrote_down_goes_wherever_it_is() {
        let store = "/data/node.db";
        let files = ["", "-wal", "-shm", "-journal"].map(|ending| format!("{store}{ending}"));
        let host = FakeHost::new(&["/etc/kubeedge/", CONFIG, PROGRAM, "/data/of-another"]);
        let config = format!("database: {{dataSource: {store}}}");
        host.write(Path::new(CONFIG), config.as_bytes(), 0o644).unwrap();
        for path in &files {
            host.write(Path::new(path), b"secrets", 0o600).unwrap();
        }
        // Of a takeover.
        host.write(&before(Path::new(store)), b"secrets", 0o600).unwrap();
        let edge = Edge { force: true, back_to_kubeedge: false, remote_runtime_endpoint: None };
        run(&host, &Args { side: Some(Side::Edge(edge)) }).unwrap();
        assert_eq!(host.paths(), ["/data/of-another"]);
    }

    #[test]
    fn what_is_left_of_a_removed_node_is_no_undone_reset() {
        let host = FakeHost::new(&["/etc/kubeedge/", CONFIG]);
        host.stuck.borrow_mut().push(crate::cmd::join::TRIAL.into());
        let edge = Edge { force: true, back_to_kubeedge: false, remote_runtime_endpoint: None };
        let failure = run(&host, &Args { side: Some(Side::Edge(edge)) }).unwrap_err();
        assert_eq!((failure.code(), host.paths()), (4, Vec::new()), "{failure}");
        assert!(failure.to_string().ends_with("rm -r /run/keadm-join"), "{failure}");
    }

    #[test]
    fn kubeedges_edgecore_is_asked_nothing() {
        // It takes any words for flags of its own, and starts.
        let host = FakeHost::new(&["/etc/kubeedge/", CONFIG, PROGRAM]);
        host.write(Path::new(PROGRAM), node::OF_GO, 0o755).unwrap();
        let args = Args {
            side: Some(Side::Edge(Edge {
                force: true,
                back_to_kubeedge: false,
                remote_runtime_endpoint: None,
            })),
        };
        run(&host, &args).unwrap();
        assert!(!host.ran.borrow().iter().any(|line| line.starts_with(PROGRAM)), "{:?}", host.ran.borrow());
        assert!(!host.exists(Path::new(PROGRAM)));
    }

    #[test]
    fn pods_of_an_edgecore_that_is_gone_are_not_forgotten() {
        use clap::Parser as _;
        for took_over in [false, true] {
            let host = FakeHost::new(&["/etc/kubeedge/", "/etc/kubeedge/config/", CONFIG, "/usr/local/bin/"]);
            let joined = crate::journal::Joined { node: "edge-1".into(), cloud: "c:1".into(), took_over };
            let mut journal = Journal::begin(&host, joined).unwrap();
            journal.will(&host, Undo::RemoveFile(CONFIG.into())).unwrap();
            let arguments = ["--config", CONFIG, "remove-pods"].map(str::to_owned).into();
            let needs = Some(CONFIG.into());
            let pods = Undo::Run { why: "remove its pods".into(), program: PROGRAM.into(), arguments, needs };
            journal.will(&host, pods).unwrap();
            journal.done(&host).unwrap();
            let reset = || {
                let args = crate::Args::try_parse_from(["keadm", "reset", "edge", "--force"]).unwrap();
                crate::run(&host, args.command)
            };
            let failure = reset().unwrap_err();
            assert_eq!(failure.code(), 4);
            let said = failure.to_string();
            assert!(said.contains("the pods may run on") && said.contains("crictl rmp -f ID"), "{said}");
            assert!(host.exists(Path::new(CONFIG)) && Journal::read(&host).unwrap().is_some());
            // Another edgecore knows them as well.
            let before = host.files.borrow().clone();
            host.write(Path::new("/opt/keadm/edgecore"), b"ours", 0o755).unwrap();
            reset().unwrap();
            let line = format!("/opt/keadm/edgecore --config {CONFIG} remove-pods");
            assert!(host.ran.borrow().contains(&line), "{:?}", host.ran.borrow());
            assert!(!host.exists(Path::new(CONFIG)));
            // So does who has removed them by hand.
            *host.files.borrow_mut() = before;
            host.remove_file(Path::new(CONFIG)).unwrap();
            reset().unwrap();
        }
    }
}
