//! What the server's configuration files follow from. Pure: the dynamic configuration, the members
//! and what the election wants go in, a [`Configuration`] to write comes out.

use std::collections::BTreeMap;

use crate::config::{AgentConfig, Parameters, of_store};
use crate::server::executable::{Executable, Mounted};
use crate::server::validation::{HbaLines, HbaValidation, Surroundings, Validation, Verdict};
use mrg_base::{Address, MemberName, Moment, ParameterName};
use mrg_dcs::DynamicConfig;
use mrg_election::sync::Names;
use mrg_postgres::{Configuration, HbaSource, RESERVED_PARAMETERS, conninfo};

/// The member that this one streams from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) member: MemberName,
    /// When it was set.
    pub(super) since: Moment,
    /// How many bytes the server had logged then: what it says of this one comes later.
    pub(super) printed: u64,
}

#[derive(Default)]
pub(super) struct Settings {
    /// libpq can refuse to log in by anything but SCRAM.
    requires_scram: bool,
    executable: Executable,
    /// What the member's file says since it was read again; `None` if that has not happened.
    local: Option<Local>,
    dynamic: DynamicConfig,
    addresses: BTreeMap<MemberName, Address>,
    upstream: Option<Upstream>,
    names: Names,
    minimums: BTreeMap<String, u64>,
    validation: Validation,
    hba: HbaValidation,
    written: Option<Configuration>,
}

/// What of the member's file can change while the agent runs.
pub(super) struct Local {
    pub(super) parameters: Parameters,
    pub(super) hba: HbaLines,
}

impl Settings {
    /// For the programs of a major version of PostgreSQL, if it is known.
    pub(super) fn new(major: Option<u32>) -> Self {
        Self {
            requires_scram: major.is_some_and(|major| major >= 16),
            ..Self::default()
        }
    }

    pub(super) fn set_local(&mut self, local: Local) {
        self.local = Some(local);
    }

    pub(super) fn set_cluster(
        &mut self,
        dynamic: DynamicConfig,
        addresses: BTreeMap<MemberName, Address>,
    ) {
        self.dynamic = dynamic;
        self.addresses = addresses;
    }

    pub(super) fn address(&self, member: &MemberName) -> Option<Address> {
        self.addresses.get(member).cloned()
    }

    pub(super) fn upstream(&self) -> Option<Upstream> {
        self.upstream.clone()
    }

    /// `printed` is how many bytes the running server has logged.
    pub(super) fn set_upstream(&mut self, member: Option<MemberName>, now: Moment, printed: u64) {
        self.upstream = member.map(|member| Upstream {
            member,
            since: now,
            printed,
        });
    }

    pub(super) fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    /// The minimum standby settings; empty on a primary.
    pub(super) fn set_minimums(&mut self, minimums: BTreeMap<String, u64>) {
        self.minimums = minimums;
    }

    /// Takes note of the mounted settings that execute or load code; see [`Executable::observe`].
    pub(super) fn set_mounted(
        &mut self,
        file: Result<Mounted, String>,
        now: Moment,
    ) -> Option<String> {
        let wanted = self.dynamic.executable_settings();
        self.executable.observe(file, wanted, now)
    }

    pub(super) fn executable(&self) -> &Executable {
        &self.executable
    }

    /// The user's parameters: the local ones win over the dynamic ones. What of those cannot be taken,
    /// the audit of the dynamic configuration says.
    pub(super) fn parameters(&self, local: &AgentConfig) -> Parameters {
        let (mut parameters, _) = of_store(&self.dynamic.parameters(), local.code_source());
        parameters.extend(self.executable.parameters());
        let own = self.local.as_ref();
        parameters.extend(own.map_or(&local.parameters, |own| &own.parameters).clone());
        parameters
    }

    pub(super) fn is_validated(&self, parameters: &Parameters, within: &Surroundings) -> bool {
        self.validation.is_about(parameters, within)
    }

    /// The parameters that PostgreSQL accepted last.
    pub(super) fn accepted(&self) -> Parameters {
        self.validation.accepted()
    }

    /// Records PostgreSQL's verdict.
    pub(super) fn set_validated(
        &mut self,
        parameters: Parameters,
        within: Surroundings,
        verdict: Verdict,
    ) {
        self.validation.record(parameters, within, verdict);
    }

    /// Why parameters or lines of `pg_hba.conf` are refused, if any are.
    pub(super) fn refusal(&self) -> Option<String> {
        let refusals = [self.validation.refusal(), self.hba.refusal()];
        let refusals: Vec<String> = refusals.into_iter().flatten().collect();
        (!refusals.is_empty()).then(|| refusals.join("; "))
    }

