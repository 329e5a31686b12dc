use super::*;

fn checked(dependency: &str) -> Result<Checked, Problems> {
    let text = format!(
        r#"{{ "workload": "w", "dependencies": [{{ "name": "tpg", "port": 9000, "providers": [{{ "name": "bbd", "url": "http://bbd:8080/v2" }}] {dependency} }}] }}"#
    );
    serde_json::from_str::<Config>(&text).unwrap().try_into()
}

fn problem(dependency: &str) -> Problem {
    let mut problems = checked(dependency).unwrap_err().0;
    assert_eq!(problems.len(), 1, "{problems:?}");
    problems.remove(0)
}

#[test]
fn a_static_answer_without_a_proper_status_is_refused_with_field_value_and_remedy() {
    let refused = problem(r#", "fallback": { "static": { "status": 42 } }"#);
    assert_eq!(refused.field, "dependencies[0].fallback.static.status");
    assert_eq!(
        refused.message,
        "42 is no status of an answer: give one from 200 to 599"
    );
}

#[test]
fn values_that_no_header_can_carry_are_refused() {
    for value in [r"a\nb", r"caf\u00e9"] {
        let fallback =
            format!(r#", "fallback": {{ "static": {{ "headers": {{ "x-a": "{value}" }} }} }}"#);
        let refused = problem(&fallback);
        assert_eq!(refused.field, "dependencies[0].fallback.static.headers.x-a");
    }
}

#[test]
fn what_was_checked_is_carried() {
    let checked = checked(
        r#", "retry": { "methods": ["GET", "PURGE"], "idempotencyHeader": "X-Key" }, "pin": { "header": "x-order" },
           "fallback": { "static": { "status": 503, "headers": { "x-a": "b" }, "body": "{}" } }"#,
    )
    .unwrap();
    let (_, parsed) = checked.checked_dependencies().next().unwrap();
    let methods: Vec<&str> = parsed
        .retry_methods
        .iter()
        .map(crate::values::Method::as_str)
        .collect();
    assert_eq!(methods, ["GET", "PURGE"]);
    let key = parsed.idempotency_header.as_ref().unwrap();
    assert_eq!(key.as_str(), "X-Key");
    assert_eq!(parsed.pin_header.as_ref().unwrap().as_str(), "x-order");
    let answer = parsed.static_answer.as_ref().unwrap();
    assert_eq!((answer.status.get(), answer.body.as_str()), (503, "{}"));
    let provider = &parsed.providers[0];
    assert_eq!(provider.authority.as_str(), "bbd:8080");
    assert_eq!(provider.base.as_str(), "/v2");
}

#[test]
fn a_host_or_a_path_that_no_request_can_name_is_refused() {
    let text = r#"{ "workload": "w", "dependencies": [{ "name": "tpg", "port": 9000, "providers": [{ "name": "bbd", "url": "http://bbd/a<b" }] }],
                   "inbound": { "port": 9001, "canary": { "url": "http://a[b:80", "share": 1, "trial": "t" } } }"#;
    let config: Config = serde_json::from_str(text).unwrap();
    let fields: Vec<String> = Checked::try_from(config)
        .unwrap_err()
        .0
        .into_iter()
        .map(|problem| problem.field)
        .collect();
    assert_eq!(
        fields,
        ["dependencies[0].providers[0].url", "inbound.canary.url"]
    );
}
