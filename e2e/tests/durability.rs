//! The power fails at random moments while objects change: the store opens again each time and holds all that edgecore had
//! acknowledged. The same with `database.synchronous: off` must fail, or this story could not.
//!
//! A power cut is kill -9 of edgecore, then forgetting every byte and name that was not fsynced. The runtime's share of one
//! is the story `offline`'s. `SEED=<n>` repeats the moments and changes of a run, `LONG=1` makes a hundred cuts.

// Of JSON only, where what is not there is null.
#![allow(clippy::indexing_slicing)]

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail, ensure};
use e2e::acknowledged::Row;
use e2e::changer::{Chance, Changer};
use e2e::forgetful::Disk;
use e2e::site::{PATIENCE, Site, Wishes, is_ready, shell_pod};
use e2e::tap::Tap;
use e2e::wait::{Seen, eventually};
use ke_wire::ObjectKey;
use rusqlite::{Connection, OpenFlags};
use serde_json::{Value, json};

const N_PODS: usize = 20;
/// With `synchronous: off` one cut after an acknowledgement is enough; a few more are no luck.
const N_CUTS_OFF: usize = 5;

struct Story {
    site: Site,
    tap: Tap,
    disk: Disk,
    chance: Chance,
    longest_start: Duration,
}

#[test]
fn an_acknowledgement_outlives_the_power() -> Result<()> {
    let unix_nanos = SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos();
    let seed = match std::env::var("SEED") {
        Ok(text) => text.parse().context("SEED is no number")?,
        Err(_) => u64::try_from(unix_nanos % 1_000_000)?,
    };
    let n_cuts = if std::env::var_os("LONG").is_some() { 100 } else { 12 };
    eprintln!("SEED={seed}, {n_cuts} power cuts");
    let begun = Instant::now();
    let mut story = Story::begin(seed)?;
    eprintln!("{N_PODS} pods are ready after {:.0} s", begun.elapsed().as_secs_f64());

    let looping = Instant::now();
    let changer = Changer::start(&story.site.cluster, N_PODS, Chance::new(seed.wrapping_add(1)))?;
    let (first_acks, first) = (story.tap.n_acks(), story.disk.counts()?);
    for n in 1..=n_cuts {
        let faults = story.cut(n).with_context(|| format!("cut {n}, SEED={seed}"))?;
        ensure!(faults.is_empty(), "lost by cut {n}, SEED={seed}:\n{}", faults.join("\n"));
    }
    let n_changes = changer.stop()?;
    story.converges()?;
    let counts = story.disk.counts()?;
    eprintln!(
        "{n_cuts} cuts in {:.0} s: {n_changes} changes, {} acknowledged, none lost; {} fsyncs, {} bytes and {} names forgotten; \
         slowest start to first acknowledgement {:.1} s",
        looping.elapsed().as_secs_f64(),
        story.tap.n_acks() - first_acks,
        counts.n_fsyncs - first.n_fsyncs,
        counts.n_bytes_forgotten,
        counts.n_names_forgotten,
        story.longest_start.as_secs_f64(),
    );

    story.turn_synchronous_off()?;
    let changer = Changer::start(&story.site.cluster, N_PODS, Chance::new(seed.wrapping_add(2)))?;
    for n in 1..=N_CUTS_OFF {
        // At moments after an acknowledgement only: a store that was not written to loses nothing.
        let faults = story.cut_after_acks(20)?;
        if let Some(fault) = faults.first() {
            eprintln!("synchronous off lost {} objects by cut {n}, such as {fault}", faults.len());
            changer.stop()?;
            return Ok(());
        }
    }
    bail!("with synchronous off {N_CUTS_OFF} cuts lost nothing: this story sees no loss, SEED={seed}")
}

