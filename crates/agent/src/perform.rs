//! Performs one step of a decision and says what came of it. Decides nothing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use futures::future::{join_all, select_ok};

use crate::context::{Context, Status};
use crate::poolers;
use crate::roles::creating;
use crate::server::Error as ServerError;
use mrg_base::{MemberName, Position};
use mrg_dcs::{Attempt, ClusterSnapshot, Store, Transaction, Untried, Writer};
use mrg_election::{Action, LeaseId, Outcome, Postgres, Revision, StopMode};
use mrg_postgres::{quote_identifier, quote_literal, verifier};
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
        // Nothing was tried: no reason to try another way.
        Err(error @ ServerError::DiskHangs) => Outcome::Unknown(chain(&error)),
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
    let status = context.status();
    let writer = Writer {
        me: &context.config.name,
        lease,
        snapshot: &status.snapshot,
        config: status.config.as_deref(),
        postgres: &status.postgres,
        time: &jiff::Timestamp::now().to_string(),
    };
    match writer.action(&action) {
        Ok(Some(transaction)) => write(&context, &action, transaction).await,
        Ok(None) => step(&context, action, lease).await,
        Err(untried) => untried.outcome(),
    }
}

/// Performs an action that is one write to the store, with what it takes here.
async fn write(context: &Context, action: &Action, transaction: Transaction) -> Outcome {
    let local = &context.server;
    let prepared = match action {
        // The key may go only when nothing of the former primary can write any more.
        Action::ReleaseLeader if !local.is_running() => local.leave_nothing().await,
        Action::AbandonInitialize => local.remove_data().await,
        _ => Ok(()),
    };
    if let Err(error) = prepared {
        return Outcome::Failed(chain(&error));
    }
    let attempt = context
        .store
        .execute(transaction, context.dcs_within())
        .await;
    if let Action::StoreSystemId(id) = action
        && attempt.is_done()
    {
        // At once, not when the watch reports it: from here on our data is the cluster's.
        local.note_system(*id);
    }
    written(attempt, refusal(action))
}

/// Why a compare did not hold.
fn refusal(action: &Action) -> &'static str {
    match action {
        Action::ClaimInitialize => "another member makes the cluster",
        Action::AbandonInitialize => "the claim is not ours",
        Action::AcquireLeader | Action::RestoreKeys { .. } => "another member was faster",
        Action::EvictLeader(_) => "the leader key was changed by another",
        Action::ReserveTimeline { .. } => "the leader key or /history was changed by another",
        Action::WriteSync { .. } => "/sync or the leader key was changed by another",
        Action::ClearSwitchover { .. } => "the request was changed",
        _ => NOT_LEADER,
    }
}

/// Performs an action that is more than a write to the store.
async fn step(context: &Context, action: Action, lease: Option<LeaseId>) -> Outcome {
    let local = &context.server;
    let done = |()| Outcome::Done;
    match action {
        Action::PausePoolers { may_abandon } => match lease {
            Some(lease) => poolers::pause(context, lease, may_abandon).await,
            None => Untried::NoLease.outcome(),
        },
        Action::InitDb => server(local.init_db().await, done),
        Action::PostBootstrap => post_bootstrap(context).await,
        Action::Start(as_) => server(local.start(&as_).await, done),
        Action::Stop(StopMode::Kill) => server(local.kill().await, done),
        Action::Stop(StopMode::Fast) => server(local.stop(context.stop_within()).await, |end| {
            end.map_or(Outcome::Done, Outcome::At)
        }),
        Action::Promote => server(local.promote().await, Outcome::At),
        Action::Checkpoint => server(local.checkpoint(CHECKPOINT_WITHIN).await, done),
        Action::StopReceiver => server(local.stop_receiver(SETTLE_WITHIN).await, Outcome::At),
        Action::Follow(leader) => server(local.follow(&leader).await, done),
        Action::SetSyncNames(names) => {
            server(local.set_names(&names, SETTLE_WITHIN).await, Outcome::At)
        }
        Action::ConfirmLeader(leader) => server(local.confirm_leader(&leader).await, done),
        Action::RemoveData => server(local.remove_data().await, done),
        Action::Rewind(from) => server(local.rewind(&from).await, done),
        Action::BaseBackup(from) => server(local.base_backup(&from).await, done),
        Action::AskPeers(peers) => ask_peers(context, peers).await,
        Action::AwaitReceipt {
            candidates,
            position,
        } => await_receipt(context, candidates, position).await,
        Action::ClaimInitialize
        | Action::AbandonInitialize
        | Action::StoreSystemId(_)
        | Action::AcquireLeader
        | Action::MoveLeader(_)
        | Action::EvictLeader(_)
        | Action::RestoreKeys { .. }
        | Action::ReleaseLeader
        | Action::WriteSync { .. }
        | Action::ClearSwitchover { .. }
        | Action::ReserveTimeline { .. }
        | Action::ResumePoolers => unreachable!("a write to the store"),
    }
}

/// Writes the list of the members that may race. The revision, if it was written.
pub(super) async fn write_failsafe(
    context: &Context,
    snapshot: &ClusterSnapshot,
    lease: LeaseId,
    over: Option<Revision>,
    listed: Option<BTreeSet<MemberName>>,
) -> Option<Revision> {
    let config = &context.config;
    let writer = Writer {
        me: &config.name,
        lease: Some(lease),
        snapshot,
        config: None,
        postgres: &Postgres::Unknown,
        time: "",
    };
    let transaction = writer.failsafe(over, listed, &config.api_url()).ok()?;
    let within = context.dcs_within();
    let written = context.store.execute(transaction, within).await;
    written.into_result().unwrap_or_else(|error| {
        tracing::debug!(error = chain(&error), "failed to write the failsafe key");
        None
    })
}

async fn ask_peers(context: &Context, peers: BTreeSet<MemberName>) -> Outcome {
    let answers = join_all(
        peers
            .iter()
            .map(|member| context.peers.vote(member, VOTE_WITHIN)),
    )
    .await;
    let doubts = |answer: &Result<_, crate::peers::Error>| matches!(answer, Err(error) if error.is_dcs_reset());
    let doubted = answers.iter().any(doubts);
    let vote = |answer: Result<_, crate::peers::Error>| match answer {
        Ok(vote) => Some(vote),
        Err(error) => {
            tracing::info!(error = chain(&error), "no vote");
            None
        }
    };
    let votes = answers.into_iter().filter_map(vote).collect();
    if doubted {
        Outcome::DcsReset(votes)
    } else {
        Outcome::Votes(votes)
    }
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
    let mut statements: Vec<(&str, String)> = creating(&context.credentials.wanted())
        .into_iter()
        .map(|sql| ("create a role of the agent's", sql))
        .collect();
    let mounted = context.config.mounted();
    let mut owners = BTreeSet::from([context.config.authentication.superuser.username.clone()]);
    for database in &context.config.own.databases {
        let from_environment = database
            .password_env
            .as_ref()
            .and_then(|name| std::env::var(name).ok());
        let password = mounted
            .password(&database.owner)
            .or(database.password.clone())
            .or(from_environment);
        let owner = quote_identifier(&database.owner);
        if owners.insert(database.owner.clone()) {
            let password = password
                .map(|password| format!(" PASSWORD {}", quote_literal(&verifier(&password))))
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
