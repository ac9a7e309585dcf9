//! Pure: topics and the filters that take them, by MQTT 3.1.1 section 4.7.

/// Bytes that a topic or filter may have on the wire.
const LONGEST: usize = 65_535;

/// Whether a subscription takes a topic. Topics that begin with `$` are only for filters that begin so too.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') != filter.starts_with('$') {
        return false;
    }
    let (mut wanted, mut levels) = (filter.split('/'), topic.split('/'));
    loop {
        match (wanted.next(), levels.next()) {
            // `a/#` takes `a` too.
            (Some("#"), _) => return true,
            (Some("+"), Some(_)) => {}
            (Some(wanted), Some(level)) if wanted == level => {}
            (None, None) => return true,
            _ => return false,
        }
    }
}

/// Whether a message may have this topic.
#[must_use]
pub fn is_topic(text: &str) -> bool {
    !text.is_empty() && text.len() <= LONGEST && !text.contains(['+', '#', '\0'])
}

/// Whether a client may subscribe to this: wildcards are whole levels, and `#` is the last.
#[must_use]
pub fn is_filter(text: &str) -> bool {
    let mut levels = text.split('/');
    let last = levels.next_back().unwrap_or_default();
    let is_level = |level: &str| level == "+" || !level.contains(['+', '#']);
    let is_length_right = !text.is_empty() && text.len() <= LONGEST;
    is_length_right && !text.contains('\0') && levels.all(is_level) && (last == "#" || is_level(last))
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
        check("a/+/c", "a/b/c", true);
        check("a/+/c", "a//c", true);
        check("a/+", "a", false);
        check("a/#", "a", true);
        check("a/#", "a/b/c", true);
        check("#", "a/b", true);
        check("#", "$hw/a", false);
        check("+/user/#", "$SYS/user/x", false);
        check("+", "/a", false);
        check("/+", "/a", true);
        check("+/+", "/a", true);
        check("$hw/#", "$hw", true);
        check("$hw/events/device/+/+/twin/+", "$hw/events/device/p/o/twin/update", true);
        check("$hw/events/device/+/+/twin/+", "$hw/events/device/p/o/twin/update/result", false);
        check("a/b", "a/b/c", false);
        check("a/b", "A/b", false);
    }

    #[test]
    fn what_may_be_subscribed_and_said() {
        let check = |text: &str, filter: bool, topic: bool| {
            assert_eq!((is_filter(text), is_topic(text)), (filter, topic), "{text:?}");
        };
        check("a/b", true, true);
        check("/", true, true);
        check("$hw/ä b", true, true);
        check("#", true, false);
        check("a/#", true, false);
        check("+/a/+", true, false);
        check("", false, false);
        check("a\0", false, false);
        check("a#", false, false);
        check("a/#/b", false, false);
        check("a+/b", false, false);
        check(&"a".repeat(65_536), false, false);
    }

    proptest! {
        #[test]
        fn a_topic_is_a_filter_that_takes_itself(topic in "[a-c/$]{1,12}") {
            prop_assert!(is_topic(&topic) && is_filter(&topic) && matches(&topic, &topic));
        }

        #[test]
        fn any_text_is_answered(filter in "\\PC{0,20}", topic in "\\PC{0,20}") {
            let _ = (is_filter(&filter), is_topic(&topic), matches(&filter, &topic));
        }
    }
}
