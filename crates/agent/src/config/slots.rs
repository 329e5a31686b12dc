//! Whether each member has a replication slot of its own: names that differ may give the same one.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeMap;

use crate::config::Error;
use mrg_base::MemberName;
use mrg_dcs::DynamicConfig;

/// Checks the members that the configuration names, and this one.
pub(super) fn check_slots(me: &MemberName, config: &DynamicConfig) -> Result<(), Error> {
    let section = config.0.get("mrg");
    let listed = section.and_then(|mrg| mrg.get("members")?.as_array());
    let names = listed
        .into_iter()
        .flatten()
        .filter_map(|name| MemberName::new(name.as_str()?).ok());
    let mut slots = BTreeMap::from([(me.slot_name(), me.clone())]);
    for name in names {
        let slot = name.slot_name();
        match slots.insert(slot.clone(), name.clone()) {
            Some(other) if other != name => {
                return Err(Error::SameSlot {
                    one: other,
                    other: name,
                    slot,
                });
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_members_with_one_slot_are_refused_by_name() {
        let check = |me: &str, members: &str| {
            let config = format!(r#"{{"mrg": {{"members": {members}}}}}"#);
            let config = DynamicConfig::parse(config.as_bytes()).unwrap();
            check_slots(&MemberName::new(me).unwrap(), &config).map_err(|error| error.to_string())
        };
        assert_eq!(check("a-1", r#"["a-1", "a-2"]"#), Ok(()));
        assert_eq!(check("a-1", "7"), Ok(()));
        for (me, members) in [
            ("a-1", r#"["a_1"]"#),
            ("A-1", r#"["a-1", "b"]"#),
            ("b", r#"["a.1", "a-1"]"#),
        ] {
            let message = check(me, members).unwrap_err();
            assert!(message.contains("`a_1`"), "{message}");
        }
        let message = check("pg-1", r#"["pg_1"]"#).unwrap_err();
        assert!(message.contains("pg-1") && message.contains("pg_1"));
    }
}
