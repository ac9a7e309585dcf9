//! Values of one device go to seven places beside the cloud, in KubeEdge's formats; two of them fail, and nobody else feels it.

// JSON values answer null for what is not there; nothing here is indexed but them.
#![allow(clippy::indexing_slicing)]

use anyhow::{Context, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use e2e::databases::{MariaDb, Redis};
use e2e::devices::{Mapper, MqttBroker, twin};
use e2e::recorder::{Posted, Recorder};
use e2e::site::{NODE, PATIENCE, Site, Wishes};
use e2e::wait::{Seen, eventually, until};
use serde_json::{Value, json};
use time::{Duration, OffsetDateTime, PrimitiveDateTime};

const USER: &str = "story";
const PASSWORD: &str = "a-password-of-the-story";
const TOKEN: &str = "a-token-of-the-story";
const TOPIC: &str = "hall/3/message";

/// Where the seven properties go.
struct Targets {
    form: Recorder,
    broker: MqttBroker,
    gauge: Recorder,
    redis: Redis,
    maria: MariaDb,
    influx: Recorder,
    tdengine: Recorder,
}

fn model() -> Value {
    let property = |name: &str, kind: &str| json!({"name": name, "type": kind, "accessMode": "ReadWrite"});
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "DeviceModel",
        "metadata": {"name": "pushed", "namespace": "plant"},
        "spec": {"protocol": "virtual", "properties": [
            property("form", "FLOAT"), property("message", "FLOAT"), property("gauge", "INT"),
            property("member", "FLOAT"), property("row", "STRING"), property("point", "FLOAT"),
            property("cell", "BOOLEAN"),
        ]},
    })
}

/// Set-points of the simulated device are what somebody desires.
fn device(targets: &Targets, heat: &str, row: &str) -> Value {
    let property = |name: &str, value: &str, is_reported: bool, push: Value| {
        json!({"name": name, "collectCycle": 100, "reportCycle": 300, "reportToCloud": is_reported,
               "desired": {"value": value}, "pushMethod": push,
               "visitors": {"protocolName": "virtual", "configData": {}}})
    };
    let local = |recorder: &Recorder| format!("http://{}", recorder.address());
    let broker = format!("tcp://{}", targets.broker.address());
    let redis =
        json!({"addr": targets.redis.address().to_string(), "db": 0, "poolsize": 30, "minIdleConns": 30});
    let maria = json!({"addr": targets.maria.address().to_string(), "database": "plant", "userName": USER});
    let influx = json!({"influxdb2ClientConfig": {"url": local(&targets.influx), "org": "acme", "bucket": "ovens"},
        "influxdb2DataConfig": {"measurement": "oven", "tag": {"hall": "3"}, "fieldKey": "heat"}});
    let tdengine = json!({"addr": targets.tdengine.address().to_string(), "dbName": "plant"});
    json!({
        "apiVersion": "devices.kubeedge.io/v1beta1", "kind": "Device",
        "metadata": {"name": "pushed-1", "namespace": "plant"},
        "spec": {
            "deviceModelRef": {"name": "pushed"},
            "nodeName": NODE,
            "protocol": {"protocolName": "virtual"},
            "properties": [
                property("form", heat, true, json!({"http": {"hostName": "http://127.0.0.1",
                    "port": targets.form.address().port(), "requestPath": "/in?line=3", "timeout": 1}})),
                property("message", heat, true,
                    json!({"mqtt": {"address": broker, "topic": TOPIC, "qos": 1, "retained": false}})),
                property("gauge", "12", true,
                    json!({"otel": {"endpointURL": format!("{}/v1/metrics", local(&targets.gauge))}})),
                property("member", heat, false, json!({"dbMethod": {"redis": {"redisClientConfig": redis}}})),
                property("row", row, true, json!({"dbMethod": {"mysql": {"mysqlClientConfig": maria}}})),
                property("point", heat, true, json!({"dbMethod": {"influxdb2": influx}})),
                property("cell", "true", true,
                    json!({"dbMethod": {"TDEngine": {"TDEngineClientConfig": tdengine}}})),
            ],
        },
    })
}

/// The n-th post.
fn post(recorder: &Recorder, n: usize) -> Result<Posted> {
    eventually(PATIENCE, "a post", || {
        let posted = recorder.posted();
        Ok(posted.get(n).cloned().map_or_else(|| Seen::NotYet(format!("{} posts", posted.len())), Seen::Yes))
    })
}

/// `2026-01-02 03:04:05`, and not long ago.
fn ensure_now(text: &str) -> Result<()> {
    let format =
        time::format_description::parse_borrowed::<2>("[year]-[month]-[day] [hour]:[minute]:[second]")?;
    let time = PrimitiveDateTime::parse(text, &format).with_context(|| format!("{text:?} is no time"))?;
    ensure_recent(time.assume_utc())
}

fn ensure_recent(time: OffsetDateTime) -> Result<()> {
    let age = OffsetDateTime::now_utc() - time;
    ensure!(age > -Duration::seconds(2) && age < Duration::minutes(5), "{time} is not now");
    Ok(())
}

