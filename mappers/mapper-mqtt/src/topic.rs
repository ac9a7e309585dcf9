//! Pure: filters as a client may write them: those of MQTT, and shared ones (`$share/<group>/<filter>`). The client library's
//! own matching takes no topic that begins with `$`, and those of edge nodes all do.

/// Whether one may subscribe to this.
#[must_use]
pub fn is_filter(text: &str) -> bool {
    ke_mqtt::is_filter(text) && ke_mqtt::is_filter(unshared(text))
}

/// Whether a subscription takes a topic.
#[must_use]
pub fn matches(filter: &str, topic: &str) -> bool {
    ke_mqtt::matches(unshared(filter), topic)
}

/// `$share/<group>/<filter>` is `<filter>`, of which others in the group take a part.
fn unshared(filter: &str) -> &str {
    let rest = filter.strip_prefix("$share/").and_then(|rest| rest.split_once('/'));
    rest.map_or(filter, |(_, filter)| filter)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shared_filters_take_what_the_filter_takes() {
        let check = |filter: &str, topic: &str, expected: bool| {
            assert!(is_filter(filter), "{filter}");
            assert_eq!(matches(filter, topic), expected, "{filter} {topic}");
        };
        check("$share/mappers/hall/+", "hall/3", true);
        check("$share/mappers/hall/+", "hall/3/temp", false);
        check("$share/mappers/hall", "$share/mappers/hall", false);
        check("hall/#", "hall/3/temp", true);
        check("#", "$SYS/uptime", false);
        check("$hw/events/+/twin/#", "$hw/events/oven/twin/update", true);
        assert!(!is_filter("$share/mappers/"));
        assert!(!is_filter("$share/mappers/hall#"));
    }
}
