//! What a join made on this machine, written down before it is made, so that whoever comes later can take it back: the join
//! itself when a step fails, the next join after a power cut, `keadm reset edge` after years.
//!
//! A file of JSON lines below a folder of its own: it must outlive everything that it lists.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::binary;
use crate::host::{Host, Rights, beside};
use crate::render::{CONFIG, KEADM, PROGRAM};
use crate::service;

/// Where it is, and whatever else outlives a node's folders.
pub(crate) const FOLDER: &str = "/var/lib/keadm";
const FILE: &str = "/var/lib/keadm/join.journal";
/// What is to end has this long.
pub(crate) const END_WITHIN: Duration = Duration::from_secs(60);
/// Added to the name of what stood in a program's place before.
const BEFORE: &str = ".keadm-before";

/// How one thing is taken back. Doing it twice does no harm.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Undo {
    /// With all that came into it: it was not there before.
    RemoveFolder(PathBuf),
    /// Others may have put something there since.
    RemoveEmptyFolder(PathBuf),
    RemoveFile(PathBuf),
    /// What stood there before goes back to its place, with its rights.
    PutBack(PathBuf),
    /// Ends every process that runs this program.
    End(PathBuf),
    /// Starts something that outlives keadm.
    Start {
        program: PathBuf,
        arguments: Vec<String>,
    },
    Run {
        /// Of a sentence that begins with "cannot".
        why: String,
        program: PathBuf,
        arguments: Vec<String>,
        /// Without this file it was done before.
        #[serde(default)]
        needs: Option<PathBuf>,
    },
}

/// One line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
enum Line {
    /// The first.
    Begun(Joined),
    Undo(Undo),
    /// The last: the node was Ready.
    Done,
}

/// Which node this machine was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Joined {
    pub(crate) node: String,
    /// host:port of the cloud.
    pub(crate) cloud: String,
    /// Whether KubeEdge's edgecore was there before, and what it left stands beside what is ours.
    #[serde(default)]
    pub(crate) took_over: bool,
}

/// A join that was begun here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Journal {
    pub(crate) joined: Joined,
    pub(crate) is_done: bool,
    undo: Vec<Undo>,
}

impl Journal {
    /// `None`: nothing was begun here.
    pub(crate) fn read(host: &dyn Host) -> io::Result<Option<Self>> {
        let Some(text) = host.read(Path::new(FILE))? else { return Ok(None) };
        let mut journal = Self {
            joined: Joined { node: String::new(), cloud: String::new(), took_over: false },
            is_done: false,
            undo: Vec::new(),
        };
        // A line that was cut short is the last one, and what it lists was not made.
        for line in String::from_utf8_lossy(&text).lines().filter_map(|line| serde_json::from_str(line).ok())
        {
            match line {
                Line::Begun(joined) => journal.joined = joined,
                Line::Undo(undo) => journal.undo.push(undo),
                Line::Done => journal.is_done = true,
            }
        }
        Ok(Some(journal))
    }

    /// Begins a new one.
    pub(crate) fn begin(host: &dyn Host, joined: Joined) -> io::Result<Self> {
        host.make_folder(Path::new(FOLDER), 0o700)?;
        let journal = Self { joined: joined.clone(), is_done: false, undo: Vec::new() };
        journal.append(host, &Line::Begun(joined))?;
        Ok(journal)
    }

    /// To be called before the thing is made.
    pub(crate) fn will(&mut self, host: &dyn Host, undo: Undo) -> io::Result<()> {
        self.append(host, &Line::Undo(undo.clone()))?;
        self.undo.push(undo);
        Ok(())
    }

    pub(crate) fn done(&mut self, host: &dyn Host) -> io::Result<()> {
        self.is_done = true;
        self.append(host, &Line::Done)
    }

    fn append(&self, host: &dyn Host, line: &Line) -> io::Result<()> {
        host.append(Path::new(FILE), &format!("{}\n", serde_json::to_string(line)?))
    }

    /// Takes everything back, the newest first, and says what it could not. Then the journal itself goes; if something is
    /// left, it stays for the next try.
    pub(crate) fn undo(&self, host: &dyn Host) -> Vec<String> {
        let mut left = take_back(host, self.undo.iter().rev());
        if left.is_empty()
            && let Err(error) = host.remove_tree(Path::new(FOLDER))
        {
            left.push(format!("{FOLDER}: {error}"));
        }
        left
    }
}

