//! What the server's configuration files follow from. Pure: the dynamic configuration, the members
//! and what the election wants go in, a [`Configuration`] to write comes out.

use std::collections::BTreeMap;

use crate::config::{AgentConfig, parameter_text};
use mrg_base::{Address, MemberName, Moment};
use mrg_dcs::DynamicConfig;
use mrg_election::sync::Names;
use mrg_postgres::{Configuration, RESERVED_PARAMETERS, check_hba_line, conninfo};

/// Parameters by name, as `postgresql.conf` has them.
pub(super) type Parameters = BTreeMap<String, String>;

/// The member that this one streams from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Upstream {
    pub(super) member: MemberName,
    /// When it was set.
    pub(super) since: Moment,
}

#[derive(Default)]
pub(super) struct Settings {
    dynamic: DynamicConfig,
    addresses: BTreeMap<MemberName, Address>,
    upstream: Option<Upstream>,
    names: Names,
    minimums: BTreeMap<String, u64>,
    validation: Validation,
    hba: HbaValidation,
    written: Option<Configuration>,
}

/// The user's lines of `pg_hba.conf`; `None` if the configuration has none.
pub(super) type HbaLines = Option<Vec<String>>;

/// Which lines of `pg_hba.conf` may reach the file. A server does not start on a file with one wrong
/// line, and leaving a line out could let in what it was to keep out, so wrong lines leave the last
/// good ones in force as a whole.
#[derive(Default)]
struct HbaValidation {
    /// The last good lines. `None` before the first verdict.
    accepted: Option<HbaLines>,
    /// Lines that were refused, and why.
    refused: Option<(HbaLines, String)>,
    /// The lines before those that were written last, until the server has confirmed the change.
    unconfirmed: Option<HbaLines>,
}

/// What PostgreSQL says of parameters.
pub(super) enum Verdict {
    /// It would start with them.
    Accepted,
    /// It would start with these; why not with the others.
    InPart(Parameters, String),
    /// It would not start with them, for this reason.
    Refused(String),
}

impl Verdict {
    pub(super) fn refusal(&self) -> Option<String> {
        match self {
            Self::Accepted => None,
            Self::InPart(_, why) | Self::Refused(why) => Some(why.clone()),
        }
    }
}

/// PostgreSQL's own verdict on the user's parameters.
#[derive(Default)]
struct Validation {
    /// What the verdict is about; `None` before the first.
    validated: Option<Parameters>,
    /// The last parameters that PostgreSQL accepted. They are in force.
    accepted: Parameters,
    /// Why PostgreSQL refuses the last ones, if it does.
    refusal: Option<String>,
}

impl Settings {
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

    pub(super) fn set_upstream(&mut self, member: Option<MemberName>, now: Moment) {
        self.upstream = member.map(|member| Upstream { member, since: now });
    }

    pub(super) fn set_names(&mut self, names: Names) {
        self.names = names;
    }

    /// The minimum standby settings; empty on a primary.
    pub(super) fn set_minimums(&mut self, minimums: BTreeMap<String, u64>) {
        self.minimums = minimums;
    }

    /// The user's parameters: the local ones win over the dynamic ones.
    pub(super) fn parameters(&self, local: &AgentConfig) -> Parameters {
        let mut parameters: Parameters = self
            .dynamic
            .parameters()
            .iter()
            .map(|(name, value)| (name.clone(), parameter_text(value)))
            .collect();
        parameters.extend(local.parameters.clone());
        parameters
    }

    pub(super) fn is_validated(&self, parameters: &Parameters) -> bool {
        self.validation.validated.as_ref() == Some(parameters)
    }

    /// Records PostgreSQL's verdict. For each refused parameter the value that was accepted last
    /// stays in force.
    pub(super) fn set_validated(&mut self, parameters: Parameters, verdict: Verdict) {
        self.validation.refusal = verdict.refusal();
        match verdict {
            Verdict::Accepted => self.validation.accepted.clone_from(&parameters),
            Verdict::Refused(_) => {}
            Verdict::InPart(good, _) => {
                let before = std::mem::take(&mut self.validation.accepted);
                let kept = before
                    .into_iter()
                    .filter(|(name, _)| parameters.contains_key(name));
                self.validation.accepted = kept.collect();
                self.validation.accepted.extend(good);
            }
        }
        self.validation.validated = Some(parameters);
    }

    pub(super) fn refusal(&self) -> Option<String> {
        let hba = self.hba.refused.as_ref();
        let hba = hba.map(|(_, why)| format!("{why}; the last good lines stay in force"));
        match (self.validation.refusal.clone(), hba) {
            (Some(parameters), Some(hba)) => Some(format!("{parameters}; {hba}")),
            (parameters, hba) => parameters.or(hba),
        }
    }

    /// The configured lines: the local ones win over the dynamic ones.
    fn hba_lines(&self, local: &AgentConfig) -> HbaLines {
        local.hba.clone().or_else(|| self.dynamic.pg_hba())
    }

