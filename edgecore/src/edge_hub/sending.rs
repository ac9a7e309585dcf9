//! Pure: a report as the message that tells it, and what its answer means.

use ke_wire::{Answer, EventChange, MessageId, Question, Reason, Up};

use super::patch::pod_status_patch;
use crate::report_queue::Report;

/// How a report goes up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Sending {
    /// As a question: its answer says what became of it.
    Ask(Question),
    /// As a message that nothing answers.
    Tell(Up),
    /// Not at all: it can never be told.
    Never(&'static str),
}

/// The message for one report.
pub(super) fn sending(report: &Report) -> Sending {
    match report {
        Report::PodStatus { namespace, name, uid, status } => match pod_status_patch(uid, status) {
            Some(patch) => Sending::Ask(Question::PatchPodStatus {
                namespace: namespace.clone(),
                name: name.clone(),
                patch,
            }),
            None => Sending::Never("the status is no JSON object"),
        },
        Report::PodGone { namespace, name, uid } => {
            let options = format!("{{\"gracePeriodSeconds\":0,\"preconditions\":{{\"uid\":\"{uid}\"}}}}");
            Sending::Ask(Question::DeletePod {
                namespace: namespace.clone(),
                name: name.clone(),
                options: options.into(),
            })
        }
        Report::Event { key, body } => {
            let change = if is_repeat(body) { EventChange::Updated } else { EventChange::Created };
            Sending::Tell(Up::Event {
                id: MessageId::fresh(),
                key: key.clone(),
                change: change(body.clone()),
            })
        }
    }
}

/// Whether an event of that name was told before: its count then says how often.
fn is_repeat(event: &[u8]) -> bool {
    #[derive(serde::Deserialize)]
    struct Counted {
        #[serde(default)]
        count: i64,
    }
    serde_json::from_slice::<Counted>(event).is_ok_and(|event| event.count > 1)
}

/// What an answer says about a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Settlement {
    /// The API server has it.
    Done,
    /// It will never have it: the object is gone or is another one now.
    Moot,
    /// Not now.
    Later,
}

pub(super) fn settlement(answer: &Answer) -> Settlement {
    let refusal = match answer {
        Answer::Refused(refusal) | Answer::NotStored(refusal) => refusal,
        _ => return Settlement::Done,
    };
    match refusal.reason {
        // Conflict: the uid named is not the one the API server holds.
        Reason::NotFound
        | Reason::Conflict
        | Reason::AlreadyExists
        | Reason::Invalid
        | Reason::BadRequest => Settlement::Moot,
        Reason::Forbidden | Reason::Timeout | Reason::Unknown | Reason::Other(_) => Settlement::Later,
    }
}

#[cfg(test)]
mod tests {
    use ke_wire::Refusal;

    use super::*;

    #[test]
    fn deletion_names_its_uid() {
        let gone = Report::PodGone {
            namespace: "default".parse().unwrap(),
            name: "web".parse().unwrap(),
            uid: "u-1".parse().unwrap(),
        };
        let Sending::Ask(Question::DeletePod { options, .. }) = sending(&gone) else {
            panic!("not a question")
        };
        let options: serde_json::Value = serde_json::from_slice(&options).unwrap();
        assert_eq!(options["preconditions"]["uid"], "u-1");
    }

    #[test]
    fn a_repeated_event_updates_the_first() {
        let check = |body: &'static str, expected: bool| {
            let event = Report::Event { key: "default/event/e".parse().unwrap(), body: body.into() };
            let Sending::Tell(Up::Event { change, .. }) = sending(&event) else { panic!("not an event") };
            assert_eq!(matches!(change, EventChange::Updated(_)), expected, "{body}");
        };
        check(r#"{"count":1}"#, false);
        check(r#"{"count":2}"#, true);
        check("{}", false);
    }

    #[test]
    fn answers() {
        let check = |reason: Reason, expected| {
            let refusal = Refusal { message: String::new(), reason, details: None, code: 500 };
            assert_eq!(settlement(&Answer::NotStored(refusal)), expected);
        };
        check(Reason::NotFound, Settlement::Moot);
        check(Reason::Conflict, Settlement::Moot);
        check(Reason::Timeout, Settlement::Later);
        check(Reason::Forbidden, Settlement::Later);
        assert_eq!(settlement(&Answer::Done), Settlement::Done);
    }
}
