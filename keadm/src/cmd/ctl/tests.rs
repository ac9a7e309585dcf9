//! Commands against an edgecore in memory.

use clap::Parser;

use super::*;
use crate::host::fake::FakeHost;
use crate::render::CONFIG;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

fn parse(line: &str) -> Args {
    Line::try_parse_from(std::iter::once("ctl").chain(line.split(' '))).unwrap().args
}

fn host(config: &str, answers: &[(&str, u16, Value)]) -> FakeHost {
    let host = FakeHost::new(&[]);
    host.files.borrow_mut().insert(CONFIG.into(), Some(config.as_bytes().to_vec()));
    let answers = answers.iter().map(|(line, status, body)| {
        let text = body.as_str().map_or_else(|| body.to_string(), str::to_owned);
        ((*line).to_owned(), *status, text)
    });
    *host.answers.borrow_mut() = answers.collect();
    host
}

const SOCKET: &str = "/var/lib/kubeedge/edgecore.sock";
const POD: &str = "/api/v1/namespaces/shop/pods/web";

#[test]
fn lines_become_questions() {
    let check = |line: &str, expected: &str| {
        let host = host("kind: EdgeCore", &[("GET /", 200, json!({}))]);
        // What is answered is no matter here.
        let _ = run(&host, &parse(line));
        assert_eq!(host.ran.borrow().concat(), format!("{SOCKET} {expected}"), "{line}");
    };
    check("get pod", "GET /api/v1/namespaces/default/pods");
    check("get pods -A", "GET /api/v1/pods");
    check("get pod web -n shop -o yaml", "GET /api/v1/namespaces/shop/pods/web");
    check(
        "get pod -l app=web,x!=y",
        "GET /api/v1/namespaces/default/pods?labelSelector=app%3Dweb%2Cx%21%3Dy",
    );
    check("get device -n plant", "GET /apis/devices.kubeedge.io/v1beta1/namespaces/plant/devices");
    check("describe device oven -n p", "GET /apis/devices.kubeedge.io/v1beta1/namespaces/p/devices/oven");
    check("logs web -n shop", &format!("GET {POD}/log"));
    check("logs ../x -n shop", "GET /api/v1/namespaces/shop/pods/..%2Fx/log");
    check(
        "logs web -n shop -c app -f -p --tail 0 --limit-bytes 9 --since-second 5 --timestamps",
        &format!(
            "GET {POD}/log?container=app&follow=true&previous=true&timestamps=true&tailLines=0&limitBytes=9&sinceSeconds=5"
        ),
    );
    check(
        "logs web -n shop --since-time 2026-01-31T12:00:00+01:00 --tail -1",
        &format!("GET {POD}/log?sinceTime=2026-01-31T12%3A00%3A00%2B01%3A00"),
    );
    check(
        "exec web -n shop -c app --timeout-secs 9 -- ls -l",
        &format!(r#"POST {POD}/exec {{"command":["ls","-l"],"container":"app","timeoutSeconds":9}}"#),
    );
    check("restart pod web -n shop", &format!("POST {POD}/restart {{}}"));
    check("unhold-upgrade pod web -n shop", r#"POST /api/v1/pods/unhold-upgrade "shop/web""#);
    check("unhold-upgrade node", r#"POST /api/v1/nodes/unhold-upgrade """#);
    check("unhold-upgrade node e1", r#"POST /api/v1/nodes/unhold-upgrade "e1""#);
}

#[test]
fn wrong_lines_are_refused() {
    for line in [
        "get",
        "get node",
        "get pod a -A",
        "get pod a -l b",
        "logs",
        "exec web",
        "exec web ls",
        "restart pod",
        "exec web --timeout-secs 0 -- ls",
    ] {
        let words = std::iter::once("ctl").chain(line.split(' '));
        assert!(Line::try_parse_from(words).is_err(), "{line}");
    }
}

#[test]
fn answers_become_words() {
    let answers = [
        ("GET /api/v1/namespaces/shop/pods/web/log".to_owned(), 200, json!("one\ntwo\n")),
        (format!("POST {POD}/exec"), 200, json!({"exitCode": 3, "stdout": "b3V0", "stderr": "ZXJy"})),
        (
            format!("POST {POD}/restart"),
            200,
            json!({"containers": [{"name": "app", "then": "it is started again"}]}),
        ),
        (
            "POST /api/v1/nodes/unhold-upgrade".to_owned(),
            200,
            json!({"released": [{"namespace": "shop", "name": "web"}]}),
        ),
        (
            "GET /api/v1/namespaces/shop/pods".to_owned(),
            200,
            json!({"items": [
                {"metadata": {"name": "web"}, "spec": {"containers": [{"name": "app"}]}, "status": {"phase": "Running"}},
            ]}),
        ),
    ];
    let answers: Vec<_> =
        answers.iter().map(|(line, status, body)| (line.as_str(), *status, body.clone())).collect();
    let host = host("kind: EdgeCore", &answers);
    let edge = Edge::find(&host, CONFIG.as_ref()).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    edge.stream(&format!("{POD}/log"), &mut out).unwrap();
    let What::Exec(exec) = parse("exec web -n shop -- ls").what else { panic!() };
    let ended = run_command(&edge, &exec, &mut out, &mut err).unwrap_err();
    assert!(matches!(ended, Failure::Ended(3)), "{ended}");
    restart_pod(&edge, "shop", "web", &mut out).unwrap();
    let What::UnholdUpgrade(what) = parse("unhold-upgrade node").what else { panic!() };
    unhold(&edge, &what, &mut out).unwrap();
    let What::Get(kind) = parse("get pod -n shop").what else { panic!() };
    get(&edge, &kind, &mut out).unwrap();
    assert_eq!(
        String::from_utf8(out).unwrap(),
        "one\ntwo\noutpod web: container app was ended; it is started again\n\
         pod web of namespace shop is released\n\
         NAME   READY   STATUS    RESTARTS   AGE\nweb    0/1     Running   0          <unknown>\n"
    );
    assert_eq!(err, b"err");
    for (output, expected) in [("json", "{\n  \"items\": ["), ("yaml", "items:\n")] {
        let What::Get(kind) = parse(&format!("get pod -n shop -o {output}")).what else { panic!() };
        let mut out = Vec::new();
        get(&edge, &kind, &mut out).unwrap();
        let out = String::from_utf8(out).unwrap();
        assert!(out.starts_with(expected) && out.contains("phase"), "{out}");
    }
}

#[test]
fn failures_are_one_sentence() {
    let check = |host: &FakeHost, line: &str, expected: &str| {
        let Err(failure) = run(host, &parse(line)) else { panic!("{line} was done") };
        assert!(matches!(failure, Failure::Refused(_)), "{line}: {failure:?}");
        assert!(failure.to_string().contains(expected), "{line}: {failure}");
    };
    let refused = json!({"kind": "Status", "message": "this node has no pod web in namespace shop"});
    let there = host("kind: EdgeCore", &[("GET /api/v1/namespaces/shop/pods/web", 404, refused)]);
    check(&there, "get pod web -n shop", "this node has no pod web");
    check(&there, "exec web -it -- sh", "no terminal yet");
    check(&there, "edit device oven -n plant", "kubectl edit device oven -n plant");
    check(&there, "confirm", "none waits");
    let stopped = host("database: {dataSource: /data/edge.db}", &[]);
    check(&stopped, "get pod", "nobody answers at /data/edgecore.sock");
    let stopped = host("admin: {socket: /run/e.sock}", &[]);
    check(&stopped, "get pod", "nobody answers at /run/e.sock");
    check(&FakeHost::new(&[]), "get pod", "this machine is no edge node");
    let broken =
        host("kind: EdgeCore", &[("GET /api/v1/pods", 503, json!({"message": "the runtime is away"}))]);
    let failure = run(&broken, &parse("get pod -A")).unwrap_err();
    assert!(
        matches!(&failure, Failure::Undone(why) if why.to_string() == "the runtime is away"),
        "{failure}"
    );
}
