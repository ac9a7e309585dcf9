//! Pure: `-l` of kubectl and keadm: which labels an object must have. Read by edgecore for `keadm ctl`, by keadm for
//! `keadm debug`.
//!
//! `a=b`, `a==b`, `a!=b`, `a in (b,c)`, `a notin (b,c)`, `a`, `!a`, joined by commas; all of them must hold.

use std::collections::BTreeMap;
use std::str::FromStr;

/// A label selector.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Selector(Vec<Demand>);

#[derive(Clone, Debug, PartialEq, Eq)]
struct Demand {
    label: String,
    wants: Wants,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Wants {
    OneOf(Vec<String>),
    NoneOf(Vec<String>),
    Present,
    Absent,
}

impl Selector {
    /// Whether an object with these labels has what is wanted.
    #[must_use]
    pub fn matches(&self, labels: Option<&BTreeMap<String, String>>) -> bool {
        self.matches_where(|label| labels?.get(label).map(String::as_str))
    }

    /// The same where labels are held in another way: `value_of` a label, if it is there.
    #[must_use]
    pub fn matches_where<'a>(&self, value_of: impl Fn(&str) -> Option<&'a str>) -> bool {
        self.0.iter().all(|demand| {
            let value = value_of(&demand.label);
            let is_among = |values: &[String], value: &str| values.iter().any(|wanted| wanted == value);
            match &demand.wants {
                Wants::OneOf(values) => value.is_some_and(|value| is_among(values, value)),
                Wants::NoneOf(values) => value.is_none_or(|value| !is_among(values, value)),
                Wants::Present => value.is_some(),
                Wants::Absent => value.is_none(),
            }
        })
    }
}

impl FromStr for Selector {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |part: &str| {
            format!("the selector {part:?} is none of a=b, a!=b, a in (b,c), a notin (b,c), a, !a")
        };
        let demands = parts(text).map(str::trim).filter(|part| !part.is_empty());
        let demands = demands.map(|part| demand(part).ok_or_else(|| wrong(part)));
        demands.collect::<Result<_, _>>().map(Self)
    }
}

/// At commas that are not within brackets.
fn parts(text: &str) -> impl Iterator<Item = &str> {
    let mut is_open = false;
    text.split(move |letter| {
        match letter {
            '(' => is_open = true,
            ')' => is_open = false,
            _ => {}
        }
        letter == ',' && !is_open
    })
}

fn demand(part: &str) -> Option<Demand> {
    let (label, wants) = if let Some((label, value)) = part.split_once("!=") {
        (label, Wants::NoneOf(vec![value.trim().to_owned()]))
    } else if let Some((label, value)) = part.split_once("==").or_else(|| part.split_once('=')) {
        (label, Wants::OneOf(vec![value.trim().to_owned()]))
    } else if let Some((head, values)) = part.strip_suffix(')').and_then(|part| part.split_once('(')) {
        let values = values.split(',').map(|value| value.trim().to_owned()).collect();
        match head.trim().rsplit_once(char::is_whitespace)? {
            (label, "in") => (label, Wants::OneOf(values)),
            (label, "notin") => (label, Wants::NoneOf(values)),
            _ => return None,
        }
    } else {
        part.strip_prefix('!').map_or((part, Wants::Present), |label| (label, Wants::Absent))
    };
    let label = label.trim();
    let is_label = |letter: char| letter.is_ascii_alphanumeric() || "-_./".contains(letter);
    (!label.is_empty() && label.chars().all(is_label)).then(|| Demand { label: label.to_owned(), wants })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_selected() {
        let labels =
            BTreeMap::from([("app".to_owned(), "web".to_owned()), ("a.io/x".to_owned(), String::new())]);
        let check = |text: &str, expected: bool| {
            let selector: Selector = text.parse().unwrap();
            assert_eq!(selector.matches(Some(&labels)), expected, "{text}");
        };
        check("", true);
        check("app=web", true);
        check("app==web, a.io/x=", true);
        check("app = db", false);
        check("app!=db,missing!=x", true);
        check("app!=web", false);
        check("app in (db, web),!missing", true);
        check("app notin (db,web)", false);
        check("app,a.io/x", true);
        check("missing", false);
        check("!app", false);
        assert!(!"app=web".parse::<Selector>().unwrap().matches(None));
    }

    #[test]
    fn nonsense_is_shown() {
        for text in ["=x", "a b", "a near (b)", "in (b)", "a(b)", "app=web,!"] {
            let error = text.parse::<Selector>().unwrap_err();
            assert!(error.contains("a notin (b,c)"), "{text}: {error}");
        }
    }
}