    /// The configured lines of `pg_hba.conf`: the local ones win over the dynamic ones.
    fn hba_lines(&self, local: &AgentConfig) -> (HbaLines, HbaSource) {
        let own = self.local.as_ref().map_or(&local.hba, |own| &own.hba);
        match own {
            Some(lines) => (Some(lines.clone()), HbaSource::File),
            None => (self.dynamic.pg_hba(), HbaSource::Store),
        }
    }

    /// See [`HbaValidation::check`].
    pub(super) fn validate_hba(
        &mut self,
        local: &AgentConfig,
        on_disk: impl FnOnce() -> HbaLines,
    ) -> Option<String> {
        let (lines, source) = self.hba_lines(local);
        self.hba.check(lines, source, on_disk)
    }

    /// See [`HbaValidation::take_back`].
    pub(super) fn refuse_written_hba(&mut self, good: HbaLines, why: String) -> String {
        self.hba.take_back(good, why)
    }

    /// What the files should say, with the last accepted parameters.
    pub(super) fn configuration(&self, local: &AgentConfig) -> Configuration {
        self.configuration_with(local, self.validation.accepted())
    }

    /// What the files should say, with these parameters.
    pub(super) fn configuration_with(
        &self,
        local: &AgentConfig,
        parameters: Parameters,
    ) -> Configuration {
        let primary_conninfo = self.primary_conninfo(local);
        Configuration {
            cluster_name: local.scope.to_string(),
            listen: local.listen.listen_addresses(),
            port: local.listen.port,
            socket_directory: local.socket_directory(),
            parameters,
            minimums: self.minimums.clone(),
            hba: (self.hba.accepted()).unwrap_or_else(|| self.hba_lines(local).0),
            authentication: local.authentication.clone(),
            synchronous_standby_names: self.names.to_string(),
            primary_slot_name: if primary_conninfo.is_some() {
                local.name.slot_name()
            } else {
                String::new()
            },
            primary_conninfo: primary_conninfo.unwrap_or_default(),
        }
    }

    /// `None` without an upstream, or while its address is unknown.
    fn primary_conninfo(&self, local: &AgentConfig) -> Option<String> {
        let upstream = self.upstream.as_ref()?;
        let address = self.addresses.get(&upstream.member)?;
        let passfile = local.passfile();
        let passfile = passfile.to_string_lossy();
        let mut options = vec![
            ("application_name", local.name.as_str()),
            ("passfile", &passfile),
            ("connect_timeout", "3"),
            ("keepalives_idle", "5"),
            ("keepalives_interval", "1"),
            ("tcp_user_timeout", "5000"),
            ("sslmode", "prefer"),
        ];
        let user = &local.authentication.replication.username;
        // An address in a key is only where to dial: another server that listens there gets no password.
        if self.requires_scram && !local.authentication.replication.password.is_empty() {
            options.push(("require_auth", "scram-sha-256"));
        }
        Some(conninfo(address, user, &options))
    }

    /// The files to write; `None` if they say that already.
    pub(super) fn unwritten(&self, local: &AgentConfig) -> Option<Configuration> {
        let configuration = self.configuration(local);
        (self.written.as_ref() != Some(&configuration)).then_some(configuration)
    }

    /// Records what was written. Lines of `pg_hba.conf` that change wait for the server's verdict.
    pub(super) fn note_written(&mut self, configuration: Configuration) {
        if let Some(before) = &self.written
            && before.hba != configuration.hba
        {
            self.hba.note_changed_from(before.hba.clone());
        }
        self.written = Some(configuration);
    }

    /// The lines before the last change, if the server has not confirmed those after it.
    pub(super) fn take_unconfirmed_hba(&mut self) -> Option<HbaLines> {
        self.hba.take_unconfirmed()
    }

    /// The data directory may be another one now: its files are written in any case.
    pub(super) fn forget_written(&mut self) {
        self.written = None;
    }
}

/// The user's parameters that have no effect because the agent sets them, with advice if there is
/// any.
pub(super) fn ineffective(parameters: &Parameters) -> impl Iterator<Item = (&str, &'static str)> {
    let advice = |name: &str| match name {
        "synchronous_standby_names" => "; synchronous_mode: quorum is its ANY 1",
        "recovery_end_command" => "; no program is run at a promotion, which could hold it up",
        _ => "",
    };
    parameters
        .keys()
        .map(ParameterName::as_str)
        .filter(|name| RESERVED_PARAMETERS.contains(name))
        .map(move |name| (name, advice(name)))
}

#[cfg(test)]
mod tests;
