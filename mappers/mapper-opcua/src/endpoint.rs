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
            format!(
                "the server does not offer this security; set securityPolicy and securityMode to one of: {names}"
            )
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
        // As manifests write it.
        format!("{} with {mode}", policy(endpoint).to_str().replace('-', ""))
    };
    let names: BTreeSet<String> = offered.iter().map(name).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use opcua::types::UserTokenPolicy;

    use super::*;
    use crate::settings::Password;

    const SIGN: MessageSecurityMode = MessageSecurityMode::Sign;
    const ENCRYPT: MessageSecurityMode = MessageSecurityMode::SignAndEncrypt;
    const NONE: MessageSecurityMode = MessageSecurityMode::None;

    fn offered(
        policy: &str,
        mode: MessageSecurityMode,
        level: u8,
        tokens: &[UserTokenType],
    ) -> EndpointDescription {
        let token =
            |token: &UserTokenType| UserTokenPolicy { token_type: *token, ..UserTokenPolicy::anonymous() };
        EndpointDescription {
            endpoint_url: "opc.tcp://device:4840/path".into(),
            security_policy_uri: format!("http://opcfoundation.org/UA/SecurityPolicy#{policy}").into(),
            security_mode: mode,
            security_level: level,
            user_identity_tokens: Some(tokens.iter().map(token).collect()),
            ..Default::default()
        }
    }

    #[test]
    fn choices() {
        let all = || {
            use UserTokenType::{Anonymous, Certificate, UserName};
            vec![
                offered("None", NONE, 0, &[Anonymous]),
                offered("Basic256Sha256", SIGN, 1, &[Anonymous, UserName]),
                offered("Basic256Sha256", ENCRYPT, 1, &[UserName, Certificate]),
                offered("Aes256_Sha256_RsaPss", ENCRYPT, 3, &[UserName]),
                offered("OfTheFuture", ENCRYPT, 9, &[Anonymous, UserName, Certificate]),
            ]
        };
        let user = Identity::User("operator".to_owned(), Password(String::new()));
        let check =
            |security, identity: &Identity, expected: Result<(SecurityPolicy, MessageSecurityMode), &str>| {
                let got = choose(all(), security, identity);
                let got = got.map(|endpoint| (policy(&endpoint), endpoint.security_mode));
                match expected {
                    Ok(expected) => assert_eq!(got, Ok(expected), "{security:?} {identity:?}"),
                    Err(part) => assert!(
                        got.as_ref().is_err_and(|told| told.contains(part)),
                        "{security:?} {identity:?}: {got:?}"
                    ),
                }
            };
        use Security::{Best, Exactly};
        use SecurityPolicy::{Aes256Sha256RsaPss, Basic256, Basic256Sha256};
        check(Best, &user, Ok((Aes256Sha256RsaPss, ENCRYPT)));
        check(Best, &Identity::Anonymous, Ok((Basic256Sha256, SIGN)));
        check(Best, &Identity::Certificate, Ok((Basic256Sha256, ENCRYPT)));
        check(Exactly(Basic256Sha256, None), &user, Ok((Basic256Sha256, ENCRYPT)));
        check(Exactly(Basic256Sha256, Some(SIGN)), &user, Ok((Basic256Sha256, SIGN)));
        check(
            Exactly(SecurityPolicy::None, Some(NONE)),
            &Identity::Anonymous,
            Ok((SecurityPolicy::None, NONE)),
        );
        check(Exactly(SecurityPolicy::None, Some(NONE)), &user, Err("remove userName"));
        check(Exactly(Aes256Sha256RsaPss, None), &Identity::Anonymous, Err("set userName"));
        check(
            Exactly(Basic256, None),
            &user,
            Err(
                "one of: Aes256Sha256RsaPss with SignAndEncrypt, Basic256Sha256 with Sign, Basic256Sha256 with SignAndEncrypt, None with None",
            ),
        );
        assert!(choose(Vec::new(), Best, &user).unwrap_err().contains("no endpoint"));
        let chosen = choose(all(), Best, &Identity::Certificate).unwrap();
        let tokens = chosen.user_identity_tokens.unwrap_or_default();
        let login = tokens.iter().find(|token| token.token_type == UserTokenType::Certificate).unwrap();
        assert_eq!(login.security_policy_uri, chosen.security_policy_uri);
    }
}
