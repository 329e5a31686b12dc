//! A report in `JUnit`'s XML, which CI systems read.

use std::fmt::Write as _;
use std::time::Duration;

/// What came of a test.
pub(crate) struct Outcome {
    /// The file that it is in.
    pub(crate) file: String,
    pub(crate) name: &'static str,
    pub(crate) took: Duration,
    /// Why it failed, if it did.
    pub(crate) failure: Option<String>,
}

pub(crate) fn report(outcomes: &[Outcome]) -> String {
    let failed = outcomes.iter().filter(|one| one.failure.is_some()).count();
    let took: Duration = outcomes.iter().map(|one| one.took).sum();
    let mut xml = String::from("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n");
    let _ = writeln!(
        xml,
        "<testsuite name=\"e2e\" tests=\"{}\" failures=\"{failed}\" time=\"{:.3}\">",
        outcomes.len(),
        took.as_secs_f64()
    );
    for one in outcomes {
        let _ = write!(
            xml,
            "  <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\"",
            escaped(&one.file),
            escaped(one.name),
            one.took.as_secs_f64()
        );
        match &one.failure {
            None => xml.push_str("/>\n"),
            Some(text) => {
                let text = escaped(text);
                let first = text.lines().next().unwrap_or_default();
                let _ = write!(
                    xml,
                    ">\n    <failure message=\"{first}\">{text}</failure>\n  </testcase>\n"
                );
            }
        }
    }
    xml.push_str("</testsuite>\n");
    xml
}

/// Without what XML 1.0 has no way to write.
fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\n' | '\t' => escaped.push(character),
            control if control.is_control() => escaped.push('\u{fffd}'),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_counts_failures_and_escapes_what_they_say() {
        let outcome = |failure: Option<&str>| Outcome {
            file: "lab::rolls".to_owned(),
            name: "a_change",
            took: Duration::from_millis(1500),
            failure: failure.map(str::to_owned),
        };
        let xml = report(&[outcome(None), outcome(Some("a \"<gap>\"\u{1b}\nlogs"))]);
        assert_eq!(
            xml,
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
             <testsuite name=\"e2e\" tests=\"2\" failures=\"1\" time=\"3.000\">\n  \
             <testcase classname=\"lab::rolls\" name=\"a_change\" time=\"1.500\"/>\n  \
             <testcase classname=\"lab::rolls\" name=\"a_change\" time=\"1.500\">\n    \
             <failure message=\"a &quot;&lt;gap&gt;&quot;\u{fffd}\">a &quot;&lt;gap&gt;&quot;\u{fffd}\nlogs</failure>\n  \
             </testcase>\n</testsuite>\n"
        );
    }
}
