//! Which of the parameters that are asked for a server would start with, if not with all of them.
//! Pure but for the question itself.

use crate::config::Parameters;
use crate::server::validation::Verdict;
use mrg_base::ParameterName;

/// A parameter that is asked for, and its value.
type Pair = (ParameterName, String);
/// A parameter that is refused, and why.
type Refusal = (Pair, String);

/// Finds a largest part of `asked` that a server would start with: one wrong parameter, or one that
/// does not fit the others, takes none of the others away. A refused parameter keeps the value of
/// `accepted`, with which a server would have started before, if that fits.
///
/// `why_not` says why a server would not start with some parameters; `None` if it would. It is called
/// a number of times that grows with the logarithm of the changed parameters, for each that is
/// refused.
///
/// # Errors
/// Those of `why_not`.
pub(super) async fn sift<E, F>(
    asked: &Parameters,
    accepted: &Parameters,
    mut why_not: impl FnMut(Parameters) -> F,
) -> Result<Verdict, E>
where
    F: Future<Output = Result<Option<String>, E>>,
{
    let mut good = accepted.clone();
    good.retain(|name, _| asked.contains_key(name));
    if why_not(good.clone()).await?.is_some() {
        // One that is no longer asked for was needed.
        good = Parameters::new();
        if let Some(why) = why_not(good.clone()).await? {
            return Ok(Verdict::Refused(why));
        }
    }
    let mut left: Vec<Pair> = pairs(asked)
        .filter(|(name, value)| good.get(name) != Some(value))
        .collect();
    // What is refused may fit once others are there.
    let refused = loop {
        let before = left.len();
        let refused = add(&mut good, left, &mut why_not).await?;
        if refused.is_empty() || refused.len() == before {
            break refused;
        }
        left = refused.into_iter().map(|(pair, _)| pair).collect();
    };
    let former =
        pairs(accepted).filter(|(name, _)| asked.contains_key(name) && !good.contains_key(name));
    let former = former.collect();
    add(&mut good, former, &mut why_not).await?;
    Ok(if refused.is_empty() {
        Verdict::Accepted
    } else {
        let line = |((name, value), why): Refusal| format!("{name} = {value}: {why}");
        let lines: Vec<String> = refused.into_iter().map(line).collect();
        Verdict::InPart(good, lines.join("; "))
    })
}

fn pairs(parameters: &Parameters) -> impl Iterator<Item = Pair> {
    parameters
        .iter()
        .map(|(name, value)| (name.clone(), value.clone()))
}

