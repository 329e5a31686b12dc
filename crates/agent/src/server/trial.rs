//! Asks PostgreSQL whether a server would start with some parameters, without starting one.
//!
//! `postgres -C` of a value that only a starting server can compute goes through a start up to the
//! shared memory: the files, the combinations of parameters, TLS, preloaded libraries. It also takes
//! the lock of its data directory, so it gets one of its own, which shows the entries of the real one.
//! A server may run there meanwhile.

use std::os::unix::fs::{DirBuilderExt, symlink};
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;

use crate::config::Parameters;
use crate::server::settings::Settings;
use crate::server::validation::Surroundings;
use crate::server::{Error, Server, memory, programs};
use mrg_postgres::{BASE_FILE, base_file};

/// Since PostgreSQL 15. Before, a start is not gone through, and only names and values are judged.
const COMPUTED_SINCE: u32 = 15;
/// Preloaded libraries are loaded; one that hangs would hang a start.
const WITHIN: Duration = Duration::from_secs(30);
/// A control file that is copied while the server writes it has a wrong checksum.
const ATTEMPTS: usize = 3;
const TORN: &str = "incorrect checksum in control file";
/// What `ALTER SYSTEM` writes; it wins over `postgresql.conf`.
const AUTO_FILE: &str = "postgresql.auto.conf";
/// Not shown: locks, and what the trial writes itself.
const HIDDEN: &[&str] = &[
    "postmaster.pid",
    "postmaster.opts",
    "postgresql.conf",
    "global",
];

/// Which files a trial reads beside the parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Files {
    /// All that a start reads.
    All,
    /// None that another than the agent writes.
    Own,
}

impl Server {
    /// When the files were changed that a start reads beside the agent's.
    pub(super) fn surroundings(&self) -> Surroundings {
        let changed = |path: PathBuf| std::fs::metadata(path).and_then(|it| it.modified()).ok();
        Surroundings {
            base: base_file(self.data()).and_then(changed),
            auto: changed(self.data().join(AUTO_FILE)),
        }
    }

    /// Why a server would not start with these parameters; `None` if it would.
    pub(super) async fn why_not(
        &self,
        parameters: Parameters,
        files: Files,
    ) -> Result<Option<String>, Error> {
        let later = also_loaded(&parameters);
        let candidate = self
            .settings
            .read(|settings: &Settings| settings.configuration_with(&self.config, parameters));
        let text = candidate.render() + &later;
        let directory = self.config.beside_data(".check");
        let _one_at_a_time = self.trial.lock().await;
        let mut refusal = None;
        for _ in 0..ATTEMPTS {
            show(self.data(), &directory, files)
                .and_then(|()| std::fs::write(directory.join("postgresql.conf"), &text))
                .map_err(Error::file(directory.display()))?;
            let ended = self.compute(&directory).await;
            let _ = std::fs::remove_dir_all(&directory);
            refusal = refusal_of(ended)?;
            if refusal.as_ref().is_none_or(|why| !why.contains(TORN)) {
                break;
            }
        }
        Ok(refusal)
    }

    async fn compute(&self, directory: &Path) -> Result<String, Error> {
        let computed = self.major_number() >= Some(COMPUTED_SINCE);
        let value = if computed {
            "shared_memory_size"
        } else {
            "port"
        };
        let arguments = vec![format!("-D{}", directory.display()), format!("-C{value}")];
        let (config, fence) = (&self.config, &self.fence);
        let printed = programs::run_within(WITHIN, config, fence, "postgres", arguments).await?;
        Ok(if computed { printed } else { String::new() })
    }
}

/// Why a server would not start, by how the trial ended.
///
/// # Errors
/// If that says nothing of the parameters.
fn refusal_of(ended: Result<String, Error>) -> Result<Option<String>, Error> {
    let error = match ended {
        Ok(printed) => return Ok(too_large(&printed)),
        Err(error) => error,
    };
    match &error {
        // The fence kills it with everything else.
        Error::Program { exit, .. } if exit.signal == Some(Signal::SIGKILL as i32) => Err(error),
        Error::Program { output, .. } if !output.is_empty() => Ok(Some(output.clone())),
        Error::Program { .. } | Error::Timeout(_) => Ok(Some(error.to_string())),
        _ => Err(error),
    }
}

/// Why a server of this size would not start here.
fn too_large(printed: &str) -> Option<String> {
    let (size, limit) = (memory::printed_size(printed)?, memory::limit()?);
    (size > limit).then(|| {
        format!("the server would need {size} MB of shared memory, and this machine gives {limit} MB at most")
    })
}

/// A line for libraries that are loaded later than at the start, where it would be too late to find
/// out that they are not there: with each session, or by a process of the server.
fn also_loaded(parameters: &Parameters) -> String {
    let items = |name: &str| -> Vec<String> {
        let list = parameters.get(name).map_or("", String::as_str);
        let items = list
            .split(',')
            .map(|item| item.trim().trim_matches('"').to_owned());
        items.filter(|item| !item.is_empty()).collect()
    };
    let local = |item: String| {
        if item.contains('/') {
            item
        } else {
            format!("$libdir/plugins/{item}")
        }
    };
    let mut later = items("session_preload_libraries");
    later.extend(items("local_preload_libraries").into_iter().map(local));
    later.extend(items("archive_library"));
    later.extend(items("oauth_validator_libraries"));
    if later.is_empty() {
        return String::new();
    }
    let all = [items("shared_preload_libraries"), later].concat();
    let quoted: Vec<String> = all.iter().map(|item| format!("\"{item}\"")).collect();
    let value = mrg_postgres::quote_setting(&quoted.join(", "));
    format!("shared_preload_libraries = {value}\n")
}

