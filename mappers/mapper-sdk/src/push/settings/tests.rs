//! Manifests as people write them: what becomes of each `pushMethod`, and the sentence that each mistake gets.

use std::collections::BTreeMap;

use super::*;
use crate::testing::push_method;

use serde_json::{Value as Json, json};

fn read(method: &Json, kind: Kind, device: &str) -> (Vec<To>, Vec<String>) {
    let owner = Owner { namespace: "plant", device, property: "heat", kind };
    let (pushes, errors) = of(&push_method(method), owner);
    (pushes, errors.iter().map(ToString::to_string).collect())
}

fn url(host: &str, port: u16, path: &str) -> Url {
    Url { place: place(host, port), path: path.to_owned() }
}

fn place(host: &str, port: u16) -> Place {
    Place { host: host.to_owned(), port }
}

#[test]
fn what_manifests_say() {
    let check = |method: Json, expected: &[To]| {
        let (pushes, errors) = read(&method, Kind::Float, "oven-1");
        assert_eq!((pushes.as_slice(), errors.len()), (expected, 0), "{method}: {errors:?}");
    };
    check(json!({}), &[]);
    check(
        json!({"http": {"hostName": "http://10.0.0.1", "port": 8080, "requestPath": "/in?key=1", "timeout": 5}}),
        &[To::Http(Form(url("10.0.0.1", 8080, "/in?key=1")))],
    );
    check(json!({"http": {"hostName": "web:81/"}}), &[To::Http(Form(url("web", 81, "/")))]);
    check(
        json!({"http": {"hostName": "http://web", "requestPath": "in"}}),
        &[To::Http(Form(url("web", 80, "/in")))],
    );
    check(
        json!({"mqtt": {"address": "tcp://127.0.0.1:1883", "topic": "a/b", "qos": 2, "retained": true}}),
        &[To::Mqtt(
            Broker(place("127.0.0.1", 1883)),
            Topic { name: "a/b".into(), qos: 2, is_retained: true },
        )],
    );
    check(
        json!({"otel": {"endpointURL": "http://collector"}}),
        &[To::Otlp(Collector(url("collector", 4318, "/v1/metrics")))],
    );
    check(
        json!({"otel": {"endpointURL": "http://collector:9/x"}}),
        &[To::Otlp(Collector(url("collector", 9, "/x")))],
    );
    let influx = json!({"influxdb2ClientConfig": {"url": "http://db:8086/base/", "org": "a&b", "bucket": "ovens"},
        "influxdb2DataConfig": {"measurement": "oven", "tag": {"hall": "3"}, "fieldKey": "heat"}});
    let tags = BTreeMap::from([("hall".to_owned(), "3".to_owned())]);
    let point = Point { measurement: "oven".into(), tags, field: "heat".into() };
    let path = "/base/api/v2/write?org=a%26b&bucket=ovens&precision=ns";
    let influx_to = To::Influx(Bucket(url("db", 8086, path)), point);
    check(json!({"dbMethod": {"influxdb2": influx}}), std::slice::from_ref(&influx_to));
    let redis = json!({"redisClientConfig": {"addr": "db", "db": 3, "poolsize": 20, "minIdleConns": 1}});
    let redis_to = To::Redis(Redis { place: place("db", 6379), database: 3 });
    check(json!({"dbMethod": {"redis": redis}}), std::slice::from_ref(&redis_to));
    let tdengine = json!({"TDEngineClientConfig": {"addr": "db:6041", "dbName": "ovens"}});
    let tdengine_to = To::TdEngine(TdEngine(url("db", 6041, "/rest/sql/ovens")));
    check(json!({"dbMethod": {"TDEngine": tdengine}}), std::slice::from_ref(&tdengine_to));
    let mysql = json!({"mysqlClientConfig": {"addr": "[::1]:3307", "database": "ovens", "userName": "me"}});
    let mysql_to =
        To::MySql(MySql { place: place("::1", 3307), database: "ovens".into(), user: "me".into() });
    check(json!({"dbMethod": {"mysql": mysql}}), std::slice::from_ref(&mysql_to));

    // The first of each sort counts, and a database beside whatever else.
    let http = json!({"hostName": "http://web"});
    let mqtt = json!({"address": "tcp://broker", "topic": "t"});
    let otel = json!({"endpointURL": "http://collector"});
    let form_to = To::Http(Form(url("web", 80, "/")));
    let all = json!({"influxdb2": influx, "redis": redis, "TDEngine": tdengine, "mysql": mysql});
    let check_order = |without: &[&str], expected: To| {
        let mut all = all.clone();
        for key in without {
            all.as_object_mut().unwrap().remove(*key);
        }
        check(
            json!({"otel": otel, "mqtt": mqtt, "http": http, "dbMethod": all}),
            &[form_to.clone(), expected],
        );
    };
    check_order(&[], influx_to);
    check_order(&["influxdb2"], redis_to);
    check_order(&["influxdb2", "redis"], tdengine_to);
    check_order(&["influxdb2", "redis", "TDEngine"], mysql_to);
}

