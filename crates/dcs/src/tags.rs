//! A member's tags, in its file and in its key.

use serde_json::{Map, Value};

/// What a value means as a boolean to Patroni (`parse_bool`), whether it is written as a boolean, as
/// text or as a number; `None` if it means neither.
pub fn truth(value: &Value) -> Option<bool> {
    let text = match value {
        Value::String(text) => text.to_ascii_lowercase(),
        Value::Bool(_) | Value::Number(_) => value.to_string(),
        _ => return None,
    };
    match text.as_str() {
        "on" | "true" | "yes" | "1" => Some(true),
        "off" | "false" | "no" | "0" => Some(false),
        _ => None,
    }
}

/// Whether a tag is set. What means neither true nor false is as good as absent.
pub fn flag(tags: &Map<String, Value>, name: &str) -> bool {
    tags.get(name).and_then(truth).unwrap_or(false)
}

/// A whole number, as a number or as text.
fn number(tags: &Map<String, Value>, name: &str) -> Option<i64> {
    let value = tags.get(name)?;
    let text = || value.as_str()?.trim().parse().ok();
    value.as_i64().or_else(text)
}

/// `failover_priority`, 1 if it is not set; `None` if the tags forbid to lead.
pub fn priority(tags: &Map<String, Value>) -> Option<i32> {
    let priority = number(tags, "failover_priority").unwrap_or(1);
    (!flag(tags, "nofailover") && priority > 0).then(|| i32::try_from(priority).unwrap_or(i32::MAX))
}

/// Whether the tags let a member be a synchronous standby.
pub fn may_sync(tags: &Map<String, Value>) -> bool {
    let forbidden = number(tags, "sync_priority").is_some_and(|priority| priority <= 0);
    priority(tags).is_some() && !flag(tags, "nosync") && !forbidden
}

/// The first tag whose value means nothing, with what it should be.
pub fn meaningless(tags: &Map<String, Value>) -> Option<(&str, &Value, &'static str)> {
    let wrong = |(name, value): &(&String, &Value)| match name.as_str() {
        "nofailover" | "nosync" | "noloadbalance" => !value.is_null() && truth(value).is_none(),
        "failover_priority" | "sync_priority" => !value.is_null() && number(tags, name).is_none(),
        _ => false,
    };
    let (name, value) = tags.iter().find(wrong)?;
    let expected = if name.ends_with("_priority") {
        "a whole number"
    } else {
        "true or false"
    };
    Some((name, value, expected))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn tags(value: &Value) -> Map<String, Value> {
        value.as_object().cloned().unwrap()
    }

    #[test]
    fn a_flag_is_what_patroni_takes_it_for() {
        for value in [
            json!(true),
            json!("true"),
            json!("Yes"),
            json!("ON"),
            json!("1"),
            json!(1),
        ] {
            assert_eq!(truth(&value), Some(true), "{value}");
            assert_eq!(priority(&tags(&json!({"nofailover": value}))), None);
            assert!(!may_sync(&tags(&json!({"nosync": value}))));
        }
        for value in [
            json!(false),
            json!("false"),
            json!("no"),
            json!("off"),
            json!("0"),
            json!(0),
        ] {
            assert_eq!(truth(&value), Some(false), "{value}");
            assert_eq!(priority(&tags(&json!({"nofailover": value}))), Some(1));
        }
        for value in [
            json!("maybe"),
            json!(2),
            json!(1.0),
            json!(null),
            json!([true]),
            json!(""),
        ] {
            assert_eq!(truth(&value), None, "{value}");
        }
    }

    #[test]
    fn a_priority_may_be_text() {
        for (value, expected) in [
            (json!(0), None),
            (json!("0"), None),
            (json!(-1), None),
            (json!("7"), Some(7)),
            (json!(i64::MAX), Some(i32::MAX)),
            (json!("x"), Some(1)),
        ] {
            assert_eq!(
                priority(&tags(&json!({"failover_priority": value}))),
                expected,
                "{value}"
            );
        }
        assert!(!may_sync(&tags(&json!({"sync_priority": "0"}))));
        assert!(may_sync(&tags(&json!({"sync_priority": 3}))));
    }

    #[test]
    fn a_tag_that_means_nothing_is_found() {
        assert_eq!(
            meaningless(&tags(
                &json!({"nofailover": "no", "own": "maybe", "nosync": null})
            )),
            None
        );
        let wrong = tags(&json!({"nosync": "maybe"}));
        assert_eq!(meaningless(&wrong).unwrap().0, "nosync");
        let wrong = tags(&json!({"failover_priority": "high"}));
        assert_eq!(meaningless(&wrong).unwrap().2, "a whole number");
    }
}
