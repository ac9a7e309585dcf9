//! `keadm debug check`: whether this machine has what edgecore needs. `judge` functions are plain; the rest asks the machine.

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use super::edgecore::Edgecore;
use super::finding::tell;
use super::{Failure, Form};
use crate::host::Host;
use crate::look::Finding;
use crate::reach::Reach;
use crate::render::CONFIG;

/// KubeEdge's limits.
const MIN_CORES: usize = 1;
const MAX_BUSY_PERCENT: u64 = 90;
const MIN_MEMORY_MB: u64 = 256;
const MIN_FREE_MEMORY_MB: u64 = 128;
const MIN_DISK_MB: u64 = 1024;
const MIN_FREE_DISK_MB: u64 = 512;
const MIN_FREE_PIDS_PERCENT: u64 = 5;
/// Between two looks at the processors.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    pub(super) options: Options,
    /// How it is written.
    #[arg(long, value_enum, default_value = "text")]
    output: Form,
}

/// What to look up and to reach.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Options {
    /// Name that is looked up.
    #[arg(short, long, default_value = "www.github.com")]
    pub(super) domain: String,
    /// Address that must answer a ping.
    #[arg(short, long)]
    pub(super) ip: Option<IpAddr>,
    /// The cloud, as host:port [default: as edgecore's configuration says]
    #[arg(short = 's', long = "cloud-hub-server", value_name = "HOST:PORT")]
    pub(super) cloud_hub_server: Option<String>,
    /// Server that is asked for the name [default: this machine's own]
    #[arg(short = 'D', long = "dns-ip", value_name = "IP")]
    pub(super) dns_ip: Option<IpAddr>,
    /// edgecore's configuration.
    #[arg(short, long, default_value = CONFIG, value_name = "FILE")]
    pub(super) config: PathBuf,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum What {
    All,
    Cpu,
    Mem,
    Disk,
    Dns,
    Runtime,
    Network,
    Pid,
}

pub(super) fn run(host: &dyn Host, reach: &dyn Reach, args: &Args) -> Result<(), Failure> {
    tell(&look(host, reach, args.what, &args.options), args.output)
}

/// Everything.
pub(super) fn everything(host: &dyn Host, reach: &dyn Reach, options: &Options) -> Vec<Finding> {
    look(host, reach, What::All, options)
}

fn look(host: &dyn Host, reach: &dyn Reach, what: What, options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is = |which: What| what == which || what == What::All;
    if is(What::Cpu) {
        findings.push(cpu(host));
    }
    if is(What::Mem) {
        findings.push(judge_memory(&text(host, "/proc/meminfo")));
    }
    if is(What::Disk) {
        findings.push(disk(host));
    }
    if is(What::Pid) {
        findings.push(judge_pids(&text(host, "/proc/sys/kernel/pid_max"), &text(host, "/proc/loadavg")));
    }
    if is(What::Dns) {
        findings.push(dns(reach, options));
    }
    if is(What::Network) {
        findings.extend(network(host, reach, options));
    }
    if is(What::Runtime) {
        findings.extend(runtime(host, &options.config));
    }
    findings
}

fn text(host: &dyn Host, path: &str) -> String {
    let body = host.read(Path::new(path)).ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&body).into_owned()
}

fn cpu(host: &dyn Host) -> Finding {
    let before = text(host, "/proc/stat");
    host.sleep(LOOK);
    judge_cpu(&before, &text(host, "/proc/stat"))
}

