//! One question under way for each order: callers with the same question wait for its answer, so
//! that a cache that has just lost a copy does not send a thousand readers to the database.

use mrg_base::lock;
use mrg_bounds::contain;
use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex};

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};

/// Questions under way.
#[derive(Debug)]
pub(crate) struct Flights<K, V: Clone>(Arc<Mutex<HashMap<K, Shared<BoxFuture<'static, V>>>>>);

impl<K, V: Clone> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Hash + Eq + Copy + Send + 'static, V: Clone + Send + Sync + 'static> Flights<K, V> {
    /// The answer, and whether the question was under way already. `ask` runs as a task: callers
    /// that go away do not end it for the others, so it must have a deadline of its own.
    ///
    /// # Panics
    /// If `ask` panics.
    pub(crate) async fn join(
        &self,
        key: K,
        ask: impl FnOnce() -> BoxFuture<'static, V>,
    ) -> (V, bool) {
        let (flight, joined) = {
            let mut flights = lock(&self.0);
            if let Some(flight) = flights.get(&key) {
                (flight.clone(), true)
            } else {
                let flights_of_task = self.0.clone();
                let asked = ask();
                let task = tokio::spawn(async move {
                    let landed = Landed {
                        flights: flights_of_task,
                        key,
                    };
                    let answer = contain(asked).await;
                    drop(landed);
                    answer
                });
                // Each caller is a request, which is answered 500.
                let flight = task
                    .map(|answer| match answer {
                        Ok(Ok(answer)) => answer,
                        Ok(Err(error)) => panic!("a question ended without an answer: {error}"),
                        Err(error) => panic!("a question ended without an answer: {error}"),
                    })
                    .boxed()
                    .shared();
                flights.insert(key, flight.clone());
                (flight, false)
            }
        };
        (flight.await, joined)
    }
}

/// Takes a question off the list, also when it ends by a panic.
struct Landed<K: Hash + Eq, V: Clone> {
    flights: Arc<Mutex<HashMap<K, Shared<BoxFuture<'static, V>>>>>,
    key: K,
}

impl<K: Hash + Eq, V: Clone> Drop for Landed<K, V> {
    fn drop(&mut self) {
        lock(&self.flights).remove(&self.key);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering::SeqCst};
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn a_thousand_who_ask_the_same_cost_one_question_and_later_ones_ask_anew() {
        let flights: Flights<u32, u32> = Flights::default();
        let asked = Arc::new(AtomicU32::new(0));
        let ask = || {
            let asked = asked.clone();
            async move {
                tokio::time::sleep(Duration::from_millis(20)).await;
                asked.fetch_add(1, SeqCst) + 1
            }
            .boxed()
        };
        let answers = futures::future::join_all((0..1000).map(|_| flights.join(7, ask))).await;
        assert!(answers.iter().all(|(answer, _)| *answer == 1));
        assert_eq!(answers.iter().filter(|(_, joined)| !joined).count(), 1);
        assert_eq!(flights.join(7, ask).await, (2, false));
    }

    #[tokio::test]
    async fn a_caller_who_goes_away_does_not_end_the_question_for_the_others() {
        let flights: Arc<Flights<u32, u32>> = Arc::default();
        let slow = || {
            async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                5
            }
            .boxed()
        };
        let first = tokio::spawn({
            let flights = flights.clone();
            async move { flights.join(1, slow).await }
        });
        tokio::time::sleep(Duration::from_millis(10)).await;
        first.abort();
        assert_eq!(flights.join(1, slow).await, (5, true));
    }
}
