//! Tries, while this member leads, whether its server serves clients.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::context::Context;
use mrg_base::{Millis, Moment};
use mrg_election::Event;
use mrg_postgres::Error;
use mrg_telemetry::chain;

/// Between the end of one pulse and the beginning of the next.
const INTERVAL: Duration = Duration::from_secs(2);
/// A pulse that takes longer has failed, for now.
const ANSWER_WITHIN: Duration = Duration::from_secs(4);
/// A pulse is waited for this long before another is tried in its place, so that a server that hangs
/// does not fill up with sessions of ours.
const GIVEN_UP_AFTER: Millis = Millis::seconds(60);

/// A pulse under way.
struct Pulse {
    asked: Moment,
    /// One task, which ends with this value.
    task: JoinSet<Result<(), Error>>,
}

impl Pulse {
    fn begin(context: &Context) -> Self {
        let server = context.server.clone();
        let mut task = JoinSet::new();
        task.spawn(async move { server.pulse(GIVEN_UP_AFTER.duration()).await });
        Self {
            asked: mrg_clock::now(),
            task,
        }
    }

    /// What came of it; `None` if nothing did yet.
    async fn outcome(&mut self) -> Option<Result<(), String>> {
        let ended = tokio::time::timeout(ANSWER_WITHIN, self.task.join_next()).await;
        let ended = ended.ok().flatten()?;
        Some(match ended {
            Ok(answer) => answer.map_err(|error| chain(&error)),
            Err(error) => Err(chain(&error)),
        })
    }
}

/// Sends [`Event::Pulse`] for every pulse that ends or is late, as long as the agent runs.
pub(super) async fn pulse(context: Arc<Context>, events: mpsc::Sender<Event>) {
    let mut late: Option<Pulse> = None;
    let mut was_answered = true;
    loop {
        tokio::time::sleep(INTERVAL).await;
        let status = context.status();
        let wanted = status.may_write && status.settings.failover.wants_pulse();
        if !wanted || !context.server.has_led() {
            (late, was_answered) = (None, true);
            continue;
        }
        let now = mrg_clock::now();
        let mut pulse = late
            .take()
            .filter(|pulse| now.since(pulse.asked) < GIVEN_UP_AFTER)
            .unwrap_or_else(|| Pulse::begin(&context));
        let asked = pulse.asked;
        let failure = if let Some(outcome) = pulse.outcome().await {
            outcome.err()
        } else {
            late = Some(pulse);
            Some(format!("no answer for {}", mrg_clock::now().since(asked)))
        };
        let answered = failure.is_none();
        if let Some(error) = failure.filter(|_| was_answered) {
            tracing::warn!(error, "a new client of postgres would not be served");
        } else if answered && !was_answered {
            tracing::info!("clients of postgres are served again");
        }
        was_answered = answered;
        if events.send(Event::Pulse { asked, answered }).await.is_err() {
            return;
        }
    }
}