/// Makes a directory that shows the entries of a data directory, and can be locked by another server
/// than that.
fn show(data: &Path, directory: &Path, files: Files) -> std::io::Result<()> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let own = |path: &Path| std::fs::DirBuilder::new().mode(0o700).create(path);
    own(directory)?;
    for entry in std::fs::read_dir(data)? {
        let name = entry?.file_name();
        let is = |other: &str| name.to_str() == Some(other);
        let foreign = is(AUTO_FILE) || is(BASE_FILE);
        if HIDDEN.iter().copied().any(is) || foreign && files == Files::Own {
            continue;
        }
        symlink(data.join(&name), directory.join(&name))?;
    }
    let base = directory.join(BASE_FILE);
    match base_file(data).filter(|_| files == Files::All) {
        // It is shown already.
        Some(path) if path.ends_with(BASE_FILE) => {}
        Some(initdbs) => symlink(initdbs, base)?,
        None => std::fs::write(base, "")?,
    }
    // The server replaces it now and then, and reads it when it starts.
    own(&directory.join("global"))?;
    let control = Path::new("global/pg_control");
    std::fs::copy(data.join(control), directory.join(control)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fence::Exit;
    use mrg_base::ParameterName;

    fn parameters(list: &[(&str, &str)]) -> Parameters {
        list.iter()
            .map(|(name, value)| (ParameterName::new(name).unwrap(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn a_trial_that_was_killed_says_nothing_of_the_parameters() {
        let ended = |signal: Option<i32>, output: &str| {
            let exit = Exit {
                code: signal.is_none().then_some(1),
                signal,
                output: String::new(),
            };
            refusal_of(Err(Error::Program {
                program: "postgres".to_owned(),
                exit,
                output: output.to_owned(),
            }))
        };
        assert!(ended(Some(9), "").is_err());
        assert_eq!(
            ended(None, "FATAL:  no").unwrap().as_deref(),
            Some("FATAL:  no")
        );
        let crashed = ended(Some(11), "").unwrap().unwrap();
        assert!(crashed.contains("signal 11"), "{crashed}");
        assert!(refusal_of(Err(Error::DiskHangs)).is_err());
        assert_eq!(refusal_of(Ok("1\n".to_owned())).unwrap(), None);
        assert!(refusal_of(Ok(format!("{}\n", u64::MAX))).unwrap().is_some());
    }

    #[test]
    fn libraries_that_are_loaded_later_are_tried_at_once() {
        assert_eq!(
            also_loaded(&parameters(&[("shared_preload_libraries", "a")])),
            ""
        );
        let later = parameters(&[
            ("shared_preload_libraries", "a, \"b c\""),
            ("session_preload_libraries", "d"),
            ("local_preload_libraries", "e,$libdir/plugins/f"),
        ]);
        assert_eq!(
            also_loaded(&later),
            "shared_preload_libraries = '\"a\", \"b c\", \"d\", \"$libdir/plugins/e\", \"$libdir/plugins/f\"'\n"
        );
    }

    #[test]
    fn a_trial_sees_the_files_of_the_data_and_not_its_lock() {
        let place = tempfile::tempdir().unwrap();
        let (data, directory) = (place.path().join("data"), place.path().join("data.check"));
        std::fs::create_dir_all(data.join("global")).unwrap();
        for name in [
            "PG_VERSION",
            "postmaster.pid",
            "postgresql.conf",
            AUTO_FILE,
            "global/pg_control",
        ] {
            std::fs::write(data.join(name), name).unwrap();
        }
        let shown = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
        show(&data, &directory, Files::All).unwrap();
        assert_eq!(shown("PG_VERSION").as_deref(), Some("PG_VERSION"));
        assert_eq!(
            shown("global/pg_control").as_deref(),
            Some("global/pg_control")
        );
        assert_eq!(
            shown(BASE_FILE).as_deref(),
            Some("postgresql.conf"),
            "initdb's"
        );
        assert_eq!(shown(AUTO_FILE).as_deref(), Some(AUTO_FILE));
        assert_eq!(
            (shown("postmaster.pid"), shown("postgresql.conf")),
            (None, None)
        );

        std::fs::write(data.join(BASE_FILE), "kept").unwrap();
        show(&data, &directory, Files::All).unwrap();
        assert_eq!(shown(BASE_FILE).as_deref(), Some("kept"));
        show(&data, &directory, Files::Own).unwrap();
        assert_eq!(
            (shown(BASE_FILE).as_deref(), shown(AUTO_FILE)),
            (Some(""), None)
        );

        std::fs::remove_dir_all(&directory).unwrap();
        assert_eq!(
            std::fs::read_to_string(data.join("PG_VERSION")).unwrap(),
            "PG_VERSION"
        );
        assert!(data.join("postmaster.pid").exists());
    }
}
