//! Brings the server's files in line with [`Settings`](super::settings::Settings).

use std::collections::BTreeMap;

use crate::server::provisioning::remove_if_there;
use crate::server::settings::{Local, Settings, ineffective};
use crate::server::validation::{HbaLines, Parameters, Verdict};
use crate::server::{Error, Server, programs};
use mrg_base::{Address, MemberName};
use mrg_dcs::DynamicConfig;
use mrg_postgres::{BASE_FILE_INCLUDE, DataState, user_hba_lines, write_private};

impl Server {
    /// Takes over what the member's file says now. It is written at the next
    /// [`Server::configure`].
    pub(crate) fn set_local(&self, parameters: Parameters, hba: HbaLines) {
        let local = Local { parameters, hba };
        self.settings.change(|settings| settings.set_local(local));
    }

    /// Takes over the dynamic configuration and the members' addresses. A running server reloads its
    /// files if that changes them.
    pub(crate) async fn configure(
        &self,
        dynamic: &DynamicConfig,
        addresses: BTreeMap<MemberName, Address>,
    ) -> Result<(), Error> {
        self.settings
            .change(|settings| settings.set_cluster(dynamic.clone(), addresses));
        if !self.is_running() {
            return Ok(());
        }
        let writes = |settings: &Settings| settings.unwritten(&self.config).is_some();
        if self.settings.read(writes) {
            self.disk.answers().await?;
        }
        self.validate().await?;
        self.rewrite()?;
        self.confirm_hba().await
    }

    /// Has the running server itself read `pg_hba.conf`. Lines that only it finds wrong are taken
    /// back before a restart fails on them; what it has in force are the good ones until then.
    async fn confirm_hba(&self) -> Result<(), Error> {
        let Some(good) = self.settings.change(Settings::take_unconfirmed_hba) else {
            return Ok(());
        };
        let Some(wrong) = self.session().await?.wrong_hba_line().await? else {
            return Ok(());
        };
        let refusal = self
            .settings
            .change(|settings| settings.refuse_written_hba(good, wrong));
        report_refused_hba(Some(refusal));
        self.rewrite()
    }

    /// Lets PostgreSQL itself validate the user's parameters before they reach the file that a
    /// restart would fail on.
    pub(super) async fn validate(&self) -> Result<(), Error> {
        let on_disk = || {
            let file = std::fs::read_to_string(self.data().join("pg_hba.conf"));
            file.ok().and_then(|text| user_hba_lines(&text))
        };
        let refused = self
            .settings
            .change(|settings| settings.validate_hba(&self.config, on_disk));
        report_refused_hba(refused);
        let parameters = self
            .settings
            .read(|settings| settings.parameters(&self.config));
        let known = self
            .settings
            .read(|settings| settings.is_validated(&parameters));
        if known || DataState::read(self.data()) == DataState::Absent {
            return Ok(());
        }
        for (parameter, advice) in ineffective(&parameters) {
            tracing::warn!(
                parameter,
                "the agent sets this parameter itself; the value in the configuration has no effect{advice}"
            );
        }
        let verdict = match self.check(parameters.clone()).await {
            Ok(()) => Verdict::Accepted,
            Err(Error::Program { output, .. }) => {
                let verdict = self.sift(&parameters, output).await?;
                tracing::error!(why = %verdict.refusal().unwrap_or_default(), "PostgreSQL refuses parameters; the others are in force");
                verdict
            }
            Err(error) => return Err(error),
        };
        self.settings
            .change(|settings| settings.set_validated(parameters, verdict));
        Ok(())
    }

    /// Which of the parameters PostgreSQL refuses one by one; one wrong one does not take the others
    /// away. `why` is its message about all of them.
    async fn sift(&self, parameters: &Parameters, why: String) -> Result<Verdict, Error> {
        let (mut good, mut refusals) = (Parameters::new(), Vec::new());
        for (name, value) in parameters {
            let alone = Parameters::from([(name.clone(), value.clone())]);
            match self.check(alone.clone()).await {
                Ok(()) => good.extend(alone),
                Err(Error::Program { output, .. }) => {
                    // Without the value, which may be of the member's file alone and hold a secret;
                    // PostgreSQL shows it where it matters.
                    refusals.push(format!("{name}: {output}"));
                }
                Err(error) => return Err(error),
            }
        }
        let together = self.check(good.clone()).await.is_ok();
        Ok(if refusals.is_empty() || !together {
            // They do not fit together: which one is wrong cannot be told.
            Verdict::Refused(why)
        } else {
            Verdict::InPart(good, refusals.join("; "))
        })
    }

    /// Has `postgres` read these parameters, without running a server.
    async fn check(&self, parameters: Parameters) -> Result<(), Error> {
        let candidate = self
            .settings
            .read(|settings| settings.configuration_with(&self.config, parameters));
        let file = self.config.beside_data(".check.conf");
        // What initdb wrote is good; only the user's part is checked.
        let text = candidate.render().replace(BASE_FILE_INCLUDE, "");
        write_private(&file, &text).map_err(Error::file(file.display()))?;
        let arguments = vec![
            format!("--config-file={}", file.display()),
            format!("-D{}", self.data().display()),
            "-Cport".to_owned(),
        ];
        let checked = programs::run(&self.config, &self.fence, "postgres", arguments).await;
        remove_if_there(&file).map_err(Error::file(file.display()))?;
        checked
    }

    /// Writes the files if they change; whether they did.
    pub(super) fn write_configuration(&self) -> Result<bool, Error> {
        let Some(configuration) = self
            .settings
            .read(|settings| settings.unwritten(&self.config))
        else {
            return Ok(false);
        };
        let removed = configuration
            .write(self.data())
            .map_err(Error::file("the configuration"))?;
        if !removed.is_empty() {
            tracing::warn!(
                parameters = removed.join(", "),
                "ALTER SYSTEM has set parameters that the agent sets itself; their lines were removed from postgresql.auto.conf"
            );
        }
        self.settings
            .change(|settings| settings.note_written(configuration));
        Ok(true)
    }

    /// Writes the files if they change, and has a running server read them.
    pub(super) fn rewrite(&self) -> Result<(), Error> {
        if self.write_configuration()? {
            self.postmaster.reload()?;
        }
        Ok(())
    }
}

fn report_refused_hba(refusal: Option<String>) {
    if let Some(why) = refusal {
        tracing::error!(%why, "lines of pg_hba.conf are refused; the last good ones stay in force");
    }
}
