//! Pure: what is known of tokens, as rows and as JSON. Never their text.

use ke_wire::enrolment::JoinToken;
use ke_wire::join_tokens::{Issued, List};
use serde_json::{Value, json};

use super::{CURRENT, shown, signed};
use crate::age::span;

/// One line of the list.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) id: String,
    issued: Issued,
    pub(super) state: &'static str,
}

impl Line {
    pub(super) fn row(&self, now: u64) -> Vec<String> {
        let Issued { made, ends, by, note, .. } = &self.issued;
        let ago = |then: u64| span(signed(now.saturating_sub(then)));
        let ends = if *ends > now {
            format!("in {}", span(signed(ends - now)))
        } else {
            format!("{} ago", ago(*ends))
        };
        let made = if *made == 0 { "-".to_owned() } else { format!("{} ago", ago(*made)) };
        vec![self.id.clone(), made, ends, self.state.to_owned(), by.clone(), note.clone()]
    }

    pub(super) fn json(&self) -> Value {
        let Issued { made, ends, by, note, revoked } = &self.issued;
        let made = Some(*made).filter(|made| *made > 0).map(shown);
        json!({"id": self.id, "made": made, "ends": shown(*ends), "state": self.state, "by": by, "note": note,
            "revoked": revoked.map(shown)})
    }
}

/// The present token of cloudcore first, then those that end last.
pub(super) fn lines(list: &List, current: Option<&JoinToken>, now: u64) -> Vec<Line> {
    let state = |issued: &Issued| match issued {
        Issued { revoked: Some(_), .. } => "revoked",
        Issued { ends, .. } if *ends <= now => "ended",
        Issued { .. } => "ready",
    };
    let line = |(id, entry): (&String, &Vec<u8>)| {
        let issued = serde_json::from_slice::<Issued>(entry);
        let state = issued.as_ref().map_or("unreadable", state);
        Line { id: id.clone(), issued: issued.unwrap_or_default(), state }
    };
    let mut lines: Vec<Line> = list.iter().map(line).collect();
    lines.sort_by_key(|line| (std::cmp::Reverse(line.issued.ends), line.id.clone()));
    let id = current.map(|current| current.id().unwrap_or_else(|| CURRENT.to_owned()));
    if let (Some(current), Some(id)) = (current, id.filter(|id| !list.contains_key(id))) {
        let ends = current.ends().and_then(|ends| u64::try_from(ends).ok()).unwrap_or_default();
        let note = "current: gettoken prints it, cloudcore renews it".to_owned();
        let issued = Issued { ends, note, ..Issued::default() };
        lines.insert(0, Line { id, state: state(&issued), issued });
    }
    lines
}
