//! Pure: what of a program's words says why it failed.

/// With which our programs begin what they end with.
const ERROR: &str = "error: ";

/// The end of what a program said: the last lines say why.
pub(crate) fn last_words(text: &str) -> String {
    let mut lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    // Before it stands the log of what was tried.
    let error = lines.iter().rposition(|line| line.starts_with(ERROR));
    lines.drain(..error.unwrap_or(0));
    // It stands within a sentence of ours, which says that it is an error.
    let lines: Vec<&str> = lines.iter().map(|line| line.trim_start_matches(ERROR)).collect();
    let from = lines.len().saturating_sub(5);
    let words = lines.get(from..).unwrap_or_default().join("; ");
    if words.is_empty() { "it failed and said nothing".to_owned() } else { words }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_a_program_said_the_error_counts() {
        let check = |said: &str, expected: &str| assert_eq!(last_words(said), expected);
        check("10:00 INFO asking\nerror: no such name\n  choose another\n", "no such name; choose another");
        check("1\n2\n3\n4\n5\n\n6\n", "2; 3; 4; 5; 6");
        check(" \n", "it failed and said nothing");
    }
}
