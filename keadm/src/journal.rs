//! What a join made on this machine, written down before it is made, so that whoever comes later can take it back: the join
//! itself when a step fails, the next join after a power cut, `keadm reset edge` after years.
//!
//! A file of JSON lines below a folder of its own: it must outlive everything that it lists.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::host::Host;

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

    /// The newest first.
    pub(crate) fn newest_first(&self) -> impl Iterator<Item = &Undo> {
        self.undo.iter().rev()
    }
}

/// Where what stood there is kept.
pub(crate) fn before(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(BEFORE);
    name.into()
}
