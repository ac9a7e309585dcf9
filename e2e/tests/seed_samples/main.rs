//! The samples that readers of other documents bring along: commands as they are typed there, manifests with the same fields,
//! and what is expected of each. What is not answered yet stands in [`seeds::ANSWERS`].
//!
//! One cloud for all of them: a stock node on which `keadm init` runs cloudcore, and a machine of its own network that becomes
//! `edge-node-1`. systemd is not PID 1 there: a systemctl that writes down what it is asked starts what the unit says.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

mod bench;
mod seeds;

use std::time::Instant;

use anyhow::{Context, Result, ensure};
use bench::{Bench, EDGE, SYSTEMCTL_LOG};
use e2e::devices::{Mapper, ModbusDevice, condition};
use e2e::joined::{must, told};
use e2e::site::{PATIENCE, http_get, is_ready};
use e2e::wait::{Seen, eventually, until};
use seeds::{ANSWERS, Answer, Seeds};
use serde_json::Value;

#[test]
fn samples_do_what_their_readers_expect() -> Result<()> {
    let begun = Instant::now();
    let seeds = Seeds::open()?;
    let bench = Bench::start()?;
    let mark = |what: &str| eprintln!("{:6.1} s  {what}", begun.elapsed().as_secs_f64());
    mark("a cluster, and a machine");
    let token = the_cloud_is_installed(&seeds, &bench)?;
    mark("the cloud is installed");
    the_machine_joins(&seeds, &bench, &token)?;
    mark("the machine has joined");
    pods_run_as_they_say(&seeds, &bench)?;
    mark("pods run");
    devices_are_read(&seeds, &bench)?;
    mark("devices are read");
    an_app_lives_through_a_cut(&bench)?;
    mark("an app lives through a cut");
    a_partial_configuration_is_taken(&seeds, &bench)?;
    mark("a partial configuration is taken");
    others_are_refused(&seeds, &bench)?;
    seeds.all_were_shown()
}

/// 000-09 and 002-01. Gives the join token.
fn the_cloud_is_installed(seeds: &Seeds, bench: &Bench) -> Result<String> {
    let address = bench.cloud.address().to_string();
    let commands = seeds.commands("000-09", &["keadm", "kubectl"], &|_| address.clone())?;
    ensure!(commands.len() == 4, "{commands:?}");
    let said: Vec<String> =
        commands.iter().map(|command| bench.type_in_cloud(command)).collect::<Result<_>>()?;
    ensure!(said[0].contains("v1.15.0 is a version of KubeEdge"), "{}", said[0]);
    let pods: Vec<&str> = said[1].lines().skip(1).collect();
    ensure!(
        pods.len() == 1 && pods[0].starts_with("cloudcore-") && pods[0].contains(" Running "),
        "{pods:?}"
    );
    let token = said[2].trim().to_owned();
    ensure!(said[3].trim() == token, "the token is another one at once");
    let (hash, jwt) = token.split_once('.').context("no CA in the token")?;
    ensure!(
        hash.len() == 64 && jwt.starts_with("eyJ") && jwt.split('.').count() == 3,
        "a token of another form"
    );

    // The object that readers know, and their own one, which lacks its volumes.
    let ours = bench.cluster.kubectl_json(&["get", "deployment", "cloudcore", "--namespace=kubeedge"])?;
    let sample = seeds.ours("002-01")?;
    let theirs: Value = serde_saphyr::from_str(&sample)?;
    for path in ["/spec/selector/matchLabels", "/spec/template/spec/hostNetwork"] {
        ensure!(ours.pointer(path) == theirs.pointer(path), "{path}: {ours}");
    }
    for (label, value) in theirs["spec"]["template"]["metadata"]["labels"].as_object().context("no labels")? {
        ensure!(ours["spec"]["template"]["metadata"]["labels"][label] == *value, "{label}");
    }
    let refused = told(&bench.create(&sample)?);
    ensure!(refused.contains("volumeMounts[0].name: Not found: \"certs\""), "{refused}");
    Ok(token)
}