#[test]
fn what_is_wrong_is_named_and_no_password_told() {
    let check = |method: Json, kind: Kind, expected: &str| {
        let (pushes, errors) = read(&method, kind, "oven-1");
        assert_eq!((pushes.as_slice(), errors.join("|").as_str()), ([].as_slice(), expected), "{method}");
    };
    let check_one = |method: Json, expected: &str| check(method, Kind::Int, expected);
    check_one(
        json!({"http": {"port": 80}}),
        "http.hostName is missing; write http://HOST, and the port in http.port",
    );
    check_one(
        json!({"http": {"hostName": "http://web", "port": 70000}}),
        "http.port must be a port from 1 to 65535",
    );
    check_one(
        json!({"http": {"hostName": "https://web", "port": 443}}),
        "http.hostName has a scheme that this mapper does not speak; unencrypted ones only, so put a proxy on this \
         machine; write http://HOST, and the port in http.port",
    );
    check_one(
        json!({"mqtt": {"address": "tcp://me:secret@broker", "topic": "t"}}),
        "mqtt.address must not hold a user or password; write tcp://HOST:PORT",
    );
    check_one(
        json!({"mqtt": {"address": "tcp://broker"}}),
        "mqtt.topic is missing; set it to a topic without wildcards",
    );
    check_one(
        json!({"mqtt": {"address": "tcp://broker", "topic": "a/#"}}),
        "mqtt.topic must be a topic without wildcards",
    );
    check_one(
        json!({"mqtt": {"address": "tcp://broker", "topic": "a", "qos": 3}}),
        "mqtt.qos must be 0, 1 or 2",
    );
    check(
        json!({"otel": {"endpointURL": "http://collector"}}),
        Kind::Text,
        "otel takes numbers and STRING is none; use http or mqtt, or a type that is one",
    );
    check_one(
        json!({"anomalyDetection": {"a": 1}}),
        "anomalyDetection is not served by this mapper; let a detector subscribe to a push by mqtt",
    );
    check_one(
        json!({"dbMethod": {"influxdb2": {"influxdb2ClientConfig": {"url": "http://db", "org": "o", "bucket": "b"}}}}),
        "dbMethod.influxdb2.influxdb2DataConfig.measurement is missing; set it to a name for the measurement",
    );
    check_one(
        json!({"dbMethod": {"redis": {}}}),
        "dbMethod.redis.redisClientConfig.addr is missing; write HOST:6379",
    );
    check_one(
        json!({"dbMethod": {"redis": {"redisClientConfig": {"addr": "db", "db": -1}}}}),
        "dbMethod.redis.redisClientConfig.db must be a number from 0 on, 0 to 15 on most servers",
    );
    check_one(
        json!({"dbMethod": {"TDEngine": {"TDEngineClientConfig": {"addr": "db"}}}}),
        "dbMethod.TDEngine.TDEngineClientConfig.dbName is missing; set it to the database's name",
    );
    check_one(
        json!({"dbMethod": {"mysql": {"mysqlClientConfig": {"addr": "db", "database": "d"}}}}),
        "dbMethod.mysql.mysqlClientConfig.userName is missing; set it to the user's name",
    );
    // One that is wrong does not keep the other from going on.
    let redis = json!({"redis": {"redisClientConfig": {"addr": "db"}}});
    let (pushes, errors) = read(&json!({"mqtt": {}, "dbMethod": redis}), Kind::Int, "oven-1");
    assert_eq!((pushes.len(), errors.len()), (1, 1));
    let mysql = json!({"mysqlClientConfig": {"addr": "db", "database": "d", "userName": "me"}});
    let (pushes, errors) = read(&json!({"dbMethod": {"mysql": mysql}}), Kind::Int, &"o".repeat(60));
    assert_eq!((pushes.len(), errors.len()), (0, 1));
    assert!(errors[0].ends_with("must be 64 characters long at most"), "{errors:?}");
}
