//! Names of what pods ask for besides CPU and memory. Pure.

/// Kubernetes' rule for names of resources that are not its own.
#[must_use]
pub fn is_extended_resource(name: &str) -> bool {
    let Some((domain, rest)) = name.split_once('/') else { return false };
    let is_label = |text: &str, extra: &[char]| {
        let inside = |c: char| c.is_ascii_alphanumeric() || extra.contains(&c);
        let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
        text.chars().all(inside) && ends(text.chars().next()) && ends(text.chars().last())
    };
    let is_own = domain == "kubernetes.io" || domain.ends_with(".kubernetes.io");
    // A quota names it `requests.<name>`, which must be a name, too: nine characters less.
    let is_short = domain.len() <= 253 - "requests.".len() && rest.len() <= 63;
    let is_lower = !domain.contains(|c: char| c.is_ascii_uppercase());
    !is_own
        && is_short
        && is_lower
        && !name.starts_with("requests.")
        && is_label(domain, &['-', '.'])
        && is_label(rest, &['-', '.', '_'])
}
