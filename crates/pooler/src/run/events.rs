//! What the loop makes of what it receives.

use super::Pooler;
use crate::answer::{Answer, Heartbeat};
use crate::bouncer::Report;
use mrg_dcs::{ClusterSnapshot, Pause};
use mrg_dcs_etcd::WatchEvent;
use mrg_pool_core::Event;

impl Pooler {
    pub(super) fn note_cluster(&mut self, event: WatchEvent<ClusterSnapshot>) {
        match event {
            WatchEvent::Seen { snapshot, asked } => {
                let event = Event::Dcs {
                    snapshot: snapshot.seen(),
                    read: asked,
                };
                self.snapshot = snapshot;
                self.feed(event);
            }
            WatchEvent::Reset => {
                tracing::warn!(
                    "etcd went back in time: it is empty, restored from a backup, or another one"
                );
                self.feed(Event::DcsReset);
            }
            // The words of it are logged with those of every other request.
            WatchEvent::Lost(_) => self.feed(Event::DcsLost),
        }
    }

    pub(super) fn note_pause(&mut self, event: &WatchEvent<Pause>) {
        let WatchEvent::Seen { snapshot, .. } = event else {
            // The watch of the cluster's keys reports that etcd is lost.
            return;
        };
        self.feed(Event::Pause(snapshot.0));
    }

    pub(super) fn note_report(&mut self, process: u16, report: Report) {
        match report {
            Report::Settled(target) => {
                self.processes.note_settled(process, target);
                self.publisher.note_running();
            }
            Report::Drained(target) => self.processes.note_drained(process, target),
            Report::Pools(pools) => self.processes.note_pools(process, pools),
            Report::Ended(why) => {
                self.processes.note_end(process);
                self.publisher.note_failure(&why);
            }
        }
        self.feed(Event::Tick);
    }

    pub(super) fn note_answer(&mut self, answer: Answer) {
        match answer {
            Answer::Event(event) => self.feed(event),
            Answer::Probed {
                probe,
                finding,
                heartbeat,
            } => {
                if heartbeat.is_some() {
                    self.heartbeat = heartbeat;
                }
                self.feed(Event::Probed { probe, finding });
            }
            Answer::HeartbeatEnded(number) => {
                let ended = self
                    .heartbeat
                    .take_if(|heartbeat| heartbeat.number == number);
                if let Some(Heartbeat { key, .. }) = ended {
                    self.feed(Event::Disconnected { key });
                }
            }
        }
    }
}
