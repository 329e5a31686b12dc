//! Whether the cluster is whole, and the day over.

use crate::postgres::Server;
use crate::world::World;

impl World {
    /// Whether everything is as it should be in the end: one primary, everybody streams, clients
    /// write.
    pub(crate) fn is_whole(&self) -> Result<(), String> {
        let Some(leader) = &self.etcd.keys().cluster.leader else {
            return Err("there is no leader".to_owned());
        };
        let Some(number) = self.number_of(&leader.member) else {
            return Err("the leader is nobody's name".to_owned());
        };
        if self.hosts[number].postgres.server != Server::Primary {
            return Err(format!(
                "{} leads, and does not accept writes",
                leader.member
            ));
        }
        for member in (0..self.hosts.len()).filter(|member| *member != number) {
            self.follows(member, number)?;
        }
        let since = self
            .judge
            .healed_at
            .unwrap_or(self.now.saturating_sub(5_000));
        for (client, last) in self.judge.last_acknowledged.iter().enumerate() {
            if *last <= since {
                let pooler = (client < 2 && !self.poolers.is_empty())
                    .then(|| self.poolers[client % self.poolers.len()].reason());
                return Err(format!(
                    "client {client} has not written since ({pooler:?})"
                ));
            }
        }
        match self.poolers.iter().position(|pooler| !pooler.flows()) {
            Some(pooler) => Err(format!("pooler {pooler} lets nobody through")),
            None => Ok(()),
        }
    }

    /// Whether a member streams from the primary, and has nothing that the primary has not.
    fn follows(&self, member: usize, primary: usize) -> Result<(), String> {
        let (host, leader) = (&self.hosts[member], &self.hosts[primary]);
        let receiver = host.postgres.receiver;
        let streams = receiver.is_some_and(|receiver| receiver.upstream == primary);
        if !streams || !matches!(host.postgres.server, Server::Standby { .. }) {
            let reason = host.agent.as_ref().and_then(|agent| agent.node.reason());
            return Err(format!(
                "{} does not stream from {}: {:?}, {reason:?}",
                host.name,
                leader.name,
                self.look(member)
            ));
        }
        let (Some(mine), Some(theirs)) = (&host.postgres.data, &leader.postgres.data) else {
            return Err("no data".to_owned());
        };
        if mine.common(theirs) != mine.wal.len() {
            let (name, leader) = (&host.name, &leader.name);
            return Err(format!("{name} has WAL that {leader} does not have"));
        }
        Ok(())
    }

    /// Whether the day is over: something is wrong, or everything is whole again, or the time for
    /// that has passed.
    pub(crate) fn is_over(&mut self) -> bool {
        if self.judge.violation().is_some() {
            return true;
        }
        let Some(healed_at) = self.judge.healed_at else {
            if self.is_whole().is_ok() {
                self.hasten_fault();
            }
            return false;
        };
        match self.is_whole() {
            Ok(()) => {
                self.judge_end();
                true
            }
            Err(reason) if self.now > healed_at + self.judge.within => {
                self.judge.blame(format!(
                    "not whole long after everything was mended: {reason}"
                ));
                true
            }
            Err(_) => false,
        }
    }

    fn judge_end(&mut self) {
        let leader = self
            .etcd
            .keys()
            .cluster
            .leader
            .as_ref()
            .and_then(|leader| self.number_of(&leader.member));
        if let Some(leader) = leader {
            self.judge_promotion(leader);
        }
    }
}
