//! Settings of a device or a property as its manifest has them, and the reading of them.
//!
//! Manifests in the field disagree about capitals, and about numbers and truths being texts; so keys are compared without
//! capitals, and `502`, `"502"`, `true` and `"true"` are what they look like. Pure; called by drivers.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::Value as Json;

/// What stands below a `configData`. Values are texts, numbers and truths.
#[derive(Clone, Default, PartialEq)]
pub struct Settings(BTreeMap<String, Json>);

/// Keys only: values may be passwords.
impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Settings")?;
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A setting that is missing or not what it must be. The value is not told: it may be a password.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SettingError {
    /// Nothing there.
    #[error("{key} is missing; set {key} to {expected}")]
    Missing {
        /// The key as documents write it.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
    /// Something else there.
    #[error("{key} must be {expected}")]
    Wrong {
        /// The key as documents write it.
        key: &'static str,
        /// What it may be.
        expected: &'static str,
    },
}

impl Settings {
    /// Of a JSON object; two keys that differ in capitals only are one, and the later wins.
    #[must_use]
    pub fn new(entries: impl IntoIterator<Item = (String, Json)>) -> Self {
        Self(entries.into_iter().map(|(key, value)| (key.to_ascii_lowercase(), value)).collect())
    }

    /// All of them, keys without capitals.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Json)> {
        self.0.iter().map(|(key, value)| (key.as_str(), value))
    }

    /// The first of `keys` that is set to something: the names by which manifests know one setting.
    fn find(&self, keys: &[&'static str]) -> Option<(&'static str, &Json)> {
        let mut found = keys.iter().filter_map(|key| Some((*key, self.0.get(&key.to_ascii_lowercase())?)));
        found.find(|(_, value)| !value.is_null() && value.as_str() != Some(""))
    }

    /// A text; numbers and truths become their text.
    pub fn text(&self, keys: &[&'static str]) -> Option<String> {
        self.find(keys).map(|(_, value)| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    }

    /// A text that must be there; without it the error says to set the first of `keys`.
    pub fn needed_text(&self, keys: &[&'static str], expected: &'static str) -> Result<String, SettingError> {
        let key = keys.first().copied().unwrap_or_default();
        self.text(keys).ok_or(SettingError::Missing { key, expected })
    }

    /// A whole number between `least` and `most`, in a type that holds both.
    pub fn integer<T: TryFrom<i64>>(
        &self,
        keys: &[&'static str],
        least: i64,
        most: i64,
        expected: &'static str,
    ) -> Result<Option<T>, SettingError> {
        let Some((key, value)) = self.find(keys) else { return Ok(None) };
        let number = match value {
            // Go mappers get 502.0 for 502.
            Json::Number(number) => number.as_i64().or_else(|| {
                number
                    .as_f64()
                    .filter(|float| float.fract() == 0.0 && float.abs() < 9e15)
                    .map(|float| float as i64)
            }),
            Json::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        let number = number.filter(|number| (least..=most).contains(number));
        match number.and_then(|number| T::try_from(number).ok()) {
            Some(number) => Ok(Some(number)),
            None => Err(SettingError::Wrong { key, expected }),
        }
    }

    /// A finite number.
    pub fn number(&self, keys: &[&'static str], expected: &'static str) -> Result<Option<f64>, SettingError> {
        let Some((key, value)) = self.find(keys) else { return Ok(None) };
        let number = match value {
            Json::Number(number) => number.as_f64(),
            Json::String(text) => text.trim().parse().ok(),
            _ => None,
        };
        match number.filter(|number: &f64| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(SettingError::Wrong { key, expected }),
        }
    }

    /// Yes or no.
    pub fn truth(&self, keys: &[&'static str]) -> Result<Option<bool>, SettingError> {
        let Some((key, value)) = self.find(keys) else { return Ok(None) };
        let truth = match value {
            Json::Bool(truth) => Some(*truth),
            Json::Number(number) => match number.as_f64() {
                Some(1.0) => Some(true),
                Some(0.0) => Some(false),
                _ => None,
            },
            Json::String(text) => match text.trim().to_ascii_lowercase().as_str() {
                "true" | "1" | "yes" => Some(true),
                "false" | "0" | "no" => Some(false),
                _ => None,
            },
            _ => None,
        };
        truth.map(Some).ok_or(SettingError::Wrong { key, expected: "true or false" })
    }

    /// One of some words, in any case; gives the word as `words` has it.
    pub fn word(
        &self,
        keys: &[&'static str],
        words: &[&'static str],
        expected: &'static str,
    ) -> Result<Option<&'static str>, SettingError> {
        let Some((key, value)) = self.find(keys) else { return Ok(None) };
        let text = value.as_str().unwrap_or_default().trim();
        match words.iter().find(|word| word.eq_ignore_ascii_case(text)) {
            Some(word) => Ok(Some(word)),
            None => Err(SettingError::Wrong { key, expected }),
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn settings_are_what_they_look_like() {
        let json = json!({"Port": "502", "slaveID": 1.0, "scale": "0.1", "isSwap": "True", "mode": "rtu", "none": null, "empty": ""});
        let Json::Object(entries) = json else { panic!() };
        let settings = Settings::new(entries);
        assert_eq!(settings.integer(&["port"], 1, 65535, "a port"), Ok(Some(502_u16)));
        assert_eq!(settings.integer(&["unitID", "slaveid"], 0, 255, "0 to 255"), Ok(Some(1_u8)));
        assert_eq!(settings.number(&["scale"], "a number"), Ok(Some(0.1)));
        assert_eq!(settings.truth(&["isswap"]), Ok(Some(true)));
        assert_eq!(settings.word(&["mode"], &["TCP", "RTU"], "TCP or RTU"), Ok(Some("RTU")));
        assert_eq!(settings.text(&["port"]).as_deref(), Some("502"));
        assert_eq!(
            (settings.text(&["none"]), settings.text(&["empty"]), settings.text(&["lost"])),
            (None, None, None)
        );
        assert_eq!(settings.text(&["none", "empty", "mode"]).as_deref(), Some("rtu"));
        assert_eq!(settings.needed_text(&["mode"], "a mode"), Ok("rtu".to_owned()));
        let missing = settings.needed_text(&["empty", "lost"], "a host and port").unwrap_err();
        assert_eq!(missing.to_string(), "empty is missing; set empty to a host and port");
        let wrong = settings.integer::<u8>(&["mode"], 0, 9, "0 to 9").unwrap_err();
        assert_eq!(wrong.to_string(), "mode must be 0 to 9");
        assert!(settings.integer::<u16>(&["port"], 1, 500, "1 to 500").is_err());
        assert!(settings.integer::<u8>(&["port"], 1, 65535, "1 to 65535").is_err());
    }

    #[test]
    fn printed_settings_hold_no_secrets() {
        let settings = |key: &str| Settings::new([(key.to_owned(), "s3cret".into())]);
        let (data, settings) = (settings("serial"), settings("password"));
        let discovered = crate::Discovered { id: "7".into(), data, settings };
        assert_eq!(
            format!("{discovered:?}"),
            "Discovered { id: \"7\", data: Settings{\"serial\"}, settings: Settings{\"password\"} }"
        );
    }
}