/// 000-10, 000-26 and 000-24.
fn the_machine_joins(seeds: &Seeds, bench: &Bench, token: &str) -> Result<()> {
    let fill = |flag: &str| match flag {
        "--token" => token.to_owned(),
        _ => bench.cloud.address().to_string(),
    };
    // containerd makes cgroups itself here: refused, with what to type.
    let plain = seeds.commands("000-10", &["keadm", "systemctl"], &fill)?;
    ensure!(plain.len() == 2, "{plain:?}");
    let refused = bench.type_on_edge(&plain[0])?;
    ensure!(refused.status.code() == Some(3), "{}", told(&refused));
    ensure!(told(&refused).contains("type --cgroupdriver=cgroupfs"), "{}", told(&refused));
    let as_told = |command: &str| command.replace("--cgroupdriver=systemd", "--cgroupdriver=cgroupfs");
    let planned = must(&bench.type_on_edge(&format!("{} --dry-run", as_told(&plain[0])))?)?;
    ensure!(planned.contains("systemctl enable --now edgecore"), "{planned}");
    ensure!(bench.edge.machine.read(SYSTEMCTL_LOG)?.is_empty(), "systemctl was asked something");

    // A reservation that leaves nothing is told with its figures, and one that is no amount is refused.
    let reserves = |cpu: &str| {
        let key = "modules.edged.tailoredKubeletConfig.systemReserved.cpu";
        bench.type_on_edge(&format!("{} --dry-run --set {key}={cpu}", as_told(&plain[0])))
    };
    let warned = must(&reserves("1000000m")?)?;
    ensure!(
        warned.contains("warning: no cpu is left for pods: systemReserved and kubeReserved keep 1000"),
        "{warned}"
    );
    let refused = reserves("much")?;
    ensure!(refused.status.code() == Some(3), "{}", told(&refused));
    ensure!(told(&refused).contains("expected an amount such as 500m or 512Mi"), "{}", told(&refused));

    let with_path = seeds.commands("000-26", &["keadm"], &fill)?;
    let kubelet = bench.edge.machine.run_dir().write("kubelet.yaml", seeds.ours("000-24")?)?;
    // What a machine within a machine needs: pods below a cgroup that is swept, and the disk is another's.
    let command = format!(
        "{} --kubelet-config={} --set modules.edged.tailoredKubeletConfig.cgroupRoot={} \
         --set 'modules.edged.tailoredKubeletConfig.evictionHard.nodefs\\.available=1%' \
         --set 'modules.edged.tailoredKubeletConfig.evictionHard.imagefs\\.available=1%' \
         --set modules.edged.tailoredKubeletConfig.imageGCHighThresholdPercent=100",
        as_told(&with_path[0]),
        kubelet.display(),
        bench.edge.runtime.cgroup_root()
    );
    let joined = must(&bench.type_on_edge(&command)?)?;
    ensure!(joined.contains("node edge-node-1 is Ready"), "{joined}");
    ensure!(!joined.contains("Reserved"), "a reservation is warned about: {joined}");
    let asked = bench.edge.machine.read(SYSTEMCTL_LOG)?;
    ensure!(asked.lines().collect::<Vec<_>>() == ["daemon-reload", "enable --now edgecore"], "{asked}");
    let unit = "/etc/systemd/system/edgecore.service";
    let verified = bench.edge.shell(&format!("systemd-analyze verify {unit} 2>&1"))?;
    ensure!(verified.is_empty(), "{verified}");
    let status = must(&bench.type_on_edge(&plain[1])?)?;
    ensure!(status.contains("active (running)"), "{status}");

    let modes = bench.edge.shell("cd /etc/kubeedge/certs; stat --format='%n %a' server.crt server.key")?;
    ensure!(modes.contains("server.crt") && modes.ends_with("server.key 600"), "{modes}");
    let nodes = bench.cluster.kubectl_ok(&["get", "nodes"])?;
    let row: Vec<&str> =
        nodes.lines().find(|row| row.starts_with(EDGE)).context("no row")?.split_whitespace().collect();
    ensure!(row[1..3] == ["Ready", "agent,edge"], "{nodes}");

    // Half a processor and 512Mi twice, and what makes the node short.
    let node = bench.cluster.kubectl_json(&["get", "node", EDGE])?;
    let of = |list: &str, resource: &str| -> Result<u64> {
        let text = node["status"][list][resource].as_str().context("no amount")?;
        let (number, factor) = match (text.strip_suffix("Ki"), text.strip_suffix('m')) {
            (Some(kib), _) => (kib, 1024),
            (_, Some(millis)) => (millis, 1),
            _ => (text, 1000),
        };
        Ok(number.parse::<u64>()? * factor)
    };
    let (cpu, memory) = ("cpu", "memory");
    ensure!(of("capacity", cpu)? - of("allocatable", cpu)? == 1000, "{}", node["status"]);
    let shrunk = (of("capacity", memory)? - of("allocatable", memory)?) >> 20;
    ensure!(shrunk == 1024 + 256, "{shrunk} MiB are kept");
    Ok(())
}