/// Two contents of `/proc/stat`, a while apart.
fn judge_cpu(before: &str, after: &str) -> Finding {
    let is_core = |line: &&str| line.starts_with("cpu") && !line.starts_with("cpu ");
    let n_cores = after.lines().filter(is_core).count();
    // user nice system idle iowait irq softirq steal; guest is part of user.
    let ticks = |stat: &str| -> Option<(u64, u64)> {
        let words: Vec<u64> = stat
            .lines()
            .next()?
            .split_whitespace()
            .skip(1)
            .take(8)
            .map_while(|word| word.parse().ok())
            .collect();
        let idle = words.get(3)? + words.get(4)?;
        Some((words.iter().sum::<u64>(), idle))
    };
    let (Some((all_before, idle_before)), Some((all, idle))) = (ticks(before), ticks(after)) else {
        return Finding::warning(
            "cpu",
            "the processors' load cannot be read from /proc/stat",
            "look with: top",
        );
    };
    let all = all.saturating_sub(all_before).max(1);
    let busy = 100 - (idle.saturating_sub(idle_before).min(all) * 100 / all);
    let found = format!("{n_cores} cores, {busy} % busy");
    if n_cores < MIN_CORES {
        Finding::failed("cpu", found, "edgecore needs one core")
    } else if busy > MAX_BUSY_PERCENT {
        Finding::failed(
            "cpu",
            found,
            format!("more than {MAX_BUSY_PERCENT} % leaves no time for pods; see who uses it: top"),
        )
    } else {
        Finding::ok("cpu", found)
    }
}

/// The content of `/proc/meminfo`.
fn judge_memory(meminfo: &str) -> Finding {
    let mb = |name: &str| -> Option<u64> {
        let line = meminfo.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? / 1024)
    };
    let (Some(total), Some(free)) = (mb("MemTotal"), mb("MemAvailable")) else {
        return Finding::warning("mem", "the memory cannot be read from /proc/meminfo", "look with: free -m");
    };
    let found = format!("{free} MB of {total} MB memory are free");
    if total < MIN_MEMORY_MB {
        Finding::failed("mem", found, format!("a node needs {MIN_MEMORY_MB} MB"))
    } else if free < MIN_FREE_MEMORY_MB {
        Finding::failed(
            "mem",
            found,
            format!("{MIN_FREE_MEMORY_MB} MB must be free; see who uses it: ps aux --sort=-rss"),
        )
    } else {
        Finding::ok("mem", found)
    }
}

fn disk(host: &dyn Host) -> Finding {
    let folder = ["/var/lib/kubeedge", "/var/lib"].into_iter().find(|folder| host.exists(Path::new(folder)));
    let folder = folder.unwrap_or("/");
    let said = host.run(Path::new("df"), &["-Pk".to_owned(), folder.to_owned()]);
    judge_disk(folder, &said.map(|ran| ran.stdout).unwrap_or_default())
}

/// What `df -Pk` says of the folder.
fn judge_disk(folder: &str, said: &str) -> Finding {
    let words: Vec<&str> = said.lines().nth(1).unwrap_or_default().split_whitespace().collect();
    let mb = |at: usize| words.get(at).and_then(|word| word.parse::<u64>().ok()).map(|kb| kb / 1024);
    let (Some(total), Some(free)) = (mb(1), mb(3)) else {
        let look = format!("look with: df -h {folder}");
        return Finding::warning("disk", format!("the room of {folder} is not told by df"), look);
    };
    let found = format!("{folder} has {free} MB of {total} MB free");
    if total < MIN_DISK_MB {
        Finding::failed(
            "disk",
            found,
            format!("a node needs {MIN_DISK_MB} MB; put its data elsewhere with database.dataSource"),
        )
    } else if free < MIN_FREE_DISK_MB {
        let advice =
            format!("{MIN_FREE_DISK_MB} MB must be free; see what takes the room: du -xhd2 {folder}");
        Finding::failed("disk", found, advice)
    } else {
        Finding::ok("disk", found)
    }
}

/// The highest process id, and the content of `/proc/loadavg`.
fn judge_pids(max: &str, loadavg: &str) -> Finding {
    let used = loadavg.split_whitespace().nth(3).and_then(|word| word.split_once('/')?.1.parse::<u64>().ok());
    let (Ok(max), Some(used)) = (max.trim().parse::<u64>(), used) else {
        return Finding::warning(
            "pid",
            "the process ids cannot be read from /proc",
            "look with: ps -eLf | wc -l",
        );
    };
    let free = max.saturating_sub(used) * 100 / max.max(1);
    let found = format!("{used} of {max} process ids are used");
    if free > MIN_FREE_PIDS_PERCENT {
        Finding::ok("pid", found)
    } else {
        Finding::failed("pid", found, "see who holds them: ps -eo nlwp,pid,comm --sort=-nlwp | head")
    }
}

