//! Settings as published manifests have them, and as people get them wrong.

use mapper_sdk::DeviceName;
use mapper_sdk::value::Value;
use serde_json::{Value as Json, json};

use super::*;

fn settings(json: Json) -> Settings {
    let Json::Object(entries) = json else { panic!("an object") };
    Settings::new(entries)
}

fn property(json: Json) -> Property {
    Property {
        name: "heat".into(),
        kind: Kind::Float,
        is_writable: true,
        minimum: None,
        maximum: None,
        settings: settings(json),
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: true,
        desired: None,
    }
}

fn device(json: Json, of_property: Json) -> Device {
    Device {
        name: DeviceName { namespace: "plant".into(), name: "oven.1".into() },
        settings: settings(json),
        properties: vec![property(of_property)],
        methods: Vec::new(),
        state_cycle: None,
    }
}

#[test]
fn addresses() {
    let check = |json: Json, expected: &str| {
        let got = match Broker::of(&device(json.clone(), json!({}))) {
            Ok(broker) => format!("{} {} {}", broker.host, broker.port, broker.tls.is_some()),
            Err(error) => format!("!{error}"),
        };
        assert_eq!(got, expected, "{json}");
    };
    let wrong = format!("!brokerURL must be {URL_IS}");
    check(json!({"brokerURL": "tcp://10.0.0.5:1884"}), "10.0.0.5 1884 false");
    check(json!({"brokerUrl": "mqtt://broker.local/"}), "broker.local 1883 false");
    check(json!({"server": "broker.local"}), "broker.local 1883 false");
    check(json!({"server": "broker.local", "port": "1885"}), "broker.local 1885 false");
    check(json!({"server": "broker.local:1886", "port": 1885}), "broker.local 1886 false");
    check(json!({"server": "ssl://broker.local"}), "broker.local 8883 true");
    check(json!({"server": "MQTTS://broker.local:884"}), "broker.local 884 true");
    check(json!({"ip": "10.0.0.5", "port": 1883.0}), "10.0.0.5 1883 false");
    check(json!({"ip": "10.0.0.5", "tls": "true"}), "10.0.0.5 8883 true");
    check(json!({"ip": "fe80::1"}), "fe80::1 1883 false");
    check(json!({"brokerURL": "tcp://[fe80::1]:1884"}), "fe80::1 1884 false");
    check(json!({"brokerURL": "fe80::1"}), &wrong);
    check(json!({"brokerURL": "tcp://:1883"}), &wrong);
    check(json!({"brokerURL": "tcp://host:0"}), &wrong);
    check(json!({"brokerURL": "tcp://host:mqtt"}), &wrong);
    check(json!({"brokerURL": "http://host"}), &wrong);
    check(json!({"brokerURL": "tcp://host/path"}), &wrong);
    check(
        json!({"brokerURL": "wss://host"}),
        "!brokerURL must be a tcp:// or ssl:// address: MQTT over WebSocket is not supported",
    );
    check(
        json!({"brokerURL": "tcp://me:secret@host"}),
        "!brokerURL must be an address only; set username and password beside it",
    );
    check(json!({"ip": "10.0.0.5", "port": 70000}), "!port must be 1 to 65535");
    check(json!({}), &format!("!brokerURL is missing; set brokerURL to {URL_IS}"));
}

#[test]
fn connections() {
    let broker = |json: Json, of_property: Json| Broker::of(&device(json, of_property));
    let plain = broker(json!({"ip": "a"}), json!({"topic": "x"})).unwrap();
    assert_eq!(plain.client_id, "isthmus.plant.oven.1");
    assert_eq!((plain.keep_alive_secs, plain.is_clean, plain.timeout.as_secs()), (30, true, 10));
    assert_eq!(plain.login, None);

    let full = json!({"ip": "a", "clientId": "oven", "userName": "me", "password": "secret", "keepAlive": "60",
                      "cleanSession": "false", "timeout": 3});
    let full = broker(full, json!({"clientId": "other"})).unwrap();
    assert_eq!((full.client_id.as_str(), full.keep_alive_secs, full.is_clean), ("oven", 60, false));
    let password = Password::Literal("secret".into());
    assert_eq!(full.login, Some(Login { user: "me".into(), password }));
    assert!(!format!("{full:?}").contains("secret"));

    // Published manifests have these in their visitors.
    let below = json!({"clientId": "oven", "username": "me", "password": "/run/secret", "keepAlive": 60, "cleanSession": false});
    let below = broker(json!({"ip": "a"}), below).unwrap();
    assert_eq!((below.client_id.as_str(), below.keep_alive_secs, below.is_clean), ("oven", 60, false));
    let password = Password::File("/run/secret".into());
    assert_eq!(below.login, Some(Login { user: "me".into(), password }));

    let check = |json: Json, expected: &str| {
        assert_eq!(broker(json.clone(), json!({})).unwrap_err().to_string(), expected, "{json}");
    };
    check(
        json!({"ip": "a", "password": "x"}),
        "username is missing; set username to who to log in as, because password is set",
    );
    check(json!({"ip": "a", "keepAlive": 2}), "keepAlive must be seconds, from 5 to 65535");
    check(
        json!({"ip": "a", "tls": true, "certificate": "/a.pem"}),
        "privateKey is missing; set privateKey to the path of the certificate's key, a PEM file, because certificate is set",
    );
    let tls = json!({"server": "ssl://a", "certification": "/ca.pem", "certificate": "/a.pem", "privateKey": "/a.key"});
    let own = Some(("/a.pem".to_owned(), "/a.key".to_owned()));
    assert_eq!(broker(tls, json!({})).unwrap().tls, Some(Tls { authorities: Some("/ca.pem".into()), own }));
}

