//! Pure: takes secrets out of texts that leave a machine.
//!
//! What has a secret's shape goes (private keys, JWTs, what follows `Bearer` and `password=`, passwords in URLs), and so does
//! every value that the caller knows to be secret. It errs on the side of taking too much. Called by edgecore, which knows the
//! values of its store, and by keadm for what edgecore never saw.

/// Stands where a secret stood.
pub const REDACTED: &str = "<redacted>";
/// Shorter values cannot be told from ordinary words and numbers.
const MIN_KNOWN: usize = 4;
/// Shorter values go only where they are a whole word.
const MIN_INSIDE: usize = 8;
/// Values that say nothing, and without which no text could be read.
const HARMLESS: [&str; 6] = ["true", "false", "null", "none", "http", "https"];
/// A shorter run is a word that happens to begin like a JWT.
const MIN_JWT: usize = 20;
/// What follows one of these and `=`, or `":` in JSON, is taken out.
const TELLING: [&str; 7] = ["password", "passwd", "token", "apikey", "api_key", "secretkey", "secret_key"];

/// The values that are known to be secret.
#[derive(Clone, Default)]
pub struct Redactor {
    /// Longest first: one may be part of another.
    known: Vec<String>,
}

impl Redactor {
    /// `values` as they could stand in a text, so in each of their forms.
    pub fn knowing(values: impl IntoIterator<Item = String>) -> Self {
        let mut known: Vec<String> = values
            .into_iter()
            .filter(|value| {
                value.trim().len() >= MIN_KNOWN && !HARMLESS.contains(&value.to_lowercase().as_str())
            })
            .collect();
        known.sort_by(|a, b| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        known.dedup();
        Self { known }
    }

    /// The text without secrets.
    #[must_use]
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.to_owned();
        for value in &self.known {
            if !text.contains(value.as_str()) {
                continue;
            }
            text = if value.len() < MIN_INSIDE {
                replace_words(&text, value)
            } else {
                text.replace(value, REDACTED)
            };
        }
        let text = without_private_keys(&text);
        let text = without_jwts(&text);
        let text = without_told(&text);
        without_url_passwords(&text)
    }
}

fn replace_words(text: &str, value: &str) -> String {
    let is_word =
        |letter: Option<char>| letter.is_some_and(|letter| letter.is_alphanumeric() || letter == '_');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(value) {
        clean.push_str(before);
        let is_part = is_word(clean.chars().next_back()) || is_word(after.chars().next());
        clean.push_str(if is_part { value } else { REDACTED });
        rest = after;
    }
    clean + rest
}

fn without_private_keys(text: &str) -> String {
    const BEGIN: &str = "-----BEGIN ";
    const END: &str = "-----END ";
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once(BEGIN) {
        clean.push_str(before);
        let label = after.split("-----").next().unwrap_or_default();
        if !label.contains("PRIVATE KEY") {
            clean.push_str(BEGIN);
            rest = after;
            continue;
        }
        clean.push_str(REDACTED);
        // Without an end all that follows may be the key.
        let end = after.split_once(END).and_then(|(_, end)| end.split_once("-----"));
        rest = end.map(|(_, rest)| rest).unwrap_or_default();
    }
    clean + rest
}

/// A JWT's header is an object, so its base64 begins with `eyJ`; so does that of every secret that is JSON.
fn without_jwts(text: &str) -> String {
    let is_of_jwt =
        |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '-' | '_' | '.' | '+' | '/' | '=');
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("eyJ") {
        clean.push_str(before);
        let length = after.find(|letter| !is_of_jwt(letter)).unwrap_or(after.len());
        let (run, behind) = after.split_at_checked(length).unwrap_or((after, ""));
        if run.len() + "eyJ".len() >= MIN_JWT {
            clean.push_str(REDACTED);
        } else {
            clean.push_str("eyJ");
            clean.push_str(run);
        }
        rest = behind;
    }
    clean + rest
}

fn without_told(text: &str) -> String {
    let lower = text.to_ascii_lowercase();
    let mut cuts: Vec<(usize, usize)> = Vec::new();
    let mut cut = |word_end: usize, is_header: bool| {
        let behind = text.get(word_end..).unwrap_or_default();
        let value = if is_header { Some((behind, Ends::Bare)) } else { told(behind) };
        let Some((value, ends)) = value else { return };
        let length = ends.length(value);
        if length > 0 && !value.starts_with(REDACTED) {
            let start = text.len() - value.len();
            cuts.push((start, start + length));
        }
    };
    for word in TELLING {
        for (at, _) in lower.match_indices(word) {
            cut(at + word.len(), false);
        }
    }
    for scheme in ["bearer ", "authorization: basic "] {
        for (at, _) in lower.match_indices(scheme) {
            cut(at + scheme.len(), true);
        }
    }
    cuts.sort_unstable();
    let mut clean = String::with_capacity(text.len());
    let mut at = 0;
    for (start, end) in cuts {
        // One that lies within the one before it is gone already.
        if start >= at {
            clean.push_str(text.get(at..start).unwrap_or_default());
            clean.push_str(REDACTED);
            at = end;
        }
    }
    clean + text.get(at..).unwrap_or_default()
}

