//! The answer to a leader's request to pause.

use super::WritePool;
use crate::pool::Effect;
use crate::view::PauseRequest;
use mrg_base::{Millis, Moment};
use mrg_election::mutant::bug;

/// How long the last transactions may take before the request is acknowledged as under way: most
/// often it is acknowledged once, as drained.
pub(super) const ACKNOWLEDGE_AFTER: Millis = Millis(100);

impl WritePool {
    /// The request that pauses clients and is not acknowledged, and since when.
    pub(super) fn unacknowledged(&self) -> Option<(PauseRequest, Moment)> {
        let request = self.request.filter(|_| self.request_applies())?;
        let acknowledged = self.acknowledged.is_some_and(|(id, _)| id == request.id);
        self.pause
            .as_ref()
            .filter(|_| !acknowledged)
            .map(|pause| (request, pause.since))
    }

    pub(super) fn acknowledge(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let request = self.request.filter(|_| self.request_applies());
        let (Some(request), Some(pause)) = (request, &self.pause) else {
            return;
        };
        // Before the first server there are no clients.
        let drained = pause.drained || self.serving.is_none() || bug!(PoolSaysDrained);
        let early = self
            .unacknowledged()
            .is_some_and(|(_, since)| now.since(since) < ACKNOWLEDGE_AFTER);
        if self.acknowledged != Some((request.id, drained)) && (drained || !early) {
            self.acknowledged = Some((request.id, drained));
            effects.push(Effect::Acknowledge {
                pause: request.id,
                drained,
            });
        }
    }
}
