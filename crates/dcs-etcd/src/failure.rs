//! What a failed request to etcd means: why it failed, whether it may have been done all the same,
//! and etcd's own words for it.

use std::error::Error as _;
use std::fmt;

use tonic::{Code, ConnectError, Status};

use mrg_dcs::Error;
use mrg_dcs::health::Failure;

/// What etcd said, or the connection to it, in one line.
#[derive(Debug)]
struct Said(etcd_client::Error);

impl fmt::Display for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let etcd_client::Error::GRpcStatus(status) = &self.0 else {
            return write!(f, "{}", self.0);
        };
        let message = match status.message() {
            "" => status.code().description(),
            message => message,
        };
        write!(f, "{message}")?;
        // What a connection failed on stands at the end of the chain.
        match causes(status).last().map(ToString::to_string) {
            Some(root) if !message.contains(&root) => write!(f, ": {root}"),
            _ => Ok(()),
        }
    }
}

impl std::error::Error for Said {}

fn causes(status: &Status) -> impl Iterator<Item = &(dyn std::error::Error + 'static)> {
    let mut next = status.source();
    std::iter::from_fn(move || {
        let cause = next?;
        next = cause.source();
        Some(cause)
    })
}

/// What went wrong with a request that was sent, or was about to be.
pub(super) fn failed(operation: &'static str, endpoint: &str, source: etcd_client::Error) -> Error {
    let endpoint = endpoint.to_owned();
    let (failure, refused) = match &source {
        etcd_client::Error::GRpcStatus(status) => {
            if causes(status).any(<dyn std::error::Error>::is::<ConnectError>) {
                return unreachable(endpoint, source);
            }
            judge(status)
        }
        etcd_client::Error::LeaseKeepAliveError(_) => (Failure::NotFound, false),
        _ => (Failure::Other, false),
    };
    Error::Request {
        operation,
        endpoint,
        failure,
        refused,
        source: Said(source).into(),
    }
}

/// No connection was made, so nothing was sent.
pub(super) fn unreachable(endpoint: String, source: etcd_client::Error) -> Error {
    Error::Connect {
        endpoint,
        source: Said(source).into(),
    }
}

/// Why, and whether etcd answers so before it proposes anything.
fn judge(status: &Status) -> (Failure, bool) {
    let says = |words: &str| status.message().contains(words);
    match status.code() {
        // Also of the put that filled the backend, which was done.
        Code::ResourceExhausted if says("database space exceeded") => (Failure::NoSpace, false),
        Code::Unauthenticated => (Failure::Unauthenticated, true),
        Code::InvalidArgument if says("user name is empty") || says("authentication failed") => {
            (Failure::Unauthenticated, true)
        }
        Code::PermissionDenied => (Failure::PermissionDenied, true),
        Code::InvalidArgument | Code::FailedPrecondition | Code::OutOfRange => {
            (Failure::Invalid, true)
        }
        Code::NotFound => (Failure::NotFound, true),
        Code::DeadlineExceeded => (Failure::Timeout, false),
        // Said by the connection, not by etcd.
        _ if status.source().is_some() => (Failure::Unreachable, false),
        _ => (Failure::Other, false),
    }
}

/// The client's own error behind ours.
pub(super) fn cause(error: &Error) -> Option<&etcd_client::Error> {
    match error {
        Error::Request { source, .. } | Error::Connect { source, .. } => {
            source.downcast_ref::<Said>().map(|Said(error)| error)
        }
        _ => None,
    }
}

/// Whether etcd was sent a login and does without.
pub(super) fn has_no_logins(error: &etcd_client::Error) -> bool {
    matches!(
        error,
        etcd_client::Error::GRpcStatus(status)
            if status.message().contains("authentication is not enabled")
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_dcs::Attempt;

    fn told(code: Code, message: &str) -> Error {
        let status = Status::new(code, message);
        failed(
            "write status",
            "http://a:2379",
            etcd_client::Error::GRpcStatus(status),
        )
    }

    #[test]
    fn etcds_answers_are_told_apart_by_what_they_mean() {
        for (code, message, failure, may_be_done) in [
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Failure::NoSpace,
                true,
            ),
            (
                Code::ResourceExhausted,
                "etcdserver: too many requests",
                Failure::Other,
                true,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: user name is empty",
                Failure::Unauthenticated,
                false,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Failure::Unauthenticated,
                false,
            ),
            (
                Code::Unauthenticated,
                "etcdserver: invalid auth token",
                Failure::Unauthenticated,
                false,
            ),
            (
                Code::PermissionDenied,
                "etcdserver: permission denied",
                Failure::PermissionDenied,
                false,
            ),
            (
                Code::OutOfRange,
                "etcdserver: too large lease TTL",
                Failure::Invalid,
                false,
            ),
            (
                Code::NotFound,
                "etcdserver: requested lease not found",
                Failure::NotFound,
                false,
            ),
            (
                Code::Unavailable,
                "etcdserver: no leader",
                Failure::Other,
                true,
            ),
        ] {
            let error = told(code, message);
            assert_eq!(error.failure(), failure, "{message}");
            let attempt = Attempt::<()>::ended_by(error);
            let in_doubt = matches!(attempt, Attempt::InDoubt(_));
            assert_eq!(in_doubt, may_be_done, "{message}");
        }
    }

    #[test]
    fn the_words_are_etcds_own() {
        let error = told(Code::PermissionDenied, "etcdserver: permission denied");
        let source = error.source().map(ToString::to_string);
        assert_eq!(
            error.to_string(),
            "etcd at http://a:2379 refused to write status"
        );
        assert_eq!(source.as_deref(), Some("etcdserver: permission denied"));
        assert!(cause(&error).is_some());
    }

    #[tokio::test]
    async fn an_address_where_nothing_listens_is_unreachable_and_surely_nothing_was_done() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let mut client = etcd_client::Client::connect([&endpoint], None)
            .await
            .unwrap();
        let source = client.get("x", None).await.unwrap_err();
        let error = failed("read", &endpoint, source);
        assert!(matches!(&error, Error::Connect { .. }), "{error:?}");
        assert!(!error.is_ambiguous());
        let words = error.source().map(ToString::to_string).unwrap_or_default();
        assert!(words.contains("Connection refused"), "{words}");
    }
}