/// How a value ends.
#[derive(Clone, Copy)]
enum Ends {
    /// At a space or a mark.
    Bare,
    /// At this mark, unless a backslash stands before it.
    At(char),
    /// At this mark: all of the text is within quotes of its own.
    AtEscaped(char),
}

impl Ends {
    fn length(self, value: &str) -> usize {
        let is_mark =
            |letter: char| letter.is_whitespace() || matches!(letter, '"' | '\'' | '\\' | ',' | ';' | '&');
        let end = match self {
            Self::Bare => value.find(is_mark),
            Self::AtEscaped(quote) => value.find(quote),
            Self::At(quote) => {
                let mut is_escaped = false;
                value.find(|letter| {
                    let is_end = letter == quote && !is_escaped;
                    is_escaped = letter == '\\' && !is_escaped;
                    is_end
                })
            }
        };
        end.unwrap_or(value.len())
    }
}

/// The value behind a telling word: `=value`, `="value"`, `":"value"` and `\":\"value\"`.
fn told(behind: &str) -> Option<(&str, Ends)> {
    if let Some(value) = behind.strip_prefix('=') {
        let quoted =
            ['"', '\''].into_iter().find_map(|quote| Some((value.strip_prefix(quote)?, Ends::At(quote))));
        return Some(quoted.unwrap_or((value, Ends::Bare)));
    }
    let quote = behind.trim_start_matches('\\');
    let colon = quote.strip_prefix('"')?.trim_start().strip_prefix(':')?.trim_start();
    let value = colon.trim_start_matches('\\').strip_prefix('"')?;
    Some((value, if quote.len() < behind.len() { Ends::AtEscaped('"') } else { Ends::At('"') }))
}

fn without_url_passwords(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("://") {
        clean.push_str(before);
        clean.push_str("://");
        let ends =
            |letter: char| letter.is_whitespace() || matches!(letter, '/' | '"' | '\'' | '?' | '#' | ',');
        let authority = after.split(ends).next().unwrap_or_default();
        rest = after;
        if let Some((account, _)) = authority.rsplit_once('@')
            && let Some((user, password)) = account.split_once(':')
            && password != REDACTED
        {
            clean.push_str(user);
            clean.push(':');
            clean.push_str(REDACTED);
            rest = after.get(account.len()..).unwrap_or_default();
        }
    }
    clean + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shapes_go_and_the_rest_stays() {
        let check =
            |text: &str, expected: &str| assert_eq!(Redactor::default().redact(text), expected, "{text}");
        check("nothing of it: the token ended, 3 pods", "nothing of it: the token ended, 3 pods");
        check(
            "a\n-----BEGIN EC PRIVATE KEY-----\nMHcCAQ\n-----END EC PRIVATE KEY-----\nb",
            "a\n<redacted>\nb",
        );
        check("a -----BEGIN PRIVATE KEY-----\\nMHcCAQ", "a <redacted>");
        check(
            "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
            "-----BEGIN CERTIFICATE-----\nMII\n-----END CERTIFICATE-----",
        );
        check("join 12ab.eyJhbGciOiJIUzI1NiJ9.eyJleHAiOjF9.c2ln_w- now", "join 12ab.<redacted> now");
        check("eyJ is a word", "eyJ is a word");
        check("Authorization: Bearer abc.def, 200", "Authorization: Bearer <redacted>, 200");
        check("user=a password=\"x \\\"y\" rest", "user=a password=\"<redacted>\" rest");
        check("{\"Password\": \"x,y\\n\", \"b\":1}", "{\"Password\": \"<redacted>\", \"b\":1}");
        check("{\\\"token\\\":\\\"x y\\\"}", "{\\\"token\\\":\\\"<redacted>\"}");
        check("--token=abc --name=edge-1", "--token=<redacted> --name=edge-1");
        check("http://u:p@proxy:3128/x http://a:80/b@c", "http://u:<redacted>@proxy:3128/x http://a:80/b@c");
        check("püff password=ü, ok", "püff password=<redacted>, ok");
    }

    #[test]
    fn what_is_known_goes_in_every_place() {
        let redactor = Redactor::knowing(
            ["hunter2", "correct horse", "correct horse battery", "true", "ab"].map(str::to_owned),
        );
        let check = |text: &str, expected: &str| assert_eq!(redactor.redact(text), expected, "{text}");
        check("xcorrect horse batteryx, correct horse", "x<redacted>x, <redacted>");
        // Short ones only as words.
        check("hunter2 \"hunter2\" hunter22 xhunter2", "<redacted> \"<redacted>\" hunter22 xhunter2");
        check("true ab", "true ab");
    }
}