    /// Checks the configured lines. `on_disk` are those of the file that is there, which a server
    /// has started on or which came with the data. Gives the refusal if it is new.
    pub(super) fn validate_hba(
        &mut self,
        local: &AgentConfig,
        on_disk: impl FnOnce() -> HbaLines,
    ) -> Option<String> {
        let lines = self.hba_lines(local);
        if self
            .hba
            .refused
            .as_ref()
            .is_some_and(|(refused, _)| *refused == lines)
        {
            return None;
        }
        let wrong = lines
            .iter()
            .flatten()
            .find_map(|line| check_hba_line(line).err());
        match wrong {
            None => {
                self.hba.accepted = Some(lines);
                self.hba.refused = None;
                None
            }
            Some(wrong) => {
                self.hba.accepted.get_or_insert_with(on_disk);
                Some(self.refuse_hba(lines, wrong.to_string()))
            }
        }
    }

    /// The server itself refuses the lines that were written last; `good` are those before them.
    /// Gives the refusal.
    pub(super) fn refuse_written_hba(&mut self, good: HbaLines, why: String) -> String {
        let refused = self.hba.accepted.replace(good).unwrap_or_default();
        self.refuse_hba(refused, why)
    }

    fn refuse_hba(&mut self, lines: HbaLines, why: String) -> String {
        self.hba.refused = Some((lines, why.clone()));
        why
    }

    /// What the files should say, with the last accepted parameters.
    pub(super) fn configuration(&self, local: &AgentConfig) -> Configuration {
        self.configuration_with(local, self.validation.accepted.clone())
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
            hba: match &self.hba.accepted {
                Some(lines) => lines.clone(),
                None => self.hba_lines(local),
            },
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
        let options = [
            ("application_name", local.name.as_str()),
            ("connect_timeout", "3"),
            ("keepalives_idle", "5"),
            ("keepalives_interval", "1"),
            ("tcp_user_timeout", "5000"),
            ("sslmode", "prefer"),
        ];
        let user = &local.authentication.replication;
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
            self.hba.unconfirmed = Some(before.hba.clone());
        }
        self.written = Some(configuration);
    }

    /// The lines before the last change, if the server has not confirmed those after it.
    pub(super) fn take_unconfirmed_hba(&mut self) -> Option<HbaLines> {
        self.hba.unconfirmed.take()
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
        _ => "",
    };
    parameters
        .keys()
        .map(String::as_str)
        .filter(|name| RESERVED_PARAMETERS.contains(name))
        .map(move |name| (name, advice(name)))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    const LOCAL: &str = "
scope: demo
name: pg-1
restapi: {listen: '127.0.0.1:8008'}
etcd3: {host: '127.0.0.1:2379'}
postgresql:
  listen: 127.0.0.1:5432
  data_dir: /data/pg
  parameters: {work_mem: 8MB}
  authentication:
    superuser: {username: postgres}
    replication: {username: replicator, password: secret}
