//! PostgreSQL's own programs, run to their end by the fence.

use std::path::PathBuf;

use crate::config::AgentConfig;
use crate::fence::{self, Exit, Fence, Process};
use crate::server::Error;
use mrg_postgres::Credentials;

/// Lines of output that an error shows: the last ones say why.
const LINES_SHOWN: usize = 4;

/// Where a program's output goes.
pub(super) fn log(config: &AgentConfig, program: &str) -> PathBuf {
    config.beside_data(&format!(".{program}.log"))
}

/// Runs a program to its end. The password, if any, reaches it through its environment.
pub(super) async fn run(
    config: &AgentConfig,
    fence: &Fence,
    program: &str,
    arguments: Vec<String>,
    user: Option<&Credentials>,
) -> Result<(), Error> {
    let log = log(config, program);
    let _ = std::fs::remove_file(&log);
    let mut argv = vec![config.program(program)];
    argv.extend(arguments);
    let env = user
        .map(|user| vec![("PGPASSWORD".to_owned(), user.password.clone())])
        .unwrap_or_default();
    let process = Process {
        argv,
        env,
        log: Some(log.clone()),
        writer: false,
        whole: false,
    };
    let (_, _, exit) = fence.spawn(process).await?;
    let exit = exit.await.map_err(|_| fence::Error::Gone)?;
    if exit.is_success() {
        return Ok(());
    }
    let output = std::fs::read_to_string(&log).unwrap_or_default();
    Err(failure(program, exit, &output))
}

fn failure(program: &str, exit: Exit, output: &str) -> Error {
    let program = program.to_owned();
    let mut shown: Vec<&str> = output.lines().rev().take(LINES_SHOWN).collect();
    shown.reverse();
    let output = shown.join(" | ");
    if output.contains("No space left on device") {
        Error::NoSpace { program, output }
    } else {
        Error::Program {
            program,
            exit,
            output,
        }
    }
}

/// The major version of the installed programs; `None` if `postgres` cannot be run.
pub(super) fn major_version(config: &AgentConfig) -> Option<String> {
    let output = std::process::Command::new(config.program("postgres"))
        .arg("--version")
        .output()
        .ok()?;
    major_of(&String::from_utf8_lossy(&output.stdout))
}

/// The major version in `postgres (PostgreSQL) 17.6 (Debian 17.6-1)`.
fn major_of(text: &str) -> Option<String> {
    let version = text
        .split_whitespace()
        .find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(version.chars().take_while(char::is_ascii_digit).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_version_is_the_first_number() {
        for (text, major) in [
            ("postgres (PostgreSQL) 17.6 (Debian 17.6-1)\n", Some("17")),
            ("postgres (PostgreSQL) 18devel\n", Some("18")),
            ("postgres (PostgreSQL)\n", None),
            ("", None),
        ] {
            assert_eq!(major_of(text).as_deref(), major, "{text}");
        }
    }

    #[test]
    fn a_failure_shows_the_end_of_the_output_and_tells_a_full_volume_from_the_rest() {
        let exit = Exit {
            code: Some(1),
            signal: None,
        };
        let text = failure("pg_rewind", exit, "a\nb\nc\nd\ne\n").to_string();
        assert_eq!(text, "pg_rewind ended with exit status 1: b | c | d | e");
        let full = failure("initdb", exit, "x\ninitdb: No space left on device\n");
        assert!(matches!(full, Error::NoSpace { .. }), "{full}");
        let earlier = failure("initdb", exit, "No space left on device\na\nb\nc\nd\n");
        assert!(matches!(earlier, Error::Program { .. }), "{earlier}");
    }
}
