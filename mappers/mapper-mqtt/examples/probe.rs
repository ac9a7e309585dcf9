//! Tries the driver by hand: `probe <device settings as JSON> <property settings as JSON> <type> [<value to write>...]`
//! writes the values, then prints what comes until the broker is lost.

use std::time::Duration;

use mapper_mqtt::Mqtt;
use mapper_sdk::value::Kind;
use mapper_sdk::{Connection, Device, DeviceName, Driver, Property, Settings};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut words = std::env::args().skip(1);
    let mut word = || words.next().ok_or("probe <device JSON> <property JSON> <type> [<value>...]");
    let settings = |text: String| -> Result<Settings, serde_json::Error> {
        let entries: serde_json::Map<_, _> = serde_json::from_str(&text)?;
        Ok(Settings::new(entries))
    };
    let (of_device, of_property) = (settings(word()?)?, settings(word()?)?);
    let kind = Kind::of_model(&word()?).ok_or("no such type")?;
    let property = Property {
        name: "probe".into(),
        kind,
        is_writable: true,
        minimum: None,
        maximum: None,
        settings: of_property,
        collect_cycle: Duration::from_secs(1),
        report_cycle: Duration::from_secs(1),
        report_to_cloud: true,
        desired: None,
    };
    let device = Device {
        name: DeviceName { namespace: "default".into(), name: "probe".into() },
        settings: of_device,
        properties: vec![property.clone()],
        methods: Vec::new(),
        state_cycle: None,
    };
    let mut connection = Mqtt.connect(&device).await?;
    println!("connected");
    for text in words {
        let written = connection.write(&property, &kind.parse(&text)?).await;
        println!("write {text}: {written:?}");
    }
    loop {
        match connection.pushed().await {
            Err(lost) => return Err(lost.into()),
            Ok((name, Err(error))) => println!("{name}: {error}"),
            Ok((name, Ok(value))) => println!("{name} = {value}"),
        }
    }
}
