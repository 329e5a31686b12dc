//! Transactions in etcd's own words.

use etcd_client::{CompareOp, PutOptions, Txn, TxnOp, TxnOpResponse, TxnResponse};

use mrg_dcs::{Branch, Compare, Keys, Write};

/// The first branch that holds is done: each one is nested in the one before it.
pub(super) fn translate(keys: &Keys, branches: &[Branch]) -> Txn {
    let nested = |inner: Option<Txn>, branch: &Branch| {
        let compares: Vec<_> = branch.compares.iter().map(|of| compare(keys, of)).collect();
        let writes: Vec<_> = branch.writes.iter().map(|of| write(keys, of)).collect();
        let txn = Txn::new().when(compares).and_then(writes);
        Some(match inner {
            Some(inner) => txn.or_else([TxnOp::txn(inner)]),
            None => txn,
        })
    };
    branches.iter().rev().fold(None, nested).unwrap_or_default()
}

fn compare(keys: &Keys, compare: &Compare) -> etcd_client::Compare {
    use etcd_client::Compare as Etcd;
    match compare {
        Compare::Absent(key) => Etcd::create_revision(keys.path(key), CompareOp::Equal, 0),
        Compare::Unchanged(key, revision) => {
            Etcd::mod_revision(keys.path(key), CompareOp::Equal, revision.0)
        }
        Compare::Owned(key, lease) => Etcd::lease(keys.path(key), CompareOp::Equal, lease.0),
    }
}

fn write(keys: &Keys, write: &Write) -> TxnOp {
    match write {
        Write::Put(value, lease) => {
            let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
            TxnOp::put(keys.path(&value.key()), value.render(), options)
        }
        Write::Delete(key) => TxnOp::delete(keys.path(key), None),
    }
}

/// Whether a branch was done.
pub(super) fn succeeded(answer: &TxnResponse) -> bool {
    let nested =
        |inner: TxnOpResponse| matches!(inner, TxnOpResponse::Txn(inner) if succeeded(&inner));
    answer.succeeded() || answer.op_responses().into_iter().any(nested)
}

#[cfg(test)]
mod tests {
    use super::*;
    use mrg_base::{MemberName, Scope};
    use mrg_dcs::Transaction;
    use mrg_dcs::wire::{MemberData, StatusData};
    use mrg_election::{LeaseId, Revision};

    fn words(transaction: &Transaction) -> String {
        let keys = Keys::new("service", &Scope::new("s").unwrap());
        format!("{:?}", translate(&keys, transaction.branches()))
    }

    #[test]
    fn an_acquisition_compares_creation_and_puts_under_the_lease() {
        let member = MemberName::new("a").unwrap();
        let key = "/service/s/leader";
        let expected = Txn::new()
            .when([etcd_client::Compare::create_revision(
                key,
                CompareOp::Equal,
                0,
            )])
            .and_then([TxnOp::put(key, "a", Some(PutOptions::new().with_lease(7)))]);
        assert_eq!(
            words(&Transaction::acquire_leader(LeaseId(7), &member)),
            format!("{expected:?}")
        );
    }

    #[test]
    fn a_release_compares_the_lease_deletes_both_keys_and_puts_the_status_again() {
        let key = "/service/s/leader";
        let expected = Txn::new()
            .when([etcd_client::Compare::lease(key, CompareOp::Equal, 7)])
            .and_then([
                TxnOp::delete(key, None),
                TxnOp::delete("/mrg/s/pause", None),
                TxnOp::put("/service/s/status", r#"{"optime":9}"#, None),
            ]);
        let status = StatusData {
            optime: 9,
            ..StatusData::default()
        };
        assert_eq!(
            words(&Transaction::release_leader(LeaseId(7), Some(status))),
            format!("{expected:?}")
        );
    }

    #[test]
    fn a_write_over_what_was_read_compares_its_revision() {
        let expected = Txn::new()
            .when([etcd_client::Compare::mod_revision(
                "/service/s/failover",
                CompareOp::Equal,
                9,
            )])
            .and_then([TxnOp::put("/service/s/failover", "{}", None)]);
        assert_eq!(
            words(&Transaction::take_failover(Revision(9))),
            format!("{expected:?}")
        );
    }

    #[test]
    fn a_member_is_published_where_it_is_absent_or_its_own() {
        let (key, member) = ("/service/s/members/a", MemberName::new("a").unwrap());
        let data = MemberData::default();
        let value = mrg_dcs::wire::compact(&data);
        let put = || TxnOp::put(key, value.as_str(), Some(PutOptions::new().with_lease(7)));
        let owned = |lease| {
            Txn::new()
                .when([etcd_client::Compare::lease(key, CompareOp::Equal, lease)])
                .and_then([put()])
        };
        let expected = Txn::new()
            .when([etcd_client::Compare::create_revision(
                key,
                CompareOp::Equal,
                0,
            )])
            .and_then([put()])
            .or_else([TxnOp::txn(owned(7).or_else([TxnOp::txn(owned(6))]))]);
        let publish = Transaction::publish_member(&member, data, LeaseId(7), Some(LeaseId(6)));
        assert_eq!(words(&publish), format!("{expected:?}"));
    }
}
