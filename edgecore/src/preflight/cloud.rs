//! What is said of the way into the cloud and of this machine's right to it. Pure.

use super::Verdict;
use crate::edge_hub::Prospect;

/// `server`: the cloud as configured. `identity`: what was found there, or what is wrong and what to do about it. Gives what
/// was found and an advice.
pub(super) fn judge<'a>(
    server: &str,
    identity: &'a Result<Prospect, (String, &'static str)>,
) -> (Verdict, String, &'a str) {
    match identity {
        Ok(Prospect::Joined) => {
            (Verdict::Ok, format!("{server} answers, and this machine has its certificate"), "")
        }
        Ok(Prospect::TokenFits) => {
            (Verdict::Ok, format!("{server} answers, and the join token is of that cloud"), "")
        }
        // Its pods go on.
        Ok(Prospect::Away { why, advice }) => {
            let found = format!("this machine has its certificate, but the cloud does not answer: {why}");
            let otherwise = "see that it is cloudcore that answers there";
            (Verdict::Warning, found, if advice.is_empty() { otherwise } else { advice })
        }
        Err((why, advice)) => (Verdict::Failed, why.clone(), advice),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_cloud_that_answers_is_said_to() {
        let check = |identity: Result<Prospect, (String, &'static str)>, expected: (Verdict, &str, &str)| {
            let (verdict, found, advice) = judge("https://cloud:1", &identity);
            assert_eq!((verdict, advice), (expected.0, expected.2));
            assert!(found.contains(expected.1), "{found}");
        };
        let away = |advice| Ok(Prospect::Away { why: "refused".into(), advice });
        check(Ok(Prospect::Joined), (Verdict::Ok, "https://cloud:1 answers, and this machine has", ""));
        check(Ok(Prospect::TokenFits), (Verdict::Ok, "https://cloud:1 answers, and the join token", ""));
        check(away("look"), (Verdict::Warning, "does not answer: refused", "look"));
        check(away(""), (Verdict::Warning, "refused", "see that it is cloudcore that answers there"));
        check(Err(("another CA".into(), "")), (Verdict::Failed, "another CA", ""));
    }
}
