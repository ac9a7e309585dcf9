//! What passes between a machine that joins and the cloud, apart from messages: the join token and the form of keys.
//!
//! Pure text and DER. Checking a token's signature needs a key and is the cloud's; hashing a certificate is the caller's.

use std::fmt;
use std::str::FromStr;

/// Longest token that is looked at. Real ones have about 200 bytes.
const MAX_TOKEN: usize = 4096;

/// `<SHA-256 of the CA certificate, hexadecimal>.<JWT>`: the hash is for the machine, the JWT for the cloud.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    /// 64 lower-case hexadecimal digits.
    pub ca_hash: String,
    /// Header, claims and signature with dots between.
    pub jwt: String,
}

/// Why a text is no join token. Never holds the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidToken(&'static str);

impl FromStr for JoinToken {
    type Err = InvalidToken;
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if text.len() > MAX_TOKEN || text.split('.').count() != 4 {
            return Err(InvalidToken("it must have four parts with dots between"));
        }
        let (ca_hash, jwt) = text.split_once('.').ok_or(InvalidToken("it has no dot"))?;
        if ca_hash.len() != 64 || !ca_hash.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(InvalidToken("its first part must be 64 hexadecimal digits"));
        }
        Ok(Self { ca_hash: ca_hash.to_ascii_lowercase(), jwt: jwt.to_owned() })
    }
}

impl JoinToken {
    /// When it ends, in Unix seconds, as its claims say: nothing checks its signature here. `None`: they do not say.
    #[must_use]
    pub fn ends(&self) -> Option<i64> {
        let claims = self.claims()?;
        let ends = claims.get("exp")?;
        ends.as_i64().or_else(|| {
            // Some writers make every number a float.
            let ends = ends.as_f64().filter(|ends| ends.abs() < 1e15)?;
            #[expect(clippy::cast_possible_truncation, reason = "bounded above")]
            Some(ends as i64)
        })
    }

    /// By what it can be revoked, as its claims say. `None`: one of KubeEdge's.
    #[must_use]
    pub fn id(&self) -> Option<String> {
        Some(self.claims()?.get("jti")?.as_str()?.to_owned())
    }

    fn claims(&self) -> Option<serde_json::Value> {
        use base64::Engine as _;
        let claims = self.jwt.split('.').nth(1)?;
        let claims =
            base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(claims.trim_end_matches('=')).ok()?;
        serde_json::from_slice(&claims).ok()
    }
}

/// The whole secret text, for the one place that hands it out.
impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.ca_hash, self.jwt)
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken").field("ca_hash", &self.ca_hash).finish_non_exhaustive()
    }
}

/// `ECPrivateKey` of P-256 up to the private key, which has 32 bytes.
const SEC1_HEAD: &[u8] = &[0x30, 0x77, 0x02, 0x01, 0x01, 0x04, 0x20];
/// `[0] { OBJECT IDENTIFIER prime256v1 } [1] { BIT STRING` up to the public point, which has 65 bytes. Go refuses a key
/// that does not name its curve.
const SEC1_MIDDLE: &[u8] =
    &[0xa0, 0x0a, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0xa1, 0x44, 0x03, 0x42, 0x00];
/// `PrivateKeyInfo { 0, { ecPublicKey, prime256v1 }, OCTET STRING` up to the 121 bytes of the SEC1 form.
const PKCS8_HEAD: &[u8] = &[
    0x30, 0x81, 0x93, 0x02, 0x01, 0x00, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01,
    0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x04, 0x79,
];
const SEC1_LENGTH: usize = 121;

/// The form that Go peers read, `ECPrivateKey` of SEC 1 with curve and public point, from PKCS#8. `public`: the
/// uncompressed point, 65 bytes. `None`: no P-256 key.
#[must_use]
pub fn sec1_from_pkcs8(pkcs8: &[u8], public: &[u8]) -> Option<Vec<u8>> {
    let (0x30, body, _) = element(pkcs8)? else { return None };
    let (0x02, _, rest) = element(body)? else { return None };
    let (0x30, _, rest) = element(rest)? else { return None };
    let (0x04, sec1, _) = element(rest)? else { return None };
    let (0x30, body, _) = element(sec1)? else { return None };
    let (0x02, _, rest) = element(body)? else { return None };
    let (0x04, private, _) = element(rest)? else { return None };
    (private.len() == 32 && public.len() == 65).then(|| [SEC1_HEAD, private, SEC1_MIDDLE, public].concat())
}

/// PKCS#8, which ring reads, from the SEC1 form. `None`: no P-256 key with its public point, which is all that KubeEdge
/// makes.
#[must_use]
pub fn pkcs8_from_sec1(sec1: &[u8]) -> Option<Vec<u8>> {
    let private = sec1.strip_prefix(SEC1_HEAD)?.get(..32)?;
    let rest = sec1.get(SEC1_HEAD.len() + 32..)?;
    let public = rest.strip_prefix(SEC1_MIDDLE)?;
    (sec1.len() == SEC1_LENGTH && public.len() == 65).then(|| {
        debug_assert_eq!(private.len(), 32);
        [PKCS8_HEAD, sec1].concat()
    })
}

/// Tag, content and what follows of one DER element. Keys are shorter than 256 bytes.
fn element(der: &[u8]) -> Option<(u8, &[u8], &[u8])> {
    let (&tag, rest) = der.split_first()?;
    let (&first, rest) = rest.split_first()?;
    let (length, rest) = match first {
        0..=0x7f => (usize::from(first), rest),
        0x81 => rest.split_first().map(|(&length, rest)| (usize::from(length), rest))?,
        _ => return None,
    };
    Some((tag, rest.get(..length)?, rest.get(length..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens() {
        let hash = "aB".repeat(32);
        let check =
            |text: &str, expected: bool| assert_eq!(text.parse::<JoinToken>().is_ok(), expected, "{text:?}");
        check(&format!("{hash}.a.b.c"), true);
        check(&format!("{hash}.a.b"), false);
        check("abc.a.b.c", false);
        check("", false);
        let token: JoinToken = format!("{hash}.a.b.c").parse().unwrap();
        assert_eq!(token.to_string(), format!("{}.a.b.c", hash.to_lowercase()));
        assert!(!format!("{token:?}").contains("a.b.c"));
    }

    #[test]
    fn keys_go_round() {
        let sec1 = [SEC1_HEAD, &[7; 32], SEC1_MIDDLE, &[4; 65]].concat();
        let pkcs8 = pkcs8_from_sec1(&sec1).unwrap();
        assert_eq!(sec1_from_pkcs8(&pkcs8, &[4; 65]).unwrap(), sec1);
        for cut in 0..sec1.len() {
            assert_eq!(pkcs8_from_sec1(sec1.get(..cut).unwrap()), None);
            let _ = sec1_from_pkcs8(pkcs8.get(..cut).unwrap(), &[4; 65]);
        }
    }
}
