//! Pure: what the edge node takes of a mapper.
//!
//! Isthmus' edgecore takes every round and any text; KubeEdge's takes less. Which of them it is stands with the answer to
//! the registration, which `link.rs` reads; `carrier.rs` keeps to it.

use tonic::metadata::MetadataMap;

/// Along with the answer to a registration: values of any text are taken. Edges of KubeEdge send nothing of the kind.
pub(crate) const ANY_TEXT: &str = "isthmus-dmi";

/// Whose edgecore it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Maker {
    /// Ours.
    Isthmus,
    /// KubeEdge's, or anybody else's: the least is expected of it.
    KubeEdge,
}

impl Maker {
    /// Who says this along with the answer to a registration.
    pub(crate) fn of_answer(metadata: &MetadataMap) -> Self {
        if metadata.contains_key(ANY_TEXT) { Self::Isthmus } else { Self::KubeEdge }
    }
}

/// The last registration that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Counts registrations.
    pub(crate) number: u64,
    /// Who took it.
    pub(crate) maker: Maker,
}

impl Registered {
    /// The one that follows.
    pub(crate) fn next(last: Option<Self>, maker: Maker) -> Self {
        Self { number: last.map_or(1, |last| last.number.wrapping_add(1)), maker }
    }
}

#[cfg(test)]
mod tests {
    use tonic::metadata::MetadataValue;

    use super::*;

    #[test]
    fn who_answers() {
        let check = |key: Option<&'static str>, expected: Maker| {
            let mut metadata = MetadataMap::new();
            if let Some(key) = key {
                metadata.insert(key, MetadataValue::from_static("1"));
            }
            assert_eq!(Maker::of_answer(&metadata), expected, "{key:?}");
        };
        check(Some("isthmus-dmi"), Maker::Isthmus);
        check(Some("content-type"), Maker::KubeEdge);
        check(None, Maker::KubeEdge);
    }
}
