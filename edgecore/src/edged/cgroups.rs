//! Cgroups of classes and pods: names for both drivers, and the directories and limits of the cgroupfs driver.
//!
//! Containers' own cgroups are the runtime's. With the systemd driver nothing is written here: systemd makes the slices
//! when the runtime asks for a container in them, so a pod then has the limits of its containers only (and all pods together
//! theirs: `pods_room.rs`). A directory that
//! cannot be written is an error with a sentence, never a panic; edged decides whether the pod waits.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::{Pid, Signal, kill_process};

use super::pods_room::PodsRoom;
use super::resources::{MIN_SHARES, PodResources, Qos, shares, weight};

/// `cgroupDriver`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    #[default]
    Cgroupfs,
    Systemd,
}

/// Why a cgroup is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup file system, or none that may be written: pods cannot be limited.
    #[error("{0}")]
    NotUsable(String),
    /// Processes are left in it. Worth trying again once they are gone.
    #[error("cgroup {0} still has processes")]
    Busy(String),
    /// The kernel refused a value.
    #[error("{0}")]
    Write(String),
}

/// A cgroup by its parts below the root: `["kubepods", "burstable", "pod<uid>"]`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CgroupName(Vec<String>);

impl CgroupName {
    /// `cgroupRoot` as configured: `/`, `/edge`, or empty.
    #[must_use]
    pub fn root(path: &str) -> Self {
        Self(path.split('/').filter(|part| !matches!(*part, "" | "." | "..")).map(str::to_owned).collect())
    }

    /// One level down.
    #[must_use]
    pub fn child(&self, part: &str) -> Self {
        Self(self.0.iter().cloned().chain([part.to_owned()]).collect())
    }

    /// The level of a class: Guaranteed pods stand directly below `kubepods`.
    #[must_use]
    pub fn class(&self, qos: Qos) -> Self {
        let kubepods = self.child("kubepods");
        match qos {
            Qos::Guaranteed => kubepods,
            Qos::Burstable => kubepods.child("burstable"),
            Qos::BestEffort => kubepods.child("besteffort"),
        }
    }

    /// The level of a pod.
    #[must_use]
    pub fn pod(&self, qos: Qos, uid: &str) -> Self {
        self.class(qos).child(&format!("pod{uid}"))
    }

    /// `/kubepods/burstable/pod<uid>`.
    #[must_use]
    pub fn cgroupfs(&self) -> String {
        format!("/{}", self.0.join("/"))
    }

    /// `kubepods-burstable-pod<uid>.slice`: a dash separates levels, so dashes within a part become underscores.
    #[must_use]
    pub fn slice(&self) -> String {
        if self.0.is_empty() {
            return "-.slice".to_owned();
        }
        let parts: Vec<String> = self.0.iter().map(|part| part.replace('-', "_")).collect();
        format!("{}.slice", parts.join("-"))
    }

    /// Where systemd puts the slice: `/kubepods.slice/kubepods-burstable.slice/...`.
    #[must_use]
    pub fn slice_path(&self) -> String {
        let depths = 1..=self.0.len();
        depths
            .map(|depth| format!("/{}", Self(self.0.iter().take(depth).cloned().collect()).slice()))
            .collect()
    }

    /// As a sandbox's `cgroup_parent`.
    #[must_use]
    pub fn parent_for_runtime(&self, driver: Driver) -> String {
        match driver {
            Driver::Cgroupfs => self.cgroupfs(),
            Driver::Systemd => self.slice(),
        }
    }
}

/// How this node arranges pods.
#[derive(Clone, Debug)]
pub struct Layout {
    pub driver: Driver,
    /// `cgroupRoot` as configured.
    pub root: String,
    /// `cgroupsPerQOS`: without it pods have no cgroup of their own and everything hangs below `cgroupRoot`.
    pub per_qos: bool,
}

impl Layout {
    /// The sandbox's `cgroup_parent` of a pod.
    #[must_use]
    pub fn parent(&self, qos: Qos, uid: &str) -> String {
        if self.per_qos {
            CgroupName::root(&self.root).pod(qos, uid).parent_for_runtime(self.driver)
        } else {
            self.root.clone()
        }
    }
}

