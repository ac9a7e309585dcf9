//! Pure: the addresses of manifests. What is wrong is said without the address itself: some have a password in it.
//!
//! Called by `settings.rs`.

use std::fmt;

/// A machine and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Place {
    /// Name or address, IPv6 without brackets.
    pub(crate) host: String,
    /// Port.
    pub(crate) port: u16,
}

/// Something below `http://`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Url {
    /// Where.
    pub(crate) place: Place,
    /// Begins with `/`, and holds the question as well.
    pub(crate) path: String,
}

/// Why a text is no address that can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum AddressError {
    /// Nothing there.
    #[error("is missing")]
    Missing,
    /// Of another sort.
    #[error(
        "has a scheme that this mapper does not speak; unencrypted ones only, so put a proxy on this machine"
    )]
    Scheme,
    /// A password may be in it.
    #[error("must not hold a user or password")]
    Login,
    /// No host, or a port that is none.
    #[error("names no host, or a port that is none")]
    Form,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // What follows the question mark may be a key.
        let path = self.path.split('?').next().unwrap_or_default();
        write!(f, "http://{}{path}", self.place)
    }
}

impl Place {
    /// Of `host:port`, `host`, or either behind one of `schemes` and `://`.
    pub(crate) fn parse(text: &str, schemes: &[&str], port: u16) -> Result<Self, AddressError> {
        let rest = without_scheme(text, schemes)?;
        let (authority, path) = split_path(rest);
        if !matches!(path, "" | "/") {
            return Err(AddressError::Form);
        }
        Self::of_authority(authority, port)
    }

    fn of_authority(authority: &str, default_port: u16) -> Result<Self, AddressError> {
        if authority.contains('@') {
            return Err(AddressError::Login);
        }
        let (host, port) = match authority.strip_prefix('[') {
            Some(rest) => {
                let (host, after) = rest.split_once(']').ok_or(AddressError::Form)?;
                match after.strip_prefix(':') {
                    Some(port) => (host, Some(port)),
                    None if after.is_empty() => (host, None),
                    None => return Err(AddressError::Form),
                }
            }
            None => match authority.split_once(':') {
                // More than one colon and no brackets.
                Some((_, port)) if port.contains(':') => return Err(AddressError::Form),
                Some((host, port)) => (host, Some(port)),
                None => (authority, None),
            },
        };
        // What Go takes for a port, `+80` too, is not looked for.
        let port = match port {
            Some(port) => port.parse().ok().filter(|port| *port > 0).ok_or(AddressError::Form)?,
            None => default_port,
        };
        let is_host =
            |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'/' | b'?' | b'#' | b'"' | b'\\');
        if host.is_empty() || !host.bytes().all(is_host) {
            return Err(AddressError::Form);
        }
        Ok(Self { host: host.to_owned(), port })
    }
}

impl Url {
    /// Of `http://host:port/path`; the scheme may be missing.
    pub(crate) fn parse(text: &str, port: u16) -> Result<Self, AddressError> {
        let rest = without_scheme(text, &["http"])?;
        let (authority, path) = split_path(rest);
        let place = Place::of_authority(authority, port)?;
        let path = path.split('#').next().unwrap_or_default();
        let path = if path.starts_with('/') { path.to_owned() } else { format!("/{path}") };
        Ok(Self { place, path: escaped(&path, is_of_path) })
    }
}

fn without_scheme<'a>(text: &'a str, schemes: &[&str]) -> Result<&'a str, AddressError> {
    let text = text.trim();
    if text.is_empty() {
        return Err(AddressError::Missing);
    }
    match text.split_once("://") {
        None => Ok(text),
        Some((scheme, rest)) if schemes.iter().any(|known| known.eq_ignore_ascii_case(scheme)) => Ok(rest),
        Some(_) => Err(AddressError::Scheme),
    }
}

fn split_path(text: &str) -> (&str, &str) {
    text.find(['/', '?', '#']).and_then(|at| text.split_at_checked(at)).unwrap_or((text, ""))
}

/// Bytes that `keep` does not know become `%XX`.
pub(crate) fn escaped(text: &str, keep: impl Fn(u8) -> bool) -> String {
    use std::fmt::Write as _;
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        if keep(byte) {
            escaped.push(char::from(byte));
        } else {
            // Writing to a text does not fail.
            let _ = write!(escaped, "%{byte:02X}");
        }
    }
    escaped
}

/// In a path that somebody wrote, all that cannot stand in a request's first line is escaped; `%XX` stays.
fn is_of_path(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'<' | b'>' | b'\\' | b'^' | b'`' | b'{' | b'|' | b'}')
}

/// What stays as it is in one value of a question.
pub(crate) fn is_unreserved(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places() {
        let check = |text: &str, expected: Result<&str, AddressError>| {
            let found = Place::parse(text, &["tcp", "mqtt"], 1883).map(|place| place.to_string());
            assert_eq!(found.as_deref().map_err(|error| *error), expected, "{text}");
        };
        check("tcp://127.0.0.1:1884", Ok("127.0.0.1:1884"));
        check(" MQTT://broker/ ", Ok("broker:1883"));
        check("broker", Ok("broker:1883"));
        check("tcp://[fe80::1]:1", Ok("[fe80::1]:1"));
        check("[::1]", Ok("[::1]:1883"));
        check("", Err(AddressError::Missing));
        check("ssl://broker:8883", Err(AddressError::Scheme));
        check("tcp://me:secret@broker", Err(AddressError::Login));
        check("tcp://broker:70000", Err(AddressError::Form));
        check("tcp://broker:0", Err(AddressError::Form));
        check("tcp://:1883", Err(AddressError::Form));
        check("tcp://a b", Err(AddressError::Form));
        check("tcp://broker/x", Err(AddressError::Form));
        check("::1", Err(AddressError::Form));
        check("[::1", Err(AddressError::Form));
    }

    #[test]
    fn urls() {
        let check = |text: &str, expected: Result<(&str, &str), AddressError>| {
            let found = Url::parse(text, 80);
            let found = found.as_ref().map(|url| (url.place.to_string(), url.path.as_str()));
            let found = found.as_ref().map(|(place, path)| (place.as_str(), *path));
            assert_eq!(found.map_err(|error| **error), expected, "{text}");
        };
        check("http://db:8086", Ok(("db:8086", "/")));
        check("db/a b?key=ü#x", Ok(("db:80", "/a%20b?key=%C3%BC")));
        check("http://db?x", Ok(("db:80", "/?x")));
        check("https://db", Err(AddressError::Scheme));
        check("http://", Err(AddressError::Form));
        check("http://a:b@db", Err(AddressError::Login));
        assert_eq!(Url::parse("http://db/x?key=secret", 80).unwrap().to_string(), "http://db:80/x");
    }
}
