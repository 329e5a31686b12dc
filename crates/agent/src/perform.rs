//! Performs one step of a decision and says what came of it. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Compare, CompareOp, DeleteOptions, PutOptions, TxnOp};
use futures::future::{join_all, select_ok};

use crate::context::{Context, Status, members};
use crate::poolers;
use crate::server::Error as ServerError;
use mrg_base::{MemberName, Position, Timeline};
use mrg_dcs::wire;
use mrg_dcs::wire::StatusData;
use mrg_dcs_etcd::Snapshot;
use mrg_election::{Action, LeaseId, Outcome, Postgres, Revision, StopMode, Stored};
use mrg_postgres::{quote_identifier, quote_literal};
use mrg_telemetry::chain;

/// Peers that are alive answer in a few milliseconds; one that is not must not hold up an election.
const VOTE_WITHIN: Duration = Duration::from_millis(700);
/// Ending the WAL receiver and changing the names are a signal and a few process switches.
const SETTLE_WITHIN: Duration = Duration::from_secs(5);
const CHECKPOINT_WITHIN: Duration = Duration::from_secs(60);

fn server<T>(result: Result<T, ServerError>, success: impl FnOnce(T) -> Outcome) -> Outcome {
    match result {
        Ok(value) => success(value),
        Err(error @ ServerError::NoSpace { .. }) => Outcome::NoSpace(chain(&error)),
        Err(error) => Outcome::Failed(chain(&error)),
    }
}

pub(super) fn written(
    result: Result<Option<Revision>, mrg_dcs_etcd::Error>,
    refusal: &str,
) -> Outcome {
    match result {
        Ok(Some(revision)) => Outcome::Written(revision),
        Ok(None) => Outcome::Refused(refusal.to_owned()),
        Err(error) if error.is_ambiguous() => Outcome::Unknown(chain(&error)),
        Err(error) => Outcome::Failed(chain(&error)),
    }
}

/// Performs an action. `lease` is the one we hold.
pub(crate) async fn perform(
    context: Arc<Context>,
    action: Action,
    lease: Option<LeaseId>,
) -> Outcome {
    let local = &context.server;
    match action {
        Action::ClaimInitialize => {
            with_lease(lease, |lease| claim_initialize(&context, lease)).await
        }
        Action::AbandonInitialize => {
            with_lease(lease, |lease| abandon_initialize(&context, lease)).await
        }
        Action::StoreSystemId(id) => {
            with_lease(lease, |lease| store_system_id(&context, lease, id)).await
        }
        Action::AcquireLeader => with_lease(lease, |lease| acquire(&context, lease)).await,
        Action::MoveLeader(to) => with_lease(lease, |lease| move_leader(&context, lease, to)).await,
        Action::ReleaseLeader => with_lease(lease, |lease| release(&context, lease)).await,
        Action::WriteSync { expected, stored } => {
            with_lease(lease, |lease| write_sync(&context, lease, expected, stored)).await
        }
        Action::ClearSwitchover { expected } => clear_switchover(&context, expected).await,
        Action::InitDb => server(local.init_db().await, |()| Outcome::Done),
        Action::PostBootstrap => post_bootstrap(&context).await,
        Action::Start(as_) => server(local.start(&as_).await, |()| Outcome::Done),
        Action::Stop(StopMode::Kill) => server(local.kill().await, |()| Outcome::Done),
        Action::Stop(StopMode::Fast) => server(local.stop(context.stop_within()).await, |end| {
            end.map_or(Outcome::Done, Outcome::At)
        }),
        Action::ReserveTimeline { after, known } => {
            with_lease(lease, |lease| {
                reserve_timeline(&context, lease, after, known)
            })
            .await
        }
        Action::Promote => server(local.promote().await, Outcome::At),
        Action::PausePoolers { may_abandon } => {
            with_lease(lease, |lease| poolers::pause(&context, lease, may_abandon)).await
        }
        Action::ResumePoolers => with_lease(lease, |lease| poolers::resume(&context, lease)).await,
        Action::Checkpoint => server(local.checkpoint(CHECKPOINT_WITHIN).await, |()| {
            Outcome::Done
        }),
        Action::StopReceiver => server(local.stop_receiver(SETTLE_WITHIN).await, Outcome::At),
        Action::Follow(leader) => server(local.follow(&leader).await, |()| Outcome::Done),
        Action::SetSyncNames(names) => {
            server(local.set_names(&names, SETTLE_WITHIN).await, Outcome::At)
        }
        Action::ConfirmLeader(leader) => {
            server(local.confirm_leader(&leader).await, |()| Outcome::Done)
        }
        Action::RemoveData => server(local.remove_data(), |()| Outcome::Done),
        Action::Rewind(from) => server(local.rewind(&from).await, |()| Outcome::Done),
        Action::BaseBackup(from) => server(local.base_backup(&from).await, |()| Outcome::Done),
        Action::AskPeers(peers) => ask_peers(&context, peers).await,
        Action::AwaitReceipt {
            candidates,
            position,
        } => await_receipt(&context, candidates, position).await,
    }
}

