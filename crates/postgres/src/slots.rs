//! Replication slots: one for each other member, on every member, so that a new leader has them
//! before any standby connects.
//!
//! On a standby a slot that holds WAL back is one from the time when this member led. It is dropped
//! and created again, without WAL, or it would hold WAL back for ever.

#![deny(clippy::indexing_slicing, clippy::panic)]

use std::collections::BTreeSet;

use crate::configuration::quote_literal;
use crate::session::{Error, Session};
use mrg_base::MemberName;

/// `name:active:holds WAL:wal_status`
const LIST: &str = "SELECT slot_name || ':' || active::text || ':' || (restart_lsn IS NOT NULL)::text || ':' || coalesce(wal_status, '') \
                   FROM pg_replication_slots WHERE slot_type = 'physical'";

/// What there is to do, by slot name.
#[derive(Debug, Default, PartialEq, Eq)]
struct Changes {
    drop: BTreeSet<String>,
    create: BTreeSet<String>,
}

impl Session {
    /// Creates the slots of the `others`, and drops those of the members that are `gone`. Slots of
    /// other names are left alone.
    ///
    /// # Errors
    /// If a statement fails. The slots before it are done.
    pub async fn keep_slots(
        &self,
        others: &BTreeSet<MemberName>,
        gone: &BTreeSet<MemberName>,
        primary: bool,
    ) -> Result<(), Error> {
        let rows = self.texts("list slots", LIST).await?;
        let names = |members: &BTreeSet<MemberName>| -> BTreeSet<String> {
            members.iter().map(MemberName::slot_name).collect()
        };
        let Changes { drop, create } = changes(&rows, &names(others), &names(gone), primary);
        for name in drop {
            let sql = format!("SELECT pg_drop_replication_slot({})", quote_literal(&name));
            self.texts("drop a slot", &sql).await?;
        }
        for name in create {
            let sql = format!(
                "SELECT pg_create_physical_replication_slot({})::text",
                quote_literal(&name)
            );
            self.texts("create a slot", &sql).await?;
        }
        Ok(())
    }
}

fn changes(
    rows: &[String],
    wanted: &BTreeSet<String>,
    gone: &BTreeSet<String>,
    primary: bool,
) -> Changes {
    let mut changes = Changes {
        create: wanted.clone(),
        ..Changes::default()
    };
    for row in rows {
        let fields: Vec<&str> = row.split(':').collect();
        let [name, active, holds_wal, wal_status] = fields.as_slice() else {
            continue;
        };
        let inactive = *active == "false";
        let unusable = *holds_wal == "true" && !primary || *wal_status == "lost";
        let dropped = if wanted.contains(*name) {
            inactive && unusable
        } else {
            inactive && gone.contains(*name)
        };
        if dropped {
            changes.drop.insert((*name).to_owned());
        } else {
            changes.create.remove(*name);
        }
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn each_member_has_one_slot_that_can_be_used() {
        for (row, primary, drop, create) in [
            ("", true, set(&[]), set(&["pg_2"])),
            ("pg_2:false:false:", true, set(&[]), set(&[])),
            ("pg_2:true:true:reserved", true, set(&[]), set(&[])),
            ("pg_2:false:true:reserved", true, set(&[]), set(&[])),
            (
                "pg_2:false:true:reserved",
                false,
                set(&["pg_2"]),
                set(&["pg_2"]),
            ),
            ("pg_2:true:true:reserved", false, set(&[]), set(&[])),
            ("pg_2:false:true:lost", true, set(&["pg_2"]), set(&["pg_2"])),
            (
                "pg_3:false:true:reserved",
                true,
                set(&["pg_3"]),
                set(&["pg_2"]),
            ),
            ("pg_3:true:true:reserved", true, set(&[]), set(&["pg_2"])),
            ("other:false:true:lost", true, set(&[]), set(&["pg_2"])),
        ] {
            let rows = [row.to_owned()];
            let found = changes(&rows, &set(&["pg_2"]), &set(&["pg_3"]), primary);
            assert_eq!(found, Changes { drop, create }, "{row}, primary: {primary}");
        }
    }
}
