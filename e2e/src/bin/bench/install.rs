//! How long the two commands take that make a cloud and an edge node, as who types them sees it: until keadm ends, which it
//! does when cloudcore or the node is Ready. Images are on the machines before. And how large is what is installed.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, ensure};
use e2e::bench::Row;
use e2e::ground::Ground;
use e2e::process::target_dir;
use e2e::site::NODE;
use pack::oci::Packing;
use pack::products::IMAGES;
use pack::release::{Program, Release};
use pack::sbom::Crates;

use crate::usage::percentile;

const N_ROUNDS: u32 = 10;

pub(crate) fn init_and_join() -> Result<Vec<Row>> {
    let ground = Ground::start(NODE, &|text| println!("{text}"))?;
    let mut inits = Rounds::new("keadm init");
    for number in 0..N_ROUNDS {
        if number > 0 {
            typed(ground.keadm(&["reset", "cloud", "--force"]))?;
        }
        inits.add(typed(ground.keadm(&["init", &ground.init()]))?);
    }
    let token = typed(ground.keadm(&["gettoken"]))?.last().map(|(_, line)| line.clone());
    let token = format!("--token={}", token.context("keadm gettoken printed nothing")?);
    let join = ground.join(NODE);
    let words: Vec<&str> = ["join", &token].into_iter().chain(join.iter().map(String::as_str)).collect();
    let mut joins = Rounds::new("keadm join");
    for _ in 0..N_ROUNDS {
        joins.add(typed(ground.keadm_on_edge(&words)?)?);
        let path = "--output=jsonpath={.status.conditions[?(@.type==\"Ready\")].status}";
        let ready = ground.cluster.kubectl_ok(&["get", "node", NODE, path])?;
        ensure!(ready == "True", "keadm join has ended, and Ready of its node is {ready:?}");
        typed(ground.keadm_on_edge(&["reset", "edge", "--force"])?)?;
        ground.cluster.kubectl_ok(&["delete", "node", NODE])?;
    }
    Ok([joins.rows("join_to_ready"), inits.rows("init_to_ready")].concat())
}

/// What keadm said, each line with the seconds that had passed; last how long it took.
type Told = Vec<(f64, String)>;

fn typed(mut command: Command) -> Result<Told> {
    let shown = format!("{:?} {:?}", command.get_program(), command.get_args());
    let (reader, writer) = std::io::pipe()?;
    let begin = Instant::now();
    let mut child = command.stdout(writer.try_clone()?).stderr(writer).spawn()?;
    // It holds the writing ends.
    drop(command);
    let mut told = Told::new();
    for line in BufReader::new(reader).lines() {
        told.push((begin.elapsed().as_secs_f64(), line?));
    }
    let status = child.wait()?;
    let took = begin.elapsed().as_secs_f64();
    ensure!(status.success(), "{shown}: {told:?}");
    let last = told.last().map(|(_, line)| line.clone()).unwrap_or_default();
    told.push((took, last));
    Ok(told)
}

/// The same command again and again.
struct Rounds {
    command: &'static str,
    seconds: Vec<f64>,
    slowest: Told,
}

impl Rounds {
    fn new(command: &'static str) -> Self {
        Self { command, seconds: Vec::new(), slowest: Told::new() }
    }

    fn add(&mut self, told: Told) {
        let Some((seconds, _)) = told.last() else { return };
        println!("{}: {seconds:.2} s", self.command);
        self.seconds.push(*seconds);
        if self.slowest.last().is_none_or(|(slowest, _)| seconds > slowest) {
            self.slowest = told;
        }
    }

    /// Half of the rounds are not slower, and none is slower. What took how long in the slowest is printed.
    fn rows(&self, name: &str) -> Vec<Row> {
        println!("the slowest {}:", self.command);
        let mut before = 0.0;
        for (at, line) in &self.slowest {
            println!("  {at:>6.2} s, {:>5.2} s for: {line}", at - before);
            before = *at;
        }
        let row = |name: &str, percent| {
            Row::new(name, "s", percentile(&self.seconds, percent), None, self.seconds.len() as u32)
        };
        vec![row(name, 50.0), row(&format!("{name}_worst"), 100.0)]
    }
}

/// Archives of images as `make dist` makes them, of the binaries that are there, in MB.
pub(crate) fn images() -> Result<Vec<Row>> {
    let folder = target_dir()?.join("dist");
    let mut rows = Vec::new();
    for image in IMAGES {
        let read = |(name, _): &(&str, &str)| -> Result<(String, Program)> {
            let path = folder.join(name);
            let bytes =
                fs::read(&path).with_context(|| format!("read {}; type: make dist", path.display()))?;
            Ok(((*name).to_owned(), Program::new(bytes)?))
        };
        let programs: BTreeMap<String, Program> = image.programs.iter().map(read).collect::<Result<_>>()?;
        let crates = Crates::default();
        let (version, repository) = (env!("CARGO_PKG_VERSION"), "docker.io/isthmus");
        let release =
            Release { programs, version, date: 1, repository, crates: &crates, manuals: &BTreeMap::new() };
        let archive = release.image(image, Packing::Gzip)?.context("a program is missing")?;
        let name = format!("image_{}", image.name.replace('-', "_"));
        rows.push(Row::new(&name, "MB", Some(archive.len() as f64 / 1e6), None, 1));
    }
    Ok(rows)
}