#[test]
fn topics() {
    let check = |json: Json, of_device: Json, expected: &str| {
        let got = match Visitor::of(&property(json.clone()), &settings(of_device)) {
            Ok(visitor) => {
                format!(
                    "{} {}",
                    visitor.input.as_deref().unwrap_or("-"),
                    visitor.output.as_deref().unwrap_or("-")
                )
            }
            Err(error) => format!("!{error}"),
        };
        assert_eq!(got, expected, "{json}");
    };
    let none = json!({});
    check(json!({"topic": "hall/heat"}), none.clone(), "hall/heat hall/heat/set");
    check(json!({"inputTopic": "hall/heat", "outputTopic": "hall/cmd"}), none.clone(), "hall/heat hall/cmd");
    check(json!({"topic": "hall/+/heat"}), none.clone(), "hall/+/heat -");
    check(json!({"outputTopic": "hall/cmd"}), none.clone(), "- hall/cmd");
    check(json!({"path": "$.heat"}), json!({"topic": "hall"}), "hall hall/set");
    check(json!({"path": "$.heat"}), json!({"topic": "hall", "outputTopic": "cmd"}), "hall cmd");
    check(json!({"outputTopic": "cmd"}), json!({"topic": "hall"}), "- cmd");
    check(json!({"outputTopic": "cmd", "path": "heat"}), json!({"topic": "hall"}), "hall cmd");
    check(
        json!({"topic": "hall/#/heat"}),
        none.clone(),
        "!topic must be a topic such as hall/3/temp, hall/+/temp or hall/#: + and # are whole levels, # is the last",
    );
    check(
        json!({"topic": "hall", "outputTopic": "hall/+"}),
        none.clone(),
        "!outputTopic must be a topic without + and #, such as hall/3/limit/set",
    );
    check(
        none.clone(),
        none,
        "!topic is missing; set topic to the topic that the values come on, such as hall/3/temp",
    );
}

#[test]
fn visitors() {
    let of = |json: Json| Visitor::of(&property(json), &Settings::default());
    let plain = of(json!({"topic": "a"})).unwrap();
    assert_eq!((plain.qos, plain.retain, plain.path, plain.max_age), (QoS::AtLeastOnce, false, None, None));
    let full = json!({"topic": "a", "qos": "2", "retain": "true", "path": "sensors.0.temp", "maxAgeSecs": 60,
                      "template": "{\"set\":${value}}"});
    let full = of(full).unwrap();
    assert_eq!(
        (full.qos, full.retain, full.max_age),
        (QoS::ExactlyOnce, true, Some(Duration::from_secs(60)))
    );
    assert_eq!(full.path, Path::parse("$.sensors.0.temp"));
    assert_eq!(full.template.render(&Value::Int(3)), Ok(b"{\"set\":3}".to_vec()));
    let from_device = Visitor::of(&property(json!({"topic": "a"})), &settings(json!({"qos": 0}))).unwrap();
    assert_eq!(from_device.qos, QoS::AtMostOnce);

    let check = |json: Json, expected: &str| {
        assert_eq!(of(json.clone()).unwrap_err().to_string(), expected, "{json}");
    };
    check(json!({"topic": "a", "qos": 3}), "qos must be 0, 1 or 2");
    check(
        json!({"topic": "a", "path": "$.sensors[*]"}),
        "path must be a place in a JSON message, such as $.sensors[0].temp or sensors.0.temp",
    );
    check(
        json!({"topic": "a", "template": "{\"set\":value}"}),
        "template must be a message with ${value} in it, such as {\"cmd\":\"set\",\"value\":${value}}; what begins as JSON must be JSON",
    );
    check(json!({"topic": "a", "maxAgeSecs": 0}), "maxAgeSecs must be seconds, from 1 to 31536000");
}
