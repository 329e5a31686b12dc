//! Which of the operator's replicas works: a `coordination.k8s.io` Lease, taken by compare-and-set
//! on its resourceVersion. Another holder's lease counts as over only after it was seen unchanged
//! for its whole duration on the local monotonic clock: wall clocks are not compared.

use std::time::{Duration, Instant};

use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::api::{Api, ObjectMeta, PostParams};
use kube::{Client, ResourceExt};
use tokio::sync::watch;

/// How long a lease lasts without renewal.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long stops working, well before another may begin.
const RENEW_DEADLINE: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);

/// What an election says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Election {
    /// Another replica works.
    Standby,
    /// This one works.
    Leading,
    /// This one worked and may not any more: the process must end.
    Lost,
}

struct Seen {
    version: Option<String>,
    at: Instant,
}

/// Takes part in the election until `stop` says so; then hands the lease over at once.
pub async fn hold(
    client: Client,
    namespace: String,
    name: String,
    identity: String,
    state: watch::Sender<Election>,
    mut stop: watch::Receiver<bool>,
) {
    let api: Api<Lease> = Api::namespaced(client, &namespace);
    let mut seen = Seen {
        version: None,
        at: Instant::now(),
    };
    let mut renewed: Option<Instant> = None;
    loop {
        match take(&api, &name, &identity, &mut seen, renewed.is_some()).await {
            Ok(true) => {
                renewed = Some(Instant::now());
                state.send_replace(Election::Leading);
            }
            Ok(false) if renewed.is_some() => {
                state.send_replace(Election::Lost);
                return;
            }
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "the operator's lease cannot be renewed"),
        }
        if renewed.is_some_and(|at| at.elapsed() > RENEW_DEADLINE) {
            state.send_replace(Election::Lost);
            return;
        }
        tokio::select! {
            () = tokio::time::sleep(RETRY) => {}
            _ = stop.changed() => {
                if renewed.is_some() {
                    release(&api, &name, &identity).await;
                }
                return;
            }
        }
    }
}

/// One try to take or renew; whether the lease is ours after it.
async fn take(
    api: &Api<Lease>,
    name: &str,
    identity: &str,
    seen: &mut Seen,
    ours: bool,
) -> Result<bool, kube::Error> {
    let request = async {
        let Some(mut lease) = api.get_opt(name).await? else {
            let fresh = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    ..ObjectMeta::default()
                },
                spec: Some(spec(identity, None)),
            };
            return api
                .create(&PostParams::default(), &fresh)
                .await
                .map(|_| true);
        };
        if seen.version != lease.resource_version() {
            *seen = Seen {
                version: lease.resource_version(),
                at: Instant::now(),
            };
        }
        let holder = lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.clone())
            .unwrap_or_default();
        let free = holder.is_empty() || holder == identity || seen.at.elapsed() > DURATION;
        if !free || (ours && holder != identity) {
            return Ok(false);
        }
        lease.spec = Some(spec(identity, lease.spec.filter(|_| holder == identity)));
        lease.metadata.managed_fields = None;
        api.replace(name, &PostParams::default(), &lease)
            .await
            .map(|_| true)
    };
    match tokio::time::timeout(RETRY, request).await {
        // Somebody was faster, which is an answer.
        Ok(Err(kube::Error::Api(status))) if status.code == 409 => Ok(false),
        Ok(answer) => answer,
        Err(_) => Err(kube::Error::Service("no answer in time".into())),
    }
}

fn spec(identity: &str, old: Option<LeaseSpec>) -> LeaseSpec {
    let now = MicroTime(Timestamp::now());
    LeaseSpec {
        holder_identity: Some(identity.to_owned()),
        lease_duration_seconds: Some(15),
        acquire_time: old
            .as_ref()
            .and_then(|old| old.acquire_time.clone())
            .or(Some(now.clone())),
        renew_time: Some(now),
        lease_transitions: old.and_then(|old| old.lease_transitions),
        ..LeaseSpec::default()
    }
}

async fn release(api: &Api<Lease>, name: &str, identity: &str) {
    let request = async {
        let mut lease = api.get(name).await?;
        if lease
            .spec
            .as_ref()
            .and_then(|spec| spec.holder_identity.as_deref())
            == Some(identity)
        {
            lease.spec = Some(LeaseSpec {
                holder_identity: Some(String::new()),
                lease_duration_seconds: Some(1),
                ..LeaseSpec::default()
            });
            lease.metadata.managed_fields = None;
            api.replace(name, &PostParams::default(), &lease).await?;
        }
        Ok::<(), kube::Error>(())
    };
    // The lease ends by itself anyway.
    let _ = tokio::time::timeout(RETRY, request).await;
}
