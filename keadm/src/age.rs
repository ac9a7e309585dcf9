//! Pure: spans of time as kubectl writes them: two units while the second one matters.

use k8s_openapi::jiff::Timestamp;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;
const YEAR: i64 = 365 * DAY;

/// How long ago it was.
pub(crate) fn age(since: Option<Timestamp>, now: Timestamp) -> String {
    since.map_or_else(
        || "<unknown>".to_owned(),
        |since| span(now.as_second().saturating_sub(since.as_second())),
    )
}

/// So many seconds.
pub(crate) fn span(seconds: i64) -> String {
    let two = |large: i64, letter: char, small: i64, second: char| {
        let (first, rest) = (seconds / large, seconds % large / small);
        if rest == 0 { format!("{first}{letter}") } else { format!("{first}{letter}{rest}{second}") }
    };
    match seconds {
        // Clocks of two machines differ a little.
        ..-1 => "<invalid>".to_owned(),
        -1..0 => "0s".to_owned(),
        _ if seconds < 2 * MINUTE => format!("{seconds}s"),
        _ if seconds < 10 * MINUTE => two(MINUTE, 'm', 1, 's'),
        _ if seconds < 3 * HOUR => format!("{}m", seconds / MINUTE),
        _ if seconds < 8 * HOUR => two(HOUR, 'h', MINUTE, 'm'),
        _ if seconds < 2 * DAY => format!("{}h", seconds / HOUR),
        _ if seconds < 8 * DAY => two(DAY, 'd', HOUR, 'h'),
        _ if seconds < 2 * YEAR => format!("{}d", seconds / DAY),
        _ if seconds < 8 * YEAR => two(YEAR, 'y', DAY, 'd'),
        _ => format!("{}y", seconds / YEAR),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_are_kubectls() {
        let check = |seconds: i64, expected: &str| assert_eq!(span(seconds), expected, "{seconds}");
        check(-5, "<invalid>");
        check(-1, "0s");
        check(0, "0s");
        check(119, "119s");
        check(120, "2m");
        check(599, "9m59s");
        check(600, "10m");
        check(3 * HOUR - 1, "179m");
        check(3 * HOUR, "3h");
        check(7 * HOUR + 31 * MINUTE, "7h31m");
        check(8 * HOUR, "8h");
        check(2 * DAY - 1, "47h");
        check(2 * DAY, "2d");
        check(3 * DAY + 4 * HOUR, "3d4h");
        check(8 * DAY, "8d");
        check(2 * YEAR + 3 * DAY, "2y3d");
        check(9 * YEAR, "9y");
        assert_eq!(age(None, Timestamp::UNIX_EPOCH), "<unknown>");
    }
}
