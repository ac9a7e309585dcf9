//! Join tokens that can be taken back: what they say of themselves, and the list of them in the Secret [`SECRET`].
//!
//! keadm writes the list, cloudcore reads it whenever a machine shows a token with an id. The list never holds a token's text.
//! KubeEdge's tokens have no id: nothing can be said about one of them. Pure; signing and reading Secrets is the caller's.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

/// In the namespace `kubeedge`: id to [`Issued`] as JSON.
pub const SECRET: &str = "isthmus-jointokens";
/// Who has made a token that is in the list from its first moment on.
pub const KEADM: &str = "keadm";
/// Ids of cloudcore's own tokens: this and a number. All have the same until that is revoked.
const SERIES: &str = "cloudcore-";
/// Letters that are not taken for one another when read out; 32 of them, so that each is five bits of randomness.
const LETTERS: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// The middle part of a token.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Claims {
    /// When it ends, in Unix seconds.
    pub exp: u64,
    /// Its id.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub jti: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub iss: Option<String>,
}

impl Claims {
    /// Header and claims with a dot between: what is signed with HMAC-SHA256 and the CA's key. A second dot and the signature
    /// make it whole.
    #[must_use]
    pub fn to_sign(&self) -> String {
        let header = URL_SAFE_NO_PAD.encode(br#"{"alg":"HS256","typ":"JWT"}"#);
        // A number and two texts: there is nothing in it that could not be written.
        let claims = serde_json::to_vec(self).unwrap_or_default();
        format!("{header}.{}", URL_SAFE_NO_PAD.encode(claims))
    }
}

/// One token in the list. Times in Unix seconds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Issued {
    /// When it was made; 0: nobody noted it.
    pub made: u64,
    /// When it ends by itself.
    pub ends: u64,
    /// Who made it, as the API server calls them.
    pub by: String,
    /// What it is for, in their words.
    pub note: String,
    /// Since when it opens nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revoked: Option<u64>,
}

/// The list as it stands in the Secret.
pub type List = BTreeMap<String, Vec<u8>>;

/// Ten letters and digits. `random`: bytes from a good source.
#[must_use]
pub fn new_id(random: [u8; 10]) -> String {
    let letter = |byte: u8| LETTERS.get(usize::from(byte % 32)).copied().map_or('a', char::from);
    random.into_iter().map(letter).collect()
}

/// The id that cloudcore's next token has. `list`: `None` where there is no such Secret.
#[must_use]
pub fn next_series(list: Option<&List>) -> String {
    let is_free = |id: &String| list.is_none_or(|list| !list.contains_key(id));
    (0_u32..).map(|number| format!("{SERIES}{number}")).find(is_free).unwrap_or_default()
}

/// Why a token with this id that is rightly signed and has not ended opens nothing; `None`: it does open.
///
/// What is in the list in a form that nobody knows counts as revoked, and so does a token of keadm's that is not in it: whoever
/// removes the list makes none of those good again. Of cloudcore's own the list is all that tells a revoked series: without it
/// they open again until they end.
#[must_use]
pub fn refusal(list: Option<&List>, id: &str, made_by: Option<&str>) -> Option<&'static str> {
    match list.and_then(|list| list.get(id)) {
        Some(entry) => match serde_json::from_slice::<Issued>(entry) {
            Ok(Issued { revoked: None, .. }) => None,
            Ok(_) => Some("token is revoked; make another one with keadm token create"),
            Err(_) => {
                Some("what is noted of this token cannot be read; make another one with keadm token create")
            }
        },
        None if made_by == Some(KEADM) => {
            Some("token is in no list any more; make another one with keadm token create")
        }
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(entries: &[(&str, &str)]) -> List {
        entries.iter().map(|(id, entry)| ((*id).to_owned(), entry.as_bytes().to_vec())).collect()
    }

    #[test]
    fn who_is_refused() {
        let check = |entries: &[(&str, &str)], made_by: Option<&str>, expected: Option<&str>| {
            let found = refusal(Some(&list(entries)), "a", made_by);
            assert_eq!(
                found.map(|why| why.split(';').next().unwrap_or_default()),
                expected,
                "{entries:?} {made_by:?}"
            );
        };
        check(&[("a", r#"{"made":1,"ends":2}"#)], Some(KEADM), None);
        check(&[("a", r#"{"made":1,"ends":2,"revoked":2}"#)], Some(KEADM), Some("token is revoked"));
        check(&[("a", r#"{"revoked":2}"#)], None, Some("token is revoked"));
        check(&[("a", "?")], None, Some("what is noted of this token cannot be read"));
        check(&[("b", r#"{"revoked":2}"#)], Some(KEADM), Some("token is in no list any more"));
        check(&[("b", r#"{"revoked":2}"#)], None, None);
        assert_eq!(refusal(None, "a", None), None);
        assert!(refusal(None, "a", Some(KEADM)).is_some());
    }

    #[test]
    fn a_revoked_series_is_followed_by_the_next() {
        let check = |ids: &[&str], expected: &str| {
            let entries: Vec<(&str, &str)> = ids.iter().map(|id| (*id, "{}")).collect();
            assert_eq!(next_series(Some(&list(&entries))), expected);
        };
        check(&[], "cloudcore-0");
        check(&["abc"], "cloudcore-0");
        check(&["cloudcore-0", "cloudcore-1"], "cloudcore-2");
        assert_eq!(next_series(None), "cloudcore-0");
    }

    #[test]
    fn claims_are_a_jwts() {
        let claims = Claims { exp: 7, jti: Some("x".into()), iss: None };
        let signed = claims.to_sign();
        let (_, middle) = signed.split_once('.').unwrap();
        assert_eq!(URL_SAFE_NO_PAD.decode(middle).unwrap(), br#"{"exp":7,"jti":"x"}"#);
        let token = format!("{}.{signed}.c", "0".repeat(64));
        let token: crate::enrolment::JoinToken = token.parse().unwrap();
        assert_eq!((token.ends(), token.id().as_deref()), (Some(7), Some("x")));
    }

    #[test]
    fn ids_are_letters() {
        assert_eq!(new_id([0, 31, 32, 255, 1, 2, 3, 4, 5, 6]), "a9a9bcdefg");
    }
}
