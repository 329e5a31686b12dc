//! Which panics end the process. Each case is a process of its own: this test program again.

#![allow(clippy::unwrap_used, reason = "a test ends with the first surprise")]

use std::os::unix::process::ExitStatusExt;
use std::process::{Command, ExitStatus};

use mrg_bounds::{abort_unless_contained, contain};

const CASE: &str = "MRG_TEST_PANIC";
const SIGABRT: i32 = 6;

fn fail() {
    assert!(!std::hint::black_box(true), "a bug");
}

/// Runs [`one_case`] alone, in another process.
fn run(case: &str) -> ExitStatus {
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "one_case", "--ignored", "--test-threads=1"])
        .env(CASE, case)
        .output()
        .unwrap()
        .status
}

#[test]
#[ignore = "the others run it"]
fn one_case() {
    let Ok(case) = std::env::var(CASE) else {
        return;
    };
    abort_unless_contained();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        match case.as_str() {
            "contained" => assert!(contain(async { fail() }).await.is_err()),
            "task" => drop(tokio::spawn(async { fail() }).await),
            "task of contained work" => {
                let _ = contain(async { tokio::spawn(async { fail() }).await }).await;
            }
            "thread" => drop(std::thread::spawn(fail).join()),
            other => panic!("{other}"),
        }
    });
}

#[test]
fn a_panic_in_contained_work_leaves_the_process_alive() {
    let status = run("contained");
    assert!(status.success(), "{status}");
}

#[test]
fn any_other_panic_aborts_the_process() {
    for case in ["task", "task of contained work", "thread"] {
        let status = run(case);
        assert_eq!(status.signal(), Some(SIGABRT), "{case}: {status}");
    }
}
