//! Pure: topics and the filters that take them, by MQTT 3.1.1 section 4.7. The client library's own matching takes no topic
//! that begins with `$`, and those of edge nodes all do.

/// Whether a message may have this topic.
#[must_use]
pub fn is_topic(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.contains(['+', '#', '\0'])
}

/// Whether one may subscribe to this: wildcards are whole levels, and `#` is the last.
#[must_use]
pub fn is_filter(text: &str) -> bool {
    let filter = unshared(text);
    let is_plain = |level: &str| !level.contains(['+', '#']);
    let (before, last) =
        filter.rsplit_once('/').map_or((None, filter), |(before, last)| (Some(before), last));
    let is_before_right =
        before.is_none_or(|before| before.split('/').all(|level| level == "+" || is_plain(level)));
    let is_last_right = matches!(last, "+" | "#") || is_plain(last);
    !filter.is_empty() && text.len() <= LONGEST && !text.contains('\0') && is_before_right && is_last_right
}

/// Whether a subscription takes a topic. Wildcards at the first level take none that begins with `$`.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    let filter = unshared(filter);
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut levels = topic.split('/');
    for wanted in filter.split('/') {
        match (wanted, levels.next()) {
            // `a/#` takes `a` too.
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (wanted, Some(level)) if wanted == level => {}
            _ => return false,
        }
    }
    levels.next().is_none()
}

/// Bytes that a topic may have on the wire.
const LONGEST: usize = 65_535;

/// `$share/<group>/<filter>` is `<filter>`, of which others in the group take a part.
fn unshared(filter: &str) -> &str {
    let rest = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rest.map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn filters_take_topics() {
        let check = |filter: &str, topic: &str, expected: bool| {
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        };
        check("hall/+/temp", "hall/3/temp", true);
        check("hall/+/temp", "hall//temp", true);
        check("hall/+/temp", "hall/3/temp/set", false);
        check("hall/+", "hall", false);
        check("hall/#", "hall", true);
        check("hall/#", "hall/3/temp", true);
        check("#", "hall", true);
        check("#", "$SYS/uptime", false);
        check("+/uptime", "$SYS/uptime", false);
        check("$SYS/#", "$SYS/uptime", true);
        check("$hw/events/+/twin/#", "$hw/events/oven/twin/update", true);
        check("$share/mappers/hall/+", "hall/3", true);
        check("hall", "Hall", false);
        check("+", "/hall", false);
        check("+/+", "/hall", true);
    }

    #[test]
    fn what_may_be_subscribed_and_sent() {
        let check = |text: &str, as_filter: bool, as_topic: bool| {
            assert_eq!((is_filter(text), is_topic(text)), (as_filter, as_topic), "{text:?}");
        };
        check("hall/3/temp", true, true);
        check("/", true, true);
        check("hall/+/temp", true, false);
        check("#", true, false);
        check("hall/#", true, false);
        check("hall/#/temp", false, false);
        check("hall#", false, false);
        check("hall/a+", false, false);
        check("", false, false);
        check("hall\0", false, false);
        check("$share/mappers/", false, true);
    }

    proptest! {
        #[test]
        fn a_topic_is_a_filter_that_takes_itself(topic in "[a-c/$]{1,12}") {
            prop_assume!(!topic.starts_with("$share/"));
            prop_assert!(is_topic(&topic) && is_filter(&topic) && matches(&topic, &topic));
        }

        #[test]
        fn any_text_is_answered(filter in "\\PC{0,20}", topic in "\\PC{0,20}") {
            let _ = (is_filter(&filter), is_topic(&topic), matches(&filter, &topic));
        }
    }
}
