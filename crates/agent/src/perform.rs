//! Performs one step of a decision and says what came of it. Decides nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_ok};

use crate::context::{Context, Status};
use crate::poolers;
use crate::server::Error as ServerError;
use mrg_base::{MemberName, Position, Timeline};
use mrg_dcs::wire::{HistoryLine, PROMOTION_UNDER_WAY, StatusData};
use mrg_dcs::{Attempt, ClusterSnapshot, Store, next_timeline};
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

pub(super) fn written(attempt: Attempt<Revision>, refusal: &str) -> Outcome {
    match attempt {
        Attempt::Done(revision) => Outcome::Written(revision),
        Attempt::Conflict => Outcome::Refused(refusal.to_owned()),
        Attempt::InDoubt(error) => Outcome::Unknown(chain(&error)),
        Attempt::Failed(error) => Outcome::Failed(chain(&error)),
    }
}

pub(super) const NOT_LEADER: &str = "the leader key is not ours";

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

/// Writes the list of the members that may race, as Patroni keeps it: names and addresses. The
/// revision, if it was written.
pub(super) async fn write_failsafe(
    context: &Context,
    snapshot: &ClusterSnapshot,
    lease: LeaseId,
    over: Option<Revision>,
    listed: Option<BTreeSet<MemberName>>,
) -> Option<Revision> {
    let config = &context.config;
    let address = |name: &MemberName| match snapshot.member(name) {
        _ if *name == config.name => config.api_url(),
        Some(data) => data.api_url.clone(),
        None => {
            let stored = snapshot.failsafe().and_then(|stored| stored.get(name));
            stored.cloned().unwrap_or_default()
        }
    };
    let addressed = |name: MemberName| {
        let url = address(&name);
        (name, url)
    };
    let members = listed.map(|listed| listed.into_iter().map(addressed).collect());
    let written = context
        .store
        .write_failsafe(lease, over, members, context.dcs_within())
        .await;
    written.into_result().unwrap_or_else(|error| {
        tracing::debug!(error = chain(&error), "failed to write the failsafe key");
        None
    })
}

async fn claim_initialize(context: &Context, lease: LeaseId) -> Outcome {
    let within = context.dcs_within();
    let claimed = context.store.claim_initialize(lease, within).await;
    written(claimed, "another member makes the cluster")
}

async fn abandon_initialize(context: &Context, lease: LeaseId) -> Outcome {
    if let Err(error) = context.server.remove_data() {
        return Outcome::Failed(chain(&error));
    }
    let within = context.dcs_within();
    let abandoned = context.store.abandon_initialize(lease, within).await;
    written(abandoned, "the claim is not ours")
}

async fn store_system_id(context: &Context, lease: LeaseId, id: u64) -> Outcome {
    let first = StatusData {
        optime: flushed(context),
        slots: BTreeMap::new(),
    };
    let within = context.dcs_within();
    let stored = context
        .store
        .store_system_id(lease, id, first, within)
        .await;
    if stored.is_done() {
        // At once, not when the watch reports it: from here on our data is the cluster's.
        context.server.note_system(id);
    }
    written(stored, NOT_LEADER)
}

fn flushed(context: &Context) -> u64 {
    match context.status().postgres {
        Postgres::Primary(primary) => primary.position.flushed.0,
        _ => 0,
    }
}

async fn acquire(context: &Context, lease: LeaseId) -> Outcome {
    let (name, within) = (&context.config.name, context.dcs_within());
    let acquired = context.store.acquire_leader(lease, name, within).await;
    written(acquired, "another member was faster")
}

async fn move_leader(context: &Context, lease: LeaseId, to: LeaseId) -> Outcome {
    let (name, within) = (&context.config.name, context.dcs_within());
    let moved = context.store.move_leader(lease, to, name, within).await;
    written(moved, NOT_LEADER)
}

async fn release(context: &Context, lease: LeaseId) -> Outcome {
    // The key may go only when nothing of the former primary can write any more.
    if !context.server.is_running()
        && let Err(error) = context.server.kill().await
    {
        return Outcome::Failed(chain(&error));
    }
    let within = context.dcs_within();
    let released = context.store.release_leader(lease, within).await;
    written(released, NOT_LEADER)
}

/// Says in `history` that the next timeline is ours, before there is one. The line is written again
/// from PostgreSQL's own file afterwards.
async fn reserve_timeline(
    context: &Context,
    lease: LeaseId,
    after: Position,
    known: Option<Timeline>,
) -> Outcome {
    let snapshot = context.status().snapshot;
    let mut lines = snapshot.history().to_vec();
    if next_timeline(&lines) != known {
        return Outcome::Refused("another timeline was begun".to_owned());
    }
    lines.retain(|line| line.timeline < after.timeline.0);
    lines.push(HistoryLine {
        timeline: after.timeline.0,
        ended_at: after.flushed.0,
        reason: PROMOTION_UNDER_WAY.to_owned(),
        time: jiff::Timestamp::now().to_string(),
        leader: context.config.name.to_string(),
    });
    let (over, within) = (snapshot.history_modified(), context.dcs_within());
    let reserved = context
        .store
        .write_history(lease, over, lines, within)
        .await;
    written(
        reserved,
        "the leader key or /history was changed by another",
    )
}

async fn write_sync(
    context: &Context,
    lease: LeaseId,
    expected: Option<Revision>,
    stored: Stored,
) -> Outcome {
    // A key that cannot be read counts as absent, and is written over as it is.
    let over = expected.or_else(|| context.status().snapshot.unreadable_sync());
    let within = context.dcs_within();
    let done = context.store.write_sync(lease, over, stored, within).await;
    written(done, "/sync or the leader key was changed by another")
}

async fn clear_switchover(context: &Context, expected: Revision) -> Outcome {
    let within = context.dcs_within();
    let cleared = context.store.take_failover(expected, within).await;
    written(cleared, "the request was changed")
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
    let config = context.config.bootstrap.clone();
    let created = context.store.create_config(config, context.dcs_within());
    match created.await.into_result() {
        // A configuration that is there already stays.
        Ok(_) => Outcome::Done,
        Err(error) => Outcome::Failed(chain(&error)),
    }
}
