//! `keadm ctl` on a node whose cloud is away: pods, logs, commands, restarts and devices.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use std::path::PathBuf;
use std::process::{Command, Output};

use anyhow::{Context, Result, ensure};
use e2e::devices::Mapper;
use e2e::node::binary;
use e2e::site::{NODE, PATIENCE, Site, Wishes, shell_pod};
use e2e::wait::{Seen, eventually};
use serde_json::{Value, json};

struct Ctl {
    keadm: PathBuf,
    config: PathBuf,
}

impl Ctl {
    fn run(&self, words: &str) -> Result<Output> {
        let config = format!("--config={}", self.config.display());
        let (ctl, command) = words.split_once(" -- ").unwrap_or((words, ""));
        let mut keadm = Command::new(&self.keadm);
        keadm.args(["ctl", &config]).args(ctl.split(' '));
        if !command.is_empty() {
            keadm.args(["--", "sh", "-c", command]);
        }
        keadm.output().context("start keadm")
    }

    fn say(&self, words: &str) -> Result<String> {
        let output = self.run(words)?;
        ensure!(output.status.success(), "{words}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8(output.stdout)?)
    }

    fn fails(&self, words: &str, code: i32, expected: &str) -> Result<()> {
        let output = self.run(words)?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.code() == Some(code), "{words}: {:?} {told}", output.status.code());
        ensure!(told.contains(expected), "{words}: no {expected:?} in {told}");
        Ok(())
    }

    fn has_pieces(&self, words: &str) -> Result<bool> {
        Ok(self.say(words)?.lines().any(|line| line.starts_with("press") && line.contains("pieces=")))
    }

    fn pod(&self, name: &str) -> Result<Value> {
        Ok(serde_json::from_str(&self.say(&format!("get pod {name} -o json"))?)?)
    }
}

const MODEL: &str = r#"{
    "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
    "metadata": {"name": "machine", "namespace": "default"},
    "spec": {"protocol": "virtual", "properties": [{"name": "pieces", "type": "INT", "accessMode": "ReadOnly"}]}
}"#;

fn device() -> String {
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "press", "namespace": "default"},
        "spec": {
            "deviceModelRef": {"name": "machine"}, "nodeName": NODE,
            "protocol": {"protocolName": "virtual", "configData": {}},
            "properties": [{"name": "pieces", "collectCycle": 100, "reportToCloud": true,
                "visitors": {"protocolName": "virtual", "configData": {"signal": "counter"}}}],
        },
    })
    .to_string()
}