async fn with_lease<F: Future<Output = Outcome>>(
    lease: Option<LeaseId>,
    perform: impl FnOnce(LeaseId) -> F,
) -> Outcome {
    match lease {
        Some(lease) => perform(lease).await,
        None => Outcome::Failed("there is no lease".to_owned()),
    }
}

pub(super) fn under(lease: LeaseId) -> Option<PutOptions> {
    Some(PutOptions::new().with_lease(lease.0))
}

pub(super) fn absent(key: &str) -> Compare {
    Compare::create_revision(key, CompareOp::Equal, 0)
}

/// The key is as it was read: last written at this revision, or not there.
pub(super) fn unchanged(key: &str, modified: Option<i64>) -> Compare {
    modified.map_or_else(
        || absent(key),
        |modified| Compare::mod_revision(key, CompareOp::Equal, modified),
    )
}

pub(super) fn owned(key: &str, lease: LeaseId) -> Compare {
    Compare::lease(key, CompareOp::Equal, lease.0)
}

/// Writes the list of those who may race as Patroni keeps it: names and addresses. The revision, if
/// it was written.
pub(super) async fn write_failsafe(
    context: &Context,
    snapshot: &Snapshot,
    lease: LeaseId,
    over: Option<Revision>,
    listed: Option<BTreeSet<MemberName>>,
) -> Option<Revision> {
    let (stored, present) = (
        wire::failsafe(&snapshot.entries).unwrap_or_default(),
        members(snapshot),
    );
    let config = &context.config;
    let address = |name: &MemberName| match present.get(name) {
        _ if *name == config.name => config.api_url(),
        Some(data) => data.api_url.clone(),
        None => stored.get(name).cloned().unwrap_or_default(),
    };
    let key = context.keys.key("failsafe");
    let conditions = vec![
        owned(&context.keys.leader(), lease),
        unchanged(&key, over.map(|over| over.0)),
    ];
    let change = match listed {
        Some(listed) => {
            let map: BTreeMap<&MemberName, String> =
                listed.iter().map(|name| (name, address(name))).collect();
            TxnOp::put(key, wire::compact(&map), None)
        }
        None => TxnOp::delete(key, None),
    };
    context
        .etcd
        .transact(conditions, vec![change], context.dcs_within())
        .await
        .unwrap_or_else(|error| {
            tracing::debug!(error = chain(&error), "failed to write the failsafe key");
            None
        })
}

async fn claim_initialize(context: &Context, lease: LeaseId) -> Outcome {
    let key = context.keys.initialize();
    // Under the lease: a claim whose owner dies is free again.
    let put = TxnOp::put(key.clone(), "", under(lease));
    let done = context
        .etcd
        .transact(vec![absent(&key)], vec![put], context.dcs_within())
        .await;
    written(done, "another member makes the cluster")
}

async fn abandon_initialize(context: &Context, lease: LeaseId) -> Outcome {
    if let Err(error) = context.server.remove_data() {
        return Outcome::Failed(chain(&error));
    }
    let key = context.keys.initialize();
    let delete = TxnOp::delete(key.clone(), Some(DeleteOptions::new()));
    let done = context
        .etcd
        .transact(vec![owned(&key, lease)], vec![delete], context.dcs_within())
        .await;
    written(done, "the claim is not ours")
}