/// The machine's cgroup file systems.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Mounts {
    /// One directory for each controller or group of controllers; links are left out.
    V1(Vec<PathBuf>),
    V2(PathBuf),
}

/// Makes and removes the cgroups of pods. Blocking, but only on the kernel.
#[derive(Clone, Debug)]
pub struct PodCgroups {
    layout: Layout,
    mounts: Mounts,
    room: Option<PodsRoom>,
}

/// Controllers that a pod's limits need.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

impl PodCgroups {
    /// Looks at what is mounted below `mount` (`/sys/fs/cgroup`).
    pub fn new(layout: Layout, mount: &Path) -> Result<Self, CgroupError> {
        let mounts = detect(mount)?;
        Ok(Self { layout, mounts, room: None })
    }

    /// All pods together get no more than this.
    #[must_use]
    pub fn with_room(self, room: PodsRoom) -> Self {
        Self { room: Some(room), ..self }
    }

    pub(super) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(super) fn room(&self) -> Option<PodsRoom> {
        self.room
    }

    /// True on a machine with the unified hierarchy.
    #[must_use]
    pub fn is_v2(&self) -> bool {
        matches!(self.mounts, Mounts::V2(_))
    }

    /// The sandbox's `cgroup_parent` of a pod.
    #[must_use]
    pub fn parent(&self, qos: Qos, uid: &str) -> String {
        self.layout.parent(qos, uid)
    }

    /// Makes the class levels and sets their weights: best effort the least, burstable what its pods ask for together
    /// (`burstable_millis`).
    pub fn ensure_classes(&self, burstable_millis: i64) -> Result<(), CgroupError> {
        if !self.is_ours() {
            return Ok(());
        }
        let root = CgroupName::root(&self.layout.root);
        self.make(&root.class(Qos::Guaranteed))?;
        for (class, shares) in [(Qos::BestEffort, MIN_SHARES), (Qos::Burstable, shares(burstable_millis))] {
            let name = root.class(class);
            self.make(&name)?;
            self.limit(&name, &PodResources { cpu_shares: shares, ..PodResources::default() }, None)?;
        }
        // Last: the kernel refuses a limit below what is used now, and the classes are needed all the same.
        match self.room {
            Some(room) => self.limit(&root.class(Qos::Guaranteed), &room.resources(), None),
            None => Ok(()),
        }
    }

    /// Makes a pod's level and sets its limits; again with other limits changes them. `n_pids` is `podPidsLimit`.
    pub fn ensure_pod(
        &self,
        qos: Qos,
        uid: &str,
        resources: &PodResources,
        n_pids: Option<i64>,
    ) -> Result<(), CgroupError> {
        if !self.is_ours() {
            return Ok(());
        }
        let name = CgroupName::root(&self.layout.root).pod(qos, uid);
        self.make(&name)?;
        self.limit(&name, resources, n_pids.filter(|n| *n > 0))
    }

    /// Removes a pod's level with what dead containers left below it. Gone already: success.
    ///
    /// For a Pod of which the runtime lists nothing that runs. What is in it all the same is killed: a runtime that dies while
    /// it makes a sandbox leaves a process there that it knows nothing of afterwards.
    pub fn remove_pod(&self, qos: Qos, uid: &str) -> Result<(), CgroupError> {
        if !self.is_ours() {
            return Ok(());
        }
        let name = CgroupName::root(&self.layout.root).pod(qos, uid);
        for directory in self.directories(&name) {
            match remove_tree(&directory) {
                Err(CgroupError::Busy(busy)) => {
                    let n_killed = kill_all(&directory);
                    tracing::warn!(uid, cgroup = busy, n_killed, "killed what no container of the pod is");
                    // The kernel may need a moment: then it is Busy, and tried again.
                    remove_tree(&directory)?;
                }
                removed => removed?,
            }
        }
        Ok(())
    }

