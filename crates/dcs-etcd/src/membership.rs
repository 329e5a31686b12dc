//! Who etcd's own members are, and who of them leads.

use std::time::Duration;

use etcd_client::{Client, ConnectOptions};

use crate::etcd::Etcd;
use crate::failure::{failed, unreachable};
use mrg_dcs::Error;

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its id.
    pub id: u64,
    /// Its name; empty until it has been started.
    pub name: String,
    /// Where the other members reach it.
    pub peer_urls: Vec<String>,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it leads, as far as the member that was asked knows.
    pub leads: bool,
}

fn member(member: &etcd_client::Member, leader: u64) -> EtcdMember {
    EtcdMember {
        id: member.id(),
        name: member.name().to_owned(),
        peer_urls: member.peer_urls().to_vec(),
        client_urls: member.client_urls().to_vec(),
        leads: member.id() == leader,
    }
}

impl Etcd {
    /// The members, as one of them knows them: two round trips.
    ///
    /// # Errors
    /// If no endpoint answers both requests within the time.
    pub async fn members(&self, within: Duration) -> Result<Vec<EtcdMember>, Error> {
        let request = |mut client: Client| async move {
            let leader = client.status().await?.leader();
            Ok((leader, client.member_list().await?))
        };
        let (leader, list) = self.once("list etcd's members", within, request).await?;
        Ok(list.members().iter().map(|of| member(of, leader)).collect())
    }

    /// The alarms that are raised, in etcd's own words, such as `memberID:7 alarm:NOSPACE`; none if all
    /// is well.
    ///
    /// # Errors
    /// If no endpoint answers within the time.
    pub async fn alarms(&self, within: Duration) -> Result<Vec<String>, Error> {
        let request = |mut client: Client| async move { client.status().await };
        let status = self.once("tell its status", within, request).await?;
        let alarms = status.errors().iter().map(|error| error.trim());
        Ok(alarms
            .filter(|error| error.contains("alarm:"))
            .map(str::to_owned)
            .collect())
    }

    /// Lets another member lead. Only the one that leads can be asked.
    ///
    /// # Errors
    /// If `from` does not lead, or does not answer within the time.
    pub async fn move_etcd_leader(
        &self,
        from: &EtcdMember,
        to: &EtcdMember,
        within: Duration,
    ) -> Result<(), Error> {
        let at_leader = self.at(from.client_urls.clone());
        at_leader
            .once(
                "move etcd's leader",
                within,
                |mut client: Client| async move { client.move_leader(to.id).await },
            )
            .await
            .map(|_| ())
    }
}

/// No member has this id.
const NO_LEADER: u64 = 0;

/// Changes which members etcd has, asked of any of the others.
pub struct Membership {
    client: Client,
    endpoints: String,
}

impl Membership {
    /// Connects; each request may take as long as the connection.
    ///
    /// # Errors
    /// If none of the endpoints accepts a connection.
    pub async fn connect(endpoints: Vec<String>, within: Duration) -> Result<Self, Error> {
        let options = ConnectOptions::new()
            .with_connect_timeout(within)
            .with_timeout(within);
        let joined = endpoints.join(",");
        match Client::connect(endpoints, Some(options)).await {
            Ok(client) => Ok(Self {
                client,
                endpoints: joined,
            }),
            Err(source) => Err(unreachable(joined, source)),
        }
    }

    /// The members, without which of them leads.
    ///
    /// # Errors
    /// If etcd does not answer, or refuses.
    pub async fn list(&mut self) -> Result<Vec<EtcdMember>, Error> {
        let operation = "list etcd's members";
        let list = self.client.member_list().await;
        let list = list.map_err(|source| failed(operation, &self.endpoints, source))?;
        Ok(list
            .members()
            .iter()
            .map(|of| member(of, NO_LEADER))
            .collect())
    }

    /// Removes a member. Without an answer it may be removed; the list shows.
    ///
    /// # Errors
    /// If etcd does not answer, or refuses: its quorum would not survive the removal.
    pub async fn remove(&mut self, id: u64) -> Result<(), Error> {
        let operation = "remove a member of etcd";
        let removed = self.client.member_remove(id).await;
        removed
            .map(|_| ())
            .map_err(|source| failed(operation, &self.endpoints, source))
    }

    /// Adds a member that is yet to be started, and gives all of them. Without an answer it may be
    /// added; the list shows.
    ///
    /// # Errors
    /// If etcd does not answer, or refuses: a member of that address exists, or not enough members
    /// are connected.
    pub async fn add(&mut self, peer_url: &str) -> Result<Vec<EtcdMember>, Error> {
        let operation = "add a member to etcd";
        let added = self.client.member_add([peer_url], None).await;
        let added = added.map_err(|source| failed(operation, &self.endpoints, source))?;
        let members = added.member_list();
        Ok(members.iter().map(|of| member(of, NO_LEADER)).collect())
    }
}
