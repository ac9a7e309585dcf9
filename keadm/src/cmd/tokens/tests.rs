//! Times, the list and what revoking does, without a cluster.

use super::*;

const NOW: u64 = 1_000_000;

fn token(id: Option<&str>, ends: u64) -> JoinToken {
    let ca = Ca { hash: "0".repeat(64), key: b"key".to_vec() };
    ca.sign(&Claims { exp: ends, jti: id.map(str::to_owned), iss: None })
}

fn list_of(entries: &[(&str, Issued)]) -> List {
    entries.iter().map(|(id, issued)| ((*id).to_owned(), serde_json::to_vec(issued).unwrap())).collect()
}

fn issued(ends: u64, revoked: Option<u64>) -> Issued {
    Issued { made: 10, ends, by: "admin".into(), note: "hall 3".into(), revoked }
}

#[test]
fn times_are_words() {
    let check = |text: &str, expected: Option<u64>| assert_eq!(ttl(text).ok(), expected, "{text}");
    check("1m", Some(60));
    check("30m", Some(1800));
    check("24h", Some(86_400));
    check("365d", Some(LONGEST));
    for wrong in
        ["", "m", "0m", "366d", "8761h", "90s", "24", "1.5h", "-1h", "1h30m", "9999999999999999999d", "5µ"]
    {
        check(wrong, None);
    }
    assert!(ttl("90s").unwrap_err().contains("30m, 24h, 7d"));
    assert!(note("hall 3").is_ok() && note("a\nb").is_err() && note(&"x".repeat(201)).is_err());
}

#[test]
fn what_revoking_does() {
    let current = token(Some("cloudcore-0"), NOW + 50);
    let list = list_of(&[
        ("good", issued(NOW + 1, None)),
        ("ended", issued(NOW, None)),
        ("gone", issued(NOW + 1, Some(5))),
    ]);
    let check = |word: &str, expected: Order| {
        assert_eq!(order(word, &list, Some(&current), NOW).unwrap(), expected, "{word}");
    };
    check("good", Order::Mark("good".into(), issued(NOW + 1, Some(NOW))));
    check(&token(Some("good"), 1).to_string(), Order::Mark("good".into(), issued(NOW + 1, Some(NOW))));
    check("ended", Order::Nothing("ended has ended already".into()));
    check("gone", Order::Nothing("gone is revoked already".into()));
    let noted = |ends| Issued { ends, revoked: Some(NOW), note: "of cloudcore".into(), ..Issued::default() };
    for word in ["current", "cloudcore-0", &current.to_string()] {
        check(word, Order::Replace("cloudcore-0".into(), Some(noted(NOW + 50))));
    }
    check(
        &token(Some("cloudcore-9"), NOW + 2).to_string(),
        Order::Mark("cloudcore-9".into(), noted(NOW + 2)),
    );

    let refused = |word: &str, current: Option<&JoinToken>, expected: &str| {
        let why = order(word, &list, current, NOW).unwrap_err();
        assert!(why.contains(expected), "{word}: {why}");
    };
    refused("other", Some(&current), "keadm token list");
    refused("cloudcore-1", Some(&current), "keadm token list");
    refused("current", None, "no token in this cluster yet");
    let kubeedges = token(None, NOW + 2 * HOUR);
    refused("current", Some(&kubeedges), "It ends in 120m; all tokens end at once with the CA");
    refused(&kubeedges.to_string(), None, "has no id");
}

#[test]
fn a_token_of_another_cluster_revokes_nothing_here() {
    // cloudcore numbers its tokens alike in every cluster: by its id alone it would be this one's.
    let current = token(Some("cloudcore-0"), NOW + 50);
    let list = list_of(&[("good", issued(NOW + 1, None)), ("cloudcore-0", issued(NOW + 50, None))]);
    for id in ["cloudcore-0", "good", "of-nobody-here"] {
        let other = JoinToken { ca_hash: "1".repeat(64), ..token(Some(id), NOW + 50) };
        let why = order(&other.to_string(), &list, Some(&current), NOW).unwrap_err();
        assert!(why.contains("of another cluster") && why.contains("--kube-config"), "{id}: {why}");
        let own = order(&token(Some(id), NOW + 50).to_string(), &list, Some(&current), NOW).unwrap();
        assert!(matches!(own, Order::Mark(..)), "{id}: {own:?}");
    }
}

#[test]
fn revoking_the_current_one_again_finishes_what_was_cut_short() {
    let list = list_of(&[("cloudcore-0", issued(NOW + 1, Some(5)))]);
    let current = token(Some("cloudcore-0"), NOW + 1);
    let found = order("current", &list, Some(&current), NOW).unwrap();
    assert_eq!(found, Order::Replace("cloudcore-0".into(), None));
}

#[test]
fn the_list_has_states_and_no_text() {
    let list = list_of(&[
        ("good", issued(NOW + 7200, None)),
        ("ended", issued(NOW - 60, None)),
        ("gone", issued(NOW + 1, Some(5))),
    ]);
    let current = token(Some("cloudcore-0"), NOW + 50);
    let lines = lines(&list, Some(&current), NOW);
    let states: Vec<_> = lines.iter().map(|line| (line.id.as_str(), line.state)).collect();
    let expected = [("cloudcore-0", "ready"), ("good", "ready"), ("gone", "revoked"), ("ended", "ended")];
    assert_eq!(states, expected);
    assert_eq!(lines[1].row(NOW)[2..4], ["in 120m", "ready"]);
    assert_eq!(lines[3].row(NOW)[2..4], ["60s ago", "ended"]);
    assert_eq!(lines[1].json()["ends"], "1970-01-12T15:46:40Z");
    let all = format!("{lines:?}");
    assert!(!all.contains(current.jwt.rsplit('.').next().unwrap()), "a token is a secret");
}

#[test]
fn a_kubeedge_token_is_listed_without_an_id() {
    let lines = lines(&List::new(), Some(&token(None, NOW - 1)), NOW);
    assert_eq!((lines[0].id.as_str(), lines[0].state), ("current", "ended"));
}

#[test]
fn only_old_ones_of_keadm_are_forgotten() {
    let list = list_of(&[
        ("old", issued(NOW - KEPT - 1, None)),
        ("revoked", issued(NOW - KEPT - 1, Some(5))),
        ("recent", issued(NOW - 1, None)),
        ("cloudcore-0", Issued { ends: 1, revoked: Some(1), ..Issued::default() }),
    ]);
    assert_eq!(old(&list, NOW).collect::<Vec<_>>(), ["old", "revoked"]);
}
