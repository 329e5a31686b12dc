//! Runs the tests: those that bear company two at a time, then those that break what all share one
//! by one. Each gets a namespace of its own, a deadline, and a line in the report
//! (`target/e2e/junit.xml`).

use std::panic::AssertUnwindSafe;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::Context;
use futures::future::LocalBoxFuture;
use futures::{FutureExt, StreamExt};

use crate::junit::{self, Outcome};
use crate::lab::Lab;
use crate::namespace::Namespace;
use crate::wait::seconds;

/// Beside each other: a third cluster on two cores makes failovers wait for processors.
const AT_ONCE: usize = 2;

/// How long a test may take.
const DEADLINE: Duration = seconds(400);

/// Names of namespaces end here, since names of pods are added to them in DNS.
const NAME_LENGTH: usize = 50;

/// Whether a test may run beside others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Share {
    /// It touches nothing but its namespace.
    Together,
    /// It breaks a node or the control plane, which others use.
    Alone,
}

/// A test.
pub struct Test {
    /// The module that it is in.
    pub file: &'static str,
    /// A sentence.
    pub name: &'static str,
    /// Whether it may run beside others.
    pub share: Share,
    /// Returns an error, or panics, if something is not as it should be.
    pub run: for<'a> fn(&'a Namespace) -> LocalBoxFuture<'a, anyhow::Result<()>>,
}

/// The tests of a file: `tests! { Together a_killed_postmaster_costs_seconds, … }`.
#[macro_export]
macro_rules! tests {
    ($($share:ident $name:ident),* $(,)?) => {
        pub(crate) const TESTS: &[$crate::Test] = &[$($crate::Test {
            file: module_path!(),
            name: stringify!($name),
            share: $crate::Share::$share,
            run: |namespace| Box::pin($name(namespace)),
        }),*];
    };
}

impl Test {
    /// Without the name of the program in front.
    fn file(&self) -> &'static str {
        self.file.rsplit("::").next().unwrap_or(self.file)
    }

    /// No name is a part of the test's or its file's: all tests.
    fn is_named(&self, names: &[String]) -> bool {
        let is = |name: &String| self.file().contains(name) || self.name.contains(name);
        names.is_empty() || names.iter().any(is)
    }

    fn namespace(&self) -> String {
        let name = format!("e2e-{}", self.name.replace('_', "-"));
        let cut = &name[..name.len().min(NAME_LENGTH)];
        cut.trim_end_matches('-').to_owned()
    }
}

/// Runs those tests that the command line names by parts of their names, or all; `--list` prints
/// them. Fails if one failed.
pub fn main(tests: &[&[Test]]) -> ExitCode {
    let mut names: Vec<String> = std::env::args().skip(1).collect();
    let list = names.iter().any(|name| name == "--list");
    names.retain(|name| !name.starts_with("--"));
    let chosen: Vec<&Test> = tests
        .iter()
        .copied()
        .flatten()
        .filter(|test| test.is_named(&names))
        .collect();
    if list {
        for test in chosen {
            println!("{}::{}", test.file(), test.name);
        }
        return ExitCode::SUCCESS;
    }
    match run(&chosen) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether all succeeded.
fn run(tests: &[&Test]) -> anyhow::Result<bool> {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    let runtime = builder.enable_all().build()?;
    let outcomes = runtime.block_on(async {
        let lab = Lab::connect().await?;
        let together = tests.iter().filter(|test| test.share == Share::Together);
        let alone = tests.iter().filter(|test| test.share == Share::Alone);
        let one = async |test: &&Test| run_one(&lab, test).await;
        let mut outcomes: Vec<Outcome> = futures::stream::iter(together)
            .map(one)
            .buffer_unordered(AT_ONCE)
            .collect()
            .await;
        for test in alone {
            outcomes.push(one(test).await);
        }
        let report = lab.target().join("e2e/junit.xml");
        std::fs::create_dir_all(lab.target().join("e2e"))?;
        std::fs::write(&report, junit::report(&outcomes))
            .with_context(|| format!("unable to write {}", report.display()))?;
        anyhow::Ok(outcomes)
    })?;
    Ok(outcomes.iter().all(|one| one.failure.is_none()))
}

async fn run_one(lab: &Lab, test: &Test) -> Outcome {
    println!("== {}::{}", test.file(), test.name);
    let began = Instant::now();
    let result = in_its_namespace(lab, test).await;
    let took = began.elapsed();
    let failure = result.err().map(|error| format!("{error:#}"));
    let seconds = took.as_secs();
    match &failure {
        None => println!("   ok {} ({seconds} s)", test.name),
        Some(text) => println!("   FAILED {} ({seconds} s)\n{text}", test.name),
    }
    Outcome {
        file: test.file().to_owned(),
        name: test.name,
        took,
        failure,
    }
}

async fn in_its_namespace(lab: &Lab, test: &Test) -> anyhow::Result<()> {
    let namespace = Namespace::create(lab, &test.namespace()).await?;
    let guarded = AssertUnwindSafe((test.run)(&namespace)).catch_unwind();
    let result = match tokio::time::timeout(DEADLINE, guarded).await {
        Ok(Ok(result)) => result,
        Ok(Err(_)) => Err(anyhow::anyhow!("it panicked")),
        Err(_) => Err(anyhow::anyhow!("not done after {} s", DEADLINE.as_secs())),
    };
    let result = match result {
        Ok(()) => Ok(()),
        Err(error) => {
            let gathering = tokio::time::timeout(seconds(60), namespace.evidence());
            let evidence = match gathering.await {
                Ok(Ok(text)) => text,
                Ok(Err(error)) => format!("unable to gather more: {error:#}"),
                Err(_) => "unable to gather more within a minute".to_owned(),
            };
            Err(anyhow::anyhow!("{error:#}\n{evidence}"))
        }
    };
    // A namespace that stays would leave the next tests without volumes.
    let deleted = namespace.delete().await.context("after the test");
    result.and(deleted)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEST: Test = Test {
        file: "lab::node_cut",
        name: "a_leader_whose_node_is_cut_off_is_replaced_and_no_row_is_lost",
        share: Share::Alone,
        run: |_| Box::pin(async { Ok(()) }),
    };

    #[test]
    fn a_test_is_named_by_a_part_of_its_name_or_its_file() {
        let named = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            TEST.is_named(&names)
        };
        assert!(named(&[]));
        assert!(named(&["node_cut"]));
        assert!(named(&["pools", "no_row_is_lost"]));
        assert!(!named(&["pools"]));
        assert!(!named(&["lab"]));
    }

    #[test]
    fn a_namespace_has_a_name_that_kubernetes_takes() {
        assert_eq!(
            TEST.namespace(),
            "e2e-a-leader-whose-node-is-cut-off-is-replaced-and"
        );
    }
}
