//! Probes the local server, when asked and regularly.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::run::PROBE_INTERVAL;
use crate::server::Server;
use mrg_election::{Event, Postgres};

/// Between two probes of a server that begins to accept connections, at first.
const STARTING_INTERVAL: Duration = Duration::from_millis(25);

/// Probes the server for every number in `requests` and at least every [`PROBE_INTERVAL`]. Each result
/// carries the highest number that was requested before the probe began.
pub(super) async fn monitor(
    server: Arc<Server>,
    mut requests: mpsc::UnboundedReceiver<u64>,
    events: mpsc::Sender<Event>,
) {
    let mut newest = 0;
    loop {
        tokio::select! {
            number = requests.recv() => match number {
                Some(number) => newest = number.max(newest),
                None => return,
            },
            () = tokio::time::sleep(PROBE_INTERVAL) => {}
        }
        let mut pause = STARTING_INTERVAL;
        loop {
            while let Ok(number) = requests.try_recv() {
                newest = number.max(newest);
            }
            let postgres = server.probe().await;
            let starting = matches!(postgres, Postgres::Starting);
            let event = Event::Postgres {
                probe: newest,
                postgres,
            };
            if events.send(event).await.is_err() {
                return;
            }
            if !starting {
                break;
            }
            // Nothing announces that postgres accepts connections. The longer that takes, the less
            // often it is probed.
            tokio::time::sleep(pause).await;
            pause = (pause * 11 / 10).min(PROBE_INTERVAL);
        }
    }
}
