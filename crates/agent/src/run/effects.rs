//! Performs what the node decides.

use crate::context::Context;
use crate::peers::VoteAnswer;
use crate::perform::perform;
use crate::run::Agent;
use mrg_base::Moment;
use mrg_election::watch_order::{WatchInput, WatchOutput};
use mrg_election::{Action, Effect, Event, Outcome, Reason, StepId};
use mrg_telemetry::chain;

impl Agent {
    /// Performs one effect. What takes long is a task that ends in an event.
    pub(super) async fn effect(&mut self, effect: Effect) {
        match effect {
            Effect::GrantLease(ttl) => self.grant(ttl),
            Effect::KeepAlive(lease) => self.keep_alive(lease),
            Effect::Fence(by) => self.arm_fence(by).await,
            Effect::Perform(step, action) => self.begin(step, action),
            Effect::Abort(step) => self.abort(step).await,
            Effect::Probe(number) => {
                let _ = self.probes.send(number);
            }
            Effect::ReadDcs => {
                for output in self.order.on(WatchInput::ReadWanted) {
                    if let WatchOutput::Read(number) = output {
                        self.read(number);
                    }
                }
            }
            Effect::AskPromises {
                round,
                members,
                within,
            } => self.ask_promises(round, members, within),
            Effect::WithdrawPromises { members, round } => self.withdraw_promises(members, round),
            Effect::WriteFailsafe { over, members } => self.write_failsafe(over, members),
            Effect::AnswerPromise(reply, answer) => self.answer_promise(reply, answer),
            Effect::AnswerVote(reply, answer) => {
                if let Some(waiting) = self.replies.take_vote(reply) {
                    let _ = waiting
                        .send(answer.map(|(position, priority)| VoteAnswer { position, priority }));
                }
            }
            Effect::Explain(why) => self.explain(why),
            Effect::Exit => self.exit = true,
        }
    }

    async fn arm_fence(&self, by: Option<Moment>) {
        if let Err(error) = self.fence.arm(by).await {
            tracing::error!(error = chain(&error), "the fence cannot be armed");
        }
    }

    fn begin(&mut self, step: StepId, action: Action) {
        tracing::info!(?action, "step");
        let (context, events) = (self.context.clone(), self.events.clone());
        let lease = self.node.lease().map(|lease| lease.id);
        let asked = self.node.reason() == Some(Reason::Reinitialize);
        let task = tokio::spawn(async move {
            let outcome = perform(context.clone(), action.clone(), lease).await;
            if !matches!(outcome, Outcome::Done) {
                tracing::info!(?action, ?outcome, "step ended");
            }
            note_failure(&context, &action, &outcome, asked);
            let _ = events.send(Event::Finished { step, outcome }).await;
        });
        self.step = Some((step, task));
    }

    async fn abort(&mut self, step: StepId) {
        let Some((_, task)) = self.step.take_if(|(running, _)| *running == step) else {
            return;
        };
        task.abort();
        if !self.context.server.is_running() {
            // A program that was run for the step must not go on by itself.
            let _ = self.fence.kill().await;
        }
    }

    fn explain(&self, why: Reason) {
        tracing::info!(why = why.label(), "{}", why.sentence());
        if why == Reason::SlotTaken {
            let cluster = self.context.status().cluster;
            let me = &self.context.config.name;
            let other = cluster.earlier_with_slot_of(me).map(ToString::to_string);
            tracing::error!(
                member = %me,
                other,
                slot = me.slot_name(),
                "two members have the same replication slot; rename one of them"
            );
        }
        self.context
            .update(|status| *status.reasons.entry(why).or_insert(0) += 1);
    }
}

/// Keeps why a step on the server failed, for the member key and the status, until postgres starts.
/// That a copy failed which a person `asked` for is kept until there is one.
fn note_failure(context: &Context, action: &Action, outcome: &Outcome, asked: bool) {
    match (action, outcome) {
        (_, Outcome::Failed(why) | Outcome::NoSpace(why)) if asked => {
            let why = why.clone();
            context.update(|status| status.reinitialize_failure = Some(why));
        }
        (Action::BaseBackup(_), outcome) if outcome.is_success() => {
            context.update(|status| (status.failure, status.reinitialize_failure) = (None, None));
        }
        (_, Outcome::Failed(why) | Outcome::NoSpace(why)) if action.touches_postgres() => {
            let why = why.clone();
            context.update(|status| status.failure = Some(why));
        }
        (Action::Start(_) | Action::Promote, outcome) if outcome.is_success() => {
            context.update(|status| status.failure = None);
        }
        _ => {}
    }
}