/// With it goes the first `status`: should somebody delete `initialize`, that tells that there is a
/// cluster, from its first moment on.
async fn store_system_id(context: &Context, lease: LeaseId, id: u64) -> Outcome {
    let status_key = context.keys.key("status");
    let put = || TxnOp::put(context.keys.initialize(), id.to_string(), None);
    let first = StatusData {
        optime: flushed(context),
        slots: BTreeMap::new(),
    };
    let both = vec![
        put(),
        TxnOp::put(status_key.clone(), wire::compact(&first), None),
    ];
    let ours = || owned(&context.keys.leader(), lease);
    let mut done = context
        .etcd
        .transact(
            vec![ours(), absent(&status_key)],
            both,
            context.dcs_within(),
        )
        .await;
    if let Ok(None) = done {
        done = context
            .etcd
            .transact(vec![ours()], vec![put()], context.dcs_within())
            .await;
    }
    if let Ok(Some(_)) = done {
        // At once, not when the watch tells of it: from here on our data is the cluster's.
        context.server.note_system(id);
    }
    written(done, "the leader key is not ours")
}

fn flushed(context: &Context) -> u64 {
    match context.status().postgres {
        Postgres::Primary(primary) => primary.position.flushed.0,
        _ => 0,
    }
}

async fn acquire(context: &Context, lease: LeaseId) -> Outcome {
    let key = context.keys.leader();
    let put = TxnOp::put(key.clone(), context.config.name.as_str(), under(lease));
    let done = context
        .etcd
        .transact(vec![absent(&key)], vec![put], context.dcs_within())
        .await;
    written(done, "another member was faster")
}

async fn move_leader(context: &Context, lease: LeaseId, to: LeaseId) -> Outcome {
    let key = context.keys.leader();
    let put = TxnOp::put(key.clone(), context.config.name.as_str(), under(to));
    let done = context
        .etcd
        .transact(vec![owned(&key, lease)], vec![put], context.dcs_within())
        .await;
    written(done, "the leader key is not ours")
}

async fn release(context: &Context, lease: LeaseId) -> Outcome {
    // The key may go only when nothing of the former primary can write any more.
    if !context.server.is_running()
        && let Err(error) = context.server.kill().await
    {
        return Outcome::Failed(chain(&error));
    }
    let key = context.keys.leader();
    // A request to the poolers was about this leadership, and ends with it.
    let deleted = |key: String| TxnOp::delete(key, Some(DeleteOptions::new()));
    let deletes = vec![deleted(key.clone()), deleted(context.keys.pause())];
    let done = context
        .etcd
        .transact(vec![owned(&key, lease)], deletes, context.dcs_within())
        .await;
    written(done, "the leader key is not ours")
}

/// Says in `history` that the next timeline is ours, before there is one. The line is written anew
/// from PostgreSQL's own file afterwards.
async fn reserve_timeline(
    context: &Context,
    lease: LeaseId,
    after: Position,
    known: Option<Timeline>,
) -> Outcome {
    let key = context.keys.key("history");
    let snapshot = context.status().snapshot;
    let unchanged = unchanged(
        &key,
        snapshot.entries.get("history").map(|entry| entry.modified),
    );
    let mut lines = wire::history(&snapshot.entries);
    if lines.last().map(wire::next_timeline) != known {
        return Outcome::Refused("another timeline was begun".to_owned());
    }
    lines.retain(|line| line.0 < after.timeline.0);
    let now = jiff::Timestamp::now().to_string();
    lines.push((
        after.timeline.0,
        after.flushed.0,
        wire::PROMOTION_UNDER_WAY.to_owned(),
        now,
        context.config.name.to_string(),
    ));
    let put = TxnOp::put(key, wire::compact(&lines), None);
    let done = context
        .etcd
        .transact(
            vec![owned(&context.keys.leader(), lease), unchanged],
            vec![put],
            context.dcs_within(),
        )
        .await;
    written(done, "the leader key or /history was changed by another")
}