/// 000-14, 000-25, 000-28, 000-29, 002-02, 002-03 and 002-14.
fn pods_run_as_they_say(seeds: &Seeds, bench: &Bench) -> Result<()> {
    // Samples say nothing of where; the ordinary node takes no more, and what is a DaemonSet runs there without its image.
    bench.cluster.kubectl_ok(&["cordon", bench.cloud.name()])?;
    for namespace in ["monitoring", "logging", "probed"] {
        bench.cluster.kubectl_ok(&["create", "namespace", namespace])?;
    }
    for (id, namespace) in [
        ("000-14", "default"),
        ("000-25", "default"),
        ("000-28", "monitoring"),
        ("000-29", "logging"),
        ("002-02", "kube-system"),
        ("002-03", "probed"),
        ("002-14", "logging"),
    ] {
        bench.apply(&seeds.ours(id)?, namespace).with_context(|| id.to_owned())?;
    }
    bench.apply(&bench::reads_configs(), "logging")?;

    let app = bench.ready("default", "app=edge-app")?;
    ensure!(app["spec"]["nodeName"] == EDGE, "{}", app["spec"]);

    // Limits of the container, as its kernel has them, and the kill at the limit.
    let pod = bench.wait_pod("default", "edge-app")?;
    ensure!(pod["status"]["qosClass"] == "Burstable", "{}", pod["status"]);
    let limits = bench.limits("edge-app", "default")?;
    ensure!(limits == (512 << 20, 50_000), "{limits:?}");
    let eats = "ctl exec edge-app -- sh -c 'head -c 700m /dev/zero | tail >/dev/null; echo ended with $?'";
    let eaten = bench.type_on_edge(&format!("keadm {eats}"))?;
    ensure!(told(&eaten).contains("ended with 137") || eaten.status.code() == Some(137), "{}", told(&eaten));

    let probed = bench.ready("probed", "app=edge-app")?;
    let name = probed["metadata"]["name"].as_str().context("no name")?;
    ensure!(bench.limits(name, "probed")? == (128 << 20, 20_000), "002-03 has other limits");

    // One on every edge node, on its network, with its processes and file systems, and one dollar for two.
    let exporter = bench.ready("monitoring", "app=node-exporter")?;
    let address = bench.edge.machine.address().context("no address")?.to_string();
    let arguments = http_get(&address, 9100, "/arguments")?;
    let expected = "--path.procfs=/host/proc\n--path.sysfs=/host/sys\n\
                    --collector.filesystem.mount-points-exclude=^/(sys|proc|dev|host|etc)($|/)\n";
    ensure!(arguments == expected, "{arguments}");
    let name = exporter["metadata"]["name"].as_str().context("no name")?;
    let this = std::process::id();
    let sees = format!("test -d /proc/{this} && test -d /host/proc/{this} && test -d /host/sys/class/net");
    must(&bench.type_on_edge(&format!("keadm ctl exec {name} -n monitoring -- sh -c '{sees}'"))?)?;
    let touched = format!("keadm ctl exec {name} -n monitoring -- touch /host/sys/written");
    ensure!(!bench.type_on_edge(&touched)?.status.success(), "/host/sys can be written");

    bench.ready("kube-system", "k8s-app=yurthub")?;
    let arguments = http_get(&address, 10261, "/arguments")?;
    ensure!(
        arguments == format!("--server-addr=https://192.168.1.100:6443\n--node-name={EDGE}\n"),
        "{arguments}"
    );

    // The collectors' files, letter by letter.
    for (id, file) in [("000-29", "fluent-bit.conf"), ("002-14", "fluent.conf")] {
        let sample: Value = serde_saphyr::from_str(&seeds.ours(id)?)?;
        let read = format!("keadm ctl exec reads -n logging -- cat /{id}/{file}");
        let read = bench.type_on_edge(&read)?;
        ensure!(read.status.success(), "{}", told(&read));
        ensure!(sample["data"][file] == *String::from_utf8_lossy(&read.stdout), "{}", told(&read));
    }
    Ok(())
}