/// In this order; what cannot be taken back is said. While something still runs, what it runs with stays for the next try.
pub(crate) fn take_back<'a>(host: &dyn Host, undo: impl Iterator<Item = &'a Undo>) -> Vec<String> {
    let mut left = Vec::new();
    for undo in undo {
        if let Err(why) = take_one_back(host, undo) {
            left.push(why);
            if matches!(undo, Undo::Run { .. } | Undo::End(_)) {
                left.push("everything that was made before it".to_owned());
                break;
            }
        }
    }
    left
}

fn take_one_back(host: &dyn Host, undo: &Undo) -> Result<(), String> {
    match undo {
        Undo::RemoveFolder(path) => {
            host.remove_tree(path).map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::RemoveEmptyFolder(path) => {
            host.remove_empty(path).map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::RemoveFile(path) => {
            let gone = host.remove_file(&beside(path)).and_then(|()| host.remove_file(path));
            gone.map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::PutBack(path) => {
            let back = host.remove_file(&beside(path)).and_then(|()| put_back(host, path));
            back.map_err(|error| format!("{}: {error}", path.display()))
        }
        Undo::End(program) => host.end(program, END_WITHIN).map_err(|error| error.to_string()),
        Undo::Start { program, arguments } => host
            .start_aside(program, arguments)
            .map_err(|error| format!("cannot start {}: {error}", program.display())),
        Undo::Run { needs: Some(needs), .. } if !host.exists(needs) => Ok(()),
        // It never took what it was told, and must not be the wall that keeps all the rest here.
        Undo::Run { program, arguments, .. } if service::is_unheard(host, program, arguments) => {
            host.end(Path::new(PROGRAM), END_WITHIN).map_err(|error| error.to_string())
        }
        Undo::Run { why, program, arguments, .. } => run(host, why, program, arguments),
    }
}

fn run(host: &dyn Host, why: &str, program: &Path, arguments: &[String]) -> Result<(), String> {
    let other = stand_in(host, why, program)?;
    let program = other.as_deref().unwrap_or(program);
    match host.run(program, arguments) {
        Ok(ran) if ran.is_good => Ok(()),
        // Nothing runs because of it.
        Ok(ran) if service::is_reading_of_units(program, arguments) => {
            eprintln!("warning: cannot {why}: {}", ran.stderr);
            Ok(())
        }
        Ok(ran) => Err(format!("cannot {why}: {}", ran.stderr)),
        // What is gone has nothing to take back any more; edgecore without its loader has.
        Err(error) if error.kind() == io::ErrorKind::NotFound && !program.ends_with("edgecore") => Ok(()),
        Err(error) => Err(format!("cannot {why}: start {}: {error}", program.display())),
    }
}

/// For a program of ours that is not in its place: who deletes it has neither removed its pods nor ended what it keeps running.
fn stand_in(host: &dyn Host, why: &str, program: &Path) -> Result<Option<PathBuf>, String> {
    if host.exists(program) {
        return Ok(None);
    }
    match program.to_str() {
        Some(PROGRAM) => binary::find(host).map(Some).map_err(|_| {
            format!(
                "cannot {why}: there is no {PROGRAM}, and the pods may run on: put edgecore beside keadm or install its package; \
                 without one, remove them with the container runtime's own tool (crictl pods, crictl rmp -f ID), then type: \
                 rm {CONFIG}"
            )
        }),
        Some(KEADM) => Ok(host.own_program().ok()),
        _ => Ok(None),
    }
}

/// Copies what stands at `path`, so that [`Undo::PutBack`] finds it.
pub(crate) fn set_aside(host: &dyn Host, path: &Path) -> io::Result<()> {
    host.copy(path, &before(path), Rights::Same)
}

fn put_back(host: &dyn Host, path: &Path) -> io::Result<()> {
    let before = before(path);
    if !host.exists(&before) {
        return Ok(());
    }
    host.copy(&before, path, Rights::Same)?;
    host.remove_file(&before)
}

/// Where what stood there is kept.
pub(crate) fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BEFORE);
    name.into()
}
