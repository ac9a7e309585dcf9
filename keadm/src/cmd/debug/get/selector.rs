//! Pure: label selectors, as kubectl takes them without sets.

use serde_json::Value;

/// One requirement of a label selector.
pub(super) enum Term {
    Is(String, String),
    IsNot(String, String),
    Has(String),
    HasNot(String),
}

impl Term {
    pub(super) fn fits(&self, body: &Value) -> bool {
        let label = |name: &str| body.get("metadata")?.get("labels")?.get(name)?.as_str();
        match self {
            Self::Is(name, value) => label(name) == Some(value),
            Self::IsNot(name, value) => label(name) != Some(value),
            Self::Has(name) => label(name).is_some(),
            Self::HasNot(name) => label(name).is_none(),
        }
    }
}

pub(super) fn parse(text: &str) -> Result<Vec<Term>, String> {
    let term = |term: &str| {
        let term = term.trim();
        let two = |mark: &str| {
            term.split_once(mark).map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        };
        let parsed = if let Some((name, value)) = two("!=") {
            Term::IsNot(name, value)
        } else if let Some((name, value)) = two("==").or_else(|| two("=")) {
            Term::Is(name, value)
        } else if let Some(name) = term.strip_prefix('!') {
            Term::HasNot(name.to_owned())
        } else {
            Term::Has(term.to_owned())
        };
        let name = match &parsed {
            Term::Is(name, _) | Term::IsNot(name, _) | Term::Has(name) | Term::HasNot(name) => name,
        };
        let is_name = !name.is_empty()
            && name.chars().all(|letter| letter.is_ascii_alphanumeric() || "-_./".contains(letter));
        if is_name { Ok(parsed) } else { Err(format!("--selector: {term:?} is none of a=b, a!=b, a and !a")) }
    };
    text.split(',').filter(|part| !part.trim().is_empty()).map(term).collect()
}
