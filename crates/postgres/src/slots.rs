//! Replication slots: one for each other member, on every member, so that a new leader has them
//! before anyone connects.
//!
//! On a standby a slot that holds WAL is one from the time when this member led: it is made anew,
//! without WAL, or it would hold the disk for ever.

use std::collections::BTreeSet;

use crate::configuration::quote_literal;
use crate::session::{Error, Session};
use mrg_base::MemberName;

impl Session {
    /// Brings the members' slots in line. Slots that do not look like ours are left alone.
    pub async fn keep_slots(
        &self,
        others: &BTreeSet<MemberName>,
        gone: &BTreeSet<MemberName>,
        primary: bool,
    ) -> Result<(), Error> {
        let sql = "SELECT slot_name || ':' || active::text || ':' || (restart_lsn IS NOT NULL)::text || ':' || coalesce(wal_status, '') \
                   FROM pg_replication_slots WHERE slot_type = 'physical'";
        let rows = self.texts("list slots", sql).await?;
        let mut present = BTreeSet::new();
        let mut drop = Vec::new();
        let wanted: BTreeSet<String> = others.iter().map(MemberName::slot_name).collect();
        let departed: BTreeSet<String> = gone.iter().map(MemberName::slot_name).collect();
        for row in &rows {
            let fields: Vec<&str> = row.split(':').collect();
            let [name, active, holds, wal_status] = fields[..] else {
                continue;
            };
            let ours = wanted.contains(name);
            let stale =
                ours && active == "false" && (holds == "true" && !primary || wal_status == "lost");
            if stale || active == "false" && departed.contains(name) && !ours {
                drop.push(name.to_owned());
            } else {
                present.insert(name.to_owned());
            }
        }
        for name in drop {
            let sql = format!("SELECT pg_drop_replication_slot({})", quote_literal(&name));
            self.texts("drop a slot", &sql).await?;
        }
        for name in wanted.difference(&present) {
            let sql = format!(
                "SELECT pg_create_physical_replication_slot({})::text",
                quote_literal(name)
            );
            self.texts("create a slot", &sql).await?;
        }
        Ok(())
    }
}