    /// Removes the levels of all classes, which are empty once no pod has one. Gone already: success.
    pub fn remove_classes(&self) -> Result<(), CgroupError> {
        if !self.is_ours() {
            return Ok(());
        }
        let name = CgroupName::root(&self.layout.root).class(Qos::Guaranteed);
        for directory in self.directories(&name) {
            remove_tree(&directory)?;
        }
        Ok(())
    }

    /// Uids that have a level, so that those of pods that are gone can be removed.
    #[must_use]
    pub fn pods(&self) -> Vec<(Qos, String)> {
        let root = CgroupName::root(&self.layout.root);
        let mut found = Vec::new();
        if !self.is_ours() {
            return found;
        }
        for qos in [Qos::Guaranteed, Qos::Burstable, Qos::BestEffort] {
            for directory in self.directories(&root.class(qos)) {
                let entries = fs::read_dir(directory).into_iter().flatten().flatten();
                let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
                found.extend(names.filter_map(|name| Some((qos, name.strip_prefix("pod")?.to_owned()))));
            }
        }
        found.sort();
        found.dedup();
        found
    }

    /// False when somebody else makes the pods' cgroups, or nobody.
    fn is_ours(&self) -> bool {
        self.layout.per_qos && self.layout.driver == Driver::Cgroupfs
    }

    /// The directory of a cgroup in every hierarchy.
    fn directories(&self, name: &CgroupName) -> Vec<PathBuf> {
        let below = |mount: &PathBuf| name.0.iter().fold(mount.clone(), |path, part| path.join(part));
        match &self.mounts {
            Mounts::V1(mounts) => mounts.iter().map(below).collect(),
            Mounts::V2(mount) => vec![below(mount)],
        }
    }

    fn make(&self, name: &CgroupName) -> Result<(), CgroupError> {
        match &self.mounts {
            Mounts::V1(mounts) => {
                for mount in
                    mounts.iter().filter(|mount| controllers_of(mount).any(|c| CONTROLLERS.contains(&c)))
                {
                    let directory = name.0.iter().fold(mount.clone(), |path, part| path.join(part));
                    fs::create_dir_all(&directory).map_err(|error| not_writable(&directory, &error))?;
                }
            }
            Mounts::V2(mount) => {
                // A controller works in a directory only when every directory above hands it down.
                let mut directory = mount.clone();
                for part in &name.0 {
                    hand_down(&directory)?;
                    directory = directory.join(part);
                    fs::create_dir_all(&directory).map_err(|error| not_writable(&directory, &error))?;
                }
                hand_down(&directory)?;
            }
        }
        Ok(())
    }

    fn limit(
        &self,
        name: &CgroupName,
        resources: &PodResources,
        n_pids: Option<i64>,
    ) -> Result<(), CgroupError> {
        let directories = self.directories(name);
        for (controller, file, value) in settings(self.is_v2(), resources, n_pids) {
            let directory = directories.iter().zip(self.mount_points()).find_map(|(directory, mount)| {
                (self.is_v2() || controllers_of(mount).any(|c| c == controller)).then_some(directory)
            });
            let Some(directory) = directory else { continue };
            let path = directory.join(file);
            // A kernel without this limit (CFS bandwidth, pids) has no such file.
            if !path.exists() {
                continue;
            }
            fs::write(&path, &value).map_err(|error| {
                CgroupError::Write(format!("cannot write {value:?} to {}: {error}", path.display()))
            })?;
        }
        Ok(())
    }

    fn mount_points(&self) -> &[PathBuf] {
        match &self.mounts {
            Mounts::V1(mounts) => mounts,
            Mounts::V2(mount) => std::slice::from_ref(mount),
        }
    }
}