#[test]
fn the_disk_forgets_what_was_not_synced() -> Result<()> {
    let mut disk = Disk::new()?;
    let root = disk.folder().to_owned();
    let file = |name: &str| root.join(name);
    let (kept, renamed, lost) = (file("kept"), file("renamed"), file("lost"));
    let mut open = fs::File::create(&kept)?;
    open.write_all(b"first")?;
    open.sync_all()?;
    open.write_all(b" second")?;
    fs::write(&lost, "never synced")?;
    ensure!(fs::read(&kept)? == b"first second" && lost.exists(), "writes are seen before they are synced");
    disk.cut_power()?;
    ensure!(fs::read(&kept)? == b"first", "what was synced stays, what was not goes");
    ensure!(!lost.exists(), "a name that was never synced goes");
    ensure!(open.write_all(b"x").is_err(), "a handle from before writes nowhere");
    ensure!(fs::read(&kept)? == b"first");

    fs::rename(&kept, &renamed)?;
    disk.cut_power()?;
    ensure!(kept.exists() && !renamed.exists(), "a rename that was not synced goes");
    fs::rename(&kept, &renamed)?;
    fs::OpenOptions::new().write(true).open(&renamed)?.set_len(2)?;
    fs::File::open(disk.folder())?.sync_all()?;
    disk.cut_power()?;
    ensure!(!kept.exists() && fs::read(&renamed)? == b"first", "a synced folder keeps names, not bytes");
    fs::remove_file(&renamed)?;
    disk.cut_power()?;
    ensure!(renamed.exists(), "a removal that was not synced goes");
    ensure!(disk.counts()?.n_cuts == 4);

    // Folders: a name comes to the disk with its own folder only.
    let (folder, inner) = (file("folder"), file("folder/inner"));
    fs::create_dir(&folder)?;
    fs::write(&inner, "x")?;
    fs::File::open(&inner)?.sync_all()?;
    disk.cut_power()?;
    ensure!(!folder.exists(), "a folder whose name was never synced goes with all that is in it");
    fs::create_dir(&folder)?;
    fs::File::open(disk.folder())?.sync_all()?;
    let other = file("folder/other");
    fs::write(&inner, "x")?;
    fs::File::open(&inner)?.sync_all()?;
    fs::rename(&inner, &other)?;
    fs::File::open(disk.folder())?.sync_all()?;
    disk.cut_power()?;
    ensure!(inner.exists() && !other.exists(), "another folder's sync is none of this one's");
    ensure!(fs::remove_dir(&folder).is_err(), "it is not empty");

    // A cut at a counted change, and nothing works until the power is back.
    let n_changes = disk.counts()?.n_changes;
    disk.cut_after(2)?;
    fs::rename(&inner, &other)?;
    fs::File::open(&folder)?.sync_all()?;
    ensure!(fs::remove_file(&other).is_err() && fs::read(&other).is_err() && fs::read_dir(&folder).is_err());
    ensure!(disk.counts()?.n_changes == n_changes + 2 && disk.counts()?.is_dark);
    disk.power_on()?;
    ensure!(fs::read(&other)? == b"x" && !inner.exists());
    Ok(())
}

