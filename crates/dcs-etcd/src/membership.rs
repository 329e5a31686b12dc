//! Who etcd's own members are, and who of them leads.

use std::time::Duration;

use etcd_client::Client;

use crate::etcd::{Error, Etcd};

/// A member of etcd.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EtcdMember {
    /// Its id.
    pub id: u64,
    /// Its name.
    pub name: String,
    /// Where clients reach it.
    pub client_urls: Vec<String>,
    /// Whether it leads.
    pub leads: bool,
}

impl Etcd {
    /// The members, as one of them knows them: two round trips.
    pub async fn members(&self, within: Duration) -> Result<Vec<EtcdMember>, Error> {
        let request = |mut client: Client| async move {
            let leader = client.status().await?.leader();
            Ok((leader, client.member_list().await?))
        };
        let (leader, list) = self.once("list etcd's members", within, request).await?;
        let member = |member: &etcd_client::Member| EtcdMember {
            id: member.id(),
            name: member.name().to_owned(),
            client_urls: member.client_urls().to_vec(),
            leads: member.id() == leader,
        };
        Ok(list.members().iter().map(member).collect())
    }

    /// Lets another member lead. Only the one that leads can be asked.
    pub async fn move_leader(
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
