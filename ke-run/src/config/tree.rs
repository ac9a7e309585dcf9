//! A YAML file as a tree that remembers the lines of its keys. Knows nothing about any key. Called by the loader.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::{Number, Value};
use serde_saphyr::Spanned;

/// A value, however deep.
#[derive(Debug)]
pub(super) enum Tree {
    /// Anything without keys: text, number, yes-or-no, null.
    Plain(Value),
    List(Vec<Tree>),
    Section(Vec<Entry>),
}

/// One key of a section.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) line: u64,
    pub(super) value: Tree,
}

impl Tree {
    /// Reads one YAML document. An empty one is null. Errors hold the place, not the text, which may be secret.
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        let options = serde_saphyr::options! { with_snippet: false };
        let root = serde_saphyr::from_str_with_options::<Option<Self>>(text, options);
        root.map(|tree| tree.unwrap_or(Self::Plain(Value::Null))).map_err(|e| e.to_string())
    }

    pub(super) fn is_null(&self) -> bool {
        matches!(self, Tree::Plain(Value::Null))
    }

    /// The same without lines.
    pub(super) fn to_value(&self) -> Value {
        match self {
            Tree::Plain(value) => value.clone(),
            Tree::List(items) => Value::Array(items.iter().map(Self::to_value).collect()),
            Tree::Section(entries) => Value::Object(
                entries.iter().map(|entry| (entry.key.clone(), entry.value.to_value())).collect(),
            ),
        }
    }

    /// What it is, for a sentence that must not repeat the value itself.
    pub(super) fn sort(&self) -> &'static str {
        match self {
            Tree::Plain(Value::Null) => "nothing",
            Tree::Plain(Value::Bool(_)) => "true or false",
            Tree::Plain(Value::Number(_)) => "a number",
            Tree::Plain(_) => "text",
            Tree::List(_) => "a list",
            Tree::Section(_) => "a section with keys",
        }
    }
}

impl<'de> Deserialize<'de> for Tree {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TreeVisitor)
    }
}

struct TreeVisitor;

impl<'de> Visitor<'de> for TreeVisitor {
    type Value = Tree;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any YAML value")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Tree, E> {
        Ok(Tree::Plain(Value::Bool(value)))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Tree, E> {
        Ok(Tree::Plain(value.into()))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Tree, E> {
        Ok(Tree::Plain(value.into()))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Tree, E> {
        let number = Number::from_f64(value).ok_or_else(|| E::custom("a number without end"))?;
        Ok(Tree::Plain(Value::Number(number)))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Tree, E> {
        Ok(Tree::Plain(value.into()))
    }

    fn visit_unit<E: Error>(self) -> Result<Tree, E> {
        Ok(Tree::Plain(Value::Null))
    }

    fn visit_none<E: Error>(self) -> Result<Tree, E> {
        self.visit_unit()
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<Tree, D::Error> {
        Tree::deserialize(deserializer)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(Tree::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Tree, A::Error> {
        let mut entries = Vec::new();
        while let Some(key) = access.next_key::<Spanned<String>>()? {
            let line = key.referenced.line();
            entries.push(Entry { key: key.value, line, value: access.next_value()? });
        }
        Ok(Tree::Section(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(yaml: &str, json: &str) {
        assert_eq!(Tree::parse(yaml).unwrap().to_value().to_string(), json, "{yaml}");
    }

    #[test]
    fn yaml_becomes_the_same_as_json() {
        check("", "null");
        check("# only a comment\n", "null");
        check(
            "a: 1\nb: [x, 'y', \"10\", 10, 1.5, -3, true, null, ~]\n",
            r#"{"a":1,"b":["x","y","10",10,1.5,-3,true,null,null]}"#,
        );
        check("a:\n  b:\n", r#"{"a":{"b":null}}"#);
        check("a: {}\nb: ''\nc: 10s\n", r#"{"a":{},"b":"","c":"10s"}"#);
    }

    #[test]
    fn lines_are_those_of_the_keys() {
        let Tree::Section(top) = Tree::parse("a: 1\n\nb:\n  c: 2\n").unwrap() else { panic!() };
        assert_eq!(top.iter().map(|entry| entry.line).collect::<Vec<_>>(), [1, 3]);
        let Tree::Section(below) = &top[1].value else { panic!() };
        assert_eq!(below[0].line, 4);
    }

    #[test]
    fn bad_yaml_is_told_without_its_text() {
        for bad in ["a: [1\ntoken: hush\n", "token: hush\ntoken: hush\n", "token: 'hush\n"] {
            let text = Tree::parse(bad).unwrap_err();
            assert!(text.contains("line") && !text.contains("hush"), "{text}");
        }
    }
}