fn dns(reach: &dyn Reach, options: &Options) -> Finding {
    let (domain, server) = (&options.domain, options.dns_ip);
    let whom =
        server.map_or_else(|| "this machine's DNS".to_owned(), |server| format!("the DNS server {server}"));
    let advice = match server {
        None => "look into /etc/resolv.conf, or ask another server: keadm debug check dns -D IP",
        Some(_) => "see whether it answers others: keadm debug check dns -D ANOTHER-IP",
    };
    match reach.resolve(domain, server) {
        Ok(addresses) if !addresses.is_empty() => {
            let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
            Finding::ok("dns", format!("{whom} says that {domain} is {}", addresses.join(", ")))
        }
        Ok(_) => Finding::failed("dns", format!("{whom} knows no address of {domain}"), advice),
        Err(error) => {
            Finding::failed("dns", format!("{whom} does not say where {domain} is: {error}"), advice)
        }
    }
}

fn network(host: &dyn Host, reach: &dyn Reach, options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    if let Some(ip) = options.ip {
        let words = ["-c", "1", "-W", "5"].map(str::to_owned).into_iter().chain([ip.to_string()]);
        let pinged = host.run(Path::new("ping"), &words.collect::<Vec<_>>());
        findings.push(match pinged {
            Ok(ran) if ran.is_good => Finding::ok("network", format!("{ip} answers a ping")),
            Ok(_) => Finding::failed(
                "network",
                format!("{ip} does not answer a ping"),
                "look at the route: ip route get IP",
            ),
            Err(_) => Finding::warning(
                "network",
                format!("{ip} was not tried, since there is no ping here"),
                "install it: apt-get install iputils-ping",
            ),
        });
    }
    let servers = match &options.cloud_hub_server {
        Some(server) => vec![server.clone()],
        None => servers(&text(host, &options.config.display().to_string())),
    };
    if servers.is_empty() && options.ip.is_none() {
        let found = format!("no cloud to try: {} names none", options.config.display());
        findings.push(Finding::warning("network", found, "name it: keadm debug check network -s HOST:PORT"));
    }
    for server in servers {
        findings.push(match reach.connect(&server) {
            Ok(()) => Finding::ok("network", format!("the cloud takes connections at {server}")),
            Err(error) => Finding::failed(
                "network",
                format!("the cloud takes no connection at {server}: {error}"),
                "see that cloudcore runs and that no firewall on the way closes this port",
            ),
        });
    }
    findings
}

/// Where the configuration says that the cloud is. Over QUIC nobody answers a TCP connection.
fn servers(config: &str) -> Vec<String> {
    let config: Value = serde_saphyr::from_str(config).unwrap_or_default();
    let text = |path: &str| config.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
    let https =
        text("/modules/edgeHub/httpServer").trim_start_matches("https://").trim_end_matches('/').to_owned();
    let is_off = config.pointer("/modules/edgeHub/websocket/enable") == Some(&Value::Bool(false));
    let websocket = if is_off { String::new() } else { text("/modules/edgeHub/websocket/server") };
    [websocket, https].into_iter().filter(|server| !server.is_empty()).collect()
}

