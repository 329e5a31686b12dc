//! Follows the mounted Secret of passwords.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::{Error, PoolerConfig};
use crate::probe;
use mrg_dcs::poolers::{PoolerRecord, fingerprint};
use mrg_pgbouncer::Login;
use mrg_pool_core::{Address, PoolTarget};

/// The kubelet swaps a mounted Secret's directory once in a minute or so; nothing is lost by
/// polling a little later.
const POLL_INTERVAL: Duration = Duration::from_secs(2);
/// New passwords that the server has not accepted by then are used all the same.
const ACCEPTED_WITHIN: Duration = Duration::from_secs(150);

/// Puts a new password to use once the server accepts it; until then the old one stays. Ends when
/// all receivers of the logins are gone.
pub(crate) async fn follow(
    config: Arc<PoolerConfig>,
    logins: watch::Sender<Vec<Login>>,
    targets: watch::Receiver<PoolTarget>,
    record: watch::Sender<PoolerRecord>,
) {
    publish_fingerprints(&config.scope, &record, &logins.borrow());
    let mut since = Instant::now();
    let mut published = logins.borrow().clone();
    let mut refused = None;
    loop {
        tokio::select! {
            () = logins.closed() => return,
            () = tokio::time::sleep(POLL_INTERVAL) => {}
        }
        let mounted = match config.logins() {
            Ok(mounted) => mounted,
            Err(error) => {
                // A file that cannot be read is one that is being replaced.
                let why = matches!(error, Error::Login { .. }).then(|| error.to_string());
                if let Some(why) = why.as_ref().filter(|_| why != refused) {
                    tracing::warn!(why, "the passwords in the Secret are not used");
                }
                refused = why;
                continue;
            }
        };
        refused = None;
        if mounted != published {
            tracing::info!(
                "the passwords in the Secret changed; they are used once the server takes them"
            );
            publish_fingerprints(&config.scope, &record, &mounted);
            published.clone_from(&mounted);
            since = Instant::now();
        }
        if mounted == *logins.borrow() {
            continue;
        }
        let address = targets.borrow().addresses.first().cloned();
        let taken = match address {
            Some(address) => are_accepted(&config, &address, &mounted).await,
            None => false,
        };
        // A rotation by hand may have changed the server first, and then the old ones are of no use
        // any more.
        if taken || since.elapsed() > ACCEPTED_WITHIN {
            tracing::info!(taken, "the new passwords are in use");
            logins.send_replace(mounted);
        }
    }
}

fn publish_fingerprints(scope: &str, record: &watch::Sender<PoolerRecord>, logins: &[Login]) {
    let print = |login: &Login| {
        let print = fingerprint(scope, &login.user, &login.password);
        (login.user.clone(), print)
    };
    let prints: BTreeMap<String, u16> = logins.iter().map(print).collect();
    record.send_if_modified(|record| {
        let changed = record.passwords != prints;
        record.passwords = prints;
        changed
    });
}

async fn are_accepted(config: &PoolerConfig, address: &Address, logins: &[Login]) -> bool {
    let Some(database) = config.databases.first() else {
        return false;
    };
    let tries = logins
        .iter()
        .map(|login| probe::connect(address, login, &database.name, std::future::ready(())));
    futures::future::join_all(tries)
        .await
        .iter()
        .all(Option::is_some)
}
