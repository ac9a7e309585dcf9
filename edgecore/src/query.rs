//! Pure: the query of a URL as pairs. Used by everything that answers in Kubernetes' words over HTTP.

/// The query's pairs in their order, decoded. Errors: a `%` without two hexadecimal digits, or bytes that are no text.
pub fn pairs(query: &str) -> Result<Vec<(String, String)>, String> {
    let words = query.split('&').filter(|pair| !pair.is_empty());
    words
        .map(|pair| {
            let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(name)?, decode(value)?))
        })
        .collect()
}

fn decode(text: &str) -> Result<String, String> {
    let wrong = || format!("the query holds {text:?}, which is not URL-encoded text");
    let mut bytes = text.bytes();
    let mut decoded = Vec::with_capacity(text.len());
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'+' => b' ',
            b'%' => {
                let mut digit = || char::from(bytes.next()?).to_digit(16);
                let (high, low) = digit().zip(digit()).ok_or_else(wrong)?;
                u8::try_from(high * 16 + low).map_err(|_| wrong())?
            }
            byte => byte,
        });
    }
    String::from_utf8(decoded).map_err(|_| wrong())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries() {
        let check = |query: &str, expected: Option<&[(&str, &str)]>| {
            let expected = expected.map(|pairs| {
                pairs.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect::<Vec<_>>()
            });
            assert_eq!(pairs(query).ok(), expected, "{query}");
        };
        check("", Some(&[]));
        check("a=b&&c&d=", Some(&[("a", "b"), ("c", ""), ("d", "")]));
        check(
            "sinceTime=2026-01-31T12%3A00%3a00%2B01:00",
            Some(&[("sinceTime", "2026-01-31T12:00:00+01:00")]),
        );
        check("l=a+in+(b%2Cc)&x=%C3%A4", Some(&[("l", "a in (b,c)"), ("x", "ä")]));
        check("a=%4", None);
        check("a=%zz", None);
        check("a=%ff", None);
    }
}
