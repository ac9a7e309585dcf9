//! `keadm debug check`: whether this machine has what edgecore needs. It asks the machine; `limits.rs` judges.

mod limits;

use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::ValueEnum;
use serde_json::Value;

use super::edgecore::Edgecore;
use super::finding::tell;
use super::{Failure, Form};
use crate::host::Host;
use crate::preflight::{Finding, Verdict};
use crate::reach::Reach;
use crate::render::CONFIG;

/// A name that the internet knows.
const OF_INTERNET: &str = "www.github.com";
/// Between two looks at the processors.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[arg(value_enum)]
    what: What,
    #[command(flatten)]
    pub(super) options: Options,
    /// How it is written.
    #[arg(short, long, value_enum, default_value = "text")]
    output: Form,
}

/// What to look up and to reach.
#[derive(Debug, Default, clap::Args)]
pub(super) struct Options {
    /// Name that must be known [default: the cloud's; where that is an address, www.github.com, which need not be]
    #[arg(short, long, value_name = "NAME")]
    pub(super) domain: Option<String>,
    /// Address that must answer a ping.
    #[arg(short, long)]
    pub(super) ip: Option<IpAddr>,
    /// The cloud, as host:port [default: as edgecore's configuration says]
    #[arg(short = 's', long = "cloud-hub-server", value_name = "HOST:PORT", value_parser = host_and_port)]
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
    tell(&findings(host, reach, args.what, &args.options), args.output)
}

/// Everything.
pub(super) fn everything(host: &dyn Host, reach: &dyn Reach, options: &Options) -> Vec<Finding> {
    findings(host, reach, What::All, options)
}