/// What to write where, as (controller, file, text), in an order the kernel accepts.
fn settings(
    v2: bool,
    resources: &PodResources,
    n_pids: Option<i64>,
) -> Vec<(&'static str, &'static str, String)> {
    let mut settings = Vec::new();
    let quota = resources.cpu_quota;
    let memory = resources.memory_limit.filter(|limit| *limit != 0);
    let no_limit = if v2 { "max" } else { "-1" };
    let memory = memory.map(|limit| if limit > 0 { limit.to_string() } else { no_limit.to_owned() });
    if v2 {
        settings.push(("cpu", "cpu.weight", weight(resources.cpu_shares).to_string()));
        settings.extend(quota.map(|(quota, period)| {
            let text = if quota > 0 { format!("{quota} {period}") } else { format!("max {period}") };
            ("cpu", "cpu.max", text)
        }));
        settings.extend(memory.map(|limit| ("memory", "memory.max", limit)));
    } else {
        settings.push(("cpu", "cpu.shares", resources.cpu_shares.to_string()));
        if let Some((quota, period)) = quota {
            settings.push(("cpu", "cpu.cfs_period_us", period.to_string()));
            let quota = if quota > 0 { quota } else { -1 };
            settings.push(("cpu", "cpu.cfs_quota_us", quota.to_string()));
        }
        settings.extend(memory.map(|limit| ("memory", "memory.limit_in_bytes", limit)));
    }
    settings.extend(n_pids.map(|n| ("pids", "pids.max", n.to_string())));
    settings
}

fn detect(mount: &Path) -> Result<Mounts, CgroupError> {
    if mount.join("cgroup.controllers").exists() {
        return Ok(Mounts::V2(mount.to_owned()));
    }
    let entries = fs::read_dir(mount).map_err(|error| not_writable(mount, &error))?;
    let mut mounts: Vec<PathBuf> = entries
        .flatten()
        // `cpu` is often a link to `cpu,cpuacct`.
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .filter(|path| path.join("cgroup.procs").exists() && !path.ends_with("unified"))
        .collect();
    mounts.sort();
    if mounts.iter().any(|path| controllers_of(path).any(|controller| controller == "cpu")) {
        return Ok(Mounts::V1(mounts));
    }
    Err(CgroupError::NotUsable(format!(
        "no cgroup file system is mounted at {}: mount one, or set cgroupsPerQOS to false",
        mount.display()
    )))
}

/// Controllers of a v1 directory, from its name.
fn controllers_of(mount: &Path) -> impl Iterator<Item = &str> {
    mount.file_name().and_then(|name| name.to_str()).unwrap_or_default().split(',')
}

/// v2: lets the directories below use the controllers that this one has.
fn hand_down(directory: &Path) -> Result<(), CgroupError> {
    let read = |file: &str| fs::read_to_string(directory.join(file)).unwrap_or_default();
    let (has, given) = (read("cgroup.controllers"), read("cgroup.subtree_control"));
    let lists = |list: &str, wanted: &str| list.split_whitespace().any(|controller| controller == wanted);
    for controller in CONTROLLERS.iter().filter(|c| lists(&has, c) && !lists(&given, c)) {
        let path = directory.join("cgroup.subtree_control");
        fs::write(&path, format!("+{controller}")).map_err(|error| not_writable(&path, &error))?;
    }
    Ok(())
}

/// Children first: the kernel removes empty cgroups only. The files in them cannot and need not be removed.
fn remove_tree(directory: &Path) -> Result<(), CgroupError> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(not_writable(directory, &error)),
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path())?;
        }
    }
    match fs::remove_dir(directory) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            Err(CgroupError::Busy(directory.display().to_string()))
        }
        Err(error) => Err(not_writable(directory, &error)),
    }
}

/// Kills every process in a cgroup and below it; says how many. Those that come while it looks are left for the next time.
fn kill_all(directory: &Path) -> usize {
    let mut n_killed = 0;
    let below = fs::read_dir(directory).into_iter().flatten().flatten();
    for entry in below.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir())) {
        n_killed += kill_all(&entry.path());
    }
    let pids = fs::read_to_string(directory.join("cgroup.procs")).unwrap_or_default();
    // 0 stands for a process of another pid namespace; it is no process that could be named, and never all of our group.
    let pids = pids.lines().filter_map(|line| Pid::from_raw(line.parse().ok().filter(|pid| *pid > 1)?));
    n_killed + pids.filter(|pid| kill_process(*pid, Signal::KILL).is_ok()).count()
}