fn nanos(text: &str) -> Result<OffsetDateTime> {
    Ok(OffsetDateTime::from_unix_timestamp_nanos(text.parse()?)?)
}

fn header<'a>(posted: &'a Posted, name: &str) -> &'a str {
    posted.headers.get(name).map_or("", String::as_str)
}

/// What arrives first, byte for byte.
fn ensure_formats(targets: &Targets, row: &str, listener: &e2e::process::Process) -> Result<()> {
    let form = post(&targets.form, 0)?;
    ensure!(form.line == "POST /in?line=3 HTTP/1.1", "{form:?}");
    ensure!(header(&form, "content-type") == "application/x-www-form-urlencoded", "{form:?}");
    ensure_now(form.body.strip_prefix("form=25.3&time=").with_context(|| format!("{form:?}"))?)?;

    let log = listener.log();
    let message = log.lines().find(|line| line.starts_with("time is ")).with_context(|| log.clone())?;
    let time = message.strip_prefix("time is ").and_then(|rest| rest.strip_suffix("  hall/3/message: 25.3"));
    ensure_now(time.with_context(|| message.to_owned())?)?;

    let gauge = post(&targets.gauge, 0)?;
    ensure!(gauge.line == "POST /v1/metrics HTTP/1.1", "{gauge:?}");
    ensure!(header(&gauge, "content-type") == "application/json", "{gauge:?}");
    let body: Value = serde_json::from_str(&gauge.body)?;
    let data = &body["resourceMetrics"][0]["scopeMetrics"][0]["metrics"][0]["gauge"]["dataPoints"][0];
    let time = data["timeUnixNano"].as_str().unwrap_or_default();
    ensure_recent(nanos(time)?)?;
    let expected = json!({"resourceMetrics": [{
        "resource": {"attributes": [{"key": "device.id", "value": {"stringValue": "plant/pushed-1"}}]},
        "scopeMetrics": [{"scope": {"name": "mapper-sdk"}, "metrics": [{"name": "gauge", "gauge":
            {"dataPoints": [{"timeUnixNano": time, "asInt": "12"}]}}]}],
    }]});
    ensure!(body == expected, "{body}");

    let member = eventually(PATIENCE, "a member in redis", || {
        let members = targets.redis.ask(&["ZRANGE", "pushed-1", "0", "0", "WITHSCORES"])?;
        Ok(members.split_once('\n').map_or_else(
            || Seen::NotYet(members.clone()),
            |(member, score)| Seen::Yes((member.to_owned(), score.to_owned())),
        ))
    })?;
    let (member, score) = member;
    let expected = format!(
        r#"{{"DeviceName":"pushed-1","PropertyName":"member","Namespace":"plant","Value":"25.3","Type":"float","TimeStamp":{score}}}"#
    );
    ensure!(member == expected, "{member}");
    ensure_recent(nanos(&format!("{score}000000"))?)?;

    let table = "plant.`plant/pushed-1/row`";
    let first = eventually(PATIENCE, "a row in MariaDB", || {
        let row = targets.maria.query(&format!(
            "SELECT id, ts, HEX(CONVERT(field USING utf8mb4)) FROM {table} ORDER BY id LIMIT 1"
        ))?;
        Ok(if row.is_empty() { Seen::NotYet("no row".into()) } else { Seen::Yes(row) })
    })?;
    let columns: Vec<&str> = first.split('\t').collect();
    let [id, time, field] = columns.as_slice() else { anyhow::bail!("{first}") };
    let hex: String = row.bytes().map(|byte| format!("{byte:02X}")).collect();
    ensure!((*id, *field) == ("1", hex.as_str()), "{first}");
    ensure_now(time)?;
    let types = targets.maria.query(
        "SELECT COLUMN_NAME, DATA_TYPE FROM information_schema.COLUMNS WHERE TABLE_NAME = 'plant/pushed-1/row' \
         ORDER BY ORDINAL_POSITION",
    )?;
    ensure!(types == "id\tint\nts\tdatetime\nfield\ttext", "{types}");

    let point = post(&targets.influx, 0)?;
    ensure!(point.line == "POST /api/v2/write?org=acme&bucket=ovens&precision=ns HTTP/1.1", "{point:?}");
    ensure!(header(&point, "authorization") == format!("Token {TOKEN}"), "{point:?}");
    let time = point.body.strip_prefix("oven,hall=3 heat=\"25.3\" ").with_context(|| format!("{point:?}"))?;
    ensure_recent(nanos(time)?)?;

    let (create, insert) = (post(&targets.tdengine, 0)?, post(&targets.tdengine, 1)?);
    let login = format!("Basic {}", STANDARD.encode(format!("{USER}:{PASSWORD}")));
    for statement in [&create, &insert] {
        ensure!(statement.line == "POST /rest/sql/plant HTTP/1.1", "{statement:?}");
        ensure!(header(statement, "authorization") == login, "{statement:?}");
    }
    ensure!(
        create.body
            == "CREATE STABLE IF NOT EXISTS `plant/pushed_1` (ts timestamp, deviceid binary(64), \
                propertyname binary(64), data binary(64), type binary(64)) TAGS (location binary(64))",
        "{create:?}"
    );
    let time = insert
        .body
        .strip_prefix("INSERT INTO `plant/pushed_1/cell` USING `plant/pushed_1` TAGS ('cell') VALUES ('")
        .and_then(|rest| rest.strip_suffix("', 'plant/pushed-1', 'cell', 'true', 'boolean')"));
    let time = time.with_context(|| format!("{insert:?}"))?;
    ensure_recent(OffsetDateTime::parse(time, &time::format_description::well_known::Rfc3339)?)
}