fn runtime(host: &dyn Host, config: &Path) -> Vec<Finding> {
    let looked = Edgecore::find(host, Some(config)).and_then(|edgecore| edgecore.preflight());
    match looked {
        Ok(findings) => {
            let is_of_runtime =
                |finding: &Finding| ["runtime", "cgroups", "network"].contains(&finding.check.as_str());
            let of_runtime = findings.into_iter().filter(is_of_runtime);
            of_runtime.map(|finding| Finding { check: "runtime".to_owned(), ..finding }).collect()
        }
        Err(why) => vec![Finding::failed("runtime", "edgecore could not look at the runtime", why)],
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::host::fake::FakeHost;
    use crate::look::Verdict;
    use crate::render::PROGRAM;

    struct Nowhere;

    impl Reach for Nowhere {
        fn resolve(&self, name: &str, _: Option<IpAddr>) -> io::Result<Vec<IpAddr>> {
            Ok(if name == "known" { vec![IpAddr::from([10, 0, 0, 1])] } else { vec![] })
        }

        fn connect(&self, address: &str) -> io::Result<()> {
            if address == "here:1" { Ok(()) } else { Err(io::Error::other("refused")) }
        }
    }

    #[test]
    fn limits_are_kept() {
        let check = |finding: Finding, expected: Verdict| {
            assert_eq!(finding.verdict, expected, "{}", finding.line());
            assert_eq!(finding.advice.is_empty(), expected == Verdict::Ok, "{}", finding.line());
        };
        let stat = |busy: u64, idle: u64| format!("cpu {busy} 0 0 {idle} 0 0 0 0 0 0\ncpu0 1 1\n");
        check(judge_cpu(&stat(100, 100), &stat(190, 110)), Verdict::Ok);
        check(judge_cpu(&stat(100, 100), &stat(195, 105)), Verdict::Failed);
        check(judge_cpu("", ""), Verdict::Warning);
        let memory = |total: u64, free: u64| {
            judge_memory(&format!(
                "MemTotal: {} kB\nMemFree: 1 kB\nMemAvailable: {} kB\n",
                total << 10,
                free << 10
            ))
        };
        check(memory(256, 128), Verdict::Ok);
        check(memory(255, 200), Verdict::Failed);
        check(memory(4000, 127), Verdict::Failed);
        check(judge_memory(""), Verdict::Warning);
        let disk = |total: u64, free: u64| {
            judge_disk("/x", &format!("head\n/dev/a {} 1 {} 1% /x\n", total << 10, free << 10))
        };
        check(disk(1024, 512), Verdict::Ok);
        check(disk(1023, 512), Verdict::Failed);
        check(disk(9000, 511), Verdict::Failed);
        check(judge_disk("/x", "df: broken"), Verdict::Warning);
        check(judge_pids("1000\n", "0.1 0.1 0.1 1/940 77"), Verdict::Ok);
        check(judge_pids("1000\n", "0.1 0.1 0.1 1/950 77"), Verdict::Failed);
        check(judge_pids("", ""), Verdict::Warning);
    }

    #[test]
    fn the_cloud_and_names_are_tried() {
        let host = FakeHost::new(&[]);
        let config = "modules: {edgeHub: {httpServer: 'https://away:2', websocket: {server: 'here:1'}}}";
        host.files.borrow_mut().insert(CONFIG.into(), Some(config.as_bytes().to_vec()));
        let check = |what: What, change: &dyn Fn(&mut Options), expected: &[&str]| {
            let mut options = Options { domain: "known".into(), config: CONFIG.into(), ..Options::default() };
            change(&mut options);
            let lines: Vec<String> =
                look(&host, &Nowhere, what, &options).iter().map(Finding::line).collect();
            assert_eq!(lines.len(), expected.len(), "{lines:?}");
            lines
                .iter()
                .zip(expected)
                .for_each(|(line, expected)| assert!(line.contains(expected), "{line}"));
        };
        check(
            What::Network,
            &|_| {},
            &["ok: network: the cloud takes connections at here:1", "no connection at away:2"],
        );
        check(What::Network, &|options| options.cloud_hub_server = Some("here:1".into()), &["ok: network"]);
        check(What::Network, &|options| options.config = "/none".into(), &["-s HOST:PORT"]);
        check(What::Dns, &|_| {}, &["ok: dns: this machine's DNS says that known is 10.0.0.1"]);
        check(What::Dns, &|options| options.domain = "x".into(), &["knows no address of x"]);
        check(What::Runtime, &|_| {}, &["there is no edgecore on this machine"]);
    }

    #[test]
    fn the_runtime_is_edgecores_to_judge() {
        let host = FakeHost::new(&[PROGRAM]);
        let report = r#"{"findings":[{"check":"runtime","verdict":"failed","found":"no runtime","advice":"start it"},{"check":"clock","verdict":"ok","found":"x"}]}"#;
        host.prints.borrow_mut().push((PROGRAM.into(), report.into()));
        let findings =
            look(&host, &Nowhere, What::Runtime, &Options { config: CONFIG.into(), ..Options::default() });
        assert_eq!(findings, [Finding::failed("runtime", "no runtime", "start it")]);
    }
}
