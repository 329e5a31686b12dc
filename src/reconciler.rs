//! What all controllers have in common: how many objects have their turn at once, and what becomes
//! of those that cannot be read, that fail, or that are gone.

use std::collections::HashMap;
use std::error::Error;
use std::fmt::Debug;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt;
use kube::core::DeserializeGuard;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::ObjectRef;
use kube::{Client, Resource, ResourceExt};
use serde::de::DeserializeOwned;

use mrg_base::lock;
use mrg_kube_support::FIELD_MANAGER;

/// So many objects of a kind have their turn at once.
const AT_ONCE: u16 = 8;
/// News that come together are one turn.
const TOGETHER: Duration = Duration::from_millis(50);
/// The pause after a failure; each further one doubles it.
const PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(16);

/// What is done with the objects of a kind.
pub(crate) trait Reconciler: Send + Sync + 'static {
    /// The kind.
    type Kind: Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + Sync + 'static;
    /// Why a turn can fail.
    type Error: Error + Send + Sync + 'static;

    /// An object's turn: something about it is another, or it is time. `reference` is its name for
    /// those who bring news of it.
    fn reconcile(
        &self,
        object: &Self::Kind,
        reference: ObjectRef<DeserializeGuard<Self::Kind>>,
    ) -> impl Future<Output = Result<Action, Self::Error>> + Send;

    /// The object goes, or is gone: what is kept for it is not needed any more.
    fn forget(&self, namespace: &str, name: &str);
}

struct Turns<R> {
    reconciler: R,
    /// How often each object has failed since it last succeeded, by namespace and name.
    failures: Mutex<HashMap<(String, String), u32>>,
}

/// Writes events in this operator's name.
pub(crate) fn recorder(client: &Client) -> Recorder {
    Recorder::new(
        client.clone(),
        Reporter {
            controller: FIELD_MANAGER.to_owned(),
            instance: std::env::var("POD_NAME").ok(),
        },
    )
}

/// Runs a controller until it is told to end.
pub(crate) async fn run<R: Reconciler>(
    controller: Controller<DeserializeGuard<R::Kind>>,
    reconciler: R,
    stop: impl Future<Output = ()> + Send + Sync + 'static,
) {
    let turns = Arc::new(Turns {
        reconciler,
        failures: Mutex::default(),
    });
    controller
        .with_config(
            controller::Config::default()
                .concurrency(AT_ONCE)
                .debounce(TOGETHER),
        )
        .graceful_shutdown_on(stop)
        .run(turn, retry, turns.clone())
        .for_each(|done| {
            // Nothing holds a deleted object back until we have seen that it goes: it is just not
            // there at its next turn.
            if let Err(controller::Error::ObjectNotFound(gone)) = done {
                turns.forget(&gone.namespace.unwrap_or_default(), &gone.name);
            }
            futures::future::ready(())
        })
        .await;
}

async fn turn<R: Reconciler>(
    object: Arc<DeserializeGuard<R::Kind>>,
    turns: Arc<Turns<R>>,
) -> Result<Action, R::Error> {
    let readable = match &object.0 {
        Ok(readable) => readable,
        Err(error) => {
            tracing::error!(object = object.name_any(), %error, "the object cannot be read; it is left alone until it changes");
            return Ok(Action::await_change());
        }
    };
    let (namespace, name) = (
        readable.namespace().unwrap_or_default(),
        readable.name_any(),
    );
    if readable.meta().deletion_timestamp.is_some() {
        turns.forget(&namespace, &name);
        return Ok(Action::await_change());
    }
    let next = turns
        .reconciler
        .reconcile(readable, ObjectRef::from_obj(object.as_ref()))
        .await?;
    turns.failures().remove(&(namespace, name));
    Ok(next)
}

#[expect(clippy::needless_pass_by_value, reason = "kube's signature")]
fn retry<R: Reconciler>(
    object: Arc<DeserializeGuard<R::Kind>>,
    error: &R::Error,
    turns: Arc<Turns<R>>,
) -> Action {
    let mut failures = turns.failures();
    let count = failures
        .entry((object.namespace().unwrap_or_default(), object.name_any()))
        .or_insert(0);
    let wait = pause(*count);
    *count = count.saturating_add(1);
    tracing::warn!(
        object = object.name_any(),
        error = mrg_telemetry::chain(error),
        ?wait,
        "reconciliation failed; trying again"
    );
    Action::requeue(wait)
}

/// The pause after so many failures and one more.
fn pause(failures: u32) -> Duration {
    PAUSE
        .saturating_mul(2u32.saturating_pow(failures))
        .min(LONGEST_PAUSE)
}

impl<R: Reconciler> Turns<R> {
    fn failures(&self) -> std::sync::MutexGuard<'_, HashMap<(String, String), u32>> {
        lock(&self.failures)
    }

    fn forget(&self, namespace: &str, name: &str) {
        self.failures()
            .remove(&(namespace.to_owned(), name.to_owned()));
        self.reconciler.forget(namespace, name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_that_keeps_failing_is_retried_less_and_less_often() {
        let seconds: Vec<u64> = (0..7).map(|failures| pause(failures).as_secs()).collect();
        assert_eq!(seconds, [1, 2, 4, 8, 16, 16, 16]);
        assert_eq!(pause(u32::MAX), LONGEST_PAUSE);
    }
}
