//! What shows that a server is the primary: probes of the server and, without DCS, the word of its
//! agent.

use super::WritePool;
use crate::pool::Effect;
use crate::view::Finding;
use mrg_base::{Millis, Moment, Timeline};
use mrg_election::Revision;
use mrg_election::mutant::bug;

/// The delay after a probe that failed.
const PROBE_RETRY: Millis = Millis(20);
/// How long a probe's finding counts: the heartbeat connection does not show that the server's
/// machine is cut off.
pub(super) const CONFIRMED_FOR: Millis = Millis(1_000);
/// The interval between two questions to an agent.
pub(super) const CONFIRM_RETRY: Millis = Millis(200);

/// What a probe found.
#[derive(Clone, Copy, Debug)]
pub(super) struct Confirmed {
    pub(super) key: Revision,
    pub(super) timeline: Timeline,
    pub(super) at: Moment,
}

impl WritePool {
    pub(super) fn note_finding(&mut self, now: Moment, probe: u64, finding: Finding) {
        let Some((_, key)) = self.probe.take_if(|(running, _)| *running == probe) else {
            return;
        };
        self.suspect = false;
        let known = self
            .snapshot
            .as_ref()
            .and_then(|snapshot| snapshot.system_id);
        match finding {
            Finding::Standby { .. } if bug!(PoolTrustsAnybody) => {
                if let Some(pause) = &mut self.pause {
                    pause.confirmed = Some(Confirmed {
                        key,
                        timeline: Timeline(1),
                        at: now,
                    });
                }
            }
            Finding::Primary {
                system_id,
                timeline,
                ..
            } if Some(system_id) == known && self.is_not_older(timeline) => {
                self.lost = false;
                if let Some(pause) = &mut self.pause {
                    pause.confirmed = Some(Confirmed {
                        key,
                        timeline,
                        at: now,
                    });
                }
            }
            _ => {
                self.lost |= self.leads_to(key);
                self.probe_due = now + PROBE_RETRY;
            }
        }
    }

    fn is_not_older(&self, timeline: Timeline) -> bool {
        self.serving
            .as_ref()
            .is_none_or(|serving| timeline >= serving.timeline)
    }

    pub(super) fn wants_probe(&self) -> bool {
        let Some(leader) = self.leader() else {
            return false;
        };
        match &self.pause {
            Some(pause) => {
                !self.request_applies()
                    && pause
                        .confirmed
                        .is_none_or(|confirmed| confirmed.key != leader.key)
            }
            None => self.suspect,
        }
    }

    /// Asks for the evidence that is missing.
    pub(super) fn request_evidence(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let Some(leader) = self.leader().cloned() else {
            return;
        };
        if self.probe.is_none() && now >= self.probe_due && self.wants_probe() {
            self.probes += 1;
            self.probe = Some((self.probes, leader.key));
            effects.push(Effect::Probe {
                probe: self.probes,
                leader: leader.clone(),
            });
        }
        let dcs_lost = self.dcs_lost && !self.request_applies();
        let Some(pause) = self
            .pause
            .as_mut()
            .filter(|pause| dcs_lost && !pause.fresh && pause.leadership_of.is_none())
        else {
            return;
        };
        if pause
            .asked_at
            .is_none_or(|at| now.since(at) >= CONFIRM_RETRY)
        {
            pause.asked_at = Some(now);
            effects.push(Effect::ConfirmLeadership(leader));
        }
    }
}