";

    fn local() -> AgentConfig {
        AgentConfig::parse(LOCAL, Path::new("patroni.yml"), &BTreeMap::new()).unwrap()
    }

    fn dynamic(json: &str) -> DynamicConfig {
        DynamicConfig::parse(json.as_bytes()).unwrap()
    }

    fn member(name: &str) -> MemberName {
        MemberName::new(name).unwrap()
    }

    fn pairs(list: &[(&str, &str)]) -> Parameters {
        list.iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    fn base() -> Configuration {
        let local = local();
        Configuration {
            cluster_name: "demo".to_owned(),
            listen: "127.0.0.1".to_owned(),
            port: 5432,
            socket_directory: "/data/pg.run".into(),
            authentication: local.authentication,
            ..Configuration::default()
        }
    }

    const CONNINFO: &str = "host='h2' port='5433' user='replicator' password='secret' \
        application_name='pg-1' connect_timeout='3' keepalives_idle='5' keepalives_interval='1' \
        tcp_user_timeout='5000' sslmode='prefer'";

    fn cluster_of_two(settings: &mut Settings) {
        let address = Address {
            host: "h2".to_owned(),
            port: 5433,
        };
        settings.set_cluster(DynamicConfig::default(), [(member("pg-2"), address)].into());
    }

    type Row = (&'static str, fn(&mut Settings), fn(&mut Configuration));

    const ROWS: &[Row] = &[
        ("nothing is known yet", |_| {}, |_| {}),
        (
            "a parameter waits for PostgreSQL's verdict",
            |settings| {
                let json = r#"{"postgresql": {"parameters": {"max_connections": 70}}}"#;
                settings.set_cluster(dynamic(json), BTreeMap::new());
            },
            |_| {},
        ),
        (
            "an accepted parameter is in force",
            |settings| settings.set_validated(pairs(&[("work_mem", "1MB")]), Verdict::Accepted),
            |expected| expected.parameters = pairs(&[("work_mem", "1MB")]),
        ),
        (
            "a refused one leaves the last accepted in force",
            |settings| {
                settings.set_validated(pairs(&[("work_mem", "1MB")]), Verdict::Accepted);
                settings.set_validated(
                    pairs(&[("work_mem", "x")]),
                    Verdict::Refused("why".to_owned()),
                );
            },
            |expected| expected.parameters = pairs(&[("work_mem", "1MB")]),
        ),
        (
            "an upstream has an address and a slot",
            |settings| {
                cluster_of_two(settings);
                settings.set_upstream(Some(member("pg-2")), Moment(1));
            },
            |expected| {
                CONNINFO.clone_into(&mut expected.primary_conninfo);
                "pg_1".clone_into(&mut expected.primary_slot_name);
            },
        ),
        (
            "an upstream without a known address is not followed",
            |settings| settings.set_upstream(Some(member("pg-2")), Moment(1)),
            |_| {},
        ),
        (
            "an upstream that was taken away is not followed",
            |settings| {
                cluster_of_two(settings);
                settings.set_upstream(Some(member("pg-2")), Moment(1));
                settings.set_upstream(None, Moment(2));
            },
            |_| {},
        ),
        (
            "names of synchronous standbys",
            |settings| settings.set_names(Names::parse("ANY 1 (\"pg-2\")").unwrap()),
            |expected| {
                "ANY 1 (\"pg-2\")".clone_into(&mut expected.synchronous_standby_names);
            },
        ),
        (
            "minimum standby settings",
            |settings| settings.set_minimums([("max_connections".to_owned(), 60)].into()),
            |expected| expected.minimums = [("max_connections".to_owned(), 60)].into(),
        ),
        (
            "lines of pg_hba.conf from the dynamic configuration",
            |settings| {
                let json = r#"{"postgresql": {"pg_hba": ["local all all peer"]}}"#;
                settings.set_cluster(dynamic(json), BTreeMap::new());
            },
            |expected| expected.hba = Some(vec!["local all all peer".to_owned()]),
        ),
    ];

    #[test]
    fn the_files_follow_from_what_is_known() {
        for (case, change, expect) in ROWS {
            let mut settings = Settings::default();
            change(&mut settings);
            let mut expected = base();
            expect(&mut expected);
            assert_eq!(settings.configuration(&local()), expected, "{case}");
        }
    }

    #[test]
    fn local_settings_win_over_dynamic_ones() {
        let mut settings = Settings::default();
        let json = r#"{"postgresql": {
            "parameters": {"work_mem": "4MB", "fsync": true, "max_connections": 70},
            "pg_hba": ["local all all peer"]}}"#;
        settings.set_cluster(dynamic(json), BTreeMap::new());
        let local = AgentConfig {
            hba: Some(vec!["local all all trust".to_owned()]),
            ..local()
        };
        assert_eq!(
            settings.parameters(&local),
            pairs(&[
                ("work_mem", "8MB"),
                ("fsync", "on"),
                ("max_connections", "70")
            ])
        );
        assert_eq!(settings.configuration(&local).hba, local.hba);
    }

    #[test]
    fn files_are_written_when_they_change_and_after_a_start() {
        let local = local();
        let mut settings = Settings::default();
        let first = settings.unwritten(&local).unwrap();
        settings.note_written(first.clone());
        assert_eq!(settings.unwritten(&local), None);
        settings.set_names(Names::parse("ANY 1 (\"pg-2\")").unwrap());
        assert_ne!(settings.unwritten(&local), None);
        settings.set_names(Names::default());
        assert_eq!(settings.unwritten(&local), None);
        settings.forget_written();
        assert_eq!(settings.unwritten(&local), Some(first));
    }

    #[test]
    fn parameters_are_validated_once() {
        let mut settings = Settings::default();
        let (good, bad) = (pairs(&[("work_mem", "1MB")]), pairs(&[("work_mem", "x")]));
        assert!(!settings.is_validated(&Parameters::new()), "not even none");
        settings.set_validated(bad.clone(), Verdict::Refused("invalid value".to_owned()));
        assert!(settings.is_validated(&bad) && !settings.is_validated(&good));
        assert_eq!(settings.refusal().as_deref(), Some("invalid value"));
        settings.set_validated(good, Verdict::Accepted);
        assert!(!settings.is_validated(&bad));
        assert_eq!(settings.refusal(), None);
    }

    #[test]
    fn parameters_that_the_agent_sets_are_reported() {
        let parameters = pairs(&[
            ("port", "1"),
            ("synchronous_standby_names", "*"),
            ("work_mem", "1MB"),
        ]);
        assert_eq!(
            ineffective(&parameters).collect::<Vec<_>>(),
            [
                ("port", ""),
                (
                    "synchronous_standby_names",
                    "; synchronous_mode: quorum is its ANY 1"
                ),
            ]
        );
    }
}
