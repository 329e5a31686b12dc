//! Brings the server's files in line with [`Settings`](super::settings::Settings).

use std::collections::BTreeMap;

use std::time::Duration;

use crate::config::Parameters;
use crate::server::executable::Mounted;
use crate::server::settings::{Local, Settings, ineffective};
use crate::server::sift::sift;
use crate::server::trial::Files;
use crate::server::validation::{HbaLines, Verdict};
use crate::server::{Error, Server};
use mrg_base::{Address, MemberName};
use mrg_dcs::DynamicConfig;
use mrg_postgres::{BASE_FILE, DataState, user_hba_lines};

/// The mounted file is small, and on a disk of the node's own.
const READ_WITHIN: Duration = Duration::from_secs(2);

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
        self.read_mounted().await;
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
        let within = self.surroundings();
        let known = self
            .settings
            .read(|settings| settings.is_validated(&parameters, &within));
        if known || DataState::read(self.data()) == DataState::Absent {
            return Ok(());
        }
        for (parameter, advice) in ineffective(&parameters) {
            tracing::warn!(
                parameter,
                "the agent sets this parameter itself; the value in the configuration has no effect{advice}"
            );
        }
        self.disk.answers().await?;
        let verdict = self.judge(&parameters).await?;
        if let Some(why) = verdict.refusal() {
            tracing::error!(%why, "PostgreSQL refuses parameters; the others are in force");
        }
        self.settings
            .change(|settings| settings.set_validated(parameters, within, verdict));
        Ok(())
    }

    /// PostgreSQL's verdict on these parameters, with what else a start reads.
    async fn judge(&self, parameters: &Parameters) -> Result<Verdict, Error> {
        let ask = |tried| self.why_not(tried, Files::All);
        if ask(parameters.clone()).await?.is_none() {
            return Ok(Verdict::Accepted);
        }
        let accepted = self.settings.read(Settings::accepted);
        let verdict = sift(parameters, &accepted, ask).await?;
        let Verdict::Refused(why) = verdict else {
            return Ok(verdict);
        };
        // A server would not start without any of them either.
        let why =
            format!("what ALTER SYSTEM or {BASE_FILE} sets keeps a server from starting: {why}");
        let ask = |tried| self.why_not(tried, Files::Own);
        let verdict = match ask(parameters.clone()).await? {
            None => Verdict::Accepted,
            Some(_) => sift(parameters, &accepted, ask).await?,
        };
        Ok(verdict.because_also(parameters, why))
    }

    /// Reads the mounted settings that execute or load code, if the operator mounts some.
    pub(super) async fn read_mounted(&self) {
        let Some(path) = self.config.own.executable_settings_file.clone() else {
            return;
        };
        let read = tokio::time::timeout(READ_WITHIN, tokio::fs::read_to_string(&path)).await;
        let file = match read {
            Ok(Ok(text)) => Mounted::parse(&text),
            Ok(Err(error)) => Err(error.to_string()),
            Err(_) => Err("no answer of the disk".to_owned()),
        };
        let file = file.map_err(|why| format!("{}: {why}", path.display()));
        let difference = self
            .settings
            .change(|settings| settings.set_mounted(file, mrg_clock::now()));
        if let Some(why) = difference {
            tracing::warn!(
                %why,
                "settings that execute or load code stay as they are; the file is waited for"
            );
        }
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