fn findings(host: &dyn Host, reach: &dyn Reach, what: What, options: &Options) -> Vec<Finding> {
    let mut findings = Vec::new();
    let is = |which: What| what == which || what == What::All;
    if is(What::Cpu) {
        findings.push(cpu(host));
    }
    if is(What::Mem) {
        findings.push(limits::memory(&text(host, "/proc/meminfo")));
    }
    if is(What::Disk) {
        findings.push(disk(host));
    }
    if is(What::Pid) {
        findings.push(limits::pids(&text(host, "/proc/sys/kernel/pid_max"), &text(host, "/proc/loadavg")));
    }
    if is(What::Dns) {
        findings.push(dns(host, reach, options));
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
    limits::cpu(&before, &text(host, "/proc/stat"))
}

fn disk(host: &dyn Host) -> Finding {
    let folder = ["/var/lib/kubeedge", "/var/lib"].into_iter().find(|folder| host.exists(Path::new(folder)));
    let folder = folder.unwrap_or("/");
    let said = host.run(Path::new("df"), &["-Pk".to_owned(), folder.to_owned()]);
    limits::disk(folder, &said.map(|ran| ran.stdout).unwrap_or_default())
}

/// As the flag takes it.
fn host_and_port(text: &str) -> Result<String, String> {
    let wrong =
        || "write HOST:PORT; examples: cloud.example:10000, 10.0.0.1:10000, [fd00::1]:10000".to_owned();
    let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
    let is_host = !host.is_empty() && (!host.contains(':') || host.starts_with('[') && host.ends_with(']'));
    let is_port = port.parse::<u16>().is_ok_and(|port| port != 0);
    if is_host && is_port { Ok(text.to_owned()) } else { Err(wrong()) }
}

/// The name in host:port; `None`: it is an address.
fn name_in(server: &str) -> Option<&str> {
    let (host, _) = server.rsplit_once(':')?;
    let is_name = host.trim_matches(['[', ']']).parse::<IpAddr>().is_err();
    is_name.then_some(host)
}

fn dns(host: &dyn Host, reach: &dyn Reach, options: &Options) -> Finding {
    let clouds = clouds(host, options);
    let needed = options.domain.as_deref().or_else(|| clouds.iter().find_map(|server| name_in(server)));
    match needed {
        Some(name) => look_up(reach, name, options.dns_ip),
        None => {
            let found = look_up(reach, OF_INTERNET, options.dns_ip);
            if found.verdict == Verdict::Ok {
                return found;
            }
            // Many machines at the edge reach no more than their cloud.
            let advice = "right for a machine without the internet; else look into /etc/resolv.conf, or try another name: \
                          keadm debug check dns -d NAME";
            Finding::warning("dns", found.found, advice)
        }
    }
}

fn look_up(reach: &dyn Reach, domain: &str, server: Option<IpAddr>) -> Finding {
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
    let servers = clouds(host, options);
    if servers.is_empty() && options.ip.is_none() {
        let found = format!("no cloud to try: {} names none", options.config.display());
        findings.push(Finding::warning("network", found, "name it: keadm debug check network -s HOST:PORT"));
    }
    findings.extend(servers.iter().map(|server| cloud(reach, server)));
    findings
}

/// Whether it takes a connection at host:port.
pub(super) fn cloud(reach: &dyn Reach, server: &str) -> Finding {
    match reach.connect(server) {
        Ok(()) => Finding::ok("network", format!("the cloud takes connections at {server}")),
        Err(error) => Finding::failed(
            "network",
            format!("the cloud takes no connection at {server}: {error}"),
            "see that cloudcore runs and that no firewall on the way closes this port",
        ),
    }
}

/// As named, or as the configuration says.
fn clouds(host: &dyn Host, options: &Options) -> Vec<String> {
    match &options.cloud_hub_server {
        Some(server) => vec![server.clone()],
        None => servers(&text(host, &options.config.display().to_string())),
    }
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
    // A machine that has not joined has none; edgecore's defaults ask for a cgroup driver, and join for the runtime's own.
    let (config, words) = match host.exists(config) {
        true => (config, ["runtime", "network", "cgroups"].as_slice()),
        false => (Path::new("/dev/null"), ["runtime", "network"].as_slice()),
    };
    let looked = Edgecore::find(host, Some(config)).and_then(|edgecore| edgecore.preflight());
    match looked {
        Ok(findings) => {
            let is_of_runtime = |finding: &Finding| words.contains(&finding.check.as_str());
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
    fn the_cloud_and_names_are_tried() {
        let host = FakeHost::new(&[]);
        let config = "modules: {edgeHub: {httpServer: 'https://away:2', websocket: {server: 'here:1'}}}";
        host.files.borrow_mut().insert(CONFIG.into(), Some(config.as_bytes().to_vec()));
        let check = |what: What, change: &dyn Fn(&mut Options), expected: &[&str]| {
            let mut options = Options { config: CONFIG.into(), ..Options::default() };
            change(&mut options);
            let lines: Vec<String> =
                findings(&host, &Nowhere, what, &options).iter().map(Finding::line).collect();
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
        let known = "ok: dns: this machine's DNS says that known is 10.0.0.1";
        check(What::Dns, &|options| options.domain = Some("known".into()), &[known]);
        check(
            What::Dns,
            &|options| options.domain = Some("x".into()),
            &["failed: dns: this machine's DNS knows no"],
        );
        // The cloud's name is needed, any other is not.
        check(What::Dns, &|_| {}, &["failed: dns: this machine's DNS knows no address of here"]);
        check(What::Dns, &|options| options.cloud_hub_server = Some("known:1".into()), &[known]);
        for address in ["10.0.0.1:10000", "[fd00::1]:10000"] {
            let of_internet = "warning: dns: this machine's DNS knows no address of www.github.com";
            check(What::Dns, &|options| options.cloud_hub_server = Some(address.into()), &[of_internet]);
        }
        check(What::Dns, &|options| options.config = "/none".into(), &["warning: dns: "]);
        check(What::Runtime, &|_| {}, &["there is no edgecore on this machine"]);
    }

    #[test]
    fn a_cloud_has_a_port() {
        for good in ["cloud.example:10000", "10.0.0.1:1", "[fd00::1]:10000"] {
            assert_eq!(host_and_port(good).as_deref(), Ok(good));
        }
        for wrong in ["foo", "", ":1", "foo:", "foo:0", "foo:x", "fd00::1:10000"] {
            assert!(host_and_port(wrong).unwrap_err().contains("HOST:PORT"), "{wrong}");
        }
    }

    #[test]
    fn the_runtime_is_edgecores_to_judge() {
        let host = FakeHost::new(&[PROGRAM]);
        let report = r#"{"findings":[{"check":"runtime","verdict":"failed","found":"no runtime","advice":"start it"},{"check":"clock","verdict":"ok","found":"x"},{"check":"cgroups","verdict":"ok","found":"cgroupfs"}]}"#;
        host.prints.borrow_mut().push((PROGRAM.into(), report.into()));
        let look = || {
            let options = Options { config: CONFIG.into(), ..Options::default() };
            findings(&host, &Nowhere, What::Runtime, &options)
        };
        // Before it has joined.
        assert_eq!(look(), [Finding::failed("runtime", "no runtime", "start it")]);
        assert!(
            host.ran.borrow().concat().contains("--config /dev/null preflight"),
            "{:?}",
            host.ran.borrow()
        );
        host.files.borrow_mut().insert(CONFIG.into(), Some(Vec::new()));
        let both = [Finding::failed("runtime", "no runtime", "start it"), Finding::ok("runtime", "cgroupfs")];
        assert_eq!(look(), both);
    }
}
