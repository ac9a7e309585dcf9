//! Servers that nobody described yet: asks configured addresses which servers are there, and never scans a network.
//!
//! An address is a server's own, or that of a discovery server, which knows others. Called by `driver.rs`.

use std::collections::BTreeMap;
use std::time::Duration;

use futures_util::future::join_all;
use mapper_sdk::{Discovered, Settings};
use opcua::client::Client;
use opcua::types::{ApplicationDescription, ApplicationType};
use tokio::time::timeout;

use crate::session::reach;
use crate::settings::ServerUrl;

/// What is silent for longer is not there now.
const PATIENCE: Duration = Duration::from_secs(5);

/// Asks all addresses at once. Who does not answer is left out: being away is how a server is unplugged.
pub async fn ask(client: &Client, addresses: &[ServerUrl]) -> Vec<Discovered> {
    let asked = addresses.iter().map(async |address| {
        if let Err(away) = reach(address, PATIENCE).await {
            tracing::debug!(%away, "nobody to discover");
            return Vec::new();
        }
        let place = address.to_string();
        match timeout(PATIENCE, client.find_servers(place.as_str(), None, None)).await {
            Ok(Ok(applications)) => found(address, &applications),
            Ok(Err(error)) => {
                tracing::debug!(server = %place, %error, "nobody to discover");
                Vec::new()
            }
            Err(_) => {
                tracing::debug!(server = %place, "nobody to discover: no answer");
                Vec::new()
            }
        }
    });
    // A server may be known at its own address and to a discovery server.
    let all = join_all(asked).await.into_iter().flatten();
    all.map(|found| (found.id.clone(), found)).collect::<BTreeMap<_, _>>().into_values().collect()
}

/// The servers among what answered at an address.
fn found(address: &ServerUrl, applications: &[ApplicationDescription]) -> Vec<Discovered> {
    let is_server = |application: &&ApplicationDescription| {
        matches!(application.application_type, ApplicationType::Server | ApplicationType::ClientAndServer)
    };
    let is_alone = applications.len() == 1;
    let one = |application: &ApplicationDescription| {
        let told = application.discovery_urls.iter().flatten().find_map(|url| ServerUrl::parse(url.as_ref()));
        // Who speaks for itself is where it was asked; the host name that it tells may be known only to itself.
        let url = if is_alone { address.clone() } else { told? };
        let text = |text: &str| text.to_owned().into();
        let data = [
            ("applicationName", application.application_name.text.as_ref()),
            ("applicationUri", application.application_uri.as_ref()),
            ("productUri", application.product_uri.as_ref()),
            ("address", url.authority.as_str()),
        ];
        let data = data.into_iter().filter(|(_, value)| !value.is_empty());
        Some(Discovered {
            id: id(&url),
            data: Settings::new(data.map(|(key, value)| (key.to_owned(), text(value)))),
            settings: Settings::new([("url".to_owned(), text(&url.to_string()))]),
        })
    };
    applications.iter().filter(is_server).filter_map(one).collect()
}

/// Of the address: names that servers give themselves are the factory's, and the same for all of a kind.
fn id(url: &ServerUrl) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let words: String = url.authority.chars().map(plain).collect();
    format!("opcua-{}", words.trim_matches('-'))
}

#[cfg(test)]
mod tests {
    use opcua::types::LocalizedText;

    use super::*;

    fn application(name: &str, application_type: ApplicationType, urls: &[&str]) -> ApplicationDescription {
        ApplicationDescription {
            application_uri: format!("urn:{name}").into(),
            application_name: LocalizedText::from(name),
            application_type,
            discovery_urls: Some(urls.iter().map(|url| (*url).into()).collect()),
            ..Default::default()
        }
    }

    #[test]
    fn answers() {
        let check = |applications: &[ApplicationDescription], expected: &[(&str, &str, &str)]| {
            let address = ServerUrl::parse("opc.tcp://10.0.0.1:14840").unwrap();
            let found = found(&address, applications);
            let text = |settings: &Settings, key| settings.text(&[key]).unwrap_or_default();
            let shown: Vec<_> = found
                .iter()
                .map(|found| {
                    (found.id.clone(), text(&found.data, "applicationName"), text(&found.settings, "url"))
                })
                .collect();
            let shown: Vec<_> =
                shown.iter().map(|(id, name, url)| (id.as_str(), name.as_str(), url.as_str())).collect();
            assert_eq!(shown, expected);
        };
        use ApplicationType::{Client, DiscoveryServer, Server};
        check(&[], &[]);
        check(
            &[application("press", Server, &["opc.tcp://inside:4840"])],
            &[("opcua-10-0-0-1-14840", "press", "opc.tcp://10.0.0.1:14840")],
        );
        check(
            &[
                application("list", DiscoveryServer, &["opc.tcp://10.0.0.1:14840"]),
                application("press", Server, &["https://press", "opc.tcp://Press:4840/ua"]),
                application("lathe", Server, &["opc.tcp://[fe80::1]"]),
                application("lost", Server, &[]),
                application("viewer", Client, &["opc.tcp://viewer"]),
            ],
            &[
                ("opcua-press-4840", "press", "opc.tcp://Press:4840/ua"),
                ("opcua-fe80--1--4840", "lathe", "opc.tcp://[fe80::1]:4840"),
            ],
        );
    }
}
