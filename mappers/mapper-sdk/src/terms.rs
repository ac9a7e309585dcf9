//! Pure: what the edge node takes of a mapper.
//!
//! Isthmus' edgecore takes every round and any text; KubeEdge's takes less. Which of them it is stands with the answer to
//! the registration, which `link.rs` reads; `carrier.rs` keeps to it.

use std::collections::BTreeSet;

use ke_dmi::v1beta1 as dmi;

/// Whose edgecore it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Ours.
    Isthmus,
    /// KubeEdge's, or anybody else's: the least is expected of it.
    KubeEdge,
}

/// KubeEdge's edges take this many bytes of a value, and of a property's name.
const LONGEST: usize = 512;
const LONGEST_NAME: usize = 128;

/// Why an edge node of KubeEdge would drop a whole round for the sake of one property, in words for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Unfit {
    /// It has a character that is not taken.
    #[error("its {0} has the character {1:?}")]
    Character(&'static str, char),
    /// It is longer than what is taken.
    #[error("its {0} is {1} bytes long, and {2} is the most")]
    Long(&'static str, usize, usize),
}

/// Whether an edge node of KubeEdge takes this property as it is told.
pub(crate) fn check(twin: &dmi::Twin) -> Result<(), Unfit> {
    let half = |half: &Option<dmi::TwinProperty>, what| {
        half.as_ref().map_or(Ok(()), |half| check_text(&half.value, what, LONGEST))
    };
    check_text(&twin.property_name, "name", LONGEST_NAME)?;
    half(&twin.reported, "value")?;
    half(&twin.observed_desired, "desired value")
}

fn check_text(text: &str, what: &'static str, longest: usize) -> Result<(), Unfit> {
    let is_taken =
        |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | ',' | ':' | '/' | '@' | '#');
    match text.chars().find(|c| !is_taken(*c)) {
        Some(c) => Err(Unfit::Character(what, c)),
        None if text.len() > longest => Err(Unfit::Long(what, text.len(), longest)),
        None => Ok(()),
    }
}

/// The last registration that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Counts registrations.
    pub(crate) number: u64,
    /// Who took it.
    pub(crate) maker: Maker,
    /// What it takes of what waits.
    pub(crate) pace: Pace,
}

/// What goes to the edge node of what waits for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Pace {
    /// All of it, in order.
    #[default]
    Every,
    /// Of each property and of the state the newest, a call a second of the whole mapper: there is no time for more, and
    /// what comes late would pass for new.
    Newest,
}

impl Registered {
    /// The one that follows.
    pub(crate) fn next(last: Option<Self>, maker: Maker) -> Self {
        let pace = match maker {
            Maker::Isthmus => Pace::Every,
            Maker::KubeEdge => Pace::Newest,
        };
        Self { number: last.map_or(1, |last| last.number.wrapping_add(1)), maker, pace }
    }
}

/// What KubeEdge is told once more: its cloudcore makes an empty entry of a property's first report, and only the second one
/// shows. Counts from each registration, as nobody says when that cloudcore was made anew.
#[derive(Clone, Debug, Default)]
pub(crate) struct Twice {
    /// The registration.
    number: u64,
    /// Properties that were told since.
    told: BTreeSet<String>,
}

impl Twice {
    /// Of what was just told, what is to be told once more.
    pub(crate) fn once_more(&mut self, registered: Registered, told: &[dmi::Twin]) -> Vec<dmi::Twin> {
        if registered.maker == Maker::Isthmus {
            return Vec::new();
        }
        if self.number != registered.number {
            *self = Self { number: registered.number, told: BTreeSet::new() };
        }
        told.iter().filter(|twin| self.told.insert(twin.property_name.clone())).cloned().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_registration_has_the_terms_of_who_answered() {
        let first = Registered::next(None, Maker::KubeEdge);
        assert_eq!((first.number, first.pace), (1, Pace::Newest));
        let second = Registered::next(Some(first), Maker::Isthmus);
        assert_eq!((second.number, second.pace), (2, Pace::Every));
    }

    #[test]
    fn once_more_after_each_registration() {
        let mut twice = Twice::default();
        let mut check = |number: u64, maker: Maker, told: &[&str], expected: &[&str]| {
            let twin = |name: &&str| dmi::Twin { property_name: (*name).to_owned(), ..Default::default() };
            let told: Vec<dmi::Twin> = told.iter().map(twin).collect();
            let registered = Registered { number, maker, pace: Pace::Newest };
            let again = twice.once_more(registered, &told);
            let names: Vec<&str> = again.iter().map(|twin| twin.property_name.as_str()).collect();
            assert_eq!(names, expected, "{registered:?}");
        };
        check(1, Maker::KubeEdge, &["a", "b"], &["a", "b"]);
        check(1, Maker::KubeEdge, &["b", "c"], &["c"]);
        check(1, Maker::KubeEdge, &["a", "b", "c"], &[]);
        check(2, Maker::KubeEdge, &["a"], &["a"]);
        check(3, Maker::Isthmus, &["a"], &[]);
        check(4, Maker::KubeEdge, &["a"], &["a"]);
    }

    #[test]
    fn what_kubeedge_takes() {
        let check = |name: &str, value: &str, desired: &str, expected: &str| {
            let half =
                |value: &str| Some(dmi::TwinProperty { value: value.to_owned(), ..Default::default() });
            let (reported, observed_desired) = (half(value), half(desired));
            let twin = dmi::Twin { property_name: name.to_owned(), reported, observed_desired };
            let found = super::check(&twin).map_or_else(|unfit| unfit.to_string(), |()| String::new());
            assert_eq!(found, expected, "{twin:?}");
        };
        check("heat", "-25.3", "", "");
        check("a-_.,:/@#Z9", "a-_.,:/@#Z9", "a-_.,:/@#Z9", "");
        check("state", "not ok", "", "its value has the character ' '");
        check("state", "", "1+1", "its desired value has the character '+'");
        check("state", "früh", "", "its value has the character 'ü'");
        check("state", "a\nb", "", "its value has the character '\\n'");
        check("the state", "", "", "its name has the character ' '");
        check("heat", &"7".repeat(512), "", "");
        check("heat", &"7".repeat(513), "", "its value is 513 bytes long, and 512 is the most");
        check(&"n".repeat(129), "", "", "its name is 129 bytes long, and 128 is the most");
    }
}