impl Story {
    /// A site whose store lies on a forgetful disk, and whose link is read; all pods are ready.
    fn begin(seed: u64) -> Result<Self> {
        let disk = Disk::new()?;
        let wishes = Wishes {
            edgecore: json!({"database": {"dataSource": disk.folder().join("edgecore.db")}}),
            ..Wishes::default()
        };
        let site = Site::prepare("durability", &wishes)?;
        let file = |name: &str| site.edge.run_dir().join(name);
        let tap = Tap::new(
            &site.cluster,
            site.cloud.websocket(),
            &file("certs/server.crt"),
            &file("certs/server.key"),
        )?;
        site.link.retarget(tap.address());
        let chance = Chance::new(seed);
        let mut story = Self { site, tap, disk, chance, longest_start: Duration::ZERO };
        story.site.edge.process.start()?;
        story.site.edge.wait_ready(&story.site.cluster, PATIENCE)?;
        let objects: Vec<Value> = (0..N_PODS).map(pod_with_config).collect::<Result<Vec<_>>>()?.concat();
        story
            .site
            .cluster
            .apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())?;
        story.wait_pods()?;
        Ok(story)
    }

    fn wait_pods(&mut self) -> Result<()> {
        let (edge, cluster) = (&mut self.site.edge, &self.site.cluster);
        eventually(2 * PATIENCE, "all pods to be ready", || {
            edge.process.must_run()?;
            let pods = cluster.kubectl_json(&["get", "pods"])?;
            let n_ready = pods["items"].as_array().into_iter().flatten().filter(|pod| is_ready(pod)).count();
            Ok(if n_ready == N_PODS { Seen::Yes(()) } else { Seen::NotYet(format!("{n_ready} are")) })
        })
        .with_context(|| format!("edgecore's last lines:\n{}", edge.process.log_end(30)))
    }

    /// One cut at a random moment: one in four soon after the start, the others in the middle of acknowledging.
    fn cut(&mut self, n: usize) -> Result<Vec<String>> {
        if n.is_multiple_of(4) {
            std::thread::sleep(Duration::from_millis(self.chance.below(1500)));
            self.cut_now()
        } else {
            let n_acks = 1 + self.chance.below(60);
            self.cut_after_acks(n_acks)
        }
    }

    fn cut_after_acks(&mut self, n_acks: u64) -> Result<Vec<String>> {
        let (start, before) = (Instant::now(), self.tap.n_acks());
        let wait = |n: usize| self.tap.wait_acks(before + n, PATIENCE);
        let waited = wait(1).and_then(|()| {
            self.longest_start = self.longest_start.max(start.elapsed());
            wait(usize::try_from(n_acks)?)
        });
        waited.with_context(|| format!("edgecore's last lines:\n{}", self.site.edge.process.log_end(30)))?;
        std::thread::sleep(Duration::from_micros(self.chance.below(30_000)));
        self.cut_now()
    }

    /// Cuts, compares what is left with what was acknowledged, and starts edgecore again.
    fn cut_now(&mut self) -> Result<Vec<String>> {
        let process = &mut self.site.edge.process;
        process.must_run()?;
        process.kill9()?;
        ensure!(!process.log().contains("was set aside"), "the store did not open:\n{}", process.log_end(20));
        // Every acknowledgement that left the edge counts, also one that is still on its way here.
        self.tap.wait_closed(PATIENCE)?;
        self.disk.cut_power()?;
        let left = self.rows()?;
        let seen = self.tap.seen();
        let faults = seen.keys().filter_map(|key| seen.fault(key, left.get(&columns(key)))).collect();
        self.site.edge.process.start()?;
        Ok(faults)
    }

    /// What the store holds. A copy is read: reading the files themselves would repair them before edgecore can.
    fn rows(&self) -> Result<BTreeMap<(String, String, String), Row>> {
        let folder = self.site.edge.run_dir().folder("left")?;
        let copy = folder.join("edgecore.db");
        for ending in ["", "-wal", "-shm"] {
            let name = format!("edgecore.db{ending}");
            let (from, to) = (self.disk.folder().join(&name), folder.join(&name));
            fs::remove_file(&to).ok();
            if from.exists() {
                fs::copy(&from, &to).with_context(|| format!("copy {name}"))?;
            }
        }
        if !copy.exists() {
            return Ok(BTreeMap::new());
        }
        let connection = Connection::open_with_flags(&copy, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let verdict: String = connection.query_row("PRAGMA integrity_check", [], |row| row.get(0))?;
        ensure!(verdict == "ok", "the store is damaged: {verdict}");
        let schema: u32 = connection.query_row("PRAGMA user_version", [], |row| row.get(0))?;
        if schema == 0 {
            return Ok(BTreeMap::new());
        }
        let mut statement = connection.prepare("SELECT kind, scope, name, uid, version FROM object")?;
        let rows = statement.query_map([], |row| {
            let version: i64 = row.get(4)?;
            let held = Row { uid: row.get(3)?, version: version.cast_unsigned() };
            Ok(((row.get(0)?, row.get(1)?, row.get(2)?), held))
        })?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// After all cuts the edge holds the cloud's state, and no container was restarted.
    fn converges(&mut self) -> Result<()> {
        let configs =
            self.site.cluster.kubectl_json(&["get", "configmaps", "--selector=story=durability"])?;
        let configs = configs["items"].as_array().cloned().unwrap_or_default();
        ensure!(configs.len() >= N_PODS, "only {} ConfigMaps are there", configs.len());
        for config in &configs {
            let text = |field: &str| config["metadata"][field].as_str().unwrap_or_default();
            let version: u64 = text("resourceVersion").parse().context("a resourceVersion")?;
            let key: ObjectKey = format!("default/configmap/{}", text("name")).parse()?;
            eventually(PATIENCE, &format!("{key} to be acknowledged at version {version}"), || {
                let held = self.tap.seen().version(&key);
                Ok(if held >= Some(version) { Seen::Yes(()) } else { Seen::NotYet(format!("{held:?}")) })
            })
            .with_context(|| format!("edgecore's last lines:\n{}", self.site.edge.process.log_end(30)))?;
        }
        self.wait_pods()?;
        let pods = self.site.cluster.kubectl_json(&["get", "pods"])?;
        for pod in pods["items"].as_array().into_iter().flatten() {
            let count = &pod["status"]["containerStatuses"][0]["restartCount"];
            ensure!(*count == 0, "{} was restarted: {count}", pod["metadata"]["name"]);
        }
        Ok(())
    }

    fn turn_synchronous_off(&mut self) -> Result<()> {
        self.site.edge.process.stop()?;
        let path: &Path = self.site.edge.config();
        let mut config: Value = serde_json::from_slice(&fs::read(path)?)?;
        config["database"]["synchronous"] = "off".into();
        fs::write(path, serde_json::to_vec_pretty(&config)?)?;
        self.site.edge.process.start()
    }
}

fn columns(key: &ObjectKey) -> (String, String, String) {
    (key.kind.as_str().to_owned(), key.scope.to_string(), key.name.as_str().to_owned())
}

/// A pod that mounts its ConfigMap, and names another that comes and goes.
fn pod_with_config(n: usize) -> Result<Vec<Value>> {
    let labels = json!({"story": "durability"});
    let config = json!({"apiVersion": "v1", "kind": "ConfigMap",
        "metadata": {"name": format!("config-{n}"), "labels": labels}, "data": {"n": "0"}});
    let more = json!({
        "containers": [{
            "volumeMounts": [{"name": "config", "mountPath": "/config"}],
            "envFrom": [{"configMapRef": {"name": format!("spare-{n}"), "optional": true}}],
        }],
        "volumes": [{"name": "config", "configMap": {"name": format!("config-{n}")}}],
    });
    let script = "trap exit TERM; while true; do sleep 1000 & wait; done";
    Ok(vec![config, serde_json::from_str(&shell_pod(&format!("pod-{n}"), script, &more))?])
}