/// 000-11, 000-12 and 000-13.
fn devices_are_read(seeds: &Seeds, bench: &Bench) -> Result<()> {
    let cluster = &bench.cluster;
    until(PATIENCE, "the old version to be converted", || {
        Ok(bench.apply(&seeds.ours("000-11")?, "default").is_ok()
            && cluster.kubectl_json(&["get", "devicemodel", "temperature-sensor-model"])?["spec"]["properties"]
                [0]["type"]
                == "INT")
    })?;
    let sample = seeds.ours("000-12")?;
    bench.apply(&sample, "default")?;
    // It does not say where its values are: that is told, in its status and as an event.
    let told = eventually(PATIENCE, "the condition of a device without visitors", || {
        let device = cluster.kubectl_json(&["get", "device", "sensor-01"])?;
        Ok(condition(&device, "NoVisitors")
            .map_or_else(|| Seen::NotYet(device["status"].to_string()), Seen::Yes))
    })?;
    ensure!(told.contains("no visitors") && told.contains("\"temperature\", \"humidity\""), "{told}");
    until(PATIENCE, "an event about it", || {
        let events = cluster.kubectl_json(&["get", "events", "--field-selector=reason=NoVisitors"])?;
        Ok(events["items"][0]["involvedObject"]["name"] == "sensor-01")
    })?;

    // With visitors, and a line that is there, it runs.
    let plc = ModbusDevice::start()?;
    plc.set_on_line("holding", 0, 21)?;
    plc.set_on_line("holding", 1, 47)?;
    let _mapper = Mapper::start_in(&bench.edge.machine, "mapper-modbus", "modbus", "/etc/kubeedge/dmi.sock")?;
    let visitor = |name: &str, offset: u32| {
        format!(
            "    - {{propertyName: {name}, modbus: {{register: HoldingRegister, offset: {offset}, limit: 1}}, \
             collectCycle: 200000000, reportCycle: 200000000}}\n"
        )
    };
    // What is to be told to the cloud is a twin in the old version.
    let whole = format!(
        "{}\n  propertyVisitors:\n{}{}status:\n  twins: [{{propertyName: temperature}}, {{propertyName: humidity}}]\n",
        sample.trim_end().replace("/dev/ttyUSB0", &plc.line()?),
        visitor("temperature", 0),
        visitor("humidity", 1)
    );
    bench.apply(&whole, "default")?;
    let commands = seeds.commands("000-13", &["kubectl"], &|_| String::new())?;
    ensure!(commands.len() == 3, "{commands:?}");
    eventually(PATIENCE, "values of the sensor", || {
        let twins = bench.type_in_cloud(&commands[2])?;
        let has = |name: &str, value: &str| {
            let twins: Value = serde_json::from_str(&twins).unwrap_or_default();
            let all = twins.as_array().cloned().unwrap_or_default();
            all.iter().any(|twin| twin["propertyName"] == name && twin["reported"]["value"] == value)
        };
        Ok(if has("temperature", "21") && has("humidity", "47") {
            Seen::Yes(())
        } else {
            Seen::NotYet(twins)
        })
    })?;
    let list = bench.type_in_cloud(&commands[0])?;
    ensure!(list.contains("LASTONLINE") && list.contains("sensor-01") && list.contains(EDGE), "{list}");
    let described = bench.type_in_cloud(&commands[1])?;
    ensure!(described.contains("NoVisitors") && described.contains("Value:"), "{described}");
    Ok(())
}