#[test]
fn values_go_to_seven_places_and_two_that_fail_hold_up_nobody() -> Result<()> {
    let mut site = Site::start("device_push", &Wishes::default())?;
    let mut targets = Targets {
        form: Recorder::start("{}")?,
        broker: MqttBroker::start()?,
        gauge: Recorder::start("{}")?,
        redis: Redis::start(PASSWORD)?,
        maria: MariaDb::start("plant", USER, PASSWORD)?,
        influx: Recorder::start("{}")?,
        tdengine: Recorder::start(r#"{"code":0}"#)?,
    };
    let mut listener = targets.broker.listener(TOPIC)?;
    let mut mapper = Mapper::start("mapper-virtual", "virtual", &site.edge)?;
    mapper.process.set_env("USERNAME", USER);
    mapper.process.set_env("PASSWORD", PASSWORD);
    mapper.process.set_env("TOKEN", TOKEN);
    mapper.process.restart()?;

    let row = "it's \"hot\"; `ü`\\";
    site.cluster.kubectl_ok(&["create", "namespace", "plant"])?;
    site.cluster.apply(&model().to_string())?;
    site.cluster.apply(&device(&targets, "25.3", row).to_string())?;
    site.wait_reported("pushed-1", "form", "25.3")?;
    listener.wait_for_log(PATIENCE, "  hall/3/message: 25.3")?;
    ensure_formats(&targets, row, &listener)?;
    // What is pushed goes to the cloud only if somebody wants it there.
    let now = site.device("pushed-1")?;
    let reported = twin(&now, "member").map(|twin| twin["reported"]["value"].clone());
    ensure!(reported.is_none_or(|value| value.is_null() || value == ""), "{now}");

    // Two are away. All else goes on with the new values, the cloud included.
    targets.redis.process.stop()?;
    targets.form.stop();
    site.cluster.apply(&device(&targets, "31.5", "second").to_string())?;
    site.wait_reported("pushed-1", "form", "31.5")?;
    site.wait_reported("pushed-1", "row", "second")?;
    listener.wait_for_log(PATIENCE, "  hall/3/message: 31.5")?;
    let newest =
        |recorder: &Recorder| recorder.posted().last().map(|post| post.body.clone()).unwrap_or_default();
    until(PATIENCE, "the new point", || Ok(newest(&targets.influx).contains("heat=\"31.5\"")))?;
    until(PATIENCE, "the new row", || {
        let newest = "SELECT field FROM plant.`plant/pushed-1/row` ORDER BY id DESC LIMIT 1";
        Ok(targets.maria.query(newest)? == "second")
    })?;
    mapper.process.wait_for_log(PATIENCE, "pushes do not arrive")?;
    until(PATIENCE, "both to be told", || {
        Ok(mapper.process.log().matches("pushes do not arrive").count() == 2)
    })?;

    // They are back: what waited arrives, then what is new.
    let n_before = targets.form.posted().len();
    targets.form.start_again()?;
    targets.redis.start_again()?;
    site.cluster.apply(&device(&targets, "32", "third").to_string())?;
    until(PATIENCE, "the newest form", || Ok(newest(&targets.form).starts_with("form=32&")))?;
    let late = targets.form.posted();
    let late: Vec<&str> = late.iter().skip(n_before).map(|post| post.body.as_str()).collect();
    ensure!(late.iter().any(|body| body.starts_with("form=31.5&")), "what waited is lost: {late:?}");
    let of_redis = |value: &str| {
        let value = format!("\"Value\":\"{value}\"");
        let members = targets.redis.ask(&["ZRANGE", "pushed-1", "0", "-1"])?;
        Ok::<_, anyhow::Error>(members.contains(&value))
    };
    until(PATIENCE, "the newest member", || of_redis("32"))?;
    ensure!(of_redis("31.5")?, "what waited is lost");

    // Each was told once, and that it is over; and nobody reads passwords there.
    let log = mapper.process.log();
    let n_of = |text: &str| log.matches(text).count();
    ensure!(
        (n_of("pushes do not arrive"), n_of("pushes arrive again")) == (2, 2) && n_of("are refused") == 0,
        "{}",
        mapper.process.log_end(40)
    );
    ensure!(n_of(PASSWORD) + n_of(TOKEN) == 0, "a secret is in the log");
    Ok(())
}
