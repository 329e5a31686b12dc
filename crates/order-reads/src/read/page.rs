//! Pages of a customer's orders.

use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use super::Reader;
use super::answer::{Kind, Page, Source};
use super::verdict::is_recent;
use crate::database::{Database, ServerState};
use crate::order::{Cursor, Micros, Row};
use mrg_telemetry::chain;

/// A question for a page, the same for each database.
#[derive(Clone, Copy)]
struct Query<'a> {
    customer: &'a str,
    finals: bool,
    after: Option<Cursor>,
    limit: i64,
}

impl Reader {
    /// A page of a customer's orders: of those that have ended from a standby that keeps up, else
    /// from the primary; of those under way from the primary, else from a standby.
    ///
    /// # Errors
    /// If no place has an answer, with the reason of each.
    pub(crate) async fn page(
        &self,
        kind: Kind,
        customer: &str,
        after: Option<Cursor>,
        limit: i64,
    ) -> Result<Page, String> {
        let finals = kind == Kind::History;
        let query = Query {
            customer,
            finals,
            after,
            limit,
        };
        let mut why = Vec::new();
        let mut doubtful = None;
        if finals && let Some(replica) = &self.replica {
            match self.replica_page(replica, query).await {
                Ok(page) if is_recent(page.staleness, self.budgets.maximum_lag) => {
                    return Ok(page);
                }
                Ok(page) => doubtful = Some(page),
                Err(error) => why.push(error),
            }
        }
        match self.primary_page(query).await {
            Ok(page) => return Ok(page),
            Err(error) => why.push(error),
        }
        if !finals && let Some(replica) = &self.replica {
            match self.replica_page(replica, query).await {
                // Labelled as a replica's even if the read pool leads to the primary just now.
                Ok(page) => {
                    doubtful = Some(Page {
                        source: Source::Replica,
                        ..page
                    });
                }
                Err(error) => why.push(error),
            }
        }
        doubtful.ok_or_else(|| why.join("; "))
    }

    async fn replica_page(&self, replica: &Database, query: Query<'_>) -> Result<Page, String> {
        let (state, rows, skipped) = query
            .run(replica, self.budgets.replica)
            .await
            .map_err(|error| format!("replica: {error}"))?;
        let source = if state.standby {
            Source::Replica
        } else {
            Source::Primary
        };
        Ok(self.page_of(source, self.staleness(state), rows, skipped))
    }

    async fn primary_page(&self, query: Query<'_>) -> Result<Page, String> {
        let Ok(_place) = self.bulkhead.try_acquire() else {
            return Err("all places at the primary are taken".to_owned());
        };
        let (state, rows, skipped) = query
            .run(&self.primary, self.budgets.active)
            .await
            .map_err(|error| format!("primary: {error}"))?;
        if state.standby {
            return Err("the write pool leads to a standby".to_owned());
        }
        Ok(self.page_of(Source::Primary, Some(Micros(0)), rows, skipped))
    }

    fn page_of(
        &self,
        source: Source,
        staleness: Option<Micros>,
        rows: Vec<Row>,
        skipped: u64,
    ) -> Page {
        self.metrics.malformed.fetch_add(skipped, Relaxed);
        Page {
            rows,
            source,
            staleness,
        }
    }
}

impl Query<'_> {
    async fn run(
        self,
        database: &Database,
        budget: Duration,
    ) -> Result<(ServerState, Vec<Row>, u64), String> {
        database
            .page(self.customer, self.finals, self.after, self.limit, budget)
            .await
            .map_err(|error| chain(&error))
    }
}
