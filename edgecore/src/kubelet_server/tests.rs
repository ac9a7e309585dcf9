//! Requests over a byte stream of the process, with a store, a runtime in memory and a scripted streaming server.

pub(crate) mod bench;
mod doors;
mod mirrors;
mod streams;

use serde_json::json;

use self::bench::Bench;

#[tokio::test]
async fn logs_have_the_kubelets_statuses_and_words() {
    let bench = Bench::start().await;
    let log = "/containerLogs/shop/web/app";
    bench.check("GET", log, 200, "one\ntwo\n").await;
    bench
        .check("GET", &format!("{log}?tailLines=1&timestamps=true"), 200, "2026-01-31T12:00:01Z two\n")
        .await;
    bench.check("GET", &format!("{log}?stream=Stderr"), 200, "two\n").await;
    bench.check("GET", &format!("{log}?limitBytes=3"), 200, "one").await;
    bench.check("GET", &format!("{log}?sinceTime=2026-01-31T12:00:01Z"), 200, "two\n").await;
    bench.check("GET", &format!("{log}?tailLines=-1"), 400, "tailLines: found \"-1\"").await;
    bench.check("GET", &format!("{log}?sinceSeconds=x"), 400, "sinceSeconds").await;
    bench.check("GET", &format!("{log}?tailLines=%zz"), 400, "not URL-encoded").await;
    bench
        .check(
            "GET",
            &format!("{log}?previous=true"),
            400,
            "previous terminated container \"app\" in pod \"web\" not found",
        )
        .await;
    bench.check("GET", "/containerLogs/shop/no/app", 404, "pod \"no\" does not exist").await;
    bench.check("GET", "/containerLogs/other/web/app", 404, "pod \"web\" does not exist").await;
    let unknown = "container \"no\" not found in pod \"web\"";
    bench.check("GET", "/containerLogs/shop/web/no", 404, unknown).await;
    let waiting = "container \"side\" in pod \"web\" is waiting to start: ContainerCreating";
    bench.check("GET", "/containerLogs/shop/web/side", 400, waiting).await;
    // Its files went with something else.
    std::fs::remove_dir_all(bench.logs()).unwrap();
    bench.check("GET", log, 400, "unable to retrieve container logs for container ").await;
}

#[tokio::test]
async fn a_followed_log_ends_with_its_container() {
    let bench = Bench::start().await;
    let mut caller = bench.ask_open("GET", "/containerLogs/shop/web/app?follow=true&tailLines=0", "").await;
    // Before there is anything to say.
    let head = caller.head().await;
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    bench.log_line("2026-01-31T12:00:02Z stdout F three\n");
    caller.expect("three\n").await;
    bench.runtime.exit_container(&bench.container, 0, "Completed");
    caller.expect("0\r\n\r\n").await;
    caller.end().await;
}

#[tokio::test]
async fn a_follower_who_goes_leaves_nothing() {
    let bench = Bench::start().await;
    let mut caller = bench.ask_open("GET", "/containerLogs/shop/web/app?follow=true", "").await;
    caller.expect("two\n").await;
    let served = caller.go();
    tokio::time::timeout(bench::PATIENCE, served).await.unwrap().unwrap();
}

#[tokio::test]
async fn who_reads_slowly_has_little_of_a_log_waiting() {
    let bench = Bench::start().await;
    let lines: String = (0..200_000).map(|n| format!("2026-01-31T12:00:02Z stdout F line {n}\n")).collect();
    bench.log_line(&lines);
    // An older version of HTTP: what comes is the log and nothing else.
    let mut caller = bench.say("GET /containerLogs/shop/web/app HTTP/1.0\r\n\r\n").await;
    caller.head().await;
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    let n_read = bench::position(&bench.logs().join("0.log"));
    assert!((1..512 << 10).contains(&n_read), "{n_read} of {} bytes were read", lines.len());
    let log = caller.end().await;
    assert_eq!(log.lines().count(), 200_002);
    assert!(log.ends_with("line 199998\nline 199999\n"));
}

#[tokio::test]
async fn commands_are_run_without_a_shell() {
    let bench = Bench::start().await;
    bench.runtime.set_exec("date", 0, "today");
    bench.check("POST", "/run/shop/web/app?cmd=date", 200, "today").await;
    bench.check("POST", "/run/shop/web/u1/app?cmd=date+-u", 200, "today").await;
    bench.check("POST", "/run/shop/web/app?cmd=$(reboot);x", 200, "").await;
    assert!(bench.runtime.changes().last().unwrap().ends_with(" $(reboot);x"));
    bench.runtime.set_exec("false", 7, "");
    bench.check("POST", "/run/shop/web/app?cmd=false", 500, "command 'false' exited with 7").await;
    bench.check("POST", "/run/shop/web/app", 400, "\"cmd\" is required").await;
    bench.check("POST", "/run/shop/web/side?cmd=date", 500, "container not found (\"side\")").await;
    bench.check("POST", "/run/shop/web/u2/app?cmd=date", 404, "pod does not exist").await;
}

#[tokio::test]
async fn a_container_that_was_made_anew_has_its_own_log() {
    let bench = Bench::start().await;
    let ended = json!({"terminated": {"exitCode": 1, "containerID": "fake://before", "finishedAt": null}});
    bench
        .status(json!({"name": "app", "restartCount": 1, "state": {"running": {}}, "lastState": ended}))
        .await;
    std::fs::write(bench.logs().join("1.log"), "2026-01-31T12:00:09Z stdout F again\n").unwrap();
    bench.check("GET", "/containerLogs/shop/web/app", 200, "again\n").await;
    bench.check("GET", "/containerLogs/shop/web/app?previous=true", 200, "one\ntwo\n").await;
}
