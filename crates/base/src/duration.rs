//! Durations as `30s`, `1m30s` or `500ms`.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::Millis;

/// A duration as Kubernetes and Go write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Duration(pub Millis);

/// The text is no duration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InvalidDuration(String);

impl fmt::Display for InvalidDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "`{}` is not a duration such as 30s, 1m30s or 500ms",
            self.0
        )
    }
}

impl std::error::Error for InvalidDuration {}

impl Duration {
    /// Whole seconds.
    pub const fn seconds(seconds: u64) -> Self {
        Self(Millis::seconds(seconds))
    }

    /// In whole seconds, rounded up.
    pub fn as_seconds(self) -> u64 {
        self.0.0.div_ceil(1000)
    }
}

impl TryFrom<String> for Duration {
    type Error = InvalidDuration;

    fn try_from(text: String) -> Result<Self, InvalidDuration> {
        let invalid = || InvalidDuration(text.clone());
        let mut rest = text.as_str();
        let mut total = 0u64;
        while !rest.is_empty() {
            let digits = rest
                .find(|c: char| !c.is_ascii_digit())
                .filter(|at| *at > 0)
                .ok_or_else(invalid)?;
            let number: u64 = rest[..digits].parse().map_err(|_| invalid())?;
            let unit_end = rest[digits..]
                .find(|c: char| c.is_ascii_digit())
                .map_or(rest.len(), |at| digits + at);
            let factor = match &rest[digits..unit_end] {
                "ms" => 1,
                "s" => 1_000,
                "m" => 60_000,
                "h" => 3_600_000,
                _ => return Err(invalid()),
            };
            total = number
                .checked_mul(factor)
                .and_then(|part| total.checked_add(part))
                .ok_or_else(invalid)?;
            rest = &rest[unit_end..];
        }
        if text.is_empty() {
            Err(invalid())
        } else {
            Ok(Self(Millis(total)))
        }
    }
}

impl From<Duration> for String {
    fn from(duration: Duration) -> String {
        duration.to_string()
    }
}

impl fmt::Display for Duration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(feature = "schema")]
impl schemars::JsonSchema for Duration {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Duration".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "pattern": "^([0-9]{1,9}(ms|s|m|h))+$", "maxLength": 32 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_as_kubernetes_writes_them() {
        for (text, millis) in [
            ("30s", 30_000),
            ("1m30s", 90_000),
            ("500ms", 500),
            ("1h", 3_600_000),
        ] {
            assert_eq!(
                Duration::try_from(text.to_owned()),
                Ok(Duration(Millis(millis))),
                "{text}"
            );
        }
        for text in ["", "30", "s", "30 s", "-1s", "1d", "99999999999999999999h"] {
            assert!(Duration::try_from(text.to_owned()).is_err(), "{text}");
        }
    }
}
