//! Which of the endpoints that a server offers is the one that the manifest means. Pure; called by `session.rs`.

use std::collections::BTreeSet;

use opcua::crypto::SecurityPolicy;
use opcua::types::{EndpointDescription, MessageSecurityMode, UserTokenType};

use crate::settings::{Identity, Security};

/// The endpoint to connect to, or a sentence about what there is instead.
pub fn choose(
    offered: Vec<EndpointDescription>,
    security: Security,
    identity: &Identity,
) -> Result<EndpointDescription, String> {
    let token = match identity {
        Identity::Anonymous => UserTokenType::Anonymous,
        Identity::User(..) => UserTokenType::UserName,
        Identity::Certificate => UserTokenType::Certificate,
    };
    let is_binary = |endpoint: &EndpointDescription| endpoint.endpoint_url.as_ref().starts_with("opc.tcp:");
    let offered: Vec<_> = offered
        .into_iter()
        .filter(|endpoint| is_binary(endpoint) && policy(endpoint) != SecurityPolicy::Unknown)
        .collect();
    let names = names(&offered);
    let fitting: Vec<_> = offered.into_iter().filter(|endpoint| fits(endpoint, security)).collect();
    if fitting.is_empty() {
        return Err(if names.is_empty() {
            "the server offers no endpoint whose security is known here".to_owned()
        } else {
            format!("the server does not offer this security; set securityPolicy and securityMode to one of: {names}")
        });
    }
    // Levels are the server's own; of equals, as some call all of theirs 0, encrypted is better than signed.
    let best = fitting
        .into_iter()
        .filter(|endpoint| takes(endpoint, token))
        .max_by_key(|endpoint| (endpoint.security_level, endpoint.security_mode as i32));
    let mut endpoint = best.ok_or_else(|| {
        match token {
            UserTokenType::Anonymous => "the server lets nobody in without a login; set userName and password",
            UserTokenType::UserName => {
                "the server takes no user names with this security; remove userName, or set another securityPolicy"
            }
            _ => "the server takes no certificates as a login; set authentication to anonymous or password",
        }
        .to_owned()
    })?;
    // A token policy without a policy of its own has the channel's; the client library takes it for none.
    let own_policy = endpoint.security_policy_uri.clone();
    for policy in endpoint.user_identity_tokens.iter_mut().flatten() {
        if policy.token_type == UserTokenType::Certificate && policy.security_policy_uri.is_empty() {
            policy.security_policy_uri = own_policy.clone();
        }
    }
    Ok(endpoint)
}

fn policy(endpoint: &EndpointDescription) -> SecurityPolicy {
    SecurityPolicy::from_uri(endpoint.security_policy_uri.as_ref())
}

fn fits(endpoint: &EndpointDescription, security: Security) -> bool {
    match security {
        Security::Best => true,
        Security::Exactly(wanted, mode) => {
            policy(endpoint) == wanted && mode.is_none_or(|mode| endpoint.security_mode == mode)
        }
    }
}

fn takes(endpoint: &EndpointDescription, token: UserTokenType) -> bool {
    match &endpoint.user_identity_tokens {
        Some(tokens) if !tokens.is_empty() => tokens.iter().any(|offered| offered.token_type == token),
        _ => token == UserTokenType::Anonymous,
    }
}

fn names(offered: &[EndpointDescription]) -> String {
    let name = |endpoint: &EndpointDescription| {
        let mode = match endpoint.security_mode {
            MessageSecurityMode::Sign => "Sign",
            MessageSecurityMode::SignAndEncrypt => "SignAndEncrypt",
            _ => "None",
        };
        format!("{} with {mode}", policy(endpoint).to_str())
    };
    let names: BTreeSet<String> = offered.iter().map(name).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}
