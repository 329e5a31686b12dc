//! Questions to another member's server.

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Connection, NoTls};

use crate::credentials::Role;
use crate::server::connection::STATEMENT_TIMEOUT;
use crate::server::{Error, Server};
use mrg_base::{Address, MemberName};
use mrg_bounds::{Allowance, dial};
use mrg_postgres::{Credentials, DataState, ScramOnly};

/// A checkpoint of a busy leader writes all that its memory holds.
const CHECKPOINT_TIMEOUT: Duration = Duration::from_secs(60);
/// What a server sends for a login and one answer of one row is a hundredth of this.
const ANSWER_BYTES: usize = 64 << 10;

/// What the role and the database of the other server may be set to does not matter here. `pg_temp`
/// is named because it would be searched first.
const OPTIONS: &str = "-c search_path=pg_catalog,pg_temp";

impl Server {
    /// Fails unless the member's server accepts writes and has the same system identifier as the
    /// local data, and the local disk takes what is done for it next.
    pub(crate) async fn confirm_leader(&self, member: &MemberName) -> Result<(), Error> {
        self.disk.answers().await?;
        let address = self.address(member)?;
        let client = self.log_in(&address).await?;
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

    /// A session with another member's server, as the role for `pg_rewind`; as the superuser where
    /// that role cannot log in, as on a cluster where it is not made yet.
    async fn log_in(&self, address: &Address) -> Result<Client, Error> {
        let rewind = self.credentials.candidates(Role::Rewind);
        let superuser = self.credentials.candidates(Role::Superuser);
        match self.log_in_as(address, &rewind).await {
            Err(error) if is_refused(&error) && rewind != superuser => {
                self.log_in_as(address, &superuser).await
            }
            other => other,
        }
    }

    /// A session as one role, with the first of its passwords that the server takes.
    async fn log_in_as(
        &self,
        address: &Address,
        candidates: &[Credentials],
    ) -> Result<Client, Error> {
        let mut refusal = None;
        for user in candidates {
            match connect(address, user).await {
                Ok(client) => {
                    if self.credentials.note_accepted(user, mrg_clock::now()) {
                        self.refresh_passfile();
                    }
                    return Ok(client);
                }
                Err(error) if is_refused(&error) => refusal = refusal.or(Some(error)),
                Err(error) => return Err(error),
            }
        }
        Err(refusal.unwrap_or_else(|| Error::state("there are no credentials")))
    }

    /// Writes a checkpoint on another member, so that its control file shows its timeline to
    /// `pg_rewind`.
    pub(super) async fn checkpoint_at(&self, address: &Address) -> Result<(), Error> {
        let rewind = self.credentials.candidates(Role::Rewind);
        let superuser = self.credentials.candidates(Role::Superuser);
        let client = self.log_in(address).await?;
        match checkpoint(&client).await {
            // Before PostgreSQL 15 only a superuser may.
            Err(Error::Session(mrg_postgres::Error::Statement { source, .. }))
                if source.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE)
                    && rewind != superuser =>
            {
                checkpoint(&self.log_in_as(address, &superuser).await?).await
            }
            other => other,
        }
    }
}

/// Whether a server does not let a role in: its password is wrong, the role is missing, or
/// `pg_hba.conf` has no line for it.
fn is_refused(error: &Error) -> bool {
    matches!(error, Error::Login { source, .. } if matches!(
        source.code(),
        Some(&SqlState::INVALID_PASSWORD | &SqlState::INVALID_AUTHORIZATION_SPECIFICATION)
    ))
}

/// Connects to the server at an address that a key of etcd gave. With a password it is one that
/// proves, by SCRAM, that it knows that password's verifier.
/// No more than [`ANSWER_BYTES`] of what it sends are read.
async fn connect(address: &Address, user: &Credentials) -> Result<Client, Error> {
    let mut config = tokio_postgres::Config::new();
    config
        .user(&user.username)
        .password(&user.password)
        .dbname("postgres")
        .options(OPTIONS)
        .application_name("mrg-agent");
    let opened = async {
        let allowance = Allowance::new(ANSWER_BYTES);
        let stream = dial(&address.host, address.port, allowance)
            .await
            .map_err(|source| Error::Dial {
                address: address.clone(),
                source,
            })?;
        let client = if user.password.is_empty() {
            config.connect_raw(stream, NoTls).await.map(driven)
        } else {
            let stream = ScramOnly::new(stream);
            config.connect_raw(stream, NoTls).await.map(driven)
        };
        client.map_err(|source| Error::Login {
            address: address.clone(),
            user: user.username.clone(),
            source,
        })
    };
    tokio::time::timeout(STATEMENT_TIMEOUT, opened)
        .await
        .map_err(|_| Error::Timeout("the login at another member's server"))?
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

async fn checkpoint(client: &Client) -> Result<(), Error> {
    tokio::time::timeout(CHECKPOINT_TIMEOUT, client.batch_execute("CHECKPOINT"))
        .await
        .map_err(|_| Error::Timeout("the leader's checkpoint"))?
        .map_err(statement_failed("write a checkpoint at the leader"))
}

fn statement_failed(operation: &'static str) -> impl Fn(tokio_postgres::Error) -> Error + Copy {
    move |source| Error::Session(mrg_postgres::Error::Statement { operation, source })
}
