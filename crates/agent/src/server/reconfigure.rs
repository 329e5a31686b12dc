//! Brings the server's files in line with [`Settings`](super::settings::Settings).

use std::collections::BTreeMap;

use crate::server::settings::{Local, Parameters, ineffective};
use crate::server::{Error, Server, programs};
use mrg_base::{Address, MemberName};
use mrg_dcs::DynamicConfig;
use mrg_postgres::{BASE_FILE_INCLUDE, DataState};

impl Server {
    /// Takes over what the member's file says now. It is written at the next
    /// [`Server::configure`].
    pub(crate) fn set_local(&self, parameters: Parameters, hba: Option<Vec<String>>) {
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
        self.validate().await?;
        self.rewrite()
    }

    /// Lets PostgreSQL itself validate the user's parameters before they reach the file that a
    /// restart would fail on.
    pub(super) async fn validate(&self) -> Result<(), Error> {
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
        let refusal = match self.check(parameters.clone()).await {
            Ok(()) => None,
            Err(Error::Program { output, .. }) => {
                tracing::error!(%output, "PostgreSQL refuses the parameters; the last good ones stay in force");
                Some(output)
            }
            Err(error) => return Err(error),
        };
        self.settings
            .change(|settings| settings.set_validated(parameters, refusal));
        Ok(())
    }

    /// Has `postgres` read these parameters, without running a server.
    async fn check(&self, parameters: Parameters) -> Result<(), Error> {
        let candidate = self
            .settings
            .read(|settings| settings.configuration_with(&self.config, parameters));
        let file = self.config.beside_data(".check.conf");
        // What initdb wrote is good; only the user's part is checked.
        let text = candidate.render().replace(BASE_FILE_INCLUDE, "");
        std::fs::write(&file, text).map_err(Error::file(file.display()))?;
        let arguments = vec![
            format!("--config-file={}", file.display()),
            format!("-D{}", self.data().display()),
            "-Cport".to_owned(),
        ];
        programs::run(&self.config, &self.fence, "postgres", arguments, None).await
    }

    /// Writes the files if they change; whether they did.
    pub(super) fn write_configuration(&self) -> Result<bool, Error> {
        let Some(configuration) = self
            .settings
            .read(|settings| settings.unwritten(&self.config))
        else {
            return Ok(false);
        };
        configuration
            .write(self.data())
            .map_err(Error::file("the configuration"))?;
        self.settings
            .change(|settings| settings.set_written(configuration));
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