/// The rest of 000-14.
fn an_app_lives_through_a_cut(bench: &Bench) -> Result<()> {
    let address = || -> Result<String> {
        let pod = bench.ready("default", "app=edge-app")?;
        Ok(pod["status"]["podIP"].as_str().context("no address")?.to_owned())
    };
    let pod = address()?;
    let serves = || bench.edge.shell(&format!("busybox wget -q -O - http://{pod}/arguments; echo served"));
    let containers = bench.edge.runtime.running()?;
    bench.edge.shell("ip link set eth0 down")?;
    bench.type_on_edge("systemctl restart edgecore")?;
    until(PATIENCE, "edgecore to be back", || {
        Ok(bench.type_on_edge("keadm ctl get pods")?.status.success())
    })?;
    ensure!(serves()?.contains("served"), "the app does not answer");
    ensure!(bench.edge.runtime.running()? == containers, "containers were touched");
    let gateway = bench.gateway();
    bench.edge.shell(&format!("ip link set eth0 up; ip route replace default via {gateway}"))?;
    ensure!(address()? == pod, "another pod");
    Ok(())
}

/// 000-22.
fn a_partial_configuration_is_taken(seeds: &Seeds, bench: &Bench) -> Result<()> {
    let sample = seeds.ours("000-22")?;
    let object: Value = serde_saphyr::from_str(&sample)?;
    let config = object["data"]["cloudcore.yaml"].as_str().context("no cloudcore.yaml")?;
    let check = |config: &str| bench.cloudcore_checks(config);
    let refused = check(config)?;
    ensure!(!refused.status.success(), "QUIC is taken: its sample is to be shown whole");
    ensure!(
        told(&refused).contains("modules.cloudHub.quic.enable: found true, but QUIC is not"),
        "{}",
        told(&refused)
    );
    // Without it, what is not said keeps its default, and the links come back.
    let without = sample.replace("quic: {enable: true", "quic: {enable: false");
    bench.apply(&without, "kubeedge")?;
    bench.cluster.kubectl_ok(&["uncordon", bench.cloud.name()])?;
    bench.cluster.kubectl_ok(&["rollout", "restart", "deployment/cloudcore", "--namespace=kubeedge"])?;
    let wait = ["rollout", "status", "deployment/cloudcore", "--namespace=kubeedge", "--timeout=60s"];
    bench.cluster.kubectl_ok(&wait)?;
    let is_linked = "keadm debug diagnose node";
    eventually(PATIENCE, "the node's link to the new cloudcore", || {
        let said = told(&bench.type_on_edge(is_linked)?);
        Ok(if said.contains("ok: node: the cloud calls this node Ready") {
            Seen::Yes(())
        } else {
            Seen::NotYet(said)
        })
    })
}

fn others_are_refused(seeds: &Seeds, bench: &Bench) -> Result<()> {
    for (name, _) in ANSWERS.iter().filter(|(_, answer)| *answer == Answer::Refused) {
        for file in seeds.refused(name)? {
            let file = file.display().to_string();
            let output = bench.cluster.kubectl(&["apply", "--dry-run=server", "--filename", &file])?;
            let is_unknown = told(&output).contains("no matches for kind");
            ensure!(!output.status.success() && is_unknown, "{file}: {}", told(&output));
        }
    }
    // Nothing of all that has left a pod of ours that is not well.
    for selector in ["app=edge-app", "app=node-exporter", "k8s-app=yurthub"] {
        let pods =
            bench.cluster.kubectl_json(&["get", "pods", "--all-namespaces", "--selector", selector])?;
        for pod in
            pods["items"].as_array().into_iter().flatten().filter(|pod| pod["spec"]["nodeName"] == EDGE)
        {
            ensure!(
                is_ready(pod) && pod["status"]["containerStatuses"][0]["restartCount"] == 0,
                "{}",
                pod["status"]
            );
        }
    }
    Ok(())
}
