//! Under which of the runtime's handlers Pods of a RuntimeClass run.
//!
//! Asked when such a Pod starts, and kept for starts without a link. A class that the cloud says is not there is forgotten
//! here, too. Clouds that know nothing of classes (KubeEdge's, one of ours before this, one that may not read them) leave only
//! the class's own name: it is taken for the handler's and kept, so that a boot without a link finds what ran before.

use bytes::Bytes;
use ke_wire::{Answer, Delete, Kind, ObjectKey, ObjectName, Question, Reason, Refusal};
use serde::Deserialize;
use serde_json::json;

use super::handle::LookupError;
use super::{store, typed};
use crate::db::{Db, DbError};
use crate::edge_hub::handle::{Answered, Cloud, Peer, Receipt};

/// A Pod's start waits for the cloud's word no longer than this where an earlier one is kept; and where none is, it is
/// tried again.
const LIMIT: std::time::Duration = std::time::Duration::from_secs(3);

/// What the cloud says of a class.
#[derive(Debug)]
enum Said {
    Class(Bytes),
    NotThere(Refusal),
    KnowsNoClasses,
    /// Away, too slow, or in trouble itself.
    Nothing,
}

/// What follows from that.
#[derive(Debug, PartialEq)]
enum Verdict {
    /// Keep this body, and use its handler.
    Keep(Bytes, String),
    Use(String),
    Forget(Refusal),
    Unknown,
    Broken,
}

pub(super) async fn handler(db: &Db, cloud: &Cloud, class: &ObjectName) -> Result<String, LookupError> {
    let key = ObjectKey::cluster(Kind::RuntimeClass, class.clone());
    let broken = |error: &DbError| LookupError::Broken(format!("keep {key}: {error}"));
    let (said, receipt) = ask(cloud, &key).await;
    let of_key = key.clone();
    let held = db.call(move |connection| store::get(connection, &of_key)).await;
    let held = held.map_err(|error| broken(&error))?.map(|held| held.body);
    let of_key = key.clone();
    match verdict(said, held.as_deref(), class) {
        Verdict::Keep(body, handler) => {
            let kept = db.call(move |connection| store::replace(connection, &of_key, &body)).await;
            kept.map_err(|error| broken(&error))?;
            cloud.kept(receipt).await;
            Ok(handler)
        }
        Verdict::Use(handler) => Ok(handler),
        Verdict::Forget(refusal) => {
            let delete = Delete {
                id: ke_wire::MessageId::fresh(),
                key: of_key,
                uid: None,
                version: None,
                origin: ke_wire::Origin::EdgeController,
                body: Bytes::new(),
            };
            let gone = db.call(move |connection| store::delete(connection, &delete)).await;
            gone.map_err(|error| broken(&error))?;
            Err(LookupError::Refused(refusal))
        }
        Verdict::Unknown => Err(LookupError::Offline(format!("RuntimeClass {class}"))),
        Verdict::Broken => Err(LookupError::Broken(format!("{key} names no handler"))),
    }
}

async fn ask(cloud: &Cloud, key: &ObjectKey) -> (Said, Option<Receipt>) {
    match cloud.peer() {
        None => return (Said::Nothing, None),
        Some(Peer::KubeEdge) => return (Said::KnowsNoClasses, None),
        Some(Peer::Isthmus) => {}
    }
    match tokio::time::timeout(LIMIT, cloud.ask(Question::Get(key.clone()))).await {
        Ok(Ok(Answered { answer, receipt, .. })) => (said(answer), receipt),
        Ok(Err(_)) | Err(_) => (Said::Nothing, None),
    }
}

fn said(answer: Answer) -> Said {
    match answer {
        Answer::Object(body) | Answer::Stored(body) => Said::Class(body),
        Answer::Refused(refusal) | Answer::NotStored(refusal) => match refusal.reason {
            Reason::NotFound => Said::NotThere(refusal),
            Reason::Forbidden => {
                tracing::warn!(
                    "the cloud hands out no RuntimeClasses ({refusal}): their names are taken for handlers"
                );
                Said::KnowsNoClasses
            }
            _ => Said::Nothing,
        },
        Answer::Done | Answer::Pem(_) => Said::Nothing,
    }
}

