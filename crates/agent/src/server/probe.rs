//! Reads the local server and its data directory.

use crate::credentials::Role;
use crate::server::Server;
use crate::server::observation::{AtRest, Reading, observe};
use crate::server::receiver::{ReceiverError, collected, last_error};
use crate::server::settings::Settings;
use mrg_base::Millis;
use mrg_election::Postgres;
use mrg_postgres::{DataState, Probe, Replica, fork_of, server_in, timeline_at};
use mrg_telemetry::chain;

/// What a WAL receiver says this soon after it was turned to another upstream may still be about the
/// one before.
const PROVES_AFTER: Millis = Millis::seconds(6);

impl Server {
    /// Probes the server and its data directory.
    pub(crate) async fn probe(&self) -> Postgres {
        let reading = self.read().await;
        let upstream = self.settings.read(Settings::upstream);
        let (postgres, newly_unusable) = self.observation.change(|known| {
            let before = known.unusable.clone();
            let postgres = observe(reading, upstream.as_ref(), known, mrg_clock::now());
            let after = known
                .unusable
                .clone()
                .filter(|why| before.as_ref() != Some(why));
            (postgres, after)
        });
        if let Some(why) = newly_unusable {
            tracing::error!(%why, directory = %self.data().display(), "the data directory cannot be used; it is left alone");
        }
        postgres
    }

    async fn read(&self) -> Reading {
        if !self.is_running() {
            return Reading::AtRest(AtRest {
                server: server_in(self.data()),
                ours: self.is_recorded(),
                directory: self.data().display().to_string(),
                data: DataState::read(self.data()),
                made_by: std::fs::read_to_string(self.data().join("PG_VERSION")).ok(),
                programs: self.major.clone(),
                unfinished: self.is_unfinished(),
                half_rewound: self.is_half_rewound(),
            });
        }
        match self.query().await {
            Ok(probe) => {
                if matches!(
                    &probe,
                    Probe::Primary(..)
                        | Probe::Replica(
                            Replica {
                                streaming: true,
                                ..
                            },
                            _
                        )
                ) {
                    self.discard_replaced();
                }
                let (fork, receiver) = match &probe {
                    Probe::Replica(replica, _) => (
                        fork_of(self.data(), replica.timeline),
                        self.logged_receiver_error(replica).await,
                    ),
                    Probe::Primary(..) => (None, None),
                };
                Reading::Answered {
                    probe,
                    fork,
                    receiver,
                }
            }
            Err(error) if error.is_full() => Reading::Full,
            Err(error @ mrg_postgres::Error::Connect(_)) => {
                Reading::NotAccepting(error.refused_for())
            }
            Err(error) => {
                tracing::debug!(error = chain(&error), "postgres does not answer");
                Reading::Failed
            }
        }
    }

    /// The last failure of the WAL receiver, if it should stream and does not.
    async fn logged_receiver_error(&self, replica: &Replica) -> Option<ReceiverError> {
        let upstream = self.settings.read(Settings::upstream)?;
        if replica.streaming || !replica.waiting {
            return None;
        }
        if self
            .settings
            .read(|settings| settings.address(&upstream.member))
            .is_none()
        {
            return Some(ReceiverError {
                text: format!("the address of {} is not known", upstream.member),
                wal_removed: false,
            });
        }
        let printed = self.postmaster.output().await.unwrap_or_default();
        let printed = last_error(printed.after(upstream.printed));
        // Of what the server's own collector writes it is not known which upstream it is about.
        let collected = || {
            let error = last_error(&collected(self.data())?)?;
            Some(ReceiverError {
                wal_removed: false,
                ..error
            })
        };
        let mut error = printed.or_else(collected)?;
        // While a password changes, the reason may be that; the other one is next then.
        if !error.wal_removed {
            self.note_failed_login(Role::Replication);
        }
        // An archive may have what the primary has not.
        let settled = mrg_clock::now().since(upstream.since) >= PROVES_AFTER;
        error.wal_removed &= settled && !self.has_archive().await;
        Some(error)
    }

    /// Whether the server looks for WAL in an archive. What cannot be found out counts as yes.
    async fn has_archive(&self) -> bool {
        const QUESTION: &str = "SELECT current_setting('restore_command')";
        let Ok(session) = self.session().await else {
            return true;
        };
        let command = session.texts("find the archive", QUESTION).await;
        command.map_or(true, |rows| rows.first().is_none_or(|row| !row.is_empty()))
    }

    /// Asks the running server.
    pub(super) async fn query(&self) -> Result<Probe, mrg_postgres::Error> {
        let mut probe = self.connection.probe().await?;
        if let Probe::Replica(replica, _) = &mut probe
            && !replica.streaming
            && let Some(flushed) = replica.flushed
        {
            // The server itself forgets the timeline that it received last.
            let on_disk = timeline_at(self.data(), flushed).unwrap_or_default();
            replica.timeline = replica.timeline.max(on_disk);
        }
        Ok(probe)
    }

    /// How far the server has replayed and received; `None` unless it is in recovery and answers.
    pub(crate) async fn replica(&self) -> Option<Replica> {
        match self.query().await {
            Ok(Probe::Replica(replica, _)) => Some(replica),
            Ok(Probe::Primary(..)) | Err(_) => None,
        }
    }
}
