//! `$(NAME)` references in commands, arguments and environment values. Pure.

/// Replaces `$(NAME)` by what `lookup` gives; a name it does not know stays as written, `$$` is one dollar.
#[must_use]
pub fn expand(text: &str, lookup: impl Fn(&str) -> Option<String>) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('$') {
        out.push_str(before);
        if let Some(after) = after.strip_prefix('$') {
            out.push('$');
            rest = after;
        } else if let Some((name, after)) = after.strip_prefix('(').and_then(|after| after.split_once(')')) {
            match lookup(name) {
                Some(value) => out.push_str(&value),
                None => {
                    out.push_str("$(");
                    out.push_str(name);
                    out.push(')');
                }
            }
            rest = after;
        } else {
            out.push('$');
            rest = after;
        }
    }
    out.push_str(rest);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn references() {
        let check = |text: &str, expected: &str| {
            let lookup = |name: &str| match name {
                "A" => Some("one".to_owned()),
                "B" => Some("$(A)".to_owned()),
                "EMPTY" => Some(String::new()),
                _ => None,
            };
            assert_eq!(expand(text, lookup), expected, "{text}");
        };
        check("plain", "plain");
        check("$(A)", "one");
        check("x$(A)y$(A)", "xoneyone");
        // A value is not looked at again.
        check("$(B)", "$(A)");
        check("$(EMPTY)", "");
        check("$(NOT)", "$(NOT)");
        check("$$(A)", "$(A)");
        check("$$$(A)", "$one");
        check("$$$$(A)", "$$(A)");
        check("$A ${A} 5$", "$A ${A} 5$");
        check("$(A", "$(A");
        check("$()", "$()");
        check("ä$(A)ö", "äoneö");
    }
}