fn verdict(said: Said, held: Option<&[u8]>, class: &ObjectName) -> Verdict {
    let use_held = |held| handler_in(held).map_or(Verdict::Broken, Verdict::Use);
    match (said, held) {
        (Said::Class(body), _) => match handler_in(&body) {
            Some(handler) => Verdict::Keep(body, handler),
            None => Verdict::Broken,
        },
        (Said::NotThere(refusal), _) => Verdict::Forget(refusal),
        (Said::KnowsNoClasses | Said::Nothing, Some(held)) => use_held(held),
        (Said::KnowsNoClasses, None) => {
            let body = json!({
                "apiVersion": "node.k8s.io/v1", "kind": "RuntimeClass",
                "metadata": {"name": class.as_str()},
                "handler": class.as_str(),
            });
            Verdict::Keep(body.to_string().into(), class.to_string())
        }
        (Said::Nothing, None) => Verdict::Unknown,
    }
}

fn handler_in(class: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct Class {
        handler: String,
    }
    typed::<Class>(class).ok().map(|class| class.handler).filter(|handler| !handler.is_empty())
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::db::Synchronous;
    use crate::edge_hub::handle::LinkState;

    fn refusal(reason: Reason) -> Refusal {
        Refusal { message: "no".into(), reason, details: None, code: 404 }
    }

    #[test]
    fn the_clouds_word_then_the_last_one_then_the_name() {
        let class: ObjectName = "isolated".parse().unwrap();
        let kata = r#"{"handler":"kata"}"#;
        let check = |answer: Option<Answer>, held: Option<&str>, expected: Verdict| {
            let words = answer.map_or(Said::Nothing, said);
            assert_eq!(verdict(words, held.map(str::as_bytes), &class), expected);
        };
        let object = |body: &str| Some(Answer::Object(body.to_owned().into()));
        let refused = |reason| Some(Answer::Refused(refusal(reason)));
        check(object(kata), None, Verdict::Keep(kata.into(), "kata".into()));
        check(object(kata), Some(r#"{"handler":"old"}"#), Verdict::Keep(kata.into(), "kata".into()));
        check(object("{}"), Some(kata), Verdict::Broken);
        check(refused(Reason::NotFound), Some(kata), Verdict::Forget(refusal(Reason::NotFound)));
        check(refused(Reason::Timeout), Some(kata), Verdict::Use("kata".into()));
        check(refused(Reason::Timeout), None, Verdict::Unknown);
        check(refused(Reason::Forbidden), Some(kata), Verdict::Use("kata".into()));
        check(None, Some(kata), Verdict::Use("kata".into()));
        check(None, None, Verdict::Unknown);
        let Verdict::Keep(body, handler) = verdict(Said::KnowsNoClasses, None, &class) else {
            panic!("its name is taken and kept")
        };
        let kept: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!((handler.as_str(), kept["handler"].as_str()), ("isolated", Some("isolated")));
    }

    #[tokio::test]
    async fn what_a_cloud_of_kubeedge_left_open_holds_without_a_link() {
        let folder = tempfile::tempdir().unwrap();
        let (db, _) = Db::open(&folder.path().join("e.db"), Synchronous::Full).unwrap();
        let (cloud, inbox) = Cloud::channel();
        let class: ObjectName = "runsc".parse().unwrap();
        let offline = handler(&db, &cloud, &class).await.unwrap_err();
        assert_eq!(
            offline.to_string(),
            "RuntimeClass runsc is not on this node and the cloud is not reachable"
        );
        inbox.set(LinkState::Connected { number: 1, peer: Peer::KubeEdge });
        assert_eq!(handler(&db, &cloud, &class).await.unwrap(), "runsc");
        inbox.set(LinkState::Away);
        assert_eq!(handler(&db, &cloud, &class).await.unwrap(), "runsc");
    }
}