#[test]
fn a_node_without_its_cloud_is_looked_at_and_handled() -> Result<()> {
    let keadm = binary("keadm", "ISTHMUS_KEADM")?;
    let mut site = Site::start("ctl", &Wishes::default())?;
    let ctl = Ctl { keadm, config: site.edge.config().to_owned() };
    let _mapper = Mapper::start("mapper-virtual", "virtual", &site.edge)?;
    site.cluster.apply(MODEL)?;
    site.cluster.apply(&device())?;
    // A line of 20,000 letters is several of the runtime's.
    let script = "trap 'echo bye; exit 0' TERM; head -c 20000 /dev/zero | tr '\\0' x; echo; \
                  for n in 1 2 3 4 5; do echo line $n; done; while true; do sleep 1; done";
    site.cluster.apply(&shell_pod("talker", script, &json!({})))?;
    site.cluster.apply(&shell_pod(
        "once",
        "trap 'exit 0' TERM; while true; do sleep 1; done",
        &json!({"restartPolicy": "Never"}),
    ))?;
    site.wait_running("talker")?;
    site.wait_running("once")?;

    // Device and model came, each by itself, and its mapper has said something.
    eventually(PATIENCE, "pieces of the press", || {
        Ok(if ctl.has_pieces("get device -o wide")? {
            Seen::Yes(())
        } else {
            Seen::NotYet(ctl.say("get device")?)
        })
    })?;

    site.cut();
    site.cloud.process.stop()?;

    let table = ctl.say("get pod -o wide")?;
    ensure!(table.starts_with("NAME "), "{table}");
    let row = table.lines().find(|line| line.starts_with("talker")).context(table.clone())?;
    let words: Vec<&str> = row.split_whitespace().collect();
    ensure!(words[1..4] == ["1/1", "Running", "0"] && words[6] == NODE, "{row}");
    ensure!(ctl.say("get pod -l app=once")?.lines().count() == 2, "one pod has the label");
    ctl.fails("get pod nobody", 3, "this node has no pod nobody")?;
    ensure!(ctl.say("describe pod talker")?.contains("Restart Count:  0"), "describe");

    eventually(PATIENCE, "all lines in the log", || {
        let log = ctl.say("logs talker --tail 2")?;
        Ok(if log == "line 4\nline 5\n" { Seen::Yes(()) } else { Seen::NotYet(log) })
    })?;
    let log = ctl.say("logs talker --tail 6")?;
    ensure!(log.starts_with(&format!("{}\nline 1\n", "x".repeat(20_000))), "{} bytes", log.len());
    ensure!(ctl.say("logs talker --limit-bytes 3")? == "xxx", "three bytes");
    let stamped = ctl.say("logs talker --tail 1 --timestamps")?;
    ensure!(stamped.starts_with("20") && stamped.ends_with("Z line 5\n"), "{stamped}");
    ctl.fails("logs talker -p", 3, "no previous log")?;

    ensure!(ctl.say("exec talker -c main -- echo $((6 * 7))")? == "42\n", "exec");
    ctl.fails("exec talker -- echo no >&2; exit 7", 7, "no\n")?;
    ctl.fails("exec talker --timeout-secs 1 -- sleep 100", 1, "did not end within 1 s")?;

    let before = ctl.pod("talker")?;
    let id = |pod: &Value| pod["status"]["containerStatuses"][0]["containerID"].clone();
    // A log that is followed ends with its container.
    let config = format!("--config={}", ctl.config.display());
    let mut following = Command::new(&ctl.keadm);
    following.args(["ctl", &config, "logs", "talker", "-f", "--tail", "1"]);
    let following = following.stdout(std::process::Stdio::piped()).spawn()?;
    let told = ctl.say("restart pod talker")?;
    ensure!(told.contains("container main was ended; it is started again"), "{told}");
    let followed = following.wait_with_output()?;
    ensure!(followed.status.success(), "{:?}", followed.status);
    let followed = String::from_utf8(followed.stdout)?;
    ensure!(followed == "line 5\nbye\n" || followed == "bye\n", "{followed}");
    let after = eventually(PATIENCE, "the container to be started again", || {
        let pod = ctl.pod("talker")?;
        let status = &pod["status"]["containerStatuses"][0];
        let is_up = status["restartCount"] == 1 && status["ready"] == true;
        Ok(if is_up { Seen::Yes(pod) } else { Seen::NotYet(status.to_string()) })
    })?;
    ensure!(id(&after) != id(&before), "another container");
    ensure!(after["metadata"]["uid"] == before["metadata"]["uid"], "the same pod");
    ensure!(ctl.say("logs talker -p --tail 1")? == "bye\n", "the log of the first start");
    ensure!(ctl.say("restart pod once")?.contains("stays ended"), "its restart policy is Never");

    ensure!(ctl.has_pieces("get device -o wide")?, "values without the cloud");
    ensure!(ctl.say("describe device press")?.contains("pieces"), "describe");

    site.edge.process.stop()?;
    ctl.fails("get pod", 3, "edgecore does not run on this machine")?;
    // What an earlier run left is no hindrance.
    site.edge.process.kill9()?;
    site.edge.process.start()?;
    eventually(PATIENCE, "edgecore to answer again", || {
        let output = ctl.run("get pod talker")?;
        let told = String::from_utf8_lossy(&output.stderr).into_owned();
        Ok(if output.status.success() { Seen::Yes(()) } else { Seen::NotYet(told) })
    })
}
