//! PostgreSQL's own programs, run to their end by the fence.

use std::path::PathBuf;
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::AgentConfig;
use crate::fence::{self, Exit, Fence, Process, inherited};
use crate::server::Error;

/// Lines of output that an error shows: the last ones say why.
const LINES_SHOWN: usize = 4;

/// Where a program's output goes.
pub(super) fn log(config: &AgentConfig, program: &str) -> PathBuf {
    config.beside_data(&format!(".{program}.log"))
}

/// Runs a program to its end.
pub(super) async fn run(
    config: &AgentConfig,
    fence: &Fence,
    program: &str,
    arguments: Vec<String>,
) -> Result<(), Error> {
    let process = process(config, program, arguments);
    let log = process.log.clone();
    let (_, _, exit) = fence.spawn(process).await?;
    let exit = exit.await.map_err(|_| fence::Error::Gone)?;
    ended(program, exit, log).map(|_| ())
}

/// Runs a program to its end, and gives what it printed. It is killed if that takes longer than
/// `within`.
pub(super) async fn run_within(
    within: Duration,
    config: &AgentConfig,
    fence: &Fence,
    program: &str,
    arguments: Vec<String>,
) -> Result<String, Error> {
    let process = process(config, program, arguments);
    let log = process.log.clone();
    let (id, _, exit) = fence.spawn(process).await?;
    let Ok(exit) = tokio::time::timeout(within, exit).await else {
        fence.signal(id, Signal::SIGKILL)?;
        return Err(Error::Timeout("checking the parameters"));
    };
    ended(program, exit.map_err(|_| fence::Error::Gone)?, log)
}

fn process(config: &AgentConfig, program: &str, arguments: Vec<String>) -> Process {
    let log = log(config, program);
    let _ = std::fs::remove_file(&log);
    let mut argv = vec![config.program(program)];
    argv.extend(arguments);
    // What they print is read. A locale of the environment would also be initdb's default.
    let mut env = vec![("LC_ALL".to_owned(), "C".to_owned())];
    // Which server is asked is what a key of etcd says: another that listens there gets no password.
    // Older versions of libpq than 16 do not know it.
    if !config.authentication.superuser.password.is_empty() {
        env.push(("PGREQUIREAUTH".to_owned(), "scram-sha-256".to_owned()));
    }
    Process {
        argv,
        env,
        log: Some(log),
        writer: false,
        whole: false,
    }
}

/// What a program printed, or that it failed.
fn ended(program: &str, exit: Exit, log: Option<PathBuf>) -> Result<String, Error> {
    let output = log.and_then(|log| std::fs::read_to_string(log).ok());
    let output = output.unwrap_or_default();
    if exit.is_success() {
        Ok(output)
    } else {
        Err(failure(program, exit, &output))
    }
}

fn failure(program: &str, exit: Exit, output: &str) -> Error {
    let program = program.to_owned();
    let output = last_lines(output);
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

fn last_lines(output: &str) -> String {
    let mut shown: Vec<&str> = output.lines().rev().take(LINES_SHOWN).collect();
    shown.reverse();
    shown.join(" | ")
}

/// Why a server ended, from the end of its log: its last fatal messages, each with what follows it
/// as detail or hint; the last lines if there is none.
pub(super) fn reason_of_end(log: &str) -> String {
    let severity = |line: &str| ["FATAL:", "PANIC:"].iter().any(|word| line.contains(word));
    let detail = |line: &str| ["DETAIL:", "HINT:"].iter().any(|word| line.contains(word));
    let cause = |line: &str| severity(line) || detail(line) || line.contains("LOG:  invalid");
    let shown: Vec<&str> = log.lines().filter(|line| cause(line)).collect();
    let last = shown.len().saturating_sub(LINES_SHOWN);
    match shown.get(last..) {
        Some(shown) if !shown.is_empty() => shown.join(" | "),
        _ => last_lines(log),
    }
}

/// The major version of the installed programs; `None` if `postgres` cannot be run.
pub(super) fn major_version(config: &AgentConfig) -> Option<String> {
    let output = std::process::Command::new(config.program("postgres"))
        .arg("--version")
        .env_clear()
        .envs(inherited(std::env::vars_os(), &config.own.environment))
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
    use std::collections::BTreeMap;

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
    fn a_password_goes_to_a_server_that_asks_by_scram_only() {
        let text = "scope: a\nname: b\nrestapi: {listen: '127.0.0.1:1'}\netcd3: {host: '127.0.0.1:2'}\npostgresql: {listen: '127.0.0.1:3', data_dir: /d}\n";
        let environment = |password: &str| {
            let mut config = AgentConfig::parse(text, "f".as_ref(), &BTreeMap::new()).unwrap();
            password.clone_into(&mut config.authentication.superuser.password);
            let process = process(&config, "pg_basebackup", vec![]);
            let names = process
                .env
                .into_iter()
                .map(|(name, value)| format!("{name}={value}"));
            names.collect::<Vec<_>>()
        };
        assert_eq!(
            environment("secret"),
            ["LC_ALL=C", "PGREQUIREAUTH=scram-sha-256"]
        );
        assert_eq!(environment(""), ["LC_ALL=C"]);
    }

    #[test]
    fn a_server_that_ended_is_explained_by_its_last_fatal_message() {
        let log = "LOG:  starting PostgreSQL\nLOG:  invalid connection type \"hots\"\nFATAL:  could not load pg_hba.conf\nLOG:  database system is shut down\n";
        assert_eq!(
            reason_of_end(log),
            "LOG:  invalid connection type \"hots\" | FATAL:  could not load pg_hba.conf"
        );
        assert_eq!(reason_of_end("a\nb\n"), "a | b");
        assert_eq!(reason_of_end(""), "");
    }

    #[test]
    fn a_failure_shows_the_end_of_the_output_and_tells_a_full_volume_from_the_rest() {
        let exit = || Exit {
            code: Some(1),
            signal: None,
            output: String::new(),
        };
        let text = failure("pg_rewind", exit(), "a\nb\nc\nd\ne\n").to_string();
        assert_eq!(text, "pg_rewind ended with exit status 1: b | c | d | e");
        let full = failure("initdb", exit(), "x\ninitdb: No space left on device\n");
        assert!(matches!(full, Error::NoSpace { .. }), "{full}");
        let earlier = failure("initdb", exit(), "No space left on device\na\nb\nc\nd\n");
        assert!(matches!(earlier, Error::Program { .. }), "{earlier}");
    }
}