async fn write_sync(
    context: &Context,
    lease: LeaseId,
    expected: Option<Revision>,
    stored: Stored,
) -> Outcome {
    let key = context.keys.sync();
    // A key that nobody can read counts as absent, and is written over as it is.
    let unreadable = || {
        let entries = &context.status().snapshot.entries;
        entries
            .get("sync")
            .filter(|_| wire::sync(entries).is_none())
            .map(|entry| entry.modified)
    };
    let unchanged = unchanged(
        &key,
        expected.map(|revision| revision.0).or_else(unreadable),
    );
    let put = TxnOp::put(key, wire::render_sync(&stored), None);
    let conditions = vec![owned(&context.keys.leader(), lease), unchanged];
    written(
        context
            .etcd
            .transact(conditions, vec![put], context.dcs_within())
            .await,
        "/sync or the leader key was changed by another",
    )
}

async fn clear_switchover(context: &Context, expected: Revision) -> Outcome {
    let key = context.keys.failover();
    let put = TxnOp::put(key.clone(), "{}", None);
    let unchanged = Compare::mod_revision(key, CompareOp::Equal, expected.0);
    written(
        context
            .etcd
            .transact(vec![unchanged], vec![put], context.dcs_within())
            .await,
        "the request was changed",
    )
}

async fn ask_peers(context: &Context, peers: BTreeSet<MemberName>) -> Outcome {
    let answers = join_all(
        peers
            .iter()
            .map(|member| context.peers.vote(member, VOTE_WITHIN)),
    )
    .await;
    let vote = |answer: Result<_, crate::peers::Error>| match answer {
        Ok(vote) => Some(vote),
        Err(error) => {
            tracing::info!(error = chain(&error), "no vote");
            None
        }
    };
    Outcome::Votes(answers.into_iter().filter_map(vote).collect())
}

async fn await_receipt(
    context: &Context,
    candidates: BTreeSet<MemberName>,
    position: Position,
) -> Outcome {
    if candidates.is_empty() {
        return Outcome::Failed("nobody could take over".to_owned());
    }
    let within = context.dcs_within().min(Duration::from_secs(3));
    let asked = candidates
        .iter()
        .map(|member| Box::pin(context.peers.received(member, position.flushed, within)));
    match select_ok(asked).await {
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(chain(&error)),
    }
}

/// Roles, databases, and the dynamic configuration of a new cluster.
async fn post_bootstrap(context: &Context) -> Outcome {
    let accepts = |status: &Status| matches!(status.postgres, Postgres::Primary(_)).then_some(());
    // In time or not, the session says what is wrong.
    let _ = context.wait_for(CHECKPOINT_WITHIN, accepts).await;
    let session = match context.server.session().await {
        Ok(session) => session,
        Err(error) => return Outcome::Failed(chain(&error)),
    };
    let replication = &context.config.authentication.replication;
    let mut statements = vec![(
        "create the replication role",
        format!(
            "CREATE ROLE {} LOGIN REPLICATION PASSWORD {}",
            quote_identifier(&replication.username),
            quote_literal(&replication.password)
        ),
    )];
    let mut owners = BTreeSet::from([context.config.authentication.superuser.username.clone()]);
    for database in &context.config.own.databases {
        let from_environment = database
            .password_env
            .as_ref()
            .and_then(|name| std::env::var(name).ok());
        let password = database.password.clone().or(from_environment);
        let owner = quote_identifier(&database.owner);
        if owners.insert(database.owner.clone()) {
            let password = password
                .map(|password| format!(" PASSWORD {}", quote_literal(&password)))
                .unwrap_or_default();
            statements.push((
                "create an owner",
                format!("CREATE ROLE {owner} LOGIN{password}"),
            ));
        }
        statements.push((
            "create a database",
            format!(
                "CREATE DATABASE {} OWNER {owner}",
                quote_identifier(&database.name)
            ),
        ));
    }
    for (operation, sql) in statements {
        if let Err(error) = session.execute(operation, &sql, CHECKPOINT_WITHIN).await {
            return Outcome::Failed(chain(&error));
        }
    }
    let key = context.keys.config();
    let put = TxnOp::put(
        key.clone(),
        wire::compact(&context.config.bootstrap.0),
        None,
    );
    match context
        .etcd
        .transact(vec![absent(&key)], vec![put], context.dcs_within())
        .await
    {
        // A configuration that is there already stays.
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(chain(&error)),
    }
}