/// Adds to `good` what fits, halving what does not until the parameter at fault is alone. Gives those.
async fn add<E, F>(
    good: &mut Parameters,
    more: Vec<Pair>,
    why_not: &mut impl FnMut(Parameters) -> F,
) -> Result<Vec<Refusal>, E>
where
    F: Future<Output = Result<Option<String>, E>>,
{
    let (mut refused, mut parts) = (Vec::new(), vec![more]);
    while let Some(mut part) = parts.pop() {
        if part.is_empty() {
            continue;
        }
        let mut with = good.clone();
        with.extend(part.iter().cloned());
        let Some(why) = why_not(with.clone()).await? else {
            *good = with;
            continue;
        };
        if part.len() == 1 {
            refused.extend(part.pop().map(|pair| (pair, why)));
        } else {
            let rest = part.split_off(part.len() / 2);
            parts.extend([rest, part]);
        }
    }
    Ok(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parameters(list: &[(&str, &str)]) -> Parameters {
        list.iter()
            .map(|(name, value)| (ParameterName::new(name).unwrap(), (*value).to_owned()))
            .collect()
    }

    /// A server with the rules of PostgreSQL that concern more than one parameter.
    fn server(parameters: &Parameters) -> Option<String> {
        let text = |name: &str, default: &str| {
            parameters
                .get(name)
                .map_or(default.to_owned(), String::clone)
        };
        let number = |name, default: &str| text(name, default).parse::<u64>();
        let (Ok(connections), Ok(reserved)) = (
            number("max_connections", "100"),
            number("superuser_reserved_connections", "3"),
        ) else {
            return Some("invalid value".to_owned());
        };
        if reserved >= connections {
            return Some(format!(
                "{reserved} must be less than max_connections ({connections})"
            ));
        }
        if text("archive_mode", "off") == "on" && text("wal_level", "replica") == "minimal" {
            return Some("WAL archival cannot be enabled when wal_level is minimal".to_owned());
        }
        let libraries = text("shared_preload_libraries", "");
        (libraries == "nope").then(|| "could not access file \"nope\"".to_owned())
    }

    async fn sifted(asked: &[(&str, &str)], accepted: &[(&str, &str)]) -> (Verdict, usize) {
        let (asked, accepted) = (parameters(asked), parameters(accepted));
        let mut asks = 0;
        let verdict = sift(&asked, &accepted, |tried| {
            asks += 1;
            std::future::ready(Ok::<_, ()>(server(&tried)))
        });
        let verdict = verdict.await.unwrap();
        (verdict, asks)
    }

    async fn expect(
        asked: &[(&str, &str)],
        accepted: &[(&str, &str)],
        good: &[(&str, &str)],
        refused: &[&str],
    ) {
        let (verdict, _) = sifted(asked, accepted).await;
        let Verdict::InPart(found, why) = verdict else {
            unreachable!("{asked:?} is not accepted in part")
        };
        assert_eq!(found, parameters(good), "{why}");
        assert_eq!(why.split("; ").count(), refused.len(), "{why}");
        for name in refused {
            assert!(why.contains(&format!("{name} = ")), "{why}");
        }
    }

    #[tokio::test]
    async fn a_library_that_is_not_there_takes_no_other_parameter_away() {
        expect(
            &[
                ("shared_preload_libraries", "nope"),
                ("work_mem", "2MB"),
                ("x.y", "1"),
            ],
            &[("shared_preload_libraries", "a"), ("work_mem", "1MB")],
            &[
                ("shared_preload_libraries", "a"),
                ("work_mem", "2MB"),
                ("x.y", "1"),
            ],
            &["shared_preload_libraries"],
        )
        .await;
    }

    #[tokio::test]
    async fn of_two_that_do_not_fit_each_other_one_is_in_force() {
        expect(
            &[
                ("max_connections", "50"),
                ("superuser_reserved_connections", "60"),
                ("work_mem", "2MB"),
            ],
            &[("max_connections", "100")],
            &[("max_connections", "50"), ("work_mem", "2MB")],
            &["superuser_reserved_connections"],
        )
        .await;
    }

    #[tokio::test]
    async fn parameters_that_need_each_other_are_in_force_beside_a_wrong_one() {
        expect(
            &[
                ("archive_mode", "on"),
                ("shared_preload_libraries", "nope"),
                ("wal_level", "replica"),
            ],
            &[("wal_level", "minimal")],
            &[("archive_mode", "on"), ("wal_level", "replica")],
            &["shared_preload_libraries"],
        )
        .await;
    }

    #[tokio::test]
    async fn one_that_is_no_longer_asked_for_may_have_been_needed() {
        expect(
            &[
                ("superuser_reserved_connections", "150"),
                ("work_mem", "2MB"),
            ],
            &[
                ("max_connections", "200"),
                ("superuser_reserved_connections", "150"),
                ("work_mem", "1MB"),
            ],
            &[("work_mem", "2MB")],
            &["superuser_reserved_connections"],
        )
        .await;
    }

    #[tokio::test]
    async fn one_wrong_parameter_of_many_is_found_without_asking_about_each() {
        let names: Vec<String> = (0..128).map(|number| format!("x.p{number}")).collect();
        let mut asked: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), "1")).collect();
        asked.push(("shared_preload_libraries", "nope"));
        let (verdict, asks) = sifted(&asked, &[]).await;
        assert!(matches!(verdict, Verdict::InPart(good, _) if good.len() == 128));
        assert!(asks < 25, "asked {asks} times");
    }

    #[tokio::test]
    async fn nothing_is_blamed_where_a_server_starts_with_no_parameters_either() {
        let (asked, none) = (parameters(&[("work_mem", "2MB")]), Parameters::new());
        let never = |_| std::future::ready(Ok::<_, ()>(Some("no".to_owned())));
        let verdict = sift(&asked, &none, never).await.unwrap();
        assert!(matches!(verdict, Verdict::Refused(why) if why == "no"));
    }
}