fn not_writable(path: &Path, error: &io::Error) -> CgroupError {
    CgroupError::NotUsable(format!(
        "cannot use the cgroup at {}: {error}; run edgecore as root with a writable cgroup file system, or set \
         cgroupsPerQOS to false",
        path.display()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        let check = |root: &str, qos: Qos, path: &str, slice: &str, slice_path: &str| {
            let name = CgroupName::root(root).pod(qos, "a-b");
            assert_eq!(
                (name.cgroupfs(), name.slice(), name.slice_path()),
                (path.into(), slice.into(), slice_path.into())
            );
        };
        check(
            "/",
            Qos::Guaranteed,
            "/kubepods/poda-b",
            "kubepods-poda_b.slice",
            "/kubepods.slice/kubepods-poda_b.slice",
        );
        check(
            "",
            Qos::BestEffort,
            "/kubepods/besteffort/poda-b",
            "kubepods-besteffort-poda_b.slice",
            "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-poda_b.slice",
        );
        check(
            "/edge/../x",
            Qos::Burstable,
            "/edge/x/kubepods/burstable/poda-b",
            "edge-x-kubepods-burstable-poda_b.slice",
            "/edge.slice/edge-x.slice/edge-x-kubepods.slice/edge-x-kubepods-burstable.slice/edge-x-kubepods-burstable-poda_b.slice",
        );
    }

    #[test]
    fn parents() {
        let check = |driver, per_qos, root: &str, expected: &str| {
            let layout = Layout { driver, root: root.into(), per_qos };
            assert_eq!(layout.parent(Qos::Burstable, "u"), expected);
        };
        check(Driver::Cgroupfs, true, "/", "/kubepods/burstable/podu");
        check(Driver::Systemd, true, "/", "kubepods-burstable-podu.slice");
        check(Driver::Cgroupfs, false, "/edge", "/edge");
        check(Driver::Cgroupfs, false, "", "");
    }

    /// A tree of files as the kernel would show it.
    fn machine(v2: bool) -> (tempfile::TempDir, PodCgroups) {
        let directory = tempfile::tempdir().unwrap();
        if v2 {
            fs::write(directory.path().join("cgroup.controllers"), "cpu memory io pids").unwrap();
        } else {
            for name in ["cpu,cpuacct", "memory", "pids", "freezer"] {
                fs::create_dir(directory.path().join(name)).unwrap();
                fs::write(directory.path().join(name).join("cgroup.procs"), "").unwrap();
            }
        }
        let layout = Layout { driver: Driver::Cgroupfs, root: "/".into(), per_qos: true };
        let cgroups = PodCgroups::new(layout, directory.path()).unwrap();
        (directory, cgroups)
    }

    #[test]
    fn what_is_left_in_a_cgroup_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let sleeper = || std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        let (mut above, mut below) = (sleeper(), sleeper());
        let child = directory.path().join("c1");
        fs::create_dir(&child).unwrap();
        fs::write(directory.path().join("cgroup.procs"), format!("0\n{}\n", above.id())).unwrap();
        fs::write(child.join("cgroup.procs"), format!("{}\n-1\n1\nx\n", below.id())).unwrap();
        assert_eq!(kill_all(directory.path()), 2);
        for child in [&mut above, &mut below] {
            assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        }
        assert_eq!(kill_all(&directory.path().join("gone")), 0);
    }

    #[test]
    fn values_for_both_versions() {
        let full =
            PodResources { cpu_shares: 1024, cpu_quota: Some((50_000, 100_000)), memory_limit: Some(7) };
        let open = PodResources { cpu_shares: 2, cpu_quota: Some((-1, 100_000)), memory_limit: None };
        let check = |v2: bool, resources: &PodResources, n_pids: Option<i64>, expected: &str| {
            let settings = settings(v2, resources, n_pids);
            let text: Vec<_> = settings.iter().map(|(_, file, value)| format!("{file}={value}")).collect();
            assert_eq!(text.join("; "), expected);
        };
        check(
            false,
            &full,
            Some(9),
            "cpu.shares=1024; cpu.cfs_period_us=100000; cpu.cfs_quota_us=50000; memory.limit_in_bytes=7; pids.max=9",
        );
        check(true, &full, Some(9), "cpu.weight=39; cpu.max=50000 100000; memory.max=7; pids.max=9");
        check(false, &open, None, "cpu.shares=2; cpu.cfs_period_us=100000; cpu.cfs_quota_us=-1");
        check(true, &open, None, "cpu.weight=1; cpu.max=max 100000");
    }

    #[test]
    fn directories_come_and_go() {
        for v2 in [false, true] {
            let (directory, cgroups) = machine(v2);
            assert_eq!(cgroups.is_v2(), v2);
            cgroups.ensure_classes(500).unwrap();
            let limits = PodResources { cpu_shares: 2, ..PodResources::default() };
            cgroups.ensure_pod(Qos::BestEffort, "u-1", &limits, None).unwrap();
            assert_eq!(cgroups.pods(), [(Qos::BestEffort, "u-1".to_owned())]);
            let hierarchy = directory.path().join(if v2 { "" } else { "memory" });
            let pod = hierarchy.join("kubepods/besteffort/podu-1");
            assert!(pod.is_dir());
            if v2 {
                // Plain files stay in the way of rmdir here; the kernel's do not.
                fs::remove_file(pod.join("cgroup.subtree_control")).ok();
            }
            fs::create_dir(pod.join("left")).unwrap();
            cgroups.remove_pod(Qos::BestEffort, "u-1").unwrap();
            assert!(!pod.exists() && cgroups.pods().is_empty());
            cgroups.remove_pod(Qos::BestEffort, "u-1").unwrap();
        }
    }

    #[test]
    fn values_are_written_where_the_kernel_offers_them() {
        let (directory, cgroups) = machine(false);
        let limits = PodResources { cpu_shares: 102, cpu_quota: None, memory_limit: Some(4096) };
        cgroups.ensure_pod(Qos::Burstable, "u", &limits, None).unwrap();
        let memory = directory.path().join("memory/kubepods/burstable/podu/memory.limit_in_bytes");
        assert!(!memory.exists(), "a limit the kernel does not offer is left out");
        fs::write(&memory, "").unwrap();
        cgroups.ensure_pod(Qos::Burstable, "u", &limits, None).unwrap();
        assert_eq!(fs::read_to_string(memory).unwrap(), "4096");
    }

    #[test]
    fn all_pods_together_leave_what_is_reserved() {
        for v2 in [false, true] {
            let (directory, cgroups) = machine(v2);
            let (weight, memory) = match v2 {
                false => ("cpu,cpuacct/kubepods/cpu.shares", "memory/kubepods/memory.limit_in_bytes"),
                true => ("kubepods/cpu.weight", "kubepods/memory.max"),
            };
            cgroups.ensure_classes(0).unwrap();
            for file in [weight, memory] {
                fs::write(directory.path().join(file), "").unwrap();
            }
            let room = PodsRoom::new((2000, 3 << 30), (1000, 1 << 30));
            cgroups.with_room(room).ensure_classes(0).unwrap();
            let read = |file: &str| fs::read_to_string(directory.path().join(file)).unwrap();
            let expected = if v2 { "39" } else { "1024" };
            assert_eq!((read(weight).as_str(), read(memory).as_str()), (expected, "2147483648"));
        }
    }

    #[test]
    fn without_cgroups_there_is_one_clear_sentence() {
        let directory = tempfile::tempdir().unwrap();
        let layout = Layout { driver: Driver::Cgroupfs, root: "/".into(), per_qos: true };
        let error = PodCgroups::new(layout, directory.path()).unwrap_err().to_string();
        assert!(error.contains("cgroupsPerQOS"), "{error}");
    }
}
