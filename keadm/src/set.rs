//! Pure: `--set` as Helm and KubeEdge's keadm write it, laid over a configuration.
//!
//! `a.b=1,c[0].d=x,e={x,y}`: dots go down, brackets into lists, commas part entries, a backslash takes the meaning from what
//! follows it. Values are true, false, null, numbers or texts.

use serde_json::{Map, Number, Value};

/// Longest list that brackets may make: `a[1000000000]=x` is a mistake.
const MAX_INDEX: usize = 1000;

/// Lays every entry over the configuration; a later one wins. Errors: one sentence that shows the entry.
pub(crate) fn lay_over(config: &mut Value, set: &str) -> Result<(), String> {
    for entry in split(set, ',') {
        let mut sides = split(&entry, '=').into_iter();
        let key = sides.next().unwrap_or_default();
        let rest: Vec<String> = sides.collect();
        if rest.is_empty() || key.trim().is_empty() {
            return Err(format!(
                "--set: {entry:?} is no key=value; an example: modules.eventBus.enable=false"
            ));
        }
        let path = path(key.trim()).map_err(|why| format!("--set: {key:?}: {why}"))?;
        put(config, &path, value(&rest.join("="))).map_err(|why| format!("--set: {key:?}: {why}"))?;
    }
    Ok(())
}

enum Part {
    Key(String),
    Index(usize),
}

/// Parts at `mark`, but not within braces and not behind a backslash. Backslashes stay for whoever reads the parts.
fn split(text: &str, mark: char) -> Vec<String> {
    let (mut parts, mut depth, mut is_escaped) = (vec![String::new()], 0_usize, false);
    for letter in text.chars() {
        match letter {
            '{' if !is_escaped => depth += 1,
            '}' if !is_escaped => depth = depth.saturating_sub(1),
            _ => {}
        }
        if letter == mark && depth == 0 && !is_escaped {
            parts.push(String::new());
        } else if let Some(last) = parts.last_mut() {
            last.push(letter);
        }
        is_escaped = letter == '\\' && !is_escaped;
    }
    parts
}

fn plain(text: &str) -> String {
    let mut letters = text.chars();
    let mut plain = String::new();
    while let Some(letter) = letters.next() {
        plain.extend(if letter == '\\' { letters.next() } else { Some(letter) });
    }
    plain
}

fn path(key: &str) -> Result<Vec<Part>, &'static str> {
    let mut parts = Vec::new();
    for word in split(key, '.') {
        let (name, mut rest) = match word.find('[') {
            Some(at) => word.split_at(at),
            None => (word.as_str(), ""),
        };
        if name.is_empty() {
            return Err("a name is empty");
        }
        parts.push(Part::Key(plain(name)));
        while !rest.is_empty() {
            let (index, more) = rest
                .strip_prefix('[')
                .and_then(|rest| rest.split_once(']'))
                .ok_or("a bracket is not closed")?;
            let index = index
                .parse()
                .ok()
                .filter(|index| *index <= MAX_INDEX)
                .ok_or("brackets hold a place in a list, from 0")?;
            parts.push(Part::Index(index));
            rest = more;
        }
    }
    Ok(parts)
}

fn value(text: &str) -> Value {
    if let Some(list) = text.strip_prefix('{').and_then(|text| text.strip_suffix('}')) {
        let items = if list.is_empty() { Vec::new() } else { split(list, ',') };
        return items.iter().map(|item| value(item.trim())).collect();
    }
    match text {
        "true" => Value::Bool(true),
        "false" => Value::Bool(false),
        "null" => Value::Null,
        // A number that begins with 0 is a text to people: a label, a version.
        _ if text.len() > 1 && text.starts_with('0') => Value::String(plain(text)),
        _ => match text.parse::<i64>() {
            Ok(number) => Value::Number(Number::from(number)),
            Err(_) => Value::String(plain(text)),
        },
    }
}

fn put(at: &mut Value, path: &[Part], new: Value) -> Result<(), &'static str> {
    let Some((part, rest)) = path.split_first() else {
        *at = new;
        return Ok(());
    };
    match part {
        Part::Key(name) => {
            if at.is_null() {
                *at = Value::Object(Map::new());
            }
            let map = at.as_object_mut().ok_or("there is a value where a section is meant")?;
            put(map.entry(name.clone()).or_insert(Value::Null), rest, new)
        }
        Part::Index(index) => {
            if at.is_null() {
                *at = Value::Array(Vec::new());
            }
            let list = at.as_array_mut().ok_or("it is no list")?;
            while list.len() <= *index {
                list.push(Value::Null);
            }
            list.get_mut(*index).map_or(Ok(()), |at| put(at, rest, new))
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_are_laid_over() {
        let check = |set: &str, expected: Value| {
            let mut config = json!({"a": {"b": 1}, "l": [{"x": 1}]});
            lay_over(&mut config, set).unwrap();
            assert_eq!(config, expected, "{set}");
        };
        check("a.b=2", json!({"a": {"b": 2}, "l": [{"x": 1}]}));
        check("a.c.d=true,a.b=null", json!({"a": {"b": null, "c": {"d": true}}, "l": [{"x": 1}]}));
        check("l[0].x=y,l[1].x=z", json!({"a": {"b": 1}, "l": [{"x": "y"}, {"x": "z"}]}));
        check("a={x, 1,true}", json!({"a": ["x", 1, true], "l": [{"x": 1}]}));
        check("a={}", json!({"a": [], "l": [{"x": 1}]}));
        check(r"a.e\.f=1\,5", json!({"a": {"b": 1, "e.f": "1,5"}, "l": [{"x": 1}]}));
        check("a.url=https://x?y=z", json!({"a": {"b": 1, "url": "https://x?y=z"}, "l": [{"x": 1}]}));
        check("a.v=007,a.w=0,a.x=", json!({"a": {"b": 1, "v": "007", "w": 0, "x": ""}, "l": [{"x": 1}]}));
    }

    #[test]
    fn nonsense_is_shown() {
        let check = |set: &str, expected: &str| {
            let mut config = json!({"a": {"b": 1}, "l": []});
            let error = lay_over(&mut config, set).unwrap_err();
            assert!(error.starts_with("--set: ") && error.contains(expected), "{set}: {error}");
        };
        check("", "no key=value");
        check("a", "\"a\" is no key=value");
        check("=1", "no key=value");
        check("a..b=1", "a name is empty");
        check("a.b.c=1", "a value where a section is meant");
        check("a[0]=1", "no list");
        check("l[x]=1", "a place in a list");
        check("l[99999]=1", "a place in a list");
        check("l[0=1", "not closed");
    }
}
