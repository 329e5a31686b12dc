//! Reads the local server and its data directory.

use crate::server::Server;
use crate::server::observation::{AtRest, Reading, observe};
use crate::server::settings::Settings;
use mrg_election::Postgres;
use mrg_postgres::{DataState, Probe, Replica, fork_of, server_in, timeline_at};
use mrg_telemetry::chain;

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
                let fork = match &probe {
                    Probe::Replica(replica, _) => fork_of(self.data(), replica.timeline),
                    Probe::Primary(..) => None,
                };
                Reading::Answered { probe, fork }
            }
            Err(error) if error.is_full() => Reading::Full,
            Err(mrg_postgres::Error::Connect(_)) => Reading::NotAccepting,
            Err(error) => {
                tracing::debug!(error = chain(&error), "postgres does not answer");
                Reading::Failed
            }
        }
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
