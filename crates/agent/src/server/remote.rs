//! Questions to another member's server.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Connection, NoTls};

use crate::server::connection::STATEMENT_TIMEOUT;
use crate::server::{Error, Server};
use mrg_base::{Address, MemberName};
use mrg_postgres::{Credentials, DataState, ScramOnly};

/// A checkpoint of a busy leader writes all that its memory holds.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);

impl Server {
    /// Fails unless the member's server accepts writes and has the same system identifier as the
    /// local data, and the local disk takes what is done for it next.
    pub(crate) async fn confirm_leader(&self, member: &MemberName) -> Result<(), Error> {
        self.disk.answers().await?;
        let address = self.address(member)?;
        let client = connect(&address, &self.config.authentication.superuser).await?;
        let question = "SELECT NOT pg_is_in_recovery(), (SELECT system_identifier::text FROM pg_control_system())";
        let failed = statement_failed("ask the leader's server what it is");
        let answer = tokio::time::timeout(STATEMENT_TIMEOUT, client.query_one(question, &[])).await;
        let row = answer
            .map_err(|_| Error::Timeout("the answer of the leader's server"))?
            .map_err(failed)?;
        let (leads, theirs): (bool, String) = (
            row.try_get(0).map_err(failed)?,
            row.try_get(1).map_err(failed)?,
        );
        if !leads {
            let text = format!("the server of {member} is in recovery");
            return Err(Error::State(text));
        }
        match DataState::read(self.data()) {
            DataState::Present(control) if control.data.system_id.to_string() != theirs => {
                let text = format!("the server of {member} is of another system, {theirs}");
                Err(Error::State(text))
            }
            _ => Ok(()),
        }
    }

    pub(super) fn address(&self, member: &MemberName) -> Result<Address, Error> {
        self.settings
            .read(|settings| settings.address(member))
            .ok_or_else(|| Error::NoAddress(member.clone()))
    }
}

/// Connects to the server at an address that a key of etcd gave. With a password it is one that
/// proves, by SCRAM, that it knows that password's verifier.
async fn connect(address: &Address, user: &Credentials) -> Result<Client, Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&user.username)
        .password(&user.password)
        .dbname("postgres");
    let opened = async {
        let stream = TcpStream::connect((address.host.as_str(), address.port)).await;
        let stream = stream.map_err(|source| Error::Unreachable {
            address: address.clone(),
            source,
        })?;
        let _ = stream.set_nodelay(true);
        let client = if user.password.is_empty() {
            config.connect_raw(stream, NoTls).await.map(driven)
        } else {
            let stream = ScramOnly::new(stream);
            config.connect_raw(stream, NoTls).await.map(driven)
        };
        client.map_err(|source| Error::LogIn {
            address: address.clone(),
            source,
        })
    };
    tokio::time::timeout(STATEMENT_TIMEOUT, opened)
        .await
        .map_err(|_| Error::Timeout("the connection to the leader's server"))?
}

/// The client of a connection that the runtime drives.
fn driven<S>((client, connection): (Client, Connection<S, NoTlsStream>)) -> Client
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    tokio::spawn(async move {
        // A lost connection shows in the next statement.
        let _ = connection.await;
    });
    client
}

fn statement_failed(operation: &'static str) -> impl Fn(tokio_postgres::Error) -> Error + Copy {
    move |source| Error::Session(mrg_postgres::Error::Statement { operation, source })
}

/// Writes a checkpoint on another member, so that its control file shows its timeline to
/// `pg_rewind`.
pub(super) async fn checkpoint(address: &Address, user: &Credentials) -> Result<(), Error> {
    let client = connect(address, user).await?;
    tokio::time::timeout(CHECKPOINT_TIMEOUT, client.batch_execute("CHECKPOINT"))
        .await
        .map_err(|_| Error::Timeout("the leader's checkpoint"))?
        .map_err(statement_failed("write a checkpoint at the leader"))
}
